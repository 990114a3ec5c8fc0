// Package demo is what `heirloom serve --dev` shows under /demo/: an API that asks the
// server about every access token it is given, and a single-page app that lives on that
// API and can play the thief of its own refresh token. It is a client of the server like
// any other: it speaks HTTP to the issuer and knows no store, key or family state.
package demo

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

//go:embed app
var files embed.FS

// Config is what the demo needs to know. Everything but Leeway and Log is required.
type Config struct {
	Issuer   string // the server's issuer, without a slash at the end
	ClientID string // the public client that the app is; it redirects to Issuer + "/demo/", and returns there from sign-out

	IntrospectID     string // the confidential client that asks about tokens for the API
	IntrospectSecret string
	APIURL           string // the API's own URL and the audience it insists on: Issuer + "/demo/api"

	// Leeway of ClientID's policy, which the app counts down for the person who plays
	// the thief. 0: 30 s, as in the preset browser; negative: none.
	Leeway time.Duration

	Log *slog.Logger // failures of the API's questions; nil: none
}

func (c Config) check() (base string, err error) {
	for _, f := range []struct{ name, value string }{
		{"Issuer", c.Issuer}, {"ClientID", c.ClientID}, {"IntrospectID", c.IntrospectID}, {"IntrospectSecret", c.IntrospectSecret},
	} {
		if f.value == "" {
			return "", errors.New("demo: " + f.name + " is not set")
		}
	}
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Host == "" || strings.HasSuffix(c.Issuer, "/") {
		return "", fmt.Errorf("demo: Issuer is %q: write an absolute URL without a slash at the end", c.Issuer)
	}
	if want := c.Issuer + "/demo/api"; c.APIURL != want {
		return "", fmt.Errorf("demo: APIURL is %q: the API is served at %q", c.APIURL, want)
	}
	return u.Path, nil
}

// Handler serves the app and the API. Requests must still carry the issuer's path and
// /demo/. It is safe for many goroutines and starts none.
func Handler(c Config) (http.Handler, error) {
	base, err := c.check()
	if err != nil {
		return nil, err
	}
	switch {
	case c.Leeway == 0:
		c.Leeway = 30 * time.Second
	case c.Leeway < 0:
		c.Leeway = 0
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	html, err := page(c, base)
	if err != nil {
		return nil, fmt.Errorf("demo: page: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(base+"/demo/api", newAPI(c))
	mux.Handle("GET "+base+"/demo/{$}", file("text/html; charset=utf-8", html))
	for name, kind := range map[string]string{"app.js": "text/javascript; charset=utf-8", "app.css": "text/css; charset=utf-8"} {
		body, err := files.ReadFile("app/" + name)
		if err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
		mux.Handle("GET "+base+"/demo/"+name, file(kind, body))
	}
	return mux, nil
}

func page(c Config, base string) ([]byte, error) {
	t, err := template.ParseFS(files, "app/index.html")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]string{
		"Base": base, "Issuer": c.Issuer, "ClientID": c.ClientID, "API": c.APIURL,
		"Leeway": strconv.FormatInt(c.Leeway.Milliseconds(), 10),
	})
	return b.Bytes(), err
}

// policy lets the app load its own files and speak to its own origin, and nothing else:
// whoever gets a script into this page gets the tokens.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

// file serves bytes that only change with the program.
func file(kind string, body []byte) http.Handler {
	sum := sha256.Sum256(body)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		// The page's address carries a code when the person comes back from sign-in.
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	})
}
