// Package sqlitedb is the embedded engine: one SQLite file, owned by one process,
// durable at every answer. Concurrent writes share a transaction and an fsync; a
// lone one waits for nobody. A family is one row of constant size for ever. What is
// personal is sealed before it reaches the file.
//
// It does not know HTTP, tokens or policies, and no rule of a family's life but
// those that every store has to keep.
package sqlitedb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
)

// Config of a DB.
type Config struct {
	// Path of the file. It and its directory are made if they are missing, so that
	// nobody else can read them. Files with ".lock", "-wal" and "-shm" stand beside it.
	Path string
	// Keys gives the key ring that seals and opens columns. It is called once by Open,
	// with the store in which the ring keeps its own, wrapped keys: call keys.Open with
	// it. The ring must not be nil.
	Keys func(context.Context, keys.Store) (*keys.Ring, error)
	// Now is the only clock of the engine; nil: time.Now.
	Now func() time.Time
	// KeepEnded is how long families and sessions that have ended can still be read,
	// for people who ask why; 0: 30 days.
	KeepEnded time.Duration
	// KeepEvents is how long events can be read; 0: 90 days. The newest event is
	// always kept.
	KeepEvents time.Duration
	// MaxSize bounds the file in bytes; 0: only the disk does. Beyond it writes fail as
	// on a full disk. It is rounded to pages.
	MaxSize int64
}

const (
	day      = 24 * time.Hour
	dayMs    = family.Time(day / time.Millisecond)
	pageSize = 4096
)

// DB is the engine. Its methods are safe for concurrent use; each is one atomic step
// and durable when it returns nil. While the disk is full or broken they return
// errors; afterwards they work again.
type DB struct {
	path       string
	now        func() time.Time
	keepEnded  time.Duration
	keepEvents time.Duration
	lock       *os.File
	ring       *keys.Ring

	queue   chan *op
	readers chan *conn // those that nobody uses now
	nudge   chan struct{}
	finish  atomic.Bool // the log is to begin anew after the next batch
	quit    chan struct{}
	done    sync.WaitGroup
	life    sync.RWMutex // held for reading while something is put into queue
	closed  bool         // guarded by life

	seq     uint64 // of the newest event; the committer's
	clients clients
	journal journal
	recent  recent
	users   atomic.Uint64 // counts changes of users, from 1 on

	statements, batches, ops atomic.Uint64
	widest                   atomic.Int64
}

// Stats are counters since Open, and sizes now.
type Stats struct {
	Batches    uint64 // transactions with writes
	Ops        uint64 // atomic steps that shared them
	Widest     int    // most steps in one batch
	Statements uint64 // of SQL, reads too
	FileBytes  int64
	WALBytes   int64
}

var errClosed = errors.New("the store is closed")

// Open opens a store and owns it until Close: a second process is refused. The
// schema of an older version is migrated; a newer one is refused.
func Open(ctx context.Context, c Config) (*DB, error) {
	db, err := begin(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return db, nil
}

func begin(ctx context.Context, c Config) (_ *DB, err error) {
	switch {
	case c.Path == "":
		return nil, errors.New("Config.Path is empty")
	case c.Keys == nil:
		return nil, errors.New("Config.Keys is nil")
	case c.KeepEnded < 0 || c.KeepEvents < 0 || c.MaxSize < 0:
		return nil, errors.New("Config: KeepEnded, KeepEvents and MaxSize must not be negative")
	}
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %v", c.Path, err)
	}
	db := &DB{
		path: path, now: c.Now, keepEnded: c.KeepEnded, keepEvents: c.KeepEvents,
		queue: make(chan *op, 4*maxBatch),
		nudge: make(chan struct{}, 1),
		quit:  make(chan struct{}),
	}
	if db.now == nil {
		db.now = time.Now
	}
	if db.keepEnded == 0 {
		db.keepEnded = 30 * day
	}
	if db.keepEvents == 0 {
		db.keepEvents = 90 * day
	}
	db.recent.entries = make(map[family.ID]memo)
	db.users.Store(1)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("%v: make the directory, or let the server's user write its parent", err)
	}
	if db.lock, err = lock(path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.lock.Close())
		}
	}()
	if err := private(path); err != nil {
		return nil, err
	}

	writer, err := open(path, 16<<10, &db.statements)
	if err != nil {
		return nil, db.explain(err)
	}
	opened := []*conn{writer}
	defer func() {
		if err != nil {
			for _, c := range opened {
				err = errors.Join(err, c.close())
			}
		}
	}()
	if err := migrate(writer, path, schema); err != nil {
		return nil, db.explain(err)
	}
	if c.MaxSize > 0 {
		if err := writer.script(fmt.Sprintf("PRAGMA max_page_count = %d", max(1, c.MaxSize/pageSize))); err != nil {
			return nil, db.explain(err)
		}
	}
	seq, err := writer.number("SELECT max(seq) FROM event")
	if err != nil {
		return nil, db.explain(err)
	}
	db.seq = uint64(seq)
	db.journal.seq, db.journal.told = db.seq, make(chan struct{})
	if err := db.loadClients(writer); err != nil {
		return nil, db.explain(err)
	}
	n := max(4, runtime.GOMAXPROCS(0))
	db.readers = make(chan *conn, n)
	for range n {
		r, err := open(path, 2<<10, &db.statements)
		if err != nil {
			return nil, db.explain(err)
		}
		opened = append(opened, r)
		db.readers <- r
	}
	checker, err := open(path, 64, &db.statements)
	if err != nil {
		return nil, db.explain(err)
	}
	opened = append(opened, checker)
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	db.done.Add(2)
	go db.commitAll(writer)
	go db.checkpointAll(checker)
	// From here on the connections are theirs, and Close's to end.
	opened = nil
	if db.ring, err = c.Keys(ctx, db); err == nil && db.ring == nil {
		err = errors.New("Config.Keys gave no key ring")
	}
	if err != nil {
		lock := db.lock
		db.lock = nil
		err = errors.Join(err, db.Close())
		db.lock = lock
		return nil, err
	}
	return db, nil
}

