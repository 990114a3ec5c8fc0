package source

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// SQLSchema creates the table of SQL; %s is its name. It is portable: PostgreSQL, MySQL,
// SQLite and most others take it as it is.
//
//   - id is the application's name of a session.
//   - version is drawn anew by each write: the compare-and-swap goes by it.
//   - record is Encode's text, or sealed and in base64.
//   - lease_by and lease_until (Unix milliseconds) say who refreshes, and until when.
const SQLSchema = `create table %s (
	id varchar(190) not null primary key,
	version varchar(64) not null,
	record text not null,
	lease_by varchar(64) not null,
	lease_until bigint not null
)`

// SQL keeps the sessions of a server-side application in one table, one row each, for all
// its replicas: a compare-and-swap by version, and a lease as the lock. Its statements name
// the row by its key alone. It is safe for many goroutines.
type SQL struct {
	// DB is the database; the application opens and closes it, and creates the table.
	DB *sql.DB
	// Table is its name; "": heirloom_session.
	Table string
	// Dollar is set where parameters are written $1 (PostgreSQL) rather than ?.
	Dollar bool
	// Key, when not nil, has 32 bytes and seals the records (AES-256-GCM), each for its id.
	Key []byte
}

// lease is how long a crashed holder keeps the others waiting. Clocks of replicas that differ by
// more only lose the lock, not the session.
const lease = 20 * time.Second

// Session returns the Store of one session. id is at most 190 bytes.
func (q *SQL) Session(id string) (Store, error) {
	table := q.Table
	if table == "" {
		table = "heirloom_session"
	}
	for _, c := range table {
		if !(c == '_' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
			return nil, fmt.Errorf("token table %q: letters, digits, _ and . only", table)
		}
	}
	switch {
	case q.DB == nil:
		return nil, errors.New("token table: DB is nil")
	case id == "" || len(id) > 190:
		return nil, fmt.Errorf("token table: the id of a session has %d bytes: 1 to 190 are allowed", len(id))
	case q.Key != nil && len(q.Key) != 32:
		return nil, fmt.Errorf("token table: the sealing key has %d bytes: it needs 32", len(q.Key))
	}
	return &row{db: q.DB, table: table, dollar: q.Dollar, key: slices.Clone(q.Key), id: id}, nil
}

type row struct {
	db     *sql.DB
	table  string
	dollar bool
	key    []byte
	id     string
}

// text puts the table's name and the database's kind of parameters into a statement.
func (r *row) text(stmt string) string {
	stmt = strings.ReplaceAll(stmt, "{table}", r.table)
	if !r.dollar {
		return stmt
	}
	var b strings.Builder
	n := 0
	for _, c := range stmt {
		if c == '?' {
			n++
			fmt.Fprintf(&b, "$%d", n)
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

// Load implements Store.
func (r *row) Load(ctx context.Context) (Record, Version, error) {
	var ver, text string
	err := r.db.QueryRowContext(ctx, r.text(`select version, record from {table} where id = ?`), r.id).Scan(&ver, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return Record{}, "", nil
	}
	if err != nil {
		return Record{}, "", fmt.Errorf("token table: %w", err)
	}
	b := []byte(text)
	if r.key != nil {
		if b, err = base64.RawStdEncoding.DecodeString(text); err != nil {
			return Record{}, "", errors.New("token table: the record is not sealed, but this store has a key")
		}
	}
	plain, err := unseal(r.key, b, "row "+r.id)
	if err != nil {
		return Record{}, "", fmt.Errorf("token table: %w", err)
	}
	rec, err := Decode(plain)
	if err != nil {
		return Record{}, "", fmt.Errorf("token table: %w", err)
	}
	return rec, Version(ver), nil
}

// Swap implements Store.
func (r *row) Swap(ctx context.Context, old Version, next Record) error {
	b, err := seal(r.key, Encode(next), "row "+r.id)
	if err != nil {
		return fmt.Errorf("token table: %w", err)
	}
	text := string(b)
	if r.key != nil {
		text = base64.RawStdEncoding.EncodeToString(b)
	}
	if old == "" {
		_, err := r.db.ExecContext(ctx, r.text(`insert into {table} (id, version, record, lease_by, lease_until) values (?, ?, ?, '', 0)`), r.id, draw(), text)
		if err != nil {
			// Databases say "it exists" in as many ways as there are; a look at the row is portable.
			var n int
			if r.db.QueryRowContext(ctx, r.text(`select count(*) from {table} where id = ?`), r.id).Scan(&n) == nil && n > 0 {
				return ErrChanged
			}
			return fmt.Errorf("token table: %w", err)
		}
		return nil
	}
	res, err := r.db.ExecContext(ctx, r.text(`update {table} set version = ?, record = ? where id = ? and version = ?`), draw(), text, r.id, string(old))
	if err != nil {
		return fmt.Errorf("token table: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("token table: %w", err)
	}
	if n == 0 {
		return ErrChanged
	}
	return nil
}

// Lock implements Locker. Before the first record there is nothing to lock.
func (r *row) Lock(ctx context.Context) (unlock func(), err error) {
	me, before, after := draw(), "", ""
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		now := time.Now()
		res, err := r.db.ExecContext(ctx, r.text(`update {table} set lease_by = ?, lease_until = ? where id = ? and lease_until < ?`),
			me, now.Add(lease).UnixMilli(), r.id, now.UnixMilli())
		if err != nil {
			return nil, fmt.Errorf("token table: lease: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil {
			return nil, fmt.Errorf("token table: lease: %w", err)
		} else if n > 0 {
			return func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				defer cancel()
				// An error leaves a lease that ends by itself.
				_, _ = r.db.ExecContext(ctx, r.text(`update {table} set lease_until = 0 where id = ? and lease_by = ?`), r.id, me)
			}, nil
		}
		var by string
		err = r.db.QueryRowContext(ctx, r.text(`select lease_by from {table} where id = ?`), r.id).Scan(&by)
		if errors.Is(err, sql.ErrNoRows) {
			return func() {}, nil
		}
		if err == nil { // or the context has just ended
			after = by
		}
		if before == "" {
			before = after
		}
		if err := sleep(ctx, wait/2+rand.N(wait)); err != nil {
			if after != before {
				return nil, fmt.Errorf("token table: lease: %w", ErrBusy)
			}
			return nil, fmt.Errorf("token table: lease: somebody holds it: %w", err)
		}
	}
}
