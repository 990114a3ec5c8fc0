package server_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/heirloom-auth/heirloom/server"
)

// forPrograms are the endpoints that a browser app calls itself, with their methods.
var forPrograms = map[string]string{
	"/oauth2/token": "POST", "/oauth2/revoke": "POST", "/oauth2/userinfo": "GET, POST", "/oauth2/jwks": "GET, HEAD",
	"/.well-known/openid-configuration": "GET, HEAD", "/.well-known/oauth-authorization-server": "GET, HEAD",
}

// forPeople are the paths that show pages.
var forPeople = []string{"/oauth2/authorize", "/login", "/consent", "/account", "/account/apps", "/account/password", "/account/sessions", "/oauth2/end_session", "/"}

func TestRT_I01_RFC10017_08_BrowserAppsMayCall(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for path, methods := range forPrograms {
			for _, method := range strings.Split(methods, ", ") {
				r := w.sendRaw("OPTIONS", path, "", "", http.Header{"Origin": {"https://spa.example.com"},
					"Access-Control-Request-Method": {method}, "Access-Control-Request-Headers": {"dpop, idempotency-key, content-type, authorization"}})
				h := r.header
				if r.status != 204 || h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Access-Control-Allow-Methods") != methods+", OPTIONS" || h.Get("Access-Control-Max-Age") == "" {
					t.Errorf("the preflight for %s is answered with %d %v", path, r.status, h)
				}
				for _, name := range []string{"DPoP", "Idempotency-Key", "Content-Type", "Authorization"} {
					if !strings.Contains(h.Get("Access-Control-Allow-Headers"), name) {
						t.Errorf("%s: the header %s is not allowed", path, name)
					}
				}
				if h.Get("Access-Control-Allow-Credentials") != "" {
					t.Errorf("%s: credentials are allowed", path)
				}
			}
		}
		first := w.signIn("spa")
		r := w.post("/oauth2/token", http.Header{"Origin": {"https://spa.example.com"}}, "grant_type", "refresh_token", "client_id", "spa", "refresh_token", first.refresh).must(t)
		if r.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("headers are %v", r.header)
		}
	})
}

func TestRT_I02_ForeignOriginsGetNoCredentials(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for path := range forPrograms {
			for _, origin := range []string{"https://evil.example.com", "null", "https://spa.example.com.evil.example.com", ""} {
				for _, method := range []string{"OPTIONS", "GET", "POST"} {
					h := http.Header{}
					if origin != "" {
						h.Set("Origin", origin)
					}
					r := w.sendRaw(method, path, formType, "", h)
					if got := r.header.Get("Access-Control-Allow-Origin"); got != "*" || r.header.Get("Access-Control-Allow-Credentials") != "" {
						t.Errorf("%s %s from %q: allowed origin %q, credentials %q", method, path, origin, got, r.header.Get("Access-Control-Allow-Credentials"))
					}
				}
			}
		}
	})
}

func TestRT_I03_RefusalsCanBeReadByApps(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		readable := func(r reply, status int) {
			t.Helper()
			if r.status != status || r.header.Get("Access-Control-Allow-Origin") != "*" || r.str("error") == "" {
				t.Errorf("answer is %d %v %s, want %d and CORS", r.status, r.header, r.raw, status)
			}
		}
		rt := w.signIn("spa").refresh
		readable(w.refresh("spa", "x"), 400)
		readable(w.refresh("nobody", "x"), 401)
		readable(w.sendRaw("GET", "/oauth2/token", "", "", nil), 405)
		readable(w.sendRaw("POST", "/oauth2/token", "text/plain", "x", nil), 415)
		readable(w.sendRaw("POST", "/oauth2/token", formType, strings.Repeat("x", 70_000), nil), 413)
		readable(w.sendRaw("GET", "/oauth2/userinfo", "", "", nil), 401)
		readable(w.post("/oauth2/revoke", nil, "client_id", "spa"), 400)
		cut.set(func(string) broken { return broken{err: errCut} })
		readable(w.refresh("spa", rt), 503)
		cut.set(func(string) broken { return broken{panics: true} })
		readable(w.refresh("spa", rt), 500)
		cut.set(nil)
		for range 25 {
			w.post("/oauth2/token", nil, "client_id", "web", "client_secret", "wrong", "grant_type", "refresh_token", "refresh_token", rt)
		}
		readable(w.post("/oauth2/token", nil, "client_id", "web", "client_secret", "wrong", "grant_type", "refresh_token", "refresh_token", rt), 429)
		w.refresh("spa", rt).must(t)
	})
}

