package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/cmd/heirloom/demo"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/feed"
	"github.com/heirloom-auth/heirloom/user"
)

// devFlags are the flags of the dev mode.
type devFlags struct {
	on                bool
	accessTTL, leeway string // "": the preset's
}

const demoUser = "demo"

// demoWorld is what the dev mode adds: a user, four clients, and a demo under /demo/.
type demoWorld struct {
	issuer  string
	dev     devFlags
	secrets demoSecrets
	changed bool // the demo user has another password than the generated one
}

// demoSecrets are drawn once and kept in the data directory, so that a restart prints
// the same.
type demoSecrets struct {
	Password string `json:"password"`
	Secret   string `json:"client_secret"`
}

// openDemo makes the demo user if there is none.
func openDemo(ctx context.Context, r running, now time.Time) (*demoWorld, error) {
	d := &demoWorld{issuer: r.issuer, dev: r.dev}
	path := filepath.Join(r.Data, "demo-secrets")
	raw, err := keepSecret(path, func() ([]byte, error) {
		var random [32]byte
		rand.Read(random[:])
		secret, _ := client.NewSecret(random, now)
		return json.Marshal(demoSecrets{Password: newPassword(), Secret: secret})
	})
	if err == nil {
		err = json.Unmarshal(raw, &d.secrets)
	}
	if err != nil {
		return nil, fmt.Errorf("demo secrets %s: %w", path, err)
	}
	u, err := r.store.UserByName(ctx, demoUser)
	if err == nil {
		ok, _, err := user.VerifyPassword(u.Password, d.secrets.Password)
		d.changed = !ok || err != nil
		return d, nil
	}
	if !errors.Is(err, family.ErrNotFound) {
		return nil, fmt.Errorf("load user: %w", err)
	}
	phc, err := user.HashPassword(d.secrets.Password, user.DefaultParams())
	if err != nil {
		return nil, err
	}
	var random [16]byte
	rand.Read(random[:])
	u = user.User{
		ID: user.NewID(random), Username: demoUser, Status: user.Enabled, Password: phc,
		CreatedAt: now, PasswordAt: now,
		Claims: user.Claims{
			Name: "Dana Demo", GivenName: "Dana", FamilyName: "Demo", PreferredUsername: demoUser,
			Email: "demo@example.com", EmailVerified: true, PhoneNumber: "+1 555 0100",
			Address:   user.Address{StreetAddress: "1 Family Lane", Locality: "Springfield", Country: "US"},
			Zoneinfo:  "UTC",
			Locale:    "en",
			UpdatedAt: now.Unix(),
		},
	}
	e := family.Event{Kind: family.UserCreated, User: string(u.ID), Detail: "by the dev mode"}
	if err := r.store.PutUser(ctx, u, e); err != nil {
		return nil, fmt.Errorf("store user: %w", err)
	}
	return d, nil
}

// mount adds the demo app and its API below the issuer.
func (d *demoWorld) mount(mux *http.ServeMux, log *slog.Logger) error {
	clients := d.clients()
	browser, web := clients[0], clients[3]
	policy, err := family.PolicyOf(browser.Preset, browser.Policy)
	if err != nil {
		return err
	}
	leeway := policy.Leeway
	if leeway == 0 {
		leeway = -1 // none, where 0 is the preset's
	}
	h, err := demo.Handler(demo.Config{
		Issuer: d.issuer, ClientID: browser.ClientID, APIURL: d.apiURL(),
		IntrospectID: web.ClientID, IntrospectSecret: d.secrets.Secret, Leeway: leeway, Log: log,
	})
	if err != nil {
		return err
	}
	u, err := url.Parse(d.issuer)
	if err != nil {
		return err
	}
	mux.Handle(u.Path+"/demo/", h)
	return nil
}

// newPassword draws a password of 100 random bits that a person can type.
func newPassword() string {
	text := rand.Text() // 26 characters of base32
	return text[:5] + "-" + text[5:10] + "-" + text[10:15] + "-" + text[15:20]
}

func (d *demoWorld) apiURL() string { return d.issuer + "/demo/api" }

