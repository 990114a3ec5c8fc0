package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/server/page"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// person is a page: it writes its answer itself, or returns what went wrong.
type person func(w http.ResponseWriter, r *http.Request, c *call) error

// pageRoutes mounts what people see. Pages never carry CORS headers (RFC 9700 §2.6),
// and posts from other sites never reach them.
func (s *Server) pageRoutes() {
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.begin(r, "cross_origin")
		s.fail(w, c, &pageError{http.StatusForbidden, page.CrossOrigin("")})
		s.finish(r.Context(), c, http.StatusForbidden)
	}))
	for path, p := range map[string]struct {
		name string
		h    person
	}{
		"GET /login":              {"login", s.login},
		"POST /login":             {"login", s.login},
		"GET /consent":            {"consent", s.consent},
		"POST /consent":           {"consent", s.consentDecided},
		"GET /account":            {"account", s.account},
		"GET /account/apps":       {"account", s.apps},
		"GET /account/password":   {"account", s.password},
		"POST /account/sessions":  {"account", s.accountSessions},
		"POST /account/apps":      {"account", s.accountApps},
		"POST /account/password":  {"account", s.changePassword},
		"GET /{$}":                {"home", s.home},
		"GET /oauth2/end_session": {"end_session", s.endSessionAsked},
	} {
		method, at, _ := strings.Cut(path, " ")
		s.mux.Handle(method+" "+s.path(at), cross.Handler(s.shown(p.name, p.h)))
	}
	// Clients send people here from their own sites, also by POST (OpenID Connect Core
	// §3.1.2.1, RP-Initiated Logout §2): both decide nothing by themselves.
	s.mux.Handle(s.path("/oauth2/authorize"), s.shown("authorize", s.authorize))
	s.mux.Handle("POST "+s.path("/oauth2/end_session"), s.shown("end_session", s.endSessionAsked))
	s.mux.HandleFunc("GET "+s.path(page.AssetPath), s.asset)
}

// shown answers a page: headers, panic, error page, one log line.
func (s *Server) shown(name string, h person) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.begin(r, name)
		out := &watched{ResponseWriter: w}
		if r.Method != http.MethodGet && r.Method != http.MethodPost && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, POST")
			s.fail(out, c, &pageError{http.StatusMethodNotAllowed, page.BadRequest("the method is not GET or POST", "")})
			s.finish(r.Context(), c, out.status)
			return
		}
		if r.Body != nil && r.Body != http.NoBody {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		secureHeaders(w.Header())
		if s.secure {
			w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		}
		func() {
			defer func() {
				if p := recover(); p != nil {
					s.log.LogAttrs(r.Context(), slog.LevelError, "panic", slog.String("endpoint", name), slog.String("request", c.id), slog.String("stack", string(debug.Stack())))
					s.fail(out, c, errPanic)
				}
			}()
			if err := h(out, r, c); err != nil {
				c.err = err
				s.fail(out, c, err)
			}
		}()
		s.finish(r.Context(), c, out.status)
	})
}

// watched remembers the status that was written.
type watched struct {
	http.ResponseWriter
	status int
}

func (w *watched) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *watched) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// secureHeaders sets what every page has. targets are where a form of the page may
// lead besides this server: browsers apply the rule to the redirects after a post, too.
func secureHeaders(h http.Header, targets ...string) {
	h.Set("Content-Security-Policy", page.Policy(targets...))
	h.Set("X-Frame-Options", "DENY")
	h["X-Content-Type-Options"] = headerNosniff
	// Not "no-referrer": with it our own forms would say "Origin: null", and browsers
	// without Sec-Fetch-Site would be taken for another site.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h["Cache-Control"] = headerNoStore
}

// show renders a page into memory first, so that half a page can not be sent.
func (s *Server) show(w http.ResponseWriter, status int, view any) error {
	var b bytes.Buffer
	if err := s.pages.Render(&b, view); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the browser is gone when this fails
	return nil
}

