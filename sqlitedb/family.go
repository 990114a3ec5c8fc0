package sqlitedb

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/user"
)

// The names under which columns of families and events are sealed. They are part of
// what is stored: never change one.
const (
	grantColumn  = "family.grant"
	placesColumn = "family.places"
	originColumn = "event.origin"
)

// memo is a family as its row says it.
type memo struct {
	state  family.State
	bucket int64
	user   family.Bar // what its user holds against it, known if
	asOf   uint64     // is DB.users still; 0: not known
}

// recent is the rows that were seen last, written through by the one process that owns
// the file: a load of one of them costs no statement, and a commit that has the very
// grant and places of the row need not seal them again. Forgetting one costs time only.
//
// It never answers with less than was acknowledged, nor with less than another load has
// answered before. The committer puts what it has made durable before it acknowledges.
// A load that has read the file may be late, so it offers what it read, with the count
// of things forgotten from before it read; if any were meanwhile, a newer row may have
// been among them, and the offer is declined. Declining counts like forgetting: what
// this load has seen and did not put must not be undone by a later offer that is older.
type recent struct {
	mu        sync.Mutex
	entries   map[family.ID]memo        // guarded by mu
	ring      [recentFamilies]family.ID // guarded by mu; whose turn it is to be forgotten
	next      int                       // guarded by mu
	forgotten uint64                    // guarded by mu
}

const recentFamilies = 4096

// get returns what is known, and the count for an offer.
func (r *recent) get(id family.ID) (m memo, ok bool, forgotten uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok = r.entries[id]
	return m, ok, r.forgotten
}

// put is for what the committer has made durable; needs mu, which the committer holds
// while it puts and drops all of a batch: no load sees a part of it.
func (r *recent) put(m memo) {
	if old, ok := r.entries[m.state.ID]; !ok || old.state.Version <= m.state.Version {
		r.set(m)
	}
}

// drop forgets; needs mu.
func (r *recent) drop(id family.ID) {
	delete(r.entries, id)
	r.forgotten++
}

// offer is for loads.
func (r *recent) offer(m memo, forgotten uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.entries[m.state.ID]
	switch {
	case ok && old.state.Version > m.state.Version:
	case ok || r.forgotten == forgotten:
		r.set(m)
	default:
		r.forgotten++
	}
}

// set needs mu.
func (r *recent) set(m memo) {
	id := m.state.ID
	if _, ok := r.entries[id]; !ok {
		// The ring may still have an id that was forgotten: its turn comes early then.
		delete(r.entries, r.ring[r.next])
		r.forgotten++
		r.ring[r.next] = id
		r.next = (r.next + 1) % len(r.ring)
	}
	r.entries[id] = m
}

func (r *recent) forget(id family.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(id)
}

func (r *recent) forgetAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.entries)
	r.forgotten++
}

// noBucket is the bucket of a family that is never over.
const noBucket = -1

func bucketOf(s family.State) int64 {
	at, _ := over(s)
	if at == 0 {
		return noBucket
	}
	return int64(at / dayMs)
}

func orNull(bucket int64) any {
	if bucket == noBucket {
		return nil
	}
	return bucket
}

