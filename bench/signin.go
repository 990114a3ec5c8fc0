package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
)

// browser is one person's browser: it keeps cookies, fills in the sign-in form once, and stops at the redirect to the
// client.
type browser struct {
	server *server
	http   *http.Client
}

func newBrowser(s *server) (*browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &browser{s, &http.Client{
		Jar: jar, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// callback is where a native program would listen (RFC 8252 §7.3). Nobody needs to: the browser is ours.
const callback = "http://127.0.0.1:49152/callback"

// grant walks the authorization-code flow with PKCE for a client and returns its first tokens.
func (b *browser) grant(ctx context.Context, clientID, scope string) (refresh, access string, err error) {
	verifier, state := rand.Text()+rand.Text(), rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	at := b.server.Issuer + "/oauth2/authorize?" + url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {callback}, "scope": {scope}, "state": {state},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}.Encode()
	back, err := b.authorize(ctx, at)
	if err != nil {
		return "", "", fmt.Errorf("authorize %s: %w", clientID, err)
	}
	if back.Get("code") == "" || back.Get("state") != state {
		return "", "", fmt.Errorf("authorize %s: no code, or another state: %s %s", clientID, back.Get("error"), back.Get("error_description"))
	}
	form := url.Values{"grant_type": {"authorization_code"}, "code": {back.Get("code")}, "redirect_uri": {callback}, "code_verifier": {verifier}}
	c, err := b.server.client(clientID)
	if err != nil {
		return "", "", err
	}
	if c.Secret == "" {
		form.Set("client_id", clientID)
	}
	req, err := post(ctx, b.server.Issuer+"/oauth2/token", form)
	if err != nil {
		return "", "", err
	}
	if c.Secret != "" {
		req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(c.Secret))
	}
	resp, body, err := b.fetch(req)
	if err != nil {
		return "", "", fmt.Errorf("exchange code: %w", err)
	}
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(body, &tokens); err != nil || resp.StatusCode != http.StatusOK || tokens.Refresh == "" {
		return "", "", fmt.Errorf("exchange code: %s without a refresh token", resp.Status)
	}
	return tokens.Refresh, tokens.Access, nil
}

func post(ctx context.Context, at string, form url.Values) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(form.Encode()))
	if err == nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return req, err
}

// authorize follows pages and redirects until the client gets its answer.
func (b *browser) authorize(ctx context.Context, at string) (url.Values, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	for range 6 {
		resp, page, err := b.fetch(req)
		if err != nil {
			return nil, err
		}
		if to, err := resp.Location(); err == nil {
			if strings.HasPrefix(to.String(), callback+"?") {
				return to.Query(), nil
			}
			if req, err = http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil); err != nil {
				return nil, err
			}
			continue
		}
		form, ok := hidden(string(page))
		if resp.StatusCode != http.StatusOK || !ok {
			return nil, fmt.Errorf("%s: %s, and no sign-in form", req.URL.Path, resp.Status)
		}
		form.Set("username", b.server.Users[0].Username)
		form.Set("password", b.server.Users[0].Password)
		if req, err = post(ctx, b.server.Issuer+"/login", form); err != nil {
			return nil, err
		}
		req.Header.Set("Origin", b.server.Issuer)
	}
	return nil, errors.New("it never came back to the client")
}

func (b *browser) fetch(req *http.Request) (*http.Response, []byte, error) {
	req.Header.Set("User-Agent", "heirloom-bench browser")
	resp, err := b.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

var (
	signInForm  = regexp.MustCompile(`(?s)<form id="sign-in".*?</form>`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

// hidden returns the hidden fields of the sign-in form; false: the page has no such form.
func hidden(page string) (url.Values, bool) {
	form := signInForm.FindString(page)
	fields := url.Values{}
	for _, m := range hiddenField.FindAllStringSubmatch(form, -1) {
		fields.Set(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	return fields, form != ""
}
