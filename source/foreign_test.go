package source_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heirloom-auth/heirloom/source"
)

// answer is an answer as it comes off the network.
func answer(status int, kind, body string, pairs ...string) *http.Response {
	h := http.Header{"Content-Type": {kind}}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(bytes.NewBufferString(body))}
}

// at returns a source whose authorization server is f.
func at(t *testing.T, st source.Store, f trip, change func(*source.Config)) *source.Source {
	t.Helper()
	c := source.Config{
		Endpoints: source.Endpoints{Token: "https://login.example/token", Revoke: "https://login.example/revoke"},
		ClientID:  "c", Store: st, HTTP: &http.Client{Transport: f}, Log: quiet,
	}
	if change != nil {
		change(&c)
	}
	s, err := source.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// session returns a store that holds a session whose access token is over.
func session(t *testing.T) *source.Memory {
	t.Helper()
	st := new(source.Memory)
	if err := st.Swap(context.Background(), "", source.Record{Tokens: source.Tokens{AccessToken: "a0", RefreshToken: "r0", Issued: time.Now().Add(-time.Hour), Expiry: time.Now().Add(-time.Minute)}}); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestRT_J15_OnlyARejectionEndsTheSession(t *testing.T) {
	type outcome struct {
		name  string
		res   *http.Response
		want  string // "rejected", "kept": rejected but kept, "transient"
		after time.Duration
	}
	const js = "application/json"
	for _, c := range []outcome{
		{"invalid_grant", answer(400, js, `{"error":"invalid_grant"}`), "rejected", 0},
		{"invalid_grant with 401", answer(401, js, `{"error":"invalid_grant"}`), "rejected", 0},
		{"invalid_client", answer(401, js, `{"error":"invalid_client"}`), "kept", 0},
		{"invalid_scope", answer(400, js, `{"error":"invalid_scope"}`), "kept", 0},
		{"unknown code", answer(400, js, `{"error":"login_required"}`), "transient", 0},
		{"400 without a code", answer(400, js, `{}`), "transient", 0},
		{"400 of a proxy", answer(400, "text/html", `<h1>Bad Request</h1>`), "transient", 0},
		{"403", answer(403, js, `{"error":"invalid_grant"}`), "transient", 0},
		{"404", answer(404, "text/plain", `no`), "transient", 0},
		{"429", answer(429, js, `{"error":"invalid_grant"}`, "Retry-After", "7"), "transient", 7 * time.Second},
		{"500", answer(500, js, `{"error":"invalid_grant"}`), "transient", 0},
		{"503", answer(503, "text/plain", ``, "Retry-After", "3"), "transient", 3 * time.Second},
		{"redirect", answer(302, "text/html", ``, "Location", "https://evil.example/"), "transient", 0},
		{"portal", answer(200, "text/html", `<html>Welcome to the train`), "transient", 0},
		{"malformed", answer(200, js, `{"access_token":`), "transient", 0},
		{"two values", answer(200, js, `{"access_token":"a"}{}`), "transient", 0},
		{"no token", answer(200, js, `{"token_type":"Bearer"}`), "transient", 0},
		{"token with a line break", answer(200, js, `{"access_token":"a\r\nX: y"}`), "transient", 0},
		{"other type", answer(200, js, `{"access_token":"a","token_type":"DPoP"}`), "transient", 0},
		{"too long", answer(200, js, `{"access_token":"`+strings.Repeat("a", 2<<20)+`"}`), "transient", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := session(t)
			body, err := io.ReadAll(c.res.Body)
			if err != nil {
				t.Fatal(err)
			}
			s := at(t, st, func(*http.Request) (*http.Response, error) {
				res := *c.res
				res.Body = io.NopCloser(bytes.NewReader(body))
				return &res, nil
			}, nil)
			_, err = s.Token(t.Context())
			r, _, lerr := st.Load(t.Context())
			if lerr != nil {
				t.Fatal(lerr)
			}
			re, _ := err.(*source.RejectedError)
			te, _ := err.(*source.TransientError)
			switch c.want {
			case "rejected":
				if re == nil || !re.Ended || r.Ended != re.Code || r.Tokens.RefreshToken != "" {
					t.Errorf("err %v, stored %v", err, r)
				}
			case "kept":
				if re == nil || re.Ended || r.Tokens.RefreshToken != "r0" {
					t.Errorf("err %v, stored %v", err, r)
				}
			default:
				if te == nil || r.Ended != "" || r.Tokens.RefreshToken != "r0" || te.RetryAfter != c.after {
					t.Errorf("err %#v, stored %v", err, r)
				}
			}
			if err != nil && strings.Contains(err.Error(), "aaaa") {
				t.Error("the error quotes the answer")
			}
		})
	}
}

// A server that rotates and knows no Idempotency-Key, and one that does not rotate at all.
func TestServersThatKnowNoneOfOurExtras(t *testing.T) {
	for _, rotates := range []bool{true, false} {
		n := 0
		mux := http.NewServeMux()
		mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
			want := "r0"
			if rotates {
				want = fmt.Sprintf("r%d", n)
			}
			w.Header().Set("Content-Type", "application/json;charset=UTF-8")
			if r.PostFormValue("refresh_token") != want || r.PostFormValue("client_id") != "c" {
				w.WriteHeader(400)
				fmt.Fprint(w, `{"error":"invalid_grant"}`)
				return
			}
			n++
			if rotates {
				fmt.Fprintf(w, `{"access_token":"a%d","refresh_token":"r%d","token_type":"bearer","expires_in":"1"}`, n, n)
			} else {
				fmt.Fprintf(w, `{"access_token":"a%d","token_type":"bearer","expires_in":1.0,"more":null}`, n)
			}
		})
		srv := httptest.NewServer(mux)
		st := session(t)
		s := at(t, st, nil, func(c *source.Config) {
			c.HTTP = srv.Client()
			c.Endpoints = source.Endpoints{Token: srv.URL + "/token"}
		})
		for i := 1; i <= 3; i++ {
			tok, err := s.Token(t.Context())
			if err != nil || tok.AccessToken != fmt.Sprintf("a%d", i) {
				t.Fatalf("rotates=%v: %v %v", rotates, tok.AccessToken, err)
			}
			if e := time.Until(tok.Expiry); e <= 0 || e > time.Second {
				t.Errorf("expires in %v", e)
			}
			expire(t, st)
			s.Close()
			s = at(t, st, nil, func(c *source.Config) {
				c.HTTP = srv.Client()
				c.Endpoints = source.Endpoints{Token: srv.URL + "/token"}
			})
		}
		srv.Close()
	}
}

