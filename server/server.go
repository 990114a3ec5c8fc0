// Package server is the public HTTP surface of the authorization server: the OAuth
// and OpenID endpoints, and the pages on which people sign in, agree and look after
// their sessions. It decides nothing about families (package family does), keeps
// nothing (the engines do) and does not know SQL or configuration files.
package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/server/page"
	"github.com/heirloom-auth/heirloom/user"
)

// Config is what a Server needs. Store, Keys and Issuer are required; every other
// zero value is the safe default.
type Config struct {
	// Issuer is the server's URL as clients see it: https, no query, no fragment, no
	// slash at the end; a path is allowed, and then the handler must be mounted so that
	// requests still carry it. http is accepted for loopback hosts only.
	Issuer string
	Store  Store
	Keys   *keys.Ring

	// SignIn replaces the password page by the program's own sign-in; nil: passwords.
	SignIn SignIn

	// SessionLifetime is how long a sign-in in a browser lasts at most; 0: 30 days.
	SessionLifetime time.Duration

	// Passwords is what a password hash costs and how many are computed at once; zero:
	// the defaults of package user. Hashes of another cost are renewed at sign-in.
	Passwords user.HasherConfig

	// MaxAccessTTL is how long the revocation feed tells of an end at least; 0: an hour.
	// It does so as long as the longest access_ttl that a client was seen with since the
	// start; set this when one that was longer than an hour has just been lowered.
	MaxAccessTTL time.Duration

	// TrustedProxies may tell the caller's address in X-Forwarded-For; empty: nobody.
	TrustedProxies []netip.Prefix

	// Registration of more routes under the same origin, such as a demo, is the
	// caller's: the Server is a plain http.Handler.

	Log     *slog.Logger          // audit and request log; nil: none
	Metrics prometheus.Registerer // nil: no metrics
}

// SignIn is a program's own way to sign people in. It is called for GET and POST of
// the sign-in page. It returns who has signed in; or nil, and then it has answered the
// request itself, and the browser must come back to the same URL when it is done.
// A returned user is created at Heirloom on first sight, without a password; its claims
// are updated on each sign-in.
type SignIn func(w http.ResponseWriter, r *http.Request) *SignedIn

// SignedIn is a person that the program's own sign-in has authenticated.
type SignedIn struct {
	Username string // the program's stable name of the user, required
	Claims   user.Claims
	AuthTime time.Time // zero: now
	ACR      string
	AMR      []string
}

// parseIssuer refuses what RFC 8414 §2 does not allow as an issuer, and plain http
// anywhere but on this machine.
func parseIssuer(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return nil, fmt.Errorf(`issuer is %q: write an absolute URL such as "https://id.example.com"`, raw)
	case strings.ContainsAny(raw, "?#") || u.User != nil:
		return nil, fmt.Errorf("issuer is %q: it has no query, fragment or user info (RFC 8414 §2)", raw)
	case strings.HasSuffix(raw, "/"):
		return nil, fmt.Errorf("issuer is %q: remove the slash at the end", raw)
	case u.Scheme == "http" && u.Hostname() != "localhost" && !loopbackHost(u.Hostname()):
		return nil, fmt.Errorf("issuer is %q: plain http is for loopback hosts only; write https", raw)
	}
	return u, nil
}

func loopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// check refuses an incomplete configuration.
func (c Config) check() error {
	switch {
	case c.Store == nil:
		return errors.New("server: Store is not set")
	case c.Keys == nil:
		return errors.New("server: Keys is not set")
	case c.MaxAccessTTL < 0 || c.MaxAccessTTL > 24*time.Hour:
		return fmt.Errorf("server: MaxAccessTTL is %v: write a duration up to 24h, or 0 for an hour", c.MaxAccessTTL)
	case c.SessionLifetime < 0:
		return fmt.Errorf("server: SessionLifetime is %v: write a positive duration, or 0 for 30 days", c.SessionLifetime)
	}
	_, err := parseIssuer(c.Issuer)
	return err
}

