package verify_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/feed"
	"github.com/heirloom-auth/heirloom/verify"
)

// An issuer is an authorization server as far as a resource server sees it: metadata,
// keys, client credentials, the revocation feed and introspection, over real HTTP, with
// faults to order.
type issuer struct {
	t    testing.TB
	url  string
	http *http.Client // reaches it

	mu       sync.Mutex
	keys     []signer         // guarded by mu; published
	keysDown bool             // guarded by mu
	maxAge   string           // guarded by mu; of the keys' Cache-Control
	keysHold chan struct{}    // guarded by mu; answers of keys wait for it
	meta     map[string]any   // guarded by mu; over the defaults
	redirect string           // guarded by mu; of the metadata
	active   func(string) any // guarded by mu; introspection's answer

	keysAsked, tokensAsked, asked atomic.Int64
	feed                          *feedServer
}

type signer struct {
	kid  string
	alg  verify.Alg
	priv crypto.Signer
}

func newSigner(t testing.TB, kid string, alg verify.Alg) signer {
	t.Helper()
	var k crypto.Signer
	var err error
	switch alg {
	case verify.ES256:
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case verify.RS256, verify.PS256:
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	case verify.EdDSA:
		_, k, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, alg, k}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (s signer) jwk() map[string]any {
	j := map[string]any{"kid": s.kid, "alg": s.alg, "use": "sig"}
	switch pub := s.priv.Public().(type) {
	case *ecdsa.PublicKey:
		raw, err := pub.Bytes()
		if err != nil {
			panic(err)
		}
		j["kty"], j["crv"], j["x"], j["y"] = "EC", "P-256", b64(raw[1:33]), b64(raw[33:])
	case *rsa.PublicKey:
		j["kty"], j["n"], j["e"] = "RSA", b64(pub.N.Bytes()), "AQAB"
	case ed25519.PublicKey:
		j["kty"], j["crv"], j["x"] = "OKP", "Ed25519", b64(pub)
	}
	return j
}

// sign makes a compact JWS over any header and payload.
func (s signer) sign(t testing.TB, header, payload string) string {
	t.Helper()
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	var sig []byte
	var err error
	switch k := s.priv.(type) {
	case *ecdsa.PrivateKey:
		r, ss, e := ecdsa.Sign(rand.Reader, k, digest[:])
		err = e
		sig = make([]byte, 64)
		r.FillBytes(sig[:32])
		ss.FillBytes(sig[32:])
	case *rsa.PrivateKey:
		if s.alg == verify.PS256 {
			sig, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: 32})
		} else {
			sig, err = rsa.SignPKCS1v15(nil, k, crypto.SHA256, digest[:])
		}
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(input))
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64(sig)
}

