package source_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite" // registers "sqlite"

	"github.com/heirloom-auth/heirloom/source"
)

var sealKey = bytes.Repeat([]byte{9}, 32)

// openSQL returns a table in an SQLite file; opening the same path again is another process.
func openSQL(t *testing.T, path string, key []byte) *source.SQL {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Exec(strings.Replace(fmt.Sprintf(source.SQLSchema, "heirloom_session"), "create table", "create table if not exists", 1)); err != nil {
		t.Fatal(err)
	}
	return &source.SQL{DB: db, Key: key}
}

// stores are all that this package has; each call of the inner function opens it anew.
func stores(t *testing.T) map[string]func() source.Store {
	dir := t.TempDir()
	file := func(name string, key []byte) func() source.Store {
		return func() source.Store {
			st, err := source.NewFile(filepath.Join(dir, name), key)
			if err != nil {
				t.Fatal(err)
			}
			return st
		}
	}
	table := func(name string, key []byte) func() source.Store {
		q := openSQL(t, filepath.Join(dir, name), key)
		return func() source.Store {
			st, err := q.Session("user-1")
			if err != nil {
				t.Fatal(err)
			}
			return st
		}
	}
	mem := new(source.Memory)
	return map[string]func() source.Store{
		"memory": func() source.Store { return mem }, "file": file("plain", nil), "sealed file": file("sealed", sealKey),
		"sql": table("plain.db", nil), "sealed sql": table("sealed.db", sealKey),
	}
}

func TestStores(t *testing.T) {
	ctx := context.Background()
	for name, open := range stores(t) {
		t.Run(name, func(t *testing.T) {
			st := open()
			r, empty, err := st.Load(ctx)
			if err != nil || empty != "" || r != (source.Record{}) {
				t.Fatalf("an empty store holds %v at %q, %v", r, empty, err)
			}
			now := time.Now().Truncate(time.Millisecond)
			want := source.Record{
				Tokens:   source.Tokens{AccessToken: "ä\x00\"", RefreshToken: "r", IDToken: "i", Scope: "a b", Issued: now, Expiry: now.Add(time.Minute), SessionExpiry: now.Add(time.Hour), SessionEnds: now.Add(2 * time.Hour)},
				RetryKey: "k", Offset: -1500 * time.Millisecond, Dated: true,
			}
			if err := st.Swap(ctx, "nonsense", want); !errors.Is(err, source.ErrChanged) {
				t.Errorf("swap at a version that never was: %v", err)
			}
			if err := st.Swap(ctx, empty, want); err != nil {
				t.Fatal(err)
			}
			got, ver, err := open().Load(ctx)
			if err != nil || got != want {
				t.Errorf("stored %#v, loaded %#v, %v", want.Tokens.Issued, got.Tokens.Issued, err)
			}
			ended := source.Record{Ended: "invalid_grant"}
			if err := open().Swap(ctx, empty, ended); !errors.Is(err, source.ErrChanged) {
				t.Errorf("swap at the empty version: %v", err)
			}
			if err := open().Swap(ctx, ver, ended); err != nil {
				t.Fatal(err)
			}
			if err := open().Swap(ctx, ver, want); !errors.Is(err, source.ErrChanged) {
				t.Errorf("swap at an old version: %v", err)
			}
			if got, _, err := st.Load(ctx); err != nil || got != ended {
				t.Errorf("loaded %v, %v", got, err)
			}

			// Many at once: each success is one more, none is lost.
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					mine := open()
					for done := 0; done < 5; {
						r, ver, err := mine.Load(ctx)
						if err != nil {
							t.Error(err)
							return
						}
						r.Offset += time.Second
						switch err := mine.Swap(ctx, ver, r); {
						case err == nil:
							done++
						case !errors.Is(err, source.ErrChanged):
							t.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			if r, _, err := st.Load(ctx); err != nil || r.Offset != 40*time.Second {
				t.Errorf("%v of 40 s counted, %v", r.Offset, err)
			}

			l, ok := st.(source.Locker)
			if !ok {
				return
			}
			unlock, err := l.Lock(ctx)
			if err != nil {
				t.Fatal(err)
			}
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			if _, err := open().(source.Locker).Lock(short); err == nil || errors.Is(err, source.ErrBusy) {
				t.Errorf("the lock is taken twice, or one holder counts as many: %v", err)
			}
			// Two who hold it in turn: whoever waits is told that nobody is stuck.
			busy, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			waited := make(chan error)
			go func() {
				_, err := open().(source.Locker).Lock(busy)
				waited <- err
			}()
			time.Sleep(100 * time.Millisecond)
			if r, ver, err := open().Load(ctx); err != nil || open().Swap(ctx, ver, r) != nil {
				t.Error("the lock keeps others from writing")
			}
			unlock()
			if err := <-waited; err != nil {
				t.Errorf("the lock is free, but: %v", err)
			}
		})
	}
}

func TestFileIsPrivateAndAtomic(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "tokens"), filepath.Join(dir, "link")
	if err := os.WriteFile(path, source.Encode(source.Record{RetryKey: "k"}), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	st, err := source.NewFile(link, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, ver, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Swap(t.Context(), ver, source.Record{RetryKey: "k2"}); err != nil {
		t.Fatal(err)
	}
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() != "link" && fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), fi.Mode())
		}
	}
	if fi, err := os.Lstat(link); err != nil || fi.Mode()&os.ModeSymlink == 0 || len(es) != 3 {
		t.Errorf("the link was replaced, or something was left behind: %v, %v", es, err)
	}
}

