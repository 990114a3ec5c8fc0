package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const testIssuer = "https://auth.example"

// memory is a Store in memory, to the contract.
type memory struct {
	mu   sync.Mutex
	recs map[slot]Record // guarded by mu
}

func newMemory() *memory { return &memory{recs: map[slot]Record{}} }

func (m *memory) Keys(context.Context) ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Record
	for _, r := range m.recs { // in any order
		out = append(out, r)
	}
	return out, nil
}

func (m *memory) PutKey(_ context.Context, rec Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := slot{rec.Use, rec.ID}
	if old, ok := m.recs[at]; ok {
		if bytes.Equal(old.Wrapped, rec.Wrapped) {
			return nil
		}
		return ErrExists
	}
	rec.Wrapped = bytes.Clone(rec.Wrapped)
	m.recs[at] = rec
	return nil
}

func (m *memory) DropKey(_ context.Context, use Use, id uint16) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.recs, slot{use, id})
	return nil
}

// clock is a settable time.
type clock struct {
	mu sync.Mutex
	t  time.Time // guarded by mu
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func testKEK(t testing.TB, fill byte) KEK {
	t.Helper()
	k, err := newKEK(bytes.Repeat([]byte{fill}, kekSize), "file /etc/heirloom/kek")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testConfig(t testing.TB, st Store, c *clock) Config {
	return Config{Store: st, KEK: testKEK(t, 7), Issuer: testIssuer, Now: c.now, Log: slog.New(slog.DiscardHandler)}
}

func mustOpen(t testing.TB, c Config) *Ring {
	t.Helper()
	r, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustRotate(t testing.TB, r *Ring, use Use, alg Alg, now bool) Info {
	t.Helper()
	in, err := r.Rotate(context.Background(), use, alg, now)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func mustSign(t testing.TB, r *Ring, alg Alg, typ, claims string) string {
	t.Helper()
	jws, err := r.Sign(alg, typ, []byte(claims))
	if err != nil {
		t.Fatal(err)
	}
	return jws
}

// kidOf is the kid in a JWS's header.
func kidOf(t testing.TB, jws string) string {
	t.Helper()
	head, _, _ := strings.Cut(jws, ".")
	raw, err := decode(head)
	var h struct{ Kid string }
	if err != nil || json.Unmarshal(raw, &h) != nil || h.Kid == "" {
		t.Fatalf("no kid in %s", jws)
	}
	return h.Kid
}

// kidsIn are the kids of a JWKS.
func kidsIn(t testing.TB, r *Ring) []string {
	t.Helper()
	body, _ := r.JWKS()
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, k := range set.Keys {
		out = append(out, k.Kid)
	}
	return out
}

func TestFirstStartMakesOneKeyOfEachLine(t *testing.T) {
	st := newMemory()
	r := mustOpen(t, testConfig(t, st, &clock{t: t0}))
	want := []string{"index/1 HS256", "mac/1 HS256", "seal/1 A256GCM", "sign/1 ES256", "sign/2 RS256", "sign/3 PS256", "sign/4 EdDSA"}
	var got []string
	for _, in := range r.List() {
		got = append(got, fmt.Sprintf("%s/%d %s", in.Use, in.ID, in.Alg))
		if in.State != Signing || (in.Use == UseSign) != (in.Kid != "") {
			t.Errorf("%+v: want a signing key with a kid if it signs JWTs", in)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("first start: %v, want %v", got, want)
	}
	if len(st.recs) != len(want) {
		t.Errorf("%d records stored, want %d", len(st.recs), len(want))
	}
}

func TestRestartKeepsKeys(t *testing.T) {
	st, c := newMemory(), &clock{t: t0}
	a := mustOpen(t, testConfig(t, st, c))
	tag, _ := a.MAC(a.MACKey(), "rt", []byte("m"))
	sealed, err := a.Seal("ip", []byte("row"), []byte("192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	jws := mustSign(t, a, ES256, "JWT", `{"a":1}`)
	c.add(time.Hour)
	b := mustOpen(t, testConfig(t, st, c))
	if !slices.Equal(a.List(), b.List()) {
		t.Errorf("keys after the restart: %v, want %v", b.List(), a.List())
	}
	if !b.CheckMAC(a.MACKey(), "rt", []byte("m"), &tag) {
		t.Error("a MAC of before the restart is refused")
	}
	if plain, err := b.Open("ip", []byte("row"), sealed); err != nil || string(plain) != "192.0.2.1" {
		t.Errorf("sealed before the restart: %q, %v", plain, err)
	}
	if _, err := b.Verify(jws, "JWT"); err != nil {
		t.Errorf("signed before the restart: %v", err)
	}
	if a.Index("name", []byte("ann")) != b.Index("name", []byte("ann")) {
		t.Error("the index moved with the restart")
	}
	bodyA, etagA := a.JWKS()
	bodyB, etagB := b.JWKS()
	if !bytes.Equal(bodyA, bodyB) || etagA != etagB {
		t.Error("the JWKS changed with the restart")
	}
}

func TestNodesThatStartTogetherMakeOneSetOfKeys(t *testing.T) {
	st, c := newMemory(), &clock{t: t0}
	rings := make([]*Ring, 6)
	var wg sync.WaitGroup
	for i := range rings {
		wg.Go(func() {
			r, err := Open(context.Background(), testConfig(t, st, c))
			if err != nil {
				t.Error(err)
			}
			rings[i] = r
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if len(st.recs) != len(lines()) {
		t.Fatalf("%d keys in the store, want %d: %v", len(st.recs), len(lines()), st.recs)
	}
	for _, r := range rings {
		if err := r.Reload(context.Background()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(r.List(), rings[0].List()) {
			t.Errorf("nodes see different keys: %v and %v", r.List(), rings[0].List())
		}
		// What one node makes, all others take.
		jws := mustSign(t, r, RS256, "at+jwt", `{}`)
		for _, o := range rings {
			if _, err := o.Verify(jws, "at+jwt"); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestNodesThatRotateTogetherMakeDifferentIDs(t *testing.T) {
	st, c := newMemory(), &clock{t: t0}
	a, b := mustOpen(t, testConfig(t, st, c)), mustOpen(t, testConfig(t, st, c))
	const each = 10
	var mu sync.Mutex
	got := map[uint16]int{}
	var wg sync.WaitGroup
	for _, r := range []*Ring{a, b, a, b} {
		wg.Go(func() {
			for range each {
				in, err := r.Rotate(context.Background(), UseMAC, "", true)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got[in.ID]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(got) != 4*each {
		t.Errorf("%d ids for %d rotations: %v", len(got), 4*each, got)
	}
	for _, r := range []*Ring{a, b} {
		if err := r.Reload(context.Background()); err != nil {
			t.Fatal(err)
		}
		if r.MACKey() != 4*each+1 {
			t.Errorf("MAC key %d, want the newest, %d", r.MACKey(), 4*each+1)
		}
	}
	tag, _ := a.MAC(a.MACKey(), "rt", nil)
	if !b.CheckMAC(a.MACKey(), "rt", nil, &tag) {
		t.Error("two nodes have different keys of one id")
	}
}

func TestNodeWithASlowClockCanStart(t *testing.T) {
	st := newMemory()
	mustOpen(t, testConfig(t, st, &clock{t: t0}))
	r := mustOpen(t, testConfig(t, st, &clock{t: t0.Add(-10 * time.Minute)}))
	if r.MACKey() != 1 || len(st.recs) != len(lines()) {
		t.Errorf("MAC key %d and %d records, want the first key and no others", r.MACKey(), len(st.recs))
	}
}

func TestWrongKEKIsNamed(t *testing.T) {
	st, c := newMemory(), &clock{t: t0}
	conf := testConfig(t, st, c)
	mustOpen(t, conf)
	before := fmt.Sprint(st.recs)
	conf.KEK = testKEK(t, 8)
	c.add(100 * 24 * time.Hour) // keys are due: they must not be made under the wrong key
	_, err := Open(context.Background(), conf)
	if err == nil {
		t.Fatal("opened with the wrong key-encryption key")
	}
	for _, want := range []string{"index/1", testKEK(t, 7).ID(), testKEK(t, 8).ID(), "file /etc/heirloom/kek"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("message %q does not name %q", err, want)
		}
	}
	if fmt.Sprint(st.recs) != before {
		t.Error("the store was changed with the wrong key-encryption key")
	}
	conf.Former = []KEK{testKEK(t, 7)}
	r := mustOpen(t, conf)
	in := mustRotate(t, r, UseMAC, "", true)
	if got := st.recs[slot{UseMAC, in.ID}].KEK; got != conf.KEK.ID() {
		t.Errorf("a new key is wrapped by %s, want the new KEK %s", got, conf.KEK.ID())
	}
}

func TestAlteredRecordDoesNotOpen(t *testing.T) {
	for name, alter := range map[string]func(m map[slot]Record){
		"signs": func(m map[slot]Record) {
			r := m[slot{UseMAC, 1}]
			r.Signs = r.Signs.Add(time.Hour)
			m[slot{UseMAC, 1}] = r
		},
		"created": func(m map[slot]Record) {
			r := m[slot{UseMAC, 1}]
			r.Created = r.Created.Add(1e9)
			m[slot{UseMAC, 1}] = r
		},
		"alg": func(m map[slot]Record) { r := m[slot{UseSign, 2}]; r.Alg = PS256; m[slot{UseSign, 2}] = r },
		"id":  func(m map[slot]Record) { r := m[slot{UseMAC, 1}]; r.ID = 2; m[slot{UseMAC, 2}] = r },
		"swapped": func(m map[slot]Record) {
			r := m[slot{UseMAC, 1}]
			r.Wrapped = m[slot{UseSeal, 1}].Wrapped
			m[slot{UseMAC, 1}] = r
		},
		"cut":   func(m map[slot]Record) { r := m[slot{UseMAC, 1}]; r.Wrapped = r.Wrapped[:20]; m[slot{UseMAC, 1}] = r },
		"empty": func(m map[slot]Record) { r := m[slot{UseMAC, 1}]; r.Wrapped = nil; m[slot{UseMAC, 1}] = r },
		"bit": func(m map[slot]Record) {
			r := m[slot{UseMAC, 1}]
			r.Wrapped = flip(r.Wrapped, 30)
			m[slot{UseMAC, 1}] = r
		},
	} {
		st, c := newMemory(), &clock{t: t0}
		mustOpen(t, testConfig(t, st, c))
		alter(st.recs)
		if _, err := Open(context.Background(), testConfig(t, st, c)); err == nil || !strings.Contains(err.Error(), "damaged or was altered") {
			t.Errorf("%s altered: %v, want a refusal that says so", name, err)
		}
	}
}

func TestRecordOfANewerVersionIsRefused(t *testing.T) {
	st, c := newMemory(), &clock{t: t0}
	r := mustOpen(t, testConfig(t, st, c))
	st.recs[slot{UseSign, 9}] = Record{Use: UseSign, ID: 9, Alg: "ML-DSA-44", Created: t0, Signs: t0}
	if err := r.Reload(context.Background()); err == nil || !strings.Contains(err.Error(), "sign/9") {
		t.Errorf("Reload: %v, want a refusal that names sign/9", err)
	}
	mustSign(t, r, ES256, "JWT", "{}") // the ring goes on
}

func TestEmptiedStoreIsAnErrorAndTheRingGoesOn(t *testing.T) {
	st := newMemory()
	r := mustOpen(t, testConfig(t, st, &clock{t: t0}))
	clear(st.recs)
	if err := r.Reload(context.Background()); err == nil {
		t.Error("Reload of an emptied store: no error")
	}
	if _, err := r.Verify(mustSign(t, r, ES256, "JWT", "{}"), "JWT"); err != nil {
		t.Error(err)
	}
}

func TestConfigThatMakesNoSenseIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"Store":   func(c *Config) { c.Store = nil },
		"KEK":     func(c *Config) { c.KEK = KEK{} },
		"Issuer":  func(c *Config) { c.Issuer = "" },
		"Wait":    func(c *Config) { c.Wait = -1 },
		"Keep":    func(c *Config) { c.Keep = -1 },
		"KeepMAC": func(c *Config) { c.KeepMAC = -1 },
		"Spread":  func(c *Config) { c.Spread = -1 },
		"Poll":    func(c *Config) { c.Poll = -1 },
		"Roll":    func(c *Config) { c.Roll = time.Hour },
	} {
		st := newMemory()
		conf := testConfig(t, st, &clock{t: t0})
		change(&conf)
		if _, err := Open(context.Background(), conf); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want a refusal that names it", name, err)
		}
		if len(st.recs) != 0 {
			t.Errorf("%s: keys were made all the same", name)
		}
	}
}

// F23: the signing key is rotated, then retired; refresh tokens do not notice, and old access tokens verify until the
// last of them has ended.
func TestF23_OIDC10_RotatedSigningKeyStaysUntilItsTokensEnd(t *testing.T) {
	ctx := context.Background()
	st, c := newMemory(), &clock{t: t0}
	conf := testConfig(t, st, c)
	conf.Wait, conf.Keep = 24*time.Hour, 10*time.Hour
	r := mustOpen(t, conf)
	key := r.MACKey()
	tag, _ := r.MAC(key, "rt", []byte("token"))
	old := mustSign(t, r, ES256, "at+jwt", `{"n":1}`)

	young := mustRotate(t, r, UseSign, ES256, false)
	if young.State != Published || !young.Signs.Equal(t0.Add(24*time.Hour)) || !slices.Contains(kidsIn(t, r), young.Kid) {
		t.Fatalf("after Rotate: %+v in %v, want it published and in the JWKS", young, kidsIn(t, r))
	}
	c.add(24*time.Hour - time.Second)
	if err := r.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	last := mustSign(t, r, ES256, "at+jwt", `{"n":2}`)
	if kidOf(t, last) != kidOf(t, old) {
		t.Fatal("the new key signs before it was published for the wait")
	}
	c.add(time.Second)
	if err := r.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	if kidOf(t, mustSign(t, r, ES256, "at+jwt", `{}`)) != young.Kid {
		t.Fatal("the new key does not sign when its time has come")
	}
	for range 10 {
		c.add(time.Hour)
		if err := r.step(ctx); err != nil {
			t.Fatal(err)
		}
		for _, jws := range []string{old, last} {
			if _, err := r.Verify(jws, "at+jwt"); err != nil || !slices.Contains(kidsIn(t, r), kidOf(t, jws)) {
				t.Fatalf("the old key at %v: %v, in the JWKS %v", c.now(), err, kidsIn(t, r))
			}
		}
	}
	c.add(grace)
	if err := r.step(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Verify(old, "at+jwt"); err == nil || slices.Contains(kidsIn(t, r), kidOf(t, old)) {
		t.Errorf("the old key is still there after its end: %v", err)
	}
	if _, ok := st.recs[slot{UseSign, 1}]; ok {
		t.Error("the old key is still in the store after its end")
	}
	if !r.CheckMAC(key, "rt", []byte("token"), &tag) || r.MACKey() != key {
		t.Error("refresh tokens noticed")
	}
}

// G11: MAC and seal keys are rotated; the old MAC key is removed later.
func TestG11_RotatedMACAndSealKeys(t *testing.T) {
	ctx := context.Background()
	st, c := newMemory(), &clock{t: t0}
	r := mustOpen(t, testConfig(t, st, c))
	key := r.MACKey()
	tag, _ := r.MAC(key, "rt", []byte("token"))
	sealed, _ := r.Seal("ip", []byte("row"), []byte("x"))
	index := r.Index("name", []byte("ann"))

	if err := r.Drop(ctx, UseMAC, key); err == nil {
		t.Error("the key that signs was dropped")
	}
	mustRotate(t, r, UseMAC, "", true)
	mustRotate(t, r, UseSeal, "", true)
	if r.MACKey() == key || !r.CheckMAC(key, "rt", []byte("token"), &tag) {
		t.Errorf("before: new tokens by key %d (old %d), the old token must pass", r.MACKey(), key)
	}
	again, _ := r.Seal("ip", []byte("row"), []byte("x"))
	if sealed[2] != 1 || again[2] != 2 {
		t.Errorf("sealed with keys %d, %d, want 1, 2", sealed[2], again[2])
	}
	for _, s := range [][]byte{sealed, again} {
		if plain, err := r.Open("ip", []byte("row"), s); err != nil || string(plain) != "x" {
			t.Errorf("open after rotation: %q, %v", plain, err)
		}
	}
	if r.Index("name", []byte("ann")) != index {
		t.Error("the index moved with the rotation: every look-up would miss")
	}
	other := mustOpen(t, testConfig(t, st, c))
	if err := r.Drop(ctx, UseMAC, key); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.MAC(key, "rt", []byte("token")); ok || r.CheckMAC(key, "rt", []byte("token"), &tag) {
		t.Error("after: the old token passes")
	}
	if err := other.Reload(ctx); err != nil || other.CheckMAC(key, "rt", []byte("token"), &tag) {
		t.Errorf("after: the old token passes on another node (%v)", err)
	}
	for _, c := range []struct {
		use Use
		id  uint16
	}{{UseSeal, 1}, {UseIndex, 1}, {UseMAC, key}, {UseMAC, 99}} {
		if err := r.Drop(ctx, c.use, c.id); err == nil {
			t.Errorf("Drop %s/%d: no error", c.use, c.id)
		}
	}
}

func TestRotateRefusesWhatThereIsNot(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	for _, c := range []line{{UseIndex, ""}, {UseSign, ""}, {UseSign, "HS256"}, {UseSign, "none"}, {"", ""}, {UseMAC, ES256}, {"x", ES256}} {
		if in, err := r.Rotate(context.Background(), c.use, c.alg, true); err == nil {
			t.Errorf("Rotate %v: %v, want an error", c, in)
		}
	}
}

func TestEmergencyKeyIsHeldBackForOtherNodes(t *testing.T) {
	st, c := newMemory(), &clock{t: t0}
	conf := testConfig(t, st, c)
	conf.Spread = 2 * time.Minute
	a := mustOpen(t, conf)
	pending := mustRotate(t, a, UseMAC, "", false)
	in := mustRotate(t, a, UseMAC, "", true)
	if !in.Signs.Equal(t0.Add(2*time.Minute)) || a.MACKey() != 1 {
		t.Errorf("emergency key signs %v, MAC key %d; want it held back for two minutes", in.Signs, a.MACKey())
	}
	for _, d := range []time.Duration{2 * time.Minute, 24 * time.Hour} {
		c.add(d)
		if err := a.Reload(context.Background()); err != nil || a.MACKey() != in.ID {
			t.Errorf("MAC key %d at %v (%v), want the emergency key %d, not %d", a.MACKey(), c.now(), err, in.ID, pending.ID)
		}
	}
}

func TestKeepMACBoundsOldMACKeys(t *testing.T) {
	ctx := context.Background()
	st, c := newMemory(), &clock{t: t0}
	conf := testConfig(t, st, c)
	conf.Roll = -1
	r := mustOpen(t, conf)
	mustRotate(t, r, UseMAC, "", true)
	c.add(10000 * time.Hour)
	if err := r.step(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.MAC(1, "rt", nil); !ok {
		t.Fatal("KeepMAC 0 dropped a key")
	}
	r.SetKeepMAC(10000 * time.Hour)
	if err := r.step(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.MAC(1, "rt", nil); !ok {
		t.Fatal("dropped within the grace")
	}
	c.add(grace)
	if err := r.step(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.MAC(1, "rt", nil); ok || len(st.recs) != len(lines()) {
		t.Error("kept after its end")
	}
}

// broken fails, after the step was done or before (STYLE 7.35).
type broken struct {
	Store
	persist bool
	left    int // calls of PutKey and DropKey that succeed
}

var errBroken = errors.New("the disk is on fire")

func (b *broken) fails() bool { b.left--; return b.left < 0 }

func (b *broken) PutKey(ctx context.Context, rec Record) error {
	if !b.fails() {
		return b.Store.PutKey(ctx, rec)
	}
	if b.persist {
		if err := b.Store.PutKey(ctx, rec); err != nil {
			return err
		}
	}
	return errBroken
}

func (b *broken) DropKey(ctx context.Context, use Use, id uint16) error {
	if !b.fails() {
		return b.Store.DropKey(ctx, use, id)
	}
	if b.persist {
		if err := b.Store.DropKey(ctx, use, id); err != nil {
			return err
		}
	}
	return errBroken
}

func TestFaultPairsConverge(t *testing.T) {
	ctx := context.Background()
	for _, persist := range []bool{false, true} {
		for left := range len(lines()) {
			st, c := newMemory(), &clock{t: t0}
			if _, err := Open(ctx, testConfig(t, &broken{st, persist, left}, c)); !errors.Is(err, errBroken) {
				t.Errorf("persist %v, fails after %d: Open: %v, want the store's error", persist, left, err)
			}
			r := mustOpen(t, testConfig(t, st, c))
			if len(st.recs) != len(lines()) || len(r.List()) != len(lines()) {
				t.Errorf("persist %v, fails after %d: %d keys, want %d", persist, left, len(st.recs), len(lines()))
			}
		}
		st, c := newMemory(), &clock{t: t0}
		b := &broken{st, persist, 1000}
		r := mustOpen(t, testConfig(t, b, c))
		b.left = 0
		if _, err := r.Rotate(ctx, UseMAC, "", true); !errors.Is(err, errBroken) || r.MACKey() != 1 {
			t.Errorf("persist %v: Rotate: %v, MAC key %d; want the error and the old key: nothing may be made with a key that may not be stored", persist, err, r.MACKey())
		}
		if err := r.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		if want := uint16(1); persist {
			want = 2
			if r.MACKey() != want {
				t.Errorf("after Reload the MAC key is %d, want %d", r.MACKey(), want)
			}
		}
	}
}

func TestFaultPairsOfDropConverge(t *testing.T) {
	ctx := context.Background()
	for _, persist := range []bool{false, true} {
		st, c := newMemory(), &clock{t: t0}
		b := &broken{st, persist, 1000}
		r := mustOpen(t, testConfig(t, b, c))
		mustRotate(t, r, UseSign, ES256, true)
		mustRotate(t, r, UseMAC, "", true)
		b.left = 0
		if err := r.Drop(ctx, UseMAC, 1); !errors.Is(err, errBroken) {
			t.Errorf("persist %v: Drop: %v, want the store's error", persist, err)
		}
		if err := r.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.MAC(1, "rt", nil); ok == persist {
			t.Errorf("persist %v: the MAC key is there: %v", persist, ok)
		}
		c.add(50 * time.Hour) // the first ES256 key has ended
		b.left = 0
		if err := r.step(ctx); !errors.Is(err, errBroken) || len(kidsIn(t, r)) != 4 {
			t.Errorf("persist %v: %v and %d public keys; want the store's error, and the ended key out of use all the same", persist, err, len(kidsIn(t, r)))
		}
		b.left = 1000
		if err := r.step(ctx); err != nil {
			t.Fatal(err)
		}
		if _, ok := st.recs[slot{UseSign, 1}]; ok {
			t.Errorf("persist %v: the ended key was never dropped", persist)
		}
	}
}

// deaf is a store that can be out of reach.
type deaf struct {
	*memory
	mu  sync.Mutex
	off bool // guarded by mu
}

func (d *deaf) set(off bool) { d.mu.Lock(); d.off = off; d.mu.Unlock() }

func (d *deaf) Keys(ctx context.Context) ([]Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return nil, errBroken
	}
	return d.memory.Keys(ctx)
}

func TestRunRotatesOnScheduleAndOutlivesItsStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &deaf{memory: newMemory()}
		var logged bytes.Buffer
		conf := Config{Store: st, KEK: testKEK(t, 7), Issuer: testIssuer, Poll: time.Hour, Log: slog.New(slog.NewTextHandler(&logged, nil))}
		r := mustOpen(t, conf)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		first := mustSign(t, r, ES256, "JWT", "{}")

		time.Sleep(89*24*time.Hour + time.Hour)
		synctest.Wait()
		if n := len(kidsIn(t, r)); n != 8 {
			t.Errorf("%d keys in the JWKS after 89 days, want four that sign and four that are published", n)
		}
		if kidOf(t, mustSign(t, r, ES256, "JWT", "{}")) != kidOf(t, first) {
			t.Error("rolled a day early")
		}
		st.set(true)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		young := mustSign(t, r, ES256, "JWT", "{}")
		if kidOf(t, young) == kidOf(t, first) || r.MACKey() != 2 {
			t.Error("a published key does not sign when its time has come, because the store is out of reach")
		}
		if !strings.Contains(logged.String(), errBroken.Error()) {
			t.Error("the store's failure was not logged")
		}
		st.set(false)
		time.Sleep(50 * time.Hour)
		synctest.Wait()
		if _, err := r.Verify(first, "JWT"); err == nil || len(kidsIn(t, r)) != 4 {
			t.Errorf("retired keys are still there: %v", kidsIn(t, r))
		}
		time.Sleep(365 * 24 * time.Hour)
		synctest.Wait()
		if r.MACKey() != 6 || len(r.List()) != 1+6+6+4 {
			t.Errorf("MAC key %d and %d keys after 15 months, want 6 and 17: %v", r.MACKey(), len(r.List()), r.List())
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v, want nil when its context ends", err)
		}
	})
}

func TestReloadGivesUpWithItsContext(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	r.turn <- struct{}{} // somebody else is in a slow store
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Reload(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Reload: %v, want the context's error", err)
	}
	mustSign(t, r, ES256, "JWT", "{}") // readers do not wait
}

// gated is a store whose next Keys answers late, with what it read early.
type gated struct {
	*memory
	gate chan struct{} // taken by one call
}

func (g *gated) Keys(ctx context.Context) ([]Record, error) {
	recs, err := g.memory.Keys(ctx)
	if gate := g.gate; gate != nil {
		g.gate = nil
		<-gate
	}
	return recs, err
}

func TestSlowAnswerOfTheStoreDoesNotHideNewerKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, c := &gated{memory: newMemory()}, &clock{t: t0}
		r, other := mustOpen(t, testConfig(t, st, c)), mustOpen(t, testConfig(t, st.memory, c))
		gate := make(chan struct{})
		st.gate = gate
		go func() {
			if _, err := r.Rotate(t.Context(), UseMAC, "", true); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait() // it has read and waits
		mustRotate(t, other, UseSeal, "", true)
		go func() {
			if err := r.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if s := r.snap.Load(); s.macNow != 2 || s.sealNow != 2 {
			t.Errorf("keys mac/%d and seal/%d sign, want the second of both: %v", s.macNow, s.sealNow, r.List())
		}
	})
}

func TestReadersDuringRotation(t *testing.T) {
	ctx := context.Background()
	st, c := newMemory(), &clock{t: t0}
	r, other := mustOpen(t, testConfig(t, st, c)), mustOpen(t, testConfig(t, st, c))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			row := []byte{byte(w)}
			for i := 0; ; i++ {
				select {
				case <-stop:
					if i == 0 {
						t.Error("nothing was read")
					}
					return
				default:
				}
				jws, err := r.Sign([]Alg{ES256, EdDSA}[i%2], "at+jwt", []byte(`{}`))
				if err != nil {
					t.Error(err)
					return
				}
				key := r.MACKey()
				tag, ok := r.MAC(key, "rt", row)
				sealed, err := r.Seal("ip", row, row)
				if !ok || err != nil {
					t.Errorf("MAC %v, Seal %v", ok, err)
					return
				}
				if _, err := r.Verify(jws, "at+jwt"); err != nil || !r.CheckMAC(key, "rt", row, &tag) {
					t.Errorf("made during a rotation and refused: %v", err)
					return
				}
				if plain, err := r.Open("ip", row, sealed); err != nil || !bytes.Equal(plain, row) {
					t.Errorf("sealed during a rotation: %v", err)
					return
				}
				r.JWKS()
				r.List()
			}
		})
	}
	for range 15 {
		for _, ln := range []line{{UseSign, ES256}, {UseSign, EdDSA}, {UseMAC, HS256}, {UseSeal, A256GCM}} {
			if _, err := other.Rotate(ctx, ln.use, ln.alg, true); err != nil {
				t.Error(err)
			}
			if err := r.Reload(ctx); err != nil {
				t.Error(err)
			}
			if _, err := r.Rotate(ctx, ln.use, ln.alg, true); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	wg.Wait()
}

func TestNothingPrintsKeys(t *testing.T) {
	raw := bytes.Repeat([]byte{0xA7}, kekSize)
	text := kekPrefix + "p6enp6enp6enp6enp6enp6enp6enp6enp6enp6enp6c"
	kek, err := ParseKEK(text)
	if err != nil {
		t.Fatal(err)
	}
	conf := testConfig(t, newMemory(), &clock{t: t0})
	conf.KEK = kek
	r := mustOpen(t, conf)
	hidden := struct {
		k KEK
		r *Ring
	}{kek, r}
	var all strings.Builder
	for _, v := range []any{kek, &kek, conf, &conf, r, r.List(), hidden, &hidden, []KEK{kek}, map[string]KEK{"a": kek}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			fmt.Fprintf(&all, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			all.Write(b)
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&all, nil), slog.NewJSONHandler(&all, nil)} {
			slog.New(h).Info("x", "v", v)
		}
	}
	if _, err := json.Marshal(kek); err == nil {
		t.Error("a KEK was encoded as JSON")
	}
	out := all.String()
	if len(out) < 1000 {
		t.Fatal("nothing was printed")
	}
	for _, leak := range []string{text[10:20], "a7a7a7a7a7", "A7A7A7A7A7", "167 167 167 167", "167,167,167,167", "0xa7, 0xa7, 0xa7, 0xa7", string(raw[:5]), `\xa7\xa7\xa7\xa7`} {
		if strings.Contains(out, leak) {
			t.Errorf("the key-encryption key was printed: %q", leak)
		}
	}
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}
