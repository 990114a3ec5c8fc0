package server_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// errCut is what a store says whose connection was cut.
var errCut = errors.New("the connection to the store was cut")

// faulty is a store that fails as it is told to. fault is asked before each call what
// to do with it; nil: nothing is wrong.
type faulty struct {
	server.Store
	mu    sync.Mutex
	calls map[string]int         // guarded by mu
	fault func(op string) broken // guarded by mu
}

// broken says how a call fails. Faults come in pairs: once before anything was stored
// and once after everything was.
type broken struct {
	err     error // nil: it does not
	persist bool
	panics  bool
	hold    func() // called while the call is under way
}

func (f *faulty) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.fault = map[string]int{}, nil
}

func (f *faulty) set(fault func(op string) broken) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func (f *faulty) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *faulty) total() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		n += c
	}
	return n
}

func (f *faulty) ask(op string) broken {
	f.mu.Lock()
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[op]++
	fault := f.fault
	f.mu.Unlock()
	if fault == nil {
		return broken{}
	}
	b := fault(op)
	if b.hold != nil {
		b.hold()
	}
	if b.panics {
		panic("the store has a bug: hrt_canary-in-a-panic")
	}
	return b
}

// write runs a write under a fault.
func (f *faulty) write(op string, do func() error) error {
	b := f.ask(op)
	if b.err == nil {
		return do()
	}
	if b.persist {
		if err := do(); err != nil {
			return err
		}
	}
	return b.err
}

func (f *faulty) Create(ctx context.Context, s family.State, es ...family.Event) error {
	return f.write("Create", func() error { return f.Store.Create(ctx, s, es...) })
}

func (f *faulty) Commit(ctx context.Context, s family.State, es ...family.Event) error {
	return f.write("Commit", func() error { return f.Store.Commit(ctx, s, es...) })
}

func (f *faulty) Deny(ctx context.Context, jti string, until family.Time, e family.Event) error {
	return f.write("Deny", func() error { return f.Store.Deny(ctx, jti, until, e) })
}

func (f *faulty) Record(ctx context.Context, es ...family.Event) error {
	return f.write("Record", func() error { return f.Store.Record(ctx, es...) })
}

func (f *faulty) PutSession(ctx context.Context, s session.Session, es ...family.Event) error {
	return f.write("PutSession", func() error { return f.Store.PutSession(ctx, s, es...) })
}

func (f *faulty) PutUser(ctx context.Context, u user.User, es ...family.Event) error {
	return f.write("PutUser", func() error { return f.Store.PutUser(ctx, u, es...) })
}

func (f *faulty) Load(ctx context.Context, id family.ID) (family.State, family.Standing, error) {
	if err := f.ask("Load").err; err != nil {
		return family.State{}, family.Standing{}, err
	}
	return f.Store.Load(ctx, id)
}

func (f *faulty) Client(ctx context.Context, id string) (client.Client, error) {
	if err := f.ask("Client").err; err != nil {
		return client.Client{}, err
	}
	return f.Store.Client(ctx, id)
}

func (f *faulty) User(ctx context.Context, id user.ID) (user.User, error) {
	if err := f.ask("User").err; err != nil {
		return user.User{}, err
	}
	return f.Store.User(ctx, id)
}

func (f *faulty) UserByName(ctx context.Context, name string) (user.User, error) {
	if err := f.ask("UserByName").err; err != nil {
		return user.User{}, err
	}
	return f.Store.UserByName(ctx, name)
}

func (f *faulty) Session(ctx context.Context, id session.ID) (session.Session, error) {
	if err := f.ask("Session").err; err != nil {
		return session.Session{}, err
	}
	return f.Store.Session(ctx, id)
}

func (f *faulty) Denied(ctx context.Context, jti string) (bool, error) {
	if err := f.ask("Denied").err; err != nil {
		return false, err
	}
	return f.Store.Denied(ctx, jti)
}

