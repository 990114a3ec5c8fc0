package server_test

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
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/memdb"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/sqlitedb"
	"github.com/heirloom-auth/heirloom/user"
)

// engine is what the tests need of a store besides what the server needs.
type engine interface {
	server.Store
	keys.Store
	PutClient(ctx context.Context, c client.Client, events ...family.Event) error
	DeleteClient(ctx context.Context, id string, events ...family.Event) error
	DeleteUser(ctx context.Context, id user.ID, events ...family.Event) error
}

// clock is the store's: it runs and can be moved.
type clock struct {
	mu     sync.Mutex
	offset time.Duration // guarded by mu
	frozen time.Time     // guarded by mu; zero: it runs
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frozen.IsZero() {
		return c.frozen
	}
	return time.Now().Add(c.offset)
}

// Advance moves the clock by d, also backwards.
func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
	if !c.frozen.IsZero() {
		c.frozen = c.frozen.Add(d)
	}
}

// Freeze stops the clock, so that boundaries can be met to the millisecond.
func (c *clock) Freeze() {
	now := c.Now().Truncate(time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = now
}

// world is a whole server on loopback with one engine, known people and clients.
type world struct {
	t      testing.TB
	store  engine
	clock  *clock
	ring   *keys.Ring
	server *server.Server
	door   *atomic.Pointer[server.Server] // who answers at the address: another one after a restart
	ts     *httptest.Server
	issuer string
	logs   *syncBuffer
	reg    *prometheus.Registry
	secret map[string]string // client id → secret
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
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

// cheap is what password hashes cost in the tests, which sign in all the time.
var cheap = user.Params{Memory: 64, Time: 1, Threads: 1}

const (
	aliceName, alicePassword = "alice", "correct horse battery staple"
	bobName, bobPassword     = "bob", "tr0ub4dor and three"
	callback                 = "http://127.0.0.1/callback"
	apiURL                   = "https://api.example.com"
	otherURL                 = "https://other.example.com"
)

// opener opens an engine and the key ring that belongs to it.
type opener func(t testing.TB, issuer string, now func() time.Time) (engine, *keys.Ring)

// engines opens each engine, for tests that have to hold on all of them.
var engines = map[string]opener{
	"memory": func(t testing.TB, issuer string, now func() time.Time) (engine, *keys.Ring) {
		db := memdb.New(memdb.Config{Now: now})
		ring, err := openRing(context.Background(), db, issuer)
		if err != nil {
			t.Fatal(err)
		}
		return db, ring
	},
	"sqlite": func(t testing.TB, issuer string, now func() time.Time) (engine, *keys.Ring) {
		var ring *keys.Ring
		db, err := sqlitedb.Open(context.Background(), sqlitedb.Config{
			Path: filepath.Join(t.TempDir(), "heirloom.db"), Now: now,
			Keys: func(ctx context.Context, st keys.Store) (_ *keys.Ring, err error) {
				ring, err = openRing(ctx, st, issuer)
				return ring, err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Errorf("close store: %v", err)
			}
		})
		return db, ring
	},
}

// testKEK wraps the keys of all worlds.
var testKEK = sync.OnceValues(func() (keys.KEK, error) {
	return keys.ParseKEK("hkek_" + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
})

// testKeys are made once for all worlds: the RSA keys among them take longer than most
// tests. Worlds have issuers of their own, so that no token of one passes in another.
var testKeys = sync.OnceValues(func() ([]keys.Record, error) {
	kek, err := testKEK()
	if err != nil {
		return nil, err
	}
	st := memdb.New(memdb.Config{})
	if _, err := keys.Open(context.Background(), keys.Config{Store: st, KEK: kek, Issuer: "http://127.0.0.1", Log: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, err
	}
	return st.Keys(context.Background())
})

// openRing opens the key ring of a store, which gets the tests' keys.
func openRing(ctx context.Context, st keys.Store, issuer string) (*keys.Ring, error) {
	kek, err := testKEK()
	if err != nil {
		return nil, err
	}
	all, err := testKeys()
	if err != nil {
		return nil, err
	}
	for _, rec := range all {
		if err := st.PutKey(ctx, rec); err != nil {
			return nil, err
		}
	}
	return keys.Open(ctx, keys.Config{Store: st, KEK: kek, Issuer: issuer, Log: slog.New(slog.DiscardHandler)})
}

// onEngines runs a test on each engine.
func onEngines(t *testing.T, f func(t *testing.T, w *world)) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) { f(t, newWorld(t, open, nil)) })
	}
}

