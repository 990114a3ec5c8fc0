package memdb

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// Create implements family.Store.
func (db *DB) Create(ctx context.Context, s family.State, events ...family.Event) error {
	return db.write(ctx, events, func(family.Time) error {
		if _, taken := db.families[s.ID]; taken {
			return family.ErrExists
		}
		s.Version = 1
		db.families[s.ID] = s
		return nil
	})
}

// Load implements family.Store.
func (db *DB) Load(ctx context.Context, id family.ID) (family.State, family.Standing, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return family.State{}, family.Standing{}, err
	}
	defer unlock()
	s, ok := db.families[id]
	if !ok {
		return family.State{}, family.Standing{}, family.ErrNotFound
	}
	return s, family.Standing{Now: family.At(db.now()), Barred: db.barred(s)}, nil
}

// Commit implements family.Store.
func (db *DB) Commit(ctx context.Context, next family.State, events ...family.Event) error {
	return db.write(ctx, events, func(family.Time) error {
		s, ok := db.families[next.ID]
		if !ok || s.Version != next.Version || s.Status != family.Live {
			return family.ErrConflict
		}
		next.Version++
		db.families[next.ID] = next
		return nil
	})
}

func (db *DB) userBar(id string) family.Bar {
	if id == "" {
		return family.Bar{}
	}
	u, ok := db.users[user.ID(id)]
	switch {
	case !ok:
		return family.Bar{Now: family.UserDisabled}
	case u.deleted != 0:
		return family.Bar{Before: family.BarAll, At: u.deleted, Why: family.UserDisabled}
	}
	b := family.Bar{Before: family.At(u.NotBefore), At: family.At(u.NotBefore), Why: family.CutOffReason(u.NotBeforeReason), Keep: u.Keep}
	if u.Status != user.Enabled {
		b.Now = family.UserDisabled
	}
	return b
}

func (db *DB) clientBar(id string) family.Bar {
	c, ok := db.clients[id]
	switch {
	case !ok:
		return family.Bar{Now: family.RevokedAdmin}
	case c.deleted != 0:
		return family.Bar{Before: family.BarAll, At: c.deleted, Why: family.RevokedAdmin}
	}
	b := family.Bar{Before: family.At(c.NotBefore), At: family.At(c.NotBefore), Why: family.CutOffReason(c.NotBeforeReason)}
	if c.Status != client.Enabled {
		b.Now = family.ClientDisabled
	}
	return b
}

func (db *DB) barred(s family.State) family.Reason {
	if why := db.userBar(s.Grant.User).Against(s); why != 0 {
		return why
	}
	return db.clientBar(s.Grant.Client).Against(s)
}

const dayMs = family.Time(day / time.Millisecond)

// over returns from when on the family's time of being kept counts, and why it ended;
// 0: never. For a living family these are its stored ends, which no policy extends,
// for a revoked one the end of the day on which it was.
func over(s family.State) (family.Time, family.Reason) {
	if s.Status != family.Live {
		at := s.LastUsed
		for _, u := range s.Trail.Uses {
			at = max(at, u.At)
		}
		return (at/dayMs + 1) * dayMs, s.Reason
	}
	if s.Ends != 0 && (s.IdleEnds == 0 || s.Ends <= s.IdleEnds) {
		return s.Ends, family.ExpiredAbsolute
	}
	if s.IdleEnds != 0 {
		return s.IdleEnds, family.ExpiredIdle
	}
	return 0, 0
}

// Families implements family.Index.
func (db *DB) Families(ctx context.Context, q family.Query) ([]family.State, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var found []family.State
	for _, s := range db.families {
		switch {
		case q.Client != "" && s.Grant.Client != q.Client,
			q.User != "" && s.Grant.User != q.User,
			q.Session != [16]byte{} && s.Grant.Session != q.Session,
			q.LiveOnly && s.Status != family.Live,
			bytes.Compare(s.ID[:], q.After[:]) <= 0 && q.After != family.ID{}:
			continue
		}
		found = append(found, s)
	}
	slices.SortFunc(found, byID)
	return found[:min(len(found), limited(q.Limit))], nil
}

func byID(a, b family.State) int { return bytes.Compare(a.ID[:], b.ID[:]) }