func (f *faulty) Now(ctx context.Context) (family.Time, error) {
	if err := f.ask("Now").err; err != nil {
		return 0, err
	}
	return f.Store.Now(ctx)
}

// onFaulty runs a test on each engine behind a store that can fail.
func onFaulty(t *testing.T, f func(t *testing.T, w *world, cut *faulty)) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			cut := &faulty{}
			w := newWorld(t, open, func(c *server.Config) { cut.Store = c.Store; c.Store = cut })
			f(t, w, cut)
		})
	}
}

// once fails one call of an operation.
func once(op string, b broken) func(string) broken {
	var mu sync.Mutex
	done := false
	return func(got string) broken {
		mu.Lock()
		defer mu.Unlock()
		if got != op || done {
			return broken{}
		}
		done = true
		return b
	}
}

// unavailable fails the test unless the answer says that the server could not answer
// now and that nothing is wrong with the token.
func (r reply) unavailable(t testing.TB) reply {
	t.Helper()
	r.errs(t, 503, "temporarily_unavailable").errorShape(t)
	if r.header.Get("Retry-After") == "" || r.str("access_token") != "" || r.str("refresh_token") != "" {
		t.Fatalf("answer is %v %s", r.header, r.raw)
	}
	return r
}

func TestRT_B18_ProxySendsTwice(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, m := range []struct {
			client, key string
			ok          bool
		}{{"leeway", "", true}, {"strict", "k", true}, {"web", "", true}, {"strict", "", false}} {
			rt, _ := w.chain(m.client, 0)
			send := func() reply {
				if m.key != "" {
					return w.refreshKey(m.client, rt[0], m.key)
				}
				return w.refresh(m.client, rt[0])
			}
			first := make(chan reply)
			go func() { first <- send() }()
			time.Sleep(5 * time.Millisecond)
			second := send()
			one := <-first
			if !m.ok {
				for _, r := range []reply{one, second} {
					if r.status == 200 {
						rt = append(rt, r.str("refresh_token"))
					}
				}
				if len(rt) > 2 {
					t.Error("both were answered")
				}
				w.dead(m.client, family.Reused, rt, nil)
				continue
			}
			if a, b := one.must(t).str("refresh_token"), second.must(t).str("refresh_token"); a != b || a == "" {
				t.Errorf("%s: two tokens", m.client)
			}
		}
	})
}

func TestRT_B19_OneFamilyUnderFireHarmsNoOther(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		hot, _ := w.chain("web", 0)
		b := w.browser()
		var others []string
		for range 20 {
			f := newFlow("web")
			others = append(others, w.exchange(f, b.code(f)).must(t).str("refresh_token"))
		}
		before := w.family(hot[0])
		out := together(300+len(others), func(i int) reply {
			if i%15 == 0 && i/15 < len(others) {
				return w.refresh("web", others[i/15])
			}
			return w.refresh("web", hot[0])
		})
		for i, r := range out {
			if r.status != 200 {
				t.Fatalf("request %d is answered with %d %s", i, r.status, r.raw)
			}
		}
		if after := w.family(hot[0]); after.Head != before.Head+1 {
			t.Errorf("head %d → %d: want one step", before.Head, after.Head)
		}
		for _, o := range others {
			if w.family(o).Head != 2 {
				t.Errorf("another family's head is %d, want 2", w.family(o).Head)
			}
		}
	})
}

