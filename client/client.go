// Package client is a registered OAuth client: what it is, where it may be answered,
// what it may ask for, how it proves itself. It does no I/O and does not know HTTP,
// SQL, families or users.
package client

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status says whether a client may be served. The zero Status is invalid.
type Status uint8

// The states of a client.
const (
	_ Status = iota
	Enabled
	Disabled
)

// Auth is how a client authenticates (RFC 7591 §2, token_endpoint_auth_method). The
// zero Auth is invalid.
type Auth uint8

// The ways to authenticate. None makes a client public; a client that is not public
// may send its secret either way (RFC 6749 §2.3.1).
const (
	_      Auth = iota
	None        // "none": public
	Secret      // "client_secret_basic" or "client_secret_post"
)

// Grant types that a client may use.
const (
	AuthorizationCode = "authorization_code"
	RefreshToken      = "refresh_token"
	ClientCredentials = "client_credentials"
)

// Client is one registered client. Values are not changed in place once stored.
type Client struct {
	ID      string
	Version uint64 // of the stored row; 0: not stored yet
	Name    string // shown to users
	Status  Status
	Auth    Auth
	// FirstParty clients belong to the operator: their users are not asked for consent.
	FirstParty bool
	Secrets    []Hash // at most two, so that a new one can be deployed before the old one goes

	RedirectURIs           []string // exact; those of loopback hosts match any port (RFC 8252 §7.3)
	PostLogoutRedirectURIs []string // exact, the port of loopback hosts included
	GrantTypes             []string
	Scopes                 []string // what it may ask for
	Audience               []string // of its access tokens when it asks for no resource; empty: the issuer
	Resources              []string // what it may ask for as `resource` (RFC 8707), besides Audience
	Introspects            []string // audiences whose tokens it may introspect: it is their resource server

	Preset string            // of its families' policy
	Policy map[string]string // fields set on top of the preset, as family.PolicyOf reads them

	// WithoutPKCE accepts authorization requests that have no code_challenge. It is for
	// confidential OpenID clients that do not know RFC 7636 yet; a challenge that is sent
	// is checked all the same.
	WithoutPKCE bool

	IDTokenAlg         string // "" = ES256
	NoIDTokenOnRefresh bool

	// NotBefore is the cut-off: every family of the client issued at or before it is
	// dead. Zero: none.
	NotBefore       time.Time
	NotBeforeReason string // the word of a reason

	FromConfig bool // kept in step with the configuration file; commands do not change it
	CreatedAt  time.Time
}

// Hash is a stored client secret. Generated secrets have 256 random bits, so a plain
// SHA-256 is enough and costs the hot path nothing.
type Hash struct {
	Sum       [32]byte
	CreatedAt time.Time
	Expires   time.Time // zero: never
}

// SecretPrefix lets secret scanners find leaked client secrets.
const SecretPrefix = "hcs_"

// MinSecret is the shortest secret in bytes that an operator may choose.
const MinSecret = 32

// NewSecret makes a secret of 32 random bytes. The text is shown once; the Hash is kept.
func NewSecret(random [32]byte, now time.Time) (text string, h Hash) {
	text = SecretPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	return text, HashSecret(text, now)
}

// HashSecret digests a secret that has enough entropy of its own.
func HashSecret(text string, now time.Time) Hash {
	return Hash{Sum: sha256.Sum256([]byte(text)), CreatedAt: now}
}

// Proves reports whether the text is one of the client's secrets at now. It takes the
// same time whichever it is, also for clients that have none.
func (c Client) Proves(text string, now time.Time) bool {
	sum := sha256.Sum256([]byte(text))
	found := 0
	for i := range 2 {
		var h Hash
		if i < len(c.Secrets) {
			h = c.Secrets[i]
		}
		same := subtle.ConstantTimeCompare(sum[:], h.Sum[:])
		if h.CreatedAt.IsZero() || (!h.Expires.IsZero() && !now.Before(h.Expires)) {
			same = 0
		}
		found |= same
	}
	return found == 1
}

// Confidential reports whether the client authenticates itself in a way that counts.
// A native or browser app that was given a secret all the same is public (RFC 8252
// §8.5, RFC 10017 §6.3.3.1): everybody who has the app has the secret.
func (c Client) Confidential() bool {
	return c.Auth == Secret && c.Preset != "native" && c.Preset != "browser"
}