// newWorld starts a server. change may alter the configuration; nil leaves it.
func newWorld(t testing.TB, open opener, change func(*server.Config)) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{}, logs: &syncBuffer{}, reg: prometheus.NewRegistry(), secret: map[string]string{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.issuer = "http://" + l.Addr().String()
	w.store, w.ring = open(t, w.issuer, w.clock.Now)
	w.seed(context.Background())
	conf := server.Config{
		Issuer: w.issuer, Store: w.store, Keys: w.ring, Metrics: w.reg, Passwords: user.HasherConfig{Params: cheap},
		Log: slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: server.AlertLevel})),
	}
	if change != nil {
		change(&conf)
	}
	h, err := server.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	w.server = h
	w.door = new(atomic.Pointer[server.Server])
	w.door.Store(h)
	w.ts = &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.door.Load().ServeHTTP(rw, r)
	})}}
	w.ts.Start()
	t.Cleanup(w.ts.Close)
	return w
}

// seed makes two people and a client of each preset, all of them first-party but
// "third" and "third-native".
func (w *world) seed(ctx context.Context) {
	w.t.Helper()
	for name, password := range map[string]string{aliceName: alicePassword, bobName: bobPassword} {
		phc, err := user.HashPassword(password, cheap)
		if err != nil {
			w.t.Fatal(err)
		}
		var random [16]byte
		rand.Read(random[:])
		u := user.User{ID: user.NewID(random), Username: name, Status: user.Enabled, Password: phc, CreatedAt: w.clock.Now().Add(-time.Hour), PasswordAt: w.clock.Now().Add(-time.Hour),
			Claims: user.Claims{Name: "Alice Liddell", GivenName: "Alice", Email: name + "@example.com", EmailVerified: true, PhoneNumber: "+441632960000", Address: user.Address{Country: "UK"}}}
		if err := w.store.PutUser(ctx, u); err != nil {
			w.t.Fatal(err)
		}
	}
	code := []string{client.AuthorizationCode, client.RefreshToken}
	for _, c := range []client.Client{
		{ID: "spa", Auth: client.None, Preset: "browser", FirstParty: true, GrantTypes: code},
		{ID: "app", Auth: client.None, Preset: "native", FirstParty: true, GrantTypes: code},
		{ID: "app2", Auth: client.None, Preset: "native", FirstParty: true, GrantTypes: code},
		{ID: "strict", Auth: client.None, Preset: "strict", FirstParty: true, GrantTypes: code},
		{ID: "leeway", Auth: client.None, Preset: "strict", Policy: map[string]string{"leeway": "10s"}, FirstParty: true, GrantTypes: code},
		{ID: "web", Auth: client.Secret, Preset: "web", FirstParty: true, GrantTypes: append(code[:2:2], client.ClientCredentials), Introspects: []string{apiURL, otherURL}},
		{ID: "web2", Auth: client.Secret, Preset: "web", FirstParty: true, GrantTypes: code},
		{ID: "strictweb", Auth: client.Secret, Preset: "strict", FirstParty: true, GrantTypes: code},
		{ID: "norotate", Auth: client.Secret, Preset: "fapi", FirstParty: true, GrantTypes: code},
		{ID: "norefresh", Auth: client.None, Preset: "native", FirstParty: true, GrantTypes: code[:1]},
		{ID: "third", Auth: client.Secret, Preset: "web", GrantTypes: code, RedirectURIs: []string{"https://third.example.com/cb"}},
		{ID: "third-native", Auth: client.None, Preset: "native", GrantTypes: code},
	} {
		c.Name = "Client " + c.ID
		c.Status = client.Enabled
		c.Scopes = []string{"openid", "profile", "email", "address", "phone", "offline_access", "read", "write"}
		c.Audience, c.Resources = []string{apiURL}, []string{otherURL}
		if c.RedirectURIs == nil {
			c.RedirectURIs = []string{callback}
		}
		c.PostLogoutRedirectURIs = []string{"https://" + c.ID + ".example.com/bye"}
		c.CreatedAt = w.clock.Now()
		if c.Auth == client.Secret {
			var random [32]byte
			rand.Read(random[:])
			text, h := client.NewSecret(random, time.Now())
			w.secret[c.ID], c.Secrets = text, []client.Hash{h}
		}
		if err := c.Check(); err != nil {
			w.t.Fatalf("client %s: %v", c.ID, err)
		}
		if err := w.store.PutClient(ctx, c); err != nil {
			w.t.Fatal(err)
		}
	}
}

