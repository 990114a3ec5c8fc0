package sqlitedb

import (
	"context"
	"errors"
	"fmt"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
)

// maxBatch bounds how many steps share a transaction, so that the first does not
// wait long for the last.
const maxBatch = 256

// op is one atomic step on its way through the committer.
type op struct {
	ctx context.Context
	// do runs inside the transaction, perhaps twice. A refusal (see refused) must have
	// changed nothing; any other error takes back whatever it did.
	do func(*tx) error
	// kept, if not nil, runs when the step is durable, before it is answered, in the
	// order of the steps and with recent.mu held: it brings memory in step with the file.
	kept func()
	err  error
	done chan error
}

// tx is the running transaction as a step sees it.
type tx struct {
	*conn
	db  *DB
	now family.Time
	seq uint64 // of the newest event
}

// refused reports whether a step found a reason to do nothing.
func refused(err error) bool {
	return errors.Is(err, family.ErrConflict) || errors.Is(err, family.ErrExists) ||
		errors.Is(err, family.ErrNotFound) || errors.Is(err, keys.ErrExists)
}

// write runs one step and waits until it is durable or refused. After any error that
// is not a refusal the outcome is unknown; a step that was still waiting when ctx
// ended is not begun. Variables that do writes may be read only when write returned
// nil.
func (db *DB) write(ctx context.Context, do func(*tx) error, kept func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op{ctx: ctx, do: do, kept: kept, done: make(chan error, 1)}
	if err := db.enqueue(o); err != nil {
		return err
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for commit: %w", ctx.Err())
	}
}

func (db *DB) enqueue(o *op) error {
	db.life.RLock()
	defer db.life.RUnlock()
	if db.closed {
		return errClosed
	}
	// The committer takes from the queue until Close, which waits for life.
	select {
	case db.queue <- o:
		return nil
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
}

// commitAll is the committer: it takes all steps that wait, runs them in one
// transaction, and answers. It owns the one connection that writes.
func (db *DB) commitAll(c *conn) {
	defer db.done.Done()
	batch := make([]*op, 0, maxBatch)
	since := uint64(0)
	for {
		batch = batch[:0]
		select {
		case o := <-db.queue:
			batch = append(batch, o)
		case <-db.quit:
			// Nothing is put into the queue any more.
			for len(db.queue) > 0 {
				db.run(c, append(batch[:0], <-db.queue))
			}
			_ = c.close() // nothing is open on it; what was answered is durable
			return
		}
		for len(batch) < maxBatch && len(db.queue) > 0 {
			batch = append(batch, <-db.queue)
		}
		before := db.statements.Load()
		db.run(c, batch)
		clear(batch)
		if since += db.statements.Load() - before; since >= checkpointAfter {
			since = 0
			select {
			case db.nudge <- struct{}{}:
			default:
			}
		}
		if db.finish.CompareAndSwap(true, false) {
			db.restart(c)
		}
	}
}

// run commits a batch and answers all of it.
func (db *DB) run(c *conn, batch []*op) {
	live := batch[:0]
	for _, o := range batch {
		if err := o.ctx.Err(); err != nil {
			o.done <- err
			continue
		}
		live = append(live, o)
	}
	if len(live) == 0 {
		return
	}
	if db.transact(c, live) {
		return
	}
	// One of them failed half-way and all were taken back: its neighbours must not
	// suffer, so each gets a transaction of its own.
	for _, o := range live {
		db.transact(c, []*op{o})
	}
}

// transact runs steps in one transaction and answers them; false means that nothing
// happened and nobody was answered, because one of several steps failed.
func (db *DB) transact(c *conn, ops []*op) bool {
	err := db.reloadClients(c)
	if err == nil {
		_, err = c.exec("BEGIN IMMEDIATE")
	}
	if err != nil {
		// A transaction that could not be taken back before is the likely cause.
		_ = c.script("ROLLBACK")
		answer(ops, fmt.Errorf("begin commit: %w", db.explain(err)))
		return true
	}
	t := &tx{conn: c, db: db, now: family.At(db.now()), seq: db.seq}
	for _, o := range ops {
		o.err = o.do(t)
		if o.err == nil || refused(o.err) {
			continue
		}
		_ = c.script("ROLLBACK") // an error only if SQLite has done so itself
		if len(ops) > 1 {
			return false
		}
		answer(ops, fmt.Errorf("commit: %w", db.explain(o.err)))
		return true
	}
	if _, err := c.exec("COMMIT"); err != nil {
		_ = c.script("ROLLBACK")
		db.recent.forgetAll()
		db.users.Add(1)
		db.clients.doubt()
		_ = db.reloadClients(c) // whoever needs them next tries again
		// Refusals too: they were judged beside steps of which nobody knows.
		answer(ops, fmt.Errorf("commit, outcome unknown: %w", db.explain(err)))
		return true
	}
	db.seq = t.seq
	db.batches.Add(1)
	db.ops.Add(uint64(len(ops)))
	db.widest.Store(max(db.widest.Load(), int64(len(ops))))
	db.recent.mu.Lock()
	for _, o := range ops {
		if o.err == nil && o.kept != nil {
			o.kept()
		}
	}
	db.recent.mu.Unlock()
	for _, o := range ops {
		o.done <- o.err
	}
	db.journal.advance(t.seq)
	return true
}

func answer(ops []*op, err error) {
	for _, o := range ops {
		o.done <- err
	}
}

// Checkpoints move what the write-ahead log holds into the file. A passive one, on a
// connection of its own, stops nobody and does nearly all of the work. But a log begins
// anew only when all of it was moved and nobody reads, a moment that never comes under
// load. So when it has become long, the committer makes that moment between two
// batches: it waits for the readers, moves the short rest, and lets them go on.

const (
	// checkpointAfter is the number of statements after which the log is worth moving.
	checkpointAfter = 2000
	// longLog is the number of pages, 16 MiB, from which on it should begin anew.
	longLog = 4096
)

func (db *DB) checkpointAll(c *conn) {
	defer db.done.Done()
	for {
		select {
		case <-db.nudge:
			row, err := c.one("PRAGMA wal_checkpoint(PASSIVE)")
			var busy, frames int64
			if err == nil && scan(row[:2], &busy, &frames) == nil && frames >= longLog {
				db.finish.Store(true)
			}
		case <-db.quit:
			_ = c.close()
			return
		}
	}
}

// restart has the log begin anew, if nobody but this engine reads the file.
func (db *DB) restart(c *conn) {
	held := make([]*conn, cap(db.readers))
	for i := range held {
		held[i] = <-db.readers // each is back within a statement; Close takes them when the committer is done
	}
	defer func() {
		for _, r := range held {
			db.readers <- r
		}
	}()
	// No error matters: the log is only longer than it could be, and the next commit
	// tells what is wrong with the disk. Nor is a reader from outside waited for.
	_ = c.script("PRAGMA busy_timeout = 0")
	_, _ = c.one("PRAGMA wal_checkpoint(RESTART)")
	_ = c.script(busyTimeout)
}
