package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
)

// known is a client as requests need it: with its policy worked out.
type known struct {
	client.Client
	policy family.Policy
	scope  family.Scope // what it may ask for
}

// party looks a client up. The policy is worked out once for each version of the
// client: requests ask for it all the time and clients hardly change.
func (s *Server) party(ctx context.Context, id string) (*known, error) {
	c, err := s.conf.Store.Client(ctx, id)
	if err != nil {
		return nil, err
	}
	if k, ok := s.parties.Load(id); ok && k.(*known).Version == c.Version {
		return k.(*known), nil
	}
	p, err := family.PolicyOf(c.Preset, c.Policy)
	if err == nil {
		err = p.Check(PolicyKind(c))
	}
	if err != nil {
		return nil, fmt.Errorf("client %s: policy: %v", c.ID, err)
	}
	// Before any token of this policy is issued, so that its end is told long enough.
	for longest := s.longest.Load(); int64(p.AccessTTL) > longest; longest = s.longest.Load() {
		if s.longest.CompareAndSwap(longest, int64(p.AccessTTL)) {
			break
		}
	}
	k := &known{Client: c, policy: p, scope: family.ScopeOf(c.Scopes...)}
	s.parties.Store(id, k)
	return k, nil
}

// parties maps client ids to *known. Its size is bounded by the number of clients
// that exist: only found ones get in.
type parties = sync.Map

// PolicyKind tells what a client can prove, for family.Policy.Check.
func PolicyKind(c client.Client) family.Kind {
	return family.Kind{Confidential: c.Confidential(), Browser: c.Preset == "browser"}
}

// errClient is the one answer to every client that did not prove itself, whatever was
// wrong: unknown id, wrong secret, disabled (MATRIX J03, J04).
func errClient(basic bool) error {
	e := &oauthError{status: http.StatusUnauthorized, code: "invalid_client", text: "the client is unknown, disabled or did not authenticate"}
	if basic {
		// RFC 6749 §5.2: the scheme the client used.
		e.challenge = `Basic realm="heirloom", charset="UTF-8"`
	}
	return e
}

// clientOf authenticates the client of a request (RFC 6749 §2.3): HTTP Basic, secret in
// the body, or none for public clients; exactly one way.
func (s *Server) clientOf(r *http.Request, f form, c *call) (*known, error) {
	id, secret, basic, err := credentials(r.Header, f)
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, errClient(basic)
	}
	now := time.Now()
	k, err := s.party(r.Context(), id)
	if errors.Is(err, family.ErrNotFound) {
		// The same work as for a client that exists.
		_ = client.Client{}.Proves(secret, now)
		return nil, errClient(basic)
	}
	if err != nil {
		return nil, err
	}
	// Only now: a name that nobody has may be a token in the wrong field, and would be
	// in the log.
	c.client = k.ID
	if k.Auth == client.Secret {
		if !k.Proves(secret, now) {
			if secret != "" {
				// Only wrong secrets are counted and only they are answered so: whoever has
				// the right one is never held up by somebody behind the same address.
				guess := guess{client: id, ip: network(c.from.IP)}
				if wait := s.limits.secrets.wait(guess, now); wait > 0 {
					return nil, tooMany(wait)
				}
				s.limits.secrets.take(guess, now)
			}
			return nil, errClient(basic)
		}
	} else if secret != "" || basic {
		// A public client that sends a secret believes in one that proves nothing.
		return nil, errClient(basic)
	}
	if k.Status != client.Enabled {
		return nil, errClient(basic)
	}
	return k, nil
}

// credentials reads who the client says it is. Basic credentials are urlencoded before
// they are joined (RFC 6749 §2.3.1).
func credentials(h http.Header, f form) (id, secret string, basic bool, err error) {
	id, secret = f.get("client_id"), f.get("client_secret")
	if f.get("client_assertion") != "" || f.get("client_assertion_type") != "" {
		return "", "", false, errClient(false)
	}
	auth := h["Authorization"]
	if len(auth) == 0 {
		return id, secret, false, nil
	}
	if len(auth) > 1 {
		return "", "", false, invalidRequest("there are several Authorization headers")
	}
	scheme, value, _ := strings.Cut(auth[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", true, errClient(true)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return "", "", true, errClient(true)
	}
	user, pass, ok := strings.Cut(string(raw), ":")
	if !ok {
		return "", "", true, errClient(true)
	}
	user, err1 := url.QueryUnescape(user)
	pass, err2 := url.QueryUnescape(pass)
	if err1 != nil || err2 != nil || user == "" {
		return "", "", true, errClient(true)
	}
	if secret != "" {
		return "", "", true, invalidRequest("the client authenticates in two ways; use one")
	}
	if id != "" && id != user {
		return "", "", true, invalidRequest("client_id is not the client that authenticated")
	}
	return user, pass, true, nil
}
