package verify_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heirloom-auth/heirloom/verify"
)

func (is *issuer) opaque(ttl time.Duration) verify.Config {
	c := is.config()
	c.Algs, c.Introspect = nil, &verify.Introspect{ClientID: "api", ClientSecret: "s+cret", TTL: ttl}
	return c
}

// alive makes the issuer call every token active that begins with "good".
func (is *issuer) alive(changes map[string]any) {
	answer := is.claims(changes)
	is.with(func() {
		is.active = func(token string) any {
			if !strings.HasPrefix(token, "good") {
				return map[string]any{"active": false}
			}
			a := map[string]any{"active": true, "token_type": "Bearer"}
			maps.Copy(a, answer)
			return a
		}
	})
}

func TestOpaqueTokensAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		is.alive(map[string]any{"exp": time.Now().Unix() + 60})
		v := newVerifier(t, is.opaque(0))
		got, err := v.Check(context.Background(), "good-1")
		if err != nil || got.Subject != "usr_1" || !got.HasScope("notes.read") {
			t.Fatalf("Check: %+v, %v", got, err)
		}
		want(t, v, "bad", verify.ErrToken)
		want(t, v, "good-1", nil)
		if n := is.asked.Load(); n != 3 {
			t.Errorf("the issuer was asked %d times for 3 checks without a cache", n)
		}
		for _, never := range []string{"", "hrt_x", "hac_x", "good" + strings.Repeat("x", 17<<10)} {
			want(t, v, never, verify.ErrToken)
		}
		if n := is.asked.Load(); n != 3 {
			t.Error("the issuer was asked about what is no access token")
		}
		time.Sleep(70 * time.Second)
		want(t, v, "good-1", verify.ErrToken) // although the issuer says it is active
	})
}

func TestOpaqueAnswersThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.opaque(0))
		now := time.Now().Unix()
		for name, row := range map[string]struct {
			change map[string]any
			want   error
		}{
			"good":              {nil, nil},
			"what Hydra tells":  {map[string]any{"jti": nil, "fam": nil, "token_type": "bearer", "token_use": "access_token"}, nil},
			"another issuer":    {map[string]any{"iss": "https://as.example"}, verify.ErrToken},
			"another audience":  {map[string]any{"aud": "x"}, verify.ErrToken},
			"no audience":       {map[string]any{"aud": nil}, verify.ErrToken},
			"a refresh token":   {map[string]any{"token_type": "refresh_token"}, verify.ErrToken},
			"bound to a key":    {map[string]any{"token_type": "DPoP", "cnf": map[string]any{"jkt": "x"}}, verify.ErrToken},
			"bound, but bearer": {map[string]any{"cnf": map[string]any{"jkt": "x"}}, verify.ErrToken},
			"expired":           {map[string]any{"exp": now - 60}, verify.ErrToken},
			"not yet":           {map[string]any{"nbf": now + 60}, verify.ErrToken},
			"active is text":    {map[string]any{"active": "true"}, verify.ErrUnavailable},
			"active is missing": {map[string]any{"active": nil}, verify.ErrUnavailable},
			"scope is a list":   {map[string]any{"scope": []string{"a"}}, verify.ErrToken},
		} {
			is.alive(nil)
			is.with(func() {
				was := is.active
				is.active = func(token string) any {
					a := was(token).(map[string]any)
					for k, v := range row.change {
						if v == nil {
							delete(a, k)
						} else {
							a[k] = v
						}
					}
					return a
				}
			})
			if _, err := v.Check(context.Background(), "good"); !errors.Is(err, row.want) {
				t.Errorf("%s: %v; want %v", name, err, row.want)
			}
		}
		is.with(func() { is.active = func(string) any { return nil } })
		want(t, v, "good", verify.ErrUnavailable)
		c := is.opaque(0)
		c.Introspect.ClientSecret = "wrong"
		want(t, newVerifier(t, c), "good", verify.ErrUnavailable) // our fault, not the token's
	})
}

func TestOpaqueAnswersAreRememberedForTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		is.alive(map[string]any{"exp": time.Now().Unix() + 25})
		v := newVerifier(t, is.opaque(10*time.Second))
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { want(t, v, "good-1", nil) })
		}
		wg.Wait()
		want(t, v, "bad", verify.ErrToken)
		want(t, v, "bad", verify.ErrToken)
		if n := is.asked.Load(); n != 2 {
			t.Errorf("the issuer was asked %d times; want 2", n)
		}
		is.with(func() { is.active = func(string) any { return map[string]any{"active": false} } })
		time.Sleep(10*time.Second - time.Nanosecond)
		want(t, v, "good-1", nil)
		time.Sleep(time.Nanosecond)
		want(t, v, "good-1", verify.ErrToken)
	})
}

func TestOpaqueCacheIsOverAtExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		is.alive(map[string]any{"exp": time.Now().Unix() + 20})
		v := newVerifier(t, is.opaque(5*time.Minute))
		want(t, v, "good-1", nil)
		time.Sleep(30 * time.Second) // 20 s and the skew
		want(t, v, "good-1", verify.ErrToken)
	})
}
