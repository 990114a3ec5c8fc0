package keys

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	sealVersion = 1
	sealHeader  = 1 + 2   // version, key id
	sealMore    = 12 + 16 // nonce, GCM tag
	sealDomain  = "heirloom row v1"
	indexDomain = "heirloom index v1"
)

// Seal encrypts a value for one column of one row:
//
//	version 1 | key id 2 | nonce 12 | AES-256-GCM ciphertext and tag
//
// The key is derived from the seal key for this column and row alone (HMAC-SHA-256), so that random nonces never wear out
// a key however often rows are sealed. Column and row are authenticated: what is moved to another row does not open. The
// same value sealed twice differs.
func (r *Ring) Seal(column string, row []byte, plain []byte) ([]byte, error) {
	s := r.snap.Load()
	out := make([]byte, sealHeader, sealHeader+sealMore+len(plain))
	out[0] = sealVersion
	binary.BigEndian.PutUint16(out[1:], s.sealNow)
	aead, err := rowAEAD(s.seal[s.sealNow], column, row)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %v", column, err)
	}
	return aead.Seal(out, nil, plain, sealAAD(out, column, row)), nil
}

// Open returns what was sealed for this column and row. An error means that it was altered, belongs to another column or
// row, or that its key does not exist.
func (r *Ring) Open(column string, row []byte, sealed []byte) ([]byte, error) {
	if len(sealed) < sealHeader+sealMore || sealed[0] != sealVersion {
		return nil, fmt.Errorf("open sealed %s: not a sealed value, or of a newer version", column)
	}
	id := binary.BigEndian.Uint16(sealed[1:])
	key := r.snap.Load().seal[id]
	if key == nil {
		return nil, fmt.Errorf("open sealed %s: no key seal/%d", column, id)
	}
	aead, err := rowAEAD(key, column, row)
	if err != nil {
		return nil, fmt.Errorf("open sealed %s: %v", column, err)
	}
	plain, err := aead.Open(nil, nil, sealed[sealHeader:], sealAAD(sealed[:sealHeader], column, row))
	if err != nil {
		return nil, fmt.Errorf("open sealed %s: %v", column, errors.New("altered, or of another column or row"))
	}
	return plain, nil
}

// Index is a keyed hash of a value of a column, for look-ups of values that are sealed. Its key never rotates.
func (r *Ring) Index(column string, value []byte) [32]byte {
	return r.snap.Load().index.sum(indexDomain, column, value)
}

func rowAEAD(key *macKey, column string, row []byte) (cipher.AEAD, error) {
	derived := key.sum(sealDomain, column, row)
	return newGCM(derived[:])
}

func sealAAD(header []byte, column string, row []byte) []byte {
	aad := make([]byte, 0, len(header)+4+len(column)+len(row))
	aad = append(aad, header...)
	aad = append(binary.BigEndian.AppendUint32(aad, uint32(len(column))), column...)
	return append(aad, row...)
}
