package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/user"
	"github.com/heirloom-auth/heirloom/wire"
)

// readAccess reads an access token of ours: signature, type, issuer and times. Whether
// it was revoked is another question. ok is false for everything else.
func (s *Server) readAccess(token string, now family.Time) (at wire.AccessToken, ok bool) {
	if strings.Count(token, ".") != 2 {
		return at, false
	}
	claims, err := s.conf.Keys.Verify(token, wire.TypeAccessToken)
	if err != nil {
		return at, false
	}
	if err := json.Unmarshal(claims, &at); err != nil {
		return at, false
	}
	// Compared in milliseconds: at the second of exp it is over.
	if at.Issuer != s.conf.Issuer || int64(now) >= at.Expires*1000 || int64(now.Add(clockSkew)) < at.IssuedAt*1000 {
		return at, false
	}
	return at, true
}

// alive reports whether an access token that is right in itself still counts: it and
// its family were not revoked, its user and client are allowed, and its scopes are
// still granted (MATRIX D07). st is the family's state, or zero when it has none.
func (s *Server) alive(ctx context.Context, at wire.AccessToken) (st family.State, ok bool, err error) {
	denied, err := s.conf.Store.Denied(ctx, at.ID)
	if err != nil || denied {
		return st, false, err
	}
	k, err := s.party(ctx, at.ClientID)
	if errors.Is(err, family.ErrNotFound) {
		return st, false, nil
	}
	if err != nil {
		return st, false, err
	}
	if k.Status != client.Enabled {
		return st, false, nil
	}
	if at.Family == "" {
		return st, k.NotBefore.IsZero() || at.IssuedAt > k.NotBefore.Unix(), nil
	}
	id, err := family.ParseID(at.Family)
	if err != nil {
		return st, false, nil
	}
	st, standing, err := s.conf.Store.Load(ctx, id)
	if errors.Is(err, family.ErrNotFound) {
		return family.State{}, false, nil
	}
	if err != nil {
		return family.State{}, false, err
	}
	if _, ended := st.Ended(k.policy, standing.Now); ended || standing.Barred != 0 {
		return st, false, nil
	}
	return st, family.Scope(at.Scope).Within(st.Grant.Scope), nil
}

// introspect is RFC 7662. It is right at once, always: it asks the store.
func (s *Server) introspect(r *http.Request, c *call) (answer, error) {
	f, err := readForm(r)
	if err != nil {
		return answer{}, err
	}
	k, err := s.clientOf(r, f, c)
	if err != nil {
		return answer{}, err
	}
	if !k.Confidential() {
		// Whoever only has a public client_id may not fish for tokens (RFC 7662 §4).
		return answer{}, errClient(false)
	}
	token := f.get("token")
	if token == "" {
		return answer{}, invalidRequest("token is missing")
	}
	source := guess{client: k.ID, ip: network(c.from.IP)}
	if wait := s.limits.probes.wait(source, c.started); wait > 0 {
		return answer{}, tooMany(wait)
	}
	var out wire.Introspection
	if strings.HasPrefix(token, family.RefreshPrefix) {
		out, err = s.introspectRefresh(r.Context(), k, c, token)
	} else {
		out, err = s.introspectAccess(r.Context(), k, c, token)
	}
	if err != nil {
		return answer{}, err
	}
	if !out.Active {
		s.limits.probes.take(source, c.started)
		out = wire.Introspection{} // no hint why (RFC 7662 §2.2)
	}
	return jsonAnswer(0, out)
}

