package memdb

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// Client returns a registered client; family.ErrNotFound if there is none or it was
// deleted. The caller must not change what its slices and maps hold.
func (db *DB) Client(ctx context.Context, id string) (client.Client, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return client.Client{}, err
	}
	defer unlock()
	c, ok := db.clients[id]
	if !ok || c.deleted != 0 {
		return client.Client{}, family.ErrNotFound
	}
	return c.Client, nil
}

// Clients returns clients in the order of their ids, behind after; limit as in
// family.Query.
func (db *DB) Clients(ctx context.Context, after string, limit int) ([]client.Client, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var found []client.Client
	for id, c := range db.clients {
		if c.deleted == 0 && id > after {
			found = append(found, c.Client)
		}
	}
	slices.SortFunc(found, func(a, b client.Client) int { return cmp.Compare(a.ID, b.ID) })
	return found[:min(len(found), limited(limit))], nil
}

// PutClient stores a client under the version it was read with and gives it the next
// one. Version 0 creates it: family.ErrExists if the id is or ever was in use.
// Otherwise family.ErrConflict if it has another version or is gone.
func (db *DB) PutClient(ctx context.Context, c client.Client, events ...family.Event) error {
	return db.write(ctx, events, func(family.Time) error {
		old, known := db.clients[c.ID]
		if err := fits(c.Version, old.Version, known, old.deleted != 0); err != nil {
			return err
		}
		c.Version++
		c.NotBefore, c.CreatedAt = stored(c.NotBefore), stored(c.CreatedAt)
		c = cloned(c)
		for i, h := range c.Secrets {
			c.Secrets[i].CreatedAt, c.Secrets[i].Expires = stored(h.CreatedAt), stored(h.Expires)
		}
		db.clients[c.ID] = clientRow{Client: c}
		return nil
	})
}

// cloned shares no memory with c.
func cloned(c client.Client) client.Client {
	c.Secrets = slices.Clone(c.Secrets)
	c.Policy = maps.Clone(c.Policy)
	for _, list := range []*[]string{
		&c.RedirectURIs, &c.PostLogoutRedirectURIs, &c.GrantTypes, &c.Scopes, &c.Audience, &c.Resources, &c.Introspects,
	} {
		*list = slices.Clone(*list)
	}
	return c
}

// fits applies the rule of versions to a row that is to be stored.
func fits(version, stored uint64, known, deleted bool) error {
	switch {
	case version == 0 && known:
		return family.ErrExists
	case version != 0 && (!known || deleted || stored != version):
		return family.ErrConflict
	}
	return nil
}

// DeleteClient removes a client and its consents for good: its families are barred
// from now on and its id is never given again. family.ErrNotFound if there is none.
func (db *DB) DeleteClient(ctx context.Context, id string, events ...family.Event) error {
	return db.write(ctx, events, func(now family.Time) error {
		if c, ok := db.clients[id]; !ok || c.deleted != 0 {
			return family.ErrNotFound
		}
		db.clients[id] = clientRow{deleted: now}
		for k := range db.consents {
			if k.client == id {
				delete(db.consents, k)
			}
		}
		return nil
	})
}

// User returns a user; family.ErrNotFound if there is none or they were deleted.
func (db *DB) User(ctx context.Context, id user.ID) (user.User, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return user.User{}, err
	}
	defer unlock()
	return db.userByID(id)
}

func (db *DB) userByID(id user.ID) (user.User, error) {
	u, ok := db.users[id]
	if !ok || u.deleted != 0 {
		return user.User{}, family.ErrNotFound
	}
	return u.User, nil
}

// UserByName returns the user with this username, in the spelling that
// user.ParseUsername gives; family.ErrNotFound if there is none.
func (db *DB) UserByName(ctx context.Context, username string) (user.User, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return user.User{}, err
	}
	defer unlock()
	id, ok := db.names[username]
	if !ok {
		return user.User{}, family.ErrNotFound
	}
	return db.userByID(id)
}

// Users returns users in the order of their ids, behind after; limit as in
// family.Query.
func (db *DB) Users(ctx context.Context, after user.ID, limit int) ([]user.User, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var found []user.User
	for id, u := range db.users {
		if u.deleted == 0 && id > after {
			found = append(found, u.User)
		}
	}
	slices.SortFunc(found, func(a, b user.User) int { return cmp.Compare(a.ID, b.ID) })
	return found[:min(len(found), limited(limit))], nil
}

