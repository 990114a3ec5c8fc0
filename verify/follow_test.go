package verify_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heirloom-auth/heirloom/feed"
	"github.com/heirloom-auth/heirloom/verify"
)

// story runs a verifier with a feed in the time of a bubble.
func story(t *testing.T, stale verify.Stale, tell func(t *testing.T, is *issuer, v *verify.Verifier)) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.feedConfig(stale))
		stop := start(t, v)
		defer stop()
		synctest.Wait()
		tell(t, is, v)
	})
}

func want(t *testing.T, v *verify.Verifier, token string, target error) {
	t.Helper()
	_, err := v.Check(context.Background(), token)
	if target == nil && err != nil || target != nil && !errors.Is(err, target) {
		t.Errorf("Check: %v; want %v", err, target)
	}
}

func TestRevokedFamilyIsRefusedAtOnceThoughCached(t *testing.T) {
	story(t, verify.AcceptFor(30*time.Second), func(t *testing.T, is *issuer, v *verify.Verifier) {
		dead, other := is.good(t, nil), is.good(t, map[string]any{"fam": "fam-2"})
		want(t, v, dead, nil)
		want(t, v, dead, nil)
		is.feed.revokeFamily("fam-1")
		synctest.Wait()
		want(t, v, dead, verify.ErrToken)
		want(t, v, is.good(t, nil), verify.ErrToken) // not cached
		want(t, v, other, nil)
	})
}

func TestEveryKindOfEntryKillsItsTokens(t *testing.T) {
	story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
		now := time.Now()
		entry := func(e feed.Entry) {
			e.Reason, e.Until = "revoked_admin", now.Unix()+600
			is.feed.revoke(e)
			synctest.Wait()
		}
		before := now.Add(2 * time.Second).UnixMilli()
		byUser := is.good(t, map[string]any{"sub": "u1"})
		kept := is.good(t, map[string]any{"sub": "u1", "sid": "keep"})
		byClient := is.good(t, map[string]any{"client_id": "c1"})
		byToken := is.good(t, map[string]any{"jti": "t1"})
		rest := is.good(t, map[string]any{"fam": nil, "sid": nil})
		for _, token := range []string{byUser, kept, byClient, byToken, rest} {
			want(t, v, token, nil)
		}
		entry(feed.Entry{Kind: feed.User, ID: "u1", Before: before, Keep: "keep"})
		want(t, v, byUser, verify.ErrToken)
		want(t, v, kept, nil)
		entry(feed.Entry{Kind: feed.Client, ID: "c1", Before: before})
		want(t, v, byClient, verify.ErrToken)
		entry(feed.Entry{Kind: feed.Token, ID: "t1"})
		want(t, v, byToken, verify.ErrToken)
		want(t, v, rest, nil)
		entry(feed.Entry{Kind: feed.All, Before: before})
		want(t, v, rest, verify.ErrToken)
		want(t, v, kept, verify.ErrToken)
		time.Sleep(4 * time.Second)
		want(t, v, is.good(t, map[string]any{"sub": "u1", "client_id": "c1"}), nil) // issued after the cut-offs
	})
}

func TestNothingIsAcceptedBeforeTheFeedWasHeard(t *testing.T) {
	for name, stale := range map[string]verify.Stale{"accept": verify.AcceptFor(time.Hour), "refuse": verify.Refuse()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is, done := bubble(t)
				defer done()
				is.feed.revokeFamily("fam-1")
				is.feed.with(func() { is.feed.readyIn = 3 * time.Second })
				v := newVerifier(t, is.feedConfig(stale))
				token := is.good(t, map[string]any{"fam": "fam-2"})
				want(t, v, token, verify.ErrStale)
				if _, err := v.Check(context.Background(), token); !strings.Contains(err.Error(), "call Verifier.Run") {
					t.Errorf("Check without Run: %v; want a hint", err)
				}
				if d := v.Staleness(); d != math.MaxInt64 {
					t.Errorf("Staleness before Run: %v", d)
				}
				stop := start(t, v)
				defer stop()
				time.Sleep(2 * time.Second) // the snapshot is there, but Ready is not
				want(t, v, token, verify.ErrUnavailable)
				want(t, v, is.good(t, nil), verify.ErrUnavailable) // 503 also for what is dead: nothing is known
				if v.Health() == nil {
					t.Error("Health before Ready: nil")
				}
				time.Sleep(2 * time.Second)
				want(t, v, token, nil)
				want(t, v, is.good(t, nil), verify.ErrToken)
				if err := v.Health(); err != nil {
					t.Errorf("Health: %v", err)
				}
				// Ready was written 3 s after the connection was asked for, and proves no more than that.
				if d := v.Staleness(); d < 3*time.Second || d > 5*time.Second {
					t.Errorf("Staleness: %v", d)
				}
			})
		})
	}
}

