package server_test

import (
	"crypto/sha256"
	"encoding/base64"
	"html"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
)

// answered reads what a page tells the client, by redirect or by form.
func (p shownPage) answered(t testing.TB, redirect string) url.Values {
	t.Helper()
	if p.status == 200 && strings.Contains(p.body, `id="form-post"`) {
		if !strings.Contains(p.body, `action="`+html.EscapeString(redirect)+`"`) {
			t.Fatalf("the form does not lead to %s: %s", redirect, p.body)
		}
		v := url.Values{}
		for _, m := range hidden.FindAllStringSubmatch(p.body, -1) {
			v.Add(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
		}
		return v
	}
	if p.status != 303 || !strings.HasPrefix(p.location, redirect) {
		t.Fatalf("the browser is sent with %d to %q, want 303 to %s", p.status, p.location, redirect)
	}
	u, err := url.Parse(p.location)
	if err != nil {
		t.Fatal(err)
	}
	v, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// onlyPage fails the test unless the person is shown a failure and sent nowhere.
func (p shownPage) onlyPage(t testing.TB, what string) {
	t.Helper()
	if p.status != 400 || p.location != "" || !strings.Contains(p.body, `id="error"`) || strings.Contains(p.body, "evil") {
		t.Errorf("%s: the browser shows %d, Location %q", what, p.status, p.location)
	}
}

func TestRFC6749_01_BasicCredentialsAreURLEncodedFirst(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, secret := range []string{"colon:percent%plus+space and-é-and-日本-more", strings.Repeat("%41+:", 10), "plain-0123456789-0123456789-0123456789"} {
			w.updateClient("web", func(c *client.Client) { c.Secrets = []client.Hash{client.HashSecret(secret, time.Now())} })
			send := func(credentials string) reply {
				h := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))}}
				return w.post("/oauth2/token", h, "grant_type", "client_credentials")
			}
			send(url.QueryEscape("web") + ":" + url.QueryEscape(secret)).must(t)
			send("%77eb:" + strings.ReplaceAll(url.QueryEscape(secret), "+", "%20")).must(t)
			w.post("/oauth2/token", nil, "grant_type", "client_credentials", "client_id", "web", "client_secret", secret).must(t)
			if strings.ContainsAny(secret, "%+") {
				send("web:"+secret).errs(t, 401, "invalid_client")
			}
		}
	})
}

func TestRFC6749_02_OneWayToAuthenticate(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	basic := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("web:"+w.secret["web"]))}}
	w.post("/oauth2/token", basic, "grant_type", "client_credentials").must(t)
	w.post("/oauth2/token", basic, "grant_type", "client_credentials", "client_id", "web").must(t)
	w.post("/oauth2/token", basic, "grant_type", "client_credentials", "client_secret", w.secret["web"]).errs(t, 400, "invalid_request")
	w.post("/oauth2/token", basic, "grant_type", "client_credentials", "client_assertion", "x").errs(t, 401, "invalid_client")
	w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials", "client_assertion", "x", "client_assertion_type", "y")...).errs(t, 401, "invalid_client")
}

func TestRFC6749_03_NoCredentialsInTheURL(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	w.sendRaw("POST", "/oauth2/token?client_id=web&client_secret="+w.secret["web"], formType, "grant_type=client_credentials", nil).errs(t, 400, "invalid_request")
	if strings.Contains(w.logs.String(), w.secret["web"]) {
		t.Error("the secret is in the log")
	}
}

