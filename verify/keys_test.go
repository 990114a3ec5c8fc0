package verify_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heirloom-auth/heirloom/verify"
)

// An issuer that rotates without warning: not one request fails, though the keys were
// read a moment before.
func TestKeyRotationFailsNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.config())
		want(t, v, is.good(t, nil), nil)
		for i := range 4 {
			time.Sleep(time.Duration(i) * 2 * time.Second)
			is.with(func() { is.keys = []signer{newSigner(t, fmt.Sprintf("next-%d", i), verify.ES256)} })
			var wg sync.WaitGroup
			for range 50 {
				token := is.good(t, nil)
				wg.Go(func() { want(t, v, token, nil) })
			}
			wg.Wait()
		}
		if n := is.keysAsked.Load(); n != 5 {
			t.Errorf("keys were read %d times for 4 rotations; want 5", n)
		}
	})
}

func TestKeyThatWasTakenAwayCountsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		is.with(func() { is.maxAge = "max-age=120" })
		v := newVerifier(t, is.config())
		old := is.good(t, map[string]any{"exp": time.Now().Unix() + 3600})
		want(t, v, old, nil)
		want(t, v, old, nil)
		is.with(func() { is.keys = []signer{newSigner(t, "k2", verify.ES256)} })
		time.Sleep(119 * time.Second)
		want(t, v, old, nil)
		time.Sleep(2 * time.Second)
		want(t, v, old, verify.ErrToken) // though it was cached
		want(t, v, is.good(t, nil), nil)
	})
}

// A key that is replaced under its own name kills what the old one signed, cached or
// not; a key that stays keeps it.
func TestKeyOfTheSameNameIsAnotherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.config())
		stays := newSigner(t, "k2", verify.ES256)
		is.with(func() { is.keys = append(is.keys, stays) })
		is.mu.Lock()
		first := is.keys[0]
		is.mu.Unlock()
		a, b := first.token(t, is.claims(map[string]any{"exp": time.Now().Unix() + 3600})), is.good(t, map[string]any{"exp": time.Now().Unix() + 3600})
		want(t, v, a, nil)
		want(t, v, b, nil)
		is.with(func() { is.keys = []signer{newSigner(t, "k1", verify.ES256), stays} })
		time.Sleep(301 * time.Second)
		want(t, v, a, verify.ErrToken)
		want(t, v, b, nil)
	})
}

// Tokens with invented keys cost one request every five seconds, whoever sends them,
// and do not keep good ones from being checked.
func TestFloodOfUnknownKeysCostsOneFetchPerPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.config())
		good := is.good(t, nil)
		want(t, v, good, nil)
		thief := newSigner(t, "", verify.ES256)
		const floods = 2000
		var refused, away atomic.Int64
		var wg sync.WaitGroup
		begin := time.Now()
		for i := range floods {
			thief.kid = fmt.Sprintf("invented-%d", i)
			changes := map[string]any{}
			if i%2 == 0 {
				changes["iat"] = time.Now().Unix() - 60 // older than the keys: no need to wait
			}
			token := thief.token(t, is.claims(changes))
			wg.Go(func() {
				switch _, err := v.Check(context.Background(), token); {
				case errors.Is(err, verify.ErrToken):
					refused.Add(1)
				case errors.Is(err, verify.ErrUnavailable):
					away.Add(1)
				default:
					t.Errorf("Check: %v", err)
				}
			})
		}
		synctest.Wait()
		want(t, v, good, nil)
		want(t, v, is.good(t, nil), nil)
		if d := time.Since(begin); d > 0 {
			t.Errorf("good tokens had to wait %v", d)
		}
		wg.Wait()
		if n := is.keysAsked.Load(); n > 3 {
			t.Errorf("keys were read %d times", n)
		}
		if d := time.Since(begin); d > 11*time.Second {
			t.Errorf("the last was answered after %v", d)
		}
		if away.Load() < floods/2-130 {
			t.Errorf("only %d were put off: %d requests were kept waiting", away.Load(), floods-away.Load())
		}
		if refused.Load() < floods/2 || refused.Load()+away.Load() != floods {
			t.Errorf("%d refused, %d put off, of %d", refused.Load(), away.Load(), floods)
		}
	})
}

func TestKeysOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		is.with(func() { is.keysDown = true })
		v := newVerifier(t, is.config())
		for range 100 {
			want(t, v, is.good(t, nil), verify.ErrUnavailable)
		}
		if n := is.keysAsked.Load(); n != 1 {
			t.Errorf("keys were asked for %d times at once", n)
		}
		if v.Health() == nil {
			t.Error("Health without keys: nil")
		}
		is.with(func() { is.keysDown = false })
		time.Sleep(5 * time.Second)
		want(t, v, is.good(t, nil), nil)
		if err := v.Health(); err != nil {
			t.Errorf("Health: %v", err)
		}
		// What is known goes on for a day, and not longer.
		is.with(func() { is.keysDown = true })
		for range 23 {
			time.Sleep(time.Hour)
			want(t, v, is.good(t, nil), nil)
		}
		stranger := newSigner(t, "k9", verify.ES256)
		want(t, v, stranger.token(t, is.claims(nil)), verify.ErrUnavailable) // not 401: nobody knows
		time.Sleep(time.Hour)
		want(t, v, is.good(t, nil), verify.ErrUnavailable)
	})
}

