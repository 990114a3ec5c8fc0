package user

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/argon2"
)

var cheap = Params{Memory: 8, Time: 1, Threads: 1}

func TestPasswordRoundTrip(t *testing.T) {
	for _, pw := range []string{"12345678", " leading and trailing ", "pässwörd", "🔑🔑", "日本語の秘密", strings.Repeat("x", 1024), "with\x00zero"} {
		phc, err := HashPassword(pw, cheap)
		if err != nil {
			t.Errorf("HashPassword(%q): %v", pw, err)
			continue
		}
		if ok, _, err := VerifyPassword(phc, pw); !ok || err != nil {
			t.Errorf("VerifyPassword of %q = %t, %v", pw, ok, err)
		}
		for _, wrong := range []string{"", pw + " ", strings.TrimSpace(pw) + "x", strings.ToUpper(pw) + "X", pw[:len(pw)-1]} {
			if ok, outdated, err := VerifyPassword(phc, wrong); ok || outdated || err != nil {
				t.Errorf("VerifyPassword(%q) for %q = %t, %t, %v", wrong, pw, ok, outdated, err)
			}
		}
		again, err := HashPassword(pw, cheap)
		if err != nil || again == phc {
			t.Errorf("two hashes of %q are equal: no salt", pw)
		}
	}
}

func TestPasswordRules(t *testing.T) {
	for _, c := range []struct{ pw, says string }{
		{"", "too short"},
		{"1234567", "too short"},
		{strings.Repeat("x", 1025), "too long"},
		{"12345678\xff", "UTF-8"},
	} {
		if _, err := HashPassword(c.pw, cheap); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("HashPassword(%.12q…) = %v, want an error that says %q", c.pw, err, c.says)
		}
	}
}

// The hash of RFC 9106 §5.3 has a secret and associated data, which PHC strings
// do not; so the reference is the library's own function with our encoding by hand.
func TestPHCFormat(t *testing.T) {
	p := DefaultParams()
	if p != (Params{Memory: 19456, Time: 2, Threads: 1}) {
		t.Errorf("DefaultParams() = %+v", p)
	}
	salt := []byte("0123456789abcdef")
	b := base64.RawStdEncoding
	phc := fmt.Sprintf("$argon2id$v=19$m=19456,t=2,p=1$%s$%s", b.EncodeToString(salt),
		b.EncodeToString(argon2.IDKey([]byte("correct horse"), salt, 2, 19456, 1, 32)))
	if ok, outdated, err := VerifyPassword(phc, "correct horse"); !ok || outdated || err != nil {
		t.Errorf("VerifyPassword = %t, %t, %v", ok, outdated, err)
	}
}

func TestWeakerHashesAreOutdated(t *testing.T) {
	want := Params{Memory: 16, Time: 2, Threads: 1}
	for _, c := range []struct {
		have     Params
		outdated bool
	}{
		{want, false},
		{Params{Memory: 8, Time: 2, Threads: 1}, true},
		{Params{Memory: 16, Time: 1, Threads: 1}, true},
		{Params{Memory: 32, Time: 3, Threads: 1}, false}, // stronger: a rehash would weaken it
		{Params{Memory: 32, Time: 2, Threads: 2}, false},
	} {
		phc, err := HashPassword("12345678", c.have)
		if err != nil {
			t.Fatal(err)
		}
		if ok, outdated, err := verify(phc, "12345678", want); !ok || outdated != c.outdated || err != nil {
			t.Errorf("%+v against %+v: %t, outdated %t, %v", c.have, want, ok, outdated, err)
		}
	}
}

func TestPHCHasOneSpelling(t *testing.T) {
	good, err := HashPassword("12345678", cheap)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Split(good, "$")
	with := func(i int, s string) string {
		g := append([]string(nil), f...)
		g[i] = s
		return strings.Join(g, "$")
	}
	for _, bad := range []string{
		"", "$", "12345678", good + "$", good + "=", good + "\n", " " + good,
		with(1, "argon2i"), with(1, "argon2d"), with(2, "v=16"), with(2, "v=019"), with(2, ""),
		with(3, "m=8,t=1"), with(3, "t=1,m=8,p=1"), with(3, "m=08,t=1,p=1"), with(3, "m=+8,t=1,p=1"),
		with(3, "m=8,t=0,p=1"), with(3, "m=8,t=1,p=0"), with(3, "m=4,t=1,p=1"), with(3, "m=8,t=1,p=256"),
		with(3, "m=8,t=1,p=257"), with(3, "m=8,t=1,p=1,x=1"),
		with(3, "m=4294967295,t=1,p=1"), with(3, "m=8,t=4000000000,p=1"), with(3, "m=1048576,t=1,p=1"), // would take the machine
		with(4, ""), with(4, "AAAA"), with(4, f[4]+"=="), with(5, ""), with(5, f[5][:10]), with(5, f[5][:42]+"B"),
		with(5, f[5][:20]+"\n"+f[5][20:]),
	} {
		if ok, _, err := VerifyPassword(bad, "12345678"); ok || err == nil {
			t.Errorf("VerifyPassword(%q) = %t, %v, want an error", bad, ok, err)
		} else if len(bad) > 20 && strings.Contains(err.Error(), f[5][:20]) {
			t.Errorf("the error repeats the hash: %v", err)
		}
	}
}

