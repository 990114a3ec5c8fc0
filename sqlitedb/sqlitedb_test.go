package sqlitedb

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/memdb"
)

// testRing is one ring for all stores of the tests: making its RSA keys takes longer
// than most of them.
var testRing = sync.OnceValues(func() (*keys.Ring, error) {
	kek, err := keys.ParseKEK("hkek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
	if err != nil {
		return nil, err
	}
	return keys.Open(context.Background(), keys.Config{Store: memdb.New(memdb.Config{}), KEK: kek, Issuer: "https://issuer.example"})
})

func config(t testing.TB, now func() time.Time) Config {
	t.Helper()
	return Config{
		Path: filepath.Join(t.TempDir(), "data", "heirloom.db"),
		Now:  now,
		Keys: func(context.Context, keys.Store) (*keys.Ring, error) { return testRing() },
	}
}

func openTest(t testing.TB, c Config) *DB {
	t.Helper()
	db, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestFirst(t *testing.T) {
	db := openTest(t, config(t, nil))
	p, _ := family.Preset("native")
	g := &family.Grant{Client: "c", User: "u", Scope: "openid"}
	s := family.New(family.ID{1}, p, family.At(time.Now()), g, 1, 0, family.Origin{UserAgent: "UA"})
	if err := db.Create(t.Context(), s, s.EventFor(family.FamilyIssued, family.Issued, family.Token{}, family.Origin{UserAgent: "UA"})); err != nil {
		t.Fatal(err)
	}
	s, st, err := db.Load(t.Context(), s.ID)
	t.Log(s, st, err)
	s.Head++
	t.Log(db.Commit(t.Context(), s))
	t.Log(db.Commit(t.Context(), s))
	t.Log(db.Events(t.Context(), family.EventQuery{}))
	t.Log(db.Families(t.Context(), family.Query{}))
	t.Log(db.Sweep(t.Context(), 0))
	t.Log(db.Ping(t.Context()))
	t.Log(db.Stats())
}