// over returns from when on the family's time of being kept counts, and why it ended;
// 0: never. For a living family these are its stored ends, which no policy extends,
// for a revoked one the end of the day on which it was.
func over(s family.State) (family.Time, family.Reason) {
	if s.Status != family.Live {
		at := s.LastUsed
		for _, u := range s.Trail.Uses {
			at = max(at, u.At)
		}
		// To the end of the day: the row has no other column for it than its bucket.
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

// changing returns the columns that a rotation changes, in the order of the
// statements below; version is the one that is stored.
func changing(s family.State, version uint64, bucket int64) []any {
	ints := [...]int64{
		int64(version), int64(s.Status), int64(s.Reason), int64(s.Head), int64(s.HeadKey), int64(s.Floor),
		int64(s.WindowStart), int64(s.LastUsed), int64(s.IdleEnds),
	}
	room := roomSize - width(bucket)
	for _, n := range ints {
		room -= width(n)
	}
	// All in one piece of memory: the driver copies it.
	b := make([]byte, 0, len(s.RetryHash)+len(s.Presenter)+family.TrailSize+roomSize)
	b = append(b, s.RetryHash[:]...)
	b = append(b, s.Presenter[:]...)
	b = s.Trail.AppendTrail(b)
	b = b[:len(b)+max(0, room)]
	const presenter = len(s.RetryHash)
	const trail = presenter + len(s.Presenter)
	const rest = trail + family.TrailSize
	return []any{
		ints[0], ints[1], ints[2], ints[3], ints[4], ints[5], ints[6], b[:presenter], b[presenter:trail],
		ints[7], ints[8], b[trail:rest], b[rest:],
	}
}

const insertFamily = `INSERT INTO family (
	version, status, reason, head, head_key, floor, window_start, retry_hash, presenter,
	last_used, idle_ends, trail, room, bucket, ends, sealed_grant, sealed_places, id, issued_at, client, user, session
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// updateFamily is the statement of a rotation.
const updateFamily = `UPDATE family SET
	version = ?, status = ?, reason = ?, head = ?, head_key = ?, floor = ?, window_start = ?, retry_hash = ?, presenter = ?,
	last_used = ?, idle_ends = ?, trail = ?, room = ?
WHERE id = ? AND version = ? AND status = 1`

// replaceFamily is for when more has changed.
const replaceFamily = `UPDATE family SET
	version = ?, status = ?, reason = ?, head = ?, head_key = ?, floor = ?, window_start = ?, retry_hash = ?, presenter = ?,
	last_used = ?, idle_ends = ?, trail = ?, room = ?, bucket = ?, ends = ?, sealed_grant = ?, sealed_places = ?
WHERE id = ? AND version = ? AND status = 1`

// moveFamily is for a rotation on another day than the last.
const moveFamily = `UPDATE family SET
	version = ?, status = ?, reason = ?, head = ?, head_key = ?, floor = ?, window_start = ?, retry_hash = ?, presenter = ?,
	last_used = ?, idle_ends = ?, trail = ?, room = ?, bucket = ?
WHERE id = ? AND version = ? AND status = 1`

// seal returns the two sealed columns; that of places is nil when there are none.
func (db *DB) seal(s family.State) (grant, places any, err error) {
	sealed, err := db.ring.Seal(grantColumn, s.ID[:], appendGrant(nil, s.Grant))
	if err != nil {
		return nil, nil, err
	}
	if s.Places == nil {
		return sealed, nil, nil
	}
	p, err := db.ring.Seal(placesColumn, s.ID[:], appendPlaces(nil, s.Places))
	return sealed, p, err
}

// Create implements family.Store.
func (db *DB) Create(ctx context.Context, s family.State, events ...family.Event) error {
	if s.Grant == nil {
		return errors.New("create family: it has no grant")
	}
	grant, places, err := db.seal(s)
	if err != nil {
		return fmt.Errorf("create family: %w", err)
	}
	bucket := bucketOf(s)
	args := append(changing(s, 1, bucket), orNull(bucket), int64(s.Ends), grant, places,
		s.ID[:], int64(s.IssuedAt), s.Grant.Client, s.Grant.User, s.Grant.Session[:])
	return db.write(ctx, func(t *tx) error {
		row, err := t.one("SELECT 1 FROM family WHERE id = ?", s.ID[:])
		if err != nil {
			return err
		}
		if row != nil {
			return family.ErrExists
		}
		if _, err := t.exec(insertFamily, args...); err != nil {
			return err
		}
		if err := t.missedCut(s); err != nil {
			return err
		}
		return t.record(events)
	}, func() {
		s.Version = 1
		db.recent.drop(s.ID) // a family that was swept
		db.recent.put(memo{state: s, bucket: bucket})
	})
}

// Commit implements family.Store.
func (db *DB) Commit(ctx context.Context, next family.State, events ...family.Event) error {
	bucket := bucketOf(next)
	known, ok, _ := db.recent.get(next.ID)
	args := changing(next, next.Version+1, bucket)
	statement := updateFamily
	switch {
	case !ok || known.state.Version != next.Version || known.state.Grant != next.Grant ||
		known.state.Places != next.Places || known.state.Ends != next.Ends || next.Status != family.Live:
		statement = replaceFamily
		grant, places, err := db.seal(next)
		if err != nil {
			return fmt.Errorf("commit family: %w", err)
		}
		args = append(args, orNull(bucket), int64(next.Ends), grant, places)
	case known.bucket != bucket:
		statement = moveFamily
		args = append(args, orNull(bucket))
	}
	args = append(args, next.ID[:], int64(next.Version))
	err := db.write(ctx, func(t *tx) error {
		changed, err := t.exec(statement, args...)
		if err != nil {
			return err
		}
		if changed == 0 {
			return family.ErrConflict
		}
		return t.record(events)
	}, func() {
		now := memo{state: next, bucket: bucket}
		now.state.Version++
		if ok {
			now.user, now.asOf = known.user, known.asOf
		}
		db.recent.put(now)
	})
	if errors.Is(err, family.ErrConflict) {
		// Who loads again is to see the file, also if a person has changed it by hand.
		db.recent.forget(next.ID)
	}
	return err
}

const familyColumns = `f.version, f.status, f.reason, f.head, f.head_key, f.floor, f.window_start, f.retry_hash, f.presenter,
	f.last_used, f.idle_ends, f.trail, f.bucket, f.issued_at, f.ends, f.client, f.user, f.session, f.sealed_grant, f.sealed_places, f.id`

const familyWidth = 21

const loadFamily = `SELECT ` + familyColumns + `, u.status, u.deleted, u.not_before, u.reason, u.keep
FROM family AS f LEFT JOIN user AS u ON u.id = f.user WHERE f.id = ?`

// Load implements family.Store. A family that was seen lately costs no statement.
func (db *DB) Load(ctx context.Context, id family.ID) (family.State, family.Standing, error) {
	m, err := db.row(ctx, id)
	if err != nil {
		return family.State{}, family.Standing{}, err
	}
	st := family.Standing{Barred: m.user.Against(m.state)}
	if st.Barred == 0 {
		c, err := db.client(ctx, m.state.Grant.Client)
		if err != nil {
			return family.State{}, family.Standing{}, fmt.Errorf("load family %s: %w", id, err)
		}
		st.Barred = c.barring.Against(m.state)
	}
	st.Now = family.At(db.now())
	return m.state, st, nil
}

// row returns a family's row with what its user holds against it.
func (db *DB) row(ctx context.Context, id family.ID) (memo, error) {
	if err := db.usable(ctx); err != nil {
		return memo{}, err
	}
	// Both counts before the file is read: see recent.
	users := db.users.Load()
	m, ok, forgotten := db.recent.get(id)
	if ok && m.asOf == users {
		return m, nil
	}
	var row []driver.Value
	err := db.read(ctx, func(c *conn) (err error) {
		row, err = c.one(loadFamily, id[:])
		return err
	})
	if err != nil {
		return memo{}, fmt.Errorf("load family: %w", err)
	}
	if row == nil {
		return memo{}, family.ErrNotFound
	}
	m = memo{asOf: users}
	if m.state, m.bucket, err = db.decode(row); err == nil {
		m.user, err = userBar(m.state.Grant.User, row[familyWidth:])
	}
	if err != nil {
		return memo{}, fmt.Errorf("load family %s: %w", id, err)
	}
	db.recent.offer(m, forgotten)
	return m, nil
}

// decode makes a State of the columns familyColumns, and tells its bucket.
func (db *DB) decode(row []driver.Value) (s family.State, bucket int64, err error) {
	var version, status, reason, head, headKey, floor, windowStart, lastUsed, idleEnds, issuedAt, ends int64
	var retryHash, presenter, trail, session, sealedGrant, sealedPlaces, id []byte
	var client, user string
	err = scan(row[:12], &version, &status, &reason, &head, &headKey, &floor, &windowStart, &retryHash, &presenter,
		&lastUsed, &idleEnds, &trail)
	if err == nil {
		err = scan(row[13:familyWidth], &issuedAt, &ends, &client, &user, &session, &sealedGrant, &sealedPlaces, &id)
	}
	if err != nil {
		return family.State{}, 0, err
	}
	bucket, ok := row[12].(int64)
	if !ok {
		bucket = noBucket
	}
	s = family.State{
		Version: uint64(version), Status: family.Status(status), Reason: family.Reason(reason),
		Head: uint32(head), HeadKey: uint16(headKey), Floor: uint32(floor), WindowStart: family.Time(windowStart),
		LastUsed: family.Time(lastUsed), IdleEnds: family.Time(idleEnds),
		IssuedAt: family.Time(issuedAt), Ends: family.Time(ends),
	}
	if copy(s.ID[:], id) != len(s.ID) || copy(s.RetryHash[:], retryHash) != len(s.RetryHash) ||
		copy(s.Presenter[:], presenter) != len(s.Presenter) {
		return family.State{}, 0, errors.New("the row is damaged: restore a backup")
	}
	if s.Trail, ok = family.ParseTrail(trail); !ok {
		return family.State{}, 0, fmt.Errorf("the trail of family %s is damaged or of a newer version", s.ID)
	}
	// The same version has the same grant and places: they need not be opened again.
	if m, ok, _ := db.recent.get(s.ID); ok && m.state.Version == s.Version {
		s.Grant, s.Places = m.state.Grant, m.state.Places
		return s, bucket, nil
	}
	g := &family.Grant{Client: client, User: user}
	copy(g.Session[:], session)
	plain, err := db.ring.Open(grantColumn, s.ID[:], sealedGrant)
	if err == nil {
		err = parseGrant(plain, g)
	}
	if err != nil {
		return family.State{}, 0, fmt.Errorf("family %s: %w", s.ID, err)
	}
	s.Grant = g
	if sealedPlaces != nil {
		plain, err := db.ring.Open(placesColumn, s.ID[:], sealedPlaces)
		if err == nil {
			s.Places, err = parsePlaces(plain)
		}
		if err != nil {
			return family.State{}, 0, fmt.Errorf("family %s: %w", s.ID, err)
		}
	}
	return s, bucket, nil
}

const userBarColumns = `status, deleted, not_before, reason, keep`

// userBar reads the columns userBarColumns of the user with this id; they are NULL,
// or row is nil, when there is none.
func userBar(id string, row []driver.Value) (family.Bar, error) {
	if id == "" {
		return family.Bar{}, nil
	}
	if row == nil || row[0] == nil {
		return family.Bar{Now: family.UserDisabled}, nil
	}
	var status, deleted, notBefore, reason int64
	var keep []byte
	if err := scan(row, &status, &deleted, &notBefore, &reason, &keep); err != nil {
		return family.Bar{}, err
	}
	if deleted != 0 {
		return family.Bar{Before: family.BarAll, At: family.Time(deleted), Why: family.UserDisabled}, nil
	}
	b := family.Bar{Before: family.Time(notBefore), At: family.Time(notBefore), Why: family.Reason(reason)}
	copy(b.Keep[:], keep)
	if user.Status(status) != user.Enabled {
		b.Now = family.UserDisabled
	}
	return b, nil
}

const insertEvent = `INSERT INTO event (
	seq, at, level, kind, reason, family, generation, client, user, session, request, detail, sealed_origin
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// record stores events in the transaction. Their numbers count once it is durable.
func (t *tx) record(events []family.Event) error {
	for _, e := range events {
		if e.At == 0 {
			e.At = t.now
		}
		if e.Level == 0 {
			e.Level = family.Info
		}
		e.Origin.UserAgent = e.Origin.UserAgent[:min(len(e.Origin.UserAgent), family.MaxUserAgent)]
		seq := t.seq + 1
		var id, user, session, origin any
		if e.Family != (family.ID{}) {
			id = e.Family[:]
		}
		if e.User != "" {
			user = e.User
		}
		if e.Session != [16]byte{} {
			session = e.Session[:]
		}
		if e.Origin != (family.Origin{}) {
			sealed, err := t.db.ring.Seal(originColumn, seqRow(seq), appendOrigin(nil, e.Origin))
			if err != nil {
				return err
			}
			origin = sealed
		}
		_, err := t.exec(insertEvent, int64(seq), int64(e.At), int64(e.Level), string(e.Kind), int64(e.Reason), id,
			int64(e.Generation), e.Client, user, session, e.Request, e.Detail, origin)
		if err != nil {
			return err
		}
		t.seq = seq
	}
	return nil
}

// seqRow is the row identity under which an event's origin is sealed.
func seqRow(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }
