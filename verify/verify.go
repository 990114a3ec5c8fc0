// Package verify is the library for APIs: it decides whether an access token counts,
// here and now.
//
// A JWT is checked as RFC 9068 §4 says, against keys that are kept fresh. With the
// revocation feed of Heirloom it also knows, within milliseconds, which tokens died
// before their time, and how old that knowledge is; what happens when the feed is out
// of reach is the API's explicit choice. Without the feed it works with any issuer of
// RFC 9068 tokens, and with RFC 7662 introspection with any issuer at all.
//
// It does not know users, sessions or refresh tokens, stores nothing, and asks nobody
// on the way of a request but for a key it has never seen (and, of course, with
// introspection). It has the standard library only.
package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says what a Verifier expects of a token. Issuer, Audience and Feed are
// required, and so is one of Algs and Introspect: New refuses to guess them.
type Config struct {
	// Issuer is the authorization server, exactly as its tokens and metadata spell it.
	Issuer string
	// Audience is what the issuer calls this API. A token that does not name it was made
	// for somebody else.
	Audience string
	// Algs is the signature algorithms that are accepted. Heirloom signs with ES256.
	Algs []Alg
	// Feed is the revocation feed to follow, or NoFeed().
	Feed Feed
	// Introspect, when set, asks the issuer about every token instead of reading it. Algs
	// must be empty then, and Feed be NoFeed(): nothing is more up to date than the issuer.
	Introspect *Introspect

	// Skew is how far the clocks of issuer and API may be apart; 0: 10 s; at most 5 min. Moments
	// in the future (iat, nbf) are judged with it, and exp where there is no feed. With a feed
	// the issuer's own clock, which the feed tells, judges exp, without any skew.
	Skew time.Duration
	// JWKS is the URL of the issuer's keys; "": from its metadata (RFC 8414, or OpenID
	// Connect Discovery).
	JWKS string
	// Cached is how many checked tokens are remembered; 0: 10,000; negative: none. One takes
	// about 1.5 kB.
	Cached int
	// ResourceMetadata is the URL of this API's protected resource metadata, for the
	// challenges that Require answers with (RFC 9728 §5.1); "": none.
	ResourceMetadata string
	// HTTP makes the requests to the issuer; nil: a client with Go's defaults. Its timeout does not
	// count (requests have 5 s, the feed has no end) and redirects are not followed.
	HTTP *http.Client
	// Log is told when the feed or the keys get out of reach, and when they are back; nil:
	// slog.Default(). It never sees a token or secret.
	Log *slog.Logger
}

// Feed is how to follow the revocation feed.
type Feed struct {
	// ClientID and ClientSecret are a confidential client that may ask for the scope
	// "revocations" by the client credentials grant.
	ClientID, ClientSecret string
	// Stale says what happens when the feed is out of reach: Refuse or AcceptFor. There is
	// no default.
	Stale Stale
	// URL is the feed's address; "": the issuer followed by /oauth2/revocations.
	URL string
	// Silence is how long the feed may say nothing before the connection counts as dead; 0: 15 s,
	// which is three of Heirloom's beats.
	Silence time.Duration
	// MaxEntries bounds how many revocations are kept in memory, at about 100 bytes each; 0:
	// 1,000,000. With more the verifier is stale: it never forgets some of them silently.
	MaxEntries int

	off bool
}

// NoFeed is a verifier's choice to believe a token until it expires, whatever happens
// to it. Heirloom's own APIs should not; for other issuers there is nothing else but
// introspection.
func NoFeed() Feed { return Feed{off: true} }

// Stale says what to do with tokens when it is not known whether they were revoked.
type Stale struct {
	accept time.Duration // <0: refuse; 0: not decided
}

// Refuse refuses every token from the moment on at which the feed is known to be lost. An
// authorization server that is down takes the API down with it.
func Refuse() Stale { return Stale{-1} }

// AcceptFor goes on accepting for so long after the feed was last known to be
// complete: a revocation may take that much longer to arrive, and never more. A verifier
// that has not heard the feed since it was started knows nothing and accepts nothing.
func AcceptFor(d time.Duration) Stale { return Stale{max(d, 0)} }