// newFamily stores a family as if alice had just been given it, and returns its first
// refresh token. It is for tests that need many.
func (w *world) newFamily(clientID string) string {
	w.t.Helper()
	c, err := w.store.Client(context.Background(), clientID)
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := family.PolicyOf(c.Preset, c.Policy)
	if err != nil {
		w.t.Fatal(err)
	}
	now, err := w.store.Now(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	var id family.ID
	rand.Read(id[:])
	g := &family.Grant{Client: clientID, User: string(w.user(aliceName).ID), Offline: true, Confident: c.Confidential(), Scope: "read write", AuthTime: now}
	st := family.New(id, p, now, g, w.ring.MACKey(), 0, family.Origin{})
	st, v := family.Present(st, p, now, family.Token{Family: id}, family.Proof{Key: w.ring.MACKey()})
	if v.Act != family.Rotate {
		w.t.Fatalf("the code is judged %v", v)
	}
	st.Version = 0
	if err := w.store.Create(context.Background(), st); err != nil {
		w.t.Fatal(err)
	}
	token, ok := family.Mint(st.HeadKey, family.Token{Family: id, Generation: st.Head}, w.ring.MAC)
	if !ok {
		w.t.Fatal("no MAC key")
	}
	return token
}

func TestRT_B20_ThunderingHerd(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		const herd = 400
		tokens := make([]string, herd)
		for i := range tokens {
			tokens[i] = w.newFamily("strict")
		}
		served := 0
		for i, r := range together(herd, func(i int) reply { return w.refresh("strict", tokens[i]) }) {
			switch {
			case r.status == 200:
				served++
				if w.family(tokens[i]).Head != 2 {
					t.Fatalf("head is %d after one refresh", w.family(tokens[i]).Head)
				}
			case r.status != 503 || r.header.Get("Retry-After") == "":
				t.Fatalf("answer is %d %s", r.status, r.raw)
			}
		}
		if served == 0 {
			t.Error("nobody was served")
		}
	})
}

func TestRT_B21_BusyStoreIsAskedAgain(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		rt, _ := w.chain("strict", 0)
		var mu sync.Mutex
		left := 5
		cut.set(func(op string) broken {
			mu.Lock()
			defer mu.Unlock()
			if op != "Commit" || left == 0 {
				return broken{}
			}
			left--
			return broken{err: family.ErrConflict}
		})
		rt = append(rt, w.refresh("strict", rt[0]).must(t).str("refresh_token"))
		if left != 0 {
			t.Errorf("%d conflicts were not met", left)
		}
		cut.set(func(op string) broken {
			if op == "Commit" {
				return broken{err: family.ErrConflict}
			}
			return broken{}
		})
		w.untouched(rt[1], func() { w.refresh("strict", rt[1]).unavailable(t) })
		cut.set(nil)
		w.refresh("strict", rt[1]).must(t)
	})
}

func TestRT_G04_UnknownOutcomeOfACommit(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		for _, persist := range []bool{false, true} {
			for _, m := range []struct {
				client, key string
				ok          bool // the retry is served also when the commit was stored
			}{{"leeway", "", true}, {"app", "", true}, {"strict", "k", true}, {"web", "", true}, {"strict", "", false}} {
				t.Run(fmt.Sprintf("%s%s persist=%v", m.client, m.key, persist), func(t *testing.T) {
					rt, _ := w.chain(m.client, 0)
					before := w.family(rt[0])
					send := func() reply {
						if m.key != "" {
							return w.refreshKey(m.client, rt[0], m.key)
						}
						return w.refresh(m.client, rt[0])
					}
					cut.set(once("Commit", broken{err: errCut, persist: persist}))
					send().unavailable(t)
					cut.set(nil)
					mid := w.family(rt[0])
					if persist && mid.Head != before.Head+1 || !persist && mid != before {
						t.Fatalf("the family went from %+v to %+v", before, mid)
					}
					if persist && !m.ok {
						// The documented price of strict without a key: the answer was lost.
						send().refused(t)
						w.dead(m.client, family.Reused, rt, nil)
						return
					}
					next := send().must(t).str("refresh_token")
					if got := w.family(rt[0]).Head; got != before.Head+1 {
						t.Errorf("head is %d, want %d", got, before.Head+1)
					}
					w.refresh(m.client, next).must(t)
				})
			}
		}
	})
}

