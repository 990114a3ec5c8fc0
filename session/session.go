// Package session is one sign-in of one user in one browser: its cookie, its
// life and how it is shown to its owner.
//
// It reads no clock and draws no randomness: both come in as arguments. It does
// not know HTTP, SQL, passwords, clients or families. Whether the user's
// cut-off has ended a session is the user's to say.
package session

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// ID names a session. It is public (the `sid` claim) and proves nothing.
type ID [16]byte

// String writes 32 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID accepts exactly what String writes.
func ParseID(s string) (ID, error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(ID{}) || hex.EncodeToString(raw) != s {
		return ID{}, errors.New("session id: want 32 lower-case hexadecimal digits")
	}
	return ID(raw), nil
}

// Status says whether a session was ended. Zero is no status.
type Status uint8

const (
	Live  Status = 1
	Ended Status = 2
)

func (s Status) String() string {
	switch s {
	case Live:
		return "live"
	case Ended:
		return "ended"
	default:
		return fmt.Sprintf("invalid status %d", uint8(s))
	}
}

// Session is one sign-in. It is a value: the methods return changed copies and
// leave Version to the engine that stores it.
type Session struct {
	ID      ID
	Version uint64 // the engine's; a new session has 0
	User    string // the user's id

	Status Status
	Reason string // why it ended, a word of DESIGN §9; "" while it lives

	CreatedAt time.Time
	AuthTime  time.Time // when the user last proved who they are (`auth_time`)
	LastSeen  time.Time // moves in steps of SeenStep
	Ends      time.Time // absolute; at this time and after it the session is over
	EndedAt   time.Time // zero while it lives

	ACR string
	AMR []string // RFC 8176

	SecretHash [32]byte // SHA-256 of the cookie's secret

	// Personal: engines seal these two.
	UserAgent string // at most 512 bytes, valid UTF-8
	IP        string
}

// SignIn is what New needs to know of a sign-in.
type SignIn struct {
	User      string
	Now       time.Time
	Ends      time.Time
	ACR       string
	AMR       []string
	UserAgent string // as sent; New bounds it
	IP        string
}

// New begins a session. random is fresh from a cryptographic source: 16 bytes
// become the id and 32 the cookie's secret, of which the session keeps only a
// digest. The secret has full entropy, so plain SHA-256 is enough.
func New(random [48]byte, s SignIn) (Session, Cookie) {
	id, secret := ID(random[:16]), [32]byte(random[16:])
	return Session{
		ID:         id,
		User:       s.User,
		Status:     Live,
		CreatedAt:  s.Now,
		AuthTime:   s.Now,
		LastSeen:   s.Now,
		Ends:       s.Ends,
		ACR:        s.ACR,
		AMR:        slices.Clone(s.AMR),
		SecretHash: sha256.Sum256(secret[:]),
		UserAgent:  bounded(s.UserAgent),
		IP:         s.IP,
	}, newCookie(id, secret)
}

// Check tells what is wrong with a session that is about to be stored.
func (s Session) Check() error {
	switch {
	case s.ID == ID{}:
		return errors.New("session: the id is not set")
	case s.User == "":
		return fmt.Errorf("session %s: the user is not set", s.ID)
	case s.Status != Live && s.Status != Ended:
		return fmt.Errorf("session %s: %s: want live or ended", s.ID, s.Status)
	case s.Status == Live && (s.Reason != "" || !s.EndedAt.IsZero()):
		return fmt.Errorf("session %s: it is live and has an end", s.ID)
	case s.Status == Ended && (s.Reason == "" || s.EndedAt.IsZero()):
		return fmt.Errorf("session %s: it has ended without a reason or a time", s.ID)
	case s.CreatedAt.IsZero() || s.AuthTime.IsZero() || s.LastSeen.IsZero():
		return fmt.Errorf("session %s: a time is not set", s.ID)
	case !s.Ends.After(s.CreatedAt):
		return fmt.Errorf("session %s: it ends before it begins", s.ID)
	case s.SecretHash == [32]byte{}:
		return fmt.Errorf("session %s: the secret's hash is not set", s.ID)
	case len(s.UserAgent) > maxUserAgent || !utf8.ValidString(s.UserAgent):
		return fmt.Errorf("session %s: the user agent is too long or not UTF-8", s.ID)
	}
	return nil
}

