package source_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/source"
)

func TestDiscoverFindsTheEndpoints(t *testing.T) {
	w := newWorld(t)
	e, err := source.Discover(t.Context(), w.issuer, nil)
	if err != nil || e != w.endpoints() {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := source.Discover(t.Context(), strings.Replace(w.issuer, "127.0.0.1", "localhost", 1), nil); err == nil {
		t.Error("metadata of another issuer was taken (RFC 8414 §3.3)")
	}
	if _, err := source.Discover(t.Context(), "http://login.example", nil); err == nil {
		t.Error("metadata without TLS was asked for")
	}
}

// A lost answer to the code exchange: the code counts once, and the retry proves itself.
func TestSignInSurvivesALostAnswer(t *testing.T) {
	w := newWorld(t)
	lost := 0
	s := w.source("strict", newFile(t), func(c *source.Config) {
		c.HTTP = &http.Client{Transport: trip(func(r *http.Request) (*http.Response, error) {
			res, err := http.DefaultTransport.RoundTrip(r)
			if lost < 2 && err == nil {
				lost++
				res.Body.Close()
				return nil, io.ErrUnexpectedEOF
			}
			return res, err
		})}
	})
	tok := w.signIn(s)
	if w.live(tok); lost != 2 || tok.IDToken == "" || !strings.Contains(tok.Scope, "read") || tok.SessionExpiry.IsZero() || tok.SessionEnds.IsZero() {
		t.Errorf("%d answers lost, %+v", lost, tok.Scope)
	}
}

// get asks the callback and returns the status.
func get(t *testing.T, u, host string) int {
	t.Helper()
	req, err := http.NewRequest("GET", u, nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	if host != "" {
		req.Host = host
	}
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || strings.Contains(string(b), "<script") || res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("page %q %v, %v", b, res.Header, err)
	}
	return res.StatusCode
}

// Strangers who find the port, other hosts that resolve to it, other issuers and other
// states get nothing and end nothing; then the person says no.
func TestRFC9207_SignInTakesItsOwnAnswerOnly(t *testing.T) {
	w := newWorld(t)
	s := w.source("strict", newFile(t), nil)
	done := make(chan bool)
	err := s.SignIn(t.Context(), source.SignIn{Timeout: 10 * time.Second, Open: func(raw string) error {
		u, err := url.Parse(raw)
		if err != nil {
			return err
		}
		q := u.Query()
		if q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 || len(q.Get("state")) != 43 || q.Get("response_type") != "code" {
			t.Errorf("the request is %v", q)
		}
		go func() {
			defer close(done)
			base, state, iss := q.Get("redirect_uri"), q.Get("state"), url.QueryEscape(w.issuer)
			for bad, want := range map[string]int{
				"?code=stolen&state=wrong&iss=" + iss:                       400,
				"?code=stolen&iss=" + iss:                                   400,
				"?code=stolen&state=" + state + "&iss=https://evil.example": 400,
				"?code=stolen&state=" + state:                               400,
				"?code=a&code=stolen&state=" + state + "&iss=" + iss:        400,
				"?state=" + state + "&iss=" + iss:                           400,
				"/more?code=stolen&state=" + state + "&iss=" + iss:          404,
			} {
				if got := get(t, base+bad, ""); got != want {
					t.Errorf("%s is answered with %d, want %d", bad, got, want)
				}
			}
			good := "?error=access_denied&state=" + state + "&iss=" + iss
			if got := get(t, base+good, "evil.example"); got != 404 {
				t.Errorf("another host is answered with %d", got)
			}
			if got := get(t, base+good, ""); got != 200 {
				t.Errorf("the answer is answered with %d", got)
			}
		}()
		return nil
	}})
	<-done
	if se, ok := errors.AsType[*source.SignInError](err); !ok || se.Code != "access_denied" {
		t.Errorf("SignIn: %v", err)
	}
	if _, err := s.Token(t.Context()); !errors.Is(err, source.ErrSignedOut) {
		t.Errorf("Token: %v", err)
	}
}

func TestSignInDoesNotWaitForEver(t *testing.T) {
	w := newWorld(t)
	var redirect string
	s := w.source("strict", newFile(t), nil)
	err := s.SignIn(t.Context(), source.SignIn{Timeout: 50 * time.Millisecond, Open: func(raw string) error {
		u, err := url.Parse(raw)
		redirect = u.Query().Get("redirect_uri")
		return err
	}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := http.Get(redirect); err == nil {
		t.Error("the port is still open")
	}
	broken := errors.New("no browser here")
	if err := s.SignIn(t.Context(), source.SignIn{Open: func(string) error { return broken }}); !errors.Is(err, broken) {
		t.Error(err)
	}
}
