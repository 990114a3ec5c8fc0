package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/wire"
)

// ErrSignedOut says that the store holds no session: somebody has to sign in first.
var ErrSignedOut = errors.New("nobody is signed in")

// RejectedError says that the authorization server refused, or had refused before, in
// the words of OAuth. With Ended the session is over and its tokens are deleted: sign in
// again. Without, the server refused this client rather than the session (a wrong
// secret, say): the tokens are kept, and it is the client's configuration that needs a look.
type RejectedError struct {
	Code        string // of RFC 6749 §5.2, or SignedOut
	Description string // the server's, for developers; may be ""
	Ended       bool
}

// Error implements error.
func (e *RejectedError) Error() string {
	switch {
	case e.Code == SignedOut:
		return "the session is over: signed out"
	case e.Ended:
		return "the session is over: the authorization server answered " + e.Code + ": sign in again"
	case e.Description != "":
		return fmt.Sprintf("the authorization server answered %s: %q", e.Code, e.Description)
	}
	return "the authorization server answered " + e.Code
}

// TransientError says that it did not work this time: the network, a server that is
// down or busy, an answer that is not OAuth's, a store that can not be read or written.
// The session is kept; try again later.
type TransientError struct {
	Err        error
	Status     int           // of the answer; 0: there was none
	RetryAfter time.Duration // what the server asked for; 0: nothing
}

// Error implements error.
func (e *TransientError) Error() string { return e.Err.Error() + " (the session is kept)" }

// Unwrap returns the cause.
func (e *TransientError) Unwrap() error { return e.Err }

// Endpoints is where an authorization server is spoken to.
type Endpoints struct {
	Issuer    string // for the check of RFC 9207; "": none
	Authorize string // "": no sign-in
	Token     string // required
	Revoke    string // "": sign-out tells the server nothing
	// NamesIssuer says that authorization answers always carry iss: one without is refused.
	NamesIssuer bool
}

