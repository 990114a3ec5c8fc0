package user

import (
	"slices"
	"time"
)

// Consent is what a user has allowed one client to ask for without being asked
// again. There is at most one for each user and client; a wider one replaces it.
type Consent struct {
	User      ID
	Client    string    // client_id
	Scope     string    // canonical: words sorted, each once, one space between
	Resources []string  // resource servers (RFC 8707) that were agreed to; order and repetition mean nothing
	GrantedAt time.Time // when the user agreed to this whole set
}

// Equal reports whether two consents say the same.
func (c Consent) Equal(o Consent) bool {
	return c.User == o.User && c.Client == o.Client && c.Scope == o.Scope &&
		slices.Equal(c.Resources, o.Resources) && c.GrantedAt.Equal(o.GrantedAt)
}