// The errors of Check. Everything else that goes wrong is one of them.
var (
	// ErrToken means that the token does not count: answer 401.
	ErrToken = errors.New("the access token is not valid")
	// ErrUnavailable means that it can not be told whether the token counts: answer 503. It
	// says nothing about the token.
	ErrUnavailable = errors.New("access tokens can not be checked at the moment")
	// ErrStale is the ErrUnavailable of a feed that has been out of reach for too long.
	ErrStale = fmt.Errorf("%w: the revocation feed is stale", ErrUnavailable)
)

// Verifier checks access tokens. It is safe for many goroutines.
type Verifier struct {
	conf  Config
	log   *slog.Logger
	epoch time.Time // where the monotonic clock of instants begins

	keys     *keyring  // nil with introspection
	follow   *follower // nil without a feed
	ask      *asker    // nil without introspection
	verified *cache[verified]
	head     atomic.Pointer[head] // of the token that was last found good
	scratch  sync.Pool
	running  sync.Mutex // held by Run
}

// verified is a token that was found good, and what has to hold for it to stay so.
type verified struct {
	t   *Token
	sig string
	key *key
}

// New makes a Verifier, or says what is wrong with the settings. It does no I/O: the
// keys are read by Run, or by the first Check. With a feed, nothing is accepted before
// Run has heard it.
func New(c Config) (*Verifier, error) {
	fail := func(format string, args ...any) (*Verifier, error) {
		return nil, fmt.Errorf("verify: "+format, args...)
	}
	if err := checkIssuer(c.Issuer); err != nil {
		return fail("Issuer: %v", err)
	}
	switch {
	case c.Audience == "":
		return fail("Audience is empty: set what the issuer calls this API")
	case c.Skew < 0 || c.Skew > 5*time.Minute:
		return fail("Skew is %v: 0 to 5 minutes are allowed", c.Skew)
	case c.Introspect == nil && len(c.Algs) == 0:
		return fail("Algs is empty: name the algorithms that the issuer signs with, for example verify.ES256")
	case c.Introspect != nil && len(c.Algs) > 0:
		return fail("Algs and Introspect are both set: choose one")
	case c.Introspect != nil && !c.Feed.off:
		return fail("Introspect asks the issuer itself: set Feed to verify.NoFeed()")
	case c.Introspect != nil && c.JWKS != "":
		return fail("JWKS is not used with Introspect")
	}
	for i, a := range c.Algs {
		if !a.known() {
			return fail("Algs has %q: choose among ES256, RS256, PS256 and EdDSA", a)
		}
		if slices.Contains(c.Algs[:i], a) {
			return fail("Algs has %s twice", a)
		}
	}
	for name, u := range map[string]string{"JWKS": c.JWKS, "Feed.URL": c.Feed.URL} {
		if u == "" {
			continue
		}
		if err := checkURL(u); err != nil {
			return fail("%s: %v", name, err)
		}
	}
	if c.ResourceMetadata != "" && (checkURL(c.ResourceMetadata) != nil || strings.ContainsAny(c.ResourceMetadata, "\"\\ ")) {
		return fail("ResourceMetadata: %q is not an https URL", c.ResourceMetadata)
	}
	for _, r := range c.Audience {
		if r < 0x20 || r > 0x7e {
			return fail("Audience: %q has characters that no header can carry", c.Audience)
		}
	}
	if c.Skew == 0 {
		c.Skew = 10 * time.Second
	}
	if c.Cached == 0 {
		c.Cached = 10_000
	}
	c.Algs = slices.Clone(c.Algs)
	v := &Verifier{conf: c, log: c.Log, epoch: time.Now(), verified: newCache[verified](max(c.Cached, 0))}
	if v.log == nil {
		v.log = slog.Default()
	}
	client := clientFrom(c.HTTP)
	dir := &directory{http: client, issuer: c.Issuer}
	if c.Introspect != nil {
		ask, err := newAsker(*c.Introspect, client, dir, c.Cached)
		if err != nil {
			return fail("Introspect: %v", err)
		}
		v.ask = ask
		return v, nil
	}
	v.keys = &keyring{http: client, dir: dir, uri: c.JWKS, algs: c.Algs}
	if c.Feed.off {
		return v, nil
	}
	f, err := newFollower(c.Feed, client, dir, v.now)
	if err != nil {
		return fail("Feed: %v", err)
	}
	v.follow = f
	return v, nil
}

