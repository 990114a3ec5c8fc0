package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/server/page"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
	"github.com/heirloom-auth/heirloom/wire"
)

// authRequest is an authorization request that has been read and found to make sense.
type authRequest struct {
	form      form // as it came
	party     *known
	redirect  string
	sentURI   bool // redirect_uri was in the request
	state     string
	mode      string // "query" or "form_post"
	scope     family.Scope
	resources []string
	nonce     string
	challenge string
	prompt    []string
	maxAge    time.Duration // -1: not asked for
	hintSub   string        // sub of the id_token_hint, "" = none
	loginHint string
	claims    string
	parsed    claimsRequest
	since     time.Time // when this browser first came with a request that wants a new sign-in; zero: not proven
}

// pageError is a failure that is shown to the person and never redirected: the client
// or its redirect URI can not be trusted (RFC 6749 §4.1.2.1).
type pageError struct {
	status int
	view   page.Error
}

func (e *pageError) Error() string { return e.view.Title }

// badRequest is a request that the person can do nothing about.
func badRequest(detail string) error {
	return &pageError{http.StatusBadRequest, page.BadRequest(detail, "")}
}

// authError is a failure that the client is told by redirect.
type authError struct{ code, text string }

func (e *authError) Error() string { return e.code + ": " + e.text }

// sinceParam carries the proof of when a request first arrived. It is ours: clients
// that send it get nothing from it, for it is authenticated.
const sinceParam = "heirloom_since"

// maxQuery bounds an authorization request, in bytes.
const maxQuery = 32 << 10

// readAuthRequest reads the parameters of a GET or POST (OpenID Connect Core §3.1.2.1).
func readAuthRequest(r *http.Request) (form, error) {
	malformed := badRequest("the parameters are malformed, too many, too long or there twice")
	text := r.URL.RawQuery
	if r.Method == http.MethodPost {
		if checkFormType(r.Header) != nil {
			return nil, malformed
		}
		body, err := readBody(r)
		if err != nil {
			return nil, malformed
		}
		text = string(body)
	}
	if len(text) > maxQuery {
		return nil, malformed
	}
	f, err := parseForm(text)
	if err != nil {
		return nil, malformed
	}
	return f, nil
}

// authRequest checks a request. A *pageError is shown, an *authError is redirected; in
// the latter case the request has client, redirect URI, state and mode.
func (s *Server) authRequest(ctx context.Context, f form) (*authRequest, error) {
	q := &authRequest{form: f, maxAge: -1, mode: "query"}
	id := f.get("client_id")
	if id == "" {
		return nil, badRequest("client_id is missing")
	}
	k, err := s.party(ctx, id)
	if errors.Is(err, family.ErrNotFound) {
		return nil, &pageError{http.StatusBadRequest, page.UnknownClient("")}
	}
	if err != nil {
		return nil, err
	}
	if k.Status != client.Enabled {
		return nil, &pageError{http.StatusForbidden, page.Error{Title: "This app is switched off",
			Sentence: "Its administrator has disabled it here.", Next: "Ask whoever runs the app.", Code: "unauthorized_client"}}
	}
	q.party = k
	q.redirect = f.get("redirect_uri")
	q.sentURI = q.redirect != ""
	if !q.sentURI {
		if len(k.RedirectURIs) != 1 {
			return nil, badRequest("redirect_uri is missing, and the client has not exactly one")
		}
		q.redirect = k.RedirectURIs[0]
	} else if !k.Redirects(q.redirect) {
		return nil, &pageError{http.StatusBadRequest, page.BadRedirect("")}
	}
	q.state = f.get("state")
	switch f.get("response_mode") {
	case "", "query":
	case "form_post":
		if !strings.HasPrefix(q.redirect, "https://") && !strings.HasPrefix(q.redirect, "http://") {
			return q, &authError{"invalid_request", "a private-use scheme can not receive a form"}
		}
		q.mode = "form_post"
	default:
		return q, &authError{"invalid_request", "response_mode must be query or form_post"}
	}
	return q, s.checkAuthRequest(ctx, q)
}

