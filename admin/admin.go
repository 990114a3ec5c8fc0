// Package admin is the JSON API by which an operator, the command line and the console
// look after users, clients, families, sessions and keys, and the health and metrics
// pages. It is meant for a listener of its own that only this machine reaches, and asks
// for a bearer token all the same.
//
// It does not know HTML, SQL, configuration files or how tokens are issued, and never
// shows a token; a client secret is shown once, when it is made.
package admin

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// Users keeps people. The methods are those of the engines.
type Users interface {
	User(ctx context.Context, id user.ID) (user.User, error)
	UserByName(ctx context.Context, username string) (user.User, error)
	Users(ctx context.Context, after user.ID, limit int) ([]user.User, error)
	PutUser(ctx context.Context, u user.User, events ...family.Event) error
	DeleteUser(ctx context.Context, id user.ID, events ...family.Event) error
}

// Clients keeps registered clients.
type Clients interface {
	Client(ctx context.Context, id string) (client.Client, error)
	Clients(ctx context.Context, after string, limit int) ([]client.Client, error)
	PutClient(ctx context.Context, c client.Client, events ...family.Event) error
	DeleteClient(ctx context.Context, id string, events ...family.Event) error
}

// Sessions keeps sign-ins, and the engine's clock and pulse are here to be asked too.
type Sessions interface {
	Session(ctx context.Context, id session.ID) (session.Session, error)
	PutSession(ctx context.Context, s session.Session, events ...family.Event) error
	Sessions(ctx context.Context, u user.ID, liveOnly bool) ([]session.Session, error)
	Now(ctx context.Context) (family.Time, error)
	Ping(ctx context.Context) error
}

// Store is what the API needs of an engine.
type Store interface {
	family.Store
	family.Index
	Users
	Clients
	Sessions
}

// Config is what an API needs. All fields but MaxAccessTTL, Draining and Log are required.
type Config struct {
	Store   Store
	Keys    *keys.Ring
	Hasher  *user.Hasher
	Token   Token
	Metrics http.Handler // answers GET /metrics
	// MaxAccessTTL is the longest life of any client's access tokens, the server's; 0: an hour.
	MaxAccessTTL time.Duration
	// Draining says why the server takes no more work, "" while it does; nil: never.
	Draining func() string
	Log      *slog.Logger // one line for each change; nil: none
}

// API is the admin API. It is safe for many goroutines.
type API struct {
	Config
	handler http.Handler
}

