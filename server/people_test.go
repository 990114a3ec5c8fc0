package server_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// login fills in the sign-in page as it stands.
func (b *browser) login(name, password string) shownPage {
	b.w.t.Helper()
	v := b.get("/login?continue=/account").fields()
	v.Set("username", name)
	v.Set("password", password)
	return b.post("/login", v)
}

// cookie returns the value of a browser's cookie, "" if there is none.
func (b *browser) cookie(name string) string {
	u, err := url.Parse(b.w.issuer)
	if err != nil {
		b.w.t.Fatal(err)
	}
	for _, c := range b.http.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

func (b *browser) setCookie(name, value string) {
	u, err := url.Parse(b.w.issuer)
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.http.Jar.SetCookies(u, []*http.Cookie{{Name: name, Value: value, Path: "/"}})
}

// sessions returns a person's living sessions.
func (w *world) sessions(name string) []session.Session {
	w.t.Helper()
	all, err := w.store.Sessions(context.Background(), w.user(name).ID, true)
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// families returns a person's families at a client, "" for all.
func (w *world) families(name, clientID string) []family.State {
	w.t.Helper()
	all, err := w.store.Families(context.Background(), family.Query{User: string(w.user(name).ID), Client: clientID, LiveOnly: true, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func TestWrongPasswordAndUnknownUserLookTheSame(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		if p := w.browser().login(aliceName, alicePassword); p.status != 303 {
			t.Fatalf("the sign-in is answered with %d", p.status)
		}
		id := w.user(aliceName).ID
		if err := w.store.PutUser(context.Background(), w.user(bobName).Disable(w.clock.Now())); err != nil {
			t.Fatal(err)
		}
		before := len(w.sessions(aliceName))
		want := ""
		for _, try := range []struct{ name, password string }{
			{aliceName, "wrong"}, {"nobody", "wrong"}, {"nobody", alicePassword}, {bobName, bobPassword}, {bobName, "wrong"},
			{aliceName, ""}, {aliceName, alicePassword + " "}, {"no body", "wrong"}, {aliceName, strings.Repeat("x", 5000)},
		} {
			b := w.browser()
			p := b.login(try.name, try.password)
			body := strings.ReplaceAll(p.body, `value="`+try.name+`"`, `value="NAME"`)
			if want == "" {
				want = body
			}
			if p.status != 401 || body != want || !strings.Contains(body, "The username or the password is wrong.") {
				t.Errorf("%q with %.20q: %d %s", try.name, try.password, p.status, p.body)
			}
			if len(p.header["Set-Cookie"]) != 0 || b.signedIn() {
				t.Errorf("%q with %.20q: a cookie was set", try.name, try.password)
			}
		}
		if got := len(w.sessions(aliceName)); got != before {
			t.Errorf("%d sessions, want %d", got, before)
		}
		if n := w.told(id, family.SignInFailed, 0); n != 3 {
			t.Errorf("%d failed sign-ins are recorded, want 3", n)
		}
		if n := w.told(w.user(bobName).ID, family.SignInFailed, family.UserDisabled); n != 1 {
			t.Errorf("%d sign-ins of a disabled user are recorded, want 1", n)
		}
		if strings.Contains(w.logs.String(), alicePassword) || strings.Contains(w.logs.String(), bobPassword) {
			t.Error("a password is in the log")
		}
	})
}

// dear gives a server the costs that it has by default.
func dear(c *server.Config) { c.Passwords = user.HasherConfig{} }

// An unknown name takes the work of a password check: less would tell who exists. The
// machine is shared, so one of three rounds has to show it.
func TestUnknownUserTakesTheSameWork(t *testing.T) {
	w := newWorld(t, engines["memory"], dear)
	if p := w.browser().login(aliceName, alicePassword); p.status != 303 { // her hash has today's cost now
		t.Fatalf("the sign-in is answered with %d", p.status)
	}
	b := w.browser()
	median := func(name string) time.Duration {
		var took []time.Duration
		for range 3 {
			start := time.Now()
			b.post("/login", url.Values{"username": {name}, "password": {"wrong"}})
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		return took[1]
	}
	var known, unknown time.Duration
	for _, name := range []string{"nobody", "no-one", "mr-x"} {
		known, unknown = median(aliceName), median(name)
		if unknown > known/2 && known > unknown/2 {
			return
		}
	}
	t.Errorf("a wrong password takes %v, an unknown user %v", known, unknown)
}

func TestHashIsRenewedAtSignIn(t *testing.T) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, open, dear)
			seeded := w.user(aliceName)
			if !strings.Contains(seeded.Password, "$m=64,") {
				t.Fatalf("the seeded hash is %.30s", seeded.Password)
			}
			b := w.browser()
			b.login(aliceName, "wrong")
			if w.user(aliceName).Version != seeded.Version {
				t.Error("a wrong password changed the user")
			}
			tok := b.tokens("web")
			renewed := w.user(aliceName)
			if !strings.HasPrefix(renewed.Password, "$argon2id$v=19$m=19456,t=2,p=1$") || renewed.PasswordAt != seeded.PasswordAt || renewed.NotBefore != seeded.NotBefore {
				t.Errorf("the user is %.40s, %v, %v", renewed.Password, renewed.PasswordAt, renewed.NotBefore)
			}
			w.lives("web", tok.refresh)
			if p := w.browser().login(aliceName, alicePassword); p.status != 303 {
				t.Errorf("the next sign-in is answered with %d", p.status)
			}
			if w.user(aliceName).Version != renewed.Version {
				t.Error("a hash of today was renewed")
			}
		})
	}
}