func TestRT_I04_AppsCanReadWhatTheyNeed(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	for path := range forPrograms {
		got := w.sendRaw("POST", path, formType, "", nil).header.Get("Access-Control-Expose-Headers")
		for _, name := range []string{"DPoP-Nonce", "WWW-Authenticate", "Retry-After"} {
			if !strings.Contains(got, name) {
				t.Errorf("%s exposes %q, without %s", path, got, name)
			}
		}
	}
}

func TestRT_I05_PagesAreForNoOtherOrigin(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.code(newFlow("strict"))
		for _, path := range append(forPeople, newFlow("strict").url(), newFlow("strict", "response_mode", "form_post").url(), "/oauth2/introspect", "/nowhere") {
			for _, method := range []string{"OPTIONS", "GET", "POST", "HEAD"} {
				req, _ := http.NewRequest(method, w.issuer+path, nil)
				req.Header.Set("Origin", "https://spa.example.com")
				req.Header.Set("Access-Control-Request-Method", "POST")
				for _, c := range b.http.Jar.Cookies(req.URL) {
					req.AddCookie(c)
				}
				for name := range w.do(req).header {
					if strings.HasPrefix(name, "Access-Control-") {
						t.Errorf("%s %s has %s", method, path, name)
					}
				}
			}
		}
	})
}

func TestRFC9700_21_NoCORSAtTheAuthorizationEndpoint(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	r := w.sendRaw("OPTIONS", "/oauth2/authorize", "", "", http.Header{"Origin": {"https://spa.example.com"}, "Access-Control-Request-Method": {"GET"}})
	if r.status != 405 || r.header.Get("Access-Control-Allow-Origin") != "" || r.header.Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("the preflight is answered with %d %v", r.status, r.header)
	}
}

func TestRT_I06_RFC6749_16_NothingWithATokenIsCached(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		tok := w.signIn("web")
		fresh := func(what string, r reply) {
			t.Helper()
			if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Pragma") != "no-cache" || r.header.Get("ETag") != "" || r.header.Get("Vary") == "Origin" {
				t.Errorf("%s: headers are %v", what, r.header)
			}
			if r.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s may be sniffed", what)
			}
		}
		next := w.refresh("web", tok.refresh).must(t)
		fresh("refresh", next)
		fresh("refusal", w.refresh("web", "x"))
		fresh("client_credentials", w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials")...).must(t))
		fresh("unknown client", w.refresh("nobody", "x"))
		fresh("method", w.sendRaw("GET", "/oauth2/token", "", "", nil))
		fresh("introspection", w.post("/oauth2/introspect", nil, append(w.as("web"), "token", tok.access)...).must(t))
		fresh("introspection refused", w.post("/oauth2/introspect", nil, "client_id", "strict", "token", tok.access))
		fresh("userinfo", w.sendRaw("GET", "/oauth2/userinfo", "", "", http.Header{"Authorization": {"Bearer " + tok.access}}).must(t))
		fresh("userinfo refused", w.sendRaw("GET", "/oauth2/userinfo", "", "", nil))
		fresh("revocation refused", w.post("/oauth2/revoke", nil, append(w.as("web"), "token", "")...))
		cut.set(func(string) broken { return broken{err: errCut} })
		fresh("unavailable", w.refresh("web", next.str("refresh_token")))
		cut.set(nil)
		fresh("revocation", w.post("/oauth2/revoke", nil, append(w.as("web"), "token", tok.refresh)...))
	})
}

func TestRT_I07_CacheHeadersAreIgnoredAtTheTokenEndpoint(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	rt := w.signIn("leeway").refresh
	h := http.Header{"If-None-Match": {"*"}, "Range": {"bytes=0-3"}, "If-Modified-Since": {"Mon, 02 Jan 2090 15:04:05 GMT"}, "X-HTTP-Method-Override": {"GET"}, "Expect": {""}}
	r := w.post("/oauth2/token", h, "grant_type", "refresh_token", "client_id", "leeway", "refresh_token", rt).must(t)
	if r.str("refresh_token") == "" || r.header.Get("Content-Range") != "" {
		t.Errorf("answer is %v %s", r.header, r.raw)
	}
	if head := w.sendRaw("HEAD", "/oauth2/token", formType, refreshBody("leeway", rt), nil); head.status != 405 || head.raw != "" {
		t.Errorf("HEAD is answered with %d %q", head.status, head.raw)
	}
}

