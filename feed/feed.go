// Package feed is the revocation feed: what the server tells resource servers about
// access tokens that are dead before they expire, in which form, and the bounded set
// in which a resource server keeps it.
//
// It does no I/O of its own and reads no clock. It does not know HTTP, SQL, families
// or keys, and it has the standard library only: the server and the verifier share it.
package feed

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Kind says what an entry kills. The zero Kind is invalid.
type Kind uint8

// The kinds of entries.
const (
	_        Kind = iota
	Family        // every access token of one family
	Token         // one access token
	User          // a user's tokens up to a moment
	Client        // a client's tokens up to a moment
	All           // everything up to a moment
	Narrowed      // a family's tokens up to a moment: scopes were withdrawn, the family lives on
)

var kinds = [...]string{Family: "family", Token: "token", User: "user", Client: "client", All: "all", Narrowed: "narrowed"}

// String returns the kind's word on the wire.
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kinds) {
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
	return kinds[k]
}

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) {
	if k == 0 || int(k) >= len(kinds) {
		return nil, errors.New("feed: an entry has no kind")
	}
	return []byte(kinds[k]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(text []byte) error {
	for i, w := range kinds {
		if w != "" && w == string(text) {
			*k = Kind(i)
			return nil
		}
	}
	// An entry that is not understood may be the one that kills a token: a reader must
	// not go on as if nothing had been said.
	return fmt.Errorf("feed: kind %q is not known: update the verifier", text)
}

// Entry is one line of the feed: from now on, the tokens it names are dead.
type Entry struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"id,omitempty"` // fam, jti, sub or client_id of the tokens; "" with All
	// Before is the cut-off of User, Client, All and Narrowed, in Unix milliseconds: tokens
	// issued at or before it are dead. 0 with Family and Token, which kill whenever issued.
	Before int64 `json:"before,omitempty"`
	// Keep is the session (sid) that a User entry spares; "" = none.
	Keep string `json:"keep,omitempty"`
	// Reason is the class of the reason, a word of docs/reasons.md.
	Reason string `json:"reason"`
	// Until is when the last token that the entry could kill has expired, in Unix
	// seconds: from then on it can be forgotten.
	Until int64 `json:"until"`
}

// Check refuses an entry that makes no sense, so that a reader can not take it for one
// that says nothing.
func (e Entry) Check() error {
	cut := e.Kind == User || e.Kind == Client || e.Kind == All || e.Kind == Narrowed
	switch {
	case e.Kind == 0 || int(e.Kind) >= len(kinds):
		return errors.New("feed: an entry has no kind")
	case (e.ID == "") != (e.Kind == All):
		return fmt.Errorf("feed: entry of kind %v with id %q", e.Kind, e.ID)
	case cut != (e.Before > 0):
		return fmt.Errorf("feed: entry of kind %v with cut-off %d", e.Kind, e.Before)
	case e.Keep != "" && e.Kind != User:
		return fmt.Errorf("feed: entry of kind %v keeps a session", e.Kind)
	case e.Until <= 0:
		return errors.New("feed: an entry does not say until when it counts")
	case len(e.ID) > maxID || len(e.Keep) > maxID || len(e.Reason) > maxReason:
		// Written as JSON at its worst, an entry still fits a line of the stream.
		return errors.New("feed: an entry's id or reason is too long")
	}
	return nil
}

const (
	maxID     = 512 // bytes
	maxReason = 64
)

// Subject is what a verified access token says of itself.
type Subject struct {
	Family, Token, User, Client, Session string
	IssuedAt                             int64 // iat, Unix seconds
}

// covers reports whether a cut-off kills what was issued in a second. iat has whole
// seconds and the cut-off milliseconds: within one second the token may be older or
// newer. It counts as newer, because a person who signs in again must not be thrown
// out; the entries of the families that the cut-off ended follow it.
func covers(before, iat int64) bool { return iat*1000+999 <= before }

// Mark is the data of a frame that tells how far the feed has come.
type Mark struct {
	Head uint64 `json:"head"` // every entry up to this position has been told
	Now  int64  `json:"now"`  // the server's clock, Unix milliseconds
	// Live is how many entries the server holds: a snapshot that is whole has as many.
	Live int `json:"live"`
}

// decodeEntry reads an entry and checks it.
func decodeEntry(data []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(data, &e); err != nil {
		return Entry{}, fmt.Errorf("feed: read entry: %v", err)
	}
	return e, e.Check()
}
