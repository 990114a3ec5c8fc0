package user

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var (
	home   = netip.MustParseAddr("192.0.2.1")
	away   = netip.MustParseAddr("198.51.100.1")
	nobody netip.Addr
)

// guess makes failing attempts until one has to wait.
func guess(th *Throttle, now time.Time, name string, from netip.Addr, device string) (n int, wait time.Duration) {
	for ; n < 1000; n++ {
		if wait = th.Allow(now, name, from, device); wait > 0 {
			return n, wait
		}
		th.Failed(now, name, from, device)
	}
	return n, 0
}

func TestThrottleLimits(t *testing.T) {
	th := NewThrottle(0)
	if n, wait := guess(th, noon, "ada", home, ""); n != 10 || wait != 30*time.Second {
		t.Errorf("one network: %d attempts, then %v, want 10 and 30s", n, wait)
	}
	if n, _ := guess(th, noon, "bob", home, ""); n != 10 {
		t.Errorf("another name from there: %d attempts, want 10", n)
	}
	if n, _ := guess(th, noon.Add(30*time.Second), "ada", home, ""); n != 1 {
		t.Errorf("30 s later: %d attempts, want 1", n)
	}
	if n, wait := guess(th, noon, "ada", away, "cookie"); n != 20 || wait != 15*time.Second {
		t.Errorf("a known browser: %d attempts, then %v, want 20 and 15s", n, wait)
	}

	th = NewThrottle(0)
	total, last := 0, time.Duration(0)
	for i := range 100 {
		var n int
		n, last = guess(th, noon, "ada", netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), "")
		total += n
	}
	if total != 60 || last != time.Minute {
		t.Errorf("a hundred networks: %d attempts, then %v, want 60 and 1m", total, last)
	}
}

func TestThrottleNetworks(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:0:0:2", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::1%eth1", true},
	} {
		a, b := network(netip.MustParseAddr(c.a)), network(netip.MustParseAddr(c.b))
		if (a == b) != c.same {
			t.Errorf("%s is network %s, %s is %s", c.a, a, c.b, b)
		}
	}
	th := NewThrottle(0)
	if n, _ := guess(th, noon, "ada", nobody, ""); n != 10 {
		t.Errorf("no address: %d attempts, want 10", n)
	}
}

func TestGuessesNeverDelayTheOwnersKnownBrowser(t *testing.T) {
	th := NewThrottle(64)
	rnd := rand.New(rand.NewPCG(1, 2))
	now := noon
	for i := range 20_000 {
		now = now.Add(time.Duration(rnd.IntN(2000)) * time.Millisecond)
		// The attacker guesses from everywhere, the owner's network too, at
		// this name and at others, and floods the tables.
		from := netip.AddrFrom4([4]byte{192, 0, byte(rnd.IntN(4)), byte(rnd.IntN(256))})
		name := "ada"
		if rnd.IntN(2) == 0 {
			name = fmt.Sprint("name", rnd.IntN(1000))
		}
		if th.Allow(now, name, from, "") == 0 {
			th.Failed(now, name, from, "")
		}
		if i%100 != 0 {
			continue
		}
		// The owner mistypes up to 19 times before it is right.
		for range rnd.IntN(20) {
			if wait := th.Allow(now, "ada", home, "cookie"); wait > 0 {
				t.Fatalf("step %d: the owner waits %v", i, wait)
			}
			th.Failed(now, "ada", home, "cookie")
		}
		if wait := th.Allow(now, "ada", home, "cookie"); wait > 0 {
			t.Fatalf("step %d: the owner waits %v", i, wait)
		}
		th.Succeeded(now, "ada", home, "cookie")
	}
}

func TestABotnetDoesNotDelayTheOwnerAtHome(t *testing.T) {
	th := NewThrottle(0)
	if th.Allow(noon, "ada", home, "") != 0 {
		t.Fatal("the first sign-in waits")
	}
	th.Succeeded(noon, "ada", home, "")
	flood := func(now time.Time) {
		for i := range 100 {
			guess(th, now, "ada", netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), "")
		}
	}
	day := noon.Add(24 * time.Hour)
	flood(day)
	if wait := th.Allow(day, "ada", home, ""); wait != 0 {
		t.Errorf("at home with a new browser: wait %v, want 0", wait)
	}
	th.Refund(day, "ada", home, "")
	if wait := th.Allow(day, "ada", away, ""); wait <= 0 || wait > time.Minute {
		t.Errorf("in a new network: wait %v, want at most a minute", wait)
	}

	// Ten failures from home, and home is a network like any other.
	if n, _ := guess(th, day, "ada", home, ""); n != 10 {
		t.Errorf("%d failures at home, want 10", n)
	}
	later := day.Add(time.Hour)
	flood(later)
	if wait := th.Allow(later, "ada", home, ""); wait == 0 {
		t.Error("a network is still trusted after ten failures in a row")
	}

	// And so it is when the sign-in is long ago.
	th = NewThrottle(0)
	th.Allow(noon, "ada", home, "")
	th.Succeeded(noon, "ada", home, "")
	old := noon.Add(trustTime)
	flood(old)
	if wait := th.Allow(old, "ada", home, ""); wait == 0 {
		t.Error("a network is still trusted after 30 days")
	}
}

