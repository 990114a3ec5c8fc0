package server

import (
	"context"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// Clients finds registered clients. The refresh path asks for one on each request:
// the answer must be today's.
type Clients interface {
	// Client returns a client; family.ErrNotFound if there is none.
	Client(ctx context.Context, id string) (client.Client, error)
}

// Users keeps the people who sign in.
type Users interface {
	// User and UserByName return a user; family.ErrNotFound if there is none.
	User(ctx context.Context, id user.ID) (user.User, error)
	UserByName(ctx context.Context, username string) (user.User, error)
	// PutUser stores u if the stored user still has u.Version; family.ErrConflict
	// otherwise. When it returns nil, u and its events are durable.
	PutUser(ctx context.Context, u user.User, events ...family.Event) error
}

// Consents keeps what users allowed third-party clients.
type Consents interface {
	Consent(ctx context.Context, u user.ID, clientID string) (user.Consent, error)
	Consents(ctx context.Context, u user.ID) ([]user.Consent, error)
	PutConsent(ctx context.Context, c user.Consent, events ...family.Event) error
	DropConsent(ctx context.Context, u user.ID, clientID string, events ...family.Event) error
}

// Sessions keeps sign-ins.
type Sessions interface {
	Session(ctx context.Context, id session.ID) (session.Session, error)
	// PutSession stores s if the stored session still has s.Version (0: there is none
	// yet); family.ErrConflict or family.ErrExists otherwise.
	PutSession(ctx context.Context, s session.Session, events ...family.Event) error
	Sessions(ctx context.Context, u user.ID, liveOnly bool) ([]session.Session, error)
}

// Families is what the server needs of the engine for families. An engine has all
// of it; it is split so that each part stays small.
type Families interface {
	family.Store
	family.Index
}

// Clock is the engine's: the one clock by which everything is judged.
type Clock interface {
	Now(ctx context.Context) (family.Time, error)
}

// Store is one engine.
type Store interface {
	Families
	family.Denylist
	Clients
	Users
	Consents
	Sessions
	Journal
	Places
	Clock
}
