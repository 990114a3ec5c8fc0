package sqlitedb

import (
	"bytes"
	"context"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/heirloom-auth/heirloom/keys"
)

// Keys implements keys.Store.
func (db *DB) Keys(ctx context.Context) ([]keys.Record, error) {
	var found []keys.Record
	err := db.read(ctx, func(c *conn) error {
		return c.query("SELECT use, id, alg, created, signs, wrapped, kek FROM server_key", func(row []driver.Value) error {
			var id, created, signs int64
			var use, alg string
			var rec keys.Record
			if err := scan(row, &use, &id, &alg, &created, &signs, &rec.Wrapped, &rec.KEK); err != nil {
				return err
			}
			rec.Use, rec.ID, rec.Alg = keys.Use(use), uint16(id), keys.Alg(alg)
			rec.Created, rec.Signs = time.Unix(created, 0).UTC(), time.Unix(signs, 0).UTC()
			found = append(found, rec)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return found, nil
}

// PutKey implements keys.Store.
func (db *DB) PutKey(ctx context.Context, rec keys.Record) error {
	return db.write(ctx, func(t *tx) error {
		row, err := t.one("SELECT wrapped FROM server_key WHERE use = ? AND id = ?", string(rec.Use), int64(rec.ID))
		if err != nil {
			return err
		}
		if row != nil {
			if wrapped, ok := row[0].([]byte); ok && bytes.Equal(wrapped, rec.Wrapped) {
				return nil
			}
			return keys.ErrExists
		}
		_, err = t.exec("INSERT INTO server_key (use, id, alg, created, signs, wrapped, kek) VALUES (?, ?, ?, ?, ?, ?, ?)",
			string(rec.Use), int64(rec.ID), string(rec.Alg), rec.Created.Unix(), rec.Signs.Unix(), rec.Wrapped, rec.KEK)
		return err
	}, nil)
}

// DropKey implements keys.Store.
func (db *DB) DropKey(ctx context.Context, use keys.Use, id uint16) error {
	return db.write(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM server_key WHERE use = ? AND id = ?", string(use), int64(id))
		return err
	}, nil)
}