// private makes the file if it is missing, and has nobody else read it.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%v: let the server's user read and write it", err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return err
	} else if info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		return f.Chmod(0o600)
	}
	return nil
}

// Close waits for what is under way, moves everything into the one file and gives it
// free. Later calls of all methods are errors; Close itself may be called twice.
func (db *DB) Close() error {
	db.life.Lock()
	if db.closed {
		db.life.Unlock()
		return nil
	}
	db.closed = true
	close(db.quit)
	db.journal.close()
	db.life.Unlock()
	db.done.Wait()
	var all []error
	for range cap(db.readers) {
		all = append(all, (<-db.readers).close())
	}
	// The last connection is opened for this alone: all others are gone, so nothing
	// is left out of the checkpoint.
	c, err := open(db.path, 64, &db.statements)
	if err == nil {
		err = errors.Join(c.script("PRAGMA wal_checkpoint(TRUNCATE)"), c.close())
	}
	all = append(all, db.explain(err))
	if db.lock != nil {
		all = append(all, db.lock.Close())
	}
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// usable refuses what comes after Close or when the caller has gone away.
func (db *DB) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-db.quit:
		return errClosed
	default:
		return nil
	}
}

// read calls f with a connection of its own. Each statement in f sees every commit
// that was acknowledged before.
func (db *DB) read(ctx context.Context, f func(*conn) error) error {
	// Asked first: of several that are ready, select takes any.
	if err := db.usable(ctx); err != nil {
		return err
	}
	select {
	case c := <-db.readers:
		err := f(c)
		db.readers <- c
		return db.explain(err)
	case <-ctx.Done():
		return ctx.Err()
	case <-db.quit:
		return errClosed
	}
}

// Now returns the time of the engine's clock.
func (db *DB) Now(ctx context.Context) (family.Time, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return family.At(db.now()), nil
}

// Ping reports whether the store can be read and written, by doing both.
func (db *DB) Ping(ctx context.Context) error {
	err := db.read(ctx, func(c *conn) error {
		_, err := c.number("SELECT pinged FROM alive")
		return err
	})
	if err != nil {
		return fmt.Errorf("ping store: %w", err)
	}
	err = db.write(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE alive SET pinged = ?", int64(t.now))
		return err
	}, nil)
	if err != nil {
		return fmt.Errorf("ping store: %w", err)
	}
	return nil
}

// Stats returns the counters and sizes.
func (db *DB) Stats() Stats {
	return Stats{
		Batches: db.batches.Load(), Ops: db.ops.Load(), Widest: int(db.widest.Load()),
		Statements: db.statements.Load(),
		FileBytes:  size(db.path), WALBytes: size(db.path + "-wal"),
	}
}

// size returns a file's size, 0 if it can not be told.
func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// limited reads a page size: 0 is 100, and more than 1000 are never given.
func limited(n int) int64 {
	if n <= 0 {
		return 100
	}
	return int64(min(n, 1000))
}

// scan copies a row into variables: *int64, *string or *[]byte. NULL becomes the zero
// value.
func scan(row []driver.Value, into ...any) error {
	for i, p := range into {
		ok := true
		switch p := p.(type) {
		case *int64:
			*p = 0
			if row[i] != nil {
				*p, ok = row[i].(int64)
			}
		case *string:
			*p = ""
			if row[i] != nil {
				*p, ok = row[i].(string)
			}
		case *[]byte:
			*p = nil
			if row[i] != nil {
				*p, ok = row[i].([]byte)
			}
		default:
			ok = false
		}
		if !ok {
			return fmt.Errorf("column %d is a %T", i+1, row[i])
		}
	}
	return nil
}
