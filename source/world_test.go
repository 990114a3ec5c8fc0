package source_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/memdb"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/source"
	"github.com/heirloom-auth/heirloom/user"
)

func TestMain(m *testing.M) {
	if os.Getenv("HEIRLOOM_SOURCE_CHILD") != "" {
		child()
		return
	}
	os.Exit(m.Run())
}

const (
	password = "correct horse battery staple"
	apiURL   = "https://api.example.com"
)

// world is a whole authorization server on loopback.
type world struct {
	t      testing.TB
	store  *memdb.DB
	issuer string
	addr   string
	http   *http.Server // guarded by mu
	served sync.WaitGroup
	mu     sync.Mutex
	secret string // of client "web"
	conf   server.Config
}

// testKeys are made once: the RSA keys among them take longer than most tests.
var testKeys = sync.OnceValues(func() ([]keys.Record, error) {
	st := memdb.New(memdb.Config{})
	if _, err := keys.Open(context.Background(), keys.Config{Store: st, KEK: kek(), Issuer: "http://127.0.0.1", Log: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, err
	}
	return st.Keys(context.Background())
})

func kek() keys.KEK {
	k, err := keys.ParseKEK("hkek_" + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		panic(err)
	}
	return k
}

func newWorld(t testing.TB) *world {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: memdb.New(memdb.Config{}), addr: l.Addr().String(), issuer: "http://" + l.Addr().String()}
	w.seed()
	w.start(l)
	t.Cleanup(w.kill)
	return w
}

func (w *world) seed() {
	w.t.Helper()
	ctx := context.Background()
	all, err := testKeys()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, rec := range all {
		if err := w.store.PutKey(ctx, rec); err != nil {
			w.t.Fatal(err)
		}
	}
	ring, err := keys.Open(ctx, keys.Config{Store: w.store, KEK: kek(), Issuer: w.issuer, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	cheap := user.Params{Memory: 64, Time: 1, Threads: 1}
	phc, err := user.HashPassword(password, cheap)
	if err != nil {
		w.t.Fatal(err)
	}
	var random [16]byte
	rand.Read(random[:])
	past := time.Now().Add(-time.Hour)
	if err := w.store.PutUser(ctx, user.User{ID: user.NewID(random), Username: "alice", Status: user.Enabled, Password: phc, CreatedAt: past, PasswordAt: past}); err != nil {
		w.t.Fatal(err)
	}
	for _, c := range []client.Client{
		{ID: "strict", Auth: client.None, Preset: "strict"},
		{ID: "brief", Auth: client.None, Preset: "strict", Policy: map[string]string{"access_ttl": "2s"}},
		{ID: "web", Auth: client.Secret, Preset: "strict"},
		{ID: "fapi", Auth: client.Secret, Preset: "fapi"},
	} {
		c.Name, c.Status, c.FirstParty = "Client "+c.ID, client.Enabled, true
		c.GrantTypes = []string{client.AuthorizationCode, client.RefreshToken}
		c.Scopes = []string{"openid", "offline_access", "read", "write"}
		c.Audience, c.CreatedAt = []string{apiURL}, past
		c.RedirectURIs = []string{"http://127.0.0.1/callback"}
		if c.Auth == client.Secret {
			var random [32]byte
			copy(random[:], "the same secret for both of them")
			text, h := client.NewSecret(random, past)
			w.secret, c.Secrets = text, []client.Hash{h}
		}
		if err := c.Check(); err != nil {
			w.t.Fatalf("client %s: %v", c.ID, err)
		}
		if err := w.store.PutClient(ctx, c); err != nil {
			w.t.Fatal(err)
		}
	}
	w.conf = server.Config{Issuer: w.issuer, Store: w.store, Keys: ring, Passwords: user.HasherConfig{Params: cheap}, Log: slog.New(slog.DiscardHandler)}
}

// start serves, as a process that has just been started does.
func (w *world) start(l net.Listener) {
	h, err := server.New(w.conf)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	w.http = srv
	w.served.Go(func() { _ = srv.Serve(l) })
}

// kill cuts all connections at once.
func (w *world) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.http.Close()
	w.served.Wait()
}

// restart starts the server again at its address.
func (w *world) restart() {
	w.t.Helper()
	for range 100 {
		if l, err := net.Listen("tcp", w.addr); err == nil {
			w.start(l)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatal("the server's address is taken")
}

func (w *world) endpoints() source.Endpoints {
	return source.Endpoints{
		Issuer: w.issuer, Authorize: w.issuer + "/oauth2/authorize",
		Token: w.issuer + "/oauth2/token", Revoke: w.issuer + "/oauth2/revoke", NamesIssuer: true,
	}
}

var quiet = slog.New(slog.DiscardHandler)

// source returns a Source of a client with a store.
func (w *world) source(clientID string, st source.Store, change func(*source.Config)) *source.Source {
	w.t.Helper()
	tr := &http.Transport{}
	c := source.Config{Endpoints: w.endpoints(), ClientID: clientID, Store: st, HTTP: &http.Client{Transport: tr}, Log: quiet}
	if clientID == "web" || clientID == "fapi" {
		c.ClientSecret = w.secret
	}
	if change != nil {
		change(&c)
	}
	s, err := source.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close(); tr.CloseIdleConnections() })
	return s
}

var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// walk is a person with a browser: it opens a URL, signs in as alice, and follows every
// redirect, also to the program's own port. It returns the last page.
func (w *world) walk(start string) (string, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return "", err
	}
	tr := &http.Transport{DisableKeepAlives: true}
	hc := &http.Client{Jar: jar, Transport: tr}
	res, err := hc.Get(start)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || !strings.Contains(string(b), `id="sign-in"`) {
		return string(b), err
	}
	v := url.Values{"username": {"alice"}, "password": {password}}
	for _, m := range hidden.FindAllStringSubmatch(string(b), -1) {
		v.Set(m[1], strings.NewReplacer("&amp;", "&", "&#43;", "+", "&#34;", `"`, "&#39;", "'").Replace(m[2]))
	}
	req, err := http.NewRequest("POST", w.issuer+"/login", strings.NewReader(v.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", w.issuer)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if res, err = hc.Do(req); err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err = io.ReadAll(res.Body)
	return string(b), err
}

// signIn begins a session of alice in a source.
func (w *world) signIn(s *source.Source) source.Tokens {
	w.t.Helper()
	opened := make(chan error, 1)
	err := s.SignIn(context.Background(), source.SignIn{Scopes: []string{"openid", "read", "offline_access"}, Timeout: 20 * time.Second, Open: func(u string) error {
		go func() {
			_, err := w.walk(u)
			opened <- err
		}()
		return nil
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := <-opened; err != nil {
		w.t.Fatal(err)
	}
	t, err := s.Token(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

// family returns the stored state of the family that an access token belongs to.
func (w *world) family(t source.Tokens) family.State {
	w.t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(t.AccessToken, ".")[1])
	if err != nil {
		w.t.Fatal(err)
	}
	var c struct {
		Family string `json:"fam"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		w.t.Fatal(err)
	}
	id, err := family.ParseID(c.Family)
	if err != nil {
		w.t.Fatal(err)
	}
	st, _, err := w.store.Load(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// live fails the test unless a session's family is alive.
func (w *world) live(t source.Tokens) family.State {
	w.t.Helper()
	st := w.family(t)
	if st.Status != family.Live {
		w.t.Fatalf("the family is over: %v", st.Reason)
	}
	return st
}
