package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/wire"
)

// api is a resource server that believes no token by itself: it asks the issuer on every
// call (RFC 7662), so that it is right at once when a family dies.
type api struct {
	audience   string
	introspect string // URL
	id, secret string // as the issuer knows the API
	http       *http.Client
	log        *slog.Logger
}

func newAPI(c Config) *api {
	return &api{
		audience: c.APIURL, introspect: c.Issuer + "/oauth2/introspect",
		id: c.IntrospectID, secret: c.IntrospectSecret, log: c.Log,
		http: &http.Client{
			Timeout: 5 * time.Second,
			// The question carries a secret and a token: they go to the issuer only.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// answered is what the API tells a caller about its token.
type answered struct {
	Message  string        `json:"message"`
	Subject  string        `json:"sub"`
	ClientID string        `json:"client_id"`
	Audience wire.Audience `json:"aud"`
	Scope    string        `json:"scope"`
	IssuedAt int64         `json:"iat"`
	Expires  int64         `json:"exp"`
	ID       string        `json:"jti"`
	Family   string        `json:"fam,omitempty"`
	Session  string        `json:"sid,omitempty"`
	Now      int64         `json:"now"` // the API's clock, in seconds
}

// refusal is an answer of RFC 6750 §3.
type refusal struct {
	status int
	code   string // "": the caller sent no token and learns the scheme only
	text   string
	scope  string // what would have been enough
}

func (e *refusal) Error() string { return e.code + ": " + e.text }

// ServeHTTP answers GET with what is known of the bearer. Any origin may call, with a
// token and without credentials of the browser's.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	// Also on errors: an app that can not read a 401 takes it for a broken network.
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "WWW-Authenticate, Retry-After")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		h.Del("Content-Type")
		h.Set("Allow", "GET, HEAD, OPTIONS")
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Authorization")
		h.Set("Access-Control-Max-Age", "7200")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		h.Set("Allow", "GET, HEAD, OPTIONS")
		a.tell(w, http.StatusMethodNotAllowed, wire.Error{Code: "invalid_request", Description: "the API answers GET; see the Allow header"})
		return
	}
	out, err := a.answer(r)
	if err == nil {
		a.tell(w, http.StatusOK, out)
		return
	}
	if no, ok := errors.AsType[*refusal](err); ok {
		h.Set("WWW-Authenticate", no.challenge())
		code := no.code
		if code == "" {
			code = "invalid_token"
		}
		a.tell(w, no.status, wire.Error{Code: code, Description: no.text})
		return
	}
	// Not knowing is not a refusal: a 401 here would make apps throw good tokens away.
	a.log.LogAttrs(r.Context(), slog.LevelError, "demo API", slog.String("err", err.Error()))
	h.Set("Retry-After", "1")
	a.tell(w, http.StatusServiceUnavailable, wire.Error{Code: "temporarily_unavailable", Description: "the API can not ask about the token; try again"})
}

func (a *api) tell(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		status, b = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // the caller is gone when this fails; nothing has changed
}

func (e *refusal) challenge() string {
	c := `Bearer realm="heirloom demo"`
	if e.code != "" {
		c += `, error="` + e.code + `", error_description="` + e.text + `"`
	}
	if e.scope != "" {
		c += `, scope="` + e.scope + `"`
	}
	return c
}

func (a *api) answer(r *http.Request) (*answered, error) {
	token, err := bearer(r)
	if err != nil {
		return nil, err
	}
	at, err := a.ask(r.Context(), token)
	if err != nil {
		return nil, err
	}
	// One sentence for all that is wrong with a token: a stranger learns nothing. Active
	// is not enough: the issuer also tells the asking client of tokens that are for others.
	if !at.Active || at.TokenType != "Bearer" || !slices.Contains(at.Audience, a.audience) {
		return nil, &refusal{status: http.StatusUnauthorized, code: "invalid_token", text: "the access token is expired, revoked or not for this API"}
	}
	// A person's own sign-in is enough to be told about it; programs need the scope.
	if words := strings.Fields(at.Scope); !slices.Contains(words, "demo.read") && !slices.Contains(words, "openid") {
		return nil, &refusal{status: http.StatusForbidden, code: "insufficient_scope", text: "the access token needs the scope demo.read", scope: "demo.read"}
	}
	return &answered{
		Message: "The issuer says that this token is active, right now.",
		Subject: at.Subject, ClientID: at.ClientID, Audience: at.Audience, Scope: at.Scope, IssuedAt: at.IssuedAt, Expires: at.Expires,
		ID: at.ID, Family: at.Family, Session: at.Session, Now: time.Now().Unix(),
	}, nil
}

// maxToken bounds what is sent on to the issuer, in bytes; its access tokens have less
// than a tenth of it.
const maxToken = 16 << 10

// bearer takes the access token out of the header, the one place that does not end up in
// logs and histories (RFC 6750 §2.1, §5.3).
func bearer(r *http.Request) (string, error) {
	if r.URL.Query().Has("access_token") {
		return "", &refusal{status: http.StatusBadRequest, code: "invalid_request", text: "an access token in the URL is not accepted: send it in the Authorization header"}
	}
	auth := r.Header["Authorization"]
	if len(auth) > 1 {
		return "", &refusal{status: http.StatusBadRequest, code: "invalid_request", text: "there are several Authorization headers"}
	}
	var token string
	if len(auth) == 1 {
		if scheme, value, _ := strings.Cut(auth[0], " "); strings.EqualFold(scheme, "Bearer") {
			token = strings.TrimSpace(value)
		}
	}
	if token == "" {
		return "", &refusal{status: http.StatusUnauthorized, text: "an access token is needed"}
	}
	if len(token) > maxToken {
		return "", &refusal{status: http.StatusUnauthorized, code: "invalid_token", text: "the access token is expired, revoked or not for this API"}
	}
	return token, nil
}

// ask introspects a token. An error means that nothing is known of it.
func (a *api) ask(ctx context.Context, token string) (out wire.Introspection, err error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.introspect, strings.NewReader(form.Encode()))
	if err != nil {
		return out, fmt.Errorf("introspect: %v", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(url.QueryEscape(a.id), url.QueryEscape(a.secret)) // RFC 6749 §2.3.1
	res, err := a.http.Do(req)
	if err != nil {
		return out, fmt.Errorf("introspect: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return out, fmt.Errorf("introspect: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return out, fmt.Errorf("introspect: the issuer answered %d: is client %q registered, with this secret?", res.StatusCode, a.id)
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return wire.Introspection{}, fmt.Errorf("introspect: answer: %v", err)
	}
	return out, nil
}