func TestRT_I08_PublicDocumentsAreCacheable(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	maxAge := regexp.MustCompile(`^public, max-age=(\d+)$`)
	for path := range forPrograms {
		if !strings.Contains(path, "jwks") && !strings.Contains(path, "well-known") {
			continue
		}
		r := w.sendRaw("GET", path, "", "", nil).must(t)
		m := maxAge.FindStringSubmatch(r.header.Get("Cache-Control"))
		if m == nil {
			t.Fatalf("%s: Cache-Control is %q", path, r.header.Get("Cache-Control"))
		}
		if n, _ := strconv.Atoi(m[1]); n < 60 || n > 3600 {
			t.Errorf("%s may be kept %d s", path, n)
		}
		etag := r.header.Get("ETag")
		if len(etag) < 4 || etag[0] != '"' {
			t.Errorf("%s: ETag is %q", path, etag)
			continue
		}
		again := w.sendRaw("GET", path, "", "", http.Header{"If-None-Match": {etag}})
		if again.status != 304 || again.raw != "" || again.header.Get("ETag") != etag {
			t.Errorf("%s: a known document is answered with %d %q", path, again.status, again.raw)
		}
		if other := w.sendRaw("GET", path, "", "", http.Header{"If-None-Match": {`"another"`}}); other.status != 200 {
			t.Errorf("%s: another version is answered with %d", path, other.status)
		}
	}
}

func TestRT_I09_CookiesMeanNothingToPrograms(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("web")
		tok := w.exchange(f, b.code(f)).must(t).tokens()
		w.untouched(tok.refresh, func() {
			for path, v := range map[string]url.Values{
				"/oauth2/token":      {"grant_type": {"refresh_token"}, "refresh_token": {tok.refresh}},
				"/oauth2/revoke":     {"token": {tok.refresh}},
				"/oauth2/introspect": {"token": {tok.refresh}},
			} {
				for _, id := range []string{"", "web"} {
					if id != "" {
						v.Set("client_id", id)
					}
					req, _ := http.NewRequest("POST", w.issuer+path, strings.NewReader(v.Encode()))
					req.Header.Set("Content-Type", formType)
					req.Header.Set("Origin", "https://evil.example.com")
					req.Header.Set("Sec-Fetch-Site", "cross-site")
					for _, c := range b.http.Jar.Cookies(req.URL) {
						req.AddCookie(c)
					}
					if len(req.Cookies()) == 0 {
						t.Fatal("the browser has no cookie")
					}
					r := w.do(req)
					r.errs(t, 401, "invalid_client")
					if r.header.Get("Set-Cookie") != "" {
						t.Errorf("%s sets a cookie", path)
					}
				}
			}
			req, _ := http.NewRequest("GET", w.issuer+"/oauth2/userinfo", nil)
			for _, c := range b.http.Jar.Cookies(req.URL) {
				req.AddCookie(c)
			}
			if r := w.do(req); r.status != 401 {
				t.Errorf("userinfo is answered with %d to a cookie", r.status)
			}
		})
	})
}

// TestRFC6749_26_PostsFromOtherSitesDoNothing walks every form that changes something.
func TestRFC6749_26_PostsFromOtherSitesDoNothing(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("third")
		tok := w.exchange(f, b.code(f)).must(t).tokens()
		fam, err := w.store.Client(t.Context(), "third")
		if err != nil {
			t.Fatal(err)
		}
		attacks := map[string]url.Values{
			"/login":              {"username": {bobName}, "password": {bobPassword}, "continue": {"/account"}},
			"/consent":            {"decision": {"allow"}, "continue": {newFlow("third").url()}},
			"/account/sessions":   {"end": {"all"}},
			"/account/apps":       {"client": {fam.ID}, "remove": {fam.ID}},
			"/account/password":   {"current_password": {alicePassword}, "new_password": {"a new long password"}},
			"/oauth2/end_session": {"decision": {"sign_out"}},
		}
		before := w.user(aliceName)
		w.untouched(tok.refresh, func() {
			for path, v := range attacks {
				for name, h := range map[string]http.Header{
					"cross-site":     {"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example.com"}},
					"same-site":      {"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://127.0.0.1:1"}},
					"old browser":    {"Origin": {"https://evil.example.com"}},
					"sandboxed":      {"Sec-Fetch-Site": {"cross-site"}, "Origin": {"null"}},
					"old, sandboxed": {"Origin": {"null"}},
				} {
					req, _ := http.NewRequest("POST", w.issuer+path, strings.NewReader(v.Encode()))
					req.Header = h.Clone()
					req.Header.Set("Content-Type", formType)
					for _, c := range b.http.Jar.Cookies(req.URL) {
						req.AddCookie(c)
					}
					r := w.do(req)
					if path == "/oauth2/end_session" {
						// Clients may send people here by POST: it asks, and does nothing.
						if r.status != 200 || !strings.Contains(r.raw, `name="decision"`) {
							t.Errorf("%s, %s: answer is %d", path, name, r.status)
						}
					} else if r.status != 403 || r.header.Get("Location") != "" {
						t.Errorf("%s, %s: answer is %d %v, want 403", path, name, r.status, r.header)
					}
					if r.header.Get("Set-Cookie") != "" || r.header.Get("Content-Security-Policy") == "" {
						t.Errorf("%s, %s: headers are %v", path, name, r.header)
					}
				}
			}
		})
		if after := w.user(aliceName); after.Version != before.Version {
			t.Error("the user was changed")
		}
		if p := b.get("/account"); p.status != 200 || !strings.Contains(p.body, aliceName) {
			t.Errorf("alice is not signed in any more: %d", p.status)
		}
		// Proof that the same form from our own page does something.
		if p := b.post("/oauth2/end_session", attacks["/oauth2/end_session"]); p.status != 200 || b.get("/account").status != 303 {
			t.Errorf("the page's own form is answered with %d", p.status)
		}
	})
}

