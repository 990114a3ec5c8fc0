package user

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func full() Claims {
	return Claims{
		Name: "Ada Lovelace", GivenName: "Ada", FamilyName: "Lovelace", MiddleName: "King", Nickname: "ada",
		PreferredUsername: "ada", Profile: "https://ada.example/", Picture: "https://ada.example/a.png",
		Website: "http://ada.example/", Gender: "female", Birthdate: "1815-12-10", Zoneinfo: "Europe/London",
		Locale: "en-GB", UpdatedAt: 1700000000, Email: "ada@example.com", EmailVerified: true,
		PhoneNumber: "+44 1", PhoneNumberVerified: true,
		Address: Address{Formatted: "1 Street\r\nLondon", StreetAddress: "1 Street", Locality: "London", Region: "L", PostalCode: "1", Country: "UK"},
	}
}

// The names of OpenID Connect Core §5.1, written down once more on purpose.
const standardClaims = "name family_name given_name middle_name nickname preferred_username profile picture website " +
	"gender birthdate zoneinfo locale updated_at email email_verified address phone_number phone_number_verified"

func TestOIDC05_ClaimsHaveTheirStandardNames(t *testing.T) {
	raw, err := json.Marshal(full())
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(standardClaims) {
		v, ok := full().ByName(name)
		if !ok {
			t.Errorf("ByName(%q): not known", name)
		}
		asJSON, _ := json.Marshal(v)
		var got any
		if err := json.Unmarshal(asJSON, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, m[name]) {
			t.Errorf("ByName(%q) = %v, stored as %v", name, got, m[name])
		}
		delete(m, name)
	}
	if len(m) != 0 {
		t.Errorf("claims that no name reaches: %v", m)
	}
	names := ClaimNames()
	slices.Sort(names)
	want := strings.Fields(standardClaims)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("ClaimNames() = %v, want %v", names, want)
	}
}

func TestOIDC05_ScopesReleaseTheirClaimsAndNoOthers(t *testing.T) {
	all := strings.Fields(standardClaims)
	for _, c := range []struct {
		scopes []string
		want   []string
	}{
		{[]string{"openid"}, nil},
		{nil, nil},
		{[]string{"Profile"}, nil},
		{[]string{"profile"}, all[:14]},
		{[]string{"openid", "email"}, []string{"email", "email_verified"}},
		{[]string{"address"}, []string{"address"}},
		{[]string{"phone"}, []string{"phone_number", "phone_number_verified"}},
		{[]string{"profile", "email", "address", "phone", "offline_access"}, all},
	} {
		m := full().ForScope(c.scopes...)
		if len(m) != len(c.want) || m == nil {
			t.Errorf("ForScope(%v) has %d claims, want %d: %v", c.scopes, len(m), len(c.want), m)
		}
		for _, name := range c.want {
			if _, ok := m[name]; !ok {
				t.Errorf("ForScope(%v): %s is missing", c.scopes, name)
			}
		}
	}
}

func TestOIDC05_ClaimsWithoutAValueAreLeftOut(t *testing.T) {
	if m := (Claims{}).ForScope("profile", "email", "address", "phone"); len(m) != 0 {
		t.Errorf("an empty user releases %v", m)
	}
	m := Claims{Email: "ada@example.com"}.ForScope("email")
	if v, ok := m["email_verified"]; !ok || v != false {
		t.Errorf("email_verified = %v, %t: an address that is not verified must say so", v, ok)
	}
	for _, name := range []string{"", "sub", "name#de", "Name", "address.country", "extra"} {
		if v, ok := full().ByName(name); ok {
			t.Errorf("ByName(%q) = %v", name, v)
		}
	}
	raw, err := json.Marshal(Claims{})
	if err != nil || string(raw) != "{}" {
		t.Errorf("empty claims are stored as %s, %v", raw, err)
	}
}

func TestClaimsSurviveStorage(t *testing.T) {
	raw, err := json.Marshal(full())
	if err != nil {
		t.Fatal(err)
	}
	var got Claims
	if err := json.Unmarshal(raw, &got); err != nil || got != full() {
		t.Errorf("stored and read: %+v, %v", got, err)
	}
}

func TestClaimsCheck(t *testing.T) {
	if err := full().Check(); err != nil {
		t.Errorf("good claims: %v", err)
	}
	if err := (Claims{}).Check(); err != nil {
		t.Errorf("no claims: %v", err)
	}
	for _, c := range []struct {
		says   string
		claims Claims
	}{
		{"claim profile", Claims{Profile: "javascript:alert(1)"}},
		{"claim picture", Claims{Picture: "data:image/png;base64,x"}},
		{"claim website", Claims{Website: "//example.com"}},
		{"claim email", Claims{Email: "ada"}},
		{"claim email", Claims{Email: "@example.com"}},
		{"claim email", Claims{Email: "ada @example.com"}},
		{"claim birthdate", Claims{Birthdate: "10.12.1815"}},
		{"claim birthdate", Claims{Birthdate: "1815-13-10"}},
		{"claim updated_at", Claims{UpdatedAt: -1}},
		{"claim name", Claims{Name: "a\nb"}},
		{"claim name", Claims{Name: "a\x00"}},
		{"claim name", Claims{Name: "\xff"}},
		{"claim name", Claims{Name: strings.Repeat("a", MaxClaim+1)}},
		{"claim address.country", Claims{Address: Address{Country: "U\nK"}}},
		{"claim email_verified", Claims{EmailVerified: true}},
		{"claim phone_number_verified", Claims{PhoneNumberVerified: true}},
	} {
		if err := c.claims.Check(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Check(%+v) = %v, want an error that says %q", c.claims, err, c.says)
		}
	}
	if err := (Claims{Birthdate: "0000-12-10"}).Check(); err != nil {
		t.Errorf("birthdate without a year: %v", err)
	}
}
