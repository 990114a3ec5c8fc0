package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/memdb"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/sqlitedb"
)

// store is an open engine.
type store interface {
	server.Store
	admin.Store
	Close() error
}

// openStore opens the engine that the configuration names, with the key ring that it
// keeps, and registers its figures.
func openStore(ctx context.Context, c *config, open func(context.Context, keys.Store) (*keys.Ring, error), reg prometheus.Registerer) (store, *keys.Ring, error) {
	e, err := c.engine()
	if err != nil {
		return nil, nil, err
	}
	switch e.scheme {
	case "memory":
		db := memdb.New(memdb.Config{KeepEnded: time.Duration(c.KeepEnded), KeepEvents: time.Duration(c.KeepEvents)})
		ring, err := open(ctx, db)
		if err != nil {
			return nil, nil, err
		}
		reg.MustRegister(
			counter("heirloom_store_operations_total", "Atomic steps that changed something.", func() float64 { return float64(db.Stats().Commits) }),
			gauge("heirloom_store_families", "Families kept now.", func() float64 { return float64(db.Stats().Families) }),
			gauge("heirloom_store_events", "Events kept now.", func() float64 { return float64(db.Stats().Events) }),
		)
		return db, ring, nil
	case "sqlite":
		var ring *keys.Ring
		db, err := sqlitedb.Open(ctx, sqlitedb.Config{
			Path: e.path, KeepEnded: time.Duration(c.KeepEnded), KeepEvents: time.Duration(c.KeepEvents),
			Keys: func(ctx context.Context, st keys.Store) (_ *keys.Ring, err error) {
				ring, err = open(ctx, st)
				return ring, err
			},
		})
		if err != nil {
			return nil, nil, err
		}
		reg.MustRegister(
			counter("heirloom_store_operations_total", "Atomic steps that changed something.", func() float64 { return float64(db.Stats().Ops) }),
			counter("heirloom_store_batches_total", "Transactions that the steps shared, each with one sync of the disk.", func() float64 { return float64(db.Stats().Batches) }),
			counter("heirloom_store_statements_total", "SQL statements, reads too.", func() float64 { return float64(db.Stats().Statements) }),
			gauge("heirloom_store_widest_batch", "Most steps in one batch so far.", func() float64 { return float64(db.Stats().Widest) }),
			gauge("heirloom_store_file_bytes", "Size of the database file.", func() float64 { return float64(db.Stats().FileBytes) }),
			gauge("heirloom_store_wal_bytes", "Size of the write-ahead log.", func() float64 { return float64(db.Stats().WALBytes) }),
		)
		return db, ring, nil
	}
	return nil, nil, fmt.Errorf("store %q has no engine", c.Store)
}

func counter(name, help string, f func() float64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f)
}

func gauge(name, help string, f func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
}

// openData makes the data directory if it is missing, and tries to write there: it is
// better to stop now, with the reason, than at the first sign-in.
func openData(dir string) error {
	const hint = "let the user that runs heirloom write it, or choose another directory with --data"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return hinted(fmt.Errorf("data directory: %w", bare(err)), hint)
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return hinted(fmt.Errorf("data directory %s: the disk is full", dir), "make room, then start again")
		}
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return hinted(fmt.Errorf("data directory %s can not be written: %w", dir, err), hint)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// keepSecret returns what a file of the data directory holds; if there is no such file,
// it is made with what fresh returns, mode 0600, complete before it can be seen.
func keepSecret(path string, fresh func() ([]byte, error)) ([]byte, error) {
	raw, err := readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return raw, err
	}
	if raw, err = fresh(); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return nil, bare(err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, bare(err)
	}
	// Not a rename: another process may have been faster, and what it said counts.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make %s: %v", path, err)
	}
	return readSecret(path)
}

// readSecret reads a small file that nobody else may read.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, bare(err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, hinted(fmt.Errorf("%s can be read by others (mode %04o)", path, mode), "chmod 600 "+path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, bare(err)
	}
	return raw, nil
}

// adminToken reads the admin token of a data directory, and makes one at the first start.
func adminToken(dir string) (admin.Token, error) {
	path := filepath.Join(dir, "admin-token")
	raw, err := keepSecret(path, func() ([]byte, error) { return []byte(admin.NewToken().Text() + "\n"), nil })
	if err != nil {
		return admin.Token{}, fmt.Errorf("admin token: %w", err)
	}
	return parseToken(path, raw)
}

func parseToken(path string, raw []byte) (admin.Token, error) {
	token, err := admin.ParseToken(strings.TrimSpace(string(raw)))
	if err != nil {
		return admin.Token{}, hinted(fmt.Errorf("admin token in %s: %w", path, err), "remove the file and restart the server, which makes a new one")
	}
	return token, nil
}
