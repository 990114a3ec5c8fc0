// Package memdb is the engine that keeps everything in memory, for tests and for
// programs that embed the server and do not need it to remember. It behaves as the
// engines on disk do, commit by commit; the contract suite holds it to that. Nothing
// survives the process, so nothing is sealed.
//
// It does not know HTTP, tokens or policies.
package memdb

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// Config of a DB. The zero Config is valid.
type Config struct {
	// Now is the only clock of the engine; nil: time.Now.
	Now func() time.Time
	// KeepEnded is how long families and sessions that have ended can still be read,
	// for people who ask why; 0: 30 days.
	KeepEnded time.Duration
	// KeepEvents is how long events can be read; 0: 90 days. The newest event is
	// always kept.
	KeepEvents time.Duration
}

const day = 24 * time.Hour

// DB is the engine. Its methods are safe for concurrent use; each is one atomic step.
type DB struct {
	now        func() time.Time
	keepEnded  time.Duration
	keepEvents time.Duration

	mu       sync.RWMutex // guards all below
	closed   bool
	stats    Stats
	families map[family.ID]family.State
	events   []family.Event // in the order of Seq
	seq      uint64         // the last one given
	places   uint64         // of the status lists, given so far
	told     chan struct{}  // closed when seq moves or the store closes
	denied   map[string]family.Time
	clients  map[string]clientRow
	users    map[user.ID]userRow
	names    map[string]user.ID
	consents map[consentKey]user.Consent
	sessions map[session.ID]session.Session
	keys     []keys.Record
}

type clientRow struct {
	client.Client
	deleted family.Time // 0: it is there; otherwise only its ID is left
}

type userRow struct {
	user.User
	deleted family.Time
}

type consentKey struct {
	user   user.ID
	client string
}

// Stats are counters since the start.
type Stats struct {
	Commits  uint64 // atomic steps that changed something
	Families int    // families kept now
	Events   int    // events kept now
}

// New returns an empty DB.
func New(c Config) *DB {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.KeepEnded == 0 {
		c.KeepEnded = 30 * day
	}
	if c.KeepEvents == 0 {
		c.KeepEvents = 90 * day
	}
	return &DB{
		told: make(chan struct{}),
		now:  c.Now, keepEnded: c.KeepEnded, keepEvents: c.KeepEvents,
		families: make(map[family.ID]family.State),
		denied:   make(map[string]family.Time),
		clients:  make(map[string]clientRow),
		users:    make(map[user.ID]userRow),
		names:    make(map[string]user.ID),
		consents: make(map[consentKey]user.Consent),
		sessions: make(map[session.ID]session.Session),
	}
}

var errClosed = errors.New("the store is closed")

// read takes the lock for reading; unlock is nil when err is not.
func (db *DB) read(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	db.mu.RLock()
	if db.closed {
		db.mu.RUnlock()
		return nil, errClosed
	}
	return db.mu.RUnlock, nil
}

// write runs one step that, when it returns nil, has changed something, and then
// records its events. A step that returns an error has changed nothing.
func (db *DB) write(ctx context.Context, events []family.Event, step func(now family.Time) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return errClosed
	}
	now := family.At(db.now())
	if err := step(now); err != nil {
		return err
	}
	db.stats.Commits++
	for _, e := range events {
		db.record(now, e)
	}
	return nil
}

// tell wakes those who wait for events; mu is held.
func (db *DB) tell() {
	close(db.told)
	db.told = make(chan struct{})
}

// record appends one event; mu is held.
func (db *DB) record(now family.Time, e family.Event) {
	db.seq++
	e.Seq = db.seq
	if e.At == 0 {
		e.At = now
	}
	if e.Level == 0 {
		e.Level = family.Info
	}
	if len(e.Origin.UserAgent) > family.MaxUserAgent {
		e.Origin.UserAgent = e.Origin.UserAgent[:family.MaxUserAgent]
	}
	db.events = append(db.events, e)
	db.tell()
}

// Now returns the time of the engine's clock.
func (db *DB) Now(ctx context.Context) (family.Time, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return family.At(db.now()), nil
}

// Ping reports whether the store can be used.
func (db *DB) Ping(ctx context.Context) error {
	unlock, err := db.read(ctx)
	if err != nil {
		return err
	}
	unlock()
	return nil
}

// Close ends the store's life; every later call is an error. It may be called twice.
func (db *DB) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if !db.closed {
		db.closed = true
		db.tell()
	}
	return nil
}

// Stats returns the counters.
func (db *DB) Stats() Stats {
	db.mu.RLock()
	defer db.mu.RUnlock()
	st := db.stats
	st.Families, st.Events = len(db.families), len(db.events)
	return st
}

// limited reads a page size: 0 is 100, and more than 1000 are never given.
func limited(n int) int {
	if n <= 0 {
		return 100
	}
	return min(n, 1000)
}

// stored rounds a time to what engines keep: milliseconds, UTC.
func stored(t time.Time) time.Time { return family.At(t).Std() }
