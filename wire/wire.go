// Package wire is the shapes that travel between Heirloom, its clients and its
// resource servers: JSON bodies, JWT claims, header and parameter grammars. Both ends
// share it, so it has the standard library only and knows no server, store or key.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
)

// The types in the `typ` header of the JWTs that Heirloom signs (RFC 9068 §2.1,
// OpenID Connect Core §2).
const (
	TypeAccessToken = "at+jwt"
	TypeIDToken     = "JWT"
	TypeStatusList  = "statuslist+jwt" // draft-ietf-oauth-status-list §5.1
)

// TokenResponse is a successful answer of the token endpoint (RFC 6749 §5.1).
type TokenResponse struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	Scope        string `json:"scope,omitempty"`
	// RefreshTokenTimeout and AuthorizationExpiresIn are in seconds; nil means that
	// there is no such end (draft-ietf-oauth-refresh-token-expiration-03 §6.1).
	RefreshTokenTimeout    *int64 `json:"refresh_token_timeout,omitempty"`
	AuthorizationExpiresIn *int64 `json:"authorization_expires_in,omitempty"`
}

// Error is the body of an OAuth error answer (RFC 6749 §5.2).
type Error struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// AccessToken is the claims of a JWT access token (RFC 9068 §2.2).
type AccessToken struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience Audience `json:"aud"`
	Expires  int64    `json:"exp"`
	IssuedAt int64    `json:"iat"`
	ID       string   `json:"jti"`
	ClientID string   `json:"client_id"`
	Scope    string   `json:"scope,omitempty"`
	Family   string   `json:"fam,omitempty"` // the refresh-token family it dies with
	Session  string   `json:"sid,omitempty"` // the sign-in it came from
	AuthTime int64    `json:"auth_time,omitempty"`
	ACR      string   `json:"acr,omitempty"`
	AMR      []string `json:"amr,omitempty"`
	Status   *Status  `json:"status,omitempty"`
}

// Status is the `status` claim: where a Token Status List tells whether the token
// still counts (draft-ietf-oauth-status-list §6).
type Status struct {
	List StatusReference `json:"status_list"`
}

// StatusReference is a place in a status list.
type StatusReference struct {
	Index uint64 `json:"idx"`
	URI   string `json:"uri"`
}

// StatusListToken is the claims of a status list in its JWT form (§5.1).
type StatusListToken struct {
	Subject  string     `json:"sub"` // the list's own URI
	IssuedAt int64      `json:"iat"`
	Expires  int64      `json:"exp"`
	TTL      int64      `json:"ttl"` // seconds
	List     StatusList `json:"status_list"`
}

// StatusList is the statuses themselves: zlib, base64url, least significant bit first.
type StatusList struct {
	Bits int    `json:"bits"`
	List string `json:"lst"`
}

// The statuses of §7.1.
const (
	StatusValid     = 0
	StatusInvalid   = 1
	StatusSuspended = 2
)

// Audience is one or several audiences. One is written as a string, as RFC 7519
// §4.1.3 allows; both forms are read.
type Audience []string

// MarshalJSON implements json.Marshaler.
func (a Audience) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]string(a))
}

// UnmarshalJSON implements json.Unmarshaler.
func (a *Audience) UnmarshalJSON(b []byte) error {
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		*a = Audience{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil {
		return errors.New("aud is neither a string nor a list of strings")
	}
	*a = many
	return nil
}

// Introspection is the answer of the introspection endpoint (RFC 7662 §2.2).
type Introspection struct {
	Active    bool     `json:"active"`
	Issuer    string   `json:"iss,omitempty"`
	Subject   string   `json:"sub,omitempty"`
	Audience  Audience `json:"aud,omitempty"`
	Expires   int64    `json:"exp,omitempty"`
	IssuedAt  int64    `json:"iat,omitempty"`
	ID        string   `json:"jti,omitempty"`
	ClientID  string   `json:"client_id,omitempty"`
	Username  string   `json:"username,omitempty"`
	Scope     string   `json:"scope,omitempty"`
	TokenType string   `json:"token_type,omitempty"`
	Family    string   `json:"fam,omitempty"`
	Session   string   `json:"sid,omitempty"`
	AuthTime  int64    `json:"auth_time,omitempty"`
	ACR       string   `json:"acr,omitempty"`
	AMR       []string `json:"amr,omitempty"`

	RefreshTokenTimeout    *int64 `json:"refresh_token_timeout,omitempty"`
	AuthorizationExpiresIn *int64 `json:"authorization_expires_in,omitempty"`
}

// MaxRetryKey bounds an Idempotency-Key, in bytes.
const MaxRetryKey = 255

// RetryKey reads an Idempotency-Key header value: 1 to MaxRetryKey printable ASCII
// characters, bare or as a quoted string of RFC 8941 §3.3.3; both forms of one key
// are equal.
func RetryKey(value string) (string, error) {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		var plain []byte
		for i := 1; i < len(value)-1; i++ {
			c := value[i]
			if c == '"' {
				return "", errors.New("Idempotency-Key has a quote inside: write it as \\\"")
			}
			if c == '\\' {
				i++
				if i == len(value)-1 || value[i] != '"' && value[i] != '\\' {
					return "", errors.New("Idempotency-Key has a backslash that escapes nothing")
				}
				c = value[i]
			}
			plain = append(plain, c)
		}
		value = string(plain)
	}
	if len(value) == 0 || len(value) > MaxRetryKey {
		return "", fmt.Errorf("Idempotency-Key has %d characters: 1 to %d are allowed", len(value), MaxRetryKey)
	}
	for i := range len(value) {
		if value[i] < 0x20 || value[i] > 0x7e {
			return "", errors.New("Idempotency-Key has a character that is not printable ASCII")
		}
	}
	return value, nil
}
