package demo_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/cmd/heirloom/demo"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/memdb"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/user"
)

// world is a server with the demo mounted beside it, as the dev mode does it.
type world struct {
	t              *testing.T
	issuer, secret string
	logs           *syncBuffer
	introspects    atomic.Pointer[http.HandlerFunc] // answers instead of the server; nil: the server does
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const password = "correct horse battery staple"

// newWorld starts a server whose issuer has a path, so that the demo is seen to keep it.
func newWorld(t *testing.T) *world {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, issuer: "http://" + l.Addr().String() + "/id", logs: &syncBuffer{}}
	ctx, store := context.Background(), memdb.New(memdb.Config{})
	kek, err := keys.ParseKEK("hkek_" + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.Open(ctx, keys.Config{Store: store, KEK: kek, Issuer: w.issuer})
	if err != nil {
		t.Fatal(err)
	}
	phc, err := user.HashPassword(password, user.Params{Memory: 64, Time: 1, Threads: 1}) // cheap: not what is tested
	if err != nil {
		t.Fatal(err)
	}
	var random [16]byte
	rand.Read(random[:])
	now := time.Now().Add(-time.Hour)
	if err := store.PutUser(ctx, user.User{ID: user.NewID(random), Username: "alice", Status: user.Enabled, Password: phc, CreatedAt: now, PasswordAt: now}); err != nil {
		t.Fatal(err)
	}
	var secretBytes [32]byte
	rand.Read(secretBytes[:])
	secret, hash := client.NewSecret(secretBytes, now)
	w.secret = secret
	api := w.issuer + "/demo/api"
	code := []string{client.AuthorizationCode, client.RefreshToken}
	for _, c := range []client.Client{
		{ID: "demo-browser", Auth: client.None, Preset: "browser", GrantTypes: code, Audience: []string{api}, Resources: []string{"https://other.example.com"}},
		{ID: "demo-web", Auth: client.Secret, Preset: "web", GrantTypes: append(code[:2:2], client.ClientCredentials), Audience: []string{api},
			Resources: []string{"https://other.example.com"}, Introspects: []string{api, "https://other.example.com"}, Secrets: []client.Hash{hash}},
	} {
		c.Name, c.Status, c.FirstParty, c.CreatedAt = c.ID, client.Enabled, true, now
		c.Scopes = []string{"openid", "profile", "offline_access", "demo.read"}
		c.RedirectURIs, c.PostLogoutRedirectURIs = []string{w.issuer + "/demo/"}, []string{w.issuer + "/demo/"}
		if err := c.Check(); err != nil {
			t.Fatalf("client %s: %v", c.ID, err)
		}
		if err := store.PutClient(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h, err := server.New(server.Config{Issuer: w.issuer, Store: store, Keys: ring, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	d, err := demo.Handler(demo.Config{Issuer: w.issuer, ClientID: "demo-browser", IntrospectID: "demo-web", IntrospectSecret: secret, APIURL: api, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", h)
	mux.Handle("/id/demo/", d)
	mux.HandleFunc("/id/oauth2/introspect", func(rw http.ResponseWriter, r *http.Request) {
		if instead := w.introspects.Load(); instead != nil {
			(*instead)(rw, r)
			return
		}
		h.ServeHTTP(rw, r)
	})
	ts := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	ts.Start()
	t.Cleanup(ts.Close)
	return w
}

type reply struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

func (r reply) str(name string) string { s, _ := r.body[name].(string); return s }

// send makes one request; headers come in pairs.
func (w *world) send(method, target string, body url.Values, headers ...string) reply {
	w.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = w.issuer + target
	}
	req, err := http.NewRequest(method, target, strings.NewReader(body.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	r := reply{status: res.StatusCode, header: res.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &r.body) // pages are not JSON; tests that need a member fail on it
	return r
}

// call calls the API with a token.
func (w *world) call(token string) reply {
	w.t.Helper()
	return w.send("GET", "/demo/api", nil, "Authorization", "Bearer "+token)
}

// want fails the test unless the answer has this status and says this in its challenge.
func (r reply) want(t *testing.T, status int, code string) reply {
	t.Helper()
	challenge := r.header.Get("WWW-Authenticate")
	if r.status != status || r.header.Get("Cache-Control") != "no-store" || r.header.Get("Access-Control-Allow-Origin") != "*" || r.header.Get("Access-Control-Allow-Credentials") != "" {
		t.Fatalf("answer is %d %v %s, want %d, not cached, for any origin without credentials", r.status, r.header, r.raw, status)
	}
	if status < 400 {
		return r
	}
	if status == 400 || status == 401 || status == 403 {
		if !strings.HasPrefix(challenge, `Bearer realm="heirloom demo"`) || strings.Contains(challenge, "error=") != (code != "") || !strings.Contains(challenge, code) {
			t.Fatalf("challenge is %q, want error %q", challenge, code)
		}
	}
	return r
}

var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// signIn takes alice through the pages and returns the token response.
func (w *world) signIn(pairs ...string) reply {
	w.t.Helper()
	verifier := strings.Repeat("v", 43)
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{"response_type": {"code"}, "client_id": {"demo-browser"}, "redirect_uri": {w.issuer + "/demo/"}, "state": {"s"},
		"scope": {"openid profile offline_access demo.read"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	var back *url.URL
	c := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Path == "/id/demo/" {
			back = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	read := func(res *http.Response, err error) string {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			w.t.Fatal(err)
		}
		return string(b)
	}
	page := read(c.Get(w.issuer + "/oauth2/authorize?" + q.Encode()))
	form := url.Values{"username": {"alice"}, "password": {password}}
	for _, m := range hidden.FindAllStringSubmatch(page, -1) {
		form.Set(m[1], strings.NewReplacer("&amp;", "&", "&#43;", "+").Replace(m[2]))
	}
	req, err := http.NewRequest("POST", w.issuer+"/login", strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	last := read(c.Do(req))
	if back == nil || back.Query().Get("code") == "" {
		w.t.Fatalf("the browser did not come back with a code: %v %s", back, last)
	}
	r := w.send("POST", "/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {"demo-browser"},
		"code": {back.Query().Get("code")}, "redirect_uri": {w.issuer + "/demo/"}, "code_verifier": {verifier}})
	if r.status != 200 {
		w.t.Fatalf("token endpoint answers %d %s", r.status, r.raw)
	}
	return r
}

// own returns a token of the confidential client itself.
func (w *world) own(pairs ...string) string {
	w.t.Helper()
	v := url.Values{"grant_type": {"client_credentials"}, "client_id": {"demo-web"}, "client_secret": {w.secret}}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	r := w.send("POST", "/oauth2/token", v)
	if r.status != 200 {
		w.t.Fatalf("token endpoint answers %d %s", r.status, r.raw)
	}
	return r.str("access_token")
}

func TestAPITellsAPersonsTokenWhatItIs(t *testing.T) {
	w := newWorld(t)
	tokens := w.signIn()
	r := w.call(tokens.str("access_token")).want(t, 200, "")
	for _, name := range []string{"sub", "fam", "jti", "sid", "scope", "client_id", "message"} {
		if r.str(name) == "" {
			t.Errorf("%s is missing: %s", name, r.raw)
		}
	}
	for _, name := range []string{"exp", "iat", "now"} {
		if n, _ := r.body[name].(float64); n < 1e9 {
			t.Errorf("%s is %v, want seconds since 1970", name, r.body[name])
		}
	}
	if r.str("aud") != w.issuer+"/demo/api" || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("answer is %v %s", r.header, r.raw)
	}
	if h := w.send("HEAD", "/demo/api", nil, "Authorization", "Bearer "+tokens.str("access_token")); h.status != 200 || h.raw != "" {
		t.Errorf("HEAD is answered with %d %q", h.status, h.raw)
	}
}

func TestAPIRefusesARevokedFamilyAtOnce(t *testing.T) {
	w := newWorld(t)
	tokens := w.signIn()
	w.call(tokens.str("access_token")).want(t, 200, "")
	if r := w.send("POST", "/oauth2/revoke", url.Values{"client_id": {"demo-browser"}, "token": {tokens.str("refresh_token")}}); r.status != 200 {
		t.Fatalf("revoke is answered with %d %s", r.status, r.raw)
	}
	w.call(tokens.str("access_token")).want(t, 401, "invalid_token")
}

func TestAPIRefusesEveryTokenOfAFamilyThatAThiefHasShown(t *testing.T) {
	w := newWorld(t)
	first := w.signIn()
	refresh := func(token, agent string) reply {
		return w.send("POST", "/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"demo-browser"}, "refresh_token": {token}}, "User-Agent", agent)
	}
	second := refresh(first.str("refresh_token"), "owner/1")
	if second.status != 200 {
		t.Fatalf("refresh is answered with %d %s", second.status, second.raw)
	}
	w.call(first.str("access_token")).want(t, 200, "")
	w.call(second.str("access_token")).want(t, 200, "")
	if r := refresh(first.str("refresh_token"), "thief/1"); r.status != 400 || r.str("error") != "invalid_grant" {
		t.Fatalf("the thief is answered with %d %s", r.status, r.raw)
	}
	w.call(first.str("access_token")).want(t, 401, "invalid_token")
	w.call(second.str("access_token")).want(t, 401, "invalid_token")
}

func TestAPIRefusesTokensForOthers(t *testing.T) {
	w := newWorld(t)
	// Active, and the issuer tells demo-web so: it may introspect for the other API, too.
	w.call(w.signIn("resource", "https://other.example.com").str("access_token")).want(t, 401, "invalid_token")
	w.call(w.own("resource", "https://other.example.com")).want(t, 401, "invalid_token")
	w.call(w.own()).want(t, 200, "")
}

func TestAPIRefusesWhatIsNoAccessToken(t *testing.T) {
	w := newWorld(t)
	tokens := w.signIn()
	for name, token := range map[string]string{
		"a refresh token": tokens.str("refresh_token"), "an ID token": tokens.str("id_token"), "nonsense": "nonsense",
		"a broken signature": tokens.str("access_token")[:len(tokens.str("access_token"))-4] + "AAAA", "a novel": strings.Repeat("x", 20<<10),
	} {
		t.Run(name, func(t *testing.T) { w.call(token).want(t, 401, "invalid_token") })
	}
}

func TestAPINeedsAScope(t *testing.T) {
	w := newWorld(t)
	r := w.call(w.own("scope", "profile")).want(t, 403, "insufficient_scope")
	if !strings.Contains(r.header.Get("WWW-Authenticate"), `scope="demo.read"`) {
		t.Errorf("challenge is %q, want the scope that is needed", r.header.Get("WWW-Authenticate"))
	}
	w.call(w.own("scope", "demo.read")).want(t, 200, "")
}

func TestAPITakesATokenFromOneHeaderOnly(t *testing.T) {
	w := newWorld(t)
	token := w.signIn().str("access_token")
	w.send("GET", "/demo/api", nil).want(t, 401, "") // RFC 6750 §3.1: the scheme, and no error
	w.send("GET", "/demo/api", nil, "Authorization", "Basic YTpi").want(t, 401, "")
	w.send("GET", "/demo/api", nil, "Authorization", "bearer "+token).want(t, 200, "")
	w.send("GET", "/demo/api?access_token="+token, nil).want(t, 400, "invalid_request")
	w.send("GET", "/demo/api?access_token="+token, nil, "Authorization", "Bearer "+token).want(t, 400, "invalid_request")
	w.send("GET", "/demo/api", nil, "Authorization", "Bearer "+token, "Authorization", "Bearer "+token).want(t, 400, "invalid_request")
	if r := w.send("POST", "/demo/api", url.Values{"access_token": {token}}).want(t, 405, ""); r.header.Get("Allow") == "" {
		t.Error("405 without Allow")
	}
}

func TestAPILetsAnyOriginAsk(t *testing.T) {
	w := newWorld(t)
	r := w.send("OPTIONS", "/demo/api", nil, "Origin", "https://app.example.com", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization").want(t, 204, "")
	if r.header.Get("Access-Control-Allow-Headers") != "Authorization" || !strings.Contains(r.header.Get("Access-Control-Allow-Methods"), "GET") {
		t.Errorf("preflight is answered with %v", r.header)
	}
	if e := w.send("GET", "/demo/api", nil, "Origin", "https://app.example.com").header.Get("Access-Control-Expose-Headers"); !strings.Contains(e, "WWW-Authenticate") {
		t.Errorf("exposed are %q", e)
	}
}

func TestAPIThatCannotAskSaysLaterAndNot401(t *testing.T) {
	w := newWorld(t)
	token := w.signIn().str("access_token")
	for name, f := range map[string]http.HandlerFunc{
		"503":     func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(503) },
		"refused": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(401); io.WriteString(rw, "{}") },
		"no JSON": func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "<html>") },
		"hung up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"redirect": func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.introspects.Store(&f)
			if r := w.call(token).want(t, 503, ""); r.header.Get("Retry-After") == "" || r.header.Get("WWW-Authenticate") != "" {
				t.Errorf("answer is %v, want Retry-After and no challenge", r.header)
			}
		})
	}
	w.introspects.Store(nil)
	w.call(token).want(t, 200, "")
	if strings.Contains(w.logs.String(), token) || strings.Contains(w.logs.String(), w.secret) {
		t.Error("a token or the secret is in the log")
	}
}

func TestAPIBelievesOnlyAnActiveBearerToken(t *testing.T) {
	w := newWorld(t)
	for answer, status := range map[string]int{
		`{"active":true,"token_type":"Bearer","aud":"AUD","scope":"openid"}`:             200,
		`{"active":true,"token_type":"Bearer","aud":["x","AUD"],"scope":"openid"}`:       200,
		`{"active":false,"token_type":"Bearer","aud":"AUD","scope":"openid"}`:            401,
		`{"active":true,"token_type":"refresh_token","aud":"AUD","scope":"openid"}`:      401,
		`{"active":true,"token_type":"Bearer","aud":"AUD/","scope":"openid"}`:            401,
		`{"active":true,"token_type":"Bearer","scope":"openid"}`:                         401,
		`{"active":true,"token_type":"Bearer","aud":"AUD","scope":"openid2 demo.reads"}`: 403,
	} {
		var f http.HandlerFunc = func(rw http.ResponseWriter, _ *http.Request) {
			io.WriteString(rw, strings.ReplaceAll(answer, "AUD", w.issuer+"/demo/api"))
		}
		w.introspects.Store(&f)
		if r := w.call("x"); r.status != status {
			t.Errorf("%s is answered with %d %s, want %d", answer, r.status, r.raw, status)
		}
	}
}

func TestAppIsServedUnderAStrictPolicy(t *testing.T) {
	w := newWorld(t)
	for path, kind := range map[string]string{"/demo/": "text/html", "/demo/app.js": "text/javascript", "/demo/app.css": "text/css"} {
		r := w.send("GET", path, nil)
		if r.status != 200 || !strings.HasPrefix(r.header.Get("Content-Type"), kind) || len(r.raw) < 500 {
			t.Fatalf("%s is answered with %d %v, %d bytes", path, r.status, r.header, len(r.raw))
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options":  "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-cache", "Access-Control-Allow-Origin": "",
		} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if again := w.send("GET", path, nil, "If-None-Match", r.header.Get("ETag")); again.status != 304 {
			t.Errorf("%s, asked for again, is answered with %d", path, again.status)
		}
	}
	for _, path := range []string{"/demo/app.ts", "/demo/index.html", "/demo/app/", "/demo/.."} {
		if r := w.send("GET", path, nil); r.status == 200 {
			t.Errorf("%s is answered with 200", path)
		}
	}
	if r := w.send("POST", "/demo/", url.Values{}); r.status != 405 {
		t.Errorf("POST is answered with %d", r.status)
	}
}

// The page has nothing inline, and whatever it loads exists.
func TestAppLoadsOnlyWhatItsPolicyAllows(t *testing.T) {
	w := newWorld(t)
	html := w.send("GET", "/demo/", nil).raw
	for _, bad := range []string{"<style", " style=", "<script>", " onclick", "javascript:", w.secret} {
		if strings.Contains(html, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	refs := regexp.MustCompile(`(?:src|href)="([^"#][^"]*)"`).FindAllStringSubmatch(html, -1)
	if len(refs) < 5 {
		t.Fatalf("%d references in the page: has it changed its ways?", len(refs))
	}
	origin, _, _ := strings.Cut(w.issuer, "/id")
	for _, m := range refs {
		if r := w.send("GET", origin+m[1], nil); r.status != 200 {
			t.Errorf("%s is answered with %d", m[1], r.status)
		}
	}
	for _, want := range []string{`data-issuer="` + w.issuer + `"`, `data-client="demo-browser"`, `data-leeway="30000"`} {
		if !strings.Contains(html, want) {
			t.Errorf("the page does not say %s", want)
		}
	}
}

func TestHandlerRefusesAnIncompleteConfig(t *testing.T) {
	whole := demo.Config{Issuer: "http://127.0.0.1:1", ClientID: "a", IntrospectID: "b", IntrospectSecret: "c", APIURL: "http://127.0.0.1:1/demo/api"}
	if _, err := demo.Handler(whole); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*demo.Config){
		"Issuer":           func(c *demo.Config) { c.Issuer = "" },
		"slash":            func(c *demo.Config) { c.Issuer += "/" },
		"ClientID":         func(c *demo.Config) { c.ClientID = "" },
		"IntrospectID":     func(c *demo.Config) { c.IntrospectID = "" },
		"IntrospectSecret": func(c *demo.Config) { c.IntrospectSecret = "" },
		"APIURL":           func(c *demo.Config) { c.APIURL = "http://127.0.0.1:2/demo/api" },
	} {
		t.Run(name, func(t *testing.T) {
			c := whole
			change(&c)
			if _, err := demo.Handler(c); err == nil {
				t.Error("Handler took it")
			}
		})
	}
}

func TestAppCountsThePolicysLeeway(t *testing.T) {
	for leeway, want := range map[time.Duration]string{0: "30000", 1500 * time.Millisecond: "1500", -1: "0"} {
		h, err := demo.Handler(demo.Config{Issuer: "http://127.0.0.1:1", ClientID: "a", IntrospectID: "b", IntrospectSecret: "c", APIURL: "http://127.0.0.1:1/demo/api", Leeway: leeway})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/demo/", nil))
		if !strings.Contains(w.Body.String(), `data-leeway="`+want+`"`) {
			t.Errorf("leeway %v: the page does not say %s ms", leeway, want)
		}
	}
}