// New returns the API as an http.Handler.
func New(c Config) (*API, error) {
	switch {
	case c.Store == nil:
		return nil, errors.New("admin: Store is not set")
	case c.Keys == nil:
		return nil, errors.New("admin: Keys is not set")
	case c.Hasher == nil:
		return nil, errors.New("admin: Hasher is not set")
	case c.Token.p == nil:
		return nil, errors.New("admin: Token is not set")
	case c.Metrics == nil:
		return nil, errors.New("admin: Metrics is not set")
	}
	if c.Draining == nil {
		c.Draining = func() string { return "" }
	}
	if c.MaxAccessTTL == 0 {
		c.MaxAccessTTL = time.Hour
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	a := &API{Config: c}

	inner := http.NewServeMux()
	for pattern, h := range map[string]func(*call) (any, error){
		"GET /admin/v1/users":                 a.listUsers,
		"POST /admin/v1/users":                a.addUser,
		"GET /admin/v1/users/{user}":          a.showUser,
		"DELETE /admin/v1/users/{user}":       a.deleteUser,
		"PUT /admin/v1/users/{user}/password": a.setPassword,
		"POST /admin/v1/users/{user}/disable": a.disableUser,
		"POST /admin/v1/users/{user}/enable":  a.enableUser,
		"POST /admin/v1/users/{user}/revoke":  a.revokeUser,
		"GET /admin/v1/users/{user}/why":      a.whyUser,

		"GET /admin/v1/clients":                          a.listClients,
		"POST /admin/v1/clients":                         a.addClient,
		"GET /admin/v1/clients/{client}":                 a.showClient,
		"PATCH /admin/v1/clients/{client}":               a.updateClient,
		"DELETE /admin/v1/clients/{client}":              a.removeClient,
		"POST /admin/v1/clients/{client}/secrets":        a.addSecret,
		"DELETE /admin/v1/clients/{client}/secrets/{id}": a.removeSecret,
		"POST /admin/v1/clients/{client}/revoke":         a.revokeClient,

		"GET /admin/v1/families":              a.listFamilies,
		"GET /admin/v1/families/{id}":         a.showFamily,
		"GET /admin/v1/families/{id}/why":     a.whyFamily,
		"POST /admin/v1/families/{id}/revoke": a.revokeFamily,

		"GET /admin/v1/sessions":              a.listSessions,
		"POST /admin/v1/sessions/{id}/revoke": a.revokeSession,

		"GET /admin/v1/keys":         a.listKeys,
		"POST /admin/v1/keys/rotate": a.rotateKeys,

		"GET /admin/v1/events": a.listEvents,
	} {
		inner.Handle(pattern, a.answer(h))
	}
	inner.HandleFunc("/admin/v1/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &apiError{
			Status: http.StatusNotFound, Code: "not_found",
			Message: "there is no " + r.Method + " at this path",
		})
	})

	outer := http.NewServeMux()
	outer.Handle("/admin/v1/", a.guarded(inner))
	outer.HandleFunc("GET /healthz", a.healthz)
	outer.HandleFunc("GET /readyz", a.readyz)
	outer.Handle("GET /metrics", c.Metrics)
	a.handler = outer
	return a, nil
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// guarded lets in who has the token. A browser that somebody lured here has none, and
// is refused before that, so that no page can even try.
func (a *API) guarded(next http.Handler) http.Handler {
	tokenChecked := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if len(r.Header.Values("Authorization")) != 1 || !strings.EqualFold(scheme, "Bearer") || !a.Token.Is(token) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="heirloom admin"`)
			writeError(w, &apiError{
				Status: http.StatusUnauthorized, Code: "unauthorized",
				Message: "the admin token is missing or wrong",
				Hint:    "it is in the file admin-token of the server's data directory",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, &apiError{
			Status: http.StatusForbidden, Code: "cross_origin",
			Message: "a page of another origin may not use the admin API",
		})
	}))
	return cross.Handler(tokenChecked)
}

// call is one request on its way through a handler.
type call struct {
	*http.Request
	id   string
	from family.Origin
}

// event begins an event that this request causes.
func (c *call) event(kind family.EventKind, detail string) family.Event {
	return family.Event{Kind: kind, Origin: c.from, Request: c.id, Detail: detail}
}

// created is an answer with status 201.
type created struct{ body any }

// answer turns a handler into an http.Handler: what it returns is encoded before the
// first byte is sent, and logged once.
func (a *API) answer(h func(*call) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var random [8]byte
		rand.Read(random[:])
		c := &call{Request: r, id: hex.EncodeToString(random[:])}
		if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			c.from.IP = ap.Addr().Unmap()
		}
		c.from.UserAgent = r.UserAgent()
		if len(c.from.UserAgent) > family.MaxUserAgent {
			c.from.UserAgent = strings.ToValidUTF8(c.from.UserAgent[:family.MaxUserAgent], "")
		}
		w.Header().Set("X-Request-Id", c.id)
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)

		body, err := h(c)
		if err != nil {
			e := asAPIError(err)
			if e.Status >= 500 {
				a.Log.Error("admin", "request", c.id, "method", r.Method, "route", r.Pattern, "status", e.Status, "err", err)
			} else {
				a.Log.Info("admin", "request", c.id, "method", r.Method, "route", r.Pattern, "status", e.Status, "error", e.Code)
			}
			writeError(w, e)
			return
		}
		status := http.StatusOK
		if made, ok := body.(created); ok {
			status, body = http.StatusCreated, made.body
		}
		if r.Method != http.MethodGet {
			a.Log.Info("admin", "request", c.id, "method", r.Method, "route", r.Pattern, "status", status)
		}
		writeJSON(w, status, body)
	})
}

const maxBody = 1 << 20

// apiError is what went wrong, for the caller.
type apiError struct {
	Status  int    `json:"-"`
	Code    string `json:"error"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *apiError) Error() string { return e.Message }

func invalid(message, hint string) error {
	return &apiError{http.StatusBadRequest, "invalid", message, hint}
}

// notAllowed refuses what makes sense but must not happen as things are.
func notAllowed(message, hint string) error {
	return &apiError{http.StatusConflict, "not_allowed", message, hint}
}

// asAPIError decides what the caller sees of an error. What is ours is not shown.
func asAPIError(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	switch {
	case errors.Is(err, family.ErrNotFound):
		return &apiError{http.StatusNotFound, "not_found", "there is no such thing", ""}
	case errors.Is(err, family.ErrExists):
		return &apiError{http.StatusConflict, "exists", "it exists already", ""}
	case errors.Is(err, family.ErrConflict), errors.Is(err, family.ErrBusy):
		return &apiError{http.StatusConflict, "conflict", "somebody else changed it at the same time", "try again"}
	case errors.Is(err, user.ErrBusy):
		return &apiError{http.StatusServiceUnavailable, "busy", err.Error(), ""}
	}
	return &apiError{
		http.StatusServiceUnavailable, "unavailable",
		"the server could not find out or store this; whether it was stored is not known", "the server's log says why; look, then try again",
	}
}

