package memdb

import (
	"bytes"
	"context"
	"slices"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
)

// Keys implements keys.Store.
func (db *DB) Keys(ctx context.Context) ([]keys.Record, error) {
	unlock, err := db.read(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return slices.Clone(db.keys), nil
}

// PutKey implements keys.Store.
func (db *DB) PutKey(ctx context.Context, rec keys.Record) error {
	return db.write(ctx, nil, func(family.Time) error {
		if i := db.keyAt(rec.Use, rec.ID); i >= 0 {
			if bytes.Equal(db.keys[i].Wrapped, rec.Wrapped) {
				return nil
			}
			return keys.ErrExists
		}
		rec.Wrapped = slices.Clone(rec.Wrapped)
		db.keys = append(db.keys, rec)
		return nil
	})
}

// DropKey implements keys.Store.
func (db *DB) DropKey(ctx context.Context, use keys.Use, id uint16) error {
	return db.write(ctx, nil, func(family.Time) error {
		if i := db.keyAt(use, id); i >= 0 {
			db.keys = slices.Delete(db.keys, i, i+1)
		}
		return nil
	})
}

// keyAt returns the place of a key in the list, -1 if it is not there; mu is held.
func (db *DB) keyAt(use keys.Use, id uint16) int {
	return slices.IndexFunc(db.keys, func(r keys.Record) bool { return r.Use == use && r.ID == id })
}