// Events implements family.Index.
func (db *DB) Events(ctx context.Context, q family.EventQuery) ([]family.Event, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var found []family.Event
	for _, e := range slices.Backward(db.events) {
		switch {
		case q.Before != 0 && e.Seq >= q.Before,
			q.Family != family.ID{} && e.Family != q.Family,
			q.User != "" && e.User != q.User,
			q.Session != [16]byte{} && e.Session != q.Session,
			e.Level < q.MinLevel:
			continue
		}
		found = append(found, e)
		if len(found) == limited(q.Limit) {
			break
		}
	}
	return found, nil
}

// Record implements family.Index.
func (db *DB) Record(ctx context.Context, events ...family.Event) error {
	return db.write(ctx, events, func(family.Time) error { return nil })
}

// Deny implements family.Denylist.
func (db *DB) Deny(ctx context.Context, jti string, until family.Time, e family.Event) error {
	return db.write(ctx, []family.Event{e}, func(family.Time) error {
		db.denied[jti] = max(until, db.denied[jti])
		return nil
	})
}

// Denied implements family.Denylist.
func (db *DB) Denied(ctx context.Context, jti string) (bool, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	_, denied := db.denied[jti]
	return denied, nil
}

// Sweep implements family.Index. It marks what cut-offs cover first, then removes
// what ended KeepEnded ago, then access tokens that have expired, and events as old
// as KeepEvents; limit bounds all of them together, 0 is 1000.
func (db *DB) Sweep(ctx context.Context, limit int) (int, error) {
	if limit <= 0 {
		limit = 1000
	}
	n := 0
	err := db.write(ctx, nil, func(now family.Time) error {
		n = db.sweepFamilies(now, limit)
		for id, s := range db.sessions {
			if n < limit && longAgo(sessionOver(s), now, db.keepEnded) {
				delete(db.sessions, id)
				n++
			}
		}
		for jti, until := range db.denied {
			if n < limit && until <= now {
				delete(db.denied, jti)
				n++
			}
		}
		old := 0
		// The newest event stays, so that Seq goes on from it.
		for old < len(db.events)-1 && n < limit && longAgo(db.events[old].At, now, db.keepEvents) {
			old++
			n++
		}
		db.events = slices.Delete(db.events, 0, old)
		return nil
	})
	return n, err
}

// longAgo reports whether what ended at end (0: never) has been kept long enough.
func longAgo(end, now family.Time, keep time.Duration) bool {
	return end != 0 && end.Add(keep) <= now
}

func (db *DB) sweepFamilies(now family.Time, limit int) (n int) {
	ids := make([]family.State, 0, len(db.families))
	for _, s := range db.families {
		ids = append(ids, s)
	}
	slices.SortFunc(ids, byID)
	for _, s := range ids {
		if n == limit {
			return n
		}
		if why := db.cutOff(s); why != 0 {
			next := s.Revoke(now, why, family.Origin{})
			db.record(now, next.EventFor(family.FamilyRevoked, why, family.Token{Generation: s.Head}, family.Origin{}))
			next.Version++
			db.families[s.ID] = next
			n++
		}
	}
	for _, s := range ids {
		if n == limit {
			return n
		}
		s = db.families[s.ID]
		end, why := over(s)
		if !longAgo(end, now, db.keepEnded) {
			continue
		}
		if s.Status == family.Live {
			db.record(now, s.EventFor(family.FamilyExpired, why, family.Token{Generation: s.Head}, family.Origin{}))
		}
		delete(db.families, s.ID)
		n++
	}
	return n
}

// cutOff returns the reason of a cut-off that ended the family while it lived and
// that its row does not tell of yet.
func (db *DB) cutOff(s family.State) family.Reason {
	if s.Status != family.Live {
		return 0
	}
	end, _ := over(s)
	for _, b := range []family.Bar{db.userBar(s.Grant.User), db.clientBar(s.Grant.Client)} {
		// What had expired before has its reason already.
		if b.Covers(s) && (end == 0 || end > b.At) {
			return b.Why
		}
	}
	return 0
}

// sessionOver returns when the session ended or will end.
func sessionOver(s session.Session) family.Time {
	if s.Status != session.Live {
		return family.At(s.EndedAt)
	}
	return family.At(s.Ends)
}