func TestRFC6749_05_AuthorizationParameters(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.code(newFlow("strict"))
		for _, name := range []string{"response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge", "code_challenge_method", "prompt", "max_age", "claims", "login_hint", "unknown"} {
			f := newFlow("strict")
			if f.params.Get(name) == "" {
				f.params.Set(name, map[string]string{"max_age": "100", "claims": "{}", "prompt": "login"}[name]+"")
			}
			v := f.params.Get(name)
			b.get("/oauth2/authorize?"+f.params.Encode()+"&"+name+"="+url.QueryEscape(v)).onlyPage(t, name+" twice")
			b.get("/oauth2/authorize?"+f.params.Encode()+"&"+name+"=other").onlyPage(t, name+" twice, different")
		}
		// Empty counts as left out; unknown is ignored; both methods.
		for _, method := range []string{"GET", "POST"} {
			f := newFlow("strict", "scope", "openid read")
			more := "&prompt=&max_age=&claims=&response_mode=&request=&request_uri=&id_token_hint=&acr_values=&display=&unknown=1&resource="
			var p shownPage
			if method == "GET" {
				p = b.get(f.url() + more)
			} else {
				v, _ := url.ParseQuery(f.params.Encode() + more)
				p = b.post("/oauth2/authorize", v)
			}
			if v := p.answered(t, f.redirect); v.Get("code") == "" || v.Get("state") != f.state {
				t.Errorf("%s: the client is told %v", method, v)
			}
		}
		for name, want := range map[string]string{"response_type": "invalid_request", "code_challenge": "invalid_request", "code_challenge_method": "invalid_request"} {
			f := newFlow("strict", name, "")
			if v := b.get(f.url()+"&"+name+"=").answered(t, f.redirect); v.Get("error") != want {
				t.Errorf("%s empty: the client is told %v", name, v)
			}
		}
		for _, name := range []string{"client_id"} {
			f := newFlow("strict", name, "")
			b.get(f.url()+"&"+name+"=").onlyPage(t, name+" empty")
		}
	})
}

func TestRFC6749_11_NoScopeIsTheEmptyScope(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		f := newFlow("strict", "scope", "")
		r := w.exchange(f, w.browser().code(f)).must(t)
		if r.str("scope") != "" || r.str("id_token") != "" || claimsOf(t, r.str("access_token"))["scope"] != nil {
			t.Errorf("the answer is %s", r.raw)
		}
		w.userinfo(r.str("access_token")).errs(t, 403, "insufficient_scope")
		w.refresh("strict", r.str("refresh_token"), "scope", "read").errs(t, 400, "invalid_scope")
		w.refresh("strict", r.str("refresh_token")).must(t)
	})
}

// nearMisses are redirect URIs that look like a registered one.
func nearMisses(u string) []string {
	rest := strings.TrimPrefix(u, "https://")
	host, path, _ := strings.Cut(rest, "/")
	return []string{
		u + "/", u + "/x", u + "/..", u + "/../evil", "https://" + host + "/x/../" + path, u + "?x=1", u + "?", u + "#x", u + "#", u + "%00", u + "%20", " " + u, u + " ",
		"https://" + host + ":443/" + path, "https://" + host + ":444/" + path, "https://user@" + rest, "https://" + host + "@evil.example.com/" + path,
		"http://" + rest, "HTTPS://" + rest, "https://" + strings.ToUpper(host) + "/" + path, "https://" + host + "/" + strings.ToUpper(path),
		"https://" + host + ".evil.example.com/" + path, "https://evil.example.com/" + path, "https://" + host + "./" + path, "//" + rest, "/" + path,
		"https:/" + rest, "https:" + rest, "javascript:alert(1)", "data:text/html,x", "https://" + host + `\@evil.example.com/` + path, "https://" + host + "//" + path, u + ";x", u + "\r\nX: y",
	}
}

// TestRFC6749_06_RFC9700_01_RFC8252_04_NearMissesAreNeverFollowed is also 10017-06.
func TestRFC6749_06_RFC9700_01_RFC8252_04_NearMissesAreNeverFollowed(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.code(newFlow("strict"))
		misses := nearMisses("https://third.example.com/cb")
		if len(misses) < 10 {
			t.Fatal("too few near misses")
		}
		for _, uri := range misses {
			for _, bad := range []string{"", "response_type", "scope"} { // also when there is an error to tell
				f := newFlow("third", "redirect_uri", uri)
				if bad != "" {
					f.params.Set(bad, "\x01")
				}
				b.get(f.url()).onlyPage(t, uri)
				b.post("/oauth2/authorize", f.params).onlyPage(t, uri)
				b.get("/consent?"+f.params.Encode()).onlyPage(t, uri)
			}
		}
		for _, id := range []string{"nobody", "THIRD", "third ", "", "third\x00"} {
			b.get(newFlow("third", "client_id", id).url()).onlyPage(t, "client "+id)
		}
		w.updateClient("third", func(c *client.Client) { c.Status = client.Disabled })
		if p := b.get(newFlow("third").url()); p.status != 403 || p.location != "" {
			t.Errorf("a disabled client is answered with %d %s", p.status, p.location)
		}
	})
}