func writeError(w http.ResponseWriter, e *apiError) {
	if e.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	writeJSON(w, e.Status, e)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		status = http.StatusInternalServerError
		buf.Reset()
		buf.WriteString(`{"error":"internal","message":"the answer could not be encoded"}` + "\n")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(buf.Bytes())
}

// read decodes the request's body strictly. An empty body leaves into as it is when
// optional is set.
func (c *call) read(into any, optional bool) error {
	raw, err := c.bytes()
	switch {
	case err != nil:
		return err
	case len(raw) > 0:
		return Strict(raw, into)
	case optional:
		return nil
	}
	return invalid("the body is empty", "send a JSON object")
}

// bytes reads the request's body, which must be declared as JSON unless it is empty.
func (c *call) bytes() ([]byte, error) {
	raw, err := io.ReadAll(c.Body)
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, &apiError{http.StatusRequestEntityTooLarge, "too_large", "the body is larger than 1 MB", ""}
		}
		return nil, invalid("the body could not be read", "")
	}
	if raw = bytes.TrimSpace(raw); len(raw) == 0 {
		return nil, nil
	}
	if mt, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || mt != "application/json" {
		return nil, &apiError{http.StatusUnsupportedMediaType, "content_type", "the body is not declared as JSON", "send Content-Type: application/json"}
	}
	return raw, nil
}

// Strict decodes one JSON value: unknown members, members that are given twice and
// anything behind the value are errors. The error says what to change, and never
// repeats a value, which may be a password.
func Strict(raw []byte, into any) error {
	if err := noneTwice(json.NewDecoder(bytes.NewReader(raw))); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return invalid(fmt.Sprintf("%s is a JSON %s: want %s", t.Field, t.Value, jsonKind(t.Type.Kind().String())), "")
		}
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return invalid("the member "+name+" is not known", "")
		}
		return invalid("the body is not the JSON that is wanted", "")
	}
	if _, err := dec.Token(); err != io.EOF {
		return invalid("there is something behind the JSON object", "")
	}
	return nil
}

func jsonKind(goKind string) string {
	switch goKind {
	case "bool":
		return "true or false"
	case "slice":
		return "a list"
	case "struct", "map":
		return "an object"
	case "int", "int64":
		return "a whole number"
	}
	return "a string"
}

// noneTwice refuses an object that has a member twice: encoding/json would take the
// last one, a proxy or a person might have read the first.
func noneTwice(dec *json.Decoder) error {
	tok, err := dec.Token()
	if err != nil {
		return invalid("the body is not JSON", "")
	}
	switch tok {
	case json.Delim('['):
		for dec.More() {
			if err := noneTwice(dec); err != nil {
				return err
			}
		}
		dec.Token()
	case json.Delim('{'):
		seen := map[string]bool{}
		for dec.More() {
			tok, err := dec.Token()
			name, ok := tok.(string)
			if err != nil || !ok {
				return invalid("the body is not JSON", "")
			}
			if seen[name] {
				return invalid(fmt.Sprintf("the member %q is given twice", name), "")
			}
			seen[name] = true
			if err := noneTwice(dec); err != nil {
				return err
			}
		}
		dec.Token()
	}
	return nil
}

// params reads the query: only known names, each once.
func (c *call) params(known ...string) (url.Values, error) {
	q, err := url.ParseQuery(c.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query is not well-formed", "")
	}
	for name, values := range q {
		switch {
		case !contains(known, name):
			return nil, invalid(fmt.Sprintf("the parameter %q is not known", name), "known are: "+strings.Join(known, ", "))
		case len(values) > 1:
			return nil, invalid(fmt.Sprintf("the parameter %q is given twice", name), "")
		}
	}
	return q, nil
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// limit reads the size of a page.
func limit(q url.Values) (int, error) {
	raw := q.Get("limit")
	if raw == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(raw)
	if err != nil || n < 1 || n > maxPage {
		return 0, invalid("limit is not a number from 1 to 1000", "")
	}
	return n, nil
}

func flag(q url.Values, name string) (bool, error) {
	switch q.Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, invalid(name+" is neither true nor false", "")
}

// now is the store's clock.
func (a *API) now(ctx context.Context) (time.Time, error) {
	t, err := a.Store.Now(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the store's clock: %w", err)
	}
	return t.Std(), nil
}

// rewrite bounds how often a change is tried again after somebody else's.
const rewrite = 16