func TestRT_G04_UnknownOutcomeOfACodeExchange(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		b := w.browser()
		for _, persist := range []bool{false, true} {
			f := newFlow("strict")
			code := b.code(f)
			send := func() reply {
				return w.post("/oauth2/token", http.Header{"Idempotency-Key": {"k"}}, "client_id", "strict", "grant_type", "authorization_code", "code", code, "code_verifier", f.verifier, "redirect_uri", f.redirect)
			}
			cut.set(once("Commit", broken{err: errCut, persist: persist}))
			send().unavailable(t)
			cut.set(nil)
			got := send().must(t).tokens()
			w.refresh("strict", got.refresh).must(t)
		}
	})
}

func TestRT_G04_UnknownOutcomeOfARevocation(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		for _, persist := range []bool{false, true} {
			tok := w.signIn("strict")
			cut.set(once("Commit", broken{err: errCut, persist: persist}))
			w.post("/oauth2/revoke", nil, "client_id", "strict", "token", tok.refresh).unavailable(t)
			cut.set(nil)
			if on := w.active(tok.access); on == persist {
				t.Errorf("persist %v: access token active is %v", persist, on)
			}
			if r := w.post("/oauth2/revoke", nil, "client_id", "strict", "token", tok.refresh); r.status != 200 {
				t.Fatalf("the retry is answered with %d", r.status)
			}
			w.dead("strict", family.RevokedClient, []string{tok.refresh}, []string{tok.access})

			tok = w.signIn("strict")
			cut.set(once("Deny", broken{err: errCut, persist: persist}))
			w.post("/oauth2/revoke", nil, "client_id", "strict", "token", tok.access).unavailable(t)
			cut.set(nil)
			if r := w.post("/oauth2/revoke", nil, "client_id", "strict", "token", tok.access); r.status != 200 {
				t.Fatalf("the retry is answered with %d", r.status)
			}
			if w.active(tok.access) {
				t.Error("a revoked access token is active")
			}
			w.refresh("strict", tok.refresh).must(t)
		}
	})
}

func TestRT_G04_UnknownOutcomeOfASignIn(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		for _, op := range []string{"PutSession", "Create"} {
			for _, persist := range []bool{false, true} {
				b := w.browser()
				f := newFlow("strict")
				var p shownPage
				sign := func() {
					p = b.get(f.url())
					v := b.get(p.location).fields()
					v.Set("username", aliceName)
					v.Set("password", alicePassword)
					p = b.post("/login", v)
					if p.status == 303 {
						p = b.get(p.location)
					}
				}
				cut.set(once(op, broken{err: errCut, persist: persist}))
				sign()
				if p.status != 503 || p.header.Get("Retry-After") == "" || p.location != "" || strings.Contains(p.body, errCut.Error()) {
					t.Errorf("%s: the browser shows %d %s", op, p.status, p.body)
				}
				cut.set(nil)
				w.exchange(f, b.code(f)).must(t)
			}
		}
	})
}