// Discover reads the metadata of an issuer: RFC 8414, or OpenID Connect Discovery where
// there is none. hc nil means a client with Go's defaults. The issuer must be https, or
// http on a loopback address.
func Discover(ctx context.Context, issuer string, hc *http.Client) (Endpoints, error) {
	u, err := secureURL(issuer)
	if err != nil {
		return Endpoints{}, fmt.Errorf("issuer: %w", err)
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base := u.Scheme + "://" + u.Host
	var last error
	for _, at := range []string{
		base + "/.well-known/oauth-authorization-server" + path,
		base + path + "/.well-known/openid-configuration",
	} {
		e, err := metadata(ctx, at, issuer, hc)
		if err == nil {
			return e, nil
		}
		last = err
	}
	return Endpoints{}, fmt.Errorf("metadata of the issuer: %w", last)
}

func metadata(ctx context.Context, at, issuer string, hc *http.Client) (Endpoints, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return Endpoints{}, err
	}
	res, err := straight(hc).Do(req)
	if err != nil {
		return Endpoints{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return Endpoints{}, fmt.Errorf("the answer is %s", res.Status)
	}
	var m struct {
		Issuer    string `json:"issuer"`
		Authorize string `json:"authorization_endpoint"`
		Token     string `json:"token_endpoint"`
		Revoke    string `json:"revocation_endpoint"`

		NamesIssuer bool `json:"authorization_response_iss_parameter_supported"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&m); err != nil {
		return Endpoints{}, fmt.Errorf("the answer is not JSON: %v", err)
	}
	if m.Issuer != issuer {
		// RFC 8414 §3.3: whoever answers for somebody else is an impostor or misconfigured.
		return Endpoints{}, fmt.Errorf("it says issuer %q, not %q", m.Issuer, issuer)
	}
	return Endpoints(m), nil
}

// straight returns the client without redirects: a token goes where it was addressed.
func straight(hc *http.Client) *http.Client {
	c := http.Client{}
	if hc != nil {
		c = *hc
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// secureURL reads a URL to which secrets may be sent: https, or http on loopback.
func secureURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Fragment != "" || u.User != nil {
		return nil, errors.New("it must be an absolute URL without user or fragment")
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return nil, fmt.Errorf("%s://%s is not https (http is for loopback hosts only)", u.Scheme, u.Host)
	}
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

const (
	maxAnswer   = 1 << 20                   // bytes
	maxLifetime = 10 * 365 * 24 * time.Hour // of anything an answer tells the lifetime of
	maxRetry    = 10 * time.Minute          // that a Retry-After is obeyed
)

// post sends a form to the authorization server and reads the answer whole. key is the
// Idempotency-Key; "": none.
func (s *Source) post(ctx context.Context, to string, form url.Values, key string) (*http.Response, []byte, error) {
	if s.conf.ClientSecret == "" || s.conf.SecretInBody {
		form.Set("client_id", s.conf.ClientID)
	}
	if s.conf.ClientSecret != "" && s.conf.SecretInBody {
		form.Set("client_secret", s.conf.ClientSecret)
	}
	ctx, cancel := context.WithTimeout(ctx, s.conf.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if s.conf.ClientSecret != "" && !s.conf.SecretInBody {
		// RFC 6749 §2.3.1: both are form-encoded first.
		req.SetBasicAuth(url.QueryEscape(s.conf.ClientID), url.QueryEscape(s.conf.ClientSecret))
	}
	res, err := s.http.Do(req)
	if err != nil {
		return nil, nil, bare(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, nil, err
	}
	if len(body) > maxAnswer {
		return nil, nil, errors.New("the answer is too long")
	}
	return res, body, nil
}

// bare takes the URL off an error: a query may hold what no log should.
func bare(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// ask sends a grant to the token endpoint. The tokens of the Record are as received:
// RefreshToken may be "". The error is a *RejectedError or a *TransientError.
func (s *Source) ask(ctx context.Context, form url.Values, key string) (Record, error) {
	sent := time.Now()
	res, body, err := s.post(ctx, s.conf.Endpoints.Token, form, key)
	if err != nil {
		return Record{}, &TransientError{Err: fmt.Errorf("ask for tokens: %w", err)}
	}
	now := time.Now()
	r, err := readAnswer(res.StatusCode, res.Header, body, now)
	if err != nil {
		return Record{}, err
	}
	if date, err := http.ParseTime(res.Header.Get("Date")); err == nil && now.Sub(sent) < time.Minute {
		// Date is cut to the second, and the answer was written somewhere between.
		r.Offset, r.Dated = date.Add(time.Second/2).Sub(sent.Add(now.Sub(sent)/2).Round(0)), true
		if abs(int64(r.Offset)) > int64(maxLifetime) {
			r.Offset, r.Dated = 0, false // one of the two clocks was never set
		}
	}
	return r, nil
}

// isRejection tells the error codes with which a server refuses a grant or a client
// (RFC 6749 §5.2, RFC 8707 §2, RFC 9449 §5, RFC 8628 §3.5). Any other body, also of a 400, may
// come from a portal, a proxy, or a server in trouble.
func isRejection(code string) bool {
	switch code {
	case "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
		"invalid_scope", "invalid_target", "invalid_dpop_proof", "access_denied", "expired_token":
		return true
	}
	return false
}

// readAnswer sorts an answer of the token endpoint into its three outcomes.
func readAnswer(status int, h http.Header, body []byte, now time.Time) (Record, error) {
	transient := func(format string, args ...any) error {
		return &TransientError{Err: fmt.Errorf("the token endpoint: "+format, args...), Status: status, RetryAfter: retryAfter(h.Get("Retry-After"), now)}
	}
	kind, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	isJSON := kind == "application/json" || strings.HasSuffix(kind, "+json")
	switch {
	case status == http.StatusBadRequest || status == http.StatusUnauthorized:
		var e wire.Error
		if err := json.Unmarshal(body, &e); err != nil || !isRejection(e.Code) {
			return Record{}, transient("the answer is %d without an error code of OAuth", status)
		}
		return Record{}, &RejectedError{Code: e.Code, Description: e.Description, Ended: e.Code == "invalid_grant"}
	case status != http.StatusOK:
		return Record{}, transient("the answer is %d", status)
	case !isJSON:
		return Record{}, transient("the answer is %.40q instead of JSON: is there a portal in between?", kind)
	}
	var a struct {
		wire.TokenResponse
		ExpiresIn              seconds `json:"expires_in"`
		RefreshTokenTimeout    seconds `json:"refresh_token_timeout"`
		AuthorizationExpiresIn seconds `json:"authorization_expires_in"`
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&a); err != nil {
		return Record{}, transient("the answer is not a token response") // the cause could quote a token
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Record{}, transient("something follows the token response")
	}
	if !sendable(a.AccessToken) || a.RefreshToken != "" && !sendable(a.RefreshToken) {
		return Record{}, transient("the answer has no access token, or one that can not be sent")
	}
	if a.TokenType != "" && !strings.EqualFold(a.TokenType, "Bearer") {
		return Record{}, transient("the token type is not Bearer")
	}
	return Record{Tokens: Tokens{
		AccessToken: a.AccessToken, RefreshToken: a.RefreshToken, IDToken: a.IDToken, Scope: a.Scope,
		Issued: now, Expiry: a.ExpiresIn.after(now),
		SessionExpiry: a.RefreshTokenTimeout.after(now), SessionEnds: a.AuthorizationExpiresIn.after(now),
	}}, nil
}

// sendable tells whether a token can stand in a header (RFC 6750 §2.1 has fewer characters
// still; servers have been seen to use more).
func sendable(token string) bool {
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return false
		}
	}
	return token != ""
}

// seconds reads a lifetime. Servers have been seen to write it as a string, or as a
// number with a fraction.
type seconds time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (s *seconds) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	if text == "null" || text == "" {
		return nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) {
		return errors.New("a lifetime is not a number")
	}
	*s = seconds(min(max(n, 0), maxLifetime.Seconds()) * float64(time.Second))
	return nil
}

// after returns the moment so long after now; zero for no lifetime.
func (s seconds) after(now time.Time) time.Time {
	if s <= 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(s))
}

// retryAfter reads the header (RFC 9110 §10.2.3); 0 for none.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetry)
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(t.Sub(now), 0), maxRetry)
	}
	return 0
}

// revoke tells the server that a token is no longer needed (RFC 7009).
func (s *Source) revoke(ctx context.Context, token string) error {
	if token == "" || s.conf.Endpoints.Revoke == "" {
		return nil
	}
	res, _, err := s.post(ctx, s.conf.Endpoints.Revoke, url.Values{"token": {token}, "token_type_hint": {"refresh_token"}}, "")
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("revoke: the answer is %d", res.StatusCode)
	}
	return nil
}

// isTimeout tells a request that went without an answer from one that failed at once.
func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