// checkAuthRequest checks what the client may be told about.
func (s *Server) checkAuthRequest(ctx context.Context, q *authRequest) error {
	f, k := q.form, q.party
	switch rt := f.get("response_type"); {
	case rt == "":
		return &authError{"invalid_request", "response_type is missing"}
	case rt != "code":
		return &authError{"unsupported_response_type", "response_type must be code"}
	case f.get("request") != "":
		return &authError{"request_not_supported", "request objects are not supported"}
	case f.get("request_uri") != "":
		return &authError{"request_uri_not_supported", "request_uri is not supported"}
	case f.get("registration") != "":
		return &authError{"registration_not_supported", "registration is not supported"}
	case !k.May(client.AuthorizationCode):
		return &authError{"unauthorized_client", "the client is not registered for authorization_code"}
	}
	q.challenge = f.get("code_challenge")
	switch method := f.get("code_challenge_method"); {
	case q.challenge == "" && !k.WithoutPKCE:
		return &authError{"invalid_request", "code_challenge is missing (RFC 7636 section 4.4.1)"}
	case q.challenge == "" && method != "":
		return &authError{"invalid_request", "code_challenge_method without code_challenge"}
	case q.challenge != "" && method != "S256":
		return &authError{"invalid_request", "code_challenge_method must be S256"}
	case q.challenge != "" && !wellFormedChallenge(q.challenge):
		return &authError{"invalid_request", "code_challenge must be the base64url of a SHA-256 digest, 43 characters"}
	}
	asked, err := family.ParseScope(f.get("scope"))
	if err != nil {
		return &authError{"invalid_scope", "the scope is malformed"}
	}
	// What is not understood or not allowed is left out, and the token response says
	// what was granted (OpenID Connect Core §3.1.2.1, RFC 6749 §3.3).
	q.scope = asked.And(k.scope)
	if q.scope == "" && asked != "" {
		return &authError{"invalid_scope", "the client may have none of these scopes"}
	}
	for _, res := range f.all("resource") {
		i := slices.IndexFunc(slices.Concat(k.Audience, k.Resources), func(have string) bool { return sameResource(have, res) })
		if client.CheckResource(res) != nil || i < 0 {
			return &authError{"invalid_target", "the resource is malformed or not one of this client's"}
		}
		if have := slices.Concat(k.Audience, k.Resources)[i]; !slices.Contains(q.resources, have) {
			q.resources = append(q.resources, have)
		}
	}
	if q.nonce = f.get("nonce"); len(q.nonce) > 1024 {
		return &authError{"invalid_request", "nonce is longer than 1024 bytes"}
	}
	q.prompt = strings.Fields(f.get("prompt"))
	for _, p := range q.prompt {
		if !slices.Contains([]string{"none", "login", "consent", "select_account"}, p) {
			return &authError{"invalid_request", "prompt must be none, login, consent or select_account"}
		}
	}
	if slices.Contains(q.prompt, "none") && len(q.prompt) > 1 {
		return &authError{"invalid_request", "prompt none stands alone"}
	}
	if text := f.get("max_age"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return &authError{"invalid_request", "max_age must be a number of seconds"}
		}
		q.maxAge = time.Duration(n) * time.Second
	}
	q.claims = f.get("claims")
	if q.parsed, err = parseClaims(q.claims); err != nil {
		return &authError{"invalid_request", "claims must be the JSON object of OpenID Connect Core section 5.5"}
	}
	for _, acr := range q.parsed.essentialACR() {
		if acr != acrPassword {
			return &authError{"unmet_authentication_requirements", "this acr can not be reached here"}
		}
	}
	q.hintSub = q.parsed.wantedSub()
	if hint := f.get("id_token_hint"); hint != "" {
		claims, err := s.idTokenHint(hint)
		if err != nil {
			return &authError{"invalid_request", "id_token_hint is not an ID token of this server"}
		}
		q.hintSub = claims.Subject
	}
	if q.loginHint = f.get("login_hint"); len(q.loginHint) > 256 {
		q.loginHint = ""
	}
	q.since = s.readSince(f)
	return nil
}

// acrPassword is the authentication context class of a password sign-in: RFC 6711's
// "no particular confidence", which is all a password alone gives.
const acrPassword = "0"

func wellFormedChallenge(c string) bool {
	if len(c) != 43 {
		return false
	}
	_, err := base64.RawURLEncoding.Strict().DecodeString(c)
	return err == nil
}

// hintClaims is what is read of an id_token_hint.
type hintClaims struct {
	Issuer   string        `json:"iss"`
	Subject  string        `json:"sub"`
	Audience wire.Audience `json:"aud"`
	Session  string        `json:"sid"`
}

// idTokenHint reads an ID token of ours; it may have expired.
func (s *Server) idTokenHint(token string) (hintClaims, error) {
	var h hintClaims
	raw, err := s.conf.Keys.Verify(token, wire.TypeIDToken)
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return h, errors.New("claims are not JSON")
	}
	if h.Issuer != s.conf.Issuer || h.Subject == "" {
		return h, errors.New("not an ID token of this server")
	}
	return h, nil
}

