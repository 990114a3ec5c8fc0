// Package user is what the server knows of a person: the name, the password's
// hash, the claims and the cut-off before which everything is dead. It also
// holds the rules for passwords and for guessing them.
//
// It reads no clock: time comes in as an argument. It does not know HTTP, SQL,
// cookies, clients or families; who signs in where is decided elsewhere.
package user

import (
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ID is the subject identifier (`sub`): "u_" and 26 lower-case base32 characters
// that stand for 16 random bytes. It is given once and never to somebody else,
// and it never equals a client id, because no client id may begin with "u_"
// (RFC 9068 §5: a token's sub must not confuse users with clients).
type ID string

const idPrefix = "u_"

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID writes the identifier for 16 bytes that the caller drew from a
// cryptographic random source.
func NewID(random [16]byte) ID {
	return ID(idPrefix + base32Lower.EncodeToString(random[:]))
}

// ParseID accepts exactly what NewID writes: one spelling for each identifier.
func ParseID(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, idPrefix)
	if !ok || len(rest) != 26 {
		return "", errors.New(`user id: want "u_" and 26 characters`)
	}
	raw, err := base32Lower.DecodeString(rest)
	if err != nil || len(raw) != 16 || NewID([16]byte(raw)) != ID(s) {
		return "", errors.New("user id: not the base32 of 16 bytes (a–z, 2–7)")
	}
	return ID(s), nil
}

// Status says whether a user may sign in and keep what was issued. Zero is no
// status.
type Status uint8

const (
	Enabled  Status = 1
	Disabled Status = 2
)

func (s Status) String() string {
	switch s {
	case Enabled:
		return "enabled"
	case Disabled:
		return "disabled"
	default:
		return fmt.Sprintf("invalid status %d", uint8(s))
	}
}

// User is one person. It is a value: the methods return changed copies and
// leave Version to the engine that stores it. Two Users are equal when == says so.
type User struct {
	ID      ID
	Version uint64 // the engine's; a new user has 0

	Username string // as ParseUsername returns it; unique
	Status   Status
	Password string // PHC string of argon2id; "" means that no password opens this account
	Claims   Claims

	CreatedAt  time.Time
	PasswordAt time.Time // when the password was set; zero without one

	// NotBefore is the cut-off: sessions and families issued at or before it
	// are dead for NotBeforeReason, except those of the session Keep. The zero
	// time cuts nothing off, the zero Keep spares nothing.
	NotBefore       time.Time
	NotBeforeReason string // a reason of DESIGN §9
	Keep            [16]byte
}

// Reasons of DESIGN §9 that a user's cut-off can have.
const (
	ReasonUser           = "revoked_user"            // signed out everywhere by the user
	ReasonAdmin          = "revoked_admin"           // signed out everywhere by an operator
	ReasonPasswordChange = "revoked_password_change" // somebody else may have known the old password
	ReasonReuse          = "reuse"                   // a policy with on_reuse: revoke_user
	ReasonDisabled       = "user_disabled"
)

func cutOffReason(s string) bool {
	switch s {
	case ReasonUser, ReasonAdmin, ReasonPasswordChange, ReasonReuse, ReasonDisabled:
		return true
	}
	return false
}

// Origin says where a session or family comes from: its session and when it was
// issued. For a session these are its own id and creation time.
type Origin struct {
	Session [16]byte // zero when there was no session
	Issued  time.Time
}

// Dead tells whether what came from o is dead because of the user, and for
// which reason. A disabled user's things are all dead.
func (u User) Dead(o Origin) (reason string, dead bool) {
	if u.Status != Enabled {
		return ReasonDisabled, true
	}
	if u.NotBefore.IsZero() || o.Issued.After(u.NotBefore) {
		return "", false
	}
	if u.Keep != [16]byte{} && o.Session == u.Keep {
		return "", false
	}
	return u.NotBeforeReason, true
}

// CutOff ends everything issued at or before now, except what belongs to the
// session keep (the zero Origin keeps nothing). A session that an earlier
// cut-off has already ended is not kept: two password changes that race must
// not bring the loser's session back to life. The cut-off never moves back when
// the clock does.
func (u User) CutOff(now time.Time, reason string, keep Origin) User {
	if _, dead := u.Dead(keep); dead {
		keep = Origin{}
	}
	if now.After(u.NotBefore) {
		u.NotBefore = now
	}
	u.NotBeforeReason = reason
	u.Keep = keep.Session
	return u
}

