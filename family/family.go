// Package family is the state machine of a refresh-token family: everything that
// descends from one authorization, its rules of rotation, repetition, reuse and
// recovery, its policies, its token format, and the closed list of reasons why
// something happened to it.
//
// It does no I/O of its own, reads no clock and draws no randomness: time, random
// bytes and keys come in as arguments. It does not know HTTP, SQL or JWTs.
package family

import (
	"encoding/hex"
	"fmt"
	"time"
)

// ID names a family for ever. It is 16 random bytes, public: it may be logged.
type ID [16]byte

// String returns the ID as 32 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// ParseID reads what String wrote; nothing else is accepted.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("family id has %d characters: want 32 hexadecimal digits", len(s))
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ID{}, fmt.Errorf("family id has %q at place %d: want lower-case hexadecimal digits", c, i+1)
		}
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("family id: %v", err)
	}
	return id, nil
}

// Time is a moment in Unix milliseconds, the one resolution of everything that is
// stored. Zero means "never" or "not yet", as each field says.
type Time int64

// At rounds t down to a Time. The zero time.Time becomes 0.
func At(t time.Time) Time {
	if t.IsZero() {
		return 0
	}
	return Time(t.UnixMilli())
}

// Std returns the moment as a time.Time in UTC; 0 becomes the zero time.Time.
func (t Time) Std() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(t)).UTC()
}

// Add returns t+d, or the last representable moment when that would overflow: an
// end a hundred thousand years away is as good as none.
func (t Time) Add(d time.Duration) Time {
	const last = Time(1<<63 - 1)
	ms := Time(d.Milliseconds())
	if ms > 0 && t > last-ms {
		return last
	}
	return t + ms
}

// Sub returns t-u, clamped to the range of a time.Duration.
func (t Time) Sub(u Time) time.Duration {
	const most = Time((1<<63 - 1) / int64(time.Millisecond))
	d := t - u
	if (t >= u) != (d >= 0) { // the difference itself overflowed
		d = most
		if t < u {
			d = -most
		}
	}
	return time.Duration(min(max(d, -most), most)) * time.Millisecond
}