// token makes an access token with the default header.
func (s signer) token(t testing.TB, claims map[string]any) string {
	t.Helper()
	return s.sign(t, fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"at+jwt"}`, s.alg, s.kid), toJSON(t, claims))
}

func toJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const audience = "https://api.example"

// claims is a good token of now, with changes; nil takes a claim away.
func (is *issuer) claims(changes map[string]any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{
		"iss": is.url, "sub": "usr_1", "aud": audience, "client_id": "web", "jti": "jti-" + strconv.Itoa(int(is.tokensAsked.Add(1))),
		"iat": now, "exp": now + 300, "scope": "notes.read notes.write", "fam": "fam-1", "sid": "sid-1",
		"auth_time": now - 60, "acr": "pwd", "amr": []string{"pwd"},
	}
	maps.Copy(c, changes)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

// good makes a token of the newest key.
func (is *issuer) good(t testing.TB, changes map[string]any) string {
	t.Helper()
	is.mu.Lock()
	k := is.keys[len(is.keys)-1]
	is.mu.Unlock()
	return k.token(t, is.claims(changes))
}

// pipes is a network inside the process, so that a story can be told in the time of
// testing/synctest.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// newIssuer starts an issuer with one ES256 key on a loopback port.
func newIssuer(t testing.TB) *issuer {
	t.Helper()
	is := &issuer{t: t, maxAge: "max-age=300", keys: []signer{newSigner(t, "k1", verify.ES256)}}
	is.feed = newFeedServer()
	srv := httptest.NewServer(is.routes())
	t.Cleanup(func() {
		is.feed.cut()
		srv.CloseClientConnections()
		srv.Close()
	})
	is.url, is.http = srv.URL, srv.Client()
	return is
}

// bubble starts an issuer on a network inside the process. The caller has to call close
// before its bubble ends.
func bubble(t testing.TB) (is *issuer, close func()) {
	t.Helper()
	is = &issuer{t: t, maxAge: "max-age=300", keys: []signer{newSigner(t, "k1", verify.ES256)}, url: "http://127.0.0.1:1"}
	is.feed = newFeedServer()
	ln := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	srv := &http.Server{Handler: is.routes()}
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(ln) })
	tr := &http.Transport{DialContext: ln.dial}
	is.http = &http.Client{Transport: tr}
	return is, func() {
		tr.CloseIdleConnections()
		_ = srv.Close()
		done.Wait()
	}
}

func (is *issuer) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /elsewhere", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": is.url, "jwks_uri": is.url + "/jwks"})
	})
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		is.mu.Lock()
		to := is.redirect
		doc := map[string]any{
			"issuer": is.url, "jwks_uri": is.url + "/jwks", "token_endpoint": is.url + "/token", "introspection_endpoint": is.url + "/introspect",
		}
		maps.Copy(doc, is.meta)
		is.mu.Unlock()
		if to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		_ = json.NewEncoder(w).Encode(doc)
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, r *http.Request) {
		is.keysAsked.Add(1)
		is.mu.Lock()
		hold := is.keysHold
		is.mu.Unlock()
		if hold != nil {
			select {
			case <-hold:
			case <-r.Context().Done():
				return
			}
		}
		is.mu.Lock()
		defer is.mu.Unlock()
		if is.keysDown {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		var all []map[string]any
		for _, k := range is.keys {
			all = append(all, k.jwk())
		}
		w.Header().Set("Cache-Control", is.maxAge)
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": all})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != "api" || secret != "s%2Bcret" || r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("scope") != "revocations" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		_, _ = io.WriteString(w, `{"access_token":"`+is.feed.newToken()+`","token_type":"Bearer","expires_in":300}`)
	})
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		is.asked.Add(1)
		id, secret, _ := r.BasicAuth()
		if id != "api" || secret != "s%2Bcret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		is.mu.Lock()
		answer := is.active(r.PostFormValue("token"))
		is.mu.Unlock()
		if answer == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	mux.HandleFunc("GET /oauth2/revocations", is.feed.serve)
	return mux
}

// with changes the issuer's behaviour.
func (is *issuer) with(f func()) {
	is.mu.Lock()
	defer is.mu.Unlock()
	f()
}

// A feedServer is a server of the stream. It tells the truth but where a fault was
// ordered.
type feedServer struct {
	mu      sync.Mutex
	history string          // guarded by mu
	entries []feed.Entry    // guarded by mu
	seqs    []uint64        // guarded by mu; their positions
	head    uint64          // guarded by mu; of all that happened, also what is not told
	oldest  uint64          // guarded by mu; a reader before it gets a snapshot
	hidden  map[uint64]bool // guarded by mu; entries that are never told
	change  chan struct{}   // guarded by mu; closed by the next change
	down    bool            // guarded by mu; new connections get 503
	silent  bool            // guarded by mu; connections stand and say nothing
	step    time.Duration   // guarded by mu; how far its clock is off
	raw     string          // guarded by mu; said once, before the next frame
	brief   bool            // guarded by mu; connections end after Ready
	noReset bool            // guarded by mu; snapshots are not announced
	short   int             // guarded by mu; entries left out of snapshots
	readyIn time.Duration   // guarded by mu; pause before Ready
	epoch   chan struct{}   // guarded by mu; closed: connections are cut
	hangUp  chan struct{}   // guarded by mu; closed: connections end in good order
	resumed []string        // guarded by mu; Last-Event-ID of each connection, "" = none
	issued  int             // guarded by mu; access tokens
	refused map[string]bool // guarded by mu; access tokens that count no more
	beat    time.Duration
	stands  atomic.Int64
}

func newFeedServer() *feedServer {
	return &feedServer{
		history: "h1", change: make(chan struct{}), epoch: make(chan struct{}), hangUp: make(chan struct{}), hidden: map[uint64]bool{},
		refused: map[string]bool{}, beat: 5 * time.Second,
	}
}

func (s *feedServer) newToken() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued++
	return fmt.Sprintf("feed-token-%d", s.issued)
}

// with changes its behaviour; connections notice at once.
func (s *feedServer) with(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.change)
	s.change = make(chan struct{})
}

// revoke tells an entry.
func (s *feedServer) revoke(e feed.Entry) {
	s.with(func() { s.put(e) })
}

// put adds an entry; the caller holds mu.
func (s *feedServer) put(e feed.Entry) {
	s.head++
	s.entries, s.seqs = append(s.entries, e), append(s.seqs, s.head)
}

func (s *feedServer) revokeFamily(id string) {
	s.revoke(feed.Entry{Kind: feed.Family, ID: id, Reason: "reuse", Until: time.Now().Unix() + 600})
}

// cut ends all connections.
func (s *feedServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.epoch)
	s.epoch = make(chan struct{})
}

// end lets all connections end in good order.
func (s *feedServer) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.hangUp)
	s.hangUp = make(chan struct{})
}

func (s *feedServer) connections() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.resumed...)
}

func (s *feedServer) serve(w http.ResponseWriter, r *http.Request) {
	s.stands.Add(1)
	defer s.stands.Add(-1)
	auth := r.Header.Get("Authorization")
	s.mu.Lock()
	epoch, hangUp, down, refused := s.epoch, s.hangUp, s.down, s.refused[auth] || len(auth) < 10
	s.resumed = append(s.resumed, r.Header.Get("Last-Event-ID"))
	s.mu.Unlock()
	if down || refused {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(map[bool]int{true: 503, false: 401}[down])
		_, _ = io.WriteString(w, `{"error":"invalid_token"}`)
		return
	}
	w.Header().Set("Content-Type", feed.MediaType)
	out := http.NewResponseController(w)
	say := func(f feed.Frame) {
		b, err := feed.AppendFrame(nil, f)
		if err != nil {
			panic(err)
		}
		_, _ = w.Write(b)
	}
	var told uint64
	mark := func() feed.Mark { // the caller holds mu
		return feed.Mark{Head: s.head, Now: time.Now().Add(s.step).UnixMilli(), Live: len(s.entries)}
	}
	id := func(n uint64) string { return feed.Position{History: s.history, Seq: n}.String() }
	s.mu.Lock()
	pos, ok := feed.ParsePosition(r.Header.Get("Last-Event-ID"))
	if ok && pos.History == s.history && pos.Seq >= s.oldest && pos.Seq <= s.head {
		told = pos.Seq
	} else {
		if !s.noReset {
			say(feed.Frame{Event: feed.Reset, Mark: mark()})
		}
		for i, e := range s.entries[:len(s.entries)-s.short] {
			if !s.hidden[s.seqs[i]] {
				say(feed.Frame{Event: feed.Revoked, Entry: e})
			}
		}
		told = s.head
	}
	pause := s.readyIn
	s.mu.Unlock()
	_ = out.Flush()
	if pause > 0 {
		select {
		case <-time.After(pause):
		case <-epoch:
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
			return
		}
	}
	event := feed.Ready
	tick := time.NewTicker(s.beat)
	defer tick.Stop()
	for {
		s.mu.Lock()
		if !s.silent {
			if s.raw != "" {
				_, _ = io.WriteString(w, s.raw)
				s.raw = ""
			}
			for i, e := range s.entries {
				if s.seqs[i] > told && !s.hidden[s.seqs[i]] {
					say(feed.Frame{Event: feed.Revoked, ID: id(s.seqs[i]), Entry: e})
				}
			}
			told = s.head
			say(feed.Frame{Event: event, ID: id(told), Mark: mark()})
			event = feed.Beat
			_ = out.Flush()
		}
		change, brief := s.change, s.brief
		s.mu.Unlock()
		if brief {
			return
		}
		select {
		case <-change:
		case <-tick.C:
		case <-hangUp:
			return
		case <-epoch:
			panic(http.ErrAbortHandler) // cut, not closed
		case <-r.Context().Done():
			return
		}
	}
}

// config is a verifier's without a feed.
func (is *issuer) config() verify.Config {
	return verify.Config{
		Issuer: is.url, Audience: audience, Algs: []verify.Alg{verify.ES256}, Feed: verify.NoFeed(), HTTP: is.http,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func (is *issuer) feedConfig(stale verify.Stale) verify.Config {
	c := is.config()
	c.Feed = verify.Feed{ClientID: "api", ClientSecret: "s+cret", Stale: stale}
	return c
}

func newVerifier(t testing.TB, c verify.Config) *verify.Verifier {
	t.Helper()
	v, err := verify.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// start runs a verifier; stop ends it and waits for it.
func start(t testing.TB, v *verify.Verifier) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := v.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// until waits for something that is about to happen.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 500 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("this did not happen in 5 s: %s", what)
}

// keyServer serves keys alone, and returns their address.
func keyServer(t *testing.T, keys ...map[string]any) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}
