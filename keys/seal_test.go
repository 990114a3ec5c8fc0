package keys

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMACIsTheDocumentedHMAC(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	k := bytes.Repeat([]byte{1}, 32)
	r.snap.Load().mac[1] = newMACKey(k)
	h := hmac.New(sha256.New, k)
	for _, s := range []string{"rt", testIssuer, "message"} {
		binary.Write(h, binary.BigEndian, uint32(len(s)))
		h.Write([]byte(s))
	}
	for range 3 { // pooled states start afresh
		if got, ok := r.MAC(1, "rt", []byte("message")); !ok || !bytes.Equal(got[:], h.Sum(nil)) {
			t.Errorf("MAC %x, want %x", got, h.Sum(nil))
		}
	}
}

func TestMACRefusesEverythingElse(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	mustRotate(t, r, UseMAC, "", false)
	msg := []byte("version, key, family, generation")
	tag, ok := r.MAC(1, "rt", msg)
	if !ok || !r.CheckMAC(1, "rt", msg, &tag) {
		t.Fatal("the right tag is refused")
	}
	for i := range tag {
		bad := [32]byte(flip(tag[:], i))
		if r.CheckMAC(1, "rt", msg, &bad) {
			t.Errorf("accepted with byte %d of the tag changed", i)
		}
	}
	for i := range msg {
		if r.CheckMAC(1, "rt", flip(msg, i), &tag) {
			t.Errorf("accepted with byte %d of the message changed", i)
		}
	}
	for name, ok := range map[string]bool{
		"another purpose":             r.CheckMAC(1, "code", msg, &tag),
		"another key":                 r.CheckMAC(2, "rt", msg, &tag),
		"no such key":                 r.CheckMAC(3, "rt", msg, &tag),
		"key 0":                       r.CheckMAC(0, "rt", msg, &tag),
		"a shorter message":           r.CheckMAC(1, "rt", msg[1:], &tag),
		"purpose and message shifted": r.CheckMAC(1, "rtv", msg[1:], &tag),
	} {
		if ok {
			t.Errorf("%s: accepted", name)
		}
	}
	if tag, ok := r.MAC(3, "rt", msg); ok || tag != [32]byte{} {
		t.Errorf("MAC under no key: %x, %v", tag, ok)
	}
}

// C23: a token of staging means nothing in production, neither when each has its own keys nor when somebody copied the
// whole database.
func TestC23_AnotherInstallationsTokensAreRefused(t *testing.T) {
	st, c := newMemory(), &clock{t: t0}
	prod := mustOpen(t, testConfig(t, st, c))
	conf := testConfig(t, st, c)
	conf.Issuer = "https://staging.example"
	copied := mustOpen(t, conf)
	conf.Store = newMemory()
	own := mustOpen(t, conf)
	for name, staging := range map[string]*Ring{"copied database": copied, "own keys": own} {
		tag, ok := staging.MAC(staging.MACKey(), "rt", []byte("m"))
		if !ok || prod.CheckMAC(staging.MACKey(), "rt", []byte("m"), &tag) {
			t.Errorf("%s: a token of staging passes in production", name)
		}
	}
}

func TestSealedValueOpensInItsPlaceOnly(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	row := []byte("family 1")
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("long "), 1000)} {
		sealed, err := r.Seal("agent", row, plain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Open("agent", row, sealed); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("opened %q, %v; want %q", got, err, plain)
		}
		if want := sealHeader + sealMore + len(plain); len(sealed) != want {
			t.Errorf("%d bytes sealed, want %d", len(sealed), want)
		}
		if again, _ := r.Seal("agent", row, plain); bytes.Equal(again, sealed) {
			t.Error("the same value sealed twice is the same: no nonce")
		}
	}
	sealed, _ := r.Seal("agent", row, []byte("Mozilla/5.0"))
	for i := range sealed {
		if got, err := r.Open("agent", row, flip(sealed, i)); err == nil {
			t.Errorf("opened with byte %d changed: %q", i, got)
		}
		if _, err := r.Open("agent", row, sealed[:i]); err == nil {
			t.Errorf("opened when cut at %d", i)
		}
	}
	other := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	for name, open := range map[string]func() ([]byte, error){
		"another row":      func() ([]byte, error) { return r.Open("agent", []byte("family 2"), sealed) },
		"no row":           func() ([]byte, error) { return r.Open("agent", nil, sealed) },
		"another column":   func() ([]byte, error) { return r.Open("ip", row, sealed) },
		"shifted":          func() ([]byte, error) { return r.Open("agentf", row[1:], sealed) },
		"another ring":     func() ([]byte, error) { return other.Open("agent", row, sealed) },
		"something behind": func() ([]byte, error) { return r.Open("agent", row, append(bytes.Clone(sealed), 0)) },
		"nothing":          func() ([]byte, error) { return r.Open("agent", row, nil) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened %q", name, got)
		}
	}
}