// Timers, in a time of their own.
func TestRenewalIsEarlyWithJitterAndBehindTheScenes(t *testing.T) {
	moments := map[time.Duration]bool{}
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			var n atomic.Int64
			start := time.Now()
			st := session(t)
			s := at(t, st, func(r *http.Request) (*http.Response, error) {
				i := n.Add(1)
				time.Sleep(time.Second)
				return answer(200, "application/json", fmt.Sprintf(`{"access_token":"a%d","refresh_token":"r%d","expires_in":1000}`, i, i)), nil
			}, nil)
			if _, err := s.Token(t.Context()); err != nil || n.Load() != 1 {
				t.Fatal(n.Load(), err)
			}
			for n.Load() == 1 {
				before := time.Now()
				tok, err := s.Token(t.Context())
				if err != nil || tok.AccessToken != "a1" || time.Since(before) != 0 {
					t.Fatalf("a token that lives is not handed out at once: %v, %v", time.Since(before), err)
				}
				time.Sleep(time.Second)
			}
			d := time.Since(start)
			if d < 750*time.Second || d > 860*time.Second {
				t.Errorf("renewed after %v of 1000 s", d)
			}
			moments[d] = true
			s.Close()
		})
	}
	if len(moments) < 5 {
		t.Errorf("only %d different moments in 20: where is the jitter?", len(moments))
	}
}

func TestAServerThatIsDownIsAskedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := session(t)
		n, up := 0, false
		keys := map[string]bool{}
		s := at(t, st, func(r *http.Request) (*http.Response, error) {
			n++
			keys[r.Header.Get("Idempotency-Key")] = true
			if up {
				return answer(200, "application/json", `{"access_token":"a1","refresh_token":"r1","expires_in":1000}`), nil
			}
			return nil, io.ErrUnexpectedEOF
		}, nil)
		for range 600 {
			if _, err := s.Token(t.Context()); !isTransient(err) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n < 20 || n > 100 {
			t.Errorf("%d requests in 10 minutes", n)
		}
		if len(keys) != 1 || keys[""] {
			t.Errorf("%d keys for one token", len(keys))
		}
		up = true
		time.Sleep(time.Minute)
		if _, err := s.Token(t.Context()); err != nil || s.Health() != nil {
			t.Error(err, s.Health())
		}
		s.Close()
	})
}