func TestStaleAcceptForABound(t *testing.T) {
	story(t, verify.AcceptFor(30*time.Second), func(t *testing.T, is *issuer, v *verify.Verifier) {
		token := is.good(t, map[string]any{"exp": time.Now().Unix() + 3600})
		want(t, v, token, nil)
		is.feed.with(func() { is.feed.down = true })
		is.feed.cut()
		synctest.Wait()
		at := time.Now()
		is.feed.revokeFamily("fam-1") // nobody hears it
		time.Sleep(29 * time.Second)
		want(t, v, token, nil)
		if d := v.Staleness(); d < 28*time.Second || d > 30*time.Second {
			t.Errorf("Staleness %v after the cut: %v", time.Since(at), d)
		}
		time.Sleep(2 * time.Second)
		want(t, v, token, verify.ErrStale)
		_, err := v.Check(context.Background(), token)
		if err == nil || !strings.Contains(err.Error(), "ago: the answer is 503") {
			t.Errorf("the error does not say why: %v", err)
		}
		is.feed.with(func() { is.feed.down = false })
		time.Sleep(20 * time.Second)
		want(t, v, token, verify.ErrToken) // told when it was back
		want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), nil)
		if at := is.feed.connections(); at[len(at)-1] != "h1.0" {
			t.Errorf("it went on from %q; want h1.0", at[len(at)-1])
		}
	})
}

func TestStaleRefuse(t *testing.T) {
	story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
		token := is.good(t, map[string]any{"exp": time.Now().Unix() + 3600})
		want(t, v, token, nil)
		is.feed.with(func() { is.feed.down = true })
		is.feed.cut()
		synctest.Wait()
		want(t, v, token, verify.ErrStale)
		is.feed.with(func() { is.feed.down = false })
		time.Sleep(time.Second)
		want(t, v, token, nil)
		// A server that stands and says nothing is noticed after three beats.
		is.feed.with(func() { is.feed.silent = true })
		time.Sleep(14 * time.Second)
		want(t, v, token, nil)
		time.Sleep(7 * time.Second)
		want(t, v, token, verify.ErrStale)
		is.feed.with(func() { is.feed.silent = false })
		time.Sleep(20 * time.Second)
		want(t, v, token, nil)
	})
}

func TestResumeTellsWhatWasMissed(t *testing.T) {
	story(t, verify.AcceptFor(time.Minute), func(t *testing.T, is *issuer, v *verify.Verifier) {
		is.feed.revokeFamily("fam-a")
		synctest.Wait()
		is.feed.with(func() { is.feed.down = true })
		is.feed.cut()
		synctest.Wait()
		is.feed.revokeFamily("fam-1")
		is.feed.revokeFamily("fam-b")
		time.Sleep(time.Second)
		is.feed.with(func() { is.feed.down = false })
		time.Sleep(2 * time.Second)
		want(t, v, is.good(t, nil), verify.ErrToken)
		at := is.feed.connections()
		if at[0] != "" || at[len(at)-1] != "h1.1" {
			t.Errorf("positions asked for: %q", at)
		}
	})
}

func TestRestartWithAnotherPastTakesASnapshot(t *testing.T) {
	story(t, verify.AcceptFor(time.Minute), func(t *testing.T, is *issuer, v *verify.Verifier) {
		is.feed.revokeFamily("fam-gone")
		synctest.Wait()
		want(t, v, is.good(t, map[string]any{"fam": "fam-gone"}), verify.ErrToken)
		is.feed.with(func() { is.feed.history, is.feed.entries, is.feed.seqs, is.feed.head = "h2", nil, nil, 0 })
		is.feed.revokeFamily("fam-1")
		is.feed.cut()
		time.Sleep(2 * time.Second)
		want(t, v, is.good(t, nil), verify.ErrToken)
		want(t, v, is.good(t, map[string]any{"fam": "fam-gone"}), nil) // the issuer knows nothing of it
	})
}

// A buffer that was left behind, a frame that was lost: the mark shows it, and a
// snapshot repairs it.
func TestMissedEntriesAreNoticed(t *testing.T) {
	story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
		want(t, v, is.good(t, nil), nil)
		is.feed.with(func() { is.feed.hidden[1] = true })
		is.feed.revokeFamily("fam-1")
		synctest.Wait()
		want(t, v, is.good(t, nil), verify.ErrStale)
		is.feed.with(func() { delete(is.feed.hidden, 1) })
		time.Sleep(time.Second)
		want(t, v, is.good(t, nil), verify.ErrToken)
		if at := is.feed.connections(); at[len(at)-1] != "" {
			t.Errorf("it went on from %q, but has to begin anew", at[len(at)-1])
		}
	})
}

