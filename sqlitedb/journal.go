package sqlitedb

import (
	"context"
	"database/sql/driver"
	"fmt"
	"sync"

	"github.com/heirloom-auth/heirloom/family"
)

// journal tells those who wait how far the events are durable.
type journal struct {
	mu     sync.Mutex
	seq    uint64        // guarded by mu; of the newest durable event
	told   chan struct{} // guarded by mu; closed when seq moves or the store closes
	closed bool          // guarded by mu
}

// advance tells that events up to seq are durable.
func (j *journal) advance(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if seq > j.seq {
		j.seq = seq
	} else {
		return
	}
	// Steps that were in the queue at Close are still committed after it.
	if !j.closed {
		close(j.told)
		j.told = make(chan struct{})
	}
}

func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.closed {
		j.closed = true
		close(j.told)
	}
}

func (j *journal) look() (seq uint64, told <-chan struct{}, closed bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.seq, j.told, j.closed
}

// Killed returns up to limit events behind a position that end access tokens, oldest
// first, and the position up to which it looked. The one committer numbers events in
// the order in which they become durable, so none is ever added behind a position that
// was returned.
func (db *DB) Killed(ctx context.Context, after uint64, limit int) (events []family.Event, head uint64, err error) {
	head, _, closed := db.journal.look()
	if closed {
		return nil, 0, errClosed
	}
	err = db.read(ctx, func(c *conn) error {
		return c.query(`SELECT seq, at, level, kind, reason, family, generation, client, user, session, request, detail, sealed_origin
			FROM event WHERE seq > ? AND seq <= ?
			AND kind IN ('family_revoked', 'family_narrowed', 'token_revoked', 'user_revoked', 'user_deleted', 'client_revoked')
			ORDER BY seq LIMIT ?`, func(row []driver.Value) error {
			e, err := db.event(row)
			events = append(events, e)
			return err
		}, int64(after), int64(head), int64(limit))
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read journal: %w", err)
	}
	if len(events) == limit {
		return events, events[limit-1].Seq, nil
	}
	return events, max(after, head), nil
}

// Await returns when there is a durable event behind a position, or when ctx ends.
func (db *DB) Await(ctx context.Context, after uint64) error {
	for {
		seq, told, closed := db.journal.look()
		switch {
		case closed:
			return errClosed
		case seq > after:
			return nil
		}
		select {
		case <-told:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Reserve takes n places of the status lists for the caller and returns the first. No
// place is ever given twice; those of a block that a crash cut short stay empty.
func (db *DB) Reserve(ctx context.Context, n int) (first uint64, err error) {
	var next int64
	err = db.write(ctx, func(t *tx) error {
		if _, err := t.exec("UPDATE status SET next = next + ?", int64(n)); err != nil {
			return err
		}
		next, err = t.number("SELECT next FROM status")
		return err
	}, nil)
	if err != nil {
		return 0, fmt.Errorf("reserve status places: %w", err)
	}
	return uint64(next) - uint64(n), nil
}