func TestGuessesOfOthersDoNotLockOutAKnownBrowser(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		home := w.browser()
		if p := home.login(bobName, bobPassword); p.status != 303 {
			t.Fatalf("the sign-in is answered with %d", p.status)
		}
		home.end("this")
		guess := func(b *browser, name string) shownPage {
			return b.post("/login", url.Values{"username": {name}, "password": {"guess"}})
		}
		for _, name := range []string{bobName, "nobody"} { // the wait tells nobody who exists
			attacker, n := w.browser(), 0
			for range 12 {
				if p := guess(attacker, name); p.status == 429 {
					n++
					if !strings.Contains(p.body, "too many attempts") {
						t.Errorf("the page is %s", p.body)
					}
				}
			}
			if n != 2 {
				t.Errorf("%s: %d of 12 guesses were held up, want 2", name, n)
			}
		}
		if p := w.browser().login(bobName, bobPassword); p.status != 429 {
			t.Errorf("from the same network in a new browser: %d", p.status)
		}
		// Alice has nothing to do with it, and bob's own browser is spared.
		if p := w.browser().login(aliceName, alicePassword); p.status != 303 {
			t.Errorf("another user is answered with %d", p.status)
		}
		if p := home.login(bobName, bobPassword); p.status != 303 {
			t.Errorf("the known browser is answered with %d", p.status)
		}
		// The mark is bob's, and nobody can make one.
		thief := w.browser()
		mark := home.cookie("heirloom-device")
		thief.setCookie("heirloom-device", mark[:len(mark)-2]+"AA")
		if p := thief.login(bobName, bobPassword); p.status != 429 {
			t.Errorf("a forged mark is answered with %d", p.status)
		}
	})
}

func TestForwardedAddressesCountOnlyFromProxies(t *testing.T) {
	for name, c := range map[string]struct {
		proxies []netip.Prefix
		held    bool
	}{"nobody": {nil, true}, "declared": {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, false}} {
		w := newWorld(t, engines["memory"], func(conf *server.Config) { conf.TrustedProxies = c.proxies })
		held := false
		for i := range 12 {
			h := http.Header{"X-Forwarded-For": {"203.0.113." + string(rune('0'+i%10)) + ", 198.51.100." + string(rune('1'+i%9))}}
			r := w.post("/login", h, "username", aliceName, "password", "wrong")
			held = held || r.status == 429
		}
		if held != c.held {
			t.Errorf("%s: twelve guesses from made-up addresses were held up: %v, want %v", name, held, c.held)
		}
	}
}

func TestSessionCookie(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.setCookie("heirloom", "hss_planted-by-somebody")
		p := b.login(aliceName, alicePassword)
		if p.status != 303 || len(p.header["Set-Cookie"]) != 2 {
			t.Fatalf("the sign-in is answered with %d %v", p.status, p.header)
		}
		for _, line := range p.header["Set-Cookie"] {
			c, err := http.ParseSetCookie(line)
			if err != nil {
				t.Fatal(err)
			}
			life := map[string]int{"heirloom": 30 * 86400, "heirloom-device": 365 * 86400}[c.Name]
			if life == 0 || c.MaxAge != life || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.Secure {
				t.Errorf("the cookie is %s", line)
			}
		}
		value := b.cookie("heirloom")
		if len(w.sessions(aliceName)) != 1 || strings.Contains(value, "planted") {
			t.Errorf("%d sessions, the cookie is %.12s", len(w.sessions(aliceName)), value)
		}
		for name, bad := range map[string]string{
			"cut": value[:len(value)-1], "changed": value[:len(value)-2] + "AA", "longer": value + "A", "empty": "", "other case": strings.ToUpper(value),
		} {
			thief := w.browser()
			thief.setCookie("heirloom", bad)
			if thief.signedIn() {
				t.Errorf("%s: the cookie is accepted", name)
			}
		}
		// Two of them: somebody has planted one, and nobody can tell which.
		req, _ := http.NewRequest("GET", w.issuer+"/account", nil)
		req.Header["Cookie"] = []string{"heirloom=" + value + "; heirloom=" + value}
		if r := w.do(req); r.status != 303 {
			t.Errorf("two session cookies are answered with %d", r.status)
		}
		if !b.signedIn() {
			t.Error("the right cookie is not accepted")
		}
		w.clock.Advance(30 * oneDay)
		if b.signedIn() {
			t.Error("the session outlives its end")
		}
	})
}