// authorize is the authorization endpoint (RFC 6749 §3.1).
func (s *Server) authorize(w http.ResponseWriter, r *http.Request, c *call) error {
	if r.Method == http.MethodHead {
		// It would issue a code that nobody reads.
		w.Header().Set("Allow", "GET, POST")
		return &pageError{http.StatusMethodNotAllowed, page.BadRequest("the method is not GET or POST", "")}
	}
	f, err := readAuthRequest(r)
	if err != nil {
		return err
	}
	q, err := s.authRequest(r.Context(), f)
	if err != nil {
		return s.authFailed(w, r, c, q, err)
	}
	c.client = q.party.ID
	return s.proceed(w, r, c, q, nil)
}

// authFailed tells the client by redirect, or the person by a page.
func (s *Server) authFailed(w http.ResponseWriter, r *http.Request, c *call, q *authRequest, err error) error {
	var ae *authError
	if q == nil || !errors.As(err, &ae) {
		return err
	}
	c.client = q.party.ID
	return s.respond(w, r, q, form{{"error", ae.code}, {"error_description", ae.text}})
}

// proceed goes on with a request as far as it can: to the sign-in page, to the consent
// page, or back to the client with a code. agreed is what the person has just allowed;
// nil: nothing was asked yet.
func (s *Server) proceed(w http.ResponseWriter, r *http.Request, c *call, q *authRequest, agreed *user.Consent) error {
	ctx := r.Context()
	now, err := s.conf.Store.Now(ctx)
	if err != nil {
		return err
	}
	who, err := s.who(r)
	if err != nil {
		return err
	}
	silent := slices.Contains(q.prompt, "none")
	if s.needsSignIn(q, who, now.Std()) {
		if silent {
			return s.authFailed(w, r, c, q, &authError{"login_required", "the user is not signed in"})
		}
		return s.toSignIn(w, r, q, now)
	}
	c.user = string(who.user.ID)
	if q.hintSub != "" && q.hintSub != string(who.user.ID) {
		if silent {
			return s.authFailed(w, r, c, q, &authError{"login_required", "another user is signed in"})
		}
		if !q.since.IsZero() {
			// They signed in again and are still somebody else.
			return s.authFailed(w, r, c, q, &authError{"login_required", "another user is signed in"})
		}
		return s.toSignIn(w, r, q, now)
	}
	if agreed == nil {
		need, err := s.needsConsent(ctx, q, who.user.ID)
		if err != nil {
			return err
		}
		if need {
			if silent {
				return s.authFailed(w, r, c, q, &authError{"consent_required", "the user has to agree first"})
			}
			http.Redirect(w, r, s.path("/consent")+"?"+q.form.encode(), http.StatusSeeOther)
			return nil
		}
	}
	return s.grant(w, r, c, q, who, now)
}

// needsSignIn says whether the person has to show who they are before this request can
// be answered.
func (s *Server) needsSignIn(q *authRequest, who *signedIn, now time.Time) bool {
	if who == nil {
		return true
	}
	age := now.Sub(who.session.AuthTime)
	// The address with the proof stays in the browser's history: once the sign-in that it
	// led to is not new any more, it is worth nothing.
	fresh := !q.since.IsZero() && !who.session.AuthTime.Before(q.since) && age <= freshFor
	if (slices.Contains(q.prompt, "login") || slices.Contains(q.prompt, "select_account")) && !fresh {
		return true
	}
	return q.maxAge >= 0 && !fresh && age > q.maxAge
}

// freshFor is how long after a sign-in the request that asked for it may be answered: the
// time for a consent page.
const freshFor = 10 * time.Minute

// toSignIn sends the browser to the sign-in page, from where it comes back with the
// same request and a proof of when it first came.
func (s *Server) toSignIn(w http.ResponseWriter, r *http.Request, q *authRequest, now family.Time) error {
	back := q.form
	if q.since.IsZero() {
		back = q.form.with(sinceParam, s.makeSince(q.form, now))
	}
	next := form{{"continue", s.path("/oauth2/authorize") + "?" + back.encode()}}
	http.Redirect(w, r, s.path("/login")+"?"+next.encode(), http.StatusSeeOther)
	return nil
}

const sincePurpose = "heirloom authorization request since v1"

// sinceMessage is what the proof covers: the time and the whole rest of the request.
func sinceMessage(f form, at family.Time) []byte {
	sum := sha256.Sum256([]byte(f.without(sinceParam).encode()))
	return binary.BigEndian.AppendUint64(sum[:], uint64(at))
}

func (s *Server) makeSince(f form, now family.Time) string {
	key := s.conf.Keys.MACKey()
	tag, _ := s.conf.Keys.MAC(key, sincePurpose, sinceMessage(f, now)) // the ring's own newest key exists
	return strconv.FormatInt(int64(now), 36) + "." + strconv.Itoa(int(key)) + "." + base64.RawURLEncoding.EncodeToString(tag[:])
}