// fail shows what went wrong, in words that say what to do next.
func (s *Server) fail(w http.ResponseWriter, c *call, err error) {
	secureHeaders(w.Header())
	status, view := http.StatusServiceUnavailable, page.Unavailable("")
	var pe *pageError
	var oe *oauthError
	switch {
	case errors.As(err, &pe):
		status, view = pe.status, pe.view
	case errors.As(err, &oe) && oe.status < 500:
		status, view = oe.status, page.BadRequest("", "")
	case errors.Is(err, errPanic):
		status = http.StatusInternalServerError
	default:
		w.Header().Set("Retry-After", "5")
	}
	view.RequestID = c.id
	if err := s.show(w, status, view); err != nil {
		http.Error(w, view.Title+". "+view.Sentence, status)
	}
}

// readPost reads a form that a page of ours has sent.
func readPost(r *http.Request) (form, error) {
	if err := checkFormType(r.Header); err != nil {
		return nil, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	return parseForm(string(body))
}

// home leads people who typed the bare address somewhere useful.
func (s *Server) home(w http.ResponseWriter, r *http.Request, _ *call) error {
	http.Redirect(w, r, s.path("/account"), http.StatusSeeOther)
	return nil
}

// continueTo checks where a sign-in goes on: only to pages of ours, so that the page is
// nobody's redirector (RFC 9700 §4.11). It returns the parsed authorization request's
// parameters, if it is one.
func (s *Server) continueTo(raw string) (target string, f form) {
	fallback := s.path("/account")
	path, query, _ := strings.Cut(raw, "?")
	switch path {
	case s.path("/oauth2/authorize"):
		f, err := parseForm(query)
		if err != nil || len(query) > maxQuery {
			return fallback, nil
		}
		// Written anew, so that nothing that could read differently elsewhere remains.
		return path + "?" + f.encode(), f
	case s.path("/account"), s.path("/account/apps"), s.path("/account/password"):
		return path, nil
	}
	return fallback, nil
}

// login is the sign-in page.
func (s *Server) login(w http.ResponseWriter, r *http.Request, c *call) error {
	f := form(nil)
	var err error
	if r.Method == http.MethodPost && s.conf.SignIn == nil {
		f, err = readPost(r)
	} else {
		f, err = parseForm(r.URL.RawQuery)
	}
	if err != nil {
		return err
	}
	target, request := s.continueTo(f.get("continue"))
	if s.conf.SignIn != nil {
		return s.loginElsewhere(w, r, c, target)
	}
	view := page.SignIn{Continue: target}
	if r.Method != http.MethodPost {
		s.tellWhy(r, &view)
	}
	if request != nil {
		if q, err := s.authRequest(r.Context(), request); q != nil && err == nil {
			view.Client, view.Username = q.party.display(), q.loginHint
			secureHeaders(w.Header(), q.redirect)
		}
	}
	if r.Method != http.MethodPost {
		return s.show(w, http.StatusOK, view)
	}
	view.Username = f.get("username")
	now, err := s.conf.Store.Now(r.Context())
	if err != nil {
		return err
	}
	u, refusal, err := s.checkPassword(r, c, view.Username, f.get("password"))
	if err != nil {
		return err
	}
	if refusal != "" {
		view.Error = refusal
		status := http.StatusUnauthorized
		if c.reason == family.Unavailable {
			status = http.StatusTooManyRequests
		}
		return s.show(w, status, view)
	}
	if err := s.startSession(w, r, c, u, now, time.Time{}, acrPassword, []string{"pwd"}); err != nil {
		return err
	}
	s.rememberDevice(w, r, u.Username)
	http.Redirect(w, r, target, http.StatusSeeOther)
	return nil
}

// wrongPassword is said of unknown users, wrong passwords and disabled users alike.
const wrongPassword = "The username or the password is wrong."

// tellWhy says why the person is asked to sign in, if the browser was signed in before.
func (s *Server) tellWhy(r *http.Request, view *page.SignIn) {
	cookies := r.CookiesNamed(s.cookieName())
	if len(cookies) != 1 {
		return
	}
	id, secret, err := session.ParseCookie(cookies[0].Value)
	if err != nil {
		return
	}
	se, err := s.conf.Store.Session(r.Context(), id)
	if err != nil || !se.Proves(secret) {
		return // best effort: the page works without
	}
	switch {
	case se.Status == session.Ended && se.Reason == family.RevokedLogout.String():
		view.Notice = page.SignedOutHere
	case se.Status == session.Ended:
		view.Notice, view.Reason = page.SessionEnded, se.Reason
	default:
		view.Notice = page.Reauthenticate
	}
}

// checkPassword checks a username and password. refusal is what to tell the person; ""
// means that the user is u. It takes the same work whether the user exists or not.
func (s *Server) checkPassword(r *http.Request, c *call, name, password string) (u user.User, refusal string, err error) {
	ctx := r.Context()
	now := time.Now()
	username, err := user.ParseUsername(name)
	if err != nil || len(password) > 1024 {
		// Nobody can have such a name or password, and everybody can see that.
		s.metrics.signIns.WithLabelValues("refused").Inc()
		return u, wrongPassword, nil
	}
	device := s.knownDevice(r, username)
	if device == "" {
		// Hashing takes memory and time: one network's strangers get a few places and
		// leave the others to the rest.
		leave, ok := s.hashing.enter(ctx, network(c.from.IP))
		if !ok {
			return s.passwordBusy(c, user.ErrBusy)
		}
		defer leave()
	}
	if wait := s.throttle.Allow(now, username, c.from.IP, device); wait > 0 {
		c.reason = family.Unavailable
		s.metrics.signIns.WithLabelValues("throttled").Inc()
		return u, "There were too many attempts. Wait " + strconv.Itoa(int(math.Ceil(wait.Seconds()))) + " seconds and try again.", nil
	}
	u, err = s.conf.Store.UserByName(ctx, username)
	missing := errors.Is(err, family.ErrNotFound)
	if err != nil && !missing {
		s.throttle.Refund(now, username, c.from.IP, device)
		return u, "", err
	}
	ok, outdated := false, false
	if missing || u.Password == "" {
		err = s.hasher.VerifyNothing(ctx, password)
	} else {
		ok, outdated, err = s.hasher.Verify(ctx, u.Password, password)
	}
	if err != nil {
		s.throttle.Refund(now, username, c.from.IP, device)
		return s.passwordBusy(c, err)
	}
	if !ok || u.Status != user.Enabled {
		s.throttle.Failed(now, username, c.from.IP, device)
		s.metrics.signIns.WithLabelValues("refused").Inc()
		e := family.Event{Kind: family.SignInFailed, Origin: c.from}
		if !missing {
			e.User = string(u.ID)
		}
		if ok {
			e.Reason = family.UserDisabled
		}
		// Also for names that do not exist: the write takes time that would tell.
		s.record(ctx, c, e)
		return user.User{}, wrongPassword, nil
	}
	s.throttle.Succeeded(now, username, c.from.IP, device)
	s.metrics.signIns.WithLabelValues("ok").Inc()
	c.user = string(u.ID)
	if outdated {
		s.rehash(ctx, c, u, password)
	}
	return u, "", nil
}

func (s *Server) passwordBusy(c *call, err error) (user.User, string, error) {
	if errors.Is(err, user.ErrBusy) {
		c.reason = family.Unavailable
		return user.User{}, "Too many people are signing in at this moment. Try again in a few seconds.", nil
	}
	return user.User{}, "", err
}

// rehash stores the password under today's parameters. If it does not work out, the
// next sign-in tries again.
func (s *Server) rehash(ctx context.Context, c *call, u user.User, password string) {
	phc, err := s.hasher.Hash(ctx, password)
	if err == nil {
		err = s.conf.Store.PutUser(ctx, u.Rehashed(phc), family.Event{Kind: family.UserChanged, User: string(u.ID), Origin: c.from, Request: c.id, Detail: "password hash renewed"})
	}
	if err != nil && !errors.Is(err, family.ErrConflict) {
		s.log.LogAttrs(ctx, slog.LevelWarn, "renew password hash", slog.String("request", c.id), slog.String("err", err.Error()))
	}
}

// loginElsewhere asks the program's own sign-in.
func (s *Server) loginElsewhere(w http.ResponseWriter, r *http.Request, c *call, target string) error {
	who := s.conf.SignIn(w, r)
	if who == nil {
		return nil
	}
	username, err := user.ParseUsername(who.Username)
	if err != nil {
		return err
	}
	now, err := s.conf.Store.Now(r.Context())
	if err != nil {
		return err
	}
	u, err := s.known(r.Context(), c, username, who.Claims)
	if err != nil {
		return err
	}
	if u.Status != user.Enabled {
		return &pageError{http.StatusForbidden, page.Error{Title: "This account is switched off",
			Sentence: "You signed in, but the account is disabled here.", Next: "Ask its administrator."}}
	}
	c.user = string(u.ID)
	if err := s.startSession(w, r, c, u, now, who.AuthTime, who.ACR, who.AMR); err != nil {
		return err
	}
	s.metrics.signIns.WithLabelValues("ok").Inc()
	http.Redirect(w, r, target, http.StatusSeeOther)
	return nil
}

// known finds or makes the user that the program's own sign-in speaks of.
func (s *Server) known(ctx context.Context, c *call, username string, claims user.Claims) (user.User, error) {
	for range 8 {
		u, err := s.conf.Store.UserByName(ctx, username)
		e := family.Event{Kind: family.UserChanged, Origin: c.from, Request: c.id, Detail: "claims updated at sign-in"}
		switch {
		case errors.Is(err, family.ErrNotFound):
			now, err := s.conf.Store.Now(ctx)
			if err != nil {
				return u, err
			}
			var random [16]byte
			rand.Read(random[:]) // never fails: the runtime ends the program instead
			u = user.User{ID: user.NewID(random), Username: username, Status: user.Enabled, CreatedAt: now.Std()}
			e.Kind, e.Detail = family.UserCreated, "first sign-in"
		case err != nil:
			return u, err
		case u.Claims == claims:
			return u, nil
		}
		u.Claims, e.User = claims, string(u.ID)
		if err := u.Check(); err != nil {
			return u, err
		}
		err = s.conf.Store.PutUser(ctx, u, e)
		if err == nil {
			return s.conf.Store.User(ctx, u.ID)
		}
		if !errors.Is(err, family.ErrConflict) && !errors.Is(err, family.ErrExists) {
			return u, err
		}
	}
	return user.User{}, family.ErrBusy
}

const devicePurpose = "heirloom known device v1"

// rememberDevice marks the browser as one in which the user has signed in.
func (s *Server) rememberDevice(w http.ResponseWriter, r *http.Request, username string) {
	if s.knownDevice(r, username) != "" {
		return
	}
	var id [16]byte
	rand.Read(id[:]) // never fails: the runtime ends the program instead
	key := s.conf.Keys.MACKey()
	tag, _ := s.conf.Keys.MAC(key, devicePurpose, append(id[:], username...)) // the ring's own newest key exists
	value := strconv.Itoa(int(key)) + "." + base64.RawURLEncoding.EncodeToString(id[:]) + "." + base64.RawURLEncoding.EncodeToString(tag[:])
	s.setCookie(w, s.deviceCookie(), value, 365*24*time.Hour)
}

// knownDevice returns the name of the browser if the user has signed in with it before.
func (s *Server) knownDevice(r *http.Request, username string) string {
	ck, err := r.Cookie(s.deviceCookie())
	if err != nil {
		return ""
	}
	parts := strings.Split(ck.Value, ".")
	if len(parts) != 3 {
		return ""
	}
	key, err1 := strconv.ParseUint(parts[0], 10, 16)
	id, err2 := base64.RawURLEncoding.DecodeString(parts[1])
	tag, err3 := base64.RawURLEncoding.DecodeString(parts[2])
	if err1 != nil || err2 != nil || err3 != nil || len(id) != 16 || len(tag) != 32 {
		return ""
	}
	if !s.conf.Keys.CheckMAC(uint16(key), devicePurpose, append(id, username...), (*[32]byte)(tag)) {
		return ""
	}
	return parts[1]
}

// display is what people see of a client.
func (k *known) display() string {
	if k.Name != "" {
		return k.Name
	}
	return k.ID
}

// consent is the page on which a person lets a third-party client in.
func (s *Server) consent(w http.ResponseWriter, r *http.Request, c *call) error {
	f, err := readAuthRequest(r)
	if err != nil {
		return err
	}
	q, err := s.authRequest(r.Context(), f)
	if err != nil {
		return s.authFailed(w, r, c, q, err)
	}
	c.client = q.party.ID
	who, err := s.who(r)
	if err != nil {
		return err
	}
	target := s.path("/oauth2/authorize") + "?" + f.encode()
	if who == nil {
		http.Redirect(w, r, target, http.StatusSeeOther)
		return nil
	}
	secureHeaders(w.Header(), q.redirect)
	return s.show(w, http.StatusOK, page.Consent{
		Client: q.party.display(), RedirectHost: redirectHost(q.redirect), Username: who.user.Username,
		Scopes: scopesShown(q.scope), Resources: q.resources, Continue: target,
		Hidden: []page.Field{{Name: "user", Value: string(who.user.ID)}},
	})
}

// redirectHost is what a person should know of where the answer goes.
func redirectHost(redirect string) string {
	u, err := url.Parse(redirect)
	if err != nil {
		return ""
	}
	if u.Host == "" {
		return u.Scheme + ":"
	}
	if client.Loopback(redirect) {
		return u.Hostname()
	}
	return u.Host
}

// scopesShown leaves out what is no right of its own.
func scopesShown(scope family.Scope) []page.Scope {
	var shown []page.Scope
	for _, w := range scope.Words() {
		if w != "openid" {
			shown = append(shown, page.Scope{Name: w})
		}
	}
	return shown
}

// consentDecided is the answer on the consent page. Cross-origin posts do not get here.
func (s *Server) consentDecided(w http.ResponseWriter, r *http.Request, c *call) error {
	f, err := readPost(r)
	if err != nil {
		return err
	}
	_, request := s.continueTo(f.get("continue"))
	if request == nil {
		return &pageError{http.StatusBadRequest, page.RequestExpired("")}
	}
	q, err := s.authRequest(r.Context(), request)
	if err != nil {
		return s.authFailed(w, r, c, q, err)
	}
	c.client = q.party.ID
	who, err := s.who(r)
	if err != nil {
		return err
	}
	if who == nil || f.get("user") != string(who.user.ID) {
		// Signed out, or signed in as somebody else in another tab: what was shown to one
		// person is not another's word.
		http.Redirect(w, r, s.path("/oauth2/authorize")+"?"+request.encode(), http.StatusSeeOther)
		return nil
	}
	c.user = string(who.user.ID)
	switch f.get("decision") {
	case "deny":
		return s.authFailed(w, r, c, q, &authError{"access_denied", "the user did not agree"})
	case "allow":
	default:
		return badRequest("decision must be allow or deny")
	}
	now, err := s.conf.Store.Now(r.Context())
	if err != nil {
		return err
	}
	agreed, err := s.remember(r.Context(), c, q, who.user.ID, now)
	if err != nil {
		return err
	}
	return s.proceed(w, r, c, q, &agreed)
}

// remember keeps what a person has agreed to, together with what they agreed to before.
func (s *Server) remember(ctx context.Context, c *call, q *authRequest, id user.ID, now family.Time) (user.Consent, error) {
	agreed := user.Consent{User: id, Client: q.party.ID, Scope: string(q.scope), Resources: q.resources, GrantedAt: now.Std()}
	have, err := s.conf.Store.Consent(ctx, id, q.party.ID)
	if err != nil && !errors.Is(err, family.ErrNotFound) {
		return agreed, err
	}
	if err == nil {
		agreed.Scope = string(family.ScopeOf(append(family.Scope(have.Scope).Words(), q.scope.Words()...)...))
		agreed.Resources = uniq(append(have.Resources, q.resources...))
	}
	e := family.Event{Kind: family.UserChanged, User: string(id), Client: q.party.ID, Origin: c.from, Request: c.id, Detail: "allowed the client: " + string(q.scope)}
	return agreed, s.conf.Store.PutConsent(ctx, agreed, e)
}

func uniq(in []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, v := range in {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// showFormPost sends the result by a form that submits itself (OAuth 2.0 Form Post
// Response Mode).
func (s *Server) showFormPost(w http.ResponseWriter, q *authRequest, result form) error {
	secureHeaders(w.Header(), q.redirect)
	view := page.FormPost{Action: q.redirect, Client: q.party.display()}
	for _, p := range result {
		view.Fields = append(view.Fields, page.Field{Name: p.name, Value: p.value})
	}
	return s.show(w, http.StatusOK, view)
}

// asset serves a file that pages load.
func (s *Server) asset(w http.ResponseWriter, r *http.Request) {
	a, ok := s.pages.Asset(strings.TrimPrefix(r.URL.Path, s.path(page.AssetPath)))
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.ContentType)
	h["X-Content-Type-Options"] = headerNosniff
	if a.Immutable {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	_, _ = w.Write(a.Body) // the browser is gone when this fails
}