// checkIssuer is RFC 8414 §2: an https URL without query or fragment.
func checkIssuer(iss string) error {
	if iss == "" {
		return errors.New("it is empty: set the authorization server's issuer")
	}
	if err := checkURL(iss); err != nil {
		return err
	}
	if u, err := url.Parse(iss); err != nil || u.RawQuery != "" || u.ForceQuery {
		return fmt.Errorf("%q has a query", iss)
	}
	return nil
}

// Run keeps keys fresh and follows the feed until ctx ends; then it returns nil. What
// is out of reach is tried again for ever. A Verifier is run once; a second Run waits
// for the first to end.
func (v *Verifier) Run(ctx context.Context) error {
	v.running.Lock()
	defer v.running.Unlock()
	var parts sync.WaitGroup
	if v.keys != nil {
		parts.Go(func() { v.keys.run(ctx, v.teller("the issuer's keys")) })
	}
	if v.follow != nil {
		parts.Go(func() { v.follow.run(ctx, v.teller("the revocation feed")) })
	}
	<-ctx.Done()
	parts.Wait()
	return nil
}

// teller logs when something gets out of reach and when it is back, not every attempt
// in between.
func (v *Verifier) teller(what string) func(error) {
	var away time.Time
	return func(err error) {
		switch {
		case err != nil && away.IsZero():
			away = time.Now()
			v.log.Warn("verify: "+what+" out of reach", "issuer", v.conf.Issuer, "err", err)
		case err == nil && !away.IsZero():
			v.log.Info("verify: "+what+" back", "issuer", v.conf.Issuer, "after", time.Since(away).Round(time.Millisecond))
			away = time.Time{}
		}
	}
}

// Staleness tells how long ago the feed was last known to be complete: a revocation
// that is not known here is younger than that. It is forever (the largest Duration)
// until the feed has been heard, and 0 without a feed, where the question has no answer.
func (v *Verifier) Staleness() time.Duration {
	if v.follow == nil {
		return 0
	}
	return v.follow.staleness(v.now())
}

// Health returns nil if a good token would be accepted now, and otherwise an
// ErrUnavailable with the reason: an answer for a readiness probe. It asks nobody.
func (v *Verifier) Health() error {
	if v.follow != nil {
		if _, err := v.follow.clock(v.now()); err != nil {
			return err
		}
	}
	if v.keys != nil {
		if s := v.keys.set.Load(); s == nil || time.Since(s.asked) >= keysLast {
			return fmt.Errorf("%w: the issuer's keys have not been read", ErrUnavailable)
		}
	}
	return nil
}

// instant is one moment by two clocks.
type instant struct {
	wall time.Time     // can be set, forwards and backwards
	mono time.Duration // can not, but stands still while the machine is asleep
}

func (v *Verifier) now() instant {
	t := time.Now()
	return instant{t.Round(0), t.Sub(v.epoch)}
}

// since tells how long ago an earlier instant was, by the clock that says longer: what
// is known must never look younger than it is.
func (i instant) since(earlier instant) time.Duration {
	return max(i.mono-earlier.mono, i.wall.Sub(earlier.wall), 0)
}

func (i instant) add(d time.Duration) instant { return instant{i.wall.Add(d), i.mono + d} }

// Check decides whether an access token counts. Errors are ErrToken or ErrUnavailable
// (errors.Is); their text has no part of the token and may be logged. ctx bounds the
// wait for a key that is not known yet, and for the issuer with introspection.
func (v *Verifier) Check(ctx context.Context, token string) (*Token, error) {
	return v.check(ctx, token, v.now())
}

func refuse(why string) error { return fmt.Errorf("%w: %s", ErrToken, why) }

