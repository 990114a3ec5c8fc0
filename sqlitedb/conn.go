package sqlitedb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync/atomic"

	"modernc.org/sqlite"
)

// conn is one SQLite connection with its prepared statements, for one goroutine at a
// time. It stands on the driver and not on database/sql: the pool, the locks and the
// conversions of that package add 5 µs to the 10 of an update and to the 16 of a load
// (measured), and this package needs one writer and a few readers that it knows by name
// anyway.
type conn struct {
	dc    driver.Conn
	stmts map[string]driver.Stmt
	count *atomic.Uint64 // statements
	args  []driver.NamedValue
}

// busyTimeout is for what is not ours: a person's sqlite3, a backup.
const busyTimeout = "PRAGMA busy_timeout = 10000"

// open connects to the file and sets what holds for one connection. cache is in KiB.
func open(path string, cache int, count *atomic.Uint64) (*conn, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath()
	dc, err := new(sqlite.Driver).Open(dsn)
	if err != nil {
		return nil, err
	}
	c := &conn{dc: dc, stmts: make(map[string]driver.Stmt), count: count}
	for _, pragma := range []string{
		busyTimeout,
		"PRAGMA synchronous = FULL",
		"PRAGMA foreign_keys = OFF",
		"PRAGMA trusted_schema = OFF",
		"PRAGMA wal_autocheckpoint = 0",
		fmt.Sprintf("PRAGMA cache_size = -%d", cache),
	} {
		if err := c.script(pragma); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

func (c *conn) close() error {
	var all []error
	for _, s := range c.stmts {
		all = append(all, s.Close())
	}
	c.stmts = nil
	return errors.Join(append(all, c.dc.Close())...)
}

// script runs statements that are used once.
func (c *conn) script(sql string) error {
	c.count.Add(1)
	_, err := c.dc.(driver.ExecerContext).ExecContext(context.Background(), sql, nil)
	return err
}

func (c *conn) prepare(sql string, args []any) (driver.Stmt, error) {
	c.count.Add(1)
	c.args = c.args[:0]
	for i, a := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	if s, ok := c.stmts[sql]; ok {
		return s, nil
	}
	s, err := c.dc.Prepare(sql)
	if err != nil {
		return nil, err
	}
	c.stmts[sql] = s
	return s, nil
}

// exec runs a statement that is kept prepared and returns how many rows it changed.
// Arguments are int64, string, []byte or nil. Once begun it is not interrupted: a
// statement takes microseconds, and half a batch must not depend on one caller.
func (c *conn) exec(sql string, args ...any) (changed int64, err error) {
	s, err := c.prepare(sql, args)
	if err != nil {
		return 0, err
	}
	defer clear(c.args)
	r, err := s.(driver.StmtExecContext).ExecContext(context.Background(), c.args)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// query calls each with every row. The row's slice is used again for the next one,
// what its elements point to is not.
func (c *conn) query(sql string, each func(row []driver.Value) error, args ...any) (err error) {
	s, err := c.prepare(sql, args)
	if err != nil {
		return err
	}
	defer clear(c.args)
	rows, err := s.(driver.StmtQueryContext).QueryContext(context.Background(), c.args)
	if err != nil {
		return err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(row); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := each(row); err != nil {
			return err
		}
	}
}

// one returns the first row, nil if there is none.
func (c *conn) one(sql string, args ...any) (found []driver.Value, err error) {
	err = c.query(sql, func(row []driver.Value) error {
		if found == nil {
			found = append(found, row...)
		}
		return nil
	}, args...)
	return found, err
}

// number returns the integer in the first column of the first row; 0 if it is NULL.
func (c *conn) number(sql string, args ...any) (int64, error) {
	row, err := c.one(sql, args...)
	if err != nil || len(row) == 0 || row[0] == nil {
		return 0, err
	}
	n, ok := row[0].(int64)
	if !ok {
		return 0, fmt.Errorf("%s: not a number", sql)
	}
	return n, nil
}

// explain adds to an error of SQLite what the operator can do about it.
func (db *DB) explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	hint := ""
	switch e.Code() & 0xff {
	case 13: // SQLITE_FULL
		hint = "the disk of %s is full: make room; the server goes on by itself"
	case 10: // SQLITE_IOERR
		hint = "the disk of %s can not be read or written: look at the system log and make room; the server goes on by itself once it can"
	case 8: // SQLITE_READONLY
		hint = "%s can not be written: let the server's user write the file and its directory"
	case 14: // SQLITE_CANTOPEN
		hint = "%s can not be opened: let the server's user read and write the file and its directory"
	case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
		hint = "%s is damaged or no database: restore a backup"
	default:
		return fmt.Errorf("%s: %w", db.path, err)
	}
	return fmt.Errorf(hint+": %w", db.path, err)
}
