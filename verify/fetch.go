package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/heirloom-auth/heirloom/wire"
)

const (
	fetchTime    = 5 * time.Second // for one answer of the issuer
	maxAnswer    = 512 << 10       // bytes of metadata, keys or an answer of introspection
	metadataLife = 10 * time.Minute
)

// checkURL accepts what may be trusted over the network: https, or http to this very
// machine.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("%q is not an absolute URL without user and fragment", raw)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q is not https: only a loopback address may go without", raw)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// clientFrom makes the client for all requests from the one that was configured. It
// follows no redirects: they would carry secrets, and the right to name keys, to
// somewhere else.
func clientFrom(c *http.Client) *http.Client {
	mine := http.Client{}
	if c != nil {
		mine = *c
	}
	mine.Timeout = 0 // the feed has no end; everything else has its context
	mine.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &mine
}

// shared lets one caller do what several ask for at the same time. Nobody is started
// for it: the first caller does the work, the others wait for what it finds.
type shared[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*pending[V] // guarded by mu
}

type pending[V any] struct {
	want   int // callers that still want the result; guarded by shared.mu
	cancel context.CancelFunc
	done   chan struct{}
	v      V // written before done is closed
	err    error
}

// do calls f, or waits for the call that is under way. f has fetchTime, and less only
// when every caller has hung up: the one who happened to come first must not take the
// others down with it. A caller whose ctx ends stops waiting.
func (s *shared[K, V]) do(ctx context.Context, k K, f func(context.Context) (V, error)) (v V, err error) {
	s.mu.Lock()
	if p, ok := s.calls[k]; ok {
		p.want++
		s.mu.Unlock()
		select {
		case <-p.done:
			return p.v, p.err
		case <-ctx.Done():
			s.leave(k, p)
			return v, ctx.Err()
		}
	}
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
	p := &pending[V]{want: 1, cancel: cancel, done: make(chan struct{}), err: errors.New("the request broke down")}
	if s.calls == nil {
		s.calls = map[K]*pending[V]{}
	}
	s.calls[k] = p
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { s.leave(k, p) })
	defer func() {
		stop()
		cancel()
		s.mu.Lock()
		if s.calls[k] == p {
			delete(s.calls, k)
		}
		s.mu.Unlock()
		close(p.done)
	}()
	p.v, p.err = f(work)
	return p.v, p.err
}

// leave gives up what nobody waits for any more.
func (s *shared[K, V]) leave(k K, p *pending[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.want--; p.want == 0 {
		p.cancel()
		if s.calls[k] == p {
			delete(s.calls, k)
		}
	}
}

// getJSON fetches a document that is not larger than maxAnswer.
func getJSON(c *http.Client, req *http.Request, into any) (http.Header, error) {
	req.Header.Set("Accept", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return nil, bare(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read answer: %v", err)
	case resp.StatusCode != http.StatusOK:
		return nil, statusError{status: resp.StatusCode, code: oauthCode(body)}
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("the answer is longer than %d KiB", maxAnswer>>10)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return nil, fmt.Errorf("the answer is not the JSON it should be: %v", err)
	}
	return resp.Header, nil
}

// bare takes the URL out of an error of net/http: messages name hosts, not URLs.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// statusError is an answer with another status than the one that was hoped for.
type statusError struct {
	status int
	code   string // the OAuth error code, if there is one
}

func (e statusError) Error() string {
	if e.code != "" {
		return fmt.Sprintf("the answer is %d %s", e.status, e.code)
	}
	return fmt.Sprintf("the answer is %d", e.status)
}

// oauthCode takes the error code out of a body. A code that is no code is left out:
// what a stranger wrote does not get into logs.
func oauthCode(body []byte) string {
	var e wire.Error
	if json.Unmarshal(body, &e) != nil || len(e.Code) > 64 {
		return ""
	}
	for _, c := range e.Code {
		if (c < 'a' || c > 'z') && c != '_' {
			return ""
		}
	}
	return e.Code
}

// metadata is what is used of RFC 8414 §2.
type metadata struct {
	Issuer        string `json:"issuer"`
	JWKS          string `json:"jwks_uri"`
	Token         string `json:"token_endpoint"`
	Introspection string `json:"introspection_endpoint"`
}

// directory finds the issuer's endpoints. It is safe for many goroutines.
type directory struct {
	http   *http.Client
	issuer string

	flight shared[struct{}, metadata]
	mu     sync.Mutex
	known  metadata  // guarded by mu
	at     time.Time // guarded by mu; zero: never read
}

// get returns the metadata, read at most metadataLife ago, or older when the issuer
// does not answer: endpoints seldom move.
func (d *directory) get(ctx context.Context) (metadata, error) {
	d.mu.Lock()
	known, at := d.known, d.at
	d.mu.Unlock()
	if !at.IsZero() && time.Since(at) < metadataLife {
		return known, nil
	}
	m, err := d.flight.do(ctx, struct{}{}, d.read)
	if err != nil {
		if !at.IsZero() {
			return known, nil
		}
		return metadata{}, fmt.Errorf("read metadata of %s: %w", d.issuer, err)
	}
	return m, nil
}

func (d *directory) read(ctx context.Context) (metadata, error) {
	u, err := url.Parse(d.issuer)
	if err != nil {
		return metadata{}, err
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	origin := u.Scheme + "://" + u.Host
	var m metadata
	// RFC 8414 §3.1 first; many issuers have OpenID Connect Discovery §4.1 alone.
	for i, at := range []string{
		origin + "/.well-known/oauth-authorization-server" + path,
		origin + path + "/.well-known/openid-configuration",
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
		if err != nil {
			return metadata{}, err
		}
		m = metadata{}
		_, err = getJSON(d.http, req, &m)
		var status statusError
		if i == 0 && errors.As(err, &status) && status.status < 500 && status.status != http.StatusTooManyRequests {
			continue
		}
		if err != nil {
			return metadata{}, err
		}
		break
	}
	// RFC 8414 §3.3: whoever answers for another issuer could give us its keys.
	if m.Issuer != d.issuer {
		return metadata{}, fmt.Errorf("they are of the issuer %.200q", m.Issuer)
	}
	for _, endpoint := range []string{m.JWKS, m.Token, m.Introspection} {
		if endpoint == "" {
			continue
		}
		if err := checkURL(endpoint); err != nil {
			return metadata{}, err
		}
	}
	d.mu.Lock()
	d.known, d.at = m, time.Now()
	d.mu.Unlock()
	return m, nil
}

// basic sets the credentials of a client as RFC 6749 §2.3.1 encodes them.
func basic(req *http.Request, id, secret string) {
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
}

// post makes a form request.
func post(ctx context.Context, to string, form url.Values) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req, nil
}

func isMediaType(h http.Header, want string) bool {
	got, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && got == want
}
