package family

import "fmt"

// Reason says why something happened to a family. The list is closed: audit events,
// metric labels, the command line, pages and documents use these words and no
// others. The zero Reason is not a reason.
type Reason uint8

// The reasons. Their words are in the table below and in docs/reasons.md.
const (
	_ Reason = iota
	Issued
	Rotated
	RepeatedRetry
	RepeatedPossession
	RepeatedWindow
	RepeatedUntilUsed
	Recovered
	Reused
	Superseded
	ExpiredIdle
	ExpiredAbsolute
	RevokedClient
	RevokedUser
	RevokedAdmin
	RevokedLogout
	RevokedPasswordChange
	UserDisabled
	ClientDisabled
	Evicted
	BindingMismatch
	ForeignClient
	InvalidScope
	InvalidTarget
	Unknown
	Unavailable
	reasons // one past the last
)

var words = [reasons]string{
	Issued:                "issued",
	Rotated:               "rotated",
	RepeatedRetry:         "repeated_retry",
	RepeatedPossession:    "repeated_possession",
	RepeatedWindow:        "repeated_window",
	RepeatedUntilUsed:     "repeated_until_used",
	Recovered:             "recovered",
	Reused:                "reuse",
	Superseded:            "superseded",
	ExpiredIdle:           "expired_idle",
	ExpiredAbsolute:       "expired_absolute",
	RevokedClient:         "revoked_client",
	RevokedUser:           "revoked_user",
	RevokedAdmin:          "revoked_admin",
	RevokedLogout:         "revoked_logout",
	RevokedPasswordChange: "revoked_password_change",
	UserDisabled:          "user_disabled",
	ClientDisabled:        "client_disabled",
	Evicted:               "evicted",
	BindingMismatch:       "binding_mismatch",
	ForeignClient:         "foreign_client",
	InvalidScope:          "invalid_scope",
	InvalidTarget:         "invalid_target",
	Unknown:               "unknown",
	Unavailable:           "unavailable",
}

// String returns the reason's word, or "reason(n)" for what is none.
func (r Reason) String() string {
	if r == 0 || r >= reasons {
		return fmt.Sprintf("reason(%d)", uint8(r))
	}
	return words[r]
}

// Valid reports whether r is one of the list.
func (r Reason) Valid() bool { return r > 0 && r < reasons }

// Reasons returns the whole list, in order.
func Reasons() []Reason {
	all := make([]Reason, 0, reasons-1)
	for r := Reason(1); r < reasons; r++ {
		all = append(all, r)
	}
	return all
}

// ParseReason reads a reason's word.
func ParseReason(word string) (Reason, error) {
	for r := Reason(1); r < reasons; r++ {
		if words[r] == word {
			return r, nil
		}
	}
	return 0, fmt.Errorf("reason %q is not one of the list", word)
}

// MarshalText implements encoding.TextMarshaler; the zero Reason is empty.
func (r Reason) MarshalText() ([]byte, error) {
	if r == 0 {
		return nil, nil
	}
	return []byte(r.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Reason) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*r = 0
		return nil
	}
	*r, err = ParseReason(string(text))
	return err
}