// readSince returns the proven time, or zero.
func (s *Server) readSince(f form) time.Time {
	parts := strings.Split(f.get(sinceParam), ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	at, err1 := strconv.ParseInt(parts[0], 36, 64)
	key, err2 := strconv.ParseUint(parts[1], 10, 16)
	raw, err3 := base64.RawURLEncoding.DecodeString(parts[2])
	if err1 != nil || err2 != nil || err3 != nil || len(raw) != 32 {
		return time.Time{}
	}
	if !s.conf.Keys.CheckMAC(uint16(key), sincePurpose, sinceMessage(f, family.Time(at)), (*[32]byte)(raw)) {
		return time.Time{}
	}
	return family.Time(at).Std()
}

// needsConsent says whether a third-party client needs the person's word.
func (s *Server) needsConsent(ctx context.Context, q *authRequest, id user.ID) (bool, error) {
	if q.party.FirstParty {
		return false, nil
	}
	if slices.Contains(q.prompt, "consent") {
		return true, nil
	}
	// Whatever runs at a loopback port or owns a private scheme can pretend to be a
	// native app that was trusted once (RFC 8252 §8.6).
	if !strings.HasPrefix(q.redirect, "https://") && !q.party.Confidential() {
		return true, nil
	}
	have, err := s.conf.Store.Consent(ctx, id, q.party.ID)
	if errors.Is(err, family.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if !q.scope.Within(family.Scope(have.Scope)) {
		return true, nil
	}
	for _, res := range q.resources {
		if !slices.Contains(have.Resources, res) {
			return true, nil
		}
	}
	return false, nil
}

// grant makes a new family and sends its code to the client.
func (s *Server) grant(w http.ResponseWriter, r *http.Request, c *call, q *authRequest, who *signedIn, now family.Time) error {
	k, se := q.party, who.session
	// Issued after any cut-off, also within its millisecond.
	now = max(now, family.At(who.user.NotBefore)+1, family.At(k.NotBefore)+1)
	g := &family.Grant{
		Client: k.ID, User: string(who.user.ID), Session: [16]byte(se.ID),
		// A browser app's family ends with the session in any case (RFC 10017 §6.3.2.3).
		Offline:   q.scope.Has("offline_access") && k.Preset != "browser",
		Confident: k.Confidential(),
		Scope:     q.scope, Resources: q.resources,
		AuthTime: family.At(se.AuthTime), ACR: se.ACR, AMR: se.AMR,
		Nonce: q.nonce, Claims: q.claims, RedirectURI: q.redirect, SentURI: q.sentURI, Challenge: q.challenge,
	}
	var err error
	if g.Place, err = s.places.take(r.Context(), s.conf.Store); err != nil {
		return err
	}
	var until family.Time
	if !g.Offline {
		until = family.At(se.Ends)
	}
	if !k.May(client.RefreshToken) {
		// Nothing of it can be alive longer than its one access token.
		if end := now.Add(k.policy.CodeTTL + k.policy.AccessTTL); until == 0 || end < until {
			until = end
		}
	}
	var id family.ID
	rand.Read(id[:]) // never fails: the runtime ends the program instead
	key := s.conf.Keys.MACKey()
	st := family.New(id, k.policy, now, g, key, until, c.from)
	code, ok := family.Mint(key, family.Token{Family: id}, s.conf.Keys.MAC)
	if !ok {
		return errors.New("mint code: there is no MAC key")
	}
	e := st.EventFor(family.FamilyIssued, family.Issued, family.Token{Family: id}, c.from)
	e.Request = c.id
	if err := s.conf.Store.Create(r.Context(), st, e); err != nil {
		return err
	}
	c.family, c.reason = id, family.Issued
	return s.respond(w, r, q, form{{"code", code}})
}

// respond sends the browser back to the client with a result, the client's state and
// our name (RFC 9207).
func (s *Server) respond(w http.ResponseWriter, r *http.Request, q *authRequest, result form) error {
	if q.state != "" {
		result = append(result, param{"state", q.state})
	}
	result = append(result, param{"iss", s.conf.Issuer})
	w.Header()["Cache-Control"] = headerNoStore
	if q.mode == "form_post" {
		return s.showFormPost(w, q, result)
	}
	sep := "?"
	if strings.Contains(q.redirect, "?") {
		sep = "&"
	}
	// 303 also after a POST of credentials: nothing may be sent on (RFC 9700 §4.12).
	w.Header().Set("Location", q.redirect+sep+result.encode())
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// signedIn is the person at a browser.
type signedIn struct {
	session session.Session
	user    user.User
}