func TestRFC6749_07_RedirectURIsHaveNoFragment(t *testing.T) {
	for _, bad := range []string{"https://x.example.com/cb#", "https://x.example.com/cb#f", "/cb", "x.example.com/cb"} {
		if client.CheckRedirect(bad) == nil {
			t.Errorf("%s may be registered", bad)
		}
	}
	w := newWorld(t, engines["memory"], nil)
	w.browser().get(newFlow("strict", "redirect_uri", callback+"#x").url()).onlyPage(t, "fragment")
}

// TestRFC6749_14_StateComesBackAsItWas is also RFC 6749 §4.1.2.1: successes and errors,
// both modes, whatever is in it.
func TestRFC6749_14_StateComesBackAsItWas(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	b.code(newFlow("strict"))
	states := []string{"x", " ", "a b", "a+b", "a%20b", "%", "%zz", "&error=x", "#fragment", "?q=1", "=", "a=b&c=d", `"quoted"`, "<script>alert(1)</script>", "'", "\\", "日本語", "\u202e", "🔑",
		"line\nbreak", "cr\r\nlf: x", "\ttab", "{{.}}", "&amp;", strings.Repeat("s", 1024)}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		r := make([]rune, 1+rnd.IntN(60))
		for i := range r {
			if r[i] = rune(1 + rnd.IntN(0x2fff)); rnd.IntN(2) == 0 {
				r[i] = rune(1 + rnd.IntN(126))
			}
		}
		states = append(states, string(r))
	}
	for _, state := range states {
		for _, mode := range []string{"query", "form_post"} {
			for _, prompt := range []string{"", "bad"} {
				f := newFlow("strict", "state", state, "response_mode", mode, "prompt", prompt)
				v := b.get(f.url()).answered(t, f.redirect)
				want := state
				if mode == "form_post" { // a browser normalizes line ends when it reads the page
					want = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(want)
					v.Set("state", strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(v.Get("state")))
				}
				if len(v["state"]) != 1 || v.Get("state") != want {
					t.Errorf("%s, prompt %q: state %q came back as %q", mode, prompt, state, v["state"])
				}
				if (prompt == "bad") != (v.Get("error") == "invalid_request") || v.Get("iss") != w.issuer {
					t.Errorf("state %q: the client is told %v", state, v)
				}
			}
		}
	}
	f := newFlow("strict", "state", "")
	if v := b.get(f.url()).answered(t, f.redirect); v.Has("state") {
		t.Error("a state came that was not sent")
	}
}

