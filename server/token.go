package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
	"github.com/heirloom-auth/heirloom/wire"
)

// token is the token endpoint (RFC 6749 §3.2).
func (s *Server) token(r *http.Request, c *call) (answer, error) {
	f, err := readForm(r)
	if err != nil {
		return answer{}, err
	}
	grantType := f.get("grant_type")
	switch grantType {
	case client.RefreshToken, client.AuthorizationCode, client.ClientCredentials:
		c.grantType = grantType
	case "":
		return answer{}, invalidRequest("grant_type is missing")
	default:
		return answer{}, &oauthError{status: http.StatusBadRequest, code: "unsupported_grant_type", text: "this grant_type is not supported; see the server's metadata"}
	}
	k, err := s.clientOf(r, f, c)
	if err != nil {
		return answer{}, err
	}
	if !k.May(grantType) {
		return answer{}, &oauthError{status: http.StatusBadRequest, code: "unauthorized_client", text: "the client is not registered for this grant_type"}
	}
	if grantType == client.ClientCredentials {
		return s.clientCredentials(r.Context(), k, f)
	}
	p, err := presented(r, k, c, f)
	if err != nil {
		return answer{}, err
	}
	if grantType == client.AuthorizationCode {
		return s.exchange(r.Context(), k, c, f, p)
	}
	return s.refresh(r.Context(), k, c, f, p)
}

// presentation is what a request with a refresh token or code brings besides it.
type presentation struct {
	proof     family.Proof
	scope     family.Scope
	anyScope  bool // no scope was asked for
	resources []string
}

func presented(r *http.Request, k *known, c *call, f form) (p presentation, err error) {
	if retry := r.Header["Idempotency-Key"]; len(retry) > 1 {
		return p, invalidRequest("there are several Idempotency-Key headers")
	} else if len(retry) == 1 {
		key, err := wire.RetryKey(retry[0])
		if err != nil {
			return p, invalidRequest("the Idempotency-Key must be 1 to 255 printable ASCII characters")
		}
		p.proof.Retry = retryHash(k.ID, key)
	}
	if p.scope, err = family.ParseScope(f.get("scope")); err != nil {
		return p, refusal(family.InvalidScope)
	}
	p.anyScope = p.scope == ""
	p.resources = f.all("resource")
	for _, res := range p.resources {
		if client.CheckResource(res) != nil {
			return p, refusal(family.InvalidTarget)
		}
	}
	p.proof.Possession = k.Confidential()
	p.proof.Presenter = presenter(c.from.UserAgent)
	p.proof.Origin = c.from
	return p, nil
}

// retryHash digests an Idempotency-Key, so that the stored row gives nobody a key.
func retryHash(clientID, key string) family.RetryHash {
	h := sha256.New()
	h.Write([]byte("heirloom retry v1\x00"))
	h.Write([]byte(clientID))
	h.Write([]byte{0})
	h.Write([]byte(key))
	return family.RetryHash(h.Sum(nil)[:len(family.RetryHash{})])
}

// presenter digests a User-Agent. No IP address goes in: phones change networks.
func presenter(userAgent string) family.Presenter {
	if userAgent == "" {
		return family.Presenter{}
	}
	sum := sha256.Sum256([]byte("heirloom presenter v1\x00" + userAgent))
	return family.Presenter(sum[:len(family.Presenter{})])
}

// refresh is the refresh token grant (RFC 6749 §6). The order of checks is the
// design's: whatever fails leaves the family as it was.
func (s *Server) refresh(ctx context.Context, k *known, c *call, f form, p presentation) (answer, error) {
	text := f.get("refresh_token")
	if text == "" {
		return answer{}, invalidRequest("refresh_token is missing")
	}
	t, ok := family.Read(text, false, s.conf.Keys.CheckMAC)
	if !ok {
		s.metrics.decided(family.Unknown)
		return answer{}, refusal(family.Unknown)
	}
	return s.present(ctx, k, c, t, p, nil)
}

