package family

import (
	"context"
	"errors"
)

// Errors that a store tells apart. Any other error leaves the outcome of a write
// unknown: load again.
var (
	ErrConflict = errors.New("changed meanwhile")
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
)

// Standing is what a store knows about a family besides its row.
type Standing struct {
	// Now is the store's clock, the one clock by which windows and deadlines are judged.
	Now Time
	// Barred is not 0 when a cut-off or the disabling of the family's user or client
	// covers the family, whether or not its row says so yet.
	Barred Reason
}

// Store keeps families. All methods are safe for concurrent use.
type Store interface {
	// Create stores a new family with its events; ErrExists if the ID is taken. When
	// it returns nil they are durable.
	Create(ctx context.Context, s State, events ...Event) error
	// Load returns the family with its version; ErrNotFound if there is none. What it
	// returns includes every commit that was acknowledged before it was called.
	Load(ctx context.Context, id ID) (State, Standing, error)
	// Commit stores next if the family still has next.Version, with the version
	// next.Version+1; ErrConflict otherwise: load again. When it returns nil, next and its
	// events are durable. Any other error leaves the outcome unknown. A revoked family
	// is never changed again.
	Commit(ctx context.Context, next State, events ...Event) error
}

// Index finds families and their history for people, sign-outs and clean-up. None of
// it is on the path of a refresh.
type Index interface {
	// Families returns families in the order of their IDs, at most q.Limit.
	Families(ctx context.Context, q Query) ([]State, error)
	// Events returns events, newest first, at most q.Limit.
	Events(ctx context.Context, q EventQuery) ([]Event, error)
	// Record stores events that tell of no change in a row.
	Record(ctx context.Context, events ...Event) error
	// Sweep removes up to limit families that ended long ago and marks those that a
	// cut-off covers as revoked, each with its event; it returns how many rows it
	// touched. Nothing that could still be accepted is ever removed.
	Sweep(ctx context.Context, limit int) (int, error)
}

// Query selects families: all set fields must match.
type Query struct {
	Client, User string
	Session      [16]byte // zero: any
	LiveOnly     bool     // leaves out revoked ones; expired ones may be among the rest
	After        ID       // only IDs behind it, for the next page
	Limit        int      // 0: 100; at most 1000
}

// EventQuery selects events: all set fields must match.
type EventQuery struct {
	Family   ID
	User     string
	Session  [16]byte
	MinLevel Level
	Before   uint64 // only events with a smaller Seq, for the next page; 0: from the newest
	Limit    int    // 0: 100; at most 1000
}

// Denylist remembers single access tokens that were revoked before their time.
type Denylist interface {
	// Deny refuses the access token with this jti until it would have expired anyway.
	Deny(ctx context.Context, jti string, until Time, e Event) error
	// Denied reports whether the access token with this jti was revoked.
	Denied(ctx context.Context, jti string) (bool, error)
}