func FuzzPHC(f *testing.F) {
	f.Add(phc)
	f.Add("$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAB$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePHC(s)
		if err == nil && h.String() != s {
			t.Errorf("%q parses and is written %q", s, h)
		}
	})
}

func TestHasherUpgradesOnSignIn(t *testing.T) {
	old, err := NewHasher(HasherConfig{Params: cheap})
	if err != nil {
		t.Fatal(err)
	}
	now, err := NewHasher(HasherConfig{Params: Params{Memory: 16, Time: 1, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	phc, err := old.Hash(t.Context(), "12345678")
	if err != nil {
		t.Fatal(err)
	}
	if ok, outdated, err := now.Verify(t.Context(), phc, "12345678"); !ok || !outdated || err != nil {
		t.Errorf("Verify = %t, %t, %v, want ok and outdated", ok, outdated, err)
	}
	if ok, outdated, err := old.Verify(t.Context(), phc, "12345678"); !ok || outdated || err != nil {
		t.Errorf("Verify = %t, %t, %v, want ok and not outdated", ok, outdated, err)
	}
	if ok, _, err := now.Verify(t.Context(), "", ""); ok || err != nil {
		t.Errorf("Verify without a hash = %t, %v", ok, err)
	}
	if err := now.VerifyNothing(t.Context(), "12345678"); err != nil {
		t.Errorf("VerifyNothing: %v", err)
	}
	if _, err := now.Hash(t.Context(), "short"); err == nil {
		t.Error("Hash accepts a short password")
	}
	if _, err := NewHasher(HasherConfig{Params: Params{Memory: 1, Time: 1, Threads: 1}}); err == nil {
		t.Error("NewHasher accepts 1 KiB")
	}
	if _, err := NewHasher(HasherConfig{Parallel: -1}); err == nil {
		t.Error("NewHasher accepts -1 parallel hashes")
	}
}

func TestHasherBoundsWorkAndQueue(t *testing.T) {
	// No real hashing here: synctest sees who waits for a turn.
	h, err := NewHasher(HasherConfig{Params: cheap, Parallel: 2, Queue: 3})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		// Channels of the bubble, of the same sizes.
		h := &Hasher{params: h.params, dummy: h.dummy, places: make(chan struct{}, cap(h.places)), turns: make(chan struct{}, cap(h.turns))}
		var inside, busy, gone atomic.Int32
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				leave, err := h.enter(ctx)
				switch {
				case errors.Is(err, ErrBusy):
					busy.Add(1)
				case errors.Is(err, context.Canceled):
					gone.Add(1)
				case err != nil:
					t.Errorf("enter: %v", err)
				default:
					inside.Add(1)
					<-release
					leave()
				}
			})
		}
		synctest.Wait()
		if inside.Load() != 2 || busy.Load() != 5 || gone.Load() != 0 {
			t.Errorf("10 callers, 2 parallel, queue of 3: %d inside, %d busy, %d gone", inside.Load(), busy.Load(), gone.Load())
		}
		cancel()
		synctest.Wait()
		if gone.Load() != 3 || len(h.places) != 2 {
			t.Errorf("after cancel: %d left the queue, %d places taken", gone.Load(), len(h.places))
		}
		close(release)
		wg.Wait()
		if len(h.places) != 0 || len(h.turns) != 0 {
			t.Errorf("after all: %d places, %d turns still taken", len(h.places), len(h.turns))
		}
	})
}

func TestUnknownUsersCostTheSame(t *testing.T) {
	h, err := NewHasher(HasherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	phc, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	// The cost is in the string: time on a shared machine proves nothing.
	real, err := parsePHC(phc)
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := parsePHC(h.dummy)
	if err != nil {
		t.Fatal(err)
	}
	if real.Params != nobody.Params || len(real.salt) != len(nobody.salt) || len(real.key) != len(nobody.key) {
		t.Errorf("a user costs %+v, nobody %+v", real.Params, nobody.Params)
	}
}

func BenchmarkVerify(b *testing.B) {
	phc, err := HashPassword("correct horse", DefaultParams())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if ok, _, err := VerifyPassword(phc, "correct horse"); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