// PutUser stores a user by the rules of PutClient; family.ErrExists also if another
// user has the username.
func (db *DB) PutUser(ctx context.Context, u user.User, events ...family.Event) error {
	return db.write(ctx, events, func(family.Time) error {
		old, known := db.users[u.ID]
		if err := fits(u.Version, old.Version, known, old.deleted != 0); err != nil {
			return err
		}
		if owner, taken := db.names[u.Username]; taken && owner != u.ID {
			return family.ErrExists
		}
		u.Version++
		u.CreatedAt, u.PasswordAt, u.NotBefore = stored(u.CreatedAt), stored(u.PasswordAt), stored(u.NotBefore)
		delete(db.names, old.Username)
		db.names[u.Username] = u.ID
		db.users[u.ID] = userRow{User: u}
		return nil
	})
}

// DeleteUser removes a user with their consents and sessions for good: their families
// are barred from now on. Somebody else may take the username, nobody the id.
// family.ErrNotFound if there is none.
func (db *DB) DeleteUser(ctx context.Context, id user.ID, events ...family.Event) error {
	return db.write(ctx, events, func(now family.Time) error {
		u, err := db.userByID(id)
		if err != nil {
			return err
		}
		delete(db.names, u.Username)
		db.users[id] = userRow{deleted: now}
		for k := range db.consents {
			if k.user == id {
				delete(db.consents, k)
			}
		}
		for sid, s := range db.sessions {
			if s.User == string(id) {
				delete(db.sessions, sid)
			}
		}
		return nil
	})
}

// Consent returns what the user allowed the client; family.ErrNotFound if nothing.
func (db *DB) Consent(ctx context.Context, u user.ID, clientID string) (user.Consent, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return user.Consent{}, err
	}
	defer unlock()
	c, ok := db.consents[consentKey{u, clientID}]
	if !ok {
		return user.Consent{}, family.ErrNotFound
	}
	return c, nil
}

// Consents returns all of the user's consents in the order of the client ids.
func (db *DB) Consents(ctx context.Context, u user.ID) ([]user.Consent, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var found []user.Consent
	for k, c := range db.consents {
		if k.user == u {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b user.Consent) int { return cmp.Compare(a.Client, b.Client) })
	return found, nil
}

// PutConsent stores a consent in the place of an earlier one; family.ErrNotFound if
// there is no such user or client.
func (db *DB) PutConsent(ctx context.Context, c user.Consent, events ...family.Event) error {
	return db.write(ctx, events, func(family.Time) error {
		if _, err := db.userByID(c.User); err != nil {
			return err
		}
		if cl, ok := db.clients[c.Client]; !ok || cl.deleted != 0 {
			return family.ErrNotFound
		}
		c.GrantedAt = stored(c.GrantedAt)
		c.Resources = slices.Clone(c.Resources)
		db.consents[consentKey{c.User, c.Client}] = c
		return nil
	})
}

// DropConsent takes a consent back; family.ErrNotFound if there is none.
func (db *DB) DropConsent(ctx context.Context, u user.ID, clientID string, events ...family.Event) error {
	return db.write(ctx, events, func(family.Time) error {
		k := consentKey{u, clientID}
		if _, ok := db.consents[k]; !ok {
			return family.ErrNotFound
		}
		delete(db.consents, k)
		return nil
	})
}

// Session returns a session, ended ones too; family.ErrNotFound if there is none or
// it was swept.
func (db *DB) Session(ctx context.Context, id session.ID) (session.Session, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return session.Session{}, err
	}
	defer unlock()
	s, ok := db.sessions[id]
	if !ok {
		return session.Session{}, family.ErrNotFound
	}
	return s, nil
}

// PutSession stores a session by the rules of PutClient; creating one for a user who
// is not there is family.ErrNotFound.
func (db *DB) PutSession(ctx context.Context, s session.Session, events ...family.Event) error {
	return db.write(ctx, events, func(family.Time) error {
		old, known := db.sessions[s.ID]
		if err := fits(s.Version, old.Version, known, false); err != nil {
			return err
		}
		if !known {
			if _, err := db.userByID(user.ID(s.User)); err != nil {
				return err
			}
		}
		s.Version++
		s.CreatedAt, s.AuthTime, s.LastSeen = stored(s.CreatedAt), stored(s.AuthTime), stored(s.LastSeen)
		s.Ends, s.EndedAt = stored(s.Ends), stored(s.EndedAt)
		s.AMR = slices.Clone(s.AMR)
		db.sessions[s.ID] = s
		return nil
	})
}

// Sessions returns the user's sessions in the order of their ids; with liveOnly only
// those that have not ended, in one way or the other.
func (db *DB) Sessions(ctx context.Context, u user.ID, liveOnly bool) ([]session.Session, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	now := family.At(db.now()).Std()
	var found []session.Session
	for _, s := range db.sessions {
		if s.User == string(u) && (!liveOnly || s.Alive(now)) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b session.Session) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return found, nil
}