// TestRFC9207_01_EveryAnswerNamesTheIssuer walks every error that a client can be told.
func TestRFC9207_01_EveryAnswerNamesTheIssuer(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("norotate", func(c *client.Client) { c.GrantTypes = []string{client.ClientCredentials} })
		signedIn := w.browser()
		signedIn.code(newFlow("strict"))
		nobody := w.browser()
		for _, mode := range []string{"query", "form_post"} {
			for want, f := range map[string]*flow{
				"code":                              newFlow("strict"),
				"invalid_request":                   newFlow("strict", "response_type", ""),
				"unsupported_response_type":         newFlow("strict", "response_type", "token"),
				"request_not_supported":             newFlow("strict", "request", "eyJ"),
				"request_uri_not_supported":         newFlow("strict", "request_uri", "https://x.example.com/r"),
				"registration_not_supported":        newFlow("strict", "registration", "{}"),
				"unauthorized_client":               newFlow("norotate"),
				"invalid_scope":                     newFlow("strict", "scope", "admin"),
				"invalid_target":                    newFlow("strict", "resource", "https://x.example.com"),
				"login_required":                    newFlow("strict", "prompt", "none"),
				"consent_required":                  newFlow("third", "prompt", "none"),
				"unmet_authentication_requirements": newFlow("strict", "claims", `{"id_token":{"acr":{"essential":true,"value":"urn:x:loa:9"}}}`),
			} {
				f.params.Set("response_mode", mode)
				b := signedIn
				if want == "login_required" {
					b = nobody
				}
				v := b.get(f.url()).answered(t, f.redirect)
				if want == "code" && v.Get("code") == "" || want != "code" && v.Get("error") != want {
					t.Errorf("%s: the client is told %v, want %s", mode, v, want)
				}
				if len(v["iss"]) != 1 || v.Get("iss") != w.issuer || v.Get("state") != f.state || want != "code" && v.Has("code") {
					t.Errorf("%s %s: the client is told %v", mode, want, v)
				}
				if !cleanDescription.MatchString(v.Get("error_description")) || want != "code" && v.Get("error_description") == "" {
					t.Errorf("%s: error_description is %q", want, v.Get("error_description"))
				}
			}
			f := newFlow("third", "response_mode", mode)
			p := signedIn.get(signedIn.get(f.url()).location)
			deny := p.fields()
			deny.Set("decision", "deny")
			if v := signedIn.post("/consent", deny).answered(t, f.redirect); v.Get("error") != "access_denied" || v.Get("iss") != w.issuer || v.Get("state") != f.state {
				t.Errorf("%s: after a refusal the client is told %v", mode, v)
			}
		}
		var meta = w.sendRaw("GET", "/.well-known/oauth-authorization-server", "", "", nil).must(t)
		if meta.body["authorization_response_iss_parameter_supported"] != true {
			t.Error("the metadata does not say so (9207-02)")
		}
	})
}

func TestRFC6749_27_RFC9700_11_NobodysRedirector(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		evil := []string{"https://evil.example.com", "//evil.example.com", `/\evil.example.com`, `\\evil.example.com`, "/%2f/evil.example.com", "https:evil.example.com", "/account/../../evil.example.com",
			"/account\r\nLocation: https://evil.example.com", "/login/../evil", "javascript:alert(1)", "/oauth2/authorize@evil.example.com", "/oauth2/authorize/../evil", "/accountevil", "\t//evil.example.com", w.issuer + ".evil.example.com/account", "/account#//evil"}
		for _, to := range evil {
			b := w.browser()
			p := b.get("/login?" + url.Values{"continue": {to}}.Encode())
			if got := p.fields().Get("continue"); got != "/account" {
				t.Errorf("continue=%q stands on the page as %q", to, got)
			}
			p = b.post("/login", url.Values{"continue": {to}, "username": {aliceName}, "password": {alicePassword}})
			if p.status != 303 || p.location != "/account" {
				t.Errorf("continue=%q leads with %d to %q", to, p.status, p.location)
			}
			for _, path := range []string{"/oauth2/end_session?client_id=web&post_logout_redirect_uri=", "/oauth2/end_session?post_logout_redirect_uri="} {
				if p := b.get(path + url.QueryEscape(to)); p.location != "" || strings.Contains(p.body, "evil") {
					t.Errorf("%s%q leads to %q", path, to, p.location)
				}
			}
			if p := b.post("/consent", url.Values{"decision": {"deny"}, "continue": {to}}); p.location != "" {
				t.Errorf("a consent for %q leads to %q", to, p.location)
			}
		}
		for _, uri := range append(nearMisses("https://web.example.com/bye"), "https://strict.example.com/bye") {
			b := w.browser()
			if p := b.get("/oauth2/end_session?client_id=web&post_logout_redirect_uri=" + url.QueryEscape(uri)); p.status != 400 || p.location != "" || strings.Contains(p.body, html.EscapeString(uri)) {
				t.Errorf("a sign-out to %q is answered with %d %q", uri, p.status, p.location)
			}
		}
		// An authorization request that is continued is written anew and judged again.
		b := w.browser()
		f := newFlow("strict", "redirect_uri", "https://evil.example.com/cb")
		p := b.post("/login", url.Values{"continue": {f.url()}, "username": {aliceName}, "password": {alicePassword}})
		b.get(p.location).onlyPage(t, "continued request")
	})
}