func TestSuccessStartsAfresh(t *testing.T) {
	for _, device := range []string{"", "cookie"} {
		th := NewThrottle(0)
		// As if the tenth (the twentieth) try were right, again and again.
		for range 50 {
			for i := range 10 {
				if wait := th.Allow(noon, "ada", home, device); wait > 0 {
					t.Fatalf("device %q: try %d waits %v", device, i, wait)
				}
				if i < 9 {
					th.Failed(noon, "ada", home, device)
				}
			}
			th.Succeeded(noon, "ada", home, device)
		}
	}
}

func TestRefundGivesTheAttemptBack(t *testing.T) {
	for _, device := range []string{"", "cookie"} {
		th := NewThrottle(0)
		for i := range 200 {
			if wait := th.Allow(noon, "ada", home, device); wait > 0 {
				t.Fatalf("device %q: refunded attempt %d waits %v", device, i, wait)
			}
			th.Refund(noon, "ada", home, device)
		}
	}
}

func TestThrottleIsBoundedAndRefusalsCostNothing(t *testing.T) {
	th := NewThrottle(16)
	for i := range 1000 {
		name := fmt.Sprint("name", i)
		th.Allow(noon, name, home, "")
		th.Allow(noon, name, home, "cookie")
	}
	for _, tb := range []*table{&th.sources, &th.globals, &th.devices} {
		if len(tb.byKey) != 16 || tb.recent.Len() != 16 {
			t.Errorf("%d keys, %d entries, want 16", len(tb.byKey), tb.recent.Len())
		}
	}
	// The victim's bucket is full; refused attempts with it keep no entry alive
	// and make none.
	th = NewThrottle(2)
	guess(th, noon, "ada", home, "")
	th.Allow(noon, "bob", home, "")
	for range 100 {
		th.Allow(noon, "ada", home, "")
	}
	if n, _ := guess(th, noon, "ada", home, ""); n != 0 {
		t.Errorf("refused attempts reset the limit: %d more", n)
	}
}

// The rule itself, written the slow way: no more than burst + elapsed/interval
// attempts in any span of time, and whoever waits as told is let in.
func TestThrottleProperty(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		th := NewThrottle(0)
		now := noon
		var all []time.Time
		bySource := map[netip.Addr][]time.Time{}
		for range 3000 {
			now = now.Add(time.Duration(rnd.ExpFloat64() * float64(3*time.Second)))
			from := netip.AddrFrom4([4]byte{10, 0, 0, byte(rnd.IntN(8))})
			wait := th.Allow(now, "ada", from, "")
			if wait < 0 || wait > time.Minute {
				t.Fatalf("seed %d: wait %v, want 0 to 1m", seed, wait)
			}
			if wait == 0 {
				all = append(all, now)
				bySource[from] = append(bySource[from], now)
			} else if rnd.IntN(10) == 0 {
				now = now.Add(wait)
				if again := th.Allow(now, "ada", from, ""); again != 0 {
					t.Fatalf("seed %d: told to wait %v, and then %v more", seed, wait, again)
				}
				all = append(all, now)
				bySource[from] = append(bySource[from], now)
			}
		}
		within(t, seed, "global", all, globalBurst, globalInterval)
		for _, times := range bySource {
			within(t, seed, "source", times, sourceBurst, sourceInterval)
		}
		if len(all) < 100 {
			t.Errorf("seed %d: only %d attempts came through", seed, len(all))
		}
	}
}

func within(t *testing.T, seed uint64, what string, times []time.Time, burst int, interval time.Duration) {
	t.Helper()
	for i := range times {
		for j := i; j < len(times); j++ {
			span := times[j].Sub(times[i])
			if n, most := j-i+1, burst+int(span/interval); n > most {
				t.Fatalf("seed %d: %s: %d attempts within %v, at most %d are allowed", seed, what, n, span, most)
			}
		}
	}
}

func TestAClockThatJumpsBackLocksNobodyOut(t *testing.T) {
	th := NewThrottle(0)
	guess(th, noon.Add(1000*time.Hour), "ada", home, "")
	guess(th, noon.Add(1000*time.Hour), "ada", home, "cookie")
	if wait := th.Allow(noon, "ada", home, ""); wait > time.Minute {
		t.Errorf("after a jump of 1000 h: wait %v", wait)
	}
	if wait := th.Allow(noon, "ada", home, "cookie"); wait > time.Minute {
		t.Errorf("after a jump of 1000 h, known browser: wait %v", wait)
	}
	if n, _ := guess(th, noon.Add(10*time.Minute), "ada", home, ""); n == 0 {
		t.Error("ten minutes after the jump the owner still waits")
	}
}