// introspectRefresh tells a client of its own refresh token; nobody else learns
// anything (7662-07). It moves no idle timer.
func (s *Server) introspectRefresh(ctx context.Context, k *known, c *call, token string) (out wire.Introspection, err error) {
	t, ok := family.Read(token, false, s.conf.Keys.CheckMAC)
	if !ok {
		return out, nil
	}
	c.family, c.generation = t.Family, t.Generation
	st, standing, err := s.conf.Store.Load(ctx, t.Family)
	if errors.Is(err, family.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if _, ended := st.Ended(k.policy, standing.Now); ended || standing.Barred != 0 || binding(st.Grant, k) != 0 || t.Generation < st.Head {
		return out, nil
	}
	out = wire.Introspection{
		Active: true, Issuer: s.conf.Issuer, Subject: st.Grant.User, ClientID: k.ID,
		Scope: string(st.Grant.Scope), IssuedAt: int64(st.LastUsed) / 1000, TokenType: "refresh_token", Family: t.Family.String(),
	}
	refresh, authorization := st.Left(k.policy, standing.Now)
	if refresh >= 0 {
		n := seconds(refresh)
		out.RefreshTokenTimeout = &n
		out.Expires = int64(standing.Now)/1000 + n
	}
	if authorization >= 0 {
		n := seconds(authorization)
		out.AuthorizationExpiresIn = &n
	}
	return out, nil
}

// introspectAccess tells a resource server, or the token's own client, of an access
// token.
func (s *Server) introspectAccess(ctx context.Context, k *known, c *call, token string) (out wire.Introspection, err error) {
	now, err := s.conf.Store.Now(ctx)
	if err != nil {
		return out, err
	}
	at, ok := s.readAccess(token, now)
	if !ok {
		return out, nil
	}
	if at.ClientID != k.ID && !slices.ContainsFunc(at.Audience, func(a string) bool { return slices.Contains(k.Introspects, a) || a == k.ID }) {
		return out, nil
	}
	st, ok, err := s.alive(ctx, at)
	if err != nil || !ok {
		return out, err
	}
	c.family = st.ID
	c.user = at.Subject
	return wire.Introspection{
		Active: true, Issuer: at.Issuer, Subject: at.Subject, Audience: at.Audience, Expires: at.Expires, IssuedAt: at.IssuedAt,
		ID: at.ID, ClientID: at.ClientID, Scope: at.Scope, TokenType: "Bearer", Family: at.Family, Session: at.Session,
		AuthTime: at.AuthTime, ACR: at.ACR, AMR: at.AMR,
	}, nil
}

// revoke is RFC 7009. Any member of a family, old or new, ends the whole family.
func (s *Server) revoke(r *http.Request, c *call) (answer, error) {
	f, err := readForm(r)
	if err != nil {
		return answer{}, err
	}
	k, err := s.clientOf(r, f, c)
	if err != nil {
		return answer{}, err
	}
	token := f.get("token")
	if token == "" {
		return answer{}, invalidRequest("token is missing")
	}
	done := answer{} // 200, empty: also for what is unknown or dead already (RFC 7009 §2.2)
	t, ok := family.Read(token, false, s.conf.Keys.CheckMAC)
	if !ok {
		t, ok = family.Read(token, true, s.conf.Keys.CheckMAC)
	}
	if !ok {
		return done, s.revokeAccess(r.Context(), k, c, token)
	}
	c.family, c.generation = t.Family, t.Generation
	st, standing, err := s.conf.Store.Load(r.Context(), t.Family)
	if errors.Is(err, family.ErrNotFound) {
		return done, nil
	}
	if err != nil {
		return answer{}, err
	}
	if st.Grant.Client != k.ID {
		if s.limits.alarms.take(t.Family, c.started) {
			c.alert, c.reason = true, family.ForeignClient
			e := st.EventFor(family.FamilyAlarm, family.ForeignClient, t, c.from)
			e.Level = family.Alert
			s.record(r.Context(), c, e)
		}
		return answer{}, refusal(family.ForeignClient)
	}
	c.user = st.Grant.User
	if t.Generation == 0 && st.Head > 0 {
		// Who has a spent code but not its verifier must not be able to sign the user out
		// (MATRIX K05). The client has a refresh token to revoke.
		return done, nil
	}
	// What would be refused needs no end. An idle end of before a loss of data is none: a
	// token newer than the store's head would bring the family back (MATRIX G06).
	if _, refused := st.Refuses(k.policy, standing.Now, t); refused {
		return done, nil
	}
	ended, err := family.End(r.Context(), s.conf.Store, t.Family, family.RevokedClient, c.from, c.id)
	if err != nil {
		return answer{}, err
	}
	if ended {
		c.reason = family.RevokedClient
		s.metrics.ended.WithLabelValues(c.reason.String()).Inc()
	}
	return done, nil
}

// revokeAccess ends one access token. Its family lives (7009-05).
func (s *Server) revokeAccess(ctx context.Context, k *known, c *call, token string) error {
	now, err := s.conf.Store.Now(ctx)
	if err != nil {
		return err
	}
	at, ok := s.readAccess(token, now)
	if !ok {
		return nil
	}
	if at.ClientID != k.ID {
		return refusal(family.ForeignClient)
	}
	c.user, c.reason = at.Subject, family.RevokedClient
	e := family.Event{Kind: family.TokenRevoked, Reason: family.RevokedClient, Client: k.ID, User: at.Subject, Origin: c.from, Request: c.id, Detail: at.ID}
	if id, err := family.ParseID(at.Family); err == nil {
		c.family, e.Family = id, id
	}
	return s.conf.Store.Deny(ctx, at.ID, family.At(time.Unix(at.Expires, 0)), e)
}

// userinfo is OpenID Connect Core §5.3. The token comes in the header, or in the body
// of a POST (RFC 6750 §2.1, §2.2), never in the URL.
func (s *Server) userinfo(r *http.Request, c *call) (answer, error) {
	token, err := bearer(r)
	if err != nil {
		return answer{}, err
	}
	ctx := r.Context()
	now, err := s.conf.Store.Now(ctx)
	if err != nil {
		return answer{}, err
	}
	at, ok := s.readAccess(token, now)
	if !ok {
		return answer{}, errBearer(http.StatusUnauthorized, "invalid_token", "the access token is not valid here", "")
	}
	c.client, c.user = at.ClientID, at.Subject
	st, ok, err := s.alive(ctx, at)
	if err != nil {
		return answer{}, err
	}
	if !ok {
		return answer{}, errBearer(http.StatusUnauthorized, "invalid_token", "the access token is not valid here", "")
	}
	c.family = st.ID
	if !family.Scope(at.Scope).Has("openid") || st.Grant == nil {
		return answer{}, errBearer(http.StatusForbidden, "insufficient_scope", "the access token was not given the scope openid", "openid")
	}
	u, err := s.conf.Store.User(ctx, user.ID(at.Subject))
	if errors.Is(err, family.ErrNotFound) {
		return answer{}, errBearer(http.StatusUnauthorized, "invalid_token", "the access token is not valid here", "")
	}
	if err != nil {
		return answer{}, err
	}
	claims := u.Claims.ForScope(family.Scope(at.Scope).Words()...)
	k, err := s.party(ctx, at.ClientID)
	if err != nil {
		return answer{}, err
	}
	for _, name := range requestedClaims(st.Grant, k, "userinfo") {
		if v, ok := u.Claims.ByName(name); ok {
			claims[name] = v
		}
	}
	claims["sub"] = at.Subject
	return jsonAnswer(0, claims)
}

// bearer takes the access token out of a request: exactly one, from the header or the
// body.
func bearer(r *http.Request) (string, error) {
	if r.URL.Query().Has("access_token") {
		return "", errBearer(http.StatusUnauthorized, "invalid_request", "an access token in the URL is not accepted", "")
	}
	var found []string
	for _, h := range r.Header["Authorization"] {
		scheme, value, _ := strings.Cut(h, " ")
		if strings.EqualFold(scheme, "Bearer") {
			found = append(found, strings.TrimSpace(value))
		}
	}
	if r.Method == http.MethodPost && r.Header.Get("Content-Type") != "" {
		if err := checkFormType(r.Header); err != nil {
			return "", err
		}
		body, err := readBody(r)
		if err != nil {
			return "", err
		}
		f, err := parseForm(string(body))
		if err != nil {
			return "", err
		}
		if t := f.get("access_token"); t != "" {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		// RFC 6750 §3.1: no error code when no credentials were sent.
		return "", &oauthError{status: http.StatusUnauthorized, code: "invalid_token", text: "an access token is needed", challenge: `Bearer realm="heirloom"`}
	case 1:
		return found[0], nil
	}
	return "", errBearer(http.StatusBadRequest, "invalid_request", "the request has several access tokens", "")
}

// errBearer is an answer of a protected resource (RFC 6750 §3).
func errBearer(status int, code, text, scope string) error {
	challenge := `Bearer realm="heirloom", error="` + code + `", error_description="` + text + `"`
	if scope != "" {
		challenge += `, scope="` + scope + `"`
	}
	return &oauthError{status: status, code: code, text: text, challenge: challenge}
}
