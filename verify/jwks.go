package verify

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	keysPause    = 5 * time.Second  // between two requests for keys, whoever asks
	keysLeast    = time.Minute      // a max-age below counts as this
	keysMost     = time.Hour        // a max-age above counts as this
	keysUntold   = 15 * time.Minute // where the issuer tells no max-age
	keysLast     = 24 * time.Hour   // after that, keys that could not be renewed are not trusted
	maxKeys      = 100
	maxKeyWaiter = 128 // requests that wait out keysPause for a key that may be new
)

// keySet is the issuer's keys as they were at one moment. It does not change.
type keySet struct {
	keys  []*key
	asked time.Time // when the request for them was sent
	renew time.Time // when they should be read again
}

// find returns the key for a token; nil if there is none. A token without a kid finds
// a key only where there is no choice.
func (s *keySet) find(kid string, alg Alg) *key {
	var only *key
	for _, k := range s.keys {
		if !k.may(alg) {
			continue
		}
		if kid != "" {
			if k.kid == kid {
				return k
			}
			continue
		}
		if only != nil {
			return nil
		}
		only = k
	}
	return only
}

// keyring keeps the issuer's keys fresh. It is safe for many goroutines.
type keyring struct {
	http *http.Client
	dir  *directory
	uri  string // "": from the metadata
	algs []Alg

	set     atomic.Pointer[keySet]
	renews  atomic.Bool // somebody renews keys that are due
	flight  shared[struct{}, *keySet]
	waiters atomic.Int32

	mu    sync.Mutex
	tried time.Time // guarded by mu; when keys were last asked for
	err   error     // guarded by mu; what came of it
}

var errPause = errors.New("the keys were asked for a moment ago")

// load asks for the keys, but not more often than every keysPause, and returns errPause
// otherwise. Callers at the same time share one request.
func (r *keyring) load(ctx context.Context) (*keySet, error) {
	return r.flight.do(ctx, struct{}{}, func(ctx context.Context) (*keySet, error) {
		r.mu.Lock()
		now := time.Now()
		if !r.tried.IsZero() && now.Sub(r.tried) < keysPause {
			err := r.err
			r.mu.Unlock()
			if err != nil {
				return nil, fmt.Errorf("%w: %v", errPause, err)
			}
			return nil, errPause
		}
		r.tried = now
		r.mu.Unlock()
		s, err := r.fetch(ctx, now)
		if err == nil {
			r.set.Store(s)
		}
		r.mu.Lock()
		r.err = err
		r.mu.Unlock()
		return s, err
	})
}

// current returns keys that may be trusted at now. Keys that are due are renewed by
// whoever comes first; when that fails, the old ones go on for keysLast.
func (r *keyring) current(ctx context.Context, now time.Time) (*keySet, error) {
	s := r.set.Load()
	if s != nil && now.Before(s.renew) && now.Sub(s.asked) < keysLast {
		return s, nil
	}
	usable := s != nil && now.Sub(s.asked) < keysLast
	if usable && !r.renews.CompareAndSwap(false, true) {
		return s, nil // one request waits for the renewal, the others go on
	}
	fresh, err := r.load(ctx)
	if usable {
		r.renews.Store(false)
	}
	if err == nil {
		return fresh, nil
	}
	if s = r.set.Load(); s != nil && now.Sub(s.asked) < keysLast {
		return s, nil
	}
	return nil, fmt.Errorf("%w: the issuer's keys can not be read: %v", ErrUnavailable, err)
}