// Most of what happens at an issuer kills no token; it moves the position alone.
func TestWhatIsNotToldMovesThePosition(t *testing.T) {
	story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
		is.feed.with(func() { is.feed.head += 40 })
		synctest.Wait()
		want(t, v, is.good(t, nil), nil)
		is.feed.revokeFamily("fam-1")
		synctest.Wait()
		want(t, v, is.good(t, nil), verify.ErrToken)
		is.feed.with(func() { is.feed.head += 2 })
		time.Sleep(10 * time.Second)
		is.feed.cut()
		time.Sleep(time.Second)
		want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), nil)
		if at := is.feed.connections(); len(at) != 2 || at[1] != "h1.43" {
			t.Errorf("positions asked for: %q; want h1.43", at)
		}
		// The issuer forgets: its number falls and may rise again by what it tells.
		is.feed.with(func() { is.feed.entries, is.feed.seqs = nil, nil })
		is.feed.revokeFamily("fam-2")
		synctest.Wait()
		want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), verify.ErrToken)
		want(t, v, is.good(t, map[string]any{"fam": "fam-3"}), nil)
		if at := is.feed.connections(); len(at) != 2 {
			t.Errorf("positions asked for: %q", at)
		}
	})
}

// A connection that ends in good order, as it does with its access token, is followed by
// the next one without a request noticing, even where the policy is to refuse.
func TestConnectionThatEndsInGoodOrderIsNoOutage(t *testing.T) {
	story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
		for i := range 3 {
			time.Sleep(time.Minute)
			is.feed.end()
			want(t, v, is.good(t, nil), nil)
			synctest.Wait()
			want(t, v, is.good(t, nil), nil)
			if n := len(is.feed.connections()); n != i+2 {
				t.Errorf("%d connections", n)
			}
		}
		time.Sleep(time.Minute)
		is.feed.with(func() { is.feed.down = true })
		is.feed.end()
		synctest.Wait()
		want(t, v, is.good(t, nil), verify.ErrStale)
	})
}

func TestServerThatHangsUpAtOnceIsNotPressed(t *testing.T) {
	story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
		is.feed.with(func() { is.feed.brief = true })
		is.feed.end()
		time.Sleep(time.Minute)
		if n := len(is.feed.connections()); n > 400 {
			t.Errorf("%d connections in a minute", n)
		}
	})
}

func TestHalfASnapshotDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		is.feed.revokeFamily("fam-1")
		is.feed.revokeFamily("fam-2")
		is.feed.with(func() { is.feed.short = 1 })
		v := newVerifier(t, is.feedConfig(verify.AcceptFor(time.Hour)))
		defer start(t, v)()
		time.Sleep(10 * time.Second)
		want(t, v, is.good(t, map[string]any{"fam": "fam-3"}), verify.ErrStale)
		is.feed.with(func() { is.feed.short = 0 })
		time.Sleep(20 * time.Second)
		want(t, v, is.good(t, map[string]any{"fam": "fam-3"}), nil)
		want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), verify.ErrToken)
		// Nor does it take the place of a whole one.
		is.feed.with(func() { is.feed.history, is.feed.short = "h2", 1 })
		is.feed.cut()
		time.Sleep(10 * time.Second)
		want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), verify.ErrToken)
	})
}

// While a new snapshot is on its way, and when it breaks off, the old one counts.
func TestBrokenSnapshotLeavesTheOldOne(t *testing.T) {
	story(t, verify.AcceptFor(time.Minute), func(t *testing.T, is *issuer, v *verify.Verifier) {
		is.feed.revokeFamily("fam-1")
		synctest.Wait()
		is.feed.with(func() { is.feed.history, is.feed.readyIn = "h2", 10*time.Second })
		is.feed.cut()
		time.Sleep(3 * time.Second)
		want(t, v, is.good(t, nil), verify.ErrToken)
		is.feed.cut() // in the middle
		time.Sleep(2 * time.Second)
		want(t, v, is.good(t, nil), verify.ErrToken)
		want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), nil)
		is.feed.with(func() { is.feed.readyIn = 0 })
		time.Sleep(20 * time.Second)
		want(t, v, is.good(t, nil), verify.ErrToken)
		for _, at := range is.feed.connections()[2:] {
			if at != "" {
				t.Errorf("it went on from %q, in the middle of a snapshot", at)
			}
		}
	})
}