// present judges a token that is ours, commits, and answers. check is asked before the
// rules, for what a code must prove besides.
func (s *Server) present(ctx context.Context, k *known, c *call, t family.Token, p presentation, check func(family.State, family.Standing) (family.State, family.Reason)) (answer, error) {
	c.family, c.generation = t.Family, t.Generation
	source := refused{t.Family, network(c.from.IP)}
	if wait := s.limits.refused.wait(source, c.started); wait > 0 {
		return answer{}, tooMany(wait)
	}
	p.proof.Key = s.conf.Keys.MACKey()
	var w want
	var alarm *family.Event
	st, v, standing, err := family.Step(ctx, s.conf.Store, t.Family, func(st family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
		alarm = nil
		c.user = st.Grant.User
		// Binding before state: a stranger with an old token must not learn or end
		// anything (MATRIX A08).
		if why := binding(st.Grant, k); why != 0 {
			e := st.EventFor(family.FamilyAlarm, why, t, p.proof.Origin)
			e.Level = family.Alert
			alarm = &e
			return st, family.Verdict{Act: family.Refuse, Reason: why}, nil
		}
		if why, refused := st.Refuses(k.policy, at.Now, t); refused {
			return st, family.Verdict{Act: family.Refuse, Reason: why}, nil
		}
		if at.Barred != 0 {
			return st, family.Verdict{Act: family.Refuse, Reason: at.Barred}, nil
		}
		if check != nil {
			if next, why := check(st, at); why != 0 {
				var events []family.Event
				if next != st {
					events = append(events, next.EventFor(family.FamilyRevoked, why, t, p.proof.Origin))
				}
				return next, family.Verdict{Act: family.Refuse, Reason: why}, stamp(events, c)
			}
		}
		var why family.Reason
		if w, why = s.within(k, st.Grant, p); why != 0 {
			return st, family.Verdict{Act: family.Refuse, Reason: why}, nil
		}
		if why = s.prepare(ctx, k, st.Grant, &w); why != 0 {
			return st, family.Verdict{Act: family.Refuse, Reason: why}, nil
		}
		next, v := family.Present(st, k.policy, at.Now, t, p.proof)
		return next, v, stamp(eventsOf(next, v, t, p.proof.Origin), c)
	})
	if errors.Is(err, family.ErrNotFound) {
		s.metrics.decided(family.Unknown)
		return answer{}, refusal(family.Unknown)
	}
	if err != nil {
		s.metrics.decided(family.Unavailable)
		return answer{}, err
	}
	c.reason = v.Reason
	s.metrics.decided(v.Reason)
	if alarm != nil && s.limits.alarms.take(t.Family, c.started) {
		c.alert = true
		s.record(ctx, c, *alarm)
	}
	switch v.Act {
	case family.Rotate, family.Repeat:
	case family.Recover:
		c.alert = true
	case family.Reuse:
		c.alert = true
		s.metrics.ended.WithLabelValues(v.Reason.String()).Inc()
		if err := s.punish(ctx, k, c, st); err != nil {
			return answer{}, err
		}
		return answer{}, refusal(v.Reason)
	case family.Refuse:
		if v.Reason == family.Superseded && s.limits.alarms.take(t.Family, c.started) {
			s.record(ctx, c, st.EventFor(family.FamilyAlarm, v.Reason, t, p.proof.Origin))
		}
		if v.Reason != family.Unavailable {
			s.limits.refused.take(source, c.started)
		}
		return answer{}, refusal(v.Reason)
	default:
		return answer{}, errors.New("the rules gave no verdict")
	}
	return s.tokens(k, st, standing.Now, w, t.Generation == 0)
}

// prepare reads what the answer needs besides the family, before anything is committed:
// a failure after it would be a lost answer.
func (s *Server) prepare(ctx context.Context, k *known, g *family.Grant, w *want) family.Reason {
	w.claims = nil
	if !w.scope.Has("openid") {
		return 0
	}
	members := requestedClaims(g, k, "id_token")
	if len(members) == 0 {
		return 0
	}
	u, err := s.conf.Store.User(ctx, user.ID(g.User))
	if errors.Is(err, family.ErrNotFound) {
		return family.UserDisabled
	}
	if err != nil {
		return family.Unavailable
	}
	w.claims = map[string]any{}
	for _, name := range members {
		if v, ok := u.Claims.ByName(name); ok {
			w.claims[name] = v
		}
	}
	return 0
}

// stamp writes the request's id on events.
func stamp(events []family.Event, c *call) []family.Event {
	for i := range events {
		events[i].Request = c.id
	}
	return events
}

// eventsOf returns the events that a verdict's commit carries. A rotation's record is
// its line in the family's own row, so that a family does not grow with its age.
func eventsOf(next family.State, v family.Verdict, t family.Token, from family.Origin) []family.Event {
	switch v.Act {
	case family.Reuse:
		e := next.EventFor(family.FamilyRevoked, family.Reused, t, from)
		e.Level = family.Alert
		return []family.Event{e}
	case family.Recover:
		e := next.EventFor(family.FamilyRecovered, family.Recovered, t, from)
		e.Level = family.Alert
		return []family.Event{e}
	}
	return nil
}