// lookup finds the key of a token that says it was issued at iat. A key that is not
// known is asked for: at once, or, if that was done a moment ago, as soon as it may be
// done again. So an issuer that rotates without warning costs no request, and a flood
// of invented names costs one request every keysPause.
func (r *keyring) lookup(ctx context.Context, s *keySet, kid string, alg Alg, iat int64) (*key, error) {
	for {
		if k := s.find(kid, alg); k != nil {
			return k, nil
		}
		before := time.Now()
		fresh, err := r.load(ctx)
		switch {
		case err == nil:
			// A request that others began may have been answered before this key was made.
			if k := fresh.find(kid, alg); k != nil || !fresh.asked.Before(before) {
				return k, nil
			}
			s = fresh
		case errors.Is(err, errPause):
			if s = r.set.Load(); s.find(kid, alg) != nil {
				continue
			}
		default:
			return nil, fmt.Errorf("%w: the key of a token is not known and the issuer's keys can not be read: %v", ErrUnavailable, err)
		}
		if time.Unix(iat, 0).Add(keysPause).Before(s.asked) {
			return nil, nil // the keys were read after the token was made
		}
		if err := r.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// wait returns when keys may be asked for again.
func (r *keyring) wait(ctx context.Context) error {
	defer r.waiters.Add(-1)
	if r.waiters.Add(1) > maxKeyWaiter {
		return fmt.Errorf("%w: too many tokens name keys that are not known", ErrUnavailable)
	}
	r.mu.Lock()
	left := keysPause - time.Since(r.tried)
	r.mu.Unlock()
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %v", ErrUnavailable, ctx.Err())
	}
}

func (r *keyring) fetch(ctx context.Context, now time.Time) (*keySet, error) {
	uri := r.uri
	if uri == "" {
		m, err := r.dir.get(ctx)
		if err != nil {
			return nil, err
		}
		if uri = m.JWKS; uri == "" {
			return nil, fmt.Errorf("the metadata of %s has no jwks_uri: set Config.JWKS", r.dir.issuer)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, fmt.Errorf("read keys: %v", err)
	}
	// A cache on the way may hold the keys of before a rotation.
	req.Header.Set("Cache-Control", "no-cache")
	var doc struct {
		Keys []jwk `json:"keys"`
	}
	h, err := getJSON(r.http, req, &doc)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("read keys: there are %d; %d are the limit", len(doc.Keys), maxKeys)
	}
	s := &keySet{asked: now, renew: now.Add(maxAge(h))}
	var old []*key
	if last := r.set.Load(); last != nil {
		old = last.keys
	}
	for _, j := range doc.Keys {
		k := j.key(r.algs)
		if k == nil {
			continue // for another purpose or reader
		}
		if i := slices.IndexFunc(old, k.same); i >= 0 {
			k = old[i] // keeps what was verified with it
		}
		s.keys = append(s.keys, k)
	}
	if len(s.keys) == 0 {
		return nil, fmt.Errorf("read keys: none of %d is a public signing key for %v", len(doc.Keys), r.algs)
	}
	return s, nil
}

// maxAge tells how long keys may be used before they are read again.
func maxAge(h http.Header) time.Duration {
	life := keysUntold
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return keysLeast
		case "max-age":
			n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				return keysLeast
			}
			life = time.Duration(n) * time.Second
		}
	}
	return min(max(life, keysLeast), keysMost)
}

// jwk is what is read of a JSON Web Key (RFC 7517 §4, RFC 7518 §6).
type jwk struct {
	Kty string   `json:"kty"`
	Kid string   `json:"kid"`
	Use string   `json:"use"`
	Ops []string `json:"key_ops"`
	Alg Alg      `json:"alg"`
	Crv string   `json:"crv"`
	X   string   `json:"x"`
	Y   string   `json:"y"`
	N   string   `json:"n"`
	E   string   `json:"e"`
}

// key returns the key for those of its algorithms that are accepted here, or nil.
func (j jwk) key(accepted []Alg) *key {
	if j.Use != "" && j.Use != "sig" || j.Ops != nil && !slices.Contains(j.Ops, "verify") || len(j.Kid) > 512 {
		return nil
	}
	k := &key{kid: j.Kid}
	var can []Alg
	switch {
	case j.Kty == "EC" && j.Crv == "P-256":
		x, y := decode(nil, []byte(j.X)), decode(nil, []byte(j.Y))
		if len(x) != 32 || len(y) != 32 {
			return nil
		}
		pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		if err != nil {
			return nil
		}
		k.pub, can = pub, []Alg{ES256}
	case j.Kty == "OKP" && j.Crv == "Ed25519":
		x := decode(nil, []byte(j.X))
		if len(x) != ed25519.PublicKeySize {
			return nil
		}
		k.pub, can = ed25519.PublicKey(x), []Alg{EdDSA}
		if j.Alg == "Ed25519" { // its name in RFC 9864
			j.Alg = EdDSA
		}
	case j.Kty == "RSA":
		n, e := decode(nil, []byte(j.N)), bytes.TrimLeft(decode(nil, []byte(j.E)), "\x00")
		pub := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
		if bits := pub.N.BitLen(); bits < 2048 || bits > 8192 || len(e) == 0 || len(e) > 4 {
			return nil // RFC 7518 §3.3: 2048 bits at least
		}
		pub.E = int(new(big.Int).SetBytes(e).Int64())
		if pub.E < 3 || pub.E%2 == 0 || pub.E > 1<<31-1 {
			return nil
		}
		k.pub, can = pub, []Alg{RS256, PS256}
	}
	for _, a := range can {
		if (j.Alg == "" || j.Alg == a) && slices.Contains(accepted, a) {
			k.algs = append(k.algs, a)
		}
	}
	if len(k.algs) == 0 {
		return nil
	}
	return k
}

// run renews the keys before they are due, until ctx ends. What goes wrong is told
// once.
func (r *keyring) run(ctx context.Context, tell func(error)) {
	pause := keysPause
	for {
		due := time.Time{}
		if s := r.set.Load(); s != nil {
			// A tenth early: no request has to wait for the renewal.
			due = s.renew.Add(-s.renew.Sub(s.asked) / 10)
		}
		if left := time.Until(due); left > 0 {
			if !sleep(ctx, left) {
				return
			}
			continue // somebody else may have renewed them
		}
		_, err := r.load(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			tell(nil)
			pause = keysPause
			continue
		}
		if !errors.Is(err, errPause) {
			tell(err)
			pause = min(2*pause, time.Minute)
		}
		if !sleep(ctx, jitter(pause)) {
			return
		}
	}
}