// Whatever is not as it should be is worth a new snapshot, and no trust.
func TestFramesThatCannotBeTrusted(t *testing.T) {
	entry := `{"kind":"family","id":"x","reason":"reuse","until":99999999999}`
	for name, raw := range map[string]string{
		"wrong order":      "event: revoked\nid: h1.2\ndata: " + entry + "\n\nevent: revoked\nid: h1.1\ndata: " + entry + "\n\n",
		"twice":            "event: revoked\nid: h1.2\ndata: " + entry + "\n\nevent: revoked\nid: h1.2\ndata: " + entry + "\n\n",
		"another history":  "event: revoked\nid: h2.9\ndata: " + entry + "\n\n",
		"no position":      "event: revoked\ndata: " + entry + "\n\n",
		"unknown kind":     "event: revoked\nid: h1.2\ndata: {\"kind\":\"planet\",\"id\":\"x\",\"reason\":\"r\",\"until\":9}\n\n",
		"unknown event":    "event: surprise\ndata: {}\n\n",
		"broken JSON":      "event: revoked\nid: h1.2\ndata: {\n\n",
		"head ahead":       "event: beat\ndata: {\"head\":7,\"now\":946684800000,\"live\":7}\n\n",
		"head behind":      "event: beat\ndata: {\"head\":0,\"now\":946684800000,\"live\":0}\n\n",
		"another head":     "event: beat\nid: h1.1\ndata: {\"head\":2,\"now\":946684800000,\"live\":1}\n\n",
		"another past":     "event: beat\nid: h2.1\ndata: {\"head\":1,\"now\":946684800000,\"live\":1}\n\n",
		"entry not told":   "event: beat\nid: h1.1\ndata: {\"head\":1,\"now\":946684800000,\"live\":2}\n\n",
		"no clock":         "event: beat\ndata: {\"head\":1,\"live\":1}\n\n",
		"huge line":        "data: " + strings.Repeat("x", 1<<20) + "\n\n",
		"endless data":     strings.Repeat("data: "+strings.Repeat("x", 1000)+"\n", 100) + "\n",
		"snapshot, no end": "event: reset\ndata: {\"head\":1,\"now\":946684800000,\"live\":0}\n\nevent: ready\ndata: {\"head\":1,\"now\":946684800000,\"live\":0}\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
				is.feed.revokeFamily("fam-1")
				synctest.Wait()
				want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), nil)
				is.feed.with(func() { is.feed.raw = raw })
				synctest.Wait()
				want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), verify.ErrStale)
				time.Sleep(2 * time.Second)
				want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), nil)
				want(t, v, is.good(t, nil), verify.ErrToken)
				if at := is.feed.connections(); len(at) != 2 || at[1] != "" {
					t.Errorf("positions asked for: %q; want a second time from the start", at)
				}
			})
		})
	}
}

func TestStreamWithoutSnapshotIsNotTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		is.feed.with(func() { is.feed.noReset = true })
		v := newVerifier(t, is.feedConfig(verify.AcceptFor(time.Hour)))
		defer start(t, v)()
		time.Sleep(10 * time.Second)
		want(t, v, is.good(t, nil), verify.ErrStale)
		is.feed.revokeFamily("fam-2")
		time.Sleep(30 * time.Second)
		want(t, v, is.good(t, nil), verify.ErrStale)
	})
}

func TestSetThatIsFullIsStaleAndNotWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		c := is.feedConfig(verify.Refuse())
		c.Feed.MaxEntries = 2
		v := newVerifier(t, c)
		defer start(t, v)()
		is.feed.revokeFamily("a")
		is.feed.revokeFamily("b")
		time.Sleep(time.Second)
		want(t, v, is.good(t, nil), nil)
		is.feed.revokeFamily("c")
		time.Sleep(time.Minute)
		want(t, v, is.good(t, nil), verify.ErrStale)
		if _, err := v.Check(context.Background(), "x"); !strings.Contains(err.Error(), "MaxEntries") {
			t.Errorf("the error does not say what to do: %v", err)
		}
	})
}

// The issuer's clock judges: an API whose own clock is wrong neither revives nor kills.
func TestTheIssuersClockDecidesExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		is.feed.with(func() { is.feed.step = 10 * time.Minute }) // or: ours is 10 minutes slow
		v := newVerifier(t, is.feedConfig(verify.Refuse()))
		defer start(t, v)()
		synctest.Wait()
		now := time.Now().Add(10 * time.Minute).Unix()
		token := is.good(t, map[string]any{"iat": now, "exp": now + 60})
		want(t, v, token, nil)
		want(t, v, is.good(t, map[string]any{"iat": now - 300, "exp": now}), verify.ErrToken)
		time.Sleep(60*time.Second - 2*time.Millisecond)
		want(t, v, token, nil)
		time.Sleep(2 * time.Millisecond)
		want(t, v, token, verify.ErrToken)
	})
}