// earliest returns the earlier of two ends, of which 0 means never.
func earliest(a, b Time) Time {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// Status says whether a family lives. The zero Status is invalid.
type Status uint8

// The states of a family. A family that has only expired is still Live here: its
// deadlines end it without a write.
const (
	_ Status = iota
	Live
	Revoked
)

// RetryHash is the digest of the Idempotency-Key that made the head; the zero
// value means that none was sent.
type RetryHash [16]byte

// Presenter is a short digest of the User-Agent that made the head. It is a bar and
// not a proof: it only ever narrows a leeway. The zero value means none was sent.
type Presenter [8]byte

// State is all that changes in a family, plus its unchanging Grant. It is a plain
// comparable value: two States are equal when nothing has happened between them.
type State struct {
	ID      ID
	Version uint64 // of the stored row; set by the store, 0 before Create
	Status  Status
	Reason  Reason // why it ended; 0 while Live

	Head        uint32    // the newest generation issued; 0: only the code exists
	HeadKey     uint16    // the MAC key the head's token was made with
	Floor       uint32    // the oldest generation the running leeway window forgives
	WindowStart Time      // when the first token of the last burst was retired; 0: none
	RetryHash   RetryHash // of the request that made the head
	Presenter   Presenter // of the request that made the head

	IssuedAt Time // of the authorization
	LastUsed Time // when the head was made and its predecessor retired, or for rotation "never" last used (coarse)
	IdleEnds Time // the idle deadline that was announced last; 0: never
	Ends     Time // the absolute end; 0: never. It never moves later

	Trail Trail // the last uses, for people who ask why

	Grant  *Grant  // never nil, never changed in place
	Places *Places // where the Trail's uses came from; nil: nowhere yet; never changed in place
}

// Grant is what the user (or, without a user, the client itself) agreed to. It is
// written once; Narrow is the only thing that ever makes a smaller one of it.
type Grant struct {
	Client    string   // client_id
	User      string   // sub
	Session   [16]byte // the sign-in it came from; zero: none
	Offline   bool     // outlives the session (offline_access)
	Confident bool     // the client was confidential when the grant was made: it must stay so (INV5)
	Scope     Scope    // granted scope
	Resources []string // granted resource servers (RFC 8707), the audience when none is asked for

	AuthTime Time     // when the user authenticated, never moved by a refresh (RFC 9470)
	ACR      string   // authentication context class, "" = none
	AMR      []string // authentication methods (RFC 8176)

	Nonce       string // of the authorization request, for the first ID token only (DEC9)
	Claims      string // the `claims` request parameter, JSON, "" = none
	RedirectURI string // the redirect URI the code was sent to
	SentURI     bool   // the authorization request named it, so RFC 6749 §4.1.3 asks for it again
	Challenge   string // the S256 code_challenge

	// Place is the family's place in the status lists plus one (Token Status List); 0: it
	// has none.
	Place uint64
}

// New returns the State of a family that has just been authorized: generation 0, the
// code, is its head. The absolute end counts from now; until, if not 0, is an end
// that the authorization itself has, such as its session's.
func New(id ID, p Policy, now Time, g *Grant, key uint16, until Time, from Origin) State {
	s := State{ID: id, Status: Live, HeadKey: key, IssuedAt: now, LastUsed: now, Grant: g}
	if p.Absolute > 0 {
		s.Ends = now.Add(p.Absolute)
	}
	s.Ends = earliest(s.Ends, until)
	s.IdleEnds = now.Add(p.CodeTTL)
	return s.note(now, 0, Issued, from)
}

// Deadline returns the moment from which nothing of the family is accepted, under
// the stored ends and the policy of today, whichever is earlier; 0: never. why is
// the reason with which it ends then.
//
// A shortened policy takes effect at once, a lengthened one only at the next
// rotation, because what was announced to the client is kept.
func (s State) Deadline(p Policy) (end Time, why Reason) {
	idle := s.IdleEnds
	if s.Head == 0 {
		idle = earliest(idle, s.IssuedAt.Add(p.CodeTTL))
	} else if p.Idle > 0 {
		idle = earliest(idle, s.LastUsed.Add(p.Idle))
	}
	abs := s.absolute(p)
	if abs != 0 && (idle == 0 || abs <= idle) {
		return abs, ExpiredAbsolute
	}
	if idle != 0 {
		return idle, ExpiredIdle
	}
	return 0, 0
}

// absolute returns the end that no use moves, of the stored one and that of today's
// policy whichever is earlier; 0: never.
func (s State) absolute(p Policy) Time {
	if p.Absolute > 0 {
		return earliest(s.Ends, s.IssuedAt.Add(p.Absolute))
	}
	return s.Ends
}

// Left returns how long the authorization and, without use, its refresh token will
// live from now on: the figures of draft-ietf-oauth-refresh-token-expiration-03.
// Negative means never, and neither is ever more than the other allows.
func (s State) Left(p Policy, now Time) (refresh, authorization time.Duration) {
	refresh, authorization = -1, -1
	if end, _ := s.Deadline(p); end != 0 {
		refresh = max(0, end.Sub(now))
	}
	if abs := s.absolute(p); abs != 0 {
		authorization = max(0, abs.Sub(now))
	}
	return refresh, authorization
}

// Ended says whether nothing of the family is accepted any more at now, and why.
// Revoked comes before expired: the recorded reason wins.
func (s State) Ended(p Policy, now Time) (Reason, bool) {
	if s.Status != Live {
		return s.Reason, true
	}
	if end, why := s.Deadline(p); end != 0 && now >= end {
		return why, true
	}
	return 0, false
}

// Refuses says whether a token is refused at now because its family has ended, and why.
// For a token newer than the head only what is certain counts: that the family was
// revoked, and its absolute end. The token proves that the store lost commits, and with
// them when the family was used last; the idle end that is left is of before, or even
// the code's.
func (s State) Refuses(p Policy, now Time, t Token) (Reason, bool) {
	if t.Generation <= s.Head || s.Status != Live {
		return s.Ended(p, now)
	}
	if end := s.absolute(p); end != 0 && now >= end {
		return ExpiredAbsolute, true
	}
	return 0, false
}

// Revoke ends a living family for a reason; an ended one stays as it is, so that it
// has exactly one reason (I7).
func (s State) Revoke(now Time, why Reason, from Origin) State {
	if s.Status != Live {
		return s
	}
	s = s.note(now, s.Head, why, from)
	s.Status, s.Reason = Revoked, why
	return s
}

// Narrow takes scopes and resources away for good: what remains is what both the
// grant and keep have. It never widens.
func (s State) Narrow(keep Scope) State {
	if s.Status != Live {
		return s
	}
	narrowed := s.Grant.Scope.And(keep)
	if narrowed == s.Grant.Scope {
		return s
	}
	g := *s.Grant
	g.Scope = narrowed
	s.Grant = &g
	return s
}