func TestIndexTellsValuesAndColumnsApart(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	a := r.Index("name", []byte("ann"))
	if a != r.Index("name", []byte("ann")) {
		t.Error("the index of a value is not stable")
	}
	if a == r.Index("mail", []byte("ann")) || a == r.Index("name", []byte("bob")) || a == r.Index("namea", []byte("nn")) {
		t.Error("two values have one index")
	}
	if a == mustOpen(t, testConfig(t, newMemory(), &clock{t: t0})).Index("name", []byte("ann")) {
		t.Error("the index is not keyed")
	}
}

var write = flag.Bool("write-golden", false, "write the golden file of the current format, once per version")

type golden struct {
	KEK     string
	Records []goldenRecord
	Tag     []byte // MAC(1, "rt", "message")
	Sealed  []byte // Seal("ip", "row", "192.0.2.1")
	Index   []byte // Index("name", "ann")
	JWS     string // {"sub":"ann"}, JWT, ES256
}

type goldenRecord struct {
	Record
	Wrapped []byte
}

// What an earlier version stored opens for ever. A golden file is never changed or deleted.
func TestGoldenFormats(t *testing.T) {
	ctx := context.Background()
	if *write {
		text := kekPrefix + b64(bytes.Repeat([]byte{0x5A}, kekSize))
		kek, err := ParseKEK(text)
		if err != nil {
			t.Fatal(err)
		}
		conf := testConfig(t, newMemory(), &clock{t: t0})
		conf.KEK = kek
		r := mustOpen(t, conf)
		g := golden{KEK: text}
		recs, _ := conf.Store.Keys(ctx)
		for _, rec := range recs {
			g.Records = append(g.Records, goldenRecord{rec, rec.Wrapped})
		}
		tag, _ := r.MAC(1, "rt", []byte("message"))
		index := r.Index("name", []byte("ann"))
		g.Tag, g.Index, g.JWS = tag[:], index[:], mustSign(t, r, ES256, "JWT", `{"sub":"ann"}`)
		if g.Sealed, err = r.Seal("ip", []byte("row"), []byte("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		b, _ := json.MarshalIndent(g, "", "\t")
		if err := os.WriteFile("testdata/format-1.json", append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob("testdata/format-*.json")
	if len(files) == 0 {
		t.Fatal("no golden files: have they moved?")
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		var g golden
		if err != nil || json.Unmarshal(b, &g) != nil || len(g.Records) == 0 {
			t.Fatalf("%s: %v, %d records", file, err, len(g.Records))
		}
		conf := testConfig(t, newMemory(), &clock{t: t0.Add(time.Hour)})
		if conf.KEK, err = ParseKEK(g.KEK); err != nil {
			t.Fatal(err)
		}
		for _, rec := range g.Records {
			rec.Record.Wrapped = rec.Wrapped
			if err := conf.Store.PutKey(ctx, rec.Record); err != nil {
				t.Fatal(err)
			}
		}
		r := mustOpen(t, conf)
		if len(r.List()) != len(g.Records) {
			t.Errorf("%s: %d keys, want %d", file, len(r.List()), len(g.Records))
		}
		if tag := [32]byte(g.Tag); !r.CheckMAC(1, "rt", []byte("message"), &tag) {
			t.Errorf("%s: the MAC is refused", file)
		}
		if plain, err := r.Open("ip", []byte("row"), g.Sealed); err != nil || string(plain) != "192.0.2.1" {
			t.Errorf("%s: opened %q, %v", file, plain, err)
		}
		if index := r.Index("name", []byte("ann")); !bytes.Equal(index[:], g.Index) {
			t.Errorf("%s: the index moved", file)
		}
		if claims, err := r.Verify(g.JWS, "JWT"); err != nil || string(claims) != `{"sub":"ann"}` {
			t.Errorf("%s: verified %q, %v", file, claims, err)
		}
	}
}

var benchMsg = make([]byte, 23) // a refresh token without its tag

func BenchmarkMAC(b *testing.B) {
	r := mustOpen(b, testConfig(b, newMemory(), &clock{t: t0}))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := r.MAC(1, "heirloom refresh token v1", benchMsg); !ok {
			b.Fatal("no key")
		}
	}
}

func BenchmarkCheckMAC(b *testing.B) {
	r := mustOpen(b, testConfig(b, newMemory(), &clock{t: t0}))
	tag, _ := r.MAC(1, "heirloom refresh token v1", benchMsg)
	b.ReportAllocs()
	for b.Loop() {
		if !r.CheckMAC(1, "heirloom refresh token v1", benchMsg, &tag) {
			b.Fatal("refused")
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	r := mustOpen(b, testConfig(b, newMemory(), &clock{t: t0}))
	row, plain := make([]byte, 16), make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Seal("presented", row, plain); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	r := mustOpen(b, testConfig(b, newMemory(), &clock{t: t0}))
	row := make([]byte, 16)
	sealed, _ := r.Seal("presented", row, make([]byte, 200))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Open("presented", row, sealed); err != nil {
			b.Fatal(err)
		}
	}
}