func TestRFC6749_28_FormsAreDecodedAsWritten(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.newFamily("web")
		body := refreshBody("web", rt) + "&client_secret=" + w.secret["web"]
		if r := w.sendRaw("POST", "/oauth2/token", formType, body+"&scope=read+write", nil).must(t); r.str("scope") != "read write" {
			t.Errorf("+ is read as %q", r.str("scope"))
		}
		if r := w.sendRaw("POST", "/oauth2/token", formType, body+"&scope=%72ead%20write", nil).must(t); r.str("scope") != "read write" {
			t.Errorf("%%20 is read as %q", r.str("scope"))
		}
		w.sendRaw("POST", "/oauth2/token", formType, body+"&scope=read%2Bwrite", nil).errs(t, 400, "invalid_scope")
		for _, bad := range []string{"%", "%2", "%zz", "%FF", "%C3%28"} {
			w.sendRaw("POST", "/oauth2/token", formType, body+"&scope="+bad, nil).errs(t, 400, "invalid_request")
		}
	})
}

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func TestRFC7636_02_OnlyS256(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	b.code(newFlow("strict"))
	v := challengeOf("any") // also well-formed as a verifier: only the method is wrong
	for name, f := range map[string]*flow{
		"plain": newFlow("strict", "code_challenge_method", "plain", "code_challenge", v), "none": newFlow("strict", "code_challenge_method", "", "code_challenge", v),
		"s256": newFlow("strict", "code_challenge_method", "s256"), "S512": newFlow("strict", "code_challenge_method", "S512"),
		"short": newFlow("strict", "code_challenge", "abc"), "not base64url": newFlow("strict", "code_challenge", strings.Repeat("+", 43)),
		"not canonical": newFlow("strict", "code_challenge", strings.Repeat("_", 43)), "padded": newFlow("strict", "code_challenge", challengeOf(v)+"="),
	} {
		if got := b.get(f.url()).answered(t, f.redirect); got.Get("error") != "invalid_request" {
			t.Errorf("%s: the client is told %v", name, got)
		}
	}
}

// TestRFC7636_03_RFC8252_03_ChallengeIsRequired is also 9700-02: one for each type of
// client.
func TestRFC7636_03_RFC8252_03_ChallengeIsRequired(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.code(newFlow("strict"))
		for _, id := range []string{"spa", "app", "web", "strict", "norotate", "third", "third-native"} {
			f := newFlow(id, "code_challenge", "", "code_challenge_method", "")
			if v := b.get(f.url()).answered(t, f.redirect); v.Get("error") != "invalid_request" || !strings.Contains(v.Get("error_description"), "code_challenge") {
				t.Errorf("%s: the client is told %v", id, v)
			}
		}
		// The switch is for confidential clients only, and a challenge that is sent counts.
		c, err := w.store.Client(t.Context(), "app")
		if err != nil {
			t.Fatal(err)
		}
		if c.WithoutPKCE = true; c.Check() == nil {
			t.Error("a public client may do without PKCE")
		}
		w.updateClient("web", func(c *client.Client) { c.WithoutPKCE = true })
		f := newFlow("web", "code_challenge", "", "code_challenge_method", "")
		f.verifier = ""
		w.exchange(f, b.code(f)).must(t)
		f = newFlow("web")
		f.verifier = strings.Repeat("x", 43)
		w.exchange(f, b.code(f)).refused(t)
	})
}

func TestRFC7636_04_WrongOrMissingVerifier(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, wrong := range []string{strings.Repeat("w", 43), ""} {
			f := newFlow("strict")
			right := f.verifier
			code := b.code(f)
			f.verifier = wrong
			w.exchange(f, code).refused(t)
			f.verifier = right
			w.exchange(f, code).refused(t) // burnt (MATRIX K06)
		}
		// Once it was used, it is nobody's means to sign the user out (MATRIX K05).
		f := newFlow("strict")
		code := b.code(f)
		tok := w.exchange(f, code).must(t).tokens()
		f.verifier = strings.Repeat("w", 43)
		w.exchange(f, code).refused(t)
		w.refresh("strict", tok.refresh).must(t)
	})
}