// punish ends what else the policy wants to end with a reused family, sign-ins included:
// who stole the token may have the cookie, too, and codes that are under way. The family
// itself is durably dead when it is called.
func (s *Server) punish(ctx context.Context, k *known, c *call, st family.State) error {
	switch g := st.Grant; {
	case k.policy.OnReuse == family.RevokeSession && g.Session != ([16]byte{}):
		if err := s.endSession(ctx, c, session.ID(g.Session), family.Reused); err != nil {
			return err
		}
		_, err := family.EndAll(ctx, s.conf.Store, s.conf.Store, family.Query{Session: g.Session}, nil, family.Reused, c.from, c.id)
		return err
	case k.policy.OnReuse == family.RevokeUser && g.User != "":
		return s.cutOff(ctx, c, user.ID(g.User), family.Reused, nil, func(u user.User, now time.Time, keep user.Origin) (user.User, error) {
			return u.CutOff(now, user.ReasonReuse, keep), nil
		})
	}
	return nil
}

// binding checks that the family is the client's, and that the client still is of the
// class it was: bindings only get stricter (INV5, MATRIX C06, C07).
func binding(g *family.Grant, k *known) family.Reason {
	if g.Client != k.ID {
		return family.ForeignClient
	}
	if g.Confident && !k.Confidential() {
		return family.BindingMismatch
	}
	return 0
}

// within works out scope and audience of the access token: what is asked, else what was
// granted, and in any case only what the client may have today (MATRIX D01 to D09).
func (s *Server) within(k *known, g *family.Grant, p presentation) (w want, why family.Reason) {
	allowed := g.Scope.And(k.scope)
	w.scope = allowed
	if !p.anyScope {
		// offline_access says how long a grant lives and is not a right of its own:
		// clients that add it to any request are not punished for it (MATRIX D04).
		asked := p.scope.Without("offline_access")
		if !asked.Within(g.Scope) {
			return w, family.InvalidScope
		}
		w.scope = p.scope.And(allowed)
		if w.scope == "" && asked == "" {
			w.scope = allowed
		}
	}
	if w.scope == "" && g.Scope != "" {
		// Every scope that the user granted was taken from the client since.
		return w, family.RevokedAdmin
	}
	aud, ok := s.audience(k, g, p.resources)
	if !ok {
		return w, family.InvalidTarget
	}
	w.audience = aud
	return w, 0
}

// exchange is the authorization code grant (RFC 6749 §4.1.3, RFC 7636 §4.6).
func (s *Server) exchange(ctx context.Context, k *known, c *call, f form, p presentation) (answer, error) {
	text := f.get("code")
	if text == "" {
		return answer{}, invalidRequest("code is missing")
	}
	verifier := f.get("code_verifier")
	if verifier != "" && !wellFormedVerifier(verifier) {
		return answer{}, invalidRequest("code_verifier must be 43 to 128 unreserved characters (RFC 7636 section 4.1)")
	}
	t, ok := family.Read(text, true, s.conf.Keys.CheckMAC)
	if !ok {
		s.metrics.decided(family.Unknown)
		return answer{}, refusal(family.Unknown)
	}
	redirect := f.get("redirect_uri")
	// A session that ended between the authorization and the exchange takes the code
	// with it (MATRIX F25), also when the sign-out did not see the family yet.
	// So does the end of the person's consent.
	ended, err := s.overtaken(ctx, k, t.Family)
	if err != nil {
		return answer{}, err
	}
	return s.present(ctx, k, c, t, p, func(st family.State, at family.Standing) (family.State, family.Reason) {
		if ended != 0 && st.Head == 0 {
			return st, ended
		}
		if redirect != "" && redirect != st.Grant.RedirectURI {
			return st, family.BindingMismatch
		}
		if redirect == "" && st.Grant.SentURI && st.Grant.Challenge == "" {
			// RFC 6749 §4.1.3. With PKCE it adds nothing and may be left out (OAuth 2.1
			// §10.2); without, it is what tells a code that was sent elsewhere.
			return st, family.BindingMismatch
		}
		if verifies(st.Grant.Challenge, verifier) {
			return st, 0
		}
		if st.Head > 0 {
			// Who has the code but not its verifier must not be able to sign the user
			// out (MATRIX K05).
			return st, family.BindingMismatch
		}
		// An unused code is burnt by a wrong verifier: no second guess (MATRIX K06).
		return st.Revoke(at.Now, family.BindingMismatch, c.from), family.BindingMismatch
	})
}