func TestHTTPSWalk(t *testing.T) {
	plain := newWorld(t, engines["memory"], nil)
	ts := httptest.NewUnstartedServer(nil)
	w := *plain
	w.issuer = "https://" + ts.Listener.Addr().String()
	ring, err := openRing(context.Background(), w.store, w.issuer)
	if err != nil {
		t.Fatal(err)
	}
	w.ring = ring
	if ts.Config.Handler, err = server.New(server.Config{Issuer: w.issuer, Store: w.store, Keys: ring}); err != nil {
		t.Fatal(err)
	}
	ts.StartTLS()
	t.Cleanup(ts.Close)
	b := w.browser()
	b.http.Transport = ts.Client().Transport
	if b.code(newFlow("strict")) == "" || !b.signedIn() {
		t.Fatal("there is no code, or no session")
	}
	if b.cookie("__Host-heirloom") == "" || b.cookie("__Host-heirloom-device") == "" || b.cookie("heirloom") != "" {
		t.Error("the cookies do not carry the prefix")
	}
	// The prefix is not only a name: without it the cookie is nothing.
	value := b.cookie("__Host-heirloom")
	other := w.browser()
	other.http.Transport = ts.Client().Transport
	other.setCookie("heirloom", value)
	if other.signedIn() {
		t.Error("a cookie without the prefix is accepted over https")
	}
}

func TestPlainHTTPOnlyOnThisMachine(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	for issuer, ok := range map[string]bool{
		"http://127.0.0.1:8420": true, "http://localhost": true, "http://[::1]:1": true, "https://id.example.com": true, "https://id.example.com/base": true,
		"http://id.example.com": false, "http://127.0.0.1.example.com": false, "http://10.0.0.1": false, "http://0.0.0.0:80": false, "ftp://127.0.0.1": false,
		"https://id.example.com/": false, "https://id.example.com?x": false, "https://id.example.com#x": false, "https://u@id.example.com": false, "id.example.com": false, "": false,
	} {
		_, err := server.New(server.Config{Issuer: issuer, Store: w.store, Keys: w.ring})
		if (err == nil) != ok {
			t.Errorf("issuer %q: %v", issuer, err)
		}
	}
}

func TestSignInGoesOnOnlyToOwnPages(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, evil := range []string{
			"https://evil.example.com", "//evil.example.com", `/\evil.example.com`, "/account/../../evil", "/oauth2/authorize@evil.example.com",
			w.issuer + "/account", "javascript:alert(1)", "/account?x", "/\t/evil.example.com", "/admin", "",
		} {
			p := b.post("/login", url.Values{"username": {aliceName}, "password": {alicePassword}, "continue": {evil}})
			if p.status != 303 || p.location != "/account" {
				t.Errorf("continue=%q leads to %d %q", evil, p.status, p.location)
			}
		}
		for _, own := range []string{"/account/apps", "/account/password"} {
			p := b.post("/login", url.Values{"username": {aliceName}, "password": {alicePassword}, "continue": {own}})
			if p.location != own {
				t.Errorf("continue=%q leads to %q", own, p.location)
			}
		}
	})
}

func TestSomebodyElseSignsIn(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		hers := b.tokens("web", "scope", "openid")
		cookie := b.cookie("heirloom")
		if p := b.login(bobName, bobPassword); p.status != 303 {
			t.Fatalf("the sign-in is answered with %d", p.status)
		}
		w.dead("web", family.RevokedLogout, []string{hers.refresh}, []string{hers.access})
		if len(w.sessions(aliceName)) != 0 || b.cookie("heirloom") == cookie {
			t.Error("her session lives")
		}
		if p := b.get("/account"); !strings.Contains(p.body, "<strong>bob</strong>") {
			t.Errorf("the page is %s", p.body)
		}
		// Her own ID token as a hint: the client wanted her and nobody else.
		for _, prompt := range []string{"none", ""} {
			f := newFlow("web", "id_token_hint", hers.id, "prompt", prompt)
			if v := b.walk(f, bobName, bobPassword); v.Get("error") != "login_required" {
				t.Errorf("prompt=%s: the client is answered with %v", prompt, v)
			}
		}
	})
}

func TestPromptLoginAsksEachTime(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		first := b.tokens("web")
		auth := claimsOf(t, first.id)["auth_time"].(float64)
		for _, pairs := range [][]string{{"prompt", "login"}, {"prompt", "select_account"}, {"max_age", "0"}, {"max_age", "3600"}, {"prompt", "login", "heirloom_since", "zzzzzzzz.1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}} {
			w.clock.Advance(2 * time.Hour)
			if p := b.get(newFlow("web", pairs...).url()); p.status != 303 || !strings.HasPrefix(p.location, "/login?") {
				t.Fatalf("%v: the browser is sent to %d %s", pairs, p.status, p.location)
			}
			tok := b.tokens("web", pairs...)
			now := claimsOf(t, tok.id)["auth_time"].(float64)
			if now < auth+7000 {
				t.Errorf("%v: auth_time is %v, was %v", pairs, now, auth)
			}
			auth = now
		}
		if len(w.sessions(aliceName)) != 1 {
			t.Error("each of them made a new session")
		}
		// The proof is of this request alone: with another one it is worth nothing.
		p := b.get(newFlow("web", "prompt", "login").url())
		next, err := url.Parse(p.location)
		if err != nil {
			t.Fatal(err)
		}
		target, err := url.Parse(next.Query().Get("continue"))
		if err != nil {
			t.Fatal(err)
		}
		since := target.Query().Get("heirloom_since")
		w.clock.Advance(time.Minute)
		b.tokens("web", "prompt", "login")
		if p := b.get(newFlow("web", "prompt", "login", "heirloom_since", since).url()); since == "" || !strings.HasPrefix(p.location, "/login?") {
			t.Errorf("a proof %q of another request is accepted: %s", since, p.location)
		}
		w.clock.Advance(time.Hour)
		if got := b.silent("web"); got != "" {
			t.Errorf("prompt=none is answered with %q", got)
		}
		if p := b.get(newFlow("web", "prompt", "none", "max_age", "60").url()); !strings.Contains(p.location, "error=login_required") {
			t.Errorf("prompt=none with max_age is answered with %s", p.location)
		}
		if p := w.browser().get("/login?continue=" + url.QueryEscape(newFlow("web", "login_hint", "al<ice").url())); !strings.Contains(p.body, `value="al&lt;ice"`) || !strings.Contains(p.body, "Client web") {
			t.Errorf("the hint is not filled in: %s", p.body)
		}
	})
}