// May reports whether the client may use a grant type.
func (c Client) May(grantType string) bool { return slices.Contains(c.GrantTypes, grantType) }

// Redirects reports whether the client may be answered at the URI: exactly as it was
// registered, but for the port of loopback hosts.
func (c Client) Redirects(uri string) bool {
	return slices.ContainsFunc(c.RedirectURIs, func(reg string) bool { return matches(reg, uri) })
}

// ReturnsFromLogout reports whether the user may be sent to the URI after sign-out: only
// exactly as it was registered (OpenID Connect RP-Initiated Logout 1.0 §3).
func (c Client) ReturnsFromLogout(uri string) bool {
	return slices.Contains(c.PostLogoutRedirectURIs, uri)
}

// Check refuses a client that makes no sense. The error names the field.
func (c Client) Check() error {
	if err := checkID(c.ID); err != nil {
		return fmt.Errorf("client_id: %w", err)
	}
	switch {
	case c.Status != Enabled && c.Status != Disabled:
		return errors.New("status is not set")
	case c.Auth != None && c.Auth != Secret:
		return errors.New(`auth is not set: write "none" for a public client or "secret"`)
	case c.Auth == Secret && len(c.Secrets) == 0:
		return errors.New("secret: a client that authenticates needs one")
	case c.Auth == None && len(c.Secrets) > 0:
		return errors.New(`secret: a client with auth "none" has none`)
	case c.WithoutPKCE && !c.Confidential():
		return errors.New("without_pkce: a public client must use PKCE (RFC 9700 §2.1.1)")
	case c.Auth == Secret && c.Preset == "browser":
		return errors.New(`auth: a browser app can not keep a secret (RFC 10017 §6.3.3.1); write "none"`)
	case len(c.Secrets) > 2:
		return errors.New("secret: at most two are valid at a time; remove the oldest first")
	case len(c.GrantTypes) == 0:
		return errors.New("grant_types is empty: write which the client may use")
	case c.May(ClientCredentials) && !c.Confidential():
		return errors.New("grant_types: client_credentials needs a confidential client; the secret of a native app is no secret (RFC 6749 §4.4, RFC 8252 §8.5)")
	case c.May(RefreshToken) && !c.May(AuthorizationCode):
		return errors.New("grant_types: refresh_token needs authorization_code")
	case c.May(AuthorizationCode) && len(c.RedirectURIs) == 0:
		return errors.New("redirect_uris is empty: write where the code may be sent")
	}
	for _, g := range c.GrantTypes {
		if g != AuthorizationCode && g != RefreshToken && g != ClientCredentials {
			return fmt.Errorf("grant_types: %q is not known: write authorization_code, refresh_token or client_credentials", g)
		}
	}
	for _, u := range c.RedirectURIs {
		if err := CheckRedirect(u); err != nil {
			return fmt.Errorf("redirect_uris: %w", err)
		}
	}
	for _, u := range c.PostLogoutRedirectURIs {
		if err := CheckRedirect(u); err != nil {
			return fmt.Errorf("post_logout_redirect_uris: %w", err)
		}
	}
	for _, set := range [][]string{c.Audience, c.Resources, c.Introspects} {
		for _, r := range set {
			if err := CheckResource(r); err != nil {
				return fmt.Errorf("resource %q: %w", r, err)
			}
		}
	}
	switch c.IDTokenAlg {
	case "", "ES256", "RS256", "PS256", "EdDSA":
	default:
		return fmt.Errorf("id_token_alg is %q: write ES256, RS256, PS256 or EdDSA", c.IDTokenAlg)
	}
	return nil
}

// checkID bounds client ids: printable, no spaces, and never shaped like a user's id
// (RFC 9068 §5: a client must not be able to take a user's sub).
func checkID(id string) error {
	if id == "" || len(id) > 128 {
		return fmt.Errorf("has %d bytes: write 1 to 128", len(id))
	}
	for i := range len(id) {
		if c := id[i]; c <= 0x20 || c > 0x7e {
			return fmt.Errorf("has a character at place %d that is not printable ASCII", i+1)
		}
	}
	if strings.HasPrefix(id, "u_") {
		return errors.New(`begins with "u_", which is for users; take another`)
	}
	return nil
}