// Alive says whether the session counts at the given time: not ended and not
// yet at its end. Ask the user's cut-off too.
func (s Session) Alive(now time.Time) bool {
	return s.Status == Live && now.Before(s.Ends)
}

// Proves says, in constant time, whether secret is the one of the session's
// cookie. It is true for an ended session too: its browser may be told why.
func (s Session) Proves(secret [32]byte) bool {
	sum := sha256.Sum256(secret[:])
	return subtle.ConstantTimeCompare(sum[:], s.SecretHash[:]) == 1
}

// End ends a live session for a reason of DESIGN §9. An ended one stays as it
// is: the first reason is the recorded one.
func (s Session) End(now time.Time, reason string) Session {
	if s.Status != Live {
		return s
	}
	s.Status = Ended
	s.Reason = reason
	s.EndedAt = now
	return s
}

// Reauthenticated records that the user proved again who they are, in the
// same browser. The session keeps its id and its end; give it a new cookie by Renewed.
func (s Session) Reauthenticated(now time.Time, acr string, amr []string) Session {
	s.AuthTime = now
	s.ACR = acr
	s.AMR = slices.Clone(amr)
	return s
}

// Renewed gives the session a new secret, 32 bytes fresh from a cryptographic source, and
// returns the cookie that has it. A copy of the old cookie proves nothing any more.
func (s Session) Renewed(secret [32]byte) (Session, Cookie) {
	s.SecretHash = sha256.Sum256(secret[:])
	return s, newCookie(s.ID, secret)
}

// SeenStep is how exactly LastSeen is kept: a page view must not be a write.
const SeenStep = time.Minute

// Seen records that the browser was here. changed is false, and nothing needs
// storing, when that was already known: within SeenStep, from the same address
// and by the same browser.
func (s Session) Seen(now time.Time, userAgent, ip string) (next Session, changed bool) {
	userAgent = bounded(userAgent)
	if now.Sub(s.LastSeen) < SeenStep && ip == s.IP && userAgent == s.UserAgent {
		return s, false
	}
	if now.After(s.LastSeen) {
		s.LastSeen = now
	}
	s.UserAgent, s.IP = userAgent, ip
	return s, true
}

const maxUserAgent = 512

func bounded(userAgent string) string {
	userAgent = strings.ToValidUTF8(userAgent, "\uFFFD")
	if len(userAgent) <= maxUserAgent {
		return userAgent
	}
	n := maxUserAgent
	for !utf8.RuneStart(userAgent[n]) {
		n--
	}
	return userAgent[:n]
}

const cookiePrefix = "hss_"

// Cookie is the secret that a browser keeps: "hss_" and the base64url of id and
// secret. It is shown by Value and by nothing else. The zero Cookie is empty.
type Cookie struct {
	// A pointer: fmt does not call methods on other structs' unexported fields
	// and would print the text itself.
	p *string
}

func newCookie(id ID, secret [32]byte) Cookie {
	v := cookiePrefix + base64.RawURLEncoding.EncodeToString(append(id[:], secret[:]...))
	return Cookie{&v}
}

// Value is the text for the Set-Cookie header, and for nothing else.
func (c Cookie) Value() string {
	if c.p == nil {
		return ""
	}
	return *c.p
}

func (Cookie) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[session cookie]") }
func (Cookie) LogValue() slog.Value       { return slog.StringValue("[session cookie]") }
func (Cookie) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a session cookie is not encoded")
}
func (Cookie) MarshalText() ([]byte, error) {
	return nil, errors.New("a session cookie is not encoded")
}

// ParseCookie accepts exactly the values that New makes, one spelling for each,
// and never repeats them in its error.
func ParseCookie(value string) (ID, [32]byte, error) {
	bad := errors.New("session cookie: not one of ours")
	text, ok := strings.CutPrefix(value, cookiePrefix)
	// The length first: base64 decoders skip line breaks.
	if !ok || len(text) != base64.RawURLEncoding.EncodedLen(48) {
		return ID{}, [32]byte{}, bad
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != 48 {
		return ID{}, [32]byte{}, bad
	}
	return ID(raw[:16]), [32]byte(raw[16:]), nil
}