func TestConsentIsAskedOnceAndForMore(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		if p := b.login(aliceName, alicePassword); p.status != 303 {
			t.Fatalf("the sign-in is answered with %d", p.status)
		}
		asked := func(pairs ...string) bool {
			t.Helper()
			p := b.get(newFlow("third", pairs...).url())
			if p.status != 303 {
				t.Fatalf("the browser shows %d %s", p.status, p.body)
			}
			return strings.HasPrefix(p.location, "/consent?")
		}
		if !asked("scope", "openid read") {
			t.Fatal("the person is not asked")
		}
		if got := b.silent("third"); got != "consent_required" {
			t.Errorf("prompt=none is answered with %q", got)
		}
		page := b.get(b.get(newFlow("third", "scope", "openid read").url()).location)
		for _, want := range []string{`<strong id="user">alice</strong>`, `<span id="client">Client third</span>`, `<strong id="redirect-host">third.example.com</strong>`, `<span class="scope">read</span>`} {
			if !strings.Contains(page.body, want) {
				t.Errorf("the page does not say %s", want)
			}
		}
		b.tokens("third", "scope", "openid read")
		for _, within := range []string{"openid read", "openid", "read"} {
			if asked("scope", within) {
				t.Errorf("the person is asked again for %q", within)
			}
		}
		if !asked("scope", "openid read write") || !asked("scope", "openid read", "resource", otherURL) || !asked("scope", "openid", "prompt", "consent") {
			t.Error("the person is not asked for more, or though the client wants it")
		}
		b.tokens("third", "scope", "write")
		if asked("scope", "openid read write") {
			t.Error("what was allowed before is forgotten")
		}
		tok := b.tokens("third", "prompt", "consent")
		w.lives("third", tok.refresh)
		// Of bob nothing is known.
		his := w.browser()
		his.login(bobName, bobPassword)
		if p := his.get(newFlow("third", "scope", "openid").url()); !strings.HasPrefix(p.location, "/consent?") {
			t.Error("her consent counts for him")
		}
		// Clients of the house never ask, whatever they want.
		if p := b.get(newFlow("web", "prompt", "consent").url()); !strings.HasPrefix(p.location, callback+"?code=") {
			t.Errorf("a first-party client is sent to %s", p.location)
		}
	})
}

func TestDenied(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login(aliceName, alicePassword)
		before := w.user(aliceName)
		f := newFlow("third")
		fields := b.get(b.get(f.url()).location).fields()
		for decision, status := range map[string]int{"deny": 303, "": 400, "maybe": 400} {
			fields.Set("decision", decision)
			p := b.post("/consent", fields)
			if p.status != status {
				t.Errorf("%q is answered with %d", decision, p.status)
			}
			if status != 303 {
				continue
			}
			u, err := url.Parse(p.location)
			if err != nil || !strings.HasPrefix(p.location, f.redirect+"?") {
				t.Fatalf("the browser is sent to %q", p.location)
			}
			if q := u.Query(); q.Get("error") != "access_denied" || q.Get("state") != f.state || q.Get("iss") != w.issuer || q.Has("code") {
				t.Errorf("the client is told %v", q)
			}
		}
		if all := w.families(aliceName, ""); len(all) != 0 {
			t.Errorf("there are %d families", len(all))
		}
		if _, err := w.store.Consent(context.Background(), before.ID, "third"); !errors.Is(err, family.ErrNotFound) {
			t.Errorf("a consent was stored: %v", err)
		}
		// Signed out meanwhile: the page's answer leads to a sign-in and not to a code.
		fields.Set("decision", "allow")
		b.end("this")
		if p := b.post("/consent", fields); p.status != 303 || !strings.HasPrefix(p.location, "/oauth2/authorize?") || len(w.families(aliceName, "")) != 0 {
			t.Errorf("the answer is %d %s", p.status, p.location)
		}
	})
}

func TestRFC8252_06_NativeAppIsAskedForEachTime(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("third-native", func(c *client.Client) {
			c.RedirectURIs = []string{callback, "com.example.app:/callback", "https://app.example.com/claimed"}
		})
		b := w.browser()
		b.tokens("third-native")
		for redirect, asked := range map[string]bool{callback: true, "com.example.app:/callback": true, "http://127.0.0.1:49152/callback": true, "https://app.example.com/claimed": false} {
			p := b.get(newFlow("third-native", "redirect_uri", redirect).url())
			if got := strings.HasPrefix(p.location, "/consent?"); got != asked {
				t.Errorf("at %s the person is asked: %v, want %v (%s)", redirect, got, asked, p.location)
			}
		}
		if got := b.silent("third-native"); got != "consent_required" {
			t.Errorf("prompt=none is answered with %q", got)
		}
	})
}

