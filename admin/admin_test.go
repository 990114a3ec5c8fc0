package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/memdb"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/sqlitedb"
	"github.com/heirloom-auth/heirloom/user"
)

const day = 24 * time.Hour

// world is an admin API on one engine, under a clock that only the test moves.
type world struct {
	*testing.T
	store interface {
		admin.Store
		Close() error
	}
	ring  *keys.Ring
	token admin.Token
	http  *httptest.Server
	log   *bytes.Buffer

	mu       sync.Mutex
	now      time.Time // guarded by mu
	draining string    // guarded by mu
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// onEachEngine runs a story on every engine.
func onEachEngine(t *testing.T, story func(w *world)) {
	for _, engine := range []string{"memdb", "sqlitedb"} {
		t.Run(engine, func(t *testing.T) { story(newWorld(t, engine)) })
	}
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func openKeys(ctx context.Context, st keys.Store, now func() time.Time) (*keys.Ring, error) {
	kek, err := keys.ParseKEK("hkek_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	if err != nil {
		return nil, err
	}
	return keys.Open(ctx, keys.Config{Store: st, KEK: kek, Issuer: "https://id.example", Now: now, Log: slog.New(slog.DiscardHandler)})
}

// firstKeys are those of all worlds: making RSA keys takes longer than most stories.
var firstKeys = sync.OnceValues(func() ([]keys.Record, error) {
	ctx, db := context.Background(), memdb.New(memdb.Config{})
	if _, err := openKeys(ctx, db, func() time.Time { return noon }); err != nil {
		return nil, err
	}
	return db.Keys(ctx)
})

func newWorld(t *testing.T, engine string) *world {
	t.Helper()
	w := &world{T: t, token: admin.NewToken(), log: new(bytes.Buffer), now: noon}
	records, err := firstKeys()
	if err != nil {
		t.Fatal(err)
	}
	open := func(ctx context.Context, st keys.Store) (_ *keys.Ring, err error) {
		for _, rec := range records {
			if err := st.PutKey(ctx, rec); err != nil {
				return nil, err
			}
		}
		w.ring, err = openKeys(ctx, st, w.clock)
		return w.ring, err
	}
	switch engine {
	case "memdb":
		db := memdb.New(memdb.Config{Now: w.clock})
		if _, err := open(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		w.store = db
	case "sqlitedb":
		db, err := sqlitedb.Open(t.Context(), sqlitedb.Config{Path: filepath.Join(t.TempDir(), "h.db"), Now: w.clock, Keys: open})
		if err != nil {
			t.Fatal(err)
		}
		w.store = db
	}
	t.Cleanup(func() { w.store.Close() })
	hasher, err := user.NewHasher(user.HasherConfig{Params: user.Params{Memory: 64, Time: 1, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	api, err := admin.New(admin.Config{
		Store: w.store, Keys: w.ring, Hasher: hasher, Token: w.token,
		Metrics: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "heirloom_up 1\n") }),
		Draining: func() string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.draining
		},
		Log: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.http = httptest.NewServer(api)
	t.Cleanup(w.http.Close)
	return w
}

type failure struct{ Error, Message, Hint string }

// do sends a request with the token and decodes the answer into answer, if not nil.
func (w *world) do(method, path string, body, answer any, want int) {
	w.Helper()
	var send io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		send = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			w.Fatal(err)
		}
		send = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(w.Context(), method, w.http.URL+path, send)
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token.Text())
	if send != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	status, raw := w.send(req)
	if status != want {
		w.Fatalf("%s %s: status %d, want %d: %s", method, path, status, want, raw)
	}
	if answer != nil {
		if err := json.Unmarshal(raw, answer); err != nil {
			w.Fatalf("%s %s: %v: %s", method, path, err, raw)
		}
	}
}

// send checks what must hold for every answer.
func (w *world) send(req *http.Request) (int, []byte) {
	w.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	if strings.HasPrefix(req.URL.Path, "/admin/") {
		if got := resp.Header.Get("Cache-Control"); got != "no-store" {
			w.Errorf("%s %s: Cache-Control %q, want no-store", req.Method, req.URL.Path, got)
		}
		if got := resp.Header.Get("Content-Type"); got != "application/json" {
			w.Errorf("%s %s: Content-Type %q", req.Method, req.URL.Path, got)
		}
		var f failure
		if resp.StatusCode >= 400 && (json.Unmarshal(raw, &f) != nil || f.Error == "" || f.Message == "") {
			w.Errorf("%s %s: %d without an error and a message: %s", req.Method, req.URL.Path, resp.StatusCode, raw)
		}
	}
	return resp.StatusCode, raw
}

func (w *world) addUser(name string) user.ID {
	w.Helper()
	var u admin.UserView
	w.do("POST", "/admin/v1/users", admin.NewUser{Username: name, Password: "a good password"}, &u, 201)
	return u.ID
}

func (w *world) addClient(id, preset string) {
	w.Helper()
	w.do("POST", "/admin/v1/clients", admin.ClientSpec{
		ClientID: id, Preset: preset, RedirectURIs: []string{"http://127.0.0.1/callback"},
	}, nil, 201)
}

// signIn stores a session, as the server does after a password.
func (w *world) signIn(u user.ID) session.ID {
	w.Helper()
	s, _ := session.New(random48(), session.SignIn{
		User: string(u), Now: w.clock(), Ends: w.clock().Add(30 * day), AMR: []string{"pwd"},
		UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", IP: "192.0.2.7",
	})
	if err := w.store.PutSession(w.Context(), s); err != nil {
		w.Fatal(err)
	}
	return s.ID
}

var (
	home  = family.Origin{IP: netip.MustParseAddr("192.0.2.7"), UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
	thief = family.Origin{IP: netip.MustParseAddr("203.0.113.66"), UserAgent: "curl/8.5.0"}
)

// issue stores a family and exchanges its code.
func (w *world) issue(u user.ID, clientID string, sid session.ID, offline bool) family.ID {
	w.Helper()
	random := random48()
	id := family.ID(random[:16])
	g := &family.Grant{
		Client: clientID, User: string(u), Session: sid, Offline: offline, Scope: family.ScopeOf("openid"),
		AuthTime: family.At(w.clock()), RedirectURI: "http://127.0.0.1/callback", Challenge: "x",
	}
	s := family.New(id, w.policy(clientID), family.At(w.clock()), g, 1, 0, home)
	e := s.EventFor(family.FamilyIssued, family.Issued, family.Token{}, home)
	if err := w.store.Create(w.Context(), s, e); err != nil {
		w.Fatal(err)
	}
	w.present(id, 0, home)
	return id
}

func (w *world) policy(clientID string) family.Policy {
	w.Helper()
	c, err := w.store.Client(w.Context(), clientID)
	if err != nil {
		w.Fatal(err)
	}
	p, err := admin.PolicyOf(c)
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// present is what the token endpoint does with a generation of a family.
func (w *world) present(id family.ID, g uint32, from family.Origin) family.Verdict {
	w.Helper()
	_, v, _, err := family.Step(w.Context(), w.store, id, func(s family.State, st family.Standing) (family.State, family.Verdict, []family.Event) {
		if st.Barred != 0 {
			return s, family.Verdict{Act: family.Refuse, Reason: st.Barred}, nil
		}
		next, v := family.Present(s, w.policy(s.Grant.Client), st.Now, family.Token{Family: id, Generation: g}, family.Proof{Origin: from, Key: 1})
		var events []family.Event
		switch v.Act {
		case family.Reuse:
			e := s.EventFor(family.FamilyRevoked, v.Reason, family.Token{Family: id, Generation: g}, from)
			e.Level = family.Alert
			events = append(events, e)
		case family.Recover:
			e := s.EventFor(family.FamilyRecovered, v.Reason, family.Token{Family: id, Generation: g}, from)
			e.Level = family.Alert
			events = append(events, e)
		}
		return next, v, events
	})
	if err != nil {
		w.Fatal(err)
	}
	return v
}

// head is the newest generation of a family.
func (w *world) head(id family.ID) uint32 {
	w.Helper()
	s, _, err := w.store.Load(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return s.Head
}

// wantRefused presents the head and wants to see it refused for a reason.
func (w *world) wantRefused(id family.ID, why family.Reason) {
	w.Helper()
	if v := w.present(id, w.head(id), home); v != (family.Verdict{Act: family.Refuse, Reason: why}) {
		w.Errorf("the head of %s: %+v, want refused for %s", id, v, why)
	}
}

func (w *world) wantRotates(id family.ID) {
	w.Helper()
	if v := w.present(id, w.head(id), home); v.Act != family.Rotate {
		w.Errorf("the head of %s: %+v, want rotated", id, v)
	}
}

// lastEvent returns the newest event, which the last change wrote.
func (w *world) lastEvent() family.Event {
	w.Helper()
	events, err := w.store.Events(w.Context(), family.EventQuery{Limit: 1})
	if err != nil || len(events) != 1 {
		w.Fatalf("events: %v, %v", events, err)
	}
	return events[0]
}

func (w *world) wantEvent(kind family.EventKind, why family.Reason, detail string) {
	w.Helper()
	e := w.lastEvent()
	if e.Kind != kind || e.Reason != why || e.Detail != detail || e.Request == "" || !e.Origin.IP.IsLoopback() {
		w.Errorf("the newest event is %s %s %q from %v, request %q; want %s %s %q", e.Kind, e.Reason, e.Detail, e.Origin.IP, e.Request, kind, why, detail)
	}
}

func (w *world) wantEnded(id family.ID, why family.Reason) {
	w.Helper()
	var v admin.FamilyView
	w.do("GET", "/admin/v1/families/"+id.String(), nil, &v, 200)
	if v.Status != "ended" || v.Reason != why.String() {
		w.Errorf("family %s is %s %q, want ended for %s", id, v.Status, v.Reason, why)
	}
}

func (w *world) wantLive(id family.ID) {
	w.Helper()
	var v admin.FamilyView
	w.do("GET", "/admin/v1/families/"+id.String(), nil, &v, 200)
	if v.Status != "live" || v.Reason != "" {
		w.Errorf("family %s is %s %q, want live", id, v.Status, v.Reason)
	}
}

func (w *world) clientRow(id string) client.Client {
	w.Helper()
	c, err := w.store.Client(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return c
}