func TestRT_G05_BrokenStoreIsNeverTheTokensFault(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		tok := w.signIn("web")
		b := w.browser()
		f := newFlow("web")
		code := b.code(f)
		userinfo := func() reply {
			req, _ := http.NewRequest("GET", w.issuer+"/oauth2/userinfo", nil)
			req.Header.Set("Authorization", "Bearer "+tok.access)
			return w.do(req)
		}
		uses := map[string]struct {
			ops []string // must be 503 when any of them fails
			do  func() reply
		}{
			"refresh":  {[]string{"Client", "Load", "Commit"}, func() reply { return w.refresh("web", tok.refresh) }},
			"exchange": {[]string{"Client", "Load", "Commit", "Session"}, func() reply { return w.exchange(f, code) }},
			"client_credentials": {[]string{"Client", "Now"}, func() reply {
				return w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials")...)
			}},
			"revoke":        {[]string{"Client", "Load", "Commit"}, func() reply { return w.post("/oauth2/revoke", nil, append(w.as("web"), "token", tok.refresh)...) }},
			"revoke access": {[]string{"Client", "Now", "Deny"}, func() reply { return w.post("/oauth2/revoke", nil, append(w.as("web"), "token", tok.access)...) }},
			"introspect": {[]string{"Client", "Now", "Denied", "Load"}, func() reply {
				return w.post("/oauth2/introspect", nil, append(w.as("web"), "token", tok.access)...)
			}},
			"introspect refresh": {[]string{"Client", "Load"}, func() reply {
				return w.post("/oauth2/introspect", nil, append(w.as("web"), "token", tok.refresh)...)
			}},
			"userinfo": {[]string{"Client", "Now", "Denied", "Load", "User"}, userinfo},
		}
		w.untouched(tok.refresh, func() {
			w.untouched(code, func() {
				for name, u := range uses {
					for _, op := range append(u.ops, "all") {
						cut.set(func(got string) broken {
							if got == op || op == "all" {
								return broken{err: errCut}
							}
							return broken{}
						})
						if r := u.do(); r.status != 503 {
							t.Errorf("%s without %s is answered with %d %s", name, op, r.status, r.raw)
						} else {
							r.unavailable(t)
						}
					}
				}
				cut.set(func(string) broken { return broken{err: errCut} })
				for _, path := range []string{newFlow("web").url(), "/account", "/account/apps", "/oauth2/end_session"} {
					if p := b.get(path); p.status != 503 || p.header.Get("Retry-After") == "" || p.header.Get("Set-Cookie") != "" {
						t.Errorf("%s without a store is answered with %d", path, p.status)
					}
				}
			})
		})
		cut.set(nil)
		w.refresh("web", tok.refresh).must(t)
		w.exchange(f, code).must(t)
		userinfo().must(t)
	})
}

func TestRT_G05_WhatTheAnswerNeedsIsReadBeforeTheCommit(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		tok := w.signIn("leeway", "claims", `{"id_token":{"email":null}}`)
		before := w.family(tok.refresh)
		cut.set(once("User", broken{err: errCut}))
		w.refresh("leeway", tok.refresh).unavailable(t)
		cut.set(nil)
		if after := w.family(tok.refresh); after.Version != before.Version {
			t.Error("a request that could not be answered was committed")
		}
		next := w.refresh("leeway", tok.refresh).must(t).tokens()
		if after := w.family(tok.refresh); after.Head != before.Head+1 {
			t.Errorf("head %d → %d: want one step", before.Head, after.Head)
		}
		if claimsOf(t, next.id)["email"] == nil {
			t.Error("the ID token lacks what was asked for")
		}
		w.refresh("leeway", next.refresh).must(t)
	})
}

func TestRT_G18_CallerHangsUp(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		for _, op := range []string{"Load", "Commit"} {
			rt, _ := w.chain("leeway", 0)
			before := w.family(rt[0])
			ctx, hangUp := context.WithCancel(t.Context())
			reached, release := make(chan struct{}), make(chan struct{})
			cut.set(once(op, broken{hold: func() { close(reached); <-release }}))
			gone := make(chan error)
			go func() {
				req, _ := http.NewRequestWithContext(ctx, "POST", w.issuer+"/oauth2/token", strings.NewReader(refreshBody("leeway", rt[0])))
				req.Header.Set("Content-Type", formType)
				res, err := http.DefaultTransport.RoundTrip(req)
				if err == nil {
					res.Body.Close()
				}
				gone <- err
			}()
			<-reached
			hangUp()
			if err := <-gone; err == nil {
				t.Fatal("the caller did not hang up")
			}
			time.Sleep(20 * time.Millisecond) // the server learns of it
			close(release)
			cut.set(nil)
			next := w.refresh("leeway", rt[0]).must(t).str("refresh_token")
			if after := w.family(rt[0]); after.Head != before.Head+1 {
				t.Errorf("%s: head %d → %d: want one step", op, before.Head, after.Head)
			}
			w.refresh("leeway", next).must(t)
		}
	})
}