func TestSignOutHere(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("web", "scope", "openid")
		copied := b.cookie("heirloom")
		p := b.end("this")
		if p.status != 200 || !strings.Contains(p.body, "You are signed out") || !strings.Contains(p.header.Get("Set-Cookie"), "heirloom=; Path=/; Max-Age=0") {
			t.Errorf("the answer is %d %v %s", p.status, p.header, p.body)
		}
		w.dead("web", family.RevokedLogout, []string{tok.refresh}, []string{tok.access})
		// The cookie is not only gone from the browser.
		b.setCookie("heirloom", copied)
		if p := b.get("/account"); p.status != 303 || p.location != "/login?continue=%2Faccount" {
			t.Errorf("the old cookie is answered with %d %s", p.status, p.location)
		}
		if p := b.get("/login"); !strings.Contains(p.body, "You are signed out.") {
			t.Errorf("the page does not say why: %s", p.body)
		}
		if p := b.end("all"); p.status != 303 || !strings.HasPrefix(p.location, "/login") {
			t.Errorf("nobody's post is answered with %d %s", p.status, p.location)
		}
		if n := w.told(w.user(aliceName).ID, family.SessionEnded, family.RevokedLogout); n != 1 {
			t.Errorf("%d session_ended events, want 1", n)
		}
	})
}

// bye is web's registered return address.
const bye = "https://web.example.com/bye"

// logout is the end_session endpoint with parameters, in pairs.
func (b *browser) logout(pairs ...string) shownPage {
	b.w.t.Helper()
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return b.get("/oauth2/end_session?" + v.Encode())
}

// notLoggedOut fails the test unless an error page was shown and nothing happened.
func (b *browser) notLoggedOut(t *testing.T, p shownPage, token string) string {
	t.Helper()
	if p.status != 400 || p.location != "" || !strings.Contains(p.body, `id="error"`) {
		t.Errorf("the answer is %d %s %s", p.status, p.location, p.body)
	}
	if !b.signedIn() {
		t.Error("the person was signed out")
	}
	return b.w.lives("web", token)
}

func TestOIDCRIL_01_GetAndPost(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, method := range []string{"GET", "POST"} {
			b := w.browser()
			tok := b.tokens("web", "scope", "openid")
			v := url.Values{"id_token_hint": {tok.id}, "post_logout_redirect_uri": {bye}, "state": {"a b&c"}}
			var p shownPage
			if method == "GET" {
				p = b.get("/oauth2/end_session?" + v.Encode())
			} else {
				p = b.post("/oauth2/end_session", v)
			}
			if p.status != 303 || p.location != bye+"?state=a+b%26c" {
				t.Errorf("%s is answered with %d %s", method, p.status, p.location)
			}
			w.dead("web", family.RevokedLogout, []string{tok.refresh}, []string{tok.access})
			if b.signedIn() {
				t.Error("the browser is still signed in")
			}
			// A second time: there is nothing to end, and the hint still vouches.
			if p := b.get("/oauth2/end_session?" + v.Encode()); p.status != 303 || p.location != bye+"?state=a+b%26c" {
				t.Errorf("again: %d %s", p.status, p.location)
			}
		}
	})
}

func TestOIDCRIL_02_HintMustBeOurs(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("web", "scope", "openid")
		rt := tok.refresh
		parts := strings.Split(tok.id, ".")
		for name, forged := range map[string]string{
			"signature": parts[0] + "." + parts[1] + "." + strings.Repeat("A", 86), "alg none": "eyJhbGciOiJub25lIn0." + parts[1] + ".",
			"access token": tok.access, "garbage": "x",
		} {
			t.Log(name)
			rt = b.notLoggedOut(t, b.logout("id_token_hint", forged, "post_logout_redirect_uri", bye), rt)
		}
		w.clock.Advance(2 * oneDay) // the ID token has long expired
		if p := b.logout("id_token_hint", tok.id, "post_logout_redirect_uri", bye); p.status != 303 || p.location != bye {
			t.Errorf("an expired hint is answered with %d %s", p.status, p.location)
		}
		if b.signedIn() {
			t.Error("the browser is still signed in")
		}
		// Without a hint and without anybody: a link, no redirect.
		p := b.logout("client_id", "web", "post_logout_redirect_uri", bye)
		if p.status != 200 || p.location != "" || !strings.Contains(p.body, `href="`+bye+`"`) {
			t.Errorf("without a hint: %d %s %s", p.status, p.location, p.body)
		}
	})
}

