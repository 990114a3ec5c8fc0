// Package keys holds the server's own keys: those that authenticate refresh tokens and codes, those that seal personal
// columns, and those that sign JWTs. It makes them, keeps them sealed in a store, moves them through their lives
// (published, signing, retired, gone) and uses them; key material never leaves it.
//
// It does not know what a token, a family, a client or a claim is, and it knows neither HTTP nor SQL.
package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Use is what a key is for. A key of one use is never used for another.
type Use string

const (
	UseMAC   Use = "mac"   // HMAC-SHA-256 over refresh tokens and codes
	UseSeal  Use = "seal"  // AES-256-GCM over personal columns
	UseSign  Use = "sign"  // JWS signatures (RFC 7515)
	UseIndex Use = "index" // keyed hashes for look-ups of sealed values; the one use that never rotates
)

// Alg is an algorithm. For signing keys it is the JWS name of RFC 7518 and RFC 8037.
type Alg string

const (
	ES256 Alg = "ES256" // the default
	RS256 Alg = "RS256" // 2048 bits
	PS256 Alg = "PS256" // 2048 bits, an RSA key of its own
	EdDSA Alg = "EdDSA" // Ed25519

	HS256   Alg = "HS256"   // of the uses mac and index; never of a JWT
	A256GCM Alg = "A256GCM" // of the use seal
)

// State is a point in a key's life. It is never stored: it follows from the times in the records and the clock.
type State string

const (
	Published State = "published" // known to every node and shown in the JWKS, used for nothing new yet
	Signing   State = "signing"   // what new tokens, rows and signatures are made with
	Retired   State = "retired"   // made something that may still be alive: still checks, opens and verifies
	Gone      State = "gone"      // nothing can need it any more; its record is dropped
)

// Record is a key as a store keeps it. A record never changes: where its key stands in its life follows from Signs, from
// the records after it and from Config. So two nodes cannot overwrite each other's decisions, and none can bring a
// dropped key back.
//
// Times are whole seconds, UTC. They, Use, ID, Alg and KEK are authenticated by Wrapped: a record altered in the
// database does not open.
type Record struct {
	Use     Use       `json:"use"`
	ID      uint16    `json:"id"` // counts from 1 within a use, and is never 0
	Alg     Alg       `json:"alg"`
	Created time.Time `json:"created"`
	Signs   time.Time `json:"signs"` // from when on it is used for new things
	Wrapped []byte    `json:"-"`     // the key, sealed by the KEK; at most 4 KiB
	KEK     string    `json:"kek"`   // KEK.ID of that KEK
}

// ErrExists is what Store.PutKey returns when the place is taken by another key.
var ErrExists = errors.New("another key has this use and id")

// Store keeps records. Every call is one atomic, durable step; all may be called by many goroutines and nodes at once.
type Store interface {
	// Keys returns all records, in any order. It must see every PutKey that returned before it was called, on any node.
	Keys(ctx context.Context) ([]Record, error)
	// PutKey stores a record whose Use and ID are new. If they exist with the same Wrapped bytes it does nothing and
	// returns nil, so that it can be repeated after an unknown outcome; with others it changes nothing and returns
	// ErrExists.
	PutKey(ctx context.Context, rec Record) error
	// DropKey deletes a record; one that does not exist is no error.
	DropKey(ctx context.Context, use Use, id uint16) error
}

// Info describes a key to people. It holds no key material.
type Info struct {
	Use     Use       `json:"use"`
	ID      uint16    `json:"id"`
	Kid     string    `json:"kid,omitempty"` // of signing keys: the RFC 7638 thumbprint
	Alg     Alg       `json:"alg"`
	State   State     `json:"state"`
	Created time.Time `json:"created"`
	Signs   time.Time `json:"signs"`
	Retires time.Time `json:"retires,omitzero"` // zero: nothing succeeds it yet
	Ends    time.Time `json:"ends,omitzero"`    // zero: not known yet, or never
}

// line is a succession of keys: exactly one of them signs at a time.
type line struct {
	use Use
	alg Alg
}

// lines lists what every ring has. The order of the signing algorithms is the order of Algs and of the JWKS.
func lines() []line {
	return []line{
		{UseMAC, HS256}, {UseSeal, A256GCM}, {UseIndex, HS256},
		{UseSign, ES256}, {UseSign, RS256}, {UseSign, PS256}, {UseSign, EdDSA},
	}
}

// lineOf finds the line that a command means. Only signing keys need an algorithm.
func lineOf(use Use, alg Alg) (line, error) {
	var algs []Alg
	for _, l := range lines() {
		if l.use != use {
			continue
		}
		if l.alg == alg || alg == "" && use != UseSign {
			return l, nil
		}
		algs = append(algs, l.alg)
	}
	if algs == nil {
		return line{}, fmt.Errorf("no keys of use %q: the uses are mac, seal, sign and index", use)
	}
	return line{}, fmt.Errorf("no %s keys of algorithm %q: choose one of %v", use, alg, algs)
}

// known reports whether this version of the program can use a record.
func (l line) known() bool { return slices.Contains(lines(), l) }

func (rec Record) line() line { return line{rec.Use, rec.Alg} }

// name is how messages and logs call a key.
func (rec Record) name() string { return fmt.Sprintf("%s/%d", rec.Use, rec.ID) }
