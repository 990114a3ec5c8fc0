package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/wire"
)

// Need is what a request needs besides a token that counts. The zero Need is that
// alone.
type Need struct {
	// Scopes is the scope words of which the token must have all.
	Scopes []string
	// MaxAge is how long ago the user may have proved who they are (auth_time), in whole
	// seconds; 0: it does not matter.
	MaxAge time.Duration
	// ACR is the authentication classes of which the token must have one, the best first;
	// empty: it does not matter.
	ACR []string
}

// Require returns a middleware that lets requests through whose bearer token counts and
// has what is needed; FromContext gives the token to the handler behind it. Others are
// answered as RFC 6750 §3 and RFC 9470 §3 say: 401, 403, or 400 for a request that has
// its token in the wrong place; 503 with Retry-After when it can not be told.
//
// The token comes in the Authorization header and nowhere else: query strings end up in
// logs. Preflight requests of CORS have no token: answer them before.
//
// Require panics if what is needed makes no sense, like a pattern of http.ServeMux that
// can not match: it is meant to be called while the program starts.
func (v *Verifier) Require(n Need) func(http.Handler) http.Handler {
	n.Scopes, n.ACR = slices.Clone(n.Scopes), slices.Clone(n.ACR)
	for _, words := range [][]string{n.Scopes, n.ACR} {
		for _, w := range words {
			if w == "" || strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
				panic(fmt.Sprintf("verify: Need has %q: a scope or class is one word (RFC 6749 §3.3)", w))
			}
		}
	}
	if n.MaxAge < 0 || n.MaxAge%time.Second != 0 {
		panic(fmt.Sprintf("verify: Need.MaxAge is %v: whole seconds are needed", n.MaxAge))
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			token, r401 := bearer(r)
			if r401 != nil {
				v.deny(w, n, *r401)
				return
			}
			now := v.now()
			t, err := v.check(r.Context(), token, now)
			if err != nil {
				v.log.DebugContext(r.Context(), "verify: request refused", "err", err)
				v.deny(w, n, v.answerTo(err))
				return
			}
			if d := n.missing(t, v.clock(now), v.conf.Skew); d != nil {
				v.deny(w, n, *d)
				return
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, t)))
		})
	}
}

// Middleware is Require(Need{}): a token that counts, whatever it may do.
func (v *Verifier) Middleware(next http.Handler) http.Handler { return v.Require(Need{})(next) }

// clock is the issuer's time as far as it is known.
func (v *Verifier) clock(now instant) time.Time {
	if v.follow != nil {
		if c, err := v.follow.clock(now); err == nil {
			return c
		}
	}
	return now.wall
}

// denial is an answer that is not the handler's.
type denial struct {
	status int
	code   string // of the challenge; "" where there were no credentials (RFC 6750 §3.1)
	text   string
}

// bearer takes the token out of a request: from one Authorization header, by no other
// way, and no other way may be used beside it (RFC 6750 §2).
func bearer(r *http.Request) (string, *denial) {
	inQuery := strings.Contains(r.URL.RawQuery, "access_token") && r.URL.Query().Has("access_token")
	headers := r.Header["Authorization"]
	if len(headers) > 1 || inQuery && len(headers) > 0 {
		return "", &denial{http.StatusBadRequest, "invalid_request", "the request has credentials in several places"}
	}
	if inQuery {
		return "", &denial{http.StatusUnauthorized, "invalid_request", "an access token in the URL is not accepted"}
	}
	if len(headers) == 0 {
		return "", &denial{status: http.StatusUnauthorized, text: "an access token is needed"}
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", &denial{status: http.StatusUnauthorized, text: "a bearer token is needed"}
	}
	token = strings.Trim(token, " ")
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' }) {
		return "", &denial{http.StatusBadRequest, "invalid_request", "the Authorization header is malformed"}
	}
	return token, nil
}

// missing returns the answer to a token that counts but does not do; nil if it does.
func (n Need) missing(t *Token, clock time.Time, skew time.Duration) *denial {
	for _, w := range n.Scopes {
		if !t.HasScope(w) {
			return &denial{http.StatusForbidden, "insufficient_scope", "the access token does not have the scope that is needed"}
		}
	}
	old := n.MaxAge > 0 && (t.AuthTime.IsZero() || clock.Sub(t.AuthTime) > n.MaxAge || t.AuthTime.Sub(clock) > skew)
	if old || len(n.ACR) > 0 && (t.ACR == "" || !slices.Contains(n.ACR, t.ACR)) {
		return &denial{http.StatusUnauthorized, "insufficient_user_authentication", "a more recent or a stronger sign-in is needed"}
	}
	return nil
}

// answerTo is the one table from an error of Check to the wire. A client learns that a
// token does not count, and not which of the checks it failed.
func (v *Verifier) answerTo(err error) denial {
	if errors.Is(err, ErrToken) {
		return denial{http.StatusUnauthorized, "invalid_token", "the access token is not valid here"}
	}
	return denial{http.StatusServiceUnavailable, "temporarily_unavailable", "access tokens can not be checked at the moment"}
}

func (v *Verifier) deny(w http.ResponseWriter, n Need, d denial) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/json")
	if d.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(int(keysPause/time.Second)))
	} else {
		h.Set("WWW-Authenticate", v.challenge(n, d))
	}
	body, err := json.Marshal(wire.Error{Code: d.code, Description: d.text})
	if d.code == "" || err != nil {
		body = []byte(`{"error_description":"` + d.text + `"}`)
	}
	w.WriteHeader(d.status)
	// The client is gone if this fails; there is nobody to tell.
	_, _ = w.Write(append(body, '\n'))
}

// challenge writes a WWW-Authenticate value (RFC 6750 §3, RFC 9470 §3, RFC 9728 §5.1).
func (v *Verifier) challenge(n Need, d denial) string {
	var b strings.Builder
	b.WriteString("Bearer")
	sep := " "
	param := func(name, value string) {
		b.WriteString(sep + name + `="`)
		for i := range len(value) {
			if value[i] == '"' || value[i] == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(value[i])
		}
		b.WriteByte('"')
		sep = ", "
	}
	param("realm", v.conf.Audience)
	if d.code != "" {
		param("error", d.code)
		param("error_description", d.text)
	}
	switch d.code {
	case "", "invalid_token", "insufficient_scope":
		if len(n.Scopes) > 0 {
			param("scope", strings.Join(n.Scopes, " "))
		}
	case "insufficient_user_authentication":
		if len(n.ACR) > 0 {
			param("acr_values", strings.Join(n.ACR, " "))
		}
		if n.MaxAge > 0 {
			param("max_age", strconv.Itoa(int(n.MaxAge/time.Second)))
		}
	}
	if v.conf.ResourceMetadata != "" {
		param("resource_metadata", v.conf.ResourceMetadata)
	}
	return b.String()
}
