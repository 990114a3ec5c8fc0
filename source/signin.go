package source

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// SignIn is how a command-line or desktop program signs a person in: in the browser, with
// the answer sent to a port of this machine (RFC 8252), PKCE (RFC 7636), a state, and a
// check of who answers (RFC 9207).
type SignIn struct {
	// Scopes is what to ask for; nil: what the server gives by default.
	Scopes []string
	// Params is added to the authorization request: prompt, login_hint, resource, …
	Params url.Values
	// Open shows a URL to the person; nil: OpenBrowser. When it fails SignIn fails, so a program
	// that can only print the URL prints it here and returns nil.
	Open func(url string) error
	// Path of the redirect URI, whose host is 127.0.0.1 and whose port is any that is free; "":
	// /callback. Register http://127.0.0.1/callback.
	Path string
	// Timeout bounds the wait for the person; 0: 5 min.
	Timeout time.Duration
}

// SignInError is the authorization server's refusal of a sign-in (RFC 6749 §4.1.2.1).
type SignInError struct {
	Code        string // access_denied: the person said no
	Description string
}

// Error implements error.
func (e *SignInError) Error() string {
	if e.Code == "access_denied" {
		return "sign in: it was refused in the browser"
	}
	return fmt.Sprintf("sign in: the authorization server answered %.60q %.200q", e.Code, e.Description)
}

// OpenBrowser opens a URL with the system's own command.
func OpenBrowser(u string) error {
	name, args := "xdg-open", []string{}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler"}
	}
	cmd := exec.Command(name, append(args, u)...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("open the browser: %w", err)
	}
	// Some of these commands live as long as the browser does.
	return cmd.Process.Release()
}

// SignIn signs a person in and begins their session; it is durable when it returns nil.
// A session that the store held before is replaced. The listener is closed when it returns.
func (s *Source) SignIn(ctx context.Context, in SignIn) error {
	if s.conf.Endpoints.Authorize == "" {
		return errors.New("sign in: Endpoints.Authorize is empty")
	}
	if in.Timeout == 0 {
		in.Timeout = 5 * time.Minute
	}
	if in.Path == "" {
		in.Path = "/callback"
	}
	if in.Open == nil {
		in.Open = OpenBrowser
	}
	ctx, cancel := context.WithTimeout(ctx, in.Timeout)
	defer cancel()

	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("sign in: listen for the answer: %w", err)
	}
	redirect := "http://" + l.Addr().String() + in.Path
	state, verifier := draw(), draw()
	cb := &callback{host: l.Addr().String(), path: in.Path, state: state, issuer: s.conf.Endpoints.Issuer, names: s.conf.Endpoints.NamesIssuer, got: make(chan url.Values, 1)}
	srv := &http.Server{Handler: cb, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	defer serving.Wait()
	defer func() {
		// The page that says "you may close this window" is still on its way.
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(bye) != nil {
			_ = srv.Close()
		}
	}()

	to, err := authorizeURL(s.conf.Endpoints.Authorize, s.conf.ClientID, redirect, state, verifier, in.Scopes, in.Params)
	if err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	if err := in.Open(to); err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	var v url.Values
	select {
	case v = <-cb.got:
	case <-ctx.Done():
		return fmt.Errorf("sign in: no answer came from the browser: %w", ctx.Err())
	}
	if code := v.Get("error"); code != "" {
		return &SignInError{Code: code, Description: v.Get("error_description")}
	}
	return s.exchange(ctx, v.Get("code"), redirect, verifier)
}

// authorizeURL is an authorization request with PKCE S256.
func authorizeURL(endpoint, clientID, redirect, state, verifier string, scopes []string, more url.Values) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", errors.New("the authorization endpoint is not a URL")
	}
	q := u.Query()
	for k, vs := range more {
		q[k] = vs
	}
	sum := sha256.Sum256([]byte(verifier))
	q.Set("response_type", "code")
	q.Set("client_id", clientID)
	q.Set("redirect_uri", redirect)
	q.Set("state", state)
	q.Set("code_challenge", base64.RawURLEncoding.EncodeToString(sum[:]))
	q.Set("code_challenge_method", "S256")
	if len(scopes) > 0 {
		q.Set("scope", strings.Join(scopes, " "))
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// exchange turns a code into a session. A lost answer is asked for again with the same
// key, which proves to Heirloom that nobody else has the code.
func (s *Source) exchange(ctx context.Context, code, redirect, verifier string) error {
	key := draw()
	for try := 0; ; try++ {
		r, err := s.ask(ctx, url.Values{
			"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier},
		}, key)
		if err == nil {
			return s.begin(ctx, r)
		}
		te, ok := errors.AsType[*TransientError](err)
		if !ok || try == 3 || sleep(ctx, max(te.RetryAfter, firstBackoff<<try/2)) != nil {
			return fmt.Errorf("sign in: %w", err)
		}
	}
}

// callback is the page to which the browser brings the answer.
type callback struct {
	host, path, state, issuer string
	names                     bool            // the issuer always names itself
	got                       chan url.Values // the first answer that is ours
}

// ServeHTTP implements http.Handler. What does not carry our state is a stranger's, and
// does not end the wait for the real answer.
func (c *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer") // the code is in the URL
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	// A page of another name that resolves to this machine must not read the answer.
	if r.Host != c.host || r.URL.Path != c.path || r.Method != http.MethodGet {
		page(w, http.StatusNotFound, "Nothing is here", "This address only waits for the answer to a sign-in.")
		return
	}
	v := r.URL.Query()
	for _, vs := range v {
		if len(vs) > 1 {
			page(w, http.StatusBadRequest, "Sign-in did not work", "The answer names something twice. Go back to the program and start again.")
			return
		}
	}
	// The state is 256 random bits, seen by the browser and the server only; comparing it in
	// variable time on a port that lives for one sign-in tells nobody anything.
	if v.Get("state") != c.state {
		page(w, http.StatusBadRequest, "This is not the sign-in that was started", "Go back to the program and start again.")
		return
	}
	// RFC 9207 §2.4: an answer of another server, mixed up on the way, is not sent anywhere.
	if iss := v.Get("iss"); c.issuer != "" && iss != c.issuer && (iss != "" || c.names) {
		page(w, http.StatusBadRequest, "Another server answered", "The sign-in was not completed. Go back to the program and start again.")
		return
	}
	if v.Get("code") == "" && v.Get("error") == "" {
		page(w, http.StatusBadRequest, "Sign-in did not work", "The answer has neither a code nor an error. Go back to the program and start again.")
		return
	}
	if v.Get("error") != "" {
		page(w, http.StatusOK, "Sign-in was not completed", "You can close this window and go back to the program.")
	} else {
		page(w, http.StatusOK, "You are signed in", "You can close this window and go back to the program.")
	}
	select {
	case c.got <- v:
	default: // the answer is here already: a reload
	}
}

// page writes one of the few texts of this file; nothing in it comes from outside.
func page(w http.ResponseWriter, status int, title, text string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>"+
		title+"</title><h1>"+title+"</h1><p>"+text+"</p></html>")
}