// clients are the demo clients, as a configuration file would list them.
func (d *demoWorld) clients() []clientConfig {
	set := map[string]string{}
	if d.dev.accessTTL != "" {
		set["access_ttl"] = d.dev.accessTTL
	}
	public := func(id, name, preset string) clientConfig {
		policy := maps.Clone(set)
		if d.dev.leeway != "" && preset != "strict" {
			policy["leeway"] = d.dev.leeway
		}
		return clientConfig{ClientSpec: admin.ClientSpec{
			ClientID: id, Name: name, Auth: "none", FirstParty: true, Preset: preset, Policy: policy,
			RedirectURIs:           []string{"http://127.0.0.1/callback"},
			PostLogoutRedirectURIs: []string{"http://127.0.0.1/callback"},
			GrantTypes:             []string{client.AuthorizationCode, client.RefreshToken},
			Scopes:                 []string{"openid", "profile", "email", "address", "phone", "offline_access", "demo.read"},
			Audience:               []string{d.apiURL()},
		}}
	}
	browser := public("demo-browser", "Demo single-page app", "browser")
	browser.RedirectURIs = append(browser.RedirectURIs, d.issuer+"/demo/")
	browser.PostLogoutRedirectURIs = append(browser.PostLogoutRedirectURIs, d.issuer+"/demo/")
	web := public("demo-web", "Demo web application", "web")
	web.Auth = "secret"
	web.GrantTypes = append(web.GrantTypes, client.ClientCredentials)
	web.Introspects = []string{d.apiURL()}
	web.Scopes = append(web.Scopes, feed.Scope) // it stands for the API, which follows the feed
	web.Secrets = []secret{{&d.secrets.Secret}}
	return []clientConfig{
		browser,
		public("demo-native", "Demo command line", "native"),
		public("demo-strict", "Demo with no leeway", "strict"),
		web,
	}
}

// announcement is the line that --json prints. Scripts read it: its members are fixed.
func (d *demoWorld) announcement(r running) any {
	type demoUserView struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	type demoClientView struct {
		ClientID     string   `json:"client_id"`
		ClientSecret string   `json:"client_secret"`
		RedirectURIs []string `json:"redirect_uris"`
		Preset       string   `json:"preset"`
	}
	a := struct {
		Issuer     string           `json:"issuer"`
		AdminURL   string           `json:"admin_url"`
		AdminToken string           `json:"admin_token"`
		Users      []demoUserView   `json:"users"`
		Clients    []demoClientView `json:"clients"`
		APIURL     string           `json:"api_url"`
	}{
		Issuer: r.issuer, AdminURL: r.adminURL, AdminToken: r.token.Text(),
		Users:  []demoUserView{{demoUser, d.secrets.Password}},
		APIURL: d.apiURL(),
	}
	for _, c := range d.clients() {
		v := demoClientView{ClientID: c.ClientID, RedirectURIs: c.RedirectURIs, Preset: c.Preset}
		for _, s := range c.Secrets {
			v.ClientSecret = s.text()
		}
		a.Clients = append(a.Clients, v)
	}
	return a
}

// banner tells a person where to go.
func (d *demoWorld) banner(t *terminal, r running) {
	password := d.secrets.Password
	if d.changed {
		password = "(it was changed: you know it, or run: heirloom user password demo)"
	}
	flags := ""
	if r.Data != "heirloom-data" {
		flags = " --data " + r.Data
	}
	ids := make([]string, 0, 4)
	for _, c := range d.clients() {
		ids = append(ids, c.ClientID)
	}
	slices.Sort(ids)
	fmt.Fprintf(t.err, `
  Heirloom in dev mode: for trying things out, not for real users.

  demo app     %[1]s/demo/
  account      %[1]s/account
  user         %[2]s
  password     %[3]s
  clients      %[4]s
  metadata     %[1]s/.well-known/openid-configuration
  data         %[5]s

  Try: sign in to the demo app, watch the tokens change, press "steal the refresh token".
  Then ask in another terminal:

    heirloom family list%[6]s
    heirloom user why demo%[6]s

`, d.issuer, demoUser, password, fmt.Sprint(ids), r.Data, flags)
}
