package sqlitedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// raw opens a second connection to the file, beside the engine: what a person with
// sqlite3 does.
func raw(t *testing.T, path string) *conn {
	t.Helper()
	c, err := open(path, 64, new(atomic.Uint64))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func mustExec(t *testing.T, c *conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.exec(sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// fast returns a directory in memory if the machine has one: for tests that count
// and do not care for the disk.
func fast(t *testing.T) string {
	t.Helper()
	if info, err := os.Stat("/dev/shm"); err != nil || !info.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "heirloom-test-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestASecondOpenerIsRefusedAndToldWhoOwnsTheFile(t *testing.T) {
	c := config(t, nil)
	db, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "is in use by process "+fmt.Sprint(os.Getpid())) {
		t.Errorf("second Open: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, c)
}

func TestTheFilesAreForTheirOwnerAlone(t *testing.T) {
	c := config(t, nil)
	db := openTest(t, c)
	populate(t, db, 1)
	for path, want := range map[string]fs.FileMode{
		filepath.Dir(c.Path): 0o700, c.Path: 0o600, c.Path + "-wal": 0o600, c.Path + "-shm": 0o600, c.Path + ".lock": 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
	}
}

func TestAFileThatOthersMayReadIsClosedToThem(t *testing.T) {
	c := config(t, nil)
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	openTest(t, c)
	info, err := os.Stat(c.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
}

func TestEveryConnectionIsDurable(t *testing.T) {
	db := openTest(t, config(t, nil))
	err := db.write(t.Context(), func(t *tx) error {
		n, err := t.number("PRAGMA synchronous")
		if err == nil && n != 2 {
			err = fmt.Errorf("synchronous is %d, want 2 (FULL)", n)
		}
		mode, modeErr := t.one("PRAGMA journal_mode")
		if modeErr == nil && mode[0] != "wal" {
			modeErr = fmt.Errorf("journal_mode is %v, want wal", mode)
		}
		return errors.Join(err, modeErr)
	}, nil)
	if err != nil {
		t.Error(err)
	}
}

func TestANewerFileIsRefused(t *testing.T) {
	c := config(t, nil)
	openTest(t, c).Close()
	r := raw(t, c.Path)
	mustExec(t, r, "PRAGMA user_version = 99")
	_, err := Open(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "schema version 99, this program knows up to 2") {
		t.Errorf("Open: %v", err)
	}
	// Nothing was changed, and the lock is free again.
	mustExec(t, r, "PRAGMA user_version = 2")
	openTest(t, c)
}

func TestAFileOfSomebodyElseIsRefused(t *testing.T) {
	for name, content := range map[string]func(t *testing.T, path string){
		"another program's": func(t *testing.T, path string) { mustExec(t, raw(t, path), "CREATE TABLE t (x)") },
		"no database":       func(t *testing.T, path string) { os.WriteFile(path, bytes.Repeat([]byte("text\n"), 2000), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, nil)
			if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
				t.Fatal(err)
			}
			content(t, c.Path)
			before, _ := os.ReadFile(c.Path)
			_, err := Open(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), "another program's") && !strings.Contains(err.Error(), "no database") {
				t.Errorf("Open: %v", err)
			}
			if after, _ := os.ReadFile(c.Path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestRT_G22_AMigrationIsDoneWholeOrNotAtAll(t *testing.T) {
	first, err := fs.ReadFile(schema, "schema/0001_begin.sql")
	if err != nil {
		t.Fatal(err)
	}
	version := func(second string) fs.FS {
		return fstest.MapFS{
			"schema/0001_begin.sql": {Data: first},
			"schema/0002_more.sql":  {Data: []byte(second)},
		}
	}
	path := filepath.Join(t.TempDir(), "x.db")
	c := raw(t, path)
	if err := migrate(c, path, fstest.MapFS{"schema/0001_begin.sql": {Data: first}}); err != nil {
		t.Fatal(err)
	}
	is := func(what string, want int64) {
		t.Helper()
		got, err := c.number("PRAGMA user_version")
		tables, err2 := c.number("SELECT count(*) FROM sqlite_schema WHERE name = 'more'")
		if err != nil || err2 != nil || got != want || tables != want-1 {
			t.Errorf("%s: version %d with %d new tables, %v, %v; want version %d", what, got, tables, err, err2, want)
		}
	}
	is("before", 1)
	err = migrate(c, path, version("CREATE TABLE more (x); CREATE TABLE more (x);"))
	if err == nil || !strings.Contains(err.Error(), "to version 2") {
		t.Errorf("broken migration: %v", err)
	}
	is("after half a migration", 1)
	if err := migrate(c, path, version("CREATE TABLE more (x);")); err != nil {
		t.Error(err)
	}
	is("after a whole one", 2)
	if err := migrate(c, path, version("CREATE TABLE more (x);")); err != nil {
		t.Error(err)
	}
	older := fstest.MapFS{"schema/0001_begin.sql": {Data: first}}
	if err := migrate(c, path, older); err == nil || !strings.Contains(err.Error(), "schema version 2, this program knows up to 1") {
		t.Errorf("older program: %v", err)
	}
}

func TestWhatWasStoredIsThereAfterAReopen(t *testing.T) {
	c := config(t, nil)
	db := openTest(t, c)
	ids := populate(t, db, 3)
	rotate(t, db, typicalPolicy(t), ids[0], 1)
	if err := db.Record(t.Context(), family.Event{Kind: family.KeyChanged}); err != nil {
		t.Fatal(err)
	}
	want, _, err := db.Load(t.Context(), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := db.DeleteClient(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if size(c.Path+"-wal") != 0 {
		t.Error("Close left a log")
	}
	db = openTest(t, c)
	got, at, err := db.Load(t.Context(), ids[0])
	if err != nil || got.Head != 1 || got.Trail != want.Trail || *got.Places != *want.Places || got.Grant.Scope != want.Grant.Scope {
		t.Errorf("Load: %+v, %v", got, err)
	}
	if at.Barred != family.RevokedAdmin {
		t.Errorf("barred: %v: the client's deletion was forgotten", at.Barred)
	}
	if err := db.PutClient(t.Context(), client.Client{ID: "app"}); !errors.Is(err, family.ErrExists) {
		t.Errorf("PutClient of a deleted id: %v", err)
	}
	if err := db.Record(t.Context(), family.Event{Kind: family.KeyChanged}); err != nil {
		t.Fatal(err)
	}
	events, err := db.Events(t.Context(), family.EventQuery{})
	if err != nil || len(events) != 2 || events[0].Seq != events[1].Seq+1 {
		t.Errorf("events: %+v, %v", events, err)
	}
}

func TestATamperedSealedColumnIsNoticed(t *testing.T) {
	for name, sql := range map[string]string{
		"grant of another family":  "UPDATE family SET sealed_grant = (SELECT sealed_grant FROM family WHERE id = ?2) WHERE id = ?1",
		"places of another family": "UPDATE family SET sealed_places = (SELECT sealed_places FROM family WHERE id = ?2) WHERE id = ?1",
		"grant in place of places": "UPDATE family SET sealed_places = sealed_grant WHERE id IN (?1, ?2)",
		"empty grant":              "UPDATE family SET sealed_grant = x'' WHERE id IN (?1, ?2)",
		"one bit of the grant": `UPDATE family SET sealed_grant = substr(sealed_grant, 1, length(sealed_grant) - 1) ||
			char((unicode(substr(hex(sealed_grant), -1)) + 1) & 127) WHERE id IN (?1, ?2)`,
		"damaged trail": "UPDATE family SET trail = zeroblob(194) WHERE id IN (?1, ?2)",
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, nil)
			db := openTest(t, c)
			ids := populate(t, db, 2)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			r := raw(t, c.Path)
			if name == "one bit of the grant" {
				row, err := r.one("SELECT sealed_grant FROM family WHERE id = ?", ids[0][:])
				if err != nil {
					t.Fatal(err)
				}
				b := slices.Clone(row[0].([]byte))
				b[len(b)-1] ^= 1
				mustExec(t, r, "UPDATE family SET sealed_grant = ? WHERE id = ?", b, ids[0][:])
			} else {
				mustExec(t, r, sql, ids[0][:], ids[1][:])
			}
			db = openTest(t, c)
			s, at, err := db.Load(t.Context(), ids[0])
			if err == nil || errors.Is(err, family.ErrNotFound) {
				t.Fatalf("Load: %+v, %+v, %v", s, at, err)
			}
			if !strings.Contains(err.Error(), ids[0].String()) {
				t.Errorf("%v: does not tell which family", err)
			}
		})
	}
}

func TestCheckConstraintsRepeatTheInvariants(t *testing.T) {
	c := config(t, nil)
	db := openTest(t, c)
	populate(t, db, 1)
	r := raw(t, c.Path)
	for _, set := range []string{
		"version = 0", "status = 0", "status = 3", "status = 2", "reason = 5", "head = -1", "head = 4294967296", "head_key = 65536",
		"floor = head + 1", "floor = -1", "retry_hash = x'00'", "presenter = x''", "trail = x'00'", "session = x''", "head = NULL", "id = x'00'",
		"head = 'x'",
	} {
		if _, err := r.exec("UPDATE family SET " + set); err == nil {
			t.Errorf("UPDATE family SET %s was accepted", set)
		}
	}
}

func TestRT_J07_NothingPersonalAndNoSecretIsInTheFile(t *testing.T) {
	c := config(t, nil)
	db := openTest(t, c)
	ctx := t.Context()
	const canary = "CaNaRy-7f3e"
	ip := netip.MustParseAddr("203.0.113.77")
	from := family.Origin{IP: ip, UserAgent: canary + " agent"}
	uid := user.NewID([16]byte{1})
	now := time.Now()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(db.PutClient(ctx, client.Client{ID: "app", Status: client.Enabled, Auth: client.None, CreatedAt: now}))
	must(db.PutUser(ctx, user.User{
		ID: uid, Username: strings.ToLower(canary), Status: user.Enabled, CreatedAt: now, Password: "$argon2id$" + canary,
		Claims: user.Claims{
			Name: canary, Email: canary + "@example.org", PhoneNumber: canary, Birthdate: canary, Address: user.Address{Formatted: canary},
		},
	}))
	must(db.PutSession(ctx, session.Session{
		ID: session.ID{1}, User: string(uid), Status: session.Live, CreatedAt: now, AuthTime: now, LastSeen: now, Ends: now.Add(day),
		SecretHash: [32]byte([]byte(canary + canary + canary + "xx")[:32]), UserAgent: canary, IP: ip.String(),
	}))
	g := &family.Grant{
		Client: "app", User: string(uid), Scope: "openid", Nonce: canary, Claims: canary, RedirectURI: "https://" + canary,
		Challenge: canary, ACR: canary, AMR: []string{canary},
	}
	s := family.New(family.ID{1}, typicalPolicy(t), family.At(now), g, 1, 0, from)
	must(db.Create(ctx, s, s.EventFor(family.FamilyIssued, family.Issued, family.Token{}, from)))
	rotate(t, db, typicalPolicy(t), s.ID, 1)
	must(db.Record(ctx, family.Event{Kind: family.SignInFailed, Origin: from}))

	look := func(when string) {
		t.Helper()
		found := 0
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(c.Path + suffix)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			must(err)
			for _, secret := range [][]byte{
				[]byte(canary), []byte(strings.ToLower(canary)), []byte(strings.ToUpper(canary)), []byte(ip.String()), ip.AsSlice(),
				[]byte("Chrome/146"), {198, 51, 100, 1}, // typical's
			} {
				if i := bytes.Index(b, secret); i >= 0 {
					t.Errorf("%s: %q is at byte %d of the file%s", when, secret, i, suffix)
				}
			}
			// What is not personal shows that the test looks at the right bytes.
			found += bytes.Count(b, []byte(uid))
		}
		if found == 0 {
			t.Errorf("%s: the user's id is in neither file: this test reads the wrong ones", when)
		}
	}
	look("open")
	must(db.Close())
	look("closed")
	// And it can be read by who has the keys.
	db = openTest(t, c)
	u, err := db.UserByName(ctx, strings.ToLower(canary))
	must(err)
	got, err := db.Events(ctx, family.EventQuery{})
	must(err)
	if u.Claims.Name != canary || got[0].Origin != from {
		t.Errorf("read again: %+v, %+v", u, got[0])
	}
}

func TestRT_G13_AStepThatFailsHalfWayIsTakenBackAndHurtsNobodyElse(t *testing.T) {
	c := config(t, nil)
	db := openTest(t, c)
	ids := populate(t, db, 20)
	p := typicalPolicy(t)
	before := db.Stats()
	// Somebody holds the file, so that all steps come into one batch.
	r := raw(t, c.Path)
	mustExec(t, r, "BEGIN IMMEDIATE")
	var wg sync.WaitGroup
	errs := make([]error, len(ids))
	for i, id := range ids {
		wg.Go(func() {
			s, _, err := db.Load(t.Context(), id)
			if err != nil {
				t.Error(err)
				return
			}
			next, _ := family.Present(s, p, s.LastUsed, family.Token{}, family.Proof{Origin: typical(i)})
			e := family.Event{Kind: family.FamilyRecovered, Family: id}
			if i%4 == 0 {
				e.Level = 9 // the table refuses it, when the row has been written already
			}
			errs[i] = db.Commit(t.Context(), next, e)
		})
	}
	time.Sleep(50 * time.Millisecond)
	mustExec(t, r, "COMMIT")
	wg.Wait()
	after := db.Stats()
	if after.Widest < 5 {
		t.Errorf("the widest batch had %d steps: the test shows nothing", after.Widest)
	}
	t.Logf("%d batches, widest %d", after.Batches-before.Batches, after.Widest)
	for i, id := range ids {
		s, _, err := db.Load(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		events, err := db.Events(t.Context(), family.EventQuery{Family: id})
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 0 {
			if errs[i] == nil || s.Head != 0 || s.Version != 1 || len(events) != 0 {
				t.Errorf("family %d: %v, head %d, version %d, %d events; want nothing changed", i, errs[i], s.Head, s.Version, len(events))
			}
		} else if errs[i] != nil || s.Head != 1 || s.Version != 2 || len(events) != 1 {
			t.Errorf("family %d: %v, head %d, version %d, %d events; want it stored", i, errs[i], s.Head, s.Version, len(events))
		}
	}
	// The unspent one goes on, and numbers of events have no gap.
	rotate(t, db, p, ids[0], 0)
	all, err := db.Events(t.Context(), family.EventQuery{})
	if err != nil || len(all) != 15 || all[0].Seq != 15 {
		t.Errorf("%d events, %v, newest %+v", len(all), err, all[0])
	}
}

func TestRT_B21_ABusyFileIsWaitedForAndNeverTakenForAConflict(t *testing.T) {
	c := config(t, nil)
	db := openTest(t, c)
	ids := populate(t, db, 1)
	r := raw(t, c.Path)
	mustExec(t, r, "BEGIN IMMEDIATE")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s, _, err := db.Load(t.Context(), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	first := s
	first.Head = 1
	if err := db.Commit(ctx, first); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, family.ErrConflict) {
		t.Errorf("Commit while the file is busy: %v", err)
	}
	done := make(chan error)
	go func() { done <- db.Ping(t.Context()) }()
	time.Sleep(20 * time.Millisecond)
	mustExec(t, r, "COMMIT")
	if err := <-done; err != nil {
		t.Errorf("Ping that waited: %v", err)
	}
	// G04: the outcome of the first was unknown: it is one of the two legal ones.
	got, _, err := db.Load(t.Context(), ids[0])
	if err != nil || !(got.Head == 0 && got.Version == 1 || got.Head == 1 && got.Version == 2) {
		t.Errorf("Load: head %d, version %d, %v", got.Head, got.Version, err)
	}
}

func TestRT_G18_AStepThatWaitsIsNotBegunWhenItsCallerHasGone(t *testing.T) {
	c := config(t, nil)
	db := openTest(t, c)
	populate(t, db, 1)
	r := raw(t, c.Path)
	mustExec(t, r, "BEGIN IMMEDIATE")
	// The first of them is begun and waits for the file; the others wait for the first.
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	started := make(chan struct{}, 1)
	wg.Go(func() {
		started <- struct{}{}
		_ = db.Ping(t.Context())
	})
	<-started
	time.Sleep(20 * time.Millisecond)
	for range 20 {
		wg.Go(func() {
			if err := db.Record(ctx, family.Event{Kind: family.KeyChanged}); !errors.Is(err, context.Canceled) {
				t.Errorf("Record: %v", err)
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	cancel()
	mustExec(t, r, "COMMIT")
	wg.Wait()
	if err := db.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	events, err := db.Events(t.Context(), family.EventQuery{})
	if err != nil || len(events) != 0 {
		t.Errorf("%d events, %v", len(events), err)
	}
}

func TestADatabaseAtItsBoundStillRotatesAndSaysWhatToDo(t *testing.T) {
	c := config(t, nil)
	c.MaxSize = 400 << 10
	db := openTest(t, c)
	ids := populate(t, db, 50)
	p := typicalPolicy(t)
	var full error
	n := 0
	for ; full == nil && n < 10_000; n++ {
		s := family.New(family.ID{0xff, byte(n >> 8), byte(n)}, p, family.At(time.Now()), &family.Grant{Client: "app"}, 1, 0, typical(n))
		full = db.Create(t.Context(), s, s.EventFor(family.FamilyIssued, family.Issued, family.Token{}, typical(n)))
	}
	if full == nil || !strings.Contains(full.Error(), "is full: make room") {
		t.Fatalf("after %d families: %v", n, full)
	}
	_, _, err := db.Load(t.Context(), family.ID{0xff, byte((n - 1) >> 8), byte(n - 1)})
	if !errors.Is(err, family.ErrNotFound) {
		t.Errorf("the family that could not be created: %v", err)
	}
	// Rotations change rows in place: they need no room.
	for i, id := range ids {
		rotate(t, db, p, id, i)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// mount makes a small file system that the test may fill; it needs root.
func mount(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("this test fills a file system of its own and has to be root to mount it: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func TestRT_G05_AFullDiskIsAnErrorAndLosesNothing(t *testing.T) {
	dir := mount(t, "3m")
	c := config(t, nil)
	c.Path = filepath.Join(dir, "heirloom.db")
	db := openTest(t, c)
	ids := populate(t, db, 50)
	p := typicalPolicy(t)
	heads := make([]uint32, len(ids))
	step := func(i int) error {
		ctx := t.Context()
		next, v, _, err := family.Step(ctx, db, ids[i], func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
			if s.Head < heads[i] {
				t.Errorf("family %d: head is %d, acknowledged was %d", i, s.Head, heads[i])
			}
			next, v := family.Present(s, p, at.Now, family.Token{Generation: s.Head}, family.Proof{Origin: typical(i), Key: 1})
			return next, v, nil
		})
		if err == nil && v.Act != family.Rotate {
			t.Errorf("family %d: %v", i, v)
		}
		if err == nil {
			heads[i] = next.Head
		}
		return err
	}
	filler := filepath.Join(dir, "filler")
	for round := range 3 {
		// Somebody else takes all that is left.
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		for n := 1 << 16; n >= 1; {
			if _, err := f.Write(make([]byte, n)); err != nil {
				n /= 2
			}
		}
		f.Close()
		var wg sync.WaitGroup
		var failures atomic.Int64
		for w := range 8 {
			wg.Go(func() {
				for n := range 500 {
					i := (n*8 + w) % len(ids)
					if i%8 != w%8 || failures.Load() > 20 {
						continue
					}
					if err := step(i); err != nil {
						if errors.Is(err, family.ErrConflict) || errors.Is(err, family.ErrNotFound) || errors.Is(err, family.ErrBusy) {
							t.Errorf("a full disk is told as %v", err)
						}
						if failures.Add(1) == 1 {
							t.Logf("round %d: %v", round, err)
							if !strings.Contains(err.Error(), "make room") {
								t.Errorf("%v: does not say what to do", err)
							}
						}
					}
				}
			})
		}
		wg.Wait()
		if failures.Load() == 0 {
			t.Fatalf("round %d: nothing failed: the disk was not full", round)
		}
		if err := db.Ping(t.Context()); err == nil {
			t.Error("Ping says that the store can be written")
		}
		if err := db.PutClient(t.Context(), client.Client{ID: fmt.Sprint("c", round), Status: client.Enabled}); err == nil {
			t.Error("PutClient was acknowledged on a full disk")
		}
		// Reads go on.
		for i, id := range ids {
			s, _, err := db.Load(t.Context(), id)
			if err != nil || s.Head < heads[i] {
				t.Errorf("family %d: head %d, %v; acknowledged was %d", i, s.Head, err, heads[i])
			}
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		// It goes on by itself.
		for i := range ids {
			if err := step(i); err != nil {
				t.Errorf("round %d, after there was room: %v", round, err)
			}
		}
		if err := db.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		_, err = db.Client(t.Context(), fmt.Sprint("c", round))
		if !errors.Is(err, family.ErrNotFound) {
			t.Errorf("Client that could not be stored: %v", err)
		}
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	db = openTest(t, c)
	for i, id := range ids {
		s, _, err := db.Load(t.Context(), id)
		if err != nil || s.Head != heads[i] {
			t.Errorf("after a reopen, family %d: head %d, %v; acknowledged was %d", i, s.Head, err, heads[i])
		}
	}
}

func TestAPlaceWhereNoFileCanBeIsSaidPlainly(t *testing.T) {
	dir := t.TempDir()
	notDir := filepath.Join(dir, "file")
	if err := os.WriteFile(notDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(notDir, "heirloom.db"), "/proc/heirloom/heirloom.db", dir} {
		c := config(t, nil)
		c.Path = path
		if _, err := Open(t.Context(), c); err == nil || !strings.HasPrefix(err.Error(), "open store: ") {
			t.Errorf("Open of %s: %v", path, err)
		} else {
			t.Log(err)
		}
	}
	for _, c := range []Config{{}, {Path: "x"}, {Path: "x", Keys: config(t, nil).Keys, KeepEnded: -1}} {
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("Open with %+v", c)
		}
	}
	// A ring that can not be opened leaves nothing behind that stops the next start.
	c := config(t, nil)
	good := c.Keys
	c.Keys = func(context.Context, keys.Store) (*keys.Ring, error) { return nil, errors.New("no key file") }
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no key file") {
		t.Errorf("Open without keys: %v", err)
	}
	c.Keys = good
	openTest(t, c)
}

// checkpointed returns the file's size when nothing is left in the log.
func checkpointed(t *testing.T, db *DB) int64 {
	t.Helper()
	c := raw(t, db.path)
	for range 100 {
		row, err := c.one("PRAGMA wal_checkpoint(TRUNCATE)")
		if err != nil {
			t.Fatal(err)
		}
		if row[0] == int64(0) {
			return size(db.path)
		}
		time.Sleep(10 * time.Millisecond) // the engine's own is under way
	}
	t.Fatal("the log could not be emptied")
	return 0
}

// payload returns how many bytes the rows of families take, to the byte.
func payload(t *testing.T, db *DB) int64 {
	t.Helper()
	n, err := raw(t, db.path).number("SELECT sum(payload) FROM dbstat WHERE name = 'family'")
	if err != nil || n == 0 {
		t.Fatalf("payload: %d, %v", n, err)
	}
	return n
}

// Planted: without the column room the rows grow, by some 8 bytes each, which pages
// mostly have to spare: the file alone would not tell.
func TestNoByteIsAddedByARotation(t *testing.T) {
	c := config(t, nil)
	c.Path = filepath.Join(fast(t), "heirloom.db")
	db := openTest(t, c)
	ids := populate(t, db, 1000)
	p := typicalPolicy(t)
	before, rows := checkpointed(t, db), payload(t, db)
	statements := db.Stats().Statements
	const many = 10_000
	for range many {
		rotate(t, db, p, ids[0], 0)
	}
	used := db.Stats().Statements - statements
	if after := checkpointed(t, db); after != before {
		t.Errorf("%d rotations of one family: the file grew from %d to %d bytes", many, before, after)
	}
	// A load, an update, begin and commit, and now and then a checkpoint.
	if used > 4*many+many/100 {
		t.Errorf("%d statements for %d rotations", used, many)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < len(ids); i += 8 {
				for range 20 {
					rotate(t, db, p, ids[i], i)
				}
			}
		})
	}
	wg.Wait()
	if after := checkpointed(t, db); after != before {
		t.Errorf("20 rotations of each of %d families: the file grew from %d to %d bytes", len(ids), before, after)
	}
	if after := payload(t, db); after != rows {
		t.Errorf("the rows grew from %d to %d bytes", rows, after)
	}
	s, _, err := db.Load(t.Context(), ids[0])
	if err != nil || s.Head != many+20 {
		t.Errorf("head is %d, %v", s.Head, err)
	}
}

func TestTheTenThousandthRotationCostsWhatTheTenthDid(t *testing.T) {
	c := config(t, nil)
	c.Path = filepath.Join(fast(t), "heirloom.db")
	db := openTest(t, c)
	ids := populate(t, db, 1)
	p := typicalPolicy(t)
	median := func(n int) time.Duration {
		all := make([]time.Duration, n)
		for i := range all {
			begin := time.Now()
			rotate(t, db, p, ids[0], 0)
			all[i] = time.Since(begin)
		}
		slices.Sort(all)
		return all[n/2]
	}
	median(10)
	first := median(1000)
	for range 8000 {
		rotate(t, db, p, ids[0], 0)
	}
	last := median(1000)
	t.Logf("median %v at generation 500, %v at 9,500", first, last)
	// Three times leaves room for what else runs on the machine.
	if last > 3*first {
		t.Errorf("median %v at generation 500, %v at 9,500", first, last)
	}
}

func TestTheLogStaysShortUnderLoad(t *testing.T) {
	c := config(t, nil)
	c.Path = filepath.Join(fast(t), "heirloom.db")
	db := openTest(t, c)
	ids := populate(t, db, 1000)
	p := typicalPolicy(t)
	var most atomic.Int64
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := w; i < 30_000; i += 32 {
				rotate(t, db, p, ids[i%len(ids)], i)
				if i%100 == 0 {
					most.Store(max(most.Load(), db.Stats().WALBytes))
				}
			}
		})
	}
	wg.Wait()
	// 30,000 rotations write some 60 MB of log if it never begins anew.
	t.Logf("the log had %d bytes at most", most.Load())
	if most.Load() > 32<<20 {
		t.Errorf("the log had %d bytes", most.Load())
	}
}

func TestRT_F10_ACutOffIsInForceAtOnceHoweverManyFamiliesThereAre(t *testing.T) {
	c := config(t, nil)
	c.Path = filepath.Join(fast(t), "heirloom.db")
	db := openTest(t, c)
	const many = 5_000
	ids := populate(t, db, many)
	app, err := db.Client(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	app.NotBefore, app.NotBeforeReason = time.Now(), "revoked_admin"
	statements := db.Stats().Statements
	if err := db.PutClient(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if n := db.Stats().Statements - statements; n > 10 {
		t.Errorf("the cut-off took %d statements: want a few, whatever there is", n)
	}
	for i := 0; i < many; i += 97 {
		if _, at, err := db.Load(t.Context(), ids[i]); err != nil || at.Barred != family.RevokedAdmin {
			t.Fatalf("family %d: barred %v, %v", i, at.Barred, err)
		}
	}
	// Clean-up in steps, with refreshes of others between them.
	other := family.New(family.ID{0xee}, typicalPolicy(t), family.At(time.Now().Add(time.Hour)), &family.Grant{Client: "app"}, 1, 0, typical(1))
	if err := db.Create(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	total := 0
	for {
		n, err := db.Sweep(t.Context(), 3000)
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n == 0 {
			break
		}
	}
	if total != many {
		t.Errorf("%d rows were marked, want %d", total, many)
	}
	live, err := db.Families(t.Context(), family.Query{Client: "app", LiveOnly: true})
	if err != nil || len(live) != 1 {
		t.Errorf("%d families live, %v", len(live), err)
	}
}