func TestOIDCRIL_03_AsksWithoutTheRightHint(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b, other := w.browser(), w.browser()
		tok, theirs := b.tokens("web", "scope", "openid"), other.tokens("web", "scope", "openid")
		rt := tok.refresh
		asks := func(p shownPage) url.Values {
			t.Helper()
			if p.status != 200 || !strings.Contains(p.body, `id="sign-out-yes"`) || p.location != "" {
				t.Fatalf("the browser shows %d %s", p.status, p.body)
			}
			if !b.signedIn() {
				t.Fatal("the GET alone signed out")
			}
			rt = w.lives("web", rt)
			return p.fields()
		}
		asks(b.logout())
		asks(b.logout("client_id", "web"))
		asks(b.logout("decision", "sign_out"))
		fields := asks(b.logout("id_token_hint", theirs.id, "post_logout_redirect_uri", bye, "state", "s"))
		fields.Set("decision", "stay")
		if p := b.post("/oauth2/end_session", fields); p.status != 303 || p.location != "/account" || !b.signedIn() {
			t.Errorf("staying is answered with %d %s", p.status, p.location)
		}
		fields.Set("decision", "sign_out")
		if p := b.post("/oauth2/end_session", fields); p.status != 303 || p.location != bye+"?state=s" {
			t.Errorf("signing out is answered with %d %s", p.status, p.location)
		}
		w.dead("web", family.RevokedLogout, []string{rt}, nil)
		w.lives("web", theirs.refresh)
		if b.signedIn() || !other.signedIn() {
			t.Error("the wrong browser was signed out")
		}
	})
}

func TestOIDCRIL_04_ExactReturnAddress(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("web", "scope", "openid")
		rt := tok.refresh
		for _, near := range []string{
			bye + "/", bye + "?x=1", bye + "#x", "http://web.example.com/bye", "https://WEB.example.com/bye", "https://web.example.com/Bye", "https://web.example.com:443/bye",
			"https://web.example.com/x/../bye", "https://web.example.com.evil.example/bye", "https://x@web.example.com/bye", "//web.example.com/bye", "https://web2.example.com/bye", callback,
		} {
			rt = b.notLoggedOut(t, b.logout("id_token_hint", tok.id, "post_logout_redirect_uri", near), rt)
		}
		if p := b.logout("id_token_hint", tok.id, "post_logout_redirect_uri", bye, "state", "st"); p.location != bye+"?state=st" {
			t.Errorf("the registered one is answered with %d %s", p.status, p.location)
		}
	})
}

func TestOIDCRIL_05_ClientMustBeTheHints(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("web", "scope", "openid")
		rt := tok.refresh
		for _, other := range []string{"web2", "nobody"} {
			rt = b.notLoggedOut(t, b.logout("id_token_hint", tok.id, "client_id", other), rt)
			rt = b.notLoggedOut(t, b.logout("id_token_hint", tok.id, "client_id", other, "post_logout_redirect_uri", bye), rt)
		}
		if p := b.logout("id_token_hint", tok.id, "client_id", "web"); p.status != 200 || b.signedIn() {
			t.Errorf("the right one is answered with %d", p.status)
		}
	})
}

func TestOIDCRIL_06_ErrorsAreNotRedirected(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		rt := b.tokens("web", "scope", "openid").refresh
		rt = b.notLoggedOut(t, b.logout("client_id", "nobody", "post_logout_redirect_uri", bye), rt)
		rt = b.notLoggedOut(t, b.logout("post_logout_redirect_uri", bye), rt)
		rt = b.notLoggedOut(t, b.logout("client_id", "web", "post_logout_redirect_uri", "https://evil.example.com"), rt)
		b.notLoggedOut(t, b.get("/oauth2/end_session?state=a&state=b"), rt)
		if p := w.browser().logout("post_logout_redirect_uri", "https://evil.example.com"); p.status != 400 || p.location != "" || strings.Contains(p.body, "evil") {
			t.Errorf("a stranger is answered with %d %s %s", p.status, p.location, p.body)
		}
	})
}

func TestPasswordChangeRefused(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		rt := b.tokens("web").refresh
		before := w.user(aliceName)
		for name, v := range map[string]url.Values{
			"wrong current": {"current_password": {"wrong"}, "new_password": {"a new long password"}},
			"no current":    {"new_password": {"a new long password"}},
			"too short":     {"current_password": {alicePassword}, "new_password": {"short"}},
			"empty":         {"current_password": {alicePassword}},
			"too long":      {"current_password": {alicePassword}, "new_password": {strings.Repeat("x", 1025)}},
		} {
			p := b.post("/account/password", v)
			if p.status != 422 || !strings.Contains(p.body, `id="error"`) || strings.Contains(p.body, "a new long password") {
				t.Errorf("%s: %d %s", name, p.status, p.body)
			}
		}
		if after := w.user(aliceName); after != before || !b.signedIn() {
			t.Error("something changed")
		}
		rt = w.lives("web", rt)
		b.changePassword(t, alicePassword, "a new long password")
		if p := b.get("/account/password?done=password"); !strings.Contains(p.body, "Your password is changed.") {
			t.Errorf("the page is %s", p.body)
		}
		w.dead("web", family.RevokedPasswordChange, []string{rt}, nil)
		if p := w.browser().login(aliceName, alicePassword); p.status != 401 {
			t.Errorf("the old password is answered with %d", p.status)
		}
		if p := w.browser().login(aliceName, "a new long password"); p.status != 303 {
			t.Errorf("the new password is answered with %d", p.status)
		}
	})
}

