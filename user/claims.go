package user

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Claims are the standard claims of OpenID Connect Core §5.1, by their JSON
// names. An empty field is a claim the user does not have and is never released.
// Claims are personal: engines seal them. Two Claims are equal when == says so.
type Claims struct {
	Name                string  `json:"name,omitempty"`
	GivenName           string  `json:"given_name,omitempty"`
	FamilyName          string  `json:"family_name,omitempty"`
	MiddleName          string  `json:"middle_name,omitempty"`
	Nickname            string  `json:"nickname,omitempty"`
	PreferredUsername   string  `json:"preferred_username,omitempty"`
	Profile             string  `json:"profile,omitempty"` // http or https URL, as Picture and Website
	Picture             string  `json:"picture,omitempty"`
	Website             string  `json:"website,omitempty"`
	Gender              string  `json:"gender,omitempty"`
	Birthdate           string  `json:"birthdate,omitempty"` // YYYY-MM-DD, 0000-MM-DD or YYYY
	Zoneinfo            string  `json:"zoneinfo,omitempty"`
	Locale              string  `json:"locale,omitempty"`
	UpdatedAt           int64   `json:"updated_at,omitempty"` // seconds since 1970, UTC
	Email               string  `json:"email,omitempty"`
	EmailVerified       bool    `json:"email_verified,omitempty"` // released, true or false, with Email
	PhoneNumber         string  `json:"phone_number,omitempty"`
	PhoneNumberVerified bool    `json:"phone_number_verified,omitempty"` // released, true or false, with PhoneNumber
	Address             Address `json:"address,omitzero"`
}

// Address is the address claim of OpenID Connect Core §5.1.1. Formatted and
// StreetAddress may have several lines.
type Address struct {
	Formatted     string `json:"formatted,omitempty"`
	StreetAddress string `json:"street_address,omitempty"`
	Locality      string `json:"locality,omitempty"`
	Region        string `json:"region,omitempty"`
	PostalCode    string `json:"postal_code,omitempty"`
	Country       string `json:"country,omitempty"`
}

// ScopeClaims returns the names of the claims that a scope releases (OpenID
// Connect Core §5.4), nil for every other scope. The caller may keep and change
// the slice.
func ScopeClaims(scope string) []string {
	switch scope {
	case "profile":
		return []string{
			"name", "family_name", "given_name", "middle_name", "nickname",
			"preferred_username", "profile", "picture", "website", "gender",
			"birthdate", "zoneinfo", "locale", "updated_at",
		}
	case "email":
		return []string{"email", "email_verified"}
	case "address":
		return []string{"address"}
	case "phone":
		return []string{"phone_number", "phone_number_verified"}
	}
	return nil
}

// ClaimNames returns the names of all claims that ByName knows, for the
// claims_supported of the metadata document.
func ClaimNames() []string {
	var names []string
	for _, s := range []string{"profile", "email", "address", "phone"} {
		names = append(names, ScopeClaims(s)...)
	}
	return names
}

// ForScope returns the claims that the given scopes release and the user has,
// ready to be encoded as JSON members. It is never nil.
func (c Claims) ForScope(scopes ...string) map[string]any {
	m := make(map[string]any)
	for _, s := range scopes {
		for _, name := range ScopeClaims(s) {
			if v, ok := c.ByName(name); ok {
				m[name] = v
			}
		}
	}
	return m
}

// ByName picks one claim for the `claims` request parameter (OpenID Connect Core
// §5.5). It is false when the user has no such claim or nobody knows the name: a
// claim that can not be given is left out, never null (§5.3.2). Names with a
// language tag ("name#de") are not known.
func (c Claims) ByName(name string) (any, bool) {
	switch name {
	case "email_verified":
		return c.EmailVerified, c.Email != ""
	case "phone_number_verified":
		return c.PhoneNumberVerified, c.PhoneNumber != ""
	case "updated_at":
		return c.UpdatedAt, c.UpdatedAt != 0
	case "address":
		return c.Address, c.Address != Address{}
	}
	for _, t := range c.texts() {
		if t.name == name {
			return t.value, t.value != ""
		}
	}
	return nil, false
}

type text struct{ name, value string }

func (c Claims) texts() []text {
	return []text{
		{"name", c.Name},
		{"given_name", c.GivenName},
		{"family_name", c.FamilyName},
		{"middle_name", c.MiddleName},
		{"nickname", c.Nickname},
		{"preferred_username", c.PreferredUsername},
		{"profile", c.Profile},
		{"picture", c.Picture},
		{"website", c.Website},
		{"gender", c.Gender},
		{"birthdate", c.Birthdate},
		{"zoneinfo", c.Zoneinfo},
		{"locale", c.Locale},
		{"email", c.Email},
		{"phone_number", c.PhoneNumber},
	}
}

func (a Address) texts() []text {
	return []text{
		{"address.formatted", a.Formatted},
		{"address.street_address", a.StreetAddress},
		{"address.locality", a.Locality},
		{"address.region", a.Region},
		{"address.postal_code", a.PostalCode},
		{"address.country", a.Country},
	}
}

// MaxClaim is the longest text of one claim, in bytes.
const MaxClaim = 2048

var birthdate = regexp.MustCompile(`^\d{4}(-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))?$`)

// Check tells what is wrong with claims that are about to be stored.
func (c Claims) Check() error {
	for _, t := range append(c.texts(), c.Address.texts()...) {
		lines := t.name == "address.formatted" || t.name == "address.street_address"
		if err := t.check(lines); err != nil {
			return err
		}
	}
	for _, t := range []text{{"profile", c.Profile}, {"picture", c.Picture}, {"website", c.Website}} {
		if t.value == "" {
			continue
		}
		// Clients put these into href and src: javascript: must not get there.
		u, err := url.Parse(t.value)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
			return fmt.Errorf("claim %s: want an http or https URL", t.name)
		}
	}
	if c.Email != "" {
		local, domain, ok := cutLast(c.Email, "@")
		if !ok || local == "" || domain == "" || strings.ContainsAny(c.Email, " \t") {
			return fmt.Errorf("claim email: want name@domain")
		}
	}
	if c.Birthdate != "" && !birthdate.MatchString(c.Birthdate) {
		return fmt.Errorf("claim birthdate: want YYYY-MM-DD, 0000-MM-DD or YYYY")
	}
	if c.UpdatedAt < 0 {
		return fmt.Errorf("claim updated_at: %d is before 1970", c.UpdatedAt)
	}
	if c.EmailVerified && c.Email == "" {
		return fmt.Errorf("claim email_verified: there is no email")
	}
	if c.PhoneNumberVerified && c.PhoneNumber == "" {
		return fmt.Errorf("claim phone_number_verified: there is no phone_number")
	}
	return nil
}

func (t text) check(lines bool) error {
	if len(t.value) > MaxClaim {
		return fmt.Errorf("claim %s: %d bytes, at most %d are allowed", t.name, len(t.value), MaxClaim)
	}
	if !utf8.ValidString(t.value) {
		return fmt.Errorf("claim %s: not valid UTF-8", t.name)
	}
	for _, r := range t.value {
		if lines && (r == '\n' || r == '\r') {
			continue
		}
		if unicode.IsControl(r) {
			return fmt.Errorf("claim %s: contains the control character U+%04X", t.name, r)
		}
	}
	return nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