// overtaken tells why a code counts no more although its family lives: the sign-in that
// it came from has ended, or the person took the client's consent back while the family
// was being made and nobody saw it yet. 0: it counts.
func (s *Server) overtaken(ctx context.Context, k *known, id family.ID) (family.Reason, error) {
	st, at, err := s.conf.Store.Load(ctx, id)
	if errors.Is(err, family.ErrNotFound) || err == nil && st.Grant.Session == ([16]byte{}) {
		return 0, nil // the step that follows finds the same and refuses
	}
	if err != nil {
		return 0, err
	}
	se, err := s.conf.Store.Session(ctx, session.ID(st.Grant.Session))
	if errors.Is(err, family.ErrNotFound) || err == nil && !se.Alive(at.Now.Std()) {
		return family.RevokedLogout, nil
	}
	if err != nil || k.FirstParty {
		return 0, err
	}
	have, err := s.conf.Store.Consent(ctx, user.ID(st.Grant.User), k.ID)
	if errors.Is(err, family.ErrNotFound) || err == nil && !st.Grant.Scope.Within(family.Scope(have.Scope)) {
		return family.RevokedUser, nil
	}
	return 0, err
}

// wellFormedVerifier checks RFC 7636 §4.1.
func wellFormedVerifier(v string) bool {
	if len(v) < 43 || len(v) > 128 {
		return false
	}
	return strings.IndexFunc(v, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-._~", c)
	}) < 0
}

// verifies checks a verifier against an S256 challenge. Neither without the other: a
// verifier for a code without a challenge is a downgrade (RFC 9700 §4.8.2).
func verifies(challenge, verifier string) bool {
	if challenge == "" || verifier == "" {
		return challenge == verifier
	}
	sum := sha256.Sum256([]byte(verifier))
	want := base64.RawURLEncoding.EncodeToString(sum[:])
	return subtle.ConstantTimeCompare([]byte(want), []byte(challenge)) == 1
}

// clientCredentials is RFC 6749 §4.4: a token for the client itself, without a family,
// a refresh token or a user.
func (s *Server) clientCredentials(ctx context.Context, k *known, f form) (answer, error) {
	scope, err := family.ParseScope(f.get("scope"))
	if err != nil {
		return answer{}, refusal(family.InvalidScope)
	}
	allowed := k.scope.Without("openid", "offline_access")
	asked := scope.Without("openid", "offline_access")
	if !asked.Within(allowed) {
		return answer{}, &oauthError{status: http.StatusBadRequest, code: "invalid_scope", reason: family.InvalidScope, text: "the client may not have this scope"}
	}
	if scope == "" {
		asked = allowed
	}
	resources := f.all("resource")
	aud, ok := s.audience(k, &family.Grant{Resources: slices.Concat(k.Audience, k.Resources)}, resources)
	if len(resources) == 0 {
		aud, ok = s.audience(k, &family.Grant{}, nil)
	}
	if !ok {
		return answer{}, &oauthError{status: http.StatusBadRequest, code: "invalid_target", reason: family.InvalidTarget, text: "the client may not have this resource"}
	}
	now, err := s.conf.Store.Now(ctx)
	if err != nil {
		return answer{}, err
	}
	life := k.policy.AccessTTL
	access, err := s.sign(keys.ES256, wire.TypeAccessToken, wire.AccessToken{
		Issuer: s.conf.Issuer, Subject: k.ID, Audience: aud,
		Expires: int64(now.Add(life)) / 1000, IssuedAt: int64(now) / 1000,
		ID: jti(), ClientID: k.ID, Scope: string(asked),
	})
	if err != nil {
		return answer{}, err
	}
	return jsonAnswer(0, wire.TokenResponse{AccessToken: access, TokenType: "Bearer", ExpiresIn: seconds(life), Scope: string(asked)})
}

// sameResource compares two resource indicators by what RFC 3986 §6.2 calls equal:
// scheme and host without case, default ports, an empty path and "/" alike.
func sameResource(a, b string) bool { return a == b || canonicalResource(a) == canonicalResource(b) }

func canonicalResource(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return raw
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if p := u.Port(); p == "443" && u.Scheme == "https" || p == "80" && u.Scheme == "http" {
		u.Host = strings.TrimSuffix(u.Host, ":"+p)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	u.RawPath = ""
	return u.String()
}

// clockSkew is how far a moment in a token may lie ahead (DEC14).
const clockSkew = 10 * time.Second