// updateClient changes a client as an administrator would.
func (w *world) updateClient(id string, change func(*client.Client)) {
	w.t.Helper()
	c, err := w.store.Client(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	change(&c)
	if err := c.Check(); err != nil {
		w.t.Fatalf("client %s: %v", id, err)
	}
	if err := w.store.PutClient(context.Background(), c); err != nil {
		w.t.Fatal(err)
	}
}

// user returns a user as stored.
func (w *world) user(name string) user.User {
	w.t.Helper()
	u, err := w.store.UserByName(context.Background(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

// family returns the stored state of the family a token belongs to.
func (w *world) family(token string) family.State {
	w.t.Helper()
	t, ok := family.Read(token, strings.HasPrefix(token, family.CodePrefix), w.ring.CheckMAC)
	if !ok {
		w.t.Fatalf("%q is not a token of ours", token)
	}
	st, _, err := w.store.Load(context.Background(), t.Family)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// events returns the events of a token's family, newest first.
func (w *world) events(token string) []family.Event {
	w.t.Helper()
	es, err := w.store.Events(context.Background(), family.EventQuery{Family: w.family(token).ID})
	if err != nil {
		w.t.Fatal(err)
	}
	return es
}

// reply is an answer of an endpoint for programs.
type reply struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

func (r reply) str(name string) string { s, _ := r.body[name].(string); return s }

// post sends a form. auth is "id" or "id:secret" for Basic, "" for none; form values
// come in pairs.
func (w *world) post(path string, header http.Header, pairs ...string) reply {
	w.t.Helper()
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	req, err := http.NewRequest("POST", w.issuer+path, strings.NewReader(v.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	for k, vs := range header {
		req.Header[k] = vs
	}
	if req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return w.do(req)
}

// do sends a request and reads its answer.
func (w *world) do(req *http.Request) reply {
	w.t.Helper()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	r := reply{status: res.StatusCode, header: res.Header, raw: string(b)}
	_ = json.Unmarshal(b, &r.body) // not every answer is JSON; tests that need a member fail on it
	return r
}

// as returns the parameters with which a client names and authenticates itself.
func (w *world) as(clientID string) []string {
	if s := w.secret[clientID]; s != "" {
		return []string{"client_id", clientID, "client_secret", s}
	}
	return []string{"client_id", clientID}
}

// refresh uses a refresh token.
func (w *world) refresh(clientID, token string, more ...string) reply {
	w.t.Helper()
	return w.post("/oauth2/token", nil, append(append(w.as(clientID), "grant_type", "refresh_token", "refresh_token", token), more...)...)
}

// refreshKey is refresh with an Idempotency-Key.
func (w *world) refreshKey(clientID, token, key string, more ...string) reply {
	w.t.Helper()
	return w.post("/oauth2/token", http.Header{"Idempotency-Key": {key}},
		append(append(w.as(clientID), "grant_type", "refresh_token", "refresh_token", token), more...)...)
}

// must fails the test unless the answer is 200.
func (r reply) must(t testing.TB) reply {
	t.Helper()
	if r.status != 200 {
		t.Fatalf("answer is %d %s, want 200", r.status, r.raw)
	}
	return r
}

// refused fails the test unless the answer is the one refusal there is.
func (r reply) refused(t testing.TB) reply {
	t.Helper()
	if r.status != 400 || r.str("error") != "invalid_grant" || r.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("answer is %d %s, want 400 invalid_grant", r.status, r.raw)
	}
	return r
}

// errs fails the test unless the answer has this status and error.
func (r reply) errs(t testing.TB, status int, code string) reply {
	t.Helper()
	if r.status != status || r.str("error") != code {
		t.Fatalf("answer is %d %s, want %d %s", r.status, r.raw, status, code)
	}
	return r
}

// active introspects a token as the API's resource server.
func (w *world) active(token string) bool {
	w.t.Helper()
	r := w.post("/oauth2/introspect", nil, append(w.as("web"), "token", token)...).must(w.t)
	on, _ := r.body["active"].(bool)
	return on
}

// browser is a person's browser: cookies, no redirects followed by itself.
type browser struct {
	w    *world
	http *http.Client
	ua   string
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return &browser{w: w, ua: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", http: &http.Client{
		Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// page is what a browser shows.
type shownPage struct {
	status   int
	header   http.Header
	location string
	body     string
}

func (b *browser) get(target string) shownPage {
	b.w.t.Helper()
	return b.send("GET", target, nil)
}

func (b *browser) post(target string, v url.Values) shownPage {
	b.w.t.Helper()
	return b.send("POST", target, v)
}

func (b *browser) send(method, target string, v url.Values) shownPage {
	b.w.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = b.w.issuer + target
	}
	req, err := http.NewRequest(method, target, strings.NewReader(v.Encode()))
	if err != nil {
		b.w.t.Fatal(err)
	}
	if method == "POST" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", b.w.issuer)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	req.Header.Set("User-Agent", b.ua)
	res, err := b.http.Do(req)
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return shownPage{res.StatusCode, res.Header, res.Header.Get("Location"), string(body)}
}

var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// fields returns the hidden fields of a page.
func (p shownPage) fields() url.Values {
	v := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(p.body, -1) {
		v.Set(m[1], strings.NewReplacer("&amp;", "&", "&#43;", "+", "&#34;", `"`, "&#39;", "'").Replace(m[2]))
	}
	return v
}

// flow is one authorization request.
type flow struct {
	clientID, redirect, verifier, state string
	params                              url.Values
}

func newFlow(clientID string, pairs ...string) *flow {
	var random [32]byte
	rand.Read(random[:])
	f := &flow{clientID: clientID, redirect: callback, verifier: base64.RawURLEncoding.EncodeToString(random[:]), state: "st-" + clientID}
	if clientID == "third" {
		f.redirect = "https://third.example.com/cb"
	}
	sum := sha256.Sum256([]byte(f.verifier))
	f.params = url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {f.redirect}, "state": {f.state},
		"scope": {"openid read write offline_access"}, "nonce": {"n-1"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	for i := 0; i < len(pairs); i += 2 {
		f.params.Del(pairs[i])
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			f.params.Add(pairs[i], pairs[i+1])
		}
	}
	return f
}

func (f *flow) url() string { return "/oauth2/authorize?" + f.params.Encode() }

// walk goes through sign-in and consent as a person would, until the browser is sent to
// the client, and returns the answer's parameters.
func (b *browser) walk(f *flow, name, password string) url.Values {
	b.w.t.Helper()
	p := b.get(f.url())
	for range 8 {
		switch {
		case p.status == 303 && strings.HasPrefix(p.location, f.redirect):
			u, err := url.Parse(p.location)
			if err != nil {
				b.w.t.Fatal(err)
			}
			return u.Query()
		case p.status == 303:
			p = b.get(p.location)
		case strings.Contains(p.body, `id="sign-in"`):
			v := p.fields()
			v.Set("username", name)
			v.Set("password", password)
			p = b.post("/login", v)
			if p.status != 303 {
				b.w.t.Fatalf("sign-in as %s is answered with %d: %s", name, p.status, p.body)
			}
		case strings.Contains(p.body, `id="consent"`):
			v := p.fields()
			v.Set("decision", "allow")
			p = b.post("/consent", v)
		default:
			b.w.t.Fatalf("the browser shows %d: %s", p.status, p.body)
		}
	}
	b.w.t.Fatal("the browser goes round in circles")
	return nil
}

// code signs alice in, if she is not, and returns a code.
func (b *browser) code(f *flow) string {
	b.w.t.Helper()
	v := b.walk(f, aliceName, alicePassword)
	if v.Get("code") == "" || v.Get("state") != f.state || v.Get("iss") != b.w.issuer {
		b.w.t.Fatalf("the client was answered with %v", v)
	}
	return v.Get("code")
}

// exchange turns a code into tokens.
func (w *world) exchange(f *flow, code string, more ...string) reply {
	w.t.Helper()
	return w.post("/oauth2/token", nil, append(append(w.as(f.clientID), "grant_type", "authorization_code", "code", code,
		"redirect_uri", f.redirect, "code_verifier", f.verifier), more...)...)
}

// tokens is what a client holds.
type tokens struct{ access, refresh, id string }

func (r reply) tokens() tokens {
	return tokens{r.str("access_token"), r.str("refresh_token"), r.str("id_token")}
}

// signIn gives alice a fresh browser and family at a client.
func (w *world) signIn(clientID string, pairs ...string) tokens {
	w.t.Helper()
	f := newFlow(clientID, pairs...)
	return w.exchange(f, w.browser().code(f)).must(w.t).tokens()
}

// claimsOf decodes a JWT's payload without checking it.
func claimsOf(t testing.TB, jwt string) map[string]any {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is not a JWT", jwt)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// dead fails the test unless the family of a token is dead in every way: no member is
// accepted, no access token is active, and exactly one event says why.
func (w *world) dead(clientID string, why family.Reason, refresh []string, access []string) {
	w.t.Helper()
	for _, t := range refresh {
		w.refresh(clientID, t).refused(w.t)
	}
	for _, a := range access {
		if w.active(a) {
			w.t.Errorf("an access token of a dead family is active")
		}
	}
	st := w.family(refresh[0])
	if st.Status != family.Revoked || st.Reason != why {
		w.t.Errorf("family is %d for %v, want revoked for %v", st.Status, st.Reason, why)
	}
	n := 0
	for _, e := range w.events(refresh[0]) {
		if e.Kind == family.FamilyRevoked {
			n++
			if e.Reason != why {
				w.t.Errorf("the event says %v, want %v", e.Reason, why)
			}
		}
	}
	if n != 1 {
		w.t.Errorf("%d family_revoked events, want 1", n)
	}
}

func TestSignInRefreshReplay(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("strict")
		second := w.refresh("strict", first.refresh).must(t).tokens()
		if first.refresh == second.refresh || !w.active(second.access) || !w.active(first.access) {
			t.Fatal("rotation gave no new token, or an access token is not active")
		}
		w.refresh("strict", first.refresh).refused(t)
		w.dead("strict", family.Reused, []string{first.refresh, second.refresh}, []string{first.access, second.access})
		if !strings.Contains(w.logs.String(), `"level":"ALERT"`) {
			t.Error("no ALERT in the log")
		}
	})
}
