package sqlitedb

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/family"
)

// Families implements family.Index.
func (db *DB) Families(ctx context.Context, q family.Query) ([]family.State, error) {
	where := []string{"f.id > ?"}
	args := []any{q.After[:]}
	if q.After == (family.ID{}) {
		where[0], args = "1", nil
	}
	// The repeated conditions let SQLite use the partial indexes.
	if q.Session != [16]byte{} {
		where = append(where, "f.session = ? AND f.session <> x'00000000000000000000000000000000'")
		args = append(args, q.Session[:])
	}
	if q.User != "" {
		where = append(where, "f.user = ? AND f.user <> ''")
		args = append(args, q.User)
	}
	if q.Client != "" {
		where = append(where, "f.client = ?")
		args = append(args, q.Client)
	}
	if q.LiveOnly {
		where = append(where, "f.status = 1")
	}
	args = append(args, limited(q.Limit))
	sql := "SELECT " + familyColumns + " FROM family AS f WHERE " + strings.Join(where, " AND ") + " ORDER BY f.id LIMIT ?"
	var found []family.State
	err := db.read(ctx, func(c *conn) error {
		return c.query(sql, func(row []driver.Value) error {
			s, _, err := db.decode(row)
			found = append(found, s)
			return err
		}, args...)
	})
	if err != nil {
		return nil, fmt.Errorf("list families: %w", err)
	}
	return found, nil
}

// Events implements family.Index.
func (db *DB) Events(ctx context.Context, q family.EventQuery) ([]family.Event, error) {
	where := []string{"1"}
	var args []any
	if q.Before != 0 {
		where = append(where, "seq < ?")
		args = append(args, int64(q.Before))
	}
	if q.Family != (family.ID{}) {
		where = append(where, "family = ?")
		args = append(args, q.Family[:])
	}
	if q.User != "" {
		where = append(where, "user = ?")
		args = append(args, q.User)
	}
	if q.Session != [16]byte{} {
		where = append(where, "session = ?")
		args = append(args, q.Session[:])
	}
	if q.MinLevel > family.Info {
		where = append(where, "level = 2")
	}
	args = append(args, limited(q.Limit))
	sql := `SELECT seq, at, level, kind, reason, family, generation, client, user, session, request, detail, sealed_origin
		FROM event WHERE ` + strings.Join(where, " AND ") + " ORDER BY seq DESC LIMIT ?"
	var found []family.Event
	err := db.read(ctx, func(c *conn) error {
		return c.query(sql, func(row []driver.Value) error {
			e, err := db.event(row)
			found = append(found, e)
			return err
		}, args...)
	})
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return found, nil
}

func (db *DB) event(row []driver.Value) (e family.Event, err error) {
	var seq, at, level, reason, generation int64
	var kind string
	var id, session, origin []byte
	err = scan(row, &seq, &at, &level, &kind, &reason, &id, &generation, &e.Client, &e.User, &session, &e.Request, &e.Detail, &origin)
	if err != nil {
		return e, err
	}
	e.Seq, e.At, e.Level, e.Kind = uint64(seq), family.Time(at), family.Level(level), family.EventKind(kind)
	e.Reason, e.Generation = family.Reason(reason), uint32(generation)
	copy(e.Family[:], id)
	copy(e.Session[:], session)
	if origin == nil {
		return e, nil
	}
	plain, err := db.ring.Open(originColumn, seqRow(e.Seq), origin)
	if err == nil {
		e.Origin, err = parseOrigin(plain)
	}
	if err != nil {
		return e, fmt.Errorf("event %d: %w", seq, err)
	}
	return e, nil
}

// Record implements family.Index.
func (db *DB) Record(ctx context.Context, events ...family.Event) error {
	return db.write(ctx, func(t *tx) error { return t.record(events) }, nil)
}