// What was forgotten must not come to life when the issuer's clock goes back.
func TestIssuersClockSetBackTakesASnapshot(t *testing.T) {
	story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
		now := time.Now()
		token := is.good(t, map[string]any{"exp": now.Unix() + 600})
		is.feed.revoke(feed.Entry{Kind: feed.Family, ID: "fam-1", Reason: "reuse", Until: now.Unix() + 600})
		synctest.Wait()
		is.feed.with(func() { is.feed.step = time.Hour })
		time.Sleep(6 * time.Second)
		want(t, v, token, verify.ErrToken) // expired, by the issuer's clock; and the entry is forgotten
		is.feed.with(func() { is.feed.step = 0 })
		time.Sleep(10 * time.Second)
		if at := is.feed.connections(); len(at) != 2 || at[1] != "" {
			t.Errorf("positions asked for: %q; want a new snapshot", at)
		}
		want(t, v, token, verify.ErrToken)
		want(t, v, is.good(t, map[string]any{"fam": "fam-2"}), nil)
	})
}

// A little correction of the issuer's clock costs at most a new connection.
func TestIssuersClockSetBackALittle(t *testing.T) {
	story(t, verify.AcceptFor(time.Minute), func(t *testing.T, is *issuer, v *verify.Verifier) {
		is.feed.with(func() { is.feed.step = -20 * time.Second })
		for range 60 {
			time.Sleep(time.Second)
			want(t, v, is.good(t, map[string]any{"iat": time.Now().Unix() - 20}), nil)
		}
		if d := v.Staleness(); d > 6*time.Second {
			t.Errorf("Staleness a minute later: %v", d)
		}
	})
}

func TestFeedTokenIsRenewedWhenRefused(t *testing.T) {
	story(t, verify.AcceptFor(time.Minute), func(t *testing.T, is *issuer, v *verify.Verifier) {
		is.feed.with(func() { is.feed.refused["Bearer feed-token-1"] = true })
		is.feed.cut()
		time.Sleep(5 * time.Second)
		is.feed.mu.Lock()
		issued := is.feed.issued
		is.feed.mu.Unlock()
		if issued != 2 {
			t.Errorf("%d access tokens were asked for; want 2", issued)
		}
		if d := v.Staleness(); d > 6*time.Second {
			t.Errorf("Staleness: %v", d)
		}
	})
}

func TestServerAwayIsAskedLessAndLess(t *testing.T) {
	story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
		is.feed.with(func() { is.feed.down = true })
		is.feed.cut()
		time.Sleep(5 * time.Minute)
		if n := len(is.feed.connections()); n < 20 || n > 60 {
			t.Errorf("%d connections in 5 minutes", n)
		}
	})
}

func TestRunEndsAndWhatItKnewGrowsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.feedConfig(verify.Refuse()))
		stop := start(t, v)
		synctest.Wait()
		want(t, v, is.good(t, nil), nil)
		at := time.Now()
		stop()
		if d := time.Since(at); d > 0 {
			t.Errorf("Run took %v to end", d)
		}
		want(t, v, is.good(t, nil), verify.ErrStale)
	})
}

func TestFeedOnlyOverHTTPSOrLoopbackAndNoRedirects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		is.with(func() { is.redirect = is.url + "/elsewhere" })
		v := newVerifier(t, is.config())
		want(t, v, is.good(t, nil), verify.ErrUnavailable)
		for what, meta := range map[string]map[string]any{
			"another issuer": {"issuer": "https://evil.example"},
			"plain http":     {"jwks_uri": "http://10.1.2.3/keys"},
			"no keys":        {"jwks_uri": nil},
		} {
			is.with(func() { is.redirect, is.meta = "", meta })
			v := newVerifier(t, is.config())
			if _, err := v.Check(context.Background(), is.good(t, nil)); !errors.Is(err, verify.ErrUnavailable) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if n := is.keysAsked.Load(); n != 0 {
			t.Errorf("keys were read %d times", n)
		}
	})
}

func TestFeedThatIsNoFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		c := is.feedConfig(verify.Refuse())
		c.Feed.URL = is.url + "/jwks"
		v := newVerifier(t, c)
		defer start(t, v)()
		time.Sleep(time.Second)
		if err := v.Health(); err == nil || !strings.Contains(err.Error(), feed.MediaType) {
			t.Errorf("Health: %v", err)
		}
	})
}
