package server

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/wire"
)

// seconds rounds down to whole seconds, so that nothing is announced longer than it is.
func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// jti makes the name of an access token.
func jti() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: the runtime ends the program instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// want is what a request asks of a family, after it was found to be allowed.
type want struct {
	scope    family.Scope
	audience []string
	claims   map[string]any // of the user, for the ID token; nil: none were asked for
}

// tokens makes the answer of the token endpoint for a family in the state s, as of now.
// first is true for the exchange of a code, which is the only answer with a nonce.
func (s *Server) tokens(k *known, st family.State, now family.Time, w want, first bool) (answer, error) {
	life := k.policy.AccessTTL
	refresh, authorization := st.Left(k.policy, now)
	for _, left := range []time.Duration{refresh, authorization} {
		if left >= 0 {
			// No access token outlives its family (RTX-01).
			life = min(life, left)
		}
	}
	access, err := s.accessToken(k, st, now, w, life)
	if err != nil {
		return answer{}, err
	}
	out := wire.TokenResponse{
		AccessToken: access,
		TokenType:   "Bearer",
		ExpiresIn:   seconds(life),
		Scope:       string(w.scope),
	}
	if k.May("refresh_token") {
		token, ok := family.Mint(st.HeadKey, family.Token{Family: st.ID, Generation: st.Head}, s.conf.Keys.MAC)
		if !ok {
			// The key was taken away by hand since: one generation may now have two
			// spellings, which beats ending an honest session.
			if token, ok = family.Mint(s.conf.Keys.MACKey(), family.Token{Family: st.ID, Generation: st.Head}, s.conf.Keys.MAC); !ok {
				return answer{}, errors.New("mint refresh token: there is no MAC key")
			}
		}
		out.RefreshToken = token
		if refresh >= 0 {
			n := seconds(refresh)
			out.RefreshTokenTimeout = &n
		}
		if authorization >= 0 {
			n := seconds(authorization)
			out.AuthorizationExpiresIn = &n
		}
	}
	if w.scope.Has("openid") && (first || !k.NoIDTokenOnRefresh) {
		if out.IDToken, err = s.idToken(k, st, now, w, access, first, life); err != nil {
			return answer{}, err
		}
	}
	return jsonAnswer(0, out)
}

// accessToken signs an RFC 9068 access token.
func (s *Server) accessToken(k *known, st family.State, now family.Time, w want, life time.Duration) (string, error) {
	g := st.Grant
	at := wire.AccessToken{
		Issuer: s.conf.Issuer, Subject: g.User, Audience: w.audience,
		Expires: int64(now.Add(life)) / 1000, IssuedAt: int64(now) / 1000,
		ID: jti(), ClientID: k.ID, Scope: string(w.scope), Family: st.ID.String(),
		AuthTime: int64(g.AuthTime) / 1000, ACR: g.ACR, AMR: g.AMR,
	}
	if g.Session != ([16]byte{}) {
		at.Session = session.ID(g.Session).String()
	}
	if g.Place > 0 {
		at.Status = &wire.Status{List: s.statusOf(g.Place)}
	}
	return s.sign(keys.ES256, wire.TypeAccessToken, at)
}

func (s *Server) sign(alg keys.Alg, typ string, claims any) (string, error) {
	b, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode claims: %v", err)
	}
	t, err := s.conf.Keys.Sign(alg, typ, b)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", typ, err)
	}
	return t, nil
}

// idToken signs an ID token (OpenID Connect Core §2; on refresh §12.2 and DEC9: the
// same sub, aud and auth_time, a new iat, no nonce).
func (s *Server) idToken(k *known, st family.State, now family.Time, w want, access string, first bool, life time.Duration) (string, error) {
	g := st.Grant
	alg := keys.ES256
	if k.IDTokenAlg != "" {
		alg = keys.Alg(k.IDTokenAlg) // one of ours: client.Check saw to it
	}
	claims := map[string]any{}
	maps.Copy(claims, w.claims)
	claims["iss"], claims["sub"], claims["aud"] = s.conf.Issuer, g.User, k.ID
	claims["iat"], claims["exp"] = int64(now)/1000, int64(now.Add(max(life, time.Minute)))/1000
	claims["at_hash"] = atHash(alg, access)
	if g.AuthTime != 0 {
		claims["auth_time"] = int64(g.AuthTime) / 1000
	}
	if g.Session != ([16]byte{}) {
		claims["sid"] = session.ID(g.Session).String()
	}
	if g.ACR != "" {
		claims["acr"] = g.ACR
	}
	if len(g.AMR) > 0 {
		claims["amr"] = g.AMR
	}
	if first && g.Nonce != "" {
		claims["nonce"] = g.Nonce
	}
	return s.sign(alg, wire.TypeIDToken, claims)
}

// atHash is the left half of the access token's digest, with the hash of the ID
// token's algorithm (OpenID Connect Core §3.1.3.6; SHA-512 for Ed25519).
func atHash(alg keys.Alg, access string) string {
	if alg == keys.EdDSA {
		sum := sha512.Sum512([]byte(access))
		return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
	}
	sum := sha256.Sum256([]byte(access))
	return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
}

// audience works out what an access token is for: the asked resources, which must be
// within the granted ones; else all the granted that the client may still use; else the
// client's own audience; else the issuer. ok is false when a resource was not granted.
func (s *Server) audience(k *known, g *family.Grant, asked []string) (aud []string, ok bool) {
	granted := g.Resources
	if len(granted) == 0 {
		granted = k.Audience
	}
	allowed := granted[:0:0]
	for _, r := range granted {
		if slices.Contains(k.Audience, r) || slices.Contains(k.Resources, r) {
			allowed = append(allowed, r)
		}
	}
	if len(asked) == 0 {
		if len(allowed) == 0 {
			// Everything granted was taken from the client: there is nothing to be for.
			return []string{s.conf.Issuer}, len(g.Resources) == 0
		}
		return allowed, true
	}
	for _, a := range asked {
		i := slices.IndexFunc(allowed, func(r string) bool { return sameResource(r, a) })
		if i < 0 {
			return nil, false
		}
		if !slices.Contains(aud, allowed[i]) {
			aud = append(aud, allowed[i])
		}
	}
	return aud, true
}