func (v *Verifier) check(ctx context.Context, token string, now instant) (*Token, error) {
	if v.ask != nil {
		return v.checkOpaque(ctx, token, now)
	}
	clock := now.wall // the issuer's, as far as it is known
	skew := v.conf.Skew
	if v.follow != nil {
		c, err := v.follow.clock(now)
		if err != nil {
			return nil, err
		}
		clock, skew = c, 0
	}
	payload, sig, why := cut(token)
	if why != "" {
		return nil, refuse(why)
	}
	set, err := v.keys.current(ctx, now.wall)
	if err != nil {
		return nil, err
	}
	s, _ := v.scratch.Get().(*scratch)
	if s == nil {
		s = new(scratch)
	}
	defer v.scratch.Put(s)
	raw := append(s.token[:0], token...)
	input := raw[:sig-1]
	s.digest = sha256.Sum256(input)

	// The digest is of what was signed, so that a miss computes it once. The signature is
	// compared: another one may be good or not.
	if hit, ok := v.verified.get(s.digest); ok && hit.sig == token[sig:] {
		if slices.Contains(set.keys, hit.key) {
			if err := v.alive(hit.t, clock, skew); err != nil {
				v.verified.drop(s.digest)
				return nil, err
			}
			return hit.t.clone(), nil
		}
		v.verified.drop(s.digest) // its key was taken away
	}

	// Most tokens of an issuer have one and the same header.
	h := v.head.Load()
	usual := h != nil && h.text == token[:payload-1]
	if !usual {
		read, why := readHead(token[:payload-1])
		if why != "" {
			return nil, refuse(why)
		}
		h = &read
	}
	if !slices.Contains(v.conf.Algs, h.alg) {
		return nil, refuse("it is signed with an algorithm that is not accepted here")
	}
	text := decode(s.payload[:0], raw[payload:sig-1])
	if text == nil {
		return nil, refuse("its claims are not base64url")
	}
	k := set.find(h.kid, h.alg)
	if k == nil {
		// Nothing is believed of the claims yet but how old they say they are.
		t, _, why := readClaims(string(text))
		if why != "" {
			return nil, refuse(why)
		}
		if k, err = v.keys.lookup(ctx, set, h.kid, h.alg, t.IssuedAt.Unix()); err != nil {
			return nil, err
		}
		if k == nil {
			return nil, refuse("no key of the issuer fits it")
		}
	}
	if signature := decode(s.sig[:0], raw[sig:]); signature == nil || !k.verify(h.alg, input, signature, s) {
		return nil, refuse("its signature is wrong")
	}
	if !usual {
		v.head.Store(h)
	}
	t, notBefore, why := readClaims(string(text))
	if why == "" {
		why = v.expected(t, notBefore, clock)
	}
	if why != "" {
		return nil, refuse(why)
	}
	if err := v.alive(t, clock, skew); err != nil {
		return nil, err
	}
	if v.conf.Cached < 0 {
		return t, nil
	}
	v.verified.put(s.digest, verified{t: t, sig: strings.Clone(token[sig:]), key: k})
	return t.clone(), nil
}

// expected checks what can not change while a token lives (RFC 9068 §4).
func (v *Verifier) expected(t *Token, notBefore int64, clock time.Time) string {
	latest := clock.Add(v.conf.Skew).Unix()
	switch {
	case t.Issuer != v.conf.Issuer:
		return "it is of another issuer"
	case !slices.Contains(t.Audience, v.conf.Audience):
		return "it is for another audience"
	case t.Expires.IsZero() || t.IssuedAt.IsZero() || t.Subject == "" || t.ClientID == "" || t.ID == "":
		return "one of sub, client_id, jti, exp and iat is missing: it is not an access token of RFC 9068"
	case t.IssuedAt.Unix() > latest:
		return "it was issued in the future"
	case notBefore > latest:
		return "it does not count yet"
	}
	return ""
}

// alive checks what can change with every moment.
func (v *Verifier) alive(t *Token, clock time.Time, skew time.Duration) error {
	if !clock.Before(t.Expires.Add(skew)) {
		return refuse("it has expired")
	}
	if v.follow != nil && v.follow.set.Dead(t.subject()) {
		return refuse("it was revoked")
	}
	return nil
}

// sleep waits, and reports whether ctx still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
