package client_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// web is a client that passes its check; each row changes one thing.
func web() client.Client {
	_, h := client.NewSecret([32]byte{1}, now)
	return client.Client{
		ID: "web", Status: client.Enabled, Auth: client.Secret, Secrets: []client.Hash{h},
		RedirectURIs: []string{"https://app.example/cb"}, PostLogoutRedirectURIs: []string{"https://app.example/"},
		GrantTypes: []string{client.AuthorizationCode, client.RefreshToken}, Scopes: []string{"openid"}, Preset: "web",
	}
}

// spa is the same for a public one.
func spa() client.Client {
	c := web()
	c.ID, c.Auth, c.Secrets, c.Preset = "spa", client.None, nil, "browser"
	return c
}

func TestCheckRefusesByName(t *testing.T) {
	three := []client.Hash{client.HashSecret("a", now), client.HashSecret("b", now), client.HashSecret("c", now)}
	for _, c := range []struct {
		name   string
		of     func() client.Client
		change func(*client.Client)
		want   string
	}{
		{"web", web, func(*client.Client) {}, ""},
		{"spa", spa, func(*client.Client) {}, ""},
		{"native", spa, func(c *client.Client) { c.Preset, c.RedirectURIs = "native", []string{"http://127.0.0.1/callback"} }, ""},
		{"8252-05 native with a secret", web, func(c *client.Client) { c.Preset = "native" }, ""},
		{"disabled", web, func(c *client.Client) { c.Status = client.Disabled }, ""},
		{"service", web, func(c *client.Client) { c.GrantTypes, c.RedirectURIs = []string{client.ClientCredentials}, nil }, ""},
		{"code alone", spa, func(c *client.Client) { c.GrantTypes = []string{client.AuthorizationCode} }, ""},
		{"two secrets", web, func(c *client.Client) { c.Secrets = three[:2] }, ""},
		{"id of 128 bytes", web, func(c *client.Client) { c.ID = strings.Repeat("x", 128) }, ""},
		{"resources", web, func(c *client.Client) {
			c.Audience, c.Resources, c.Introspects = []string{"https://a.example"}, []string{"urn:b"}, []string{"urn:c"}
		}, ""},
		{"ES256", web, func(c *client.Client) { c.IDTokenAlg = "ES256" }, ""},
		{"RS256", web, func(c *client.Client) { c.IDTokenAlg = "RS256" }, ""},
		{"PS256", web, func(c *client.Client) { c.IDTokenAlg = "PS256" }, ""},
		{"EdDSA", web, func(c *client.Client) { c.IDTokenAlg = "EdDSA" }, ""},

		{"zero", func() client.Client { return client.Client{} }, func(*client.Client) {}, "client_id: has 0 bytes: write 1 to 128"},
		{"id of 129 bytes", web, func(c *client.Client) { c.ID = strings.Repeat("x", 129) }, "client_id: has 129 bytes: write 1 to 128"},
		{"id with a space", web, func(c *client.Client) { c.ID = "my app" }, "client_id: has a character at place 3 that is not printable ASCII"},
		{"id with NUL", web, func(c *client.Client) { c.ID = "a\x00" }, "client_id: has a character at place 2 that is not printable ASCII"},
		{"id that is not ASCII", web, func(c *client.Client) { c.ID = "é" }, "client_id: has a character at place 1 that is not printable ASCII"},
		{"9700-17 id like a user's", web, func(c *client.Client) { c.ID = "u_1" }, `client_id: begins with "u_", which is for users; take another`},
		{"no status", web, func(c *client.Client) { c.Status = 0 }, "status is not set"},
		{"status beyond the list", web, func(c *client.Client) { c.Status = client.Disabled + 1 }, "status is not set"},
		{"no auth", web, func(c *client.Client) { c.Auth = 0 }, `auth is not set: write "none" for a public client or "secret"`},
		{"auth beyond the list", web, func(c *client.Client) { c.Auth = client.Secret + 1 }, `auth is not set: write "none" for a public client or "secret"`},
		{"no secret", web, func(c *client.Client) { c.Secrets = nil }, "secret: a client that authenticates needs one"},
		{"public with a secret", spa, func(c *client.Client) { c.Secrets = three[:1] }, `secret: a client with auth "none" has none`},
		{"10017-05 browser with a secret", web, func(c *client.Client) { c.Preset = "browser" }, `auth: a browser app can not keep a secret (RFC 10017 §6.3.3.1); write "none"`},
		{"three secrets", web, func(c *client.Client) { c.Secrets = three }, "secret: at most two are valid at a time; remove the oldest first"},
		{"no grant types", web, func(c *client.Client) { c.GrantTypes = nil }, "grant_types is empty: write which the client may use"},
		{"public service", spa, func(c *client.Client) { c.GrantTypes = append(c.GrantTypes, client.ClientCredentials) }, "grant_types: client_credentials needs a confidential client; the secret of a native app is no secret (RFC 6749 §4.4, RFC 8252 §8.5)"},
		{"8252-05 native service with a secret", web, func(c *client.Client) {
			c.Preset, c.GrantTypes = "native", append(c.GrantTypes, client.ClientCredentials)
		}, "grant_types: client_credentials needs a confidential client; the secret of a native app is no secret (RFC 6749 §4.4, RFC 8252 §8.5)"},
		{"refresh alone", web, func(c *client.Client) { c.GrantTypes = []string{client.RefreshToken} }, "grant_types: refresh_token needs authorization_code"},
		{"9700-03 implicit", web, func(c *client.Client) { c.GrantTypes = append(c.GrantTypes, "implicit") }, `grant_types: "implicit" is not known: write authorization_code, refresh_token or client_credentials`},
		{"9700-04 password", web, func(c *client.Client) { c.GrantTypes = append(c.GrantTypes, "password") }, `grant_types: "password" is not known: write authorization_code, refresh_token or client_credentials`},
		{"no redirect", web, func(c *client.Client) { c.RedirectURIs = nil }, "redirect_uris is empty: write where the code may be sent"},
		{"bad redirect", web, func(c *client.Client) { c.RedirectURIs = append(c.RedirectURIs, "http://app.example/") }, `redirect_uris: "http://app.example/" is plain http: write https, or a loopback host for a native app`},
		{"bad way back", web, func(c *client.Client) { c.PostLogoutRedirectURIs = []string{"/"} }, `post_logout_redirect_uris: "/" is not absolute`},
		{"bad audience", web, func(c *client.Client) { c.Audience = []string{"api"} }, `resource "api": is not an absolute URI`},
		{"bad resource", web, func(c *client.Client) { c.Resources = []string{"urn:a#b"} }, `resource "urn:a#b": has a fragment`},
		{"bad introspects", web, func(c *client.Client) { c.Introspects = []string{""} }, `resource "": is not an absolute URI`},
		{"no alg", web, func(c *client.Client) { c.IDTokenAlg = "none" }, `id_token_alg is "none": write ES256, RS256, PS256 or EdDSA`},
		{"HS256", web, func(c *client.Client) { c.IDTokenAlg = "HS256" }, `id_token_alg is "HS256": write ES256, RS256, PS256 or EdDSA`},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := c.of()
			c.change(&changed)
			got := ""
			if err := changed.Check(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("Check\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestRFC8252_05_ShippedSecretsProveNothing: also RFC 10017 §6.3.3.1 (10017-05).
func TestRFC8252_05_ShippedSecretsProveNothing(t *testing.T) {
	for _, c := range []struct {
		auth   client.Auth
		preset string
		want   bool
	}{
		{client.Secret, "web", true}, {client.Secret, "strict", true}, {client.Secret, "fapi", true},
		{client.Secret, "native", false}, {client.Secret, "browser", false},
		{client.None, "web", false}, {client.None, "strict", false}, {0, "web", false}, {client.Secret + 1, "web", false},
	} {
		if got := (client.Client{Auth: c.auth, Preset: c.preset}).Confidential(); got != c.want {
			t.Errorf("auth %d, preset %s: confidential %v, want %v", c.auth, c.preset, got, c.want)
		}
	}
}

func TestMay(t *testing.T) {
	c := spa()
	for grant, want := range map[string]bool{
		client.AuthorizationCode: true, client.RefreshToken: true, client.ClientCredentials: false, "": false, "Refresh_Token": false,
	} {
		if got := c.May(grant); got != want {
			t.Errorf("May(%q) = %v", grant, got)
		}
	}
}

func TestNewSecretIsShownOnceAndKeptAsItsDigest(t *testing.T) {
	random := [32]byte{0xfb, 0xff, 31: 0x01}
	text, h := client.NewSecret(random, now)
	want := "hcs_" + base64.RawURLEncoding.EncodeToString(random[:])
	if text != want || h.Sum != sha256.Sum256([]byte(want)) || !h.CreatedAt.Equal(now) || !h.Expires.IsZero() {
		t.Errorf("NewSecret: %q, %+v", text, h)
	}
	if len(text) < client.MinSecret {
		t.Errorf("%d bytes: less than an operator must choose", len(text))
	}
}

// TestRT_C05_SecretsOverlap: both of two secrets prove the client until the older one
// ends, at that moment only the newer one does.
func TestRT_C05_SecretsOverlap(t *testing.T) {
	before, oldHash := client.NewSecret([32]byte{1}, now.Add(-time.Hour))
	after, newHash := client.NewSecret([32]byte{2}, now)
	end := now.Add(24 * time.Hour)
	oldHash.Expires = end
	c := web()
	for _, secrets := range [][]client.Hash{{oldHash, newHash}, {newHash, oldHash}} {
		c.Secrets = secrets
		for _, row := range []struct {
			text string
			at   time.Time
			want bool
		}{
			{before, now, true}, {after, now, true},
			{before, end.Add(-time.Millisecond), true}, {before, end, false}, {before, end.Add(time.Millisecond), false},
			{after, end, true}, {after, end.AddDate(100, 0, 0), true},
			{"", now, false}, {before + " ", now, false}, {before[:len(before)-1], now, false}, {strings.ToUpper(after), now, false},
			{before + after, now, false}, {"hcs_", now, false}, {string(newHash.Sum[:]), now, false},
		} {
			if got := c.Proves(row.text, row.at); got != row.want {
				t.Errorf("Proves(%q) at %v = %v", row.text, row.at, got)
			}
		}
	}
}

// TestNothingProvesAClientWithoutSecrets: neither an empty slot nor an empty text, nor a
// third secret, which Check would have refused.
func TestNothingProvesAClientWithoutSecrets(t *testing.T) {
	c := web()
	for _, secrets := range [][]client.Hash{nil, {{}}, {{}, {}}, {{Sum: sha256.Sum256(nil)}}} {
		c.Secrets = secrets
		for _, text := range []string{"", "\x00", strings.Repeat("\x00", 32), "hcs_"} {
			if c.Proves(text, now) {
				t.Errorf("%+v proves %q", secrets, text)
			}
		}
	}
	third, h := client.NewSecret([32]byte{3}, now)
	c.Secrets = append(web().Secrets, client.HashSecret("second", now), h)
	if c.Proves(third, now) {
		t.Error("a third secret is valid")
	}
}

// TestProvesCostsTheSameWhicheverItIs counts what can be counted exactly; the time is
// BenchmarkProves' to show.
func TestProvesCostsTheSameWhicheverItIs(t *testing.T) {
	text, h := client.NewSecret([32]byte{1}, now)
	expired := h
	expired.Expires = now
	for name, secrets := range map[string][]client.Hash{"right": {h}, "second": {{}, h}, "expired": {expired}, "none": nil} {
		c := client.Client{Secrets: secrets}
		if got := testing.AllocsPerRun(100, func() { c.Proves(text, now) }); got != 1 {
			t.Errorf("%s: %v allocations, want 1, the text's bytes", name, got)
		}
	}
}

// BenchmarkProves shows the constant work: the four take the same time.
func BenchmarkProves(b *testing.B) {
	text, h := client.NewSecret([32]byte{1}, now)
	other := client.HashSecret("other", now)
	for _, c := range []struct {
		name    string
		secrets []client.Hash
	}{{"first", []client.Hash{h, other}}, {"second", []client.Hash{other, h}}, {"wrong", []client.Hash{other, other}}, {"none", nil}} {
		b.Run(c.name, func(b *testing.B) {
			cl := client.Client{Secrets: c.secrets}
			for b.Loop() {
				cl.Proves(text, now)
			}
		})
	}
}