func TestRT_G20_TakenIDIsNeverOverwritten(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		rt := w.signIn("strict").refresh
		w.untouched(rt, func() {
			st := w.family(rt)
			st.Version = 0
			if err := w.store.Create(context.Background(), st); !errors.Is(err, family.ErrExists) {
				t.Errorf("a second family of one id is answered with %v", err)
			}
		})
		// 128 random bits never meet by chance. If they did, the person tries again.
		b := w.browser()
		f := newFlow("strict")
		b.code(f)
		cut.set(once("Create", broken{err: family.ErrExists}))
		if p := b.get(f.url()); p.status != 503 || p.location != "" {
			t.Errorf("the browser shows %d %s", p.status, p.location)
		}
		w.exchange(f, b.code(f)).must(t)
	})
}

func TestRT_J09_LimitIsNoVerdictOnTheToken(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("web").refresh
		w.untouched(rt, func() {
			limited := 0
			for range 40 {
				r := w.post("/oauth2/token", nil, "client_id", "web", "client_secret", "wrong", "grant_type", "refresh_token", "refresh_token", rt)
				if r.status == 429 {
					limited++
					r.errorShape(t)
					if r.header.Get("Retry-After") == "" || r.header.Get("Access-Control-Allow-Origin") != "*" || r.str("error") == "invalid_grant" {
						t.Fatalf("answer is %v %s", r.header, r.raw)
					}
				} else {
					r.errs(t, 401, "invalid_client")
				}
			}
			if limited < 15 {
				t.Errorf("%d of 40 guesses were held up", limited)
			}
		})
	})
}

