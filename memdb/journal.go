package memdb

import (
	"context"

	"github.com/heirloom-auth/heirloom/family"
)

// Killed returns up to limit events behind a position that end access tokens, oldest
// first, and the position up to which it looked. Events are numbered in the order of
// their steps, so none is ever added behind a position that was returned.
func (db *DB) Killed(ctx context.Context, after uint64, limit int) (events []family.Event, head uint64, err error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	for _, e := range db.events {
		if e.Seq <= after || !e.Kind.Ends() {
			continue
		}
		if len(events) == limit {
			return events, events[limit-1].Seq, nil
		}
		events = append(events, e)
	}
	return events, max(after, db.seq), nil
}

// Await returns when there is an event behind a position, or when ctx ends.
func (db *DB) Await(ctx context.Context, after uint64) error {
	for {
		unlock, err := db.read(ctx)
		if err != nil {
			return err
		}
		seq, told := db.seq, db.told
		unlock()
		if seq > after {
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
// place is ever given twice.
func (db *DB) Reserve(ctx context.Context, n int) (first uint64, err error) {
	err = db.write(ctx, nil, func(family.Time) error {
		first = db.places
		db.places += uint64(n)
		return nil
	})
	return first, err
}