func TestRFC7636_05_NoDowngrade(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("web", func(c *client.Client) { c.WithoutPKCE = true })
		b := w.browser()
		f := newFlow("web", "code_challenge", "", "code_challenge_method", "")
		w.exchange(f, b.code(f)).refused(t) // the client sends a verifier: somebody took the challenge away
	})
}

func TestRFC8252_01_LoopbackRedirectsMayHaveAnyPort(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("app", func(c *client.Client) {
			c.RedirectURIs = []string{"http://127.0.0.1/callback", "http://[::1]/callback"}
		})
		b := w.browser()
		b.code(newFlow("strict"))
		for _, uri := range []string{"http://127.0.0.1/callback", "http://127.0.0.1:1/callback", "http://127.0.0.1:65535/callback", "http://[::1]:40000/callback"} {
			f := newFlow("app", "redirect_uri", uri)
			f.redirect = uri
			w.exchange(f, b.get(f.url()).answered(t, uri).Get("code")).must(t)
		}
		for _, uri := range []string{"https://127.0.0.1:40000/callback", "http://127.0.0.1:40000/other", "http://127.0.0.2:40000/callback", "http://localhost:40000/callback", "http://[::2]/callback",
			"http://127.0.0.1:99999/callback", "http://127.0.0.1:0/callback", "http://127.0.0.1:/callback", "http://127.0.0.1:40000/callback?x", "http://127.0.0.1:40000@evil.example.com/callback", "http://127.1:40000/callback", "http://2130706433/callback", "http://127.0.0.1:+1/callback"} {
			b.get(newFlow("app", "redirect_uri", uri).url()).onlyPage(t, uri)
		}
		// The code is for the port it was sent to.
		f := newFlow("app", "redirect_uri", "http://127.0.0.1:5001/callback")
		code := b.get(f.url()).answered(t, "http://127.0.0.1:5001/callback").Get("code")
		f.redirect = "http://127.0.0.1:5002/callback"
		w.exchange(f, code).refused(t)
	})
}

func TestRFC8252_01_LocalhostIsALoopbackHost(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	w.updateClient("app", func(c *client.Client) { c.RedirectURIs = []string{"http://localhost/callback"} })
	f := newFlow("app", "redirect_uri", "http://localhost:5001/callback")
	f.redirect = "http://localhost:5001/callback"
	w.exchange(f, w.browser().code(f)).must(t)
	w.browser().get(newFlow("app", "redirect_uri", "http://127.0.0.1:5001/callback").url()).onlyPage(t, "another loopback host")
}

func TestRFC8252_02_PrivateSchemesAndClaimedHTTPS(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("app", func(c *client.Client) {
			c.RedirectURIs = []string{"com.example.app:/cb", "https://app.example.com/claimed"}
		})
		b := w.browser()
		b.code(newFlow("strict"))
		for _, uri := range []string{"com.example.app:/cb", "https://app.example.com/claimed"} {
			f := newFlow("app", "redirect_uri", uri)
			f.redirect = uri
			w.exchange(f, b.get(f.url()).answered(t, uri).Get("code")).must(t)
		}
		for _, uri := range []string{"com.example.app:/cb2", "com.example.app://cb", "com.example.app:cb", "com.example.other:/cb"} {
			b.get(newFlow("app", "redirect_uri", uri).url()).onlyPage(t, uri)
		}
		f := newFlow("app", "redirect_uri", "com.example.app:/cb", "response_mode", "form_post")
		if v := b.get(f.url()).answered(t, "com.example.app:/cb"); v.Get("error") != "invalid_request" {
			t.Errorf("a form for a private scheme: the client is told %v", v)
		}
		for _, bad := range []string{"myapp:/cb", "javascript:x", "http://app.example.com/cb"} {
			if client.CheckRedirect(bad) == nil {
				t.Errorf("%s may be registered", bad)
			}
		}
	})
}