func TestADamagedFileIsAnErrorAndIsKept(t *testing.T) {
	good := source.Encode(source.Record{Tokens: source.Tokens{AccessToken: "a", RefreshToken: "r"}, RetryKey: "k"})
	for name, b := range map[string][]byte{
		"empty": {}, "cut off": good[:len(good)-5], "one bit": append(append([]byte{}, good[:len(good)-9]...), append([]byte{good[len(good)-9] ^ 1}, good[len(good)-8:]...)...),
		"another format": []byte("heirloom-tokens-2 00\n{}"), "JSON": []byte("{}"), "sealed": append([]byte("heirloom-sealed-1\n"), make([]byte, 99)...),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tokens")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, key := range [][]byte{nil, sealKey} {
				st, err := source.NewFile(path, key)
				if err != nil {
					t.Fatal(err)
				}
				s := at(t, st, nil, nil)
				if _, err := s.Token(t.Context()); !isTransient(err) || !strings.Contains(err.Error(), path) {
					t.Errorf("Token: %v", err)
				}
				if err := s.Put(t.Context(), source.Tokens{AccessToken: "new"}); err == nil {
					t.Error("it was overwritten")
				}
				if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, b) {
					t.Errorf("the file was changed: %q, %v", now, err)
				}
			}
		})
	}
}

func TestASealedFileShowsNothingAndFitsItsKeyOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	st, err := source.NewFile(path, sealKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Swap(t.Context(), "", source.Record{Tokens: source.Tokens{RefreshToken: "hrt_visible"}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.Contains(b, []byte("visible")) || bytes.Contains(b, []byte("refresh_token")) {
		t.Errorf("the file shows %q, %v", b, err)
	}
	for _, key := range [][]byte{nil, bytes.Repeat([]byte{8}, 32)} {
		other, err := source.NewFile(path, key)
		if err != nil {
			t.Fatal(err)
		}
		if r, _, err := other.Load(t.Context()); err == nil {
			t.Errorf("read without the key: %v", r)
		}
	}
}

// A row that is copied to another session's id is refused: it was sealed for its place.
func TestASealedRowStaysInItsPlace(t *testing.T) {
	q := openSQL(t, filepath.Join(t.TempDir(), "x.db"), sealKey)
	st, err := q.Session("alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Swap(t.Context(), "", source.Record{RetryKey: "k"}); err != nil {
		t.Fatal(err)
	}
	if _, err := q.DB.Exec(`update heirloom_session set id = 'mallory'`); err != nil {
		t.Fatal(err)
	}
	if st, err = q.Session("mallory"); err != nil {
		t.Fatal(err)
	}
	if r, _, err := st.Load(t.Context()); err == nil {
		t.Errorf("loaded %v", r)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(source.Encode(source.Record{Tokens: source.Tokens{AccessToken: "a", Expiry: time.UnixMilli(1)}, Ended: "e", Dated: true, Offset: time.Second}))
	f.Add([]byte("heirloom-tokens-1 \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := source.Decode(b)
		if err != nil {
			if r != (source.Record{}) {
				t.Error("a value and an error")
			}
			return
		}
		if again, err := source.Decode(source.Encode(r)); err != nil || again != r {
			t.Errorf("%v comes back as %v, %v", r, again, err)
		}
	})
}
