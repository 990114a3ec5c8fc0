package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/feed"
	"github.com/heirloom-auth/heirloom/verify"
)

// api starts a verifier that follows the world's feed, and waits until it knows all.
func (w *world) api(t testing.TB, audience string) *verify.Verifier {
	t.Helper()
	v, err := verify.New(verify.Config{
		Issuer: w.issuer, Audience: audience, Algs: []verify.Alg{verify.ES256},
		Feed: verify.Feed{ClientID: "web", ClientSecret: w.secret["web"], Stale: verify.Refuse()},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	for until := time.Now().Add(20 * time.Second); v.Health() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("the verifier knows nothing: %v", v.Health())
		}
	}
	return v
}

// eventually waits until a check gives the wanted error.
func eventually(t *testing.T, v *verify.Verifier, token string, want error) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := v.Check(t.Context(), token)
		if errors.Is(err, want) {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("after 10 s Check says %v, want %v", err, want)
		}
	}
}

func TestReuseReachesAnAPIThatOnlyChecksSignatures(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.withFeed()
		v := w.api(t, apiURL)
		rt, at := w.chain("strict", 2)
		other := w.signIn("strict").access
		for _, a := range append(slices.Clone(at), other) {
			tok, err := v.Check(t.Context(), a)
			if err != nil {
				t.Fatalf("a living token: %v", err)
			}
			if tok.Subject != string(w.user(aliceName).ID) || !tok.HasScope("read") {
				t.Errorf("token is %+v", tok)
			}
		}
		w.refresh("strict", rt[0]).refused(t)
		for _, a := range at {
			eventually(t, v, a, verify.ErrToken)
		}
		if _, err := v.Check(t.Context(), other); err != nil {
			t.Errorf("another family's token: %v", err)
		}
		// An API that starts now learns of it from the snapshot.
		if _, err := w.api(t, apiURL).Check(t.Context(), at[2]); !errors.Is(err, verify.ErrToken) {
			t.Errorf("a new API says %v", err)
		}
		if _, err := w.api(t, otherURL).Check(t.Context(), other); !errors.Is(err, verify.ErrToken) {
			t.Errorf("another audience says %v", err)
		}
	})
}

func TestEveryKindOfEndReachesTheAPI(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.withFeed()
		v := w.api(t, apiURL)
		b := w.browser()
		sign := func(id string) tokens {
			f := newFlow(id)
			return w.exchange(f, b.code(f)).must(t).tokens()
		}
		for name, end := range map[string]func(tok tokens){
			"revoked refresh token": func(tok tokens) { w.post("/oauth2/revoke", nil, "client_id", "strict", "token", tok.refresh) },
			"revoked access token":  func(tok tokens) { w.post("/oauth2/revoke", nil, "client_id", "strict", "token", tok.access) },
			"signed out everywhere": func(tokens) { b.post("/account/sessions", url.Values{"end": {"all"}}) },
		} {
			tok := sign("strict")
			if _, err := v.Check(t.Context(), tok.access); err != nil {
				t.Fatalf("%s: before: %v", name, err)
			}
			end(tok)
			eventually(t, v, tok.access, verify.ErrToken)
		}
		// A withdrawn scope: the old token goes, one refreshed later is accepted.
		f := newFlow("third")
		tok := w.exchange(f, b.code(f)).must(t).tokens()
		if _, err := v.Check(t.Context(), tok.access); err != nil {
			t.Fatal(err)
		}
		b.post("/account/apps", url.Values{"client": {"third"}, "withdraw": {"write"}})
		eventually(t, v, tok.access, verify.ErrToken)
		w.clock.Advance(1100 * time.Millisecond)
		tok = w.refresh("third", tok.refresh).must(t).tokens()
		if got, err := v.Check(t.Context(), tok.access); err != nil || got.HasScope("write") {
			t.Errorf("after a refresh: %v", err)
		}
	})
}

func TestMiddlewareGuardsAnAPI(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	w.withFeed()
	v := w.api(t, apiURL)
	guarded := v.Require(verify.Need{Scopes: []string{"write"}})(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		tok, _ := verify.FromContext(r.Context())
		fmt.Fprint(rw, tok.Subject)
	}))
	tok := w.signIn("strict")
	narrow := w.refresh("strict", tok.refresh, "scope", "read").must(t).str("access_token")
	for token, want := range map[string]int{"": 401, tok.access: 200, narrow: 403, tok.refresh: 401, tok.id: 401} {
		r := httptest.NewRequest("GET", "/", nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		rec := httptest.NewRecorder()
		guarded.ServeHTTP(rec, r)
		if rec.Code != want {
			t.Errorf("answer is %d %s, want %d", rec.Code, rec.Body, want)
		}
	}
}

// BenchmarkRevocationReachesAPIs is the time from the answer to a reused token until
// each of 80 verifiers (10 APIs with 8 connections each) refuses the family's token.
func BenchmarkRevocationReachesAPIs(b *testing.B) {
	w := newWorld(b, engines["sqlite"], nil)
	w.withFeed()
	var apis []*verify.Verifier
	for range 80 {
		apis = append(apis, w.api(b, apiURL))
	}
	person := w.browser()
	var took []time.Duration
	for b.Loop() {
		f := newFlow("strict")
		tok := w.exchange(f, person.code(f)).must(b).tokens()
		next := w.refresh("strict", tok.refresh).must(b).tokens()
		for _, v := range apis {
			if _, err := v.Check(b.Context(), next.access); err != nil {
				b.Fatal(err)
			}
		}
		w.refresh("strict", tok.refresh).refused(b)
		answered := time.Now()
		var wg sync.WaitGroup
		for _, v := range apis {
			wg.Go(func() {
				for {
					if _, err := v.Check(b.Context(), next.access); errors.Is(err, verify.ErrToken) {
						return
					}
					time.Sleep(200 * time.Microsecond)
				}
			})
		}
		wg.Wait()
		took = append(took, time.Since(answered))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// TestThousandReadersOfTheFeed opens as many streams as an issuer with a thousand API
// processes has, and lets all of them hear of one end.
func TestThousandReadersOfTheFeed(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	w.withFeed()
	token := w.feedToken()
	streams := make([]*stream, 1000)
	for i := range streams {
		streams[i] = w.listen(t, token, "")
		streams[i].want(feed.Reset)
		streams[i].want(feed.Ready)
	}
	rt, _ := w.chain("strict", 0)
	w.post("/oauth2/revoke", nil, "client_id", "strict", "token", rt[0])
	id := w.family(rt[0]).ID.String()
	for i, s := range streams {
		if f := s.want(feed.Revoked); f.Entry.ID != id || f.Entry.Reason != family.RevokedClient.String() {
			t.Fatalf("reader %d heard %+v", i, f)
		}
	}
}
