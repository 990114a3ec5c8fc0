package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Transport is an http.RoundTripper that adds the access token to requests for the
// Origins it was made for, and to no others, also after a redirect. An API's 401 renews the
// token and sends the request once more, if its body can be had again; a second 401 and
// any 403 go to the caller. It is safe for many goroutines.
type Transport struct {
	source  *Source
	base    http.RoundTripper
	origins map[string]bool
}

// NewTransport returns a Transport for APIs at these origins ("https://api.example",
// without a path; http for loopback only). At least one is required. base makes the
// requests; nil: http.DefaultTransport.
func NewTransport(s *Source, base http.RoundTripper, origins ...string) (*Transport, error) {
	if len(origins) == 0 {
		return nil, errors.New("transport: no origins: name the APIs that may see the access token, as in \"https://api.example\"")
	}
	t := &Transport{source: s, base: base, origins: map[string]bool{}}
	if t.base == nil {
		t.base = http.DefaultTransport
	}
	for _, o := range origins {
		u, err := secureURL(o)
		if err != nil {
			return nil, fmt.Errorf("transport: origin: %w", err)
		}
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" {
			return nil, fmt.Errorf("transport: origin %s://%s: a path or query has no place in it", u.Scheme, u.Host)
		}
		t.origins[origin(u)] = true
	}
	return t, nil
}

// origin is RFC 6454's, with the port spelled out.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// RoundTrip implements http.RoundTripper. When there is no access token its error is one
// of Token's, and the request was not sent.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.origins[origin(req.URL)] || t.own(req.URL) {
		return t.base.RoundTrip(req)
	}
	tok, err := t.source.Token(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // RoundTrippers close it, also on errors
		}
		return nil, err
	}
	res, err := t.base.RoundTrip(with(req, tok))
	if err != nil || res.StatusCode != http.StatusUnauthorized || !curable(res) {
		return res, err
	}
	again := req.Clone(req.Context())
	if req.Body != nil && req.Body != http.NoBody {
		if req.GetBody == nil {
			// It can not be sent again. The token is renewed all the same, for the next request.
			_, _ = t.source.renewed(req.Context(), tok)
			return res, nil
		}
		if again.Body, err = req.GetBody(); err != nil {
			return res, nil
		}
	}
	next, err := t.source.renewed(req.Context(), tok)
	if err != nil || next.AccessToken == tok.AccessToken {
		if again.Body != nil {
			_ = again.Body.Close()
		}
		return res, nil // the API's own word is the best answer there is
	}
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again
	_ = res.Body.Close()
	return t.base.RoundTrip(with(again, next))
}

// own tells requests of the Source itself, should they come this way: adding a token to a
// refresh would wait for itself.
func (t *Transport) own(u *url.URL) bool {
	for _, raw := range []string{t.source.conf.Endpoints.Token, t.source.conf.Endpoints.Revoke} {
		if e, err := url.Parse(raw); err == nil && raw != "" && origin(e) == origin(u) && e.Path == u.Path {
			return true
		}
	}
	return false
}

// with returns the request with an access token; RoundTrippers must not change the one
// they are given.
func with(req *http.Request, t Tokens) *http.Request {
	r := req.Clone(req.Context())
	r.Header.Set("Authorization", "Bearer "+t.AccessToken)
	return r
}

// curable tells whether a new access token may help against a 401: not if the API asks for
// a newer or stronger sign-in (RFC 9470), or says in its challenge that it is something else.
func curable(res *http.Response) bool {
	for _, c := range res.Header.Values("WWW-Authenticate") {
		_, after, ok := strings.Cut(strings.ReplaceAll(c, " ", ""), "error=")
		if ok && !strings.HasPrefix(strings.Trim(after, `"`), "invalid_token") {
			return false
		}
	}
	return true
}

// youngest is how old an access token must be before an API's 401 renews it: an API that
// refuses everything must not cost a refresh for each request.
const youngest = 5 * time.Second

// renewed returns tokens other than those an API refused, or the same if they are too young for
// another attempt.
func (s *Source) renewed(ctx context.Context, refused Tokens) (Tokens, error) {
	s.mu.Lock()
	r, now := s.rec, time.Now()
	life := r.Tokens.Expiry.Sub(r.Tokens.Issued)
	s.mu.Unlock()
	if r.Tokens.AccessToken == refused.AccessToken {
		least := youngest
		if !r.Tokens.Expiry.IsZero() {
			least = min(least, life/2)
		}
		if age := now.Sub(r.Tokens.Issued); age >= 0 && age < least {
			return refused, nil
		}
	}
	return s.token(ctx, refused.AccessToken)
}