// Deny implements family.Denylist.
func (db *DB) Deny(ctx context.Context, jti string, until family.Time, e family.Event) error {
	return db.write(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO denied (jti, until) VALUES (?, ?)
			ON CONFLICT (jti) DO UPDATE SET until = max(until, excluded.until)`, jti, int64(until))
		if err != nil {
			return err
		}
		return t.record([]family.Event{e})
	}, nil)
}

// Denied implements family.Denylist.
func (db *DB) Denied(ctx context.Context, jti string) (denied bool, err error) {
	err = db.read(ctx, func(c *conn) error {
		row, err := c.one("SELECT 1 FROM denied WHERE jti = ?", jti)
		denied = row != nil
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for a revoked access token: %w", err)
	}
	return denied, nil
}

// sweepStep is how many rows are swept in one atomic step: others wait for it.
const sweepStep = 64

// Sweep implements family.Index. It marks what cut-offs cover first, then removes
// what ended KeepEnded ago, then access tokens that have expired, and events as old
// as KeepEvents; limit bounds all of them together, 0 is 1000. It works in small
// steps, so that a refresh never waits long for it; after an error some are done.
func (db *DB) Sweep(ctx context.Context, limit int) (int, error) {
	if limit <= 0 {
		limit = 1000
	}
	swept := 0
	for swept < limit {
		step := min(sweepStep, limit-swept)
		var s sweeper
		err := db.write(ctx, func(t *tx) error {
			s = sweeper{tx: t, left: step}
			return s.run()
		}, func() {
			for _, id := range s.gone {
				db.recent.drop(id)
			}
		})
		if err != nil {
			return swept, fmt.Errorf("sweep: %w", err)
		}
		n := step - s.left
		swept += n
		if n < step && !s.more {
			break
		}
	}
	return swept, nil
}

// sweeper is one step of a Sweep.
type sweeper struct {
	*tx
	left int         // rows that may still be touched
	more bool        // there is work for another step
	gone []family.ID // whose memos no longer hold
}

func (s *sweeper) run() error {
	for _, part := range []func() error{s.mark, s.families, s.sessions, s.denied, s.events} {
		if s.left == 0 || s.more {
			return nil
		}
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// The kinds of cut-offs.
const (
	cutUser   = 1
	cutClient = 2
)

// cut notes that the families of a user or a client are to be marked, from the first
// on.
func (t *tx) cut(kind int64, id string) error {
	_, err := t.exec("INSERT OR REPLACE INTO cut (kind, id, done) VALUES (?, ?, x'')", kind, id)
	return err
}

// missedCut notes the cut-offs that cover a family which is only now created: its row
// may stand where the marking has been already.
func (t *tx) missedCut(s family.State) error {
	for kind, id := range map[int64]string{cutUser: s.Grant.User, cutClient: s.Grant.Client} {
		b, err := t.barOf(kind, id)
		if err != nil {
			return err
		}
		if b.Covers(s) {
			if err := t.cut(kind, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// barOf reads a bar as the transaction sees it.
func (t *tx) barOf(kind int64, id string) (family.Bar, error) {
	if kind == cutClient {
		row, err := t.one("SELECT version, deleted, body FROM client WHERE id = ?", id)
		if err != nil {
			return family.Bar{}, err
		}
		c, err := clientOf(row)
		if err != nil {
			return family.Bar{}, fmt.Errorf("client %s: %w", id, err)
		}
		return c.bar(), nil
	}
	row, err := t.one("SELECT "+userBarColumns+" FROM user WHERE id = ?", id)
	if err != nil {
		return family.Bar{}, err
	}
	return userBar(id, row)
}

// mark revokes the rows that one cut-off covers, a page at a time: a cut-off of a
// large client has many rows to look at even if it covers few.
func (s *sweeper) mark() error {
	row, err := s.one("SELECT kind, id, done FROM cut LIMIT 1")
	if err != nil || row == nil {
		return err
	}
	var kind int64
	var id string
	var done []byte
	if err := scan(row, &kind, &id, &done); err != nil {
		return err
	}
	b, err := s.barOf(kind, id)
	if err != nil {
		return err
	}
	column := "f.user = ? AND f.user <> ''"
	if kind == cutClient {
		column = "f.client = ?"
	}
	page, err := s.page("SELECT "+familyColumns+" FROM family AS f WHERE "+column+
		" AND f.id > coalesce(?, x'') AND f.status = 1 ORDER BY f.id LIMIT ?", id, done, int64(s.left))
	if err != nil {
		return err
	}
	s.more = true
	if len(page) < s.left {
		_, err = s.exec("DELETE FROM cut WHERE kind = ? AND id = ?", kind, id)
	} else {
		last := page[len(page)-1].ID
		_, err = s.exec("UPDATE cut SET done = ? WHERE kind = ? AND id = ?", last[:], kind, id)
	}
	if err != nil {
		return err
	}
	for _, f := range page {
		// What had expired before has its reason already.
		if end, _ := over(f); !b.Covers(f) || end != 0 && end <= b.At {
			continue
		}
		if err := s.revoke(f, b.Why); err != nil {
			return err
		}
		s.left--
	}
	return nil
}

func (s *sweeper) page(sql string, args ...any) (page []family.State, err error) {
	err = s.query(sql, func(row []driver.Value) error {
		f, _, err := s.db.decode(row)
		page = append(page, f)
		return err
	}, args...)
	return page, err
}

func (s *sweeper) revoke(f family.State, why family.Reason) error {
	next := f.Revoke(s.now, why, family.Origin{})
	grant, places, err := s.db.seal(next)
	if err != nil {
		return err
	}
	bucket := bucketOf(next)
	args := append(changing(next, next.Version+1, bucket), orNull(bucket), int64(next.Ends), grant, places,
		next.ID[:], int64(next.Version))
	if _, err := s.exec(replaceFamily, args...); err != nil {
		return err
	}
	s.gone = append(s.gone, f.ID)
	return s.record([]family.Event{
		next.EventFor(family.FamilyRevoked, why, family.Token{Generation: next.Head}, family.Origin{}),
	})
}

// longAgo reports whether what ended at end (0: never) has been kept long enough.
func longAgo(end, now family.Time, keep time.Duration) bool {
	return end != 0 && end.Add(keep) <= now
}

// families removes rows. The bucket finds the days that may be old enough; the ends
// decide, so that nothing is removed that a policy could still accept.
func (s *sweeper) families() error {
	newest := s.now.Add(-s.db.keepEnded)
	page, err := s.page("SELECT "+familyColumns+` FROM family AS f INDEXED BY family_bucket
		WHERE f.bucket <= ? AND (f.status = 2 AND f.bucket * 86400000 <= ?
			OR f.status = 1 AND (f.ends <> 0 AND f.ends <= ? OR f.idle_ends <> 0 AND f.idle_ends <= ?))
		ORDER BY f.bucket LIMIT ?`, int64(newest/dayMs), int64(newest), int64(newest), int64(newest), int64(s.left))
	if err != nil {
		return err
	}
	for _, f := range page {
		end, why := over(f)
		if !longAgo(end, s.now, s.db.keepEnded) {
			continue
		}
		if _, err := s.exec("DELETE FROM family WHERE id = ?", f.ID[:]); err != nil {
			return err
		}
		s.gone = append(s.gone, f.ID)
		s.left--
		if f.Status != family.Live {
			continue
		}
		err := s.record([]family.Event{
			f.EventFor(family.FamilyExpired, why, family.Token{Generation: f.Head}, family.Origin{}),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sweeper) sessions() error {
	n, err := s.exec("DELETE FROM session WHERE id IN (SELECT id FROM session WHERE over <= ? ORDER BY over LIMIT ?)",
		int64(s.now.Add(-s.db.keepEnded)), int64(s.left))
	s.left -= int(n)
	return err
}

func (s *sweeper) denied() error {
	n, err := s.exec("DELETE FROM denied WHERE jti IN (SELECT jti FROM denied WHERE until <= ? ORDER BY until LIMIT ?)",
		int64(s.now), int64(s.left))
	s.left -= int(n)
	return err
}

// events removes the oldest, in the order of their numbers, up to the first that is
// to be kept; never the newest, of which the numbers go on.
func (s *sweeper) events() error {
	var last int64
	kept := false
	err := s.query("SELECT seq, at FROM event ORDER BY seq LIMIT ?", func(row []driver.Value) error {
		var seq, at int64
		if err := scan(row, &seq, &at); err != nil {
			return err
		}
		kept = kept || uint64(seq) >= s.seq || !longAgo(family.Time(at), s.now, s.db.keepEvents)
		if !kept {
			last = seq
		}
		return nil
	}, int64(s.left))
	if err != nil || last == 0 {
		return err
	}
	n, err := s.exec("DELETE FROM event WHERE seq <= ?", last)
	s.left -= int(n)
	return err
}