func TestRFC9700_03_NoImplicitGrant(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	b.code(newFlow("strict"))
	for _, typ := range []string{"token", "id_token", "id_token token", "code token", "code id_token", "code id_token token", "none", "Code", "code code"} {
		f := newFlow("strict", "response_type", typ)
		p := b.get(f.url())
		if v := p.answered(t, f.redirect); v.Get("error") != "unsupported_response_type" || strings.Contains(p.location, "#") {
			t.Errorf("%s: the client is told %s", typ, p.location)
		}
	}
	for _, mode := range []string{"fragment", "web_message", "jwt", "query.jwt", "Query"} {
		f := newFlow("strict", "response_mode", mode)
		p := b.get(f.url())
		if v := p.answered(t, f.redirect); v.Get("error") != "invalid_request" || strings.Contains(p.location, "#") {
			t.Errorf("response_mode %s: the client is told %s", mode, p.location)
		}
	}
}

func TestRFC9700_04_NoPasswordGrant(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "password", "username", aliceName, "password", alicePassword)...).errs(t, 400, "unsupported_grant_type")
}

func TestRFC9700_10_AfterAPostComes303(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	f := newFlow("third")
	saw := 0
	see := func(p shownPage) shownPage {
		t.Helper()
		saw++
		if p.status != 303 {
			t.Errorf("a POST is answered with %d to %s", p.status, p.location)
		}
		return p
	}
	p := see(b.post("/oauth2/authorize", f.params)) // to the sign-in page
	v := b.get(p.location).fields()
	v.Set("username", aliceName)
	v.Set("password", alicePassword)
	p = b.get(see(b.post("/login", v)).location) // to the consent page
	v = b.get(p.location).fields()
	v.Set("decision", "allow")
	see(b.post("/consent", v))
	see(b.post("/oauth2/authorize", newFlow("strict").params))
	see(b.post("/account/password", url.Values{"current_password": {alicePassword}, "new_password": {"a new long password"}, "keep": {"1"}}))
	see(b.post("/account/sessions", url.Values{"end": {"others"}}))
	tok := w.exchange(f, b.code(f)).must(t).tokens()
	see(b.post("/oauth2/end_session", url.Values{"id_token_hint": {tok.id}, "post_logout_redirect_uri": {"https://third.example.com/bye"}, "state": {"s"}}))
	if saw != 7 {
		t.Errorf("%d answers were looked at", saw)
	}
}

func TestRFC9700_20_NoPlainHTTPRedirects(t *testing.T) {
	for _, bad := range []string{"http://app.example.com/cb", "http://10.0.0.1/cb", "http://127.0.0.1.evil.example.com/cb", "http://localhost.evil.example.com/cb"} {
		c := client.Client{ID: "x", Status: client.Enabled, Auth: client.None, Preset: "native", GrantTypes: []string{client.AuthorizationCode}, RedirectURIs: []string{bad}}
		if err := c.Check(); err == nil {
			t.Errorf("%s may be registered", bad)
		}
	}
}

func TestFormPostPageTellsTheClientOnly(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	b.code(newFlow("strict"))
	f := newFlow("strict", "response_mode", "form_post", "state", `"><script>alert(1)</script>`)
	p := b.get(f.url())
	v := p.answered(t, f.redirect)
	if v.Get("state") != `"><script>alert(1)</script>` || strings.Contains(p.body, "<script>alert") {
		t.Errorf("the page is not escaped: %s", p.body)
	}
	csp := p.header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "form-action 'self' http://127.0.0.1;") && !strings.Contains(csp, "form-action 'self' http://127.0.0.1") {
		t.Errorf("the policy is %q", csp)
	}
	if p.header.Get("Cache-Control") != "no-store" {
		t.Error("the page may be kept")
	}
	if !regexp.MustCompile(`<form id="form-post" method="post"`).MatchString(p.body) || !strings.Contains(p.body, "<noscript>") {
		t.Errorf("the page is %s", p.body)
	}
	w.exchange(f, v.Get("code")).must(t)
}

func TestCodesLeadOnlyWhereTheyWereAsked(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("strict")
		code := b.code(f)
		f.redirect = "http://127.0.0.1/callback2"
		w.exchange(f, code).refused(t)
		// OAuth 2.1 §10.2: with PKCE the parameter may be absent; the code was not spent.
		w.post("/oauth2/token", nil, "client_id", "strict", "grant_type", "authorization_code", "code", code, "code_verifier", f.verifier).must(t)
	})
}