// TestRFC9700_18_NoPageCanBeFramed is also the other half of 6749-26.
func TestRFC9700_18_NoPageCanBeFramed(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	framed := func(what string, h http.Header) {
		t.Helper()
		csp := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, part) {
				t.Errorf("%s: the policy %q has no %s", what, csp, part)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
			t.Errorf("%s: the policy is %q", what, csp)
		}
		if h.Get("X-Frame-Options") != "DENY" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers are %v", what, h)
		}
	}
	pages := 0
	look := func(path string) {
		t.Helper()
		p := b.get(path)
		if strings.HasPrefix(p.header.Get("Content-Type"), "text/html") {
			pages++
			framed(path, p.header)
		}
	}
	look("/login")
	look("/oauth2/authorize?client_id=nobody")
	look("/oauth2/authorize")
	b.code(newFlow("strict"))
	f := newFlow("third")
	look("/consent?" + f.params.Encode())
	for _, path := range append(forPeople, newFlow("strict", "response_mode", "form_post").url(), "/oauth2/end_session?post_logout_redirect_uri=https://evil.example.com") {
		look(path)
	}
	if r := w.sendRaw("DELETE", "/oauth2/authorize", "", "", nil); r.status != 405 {
		t.Errorf("DELETE is answered with %d", r.status)
	} else {
		framed("method", r.header)
	}
	if pages < 11 {
		t.Errorf("%d pages were looked at", pages)
	}
}

func TestRFC9700_16_NoMessageToAnyOrigin(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	p := b.get("/login")
	if strings.Contains(p.body, "<script>") || regexp.MustCompile(`\son[a-z]+=`).MatchString(p.body) {
		t.Error("the sign-in page has inline script")
	}
	b.code(newFlow("strict"))
	p = b.get(newFlow("strict", "response_mode", "form_post").url())
	m := regexp.MustCompile(`<script src="([^"]+)"`).FindStringSubmatch(p.body)
	if m == nil {
		t.Fatalf("no script on %s", p.body)
	}
	js := b.get(m[1])
	if js.status != 200 || len(js.body) == 0 || strings.Contains(js.body, "postMessage") || strings.Contains(js.body, "innerHTML") {
		t.Errorf("%s is %d %q", m[1], js.status, js.body)
	}
}

func TestHTTPSCookiesArePinnedToTheHost(t *testing.T) {
	w := newWorld(t, engines["memory"], func(c *server.Config) { c.Issuer = "https://" + strings.TrimPrefix(c.Issuer, "http://") })
	req, _ := http.NewRequest("POST", w.issuer+"/login", strings.NewReader(url.Values{"username": {aliceName}, "password": {alicePassword}}.Encode()))
	req.Header.Set("Content-Type", formType)
	r := w.do(req)
	if r.status != 303 || len(r.header["Set-Cookie"]) == 0 {
		t.Fatalf("the sign-in is answered with %d %s", r.status, r.raw)
	}
	for _, c := range r.header["Set-Cookie"] {
		for _, part := range []string{"__Host-heirloom", "; Path=/", "; HttpOnly", "; Secure", "; SameSite=Lax"} {
			if !strings.Contains(c, part) {
				t.Errorf("the cookie %.30q has no %s", c, part)
			}
		}
		if strings.Contains(c, "Domain=") {
			t.Error("the cookie goes to other hosts")
		}
	}
}