// proxied trusts the loopback address to tell who is asking.
func proxied(c *server.Config) {
	c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

func from(ip string) http.Header { return http.Header{"X-Forwarded-For": {ip}} }

func TestRFC6749_04_GuessingASecretIsSlowAndHarmsNobodyElse(t *testing.T) {
	w := newWorld(t, engines["memory"], proxied)
	rt := w.signIn("web").refresh
	body := []string{"grant_type", "refresh_token", "refresh_token", rt, "client_id", "web"}
	for i := range 21 {
		r := w.post("/oauth2/token", from("203.0.113.1"), append(body, "client_secret", fmt.Sprint("guess-", i))...)
		if want := map[bool]int{true: 401, false: 429}[i < 20]; r.status != want {
			t.Fatalf("guess %d is answered with %d, want %d", i, r.status, want)
		}
	}
	// The right one from there is served: a secret has 256 random bits, so that no number
	// of guesses finds it, and a stranger behind the same address must not stop the client.
	rt = w.post("/oauth2/token", from("203.0.113.1"), append(body, "client_secret", w.secret["web"])...).must(t).str("refresh_token")
	body[3] = rt
	w.post("/oauth2/token", from("203.0.113.1"), "grant_type", "refresh_token", "refresh_token", rt, "client_id", "web2", "client_secret", w.secret["web2"]).refused(t)
	w.post("/oauth2/token", from("198.51.100.7"), append(body, "client_secret", w.secret["web"])...).must(t)
}

func TestRT_J10_AFloodDoesNotLockTheOwnerOut(t *testing.T) {
	w := newWorld(t, engines["memory"], proxied)
	w.updateClient("strictweb", func(c *client.Client) { c.Policy = map[string]string{"on_reuse": "reject"} })
	rt, _ := w.chain("strictweb", 1)
	limited := false
	for range 2100 {
		r := w.post("/oauth2/token", from("203.0.113.1"), "client_id", "strictweb", "client_secret", w.secret["strictweb"], "grant_type", "refresh_token", "refresh_token", rt[0])
		if limited = r.status == 429; limited {
			break
		}
		r.refused(t)
	}
	if !limited {
		t.Error("the thief was never held up")
	}
	next := w.post("/oauth2/token", from("198.51.100.7"), "client_id", "strictweb", "client_secret", w.secret["strictweb"], "grant_type", "refresh_token", "refresh_token", rt[1]).must(t).str("refresh_token")
	// Another family of the same client at the thief's address is served, too.
	other := w.newFamily("strictweb")
	w.post("/oauth2/token", from("203.0.113.1"), "client_id", "strictweb", "client_secret", w.secret["strictweb"], "grant_type", "refresh_token", "refresh_token", other).must(t)
	w.post("/oauth2/token", from("198.51.100.7"), "client_id", "strictweb", "client_secret", w.secret["strictweb"], "grant_type", "refresh_token", "refresh_token", next).must(t)
}

func TestRFC9700_13_ForwardingHeadersOfStrangersAreNotBelieved(t *testing.T) {
	for _, trusted := range []bool{false, true} {
		change := proxied
		if !trusted {
			change = nil
		}
		w := newWorld(t, engines["memory"], change)
		w.post("/oauth2/token", http.Header{"X-Forwarded-For": {"6.6.6.6, 203.0.113.9, 127.0.0.2"}, "X-Real-Ip": {"7.7.7.7"}, "Forwarded": {"for=8.8.8.8"}, "X-Client-Cert": {"x"}},
			"grant_type", "refresh_token", "client_id", "strict", "refresh_token", "x").refused(t)
		want := `"ip":"127.0.0.1"`
		if trusted {
			want = `"ip":"203.0.113.9"` // the last that is not a proxy of ours; what is before it anybody can write
		}
		if !strings.Contains(w.logs.String(), want) {
			t.Errorf("trusted %v: the log does not say %s: %s", trusted, want, w.logs)
		}
	}
}

func TestRT_J11_PanicsAreOurs(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		rt := w.signIn("strict").refresh
		b := w.browser()
		w.untouched(rt, func() {
			for _, op := range []string{"Client", "Load", "Commit"} {
				cut.set(func(got string) broken { return broken{panics: got == op} })
				r := w.refresh("strict", rt).errs(t, 500, "server_error")
				r.errorShape(t)
				if strings.Contains(r.raw, "goroutine") || strings.Contains(r.raw, "canary") || r.header.Get("Access-Control-Allow-Origin") != "*" {
					t.Errorf("%s: answer is %v %s", op, r.header, r.raw)
				}
			}
			cut.set(func(got string) broken { return broken{panics: true} })
			p := b.get(newFlow("strict").url())
			if p.status != 500 || strings.Contains(p.body, "goroutine") || strings.Contains(p.body, "canary") || p.header.Get("Content-Security-Policy") == "" {
				t.Errorf("the browser shows %d %s", p.status, p.body)
			}
		})
		if log := w.logs.String(); !strings.Contains(log, `"msg":"panic"`) || strings.Contains(log, "canary") {
			t.Error("the log does not tell of the panic, or tells what it carried")
		}
		cut.set(nil)
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_J13_MetricsHaveBoundedLabels(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	rt, _ := w.chain("strict", 1)
	series := func() (n int) {
		all, err := w.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			n += len(f.GetMetric())
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if !slices.Contains([]string{"reason", "endpoint", "class", "outcome"}, l.GetName()) {
						t.Errorf("label %s", l.GetName())
					}
				}
			}
		}
		return n
	}
	w.refresh("strict", "x").refused(t)
	w.post("/oauth2/token", nil, "client_id", "nobody").errorShape(t)
	before := series()
	for i := range 50 {
		w.post("/oauth2/token", nil, "grant_type", "refresh_token", "client_id", fmt.Sprint("c", i), "refresh_token", fmt.Sprint("t", i), "scope", fmt.Sprint("s", i))
		w.post("/oauth2/token", nil, "grant_type", fmt.Sprint("g", i), "client_id", "strict")
	}
	if after := series(); after != before {
		t.Errorf("%d series before, %d after", before, after)
	}
	w.refresh("strict", rt[0]).refused(t)
	for reason, want := range map[string]float64{"rotated": 2, "reuse": 1, "unknown": 1} {
		if got := counter(t, w, "heirloom_token_decisions_total", "reason", reason); got != want {
			t.Errorf("%s is counted %v times, want %v", reason, got, want)
		}
	}
}