// WithPassword sets a new password hash and cuts off everything else: whoever
// knew the old password may have signed in with it (RFC 9700 §4.14.2). keep is
// the session that made the change when it asks to stay, and zero otherwise.
func (u User) WithPassword(phc string, now time.Time, keep Origin) User {
	u.Password = phc
	u.PasswordAt = now
	return u.CutOff(now, ReasonPasswordChange, keep)
}

// Rehashed replaces the hash of an unchanged password, after a sign-in with
// outdated parameters. Nothing is cut off and PasswordAt stays.
func (u User) Rehashed(phc string) User {
	u.Password = phc
	return u
}

// Disable ends everything the user has and lets nothing new begin. What was
// issued before stays dead when the user is enabled again.
func (u User) Disable(now time.Time) User {
	u = u.CutOff(now, ReasonDisabled, Origin{})
	u.Status = Disabled
	return u
}

// Enable lets a disabled user sign in again.
func (u User) Enable() User {
	u.Status = Enabled
	return u
}

// Check tells what is wrong with a user that is about to be stored.
func (u User) Check() error {
	if _, err := ParseID(string(u.ID)); err != nil {
		return err
	}
	name, err := ParseUsername(u.Username)
	if err != nil {
		return err
	}
	if name != u.Username {
		return fmt.Errorf("username %q: not normalised, ParseUsername says %q", u.Username, name)
	}
	if u.Status != Enabled && u.Status != Disabled {
		return fmt.Errorf("user %s: %s: want enabled or disabled", u.ID, u.Status)
	}
	if u.Password != "" {
		if _, err := parsePHC(u.Password); err != nil {
			return fmt.Errorf("user %s: %w", u.ID, err)
		}
		if u.PasswordAt.IsZero() {
			return fmt.Errorf("user %s: a password needs the time it was set", u.ID)
		}
	}
	if u.CreatedAt.IsZero() {
		return fmt.Errorf("user %s: CreatedAt is not set", u.ID)
	}
	if u.NotBefore.IsZero() {
		if u.NotBeforeReason != "" || u.Keep != [16]byte{} {
			return fmt.Errorf("user %s: a reason or a kept session needs a cut-off time", u.ID)
		}
	} else if !cutOffReason(u.NotBeforeReason) {
		return fmt.Errorf("user %s: cut-off reason %q is not one of a user's", u.ID, u.NotBeforeReason)
	}
	if err := u.Claims.Check(); err != nil {
		return fmt.Errorf("user %s: %w", u.ID, err)
	}
	return nil
}

// MaxUsername is the longest username, in characters.
const MaxUsername = 128

// ParseUsername returns the one spelling under which a name is stored and
// looked up: lower case, character by character and the same in every language
// (Unicode's simple mapping, so İ becomes i and ß stays ß).
//
// It repairs nothing else. Spaces, control and invisible characters are refused
// rather than trimmed, because a name that looks like another one is an attack
// or a slip of the paste. So are combining marks and the other characters that
// Unicode's canonical composition (NFC) would change: é typed as one character
// and é typed as e and an accent would be two users who look the same, and the
// standard library can not compose them. Scripts that can not be written
// without combining marks need another sign-in name, such as an email address.
func ParseUsername(s string) (string, error) {
	if s == "" {
		return "", errors.New("username is empty")
	}
	if !utf8.ValidString(s) {
		return "", errors.New("username is not valid UTF-8")
	}
	if n := utf8.RuneCountInString(s); n > MaxUsername {
		return "", fmt.Errorf("username has %d characters: at most %d are allowed", n, MaxUsername)
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case unicode.IsSpace(r) || unicode.Is(unicode.Z, r):
			return "", errors.New("username contains a space: remove it")
		case unicode.Is(unicode.M, r):
			return "", fmt.Errorf("username contains the combining mark U+%04X: write the letter and its accent as one character", r)
		case !unicode.IsGraphic(r):
			return "", fmt.Errorf("username contains the invisible character U+%04X: remove it", r)
		}
		r = unicode.ToLower(r)
		if unicode.Is(notComposed, r) {
			return "", fmt.Errorf("username contains U+%04X, which Unicode writes in another way: use the usual character", r)
		}
		b.WriteRune(r)
	}
	return b.String(), nil
}
