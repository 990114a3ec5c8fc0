package source_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/source"
)

// api answers with what status says of an access token, and remembers what it was sent.
type api struct {
	*httptest.Server
	mu     sync.Mutex
	seen   []string // "authorization body"
	status func(token string) int
	header http.Header
}

func newAPI(t *testing.T, status func(token string) int) *api {
	a := &api{status: status, header: http.Header{}}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		a.mu.Lock()
		a.seen = append(a.seen, token+" "+string(b))
		code := a.status(token)
		a.mu.Unlock()
		for k, v := range a.header {
			w.Header()[k] = v
		}
		w.WriteHeader(code)
		fmt.Fprint(w, code)
	}))
	t.Cleanup(a.Close)
	return a
}

// counting is a server that hands out a1, a2, … and counts.
func counting(t *testing.T, n *int) *source.Source {
	t.Helper()
	var mu sync.Mutex
	return at(t, session(t), func(*http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		*n++
		return answer(200, "application/json", fmt.Sprintf(`{"access_token":"a%d","refresh_token":"r%d","expires_in":1000}`, *n, *n)), nil
	}, nil)
}

func TestTransport401RenewsOnceAndRetriesOnce(t *testing.T) {
	for name, c := range map[string]struct {
		body    io.Reader
		refuse  func(token string) int
		header  string
		status  int
		seen    []string
		renewed int
	}{
		"no body":                       {nil, refuse("old"), "", 200, []string{"old ", "a1 "}, 1},
		"a body that can be sent again": {strings.NewReader("x"), refuse("old"), "", 200, []string{"old x", "a1 x"}, 1},
		"a body that can not":           {io.LimitReader(strings.NewReader("x"), 9), refuse("old"), "", 401, []string{"old x"}, 1},
		"401 for ever":                  {nil, refuse("old", "a1"), "", 401, []string{"old ", "a1 "}, 1},
		"403":                           {nil, func(string) int { return 403 }, "", 403, []string{"old "}, 0},
		"invalid_token":                 {nil, refuse("old"), `Bearer realm="x", error="invalid_token"`, 200, []string{"old ", "a1 "}, 1},
		"RFC 9470 step-up":              {nil, refuse("old"), `Bearer error="insufficient_user_authentication"`, 401, []string{"old "}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPI(t, c.refuse)
			if c.header != "" {
				a.header.Set("WWW-Authenticate", c.header)
			}
			n := 0
			s := counting(t, &n)
			if err := s.Put(t.Context(), source.Tokens{AccessToken: "old", RefreshToken: "r", Issued: time.Now().Add(-time.Minute), Expiry: time.Now().Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
			tr, err := source.NewTransport(s, nil, a.URL)
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequest("POST", a.URL+"/x", c.body)
			if err != nil {
				t.Fatal(err)
			}
			res, err := (&http.Client{Transport: tr}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != c.status || string(b) != fmt.Sprint(c.status) || fmt.Sprint(a.seen) != fmt.Sprint(c.seen) || n != c.renewed {
				t.Errorf("%d %s after %q and %d renewals", res.StatusCode, b, a.seen, n)
			}
			if req.Header.Get("Authorization") != "" {
				t.Error("the caller's request was changed")
			}
		})
	}
}

func refuse(tokens ...string) func(string) int {
	return func(t string) int {
		for _, bad := range tokens {
			if t == bad {
				return 401
			}
		}
		return 200
	}
}

// An API that refuses everything costs no refresh for each request.
func TestTransportAnAPIThatRefusesEverythingIsNoLoop(t *testing.T) {
	a := newAPI(t, func(string) int { return 401 })
	n := 0
	tr, err := source.NewTransport(counting(t, &n), nil, a.URL)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		res, err := (&http.Client{Transport: tr}).Get(a.URL)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	if n != 1 || len(a.seen) != 20 {
		t.Errorf("%d renewals and %d requests", n, len(a.seen))
	}
}

func TestTransportGivesTheTokenToNoOtherHost(t *testing.T) {
	thief := newAPI(t, func(string) int { return 200 })
	a := newAPI(t, func(string) int { return 302 })
	a.header.Set("Location", thief.URL+"/x")
	n := 0
	tr, err := source.NewTransport(counting(t, &n), nil, a.URL)
	if err != nil {
		t.Fatal(err)
	}
	hc := &http.Client{Transport: tr}
	for _, u := range []string{a.URL, thief.URL} {
		res, err := hc.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	if len(a.seen) != 1 || a.seen[0] != "a1 " || fmt.Sprint(thief.seen) != "[   ]" {
		t.Errorf("the API saw %q, the other host %q", a.seen, thief.seen)
	}
	for _, o := range []string{"http://api.example", "https://api.example/path", "https://u:p@api.example", "api.example", ""} {
		if _, err := source.NewTransport(counting(t, &n), nil, o); err == nil {
			t.Errorf("origin %q is taken", o)
		}
	}
	if _, err := source.NewTransport(counting(t, &n), nil); err == nil {
		t.Error("no origin is taken")
	}
}

// With the real server: the family is revoked, the API says 401, the session is over, the
// caller sees the API's answer, and the next call says why.
func TestTransportSeesARevokedFamily(t *testing.T) {
	w := newWorld(t)
	st := newFile(t)
	s := w.source("strict", st, nil)
	tok := w.signIn(s)
	if err := w.source("strict", copyOf(t, st), nil).SignOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, ver, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Tokens.Issued = time.Now().Add(-time.Minute)
	r.RetryKey += "x" // another record
	if err := st.Swap(t.Context(), ver, r); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = w.source("strict", st, nil)
	a := newAPI(t, refuse(tok.AccessToken))
	tr, err := source.NewTransport(s, nil, a.URL)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: tr}).Get(a.URL)
	if err != nil || res.StatusCode != 401 {
		t.Fatal(res, err)
	}
	res.Body.Close()
	if _, err := (&http.Client{Transport: tr}).Get(a.URL); err == nil || !strings.Contains(err.Error(), "sign in again") {
		t.Errorf("the next call: %v", err)
	}
}

// copyOf is a store of its own with the same session.
func copyOf(t *testing.T, st source.Store) source.Store {
	t.Helper()
	r, _, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := new(source.Memory)
	if err := m.Swap(context.Background(), "", r); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNothingPrintsAToken(t *testing.T) {
	tok := source.Tokens{AccessToken: "secret-a", RefreshToken: "secret-r", IDToken: "secret-i"}
	r := source.Record{Tokens: tok, RetryKey: "secret-k"}
	var b bytes.Buffer
	for _, v := range []any{tok, &tok, r, &r, struct{ T source.Tokens }{tok}, []source.Record{r}} {
		for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&b, f, v)
		}
	}
	if strings.Contains(b.String(), "secret") || strings.Contains(b.String(), "7365637265742d") {
		t.Errorf("printed: %s", b.String())
	}
}