// One request renews keys that are due; the others do not wait for it.
func TestRenewalHoldsUpOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.config())
		want(t, v, is.good(t, nil), nil)
		time.Sleep(301 * time.Second)
		hold := make(chan struct{})
		is.with(func() { is.keysHold = hold })
		begin := time.Now()
		var wg sync.WaitGroup
		var late atomic.Int64
		for range 100 {
			token := is.good(t, nil)
			wg.Go(func() {
				want(t, v, token, nil)
				if time.Since(begin) > 0 {
					late.Add(1)
				}
			})
		}
		time.Sleep(time.Second)
		close(hold)
		wg.Wait()
		if late.Load() != 1 {
			t.Errorf("%d of 100 requests waited; want 1", late.Load())
		}
	})
}

func TestRunRenewsKeysBeforeTheyAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.config())
		defer start(t, v)()
		synctest.Wait()
		if n := is.keysAsked.Load(); n != 1 {
			t.Fatalf("keys were read %d times at the start", n)
		}
		time.Sleep(271 * time.Second)
		if n := is.keysAsked.Load(); n != 2 {
			t.Errorf("keys were read %d times before they were due; want 2", n)
		}
		want(t, v, is.good(t, nil), nil)
	})
}

// The bounds of what the issuer says about caching.
func TestKeysAreReadAgainInTime(t *testing.T) {
	for maxAge, within := range map[string]time.Duration{
		"max-age=0": time.Minute, "no-store": time.Minute, "": 15 * time.Minute, "public, MAX-AGE=600": 10 * time.Minute,
		"max-age=99999999": time.Hour, "max-age=x": time.Minute,
	} {
		t.Run(maxAge, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is, done := bubble(t)
				defer done()
				is.with(func() { is.maxAge = maxAge })
				v := newVerifier(t, is.config())
				want(t, v, is.good(t, nil), nil)
				time.Sleep(within - time.Second)
				want(t, v, is.good(t, nil), nil)
				if n := is.keysAsked.Load(); n != 1 {
					t.Errorf("read again before %v", within)
				}
				time.Sleep(2 * time.Second)
				want(t, v, is.good(t, nil), nil)
				if n := is.keysAsked.Load(); n != 2 {
					t.Errorf("not read again after %v", within)
				}
			})
		})
	}
}

// A caller that hangs up takes nobody with it; when all have, nothing goes on.
func TestCallersThatHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.config())
		hold := make(chan struct{})
		is.with(func() { is.keysHold = hold })
		token := is.good(t, nil)
		first, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := v.Check(first, token); err != nil {
				t.Errorf("the one who was asked to fetch: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() { want(t, v, token, nil) })
		synctest.Wait()
		cancel()
		time.Sleep(time.Second)
		close(hold)
		wg.Wait()

		v = newVerifier(t, is.config())
		is.with(func() { is.keysHold = make(chan struct{}) })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := v.Check(ctx, token); !errors.Is(err, verify.ErrUnavailable) {
			t.Errorf("Check: %v", err)
		}
		if d := time.Since(begin); d != time.Second {
			t.Errorf("it took %v to give up", d)
		}
	})
}

func TestKeysThatAreNotForUs(t *testing.T) {
	is := newIssuer(t)
	good := newSigner(t, "good", verify.ES256)
	is.with(func() { is.keys = []signer{good} })
	weak := good.jwk()
	for name, change := range map[string]map[string]any{
		"for encryption":  {"use": "enc"},
		"not to verify":   {"key_ops": []string{"sign"}},
		"another alg":     {"alg": "ECDH-ES"},
		"another curve":   {"crv": "P-384"},
		"off the curve":   {"x": b64(make([]byte, 32))},
		"a shared secret": {"kty": "oct", "k": "c2VjcmV0"},
	} {
		t.Run(name, func(t *testing.T) {
			j := map[string]any{}
			for k, v := range weak {
				j[k] = v
			}
			for k, v := range change {
				j[k] = v
			}
			srv := keyServer(t, j)
			c := is.config()
			c.JWKS = srv
			v := newVerifier(t, c)
			want(t, v, good.token(t, is.claims(nil)), verify.ErrUnavailable)
		})
	}
	c := is.config()
	c.JWKS = keyServer(t, weak)
	want(t, newVerifier(t, c), good.token(t, is.claims(nil)), nil)
}