// An unlocked screen must not be enough to try passwords without an end.
func TestPasswordChangeIsThrottledLikeASignIn(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	if p := b.login(aliceName, alicePassword); p.status != 303 {
		t.Fatalf("the sign-in is answered with %d", p.status)
	}
	held := 0
	for range 22 {
		p := b.post("/account/password", url.Values{"current_password": {"guess"}, "new_password": {"a new long password"}})
		if strings.Contains(p.body, "too many attempts") {
			held++
		}
	}
	if held != 2 {
		t.Errorf("%d of 22 guesses were held up, want 2", held)
	}
}

var listed = regexp.MustCompile(`(?s)<h2 id="device-([^"]+)">([^<]*)</h2>(.*?)</li>`)

// device is one line of the account page.
type device struct{ id, label, rest string }

func (b *browser) devices() []device {
	b.w.t.Helper()
	p := b.get("/account")
	if p.status != 200 {
		b.w.t.Fatalf("the account page is %d %s", p.status, p.location)
	}
	var all []device
	for _, m := range listed.FindAllStringSubmatch(p.body, -1) {
		all = append(all, device{m[1], m[2], m[3]})
	}
	return all
}

func TestAccountListsSessionsAndDevices(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		one, two := w.browser(), w.browser()
		two.ua = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1"
		one.tokens("web", "scope", "openid") // part of the session, not a line of its own
		app := two.tokens("app")
		w.signIn("third") // a third browser
		all := one.devices()
		if len(all) != 5 || all[0].label != "Firefox on Linux" || !strings.Contains(all[0].rest, "This device") {
			t.Fatalf("the page lists %+v", all)
		}
		find := func(id string) device {
			t.Helper()
			i := slices.IndexFunc(all, func(d device) bool { return d.id == id })
			if i < 0 {
				t.Fatalf("%s is not in %+v", id, all)
			}
			return all[i]
		}
		for _, se := range w.sessions(aliceName) {
			d := find("s" + se.ID.String())
			if strings.HasPrefix(se.UserAgent, "Mozilla/5.0 (iPhone") != (d.label == "Safari on iPhone") || !strings.Contains(d.rest, "127.0.0.1") {
				t.Errorf("the line is %+v", d)
			}
		}
		if d := find("f" + w.family(app.refresh).ID.String()); !strings.Contains(d.rest, "Client app") {
			t.Errorf("the line is %+v", d)
		}
		// The time of the last use follows the use.
		stamp := func(at time.Time) string { return `datetime="` + at.UTC().Format(time.RFC3339) + `"` }
		w.clock.Advance(3 * time.Hour)
		w.clock.Freeze()
		w.lives("app", app.refresh)
		two.get("/account")
		all = one.devices()
		for _, se := range w.sessions(aliceName) {
			if strings.HasPrefix(se.UserAgent, "Mozilla/5.0 (iPhone") && !strings.Contains(find("s"+se.ID.String()).rest, stamp(w.clock.Now())) {
				t.Errorf("the session was used at %v: %+v", w.clock.Now(), find("s"+se.ID.String()))
			}
		}
		if d := find("f" + w.family(app.refresh).ID.String()); !strings.Contains(d.rest, stamp(w.clock.Now())) {
			t.Errorf("the app was used at %v: %+v", w.clock.Now(), d)
		}
	})
}

func TestAccountEndsOneOrTheOthers(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		me, phone, lost := w.browser(), w.browser(), w.browser()
		mine, phones, losts := me.tokens("web", "scope", "openid"), phone.tokens("app"), lost.tokens("web", "scope", "openid")
		var lostID string
		for _, se := range w.sessions(aliceName) {
			if [16]byte(se.ID) == w.family(losts.refresh).Grant.Session {
				lostID = "s" + se.ID.String()
			}
		}
		if p := me.end(lostID); p.status != 303 || p.location != "/account?done=device" {
			t.Fatalf("ending it is answered with %d %s", p.status, p.location)
		}
		w.dead("web", family.RevokedUser, []string{losts.refresh}, []string{losts.access})
		if lost.signedIn() || !phone.signedIn() || !me.signedIn() {
			t.Error("the wrong browser was signed out")
		}
		if p := lost.get("/login"); !strings.Contains(p.body, "You signed out this device from another one.") {
			t.Errorf("the lost one is told %s", p.body)
		}
		w.lives("app", phones.refresh)

		if p := me.end("others"); p.status != 303 || p.location != "/account?done=others" {
			t.Fatalf("ending the others is answered with %d %s", p.status, p.location)
		}
		w.dead("app", family.RevokedUser, []string{phones.refresh}, []string{phones.access})
		if phone.signedIn() || !me.signedIn() {
			t.Error("the wrong browser was signed out")
		}
		next := w.lives("web", mine.refresh)
		if all := me.devices(); len(all) != 1 {
			t.Errorf("the page lists %+v", all)
		}
		// This one, by its own line.
		if p := me.end("s" + w.sessions(aliceName)[0].ID.String()); p.status != 200 || me.signedIn() {
			t.Errorf("ending this one is answered with %d", p.status)
		}
		w.dead("web", family.RevokedLogout, []string{next}, nil)
	})
}