func TestRetryAfterIsObeyedAndTheOldTokenIsUsedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := session(t)
		var asked []time.Time
		s := at(t, st, func(r *http.Request) (*http.Response, error) {
			asked = append(asked, time.Now())
			if len(asked) == 1 {
				return answer(200, "application/json", `{"access_token":"a1","refresh_token":"r1","expires_in":1000}`), nil
			}
			return answer(429, "application/json", `{"error":"slow_down"}`, "Retry-After", "60"), nil
		}, nil)
		start := time.Now()
		for time.Since(start) < 990*time.Second {
			if tok, err := s.Token(t.Context()); err != nil || tok.AccessToken != "a1" {
				t.Fatalf("after %v: %v", time.Since(start), err)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(20 * time.Second)
		if _, err := s.Token(t.Context()); !isTransient(err) {
			t.Errorf("a dead token is handed out: %v", err)
		}
		s.Close() // waits for the last of them
		for i := 2; i < len(asked); i++ {
			if d := asked[i].Sub(asked[i-1]); d < time.Minute {
				t.Errorf("asked again after %v", d)
			}
		}
		if len(asked) < 3 {
			t.Error("too little happened for a proof")
		}
		s.Close()
	})
}

func TestRunRenewsBehindTheScenesAndSeesASignOutElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := session(t)
		var n atomic.Int64
		s := at(t, st, func(r *http.Request) (*http.Response, error) {
			i := n.Add(1)
			return answer(200, "application/json", fmt.Sprintf(`{"access_token":"a%d","refresh_token":"r%d","expires_in":100}`, i, i)), nil
		}, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(1000 * time.Second)
		if n := n.Load(); n < 11 || n > 15 {
			t.Errorf("%d renewals in 1000 s of tokens that live 100 s", n)
		}
		_, ver, _ := st.Load(ctx)
		if err := st.Swap(ctx, ver, source.Record{Ended: source.SignedOut}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if _, err := s.Token(ctx); !isRejected(err, source.SignedOut) {
			t.Errorf("Token after a sign-out elsewhere: %v", err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
	})
}

// A caller that gives up does not end the renewal of the others.
func TestACallerThatGivesUpHurtsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := at(t, session(t), func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(5 * time.Second):
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			return answer(200, "application/json", `{"access_token":"a1","refresh_token":"r1","expires_in":1000}`), nil
		}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Token(ctx); err != context.DeadlineExceeded {
			t.Error(err)
		}
		if tok, err := s.Token(t.Context()); err != nil || tok.AccessToken != "a1" {
			t.Error(err)
		}
		s.Close()
	})
}

// Clocks: two replicas share a store; one of them is an hour ahead. The server's Date tells.
func TestClocksThatDiffer(t *testing.T) {
	st := session(t)
	var n atomic.Int64
	srv := func(r *http.Request) (*http.Response, error) {
		i := n.Add(1)
		return answer(200, "application/json", fmt.Sprintf(`{"access_token":"a%d","refresh_token":"r%d","expires_in":1800}`, i, i),
			"Date", time.Now().UTC().Format(http.TimeFormat)), nil
	}
	s := at(t, st, srv, nil)
	if _, err := s.Token(t.Context()); err != nil || n.Load() != 1 {
		t.Fatal(n.Load(), err)
	}
	// What a machine stores whose clock is an hour ahead, of a token that has a minute to live.
	put := func(left time.Duration, name string) {
		t.Helper()
		r, ver, err := st.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ahead := time.Now().Add(time.Hour)
		r.Tokens.AccessToken = name
		r.Tokens.Issued, r.Tokens.Expiry, r.Offset, r.Dated = ahead.Add(left-30*time.Minute), ahead.Add(left), -time.Hour, true
		if err := st.Swap(t.Context(), ver, r); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
	}
	s.Close()
	s = at(t, st, srv, func(c *source.Config) { c.Recheck = time.Millisecond })
	expire(t, st)
	if _, err := s.Token(t.Context()); err != nil || n.Load() != 2 { // it knows its own clock now
		t.Fatal(n.Load(), err)
	}
	put(20*time.Minute, "fresh")
	if _, err := s.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if tok, err := s.Token(t.Context()); err != nil || tok.AccessToken != "fresh" || n.Load() != 2 {
		t.Errorf("%s after %d renewals, %v: a fresh token of a machine that is ahead was not taken over", tok.AccessToken, n.Load(), err)
	}
	put(-time.Minute, "over")
	for range 5 {
		if _, err := s.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
	}
	if tok, err := s.Token(t.Context()); err != nil || tok.AccessToken == "over" || n.Load() != 3 {
		t.Errorf("%s after %d renewals, %v: a dead token of a machine that is ahead counts as alive", tok.AccessToken, n.Load(), err)
	}
}

func TestNoGoroutineStaysBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		st := session(t)
		s := at(t, st, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if _, err := s.Token(ctx); err == nil {
			t.Error("a token from nowhere")
		}
		cancel()
		s.Close()
		if _, err := s.Token(t.Context()); err != source.ErrClosed {
			t.Error(err)
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}
