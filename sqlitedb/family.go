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

// memo is what is known of a family's row beside its numbers: the very grant and
// places that were read or written with this version. A commit that has the same
// pointers need not seal them again, and a load of the same version need not open them.
type memo struct {
	version uint64
	grant   *family.Grant
	places  *family.Places
	bucket  int64
	ends    family.Time
}

// recent remembers memos of the families seen last. Forgetting one costs a sealing,
// never correctness.
type recent struct {
	mu      sync.Mutex
	entries map[family.ID]memo        // guarded by mu
	ring    [recentFamilies]family.ID // guarded by mu; whose turn it is to be forgotten
	next    int                       // guarded by mu
}

const recentFamilies = 4096

func (r *recent) get(id family.ID, version uint64) (memo, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.entries[id]
	return m, ok && m.version == version
}

func (r *recent) put(id family.ID, m memo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.entries[id]; ok {
		if m.version >= old.version {
			r.entries[id] = m
		}
		return
	}
	delete(r.entries, r.ring[r.next])
	r.ring[r.next] = id
	r.next = (r.next + 1) % len(r.ring)
	r.entries[id] = m
}

func (r *recent) forget(id family.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// The ring keeps the id; its turn deletes nothing then, or a later entry early.
	delete(r.entries, id)
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
		db.recent.forget(s.ID) // a swept family's
		db.recent.put(s.ID, memo{1, s.Grant, s.Places, bucket, s.Ends})
	})
}

// Commit implements family.Store.
func (db *DB) Commit(ctx context.Context, next family.State, events ...family.Event) error {
	bucket := bucketOf(next)
	known, ok := db.recent.get(next.ID, next.Version)
	args := changing(next, next.Version+1, bucket)
	statement := updateFamily
	switch {
	case !ok || known.grant != next.Grant || known.places != next.Places ||
		known.ends != next.Ends || next.Status != family.Live:
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
	return db.write(ctx, func(t *tx) error {
		changed, err := t.exec(statement, args...)
		if err != nil {
			return err
		}
		if changed == 0 {
			return family.ErrConflict
		}
		return t.record(events)
	}, func() { db.recent.put(next.ID, memo{next.Version + 1, next.Grant, next.Places, bucket, next.Ends}) })
}

const familyColumns = `f.version, f.status, f.reason, f.head, f.head_key, f.floor, f.window_start, f.retry_hash, f.presenter,
	f.last_used, f.idle_ends, f.trail, f.bucket, f.issued_at, f.ends, f.client, f.user, f.session, f.sealed_grant, f.sealed_places, f.id`

const familyWidth = 21

const loadFamily = `SELECT ` + familyColumns + `, u.status, u.deleted, u.not_before, u.reason, u.keep
FROM family AS f LEFT JOIN user AS u ON u.id = f.user WHERE f.id = ?`

// Load implements family.Store.
func (db *DB) Load(ctx context.Context, id family.ID) (s family.State, st family.Standing, err error) {
	var row []driver.Value
	err = db.read(ctx, func(c *conn) error {
		row, err = c.one(loadFamily, id[:])
		return err
	})
	if err != nil {
		return family.State{}, family.Standing{}, fmt.Errorf("load family: %w", err)
	}
	if row == nil {
		return family.State{}, family.Standing{}, family.ErrNotFound
	}
	if s, err = db.family(row); err != nil {
		return family.State{}, family.Standing{}, fmt.Errorf("load family %s: %w", id, err)
	}
	b, err := userBar(s.Grant.User, row[familyWidth:])
	if err != nil {
		return family.State{}, family.Standing{}, fmt.Errorf("load family %s: %w", id, err)
	}
	st.Barred = b.against(s)
	if st.Barred == 0 {
		c, err := db.client(ctx, s.Grant.Client)
		if err != nil {
			return family.State{}, family.Standing{}, fmt.Errorf("load family %s: %w", id, err)
		}
		st.Barred = c.barring.against(s)
	}
	st.Now = family.At(db.now())
	return s, st, nil
}

// family makes a State of the columns familyColumns and remembers it.
func (db *DB) family(row []driver.Value) (family.State, error) {
	s, bucket, err := db.decode(row)
	if err != nil {
		return family.State{}, err
	}
	db.recent.put(s.ID, memo{s.Version, s.Grant, s.Places, bucket, s.Ends})
	return s, nil
}

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
	if m, ok := db.recent.get(s.ID, s.Version); ok {
		s.Grant, s.Places = m.grant, m.places
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

// bar is what a user or a client holds against families.
type bar struct {
	now    family.Reason // not 0: all of them are barred for the time being
	before family.Time   // those issued at or before are dead for why; 0: none
	at     family.Time   // when that was decided
	why    family.Reason
	keep   [16]byte // the session that is spared; zero: none
}

const never = family.Time(1<<63 - 1)

// covers reports whether the cut-off ends the family.
func (b bar) covers(s family.State) bool {
	return b.before != 0 && s.IssuedAt <= b.before && (b.keep == [16]byte{} || s.Grant.Session != b.keep)
}

// against returns why the family is barred; 0: it is not.
func (b bar) against(s family.State) family.Reason {
	if b.now != 0 {
		return b.now
	}
	if b.covers(s) {
		return b.why
	}
	return 0
}

// reasonOf reads the word of a cut-off. What can not be read still cuts off.
func reasonOf(word string) family.Reason {
	if r, err := family.ParseReason(word); err == nil {
		return r
	}
	return family.RevokedAdmin
}

const userBarColumns = `status, deleted, not_before, reason, keep`

// userBar reads the columns userBarColumns of the user with this id; they are NULL,
// or row is nil, when there is none.
func userBar(id string, row []driver.Value) (bar, error) {
	if id == "" {
		return bar{}, nil
	}
	if row == nil || row[0] == nil {
		return bar{now: family.UserDisabled}, nil
	}
	var status, deleted, notBefore, reason int64
	var keep []byte
	if err := scan(row, &status, &deleted, &notBefore, &reason, &keep); err != nil {
		return bar{}, err
	}
	if deleted != 0 {
		return bar{before: never, at: family.Time(deleted), why: family.UserDisabled}, nil
	}
	b := bar{before: family.Time(notBefore), at: family.Time(notBefore), why: family.Reason(reason)}
	copy(b.keep[:], keep)
	if user.Status(status) != user.Enabled {
		b.now = family.UserDisabled
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