func TestAccountReachesOnlyItsOwner(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		hers := w.browser().tokens("app")
		her := w.sessions(aliceName)[0]
		his := w.browser()
		his.login(bobName, bobPassword)
		w.unspent(hers.refresh, func() {
			for _, what := range []string{"s" + her.ID.String(), "f" + w.family(hers.refresh).ID.String(), "s", "f", "x", "", "s" + strings.Repeat("0", 32), "f" + strings.Repeat("0", 32)} {
				if p := his.end(what); p.status != 400 {
					t.Errorf("end=%q is answered with %d", what, p.status)
				}
			}
			for _, v := range []url.Values{{"client": {"app"}, "remove": {"app"}}, {"client": {"third"}, "remove": {"third"}}} {
				if p := his.post("/account/apps", v); p.status != 303 {
					t.Errorf("removing is answered with %d", p.status)
				}
			}
			for _, v := range []url.Values{{"client": {"app"}, "withdraw": {"read"}}, {"client": {"app"}, "remove": {"third"}}, {"remove": {"app"}}, {}} {
				if p := his.post("/account/apps", v); p.status != 400 {
					t.Errorf("%v is answered with %d", v, p.status)
				}
			}
			his.end("others")
			his.end("all")
		})
		if len(w.sessions(aliceName)) != 1 {
			t.Error("her session ended")
		}
		w.lives("app", hers.refresh)
	})
}

func TestAppsPage(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		if p := b.get("/account/apps"); p.status != 303 || p.location != "/login?continue=%2Faccount%2Fapps" {
			t.Errorf("a stranger is answered with %d %s", p.status, p.location)
		}
		b.login(aliceName, alicePassword)
		if p := b.get("/account/apps"); !strings.Contains(p.body, `id="no-apps"`) {
			t.Errorf("the page is %s", p.body)
		}
		b.tokens("third", "scope", "openid read")
		b.tokens("app")
		p := b.get("/account/apps")
		for _, want := range []string{`id="remove-third"`, `id="withdraw-third-read"`, `id="remove-app"`, "Client third", "Client app"} {
			if !strings.Contains(p.body, want) {
				t.Errorf("the page has no %s", want)
			}
		}
		// An app that is gone is still named, so that its consent can be removed.
		if err := w.store.DeleteClient(context.Background(), "app"); err != nil {
			t.Fatal(err)
		}
		if p := b.get("/account/apps"); p.status != 200 || strings.Contains(p.body, "Client app") {
			t.Errorf("the page is %d %s", p.status, p.body)
		}
	})
}

// ownSignIn is a program's own sign-in: it believes a cookie.
func ownSignIn(at *time.Time) server.SignIn {
	return func(w http.ResponseWriter, r *http.Request) *server.SignedIn {
		c, err := r.Cookie("ours")
		if err != nil {
			http.Redirect(w, r, "https://app.example.com/sign-in?back="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
			return nil
		}
		return &server.SignedIn{Username: "carol", Claims: user.Claims{Email: c.Value}, AuthTime: *at, ACR: "urn:example:gold", AMR: []string{"hwk"}}
	}
}

func TestProgramsOwnSignIn(t *testing.T) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			at := time.Now().Add(-time.Hour).Truncate(time.Second)
			w := newWorld(t, open, func(c *server.Config) { c.SignIn = ownSignIn(&at) })
			b := w.browser()
			p := b.get(b.get(newFlow("web").url()).location)
			if p.status != 303 || !strings.HasPrefix(p.location, "https://app.example.com/sign-in?back=%2Flogin%3Fcontinue%3D") {
				t.Fatalf("the browser is sent to %d %s", p.status, p.location)
			}
			b.setCookie("ours", "carol@example.com")
			tok := b.tokens("web", "scope", "openid email")
			c := claimsOf(t, tok.id)
			if c["auth_time"] != float64(at.Unix()) || c["acr"] != "urn:example:gold" || c["amr"].([]any)[0] != "hwk" {
				t.Errorf("the ID token says %v", c)
			}
			carol := w.user("carol")
			if carol.Password != "" || c["sub"] != string(carol.ID) || w.userinfo(tok.access).str("email") != "carol@example.com" {
				t.Errorf("she is %+v", carol)
			}
			// No password opens the account, not even none.
			if p := b.post("/account/password", url.Values{"current_password": {""}, "new_password": {"a new long password"}}); p.status != 422 || w.user("carol").Password != "" {
				t.Errorf("setting a password is answered with %d", p.status)
			}
			// Claims are today's at each sign-in, the person stays the same.
			b.setCookie("ours", "new@example.com")
			at = time.Time{} // now
			if got := claimsOf(t, b.tokens("web", "prompt", "login").id)["sub"]; got != c["sub"] {
				t.Errorf("sub is %v, was %v", got, c["sub"])
			}
			if got := w.userinfo(tok.access).str("email"); got != "new@example.com" {
				t.Errorf("email is %q", got)
			}
			if err := w.store.PutUser(context.Background(), w.user("carol").Disable(w.clock.Now())); err != nil {
				t.Fatal(err)
			}
			if p := b.get("/login?continue=/account"); p.status != 403 || b.signedIn() {
				t.Errorf("a disabled user is answered with %d", p.status)
			}
		})
	}
}
