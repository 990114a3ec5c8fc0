package sqlitedb

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/memdb"
	"github.com/heirloom-auth/heirloom/storetest"
)

// testRing is one ring for all stores of the tests: making its RSA keys takes longer
// than most of them.
var testRing = sync.OnceValues(func() (*keys.Ring, error) {
	kek, err := keys.ParseKEK("hkek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
	if err != nil {
		return nil, err
	}
	return keys.Open(context.Background(), keys.Config{Store: memdb.New(memdb.Config{}), KEK: kek, Issuer: "https://issuer.example", Log: slog.New(slog.DiscardHandler)})
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

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, now func() time.Time) storetest.Engine {
		c := config(t, now)
		c.Path = filepath.Join(fast(t), "heirloom.db")
		return openTest(t, c)
	})
}