// Server is the public handler. It is safe for many goroutines.
type Server struct {
	conf     Config
	base     string // path of the issuer, "" for most
	secure   bool   // https: cookies carry the __Host- prefix
	log      *slog.Logger
	metrics  *metrics
	limits   limits
	parties  parties
	hasher   *user.Hasher
	throttle *user.Throttle
	hashing  crowd
	pages    *page.Pages
	mux      *http.ServeMux
	hub      *hub
	places   places
	lists    lists
	closing  chan struct{} // closed when Run ends
	longest  atomic.Int64  // life of an access token, a time.Duration
}

// New returns the public handler of an authorization server. It starts nothing: keys,
// sweeping and Run, which feeds the revocation feed, are run by whoever owns it.
func New(c Config) (*Server, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.SessionLifetime == 0 {
		c.SessionLifetime = 30 * 24 * time.Hour
	}
	if c.MaxAccessTTL == 0 {
		c.MaxAccessTTL = time.Hour
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	u, err := parseIssuer(c.Issuer)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, err
	}
	hasher, err := user.NewHasher(c.Passwords)
	if err != nil {
		return nil, fmt.Errorf("passwords: %w", err)
	}
	pages, err := page.New(page.Config{Base: u.Path})
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	s := &Server{
		conf: c, base: u.Path, secure: u.Scheme == "https", log: c.Log, metrics: m, limits: newLimits(),
		hasher: hasher, throttle: user.NewThrottle(100_000), pages: pages, mux: http.NewServeMux(),
		// Fewer than the attempts that the throttle allows at once, so that right ones that
		// come together never look like guesses.
		hashing: crowd{most: 8, queue: 512, patience: 20 * time.Second, rooms: map[netip.Addr]*room{}},
		hub:     &hub{history: historyOf(c.Keys.Index), changed: make(chan struct{})},
		closing: make(chan struct{}),
	}
	s.longest.Store(int64(c.MaxAccessTTL))
	s.routes()
	return s, nil
}

// path returns a path of ours as the browser sees it.
func (s *Server) path(p string) string { return s.base + p }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) routes() {
	get, post, both := []string{"GET", "HEAD"}, []string{"POST"}, []string{"GET", "POST"}
	for path, e := range map[string]endpoint{
		"/oauth2/token":      {name: "token", methods: post, cors: true, serve: s.token},
		"/oauth2/revoke":     {name: "revoke", methods: post, cors: true, serve: s.revoke},
		"/oauth2/introspect": {name: "introspect", methods: post, serve: s.introspect},
		"/oauth2/userinfo":   {name: "userinfo", methods: both, cors: true, serve: s.userinfo},
		"/oauth2/jwks":       {name: "jwks", methods: get, cors: true, serve: s.jwks},
	} {
		s.mux.Handle(s.path(path), s.api(e))
	}
	doc := s.api(endpoint{name: "metadata", methods: get, cors: true, serve: s.metadata})
	const oidc, oauth = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"
	// RFC 8414 §3.1 puts the issuer's path behind the well-known part, OpenID Connect
	// Discovery §4 before it; clients try all three.
	for _, path := range []string{oidc, oauth, s.base + oidc, oidc + s.base, oauth + s.base} {
		if _, pattern := s.mux.Handler(&http.Request{Method: "GET", URL: &url.URL{Path: path}}); pattern == "" {
			s.mux.Handle(path, doc)
		}
	}
	s.mux.HandleFunc(s.path("/oauth2/revocations"), s.revocations)
	s.mux.Handle(s.path("/oauth2/status/{n}"), s.api(endpoint{name: "status", methods: get, cors: true, serve: s.statusList}))
	s.mux.Handle(s.path("/oauth2/status"), s.api(endpoint{name: "status", methods: get, cors: true, serve: s.statusLists}))
	s.pageRoutes()
}
