package server_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/server"
)

const (
	oauthMetadata = "/.well-known/oauth-authorization-server"
	oidcMetadata  = "/.well-known/openid-configuration"
)

func (w *world) metadata(path string) map[string]any {
	w.t.Helper()
	r := w.sendRaw("GET", path, "", "", nil).must(w.t)
	if r.header.Get("Content-Type") != "application/json" {
		w.t.Errorf("%s is %s", path, r.header.Get("Content-Type"))
	}
	return r.body
}

// list returns a member that is a list of strings.
func list(t testing.TB, m map[string]any, name string) []string {
	t.Helper()
	all, ok := m[name].([]any)
	if !ok || len(all) == 0 {
		t.Fatalf("%s is %v, want a list that is not empty", name, m[name])
	}
	var out []string
	for _, v := range all {
		s, ok := v.(string)
		if !ok || s == "" || slices.Contains(out, s) {
			t.Fatalf("%s is %v", name, m[name])
		}
		out = append(out, s)
	}
	return out
}

func TestRFC8414_01_OneIssuerEverywhere(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("strict")
		answer := b.walk(f, aliceName, alicePassword)
		tok := w.exchange(f, answer.Get("code")).must(t).tokens()
		_, at := w.verified(tok.access)
		_, id := w.verified(tok.id)
		probe := w.post("/oauth2/introspect", nil, append(w.as("web"), "token", tok.access)...).must(t)
		for where, got := range map[string]any{"metadata": w.metadata(oauthMetadata)["issuer"], "discovery": w.metadata(oidcMetadata)["issuer"], "redirect": answer.Get("iss"),
			"access token": at["iss"], "ID token": id["iss"], "introspection": probe.body["iss"]} {
			if got != w.issuer {
				t.Errorf("the issuer in the %s is %v, want %s", where, got, w.issuer)
			}
		}
	})
	for _, bad := range []string{"", "id.example.com", "http://id.example.com", "https://id.example.com/", "https://id.example.com?x", "https://id.example.com#x", "https://u@id.example.com", "ftp://id.example.com", "https://"} {
		w := newWorld(t, engines["memory"], nil)
		if _, err := server.New(server.Config{Issuer: bad, Store: w.store, Keys: w.ring}); err == nil {
			t.Errorf("the issuer %q is accepted", bad)
		}
	}
}

func TestRFC8414_02_RFC9700_12_WellKnownPathsWithoutAPath(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	for _, path := range []string{oauthMetadata, oidcMetadata} {
		if got := w.metadata(path)["issuer"]; got != w.issuer {
			t.Errorf("%s: issuer is %v", path, got)
		}
	}
}

// TestRFC8414_02_IssuerWithAPath runs a whole sign-in below a path.
func TestRFC8414_02_IssuerWithAPath(t *testing.T) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			const at = "/tenant/one"
			w := newWorld(t, open, func(c *server.Config) { c.Issuer += at })
			issuer := w.issuer + at
			for _, path := range []string{oauthMetadata + at, oidcMetadata + at, at + oidcMetadata} {
				m := w.metadata(path)
				if m["issuer"] != issuer || m["token_endpoint"] != issuer+"/oauth2/token" || m["jwks_uri"] != issuer+"/oauth2/jwks" {
					t.Errorf("%s: %v", path, m)
				}
			}
			b := w.browser()
			f := newFlow("strict")
			p := b.get(at + f.url())
			if !strings.HasPrefix(p.location, at+"/login?") {
				t.Fatalf("the browser is sent to %s", p.location)
			}
			p = b.get(p.location)
			if !strings.Contains(p.body, `action="`+at+`/login"`) {
				t.Errorf("the form leads elsewhere: %s", p.body)
			}
			v := p.fields()
			v.Set("username", aliceName)
			v.Set("password", alicePassword)
			p = b.post(at+"/login", v)
			if !strings.HasPrefix(p.location, at+"/oauth2/authorize?") {
				t.Fatalf("after the sign-in the browser is sent to %s", p.location)
			}
			got := b.get(p.location).answered(t, f.redirect)
			if got.Get("iss") != issuer {
				t.Errorf("iss is %s", got.Get("iss"))
			}
			tok := w.post(at+"/oauth2/token", nil, "client_id", "strict", "grant_type", "authorization_code", "code", got.Get("code"), "redirect_uri", f.redirect, "code_verifier", f.verifier).must(t).tokens()
			if c := claimsOf(t, tok.id); c["iss"] != issuer {
				t.Errorf("the ID token's iss is %v", c["iss"])
			}
			w.post(at+"/oauth2/token", nil, "client_id", "strict", "grant_type", "refresh_token", "refresh_token", tok.refresh).must(t)
			for _, path := range []string{"/oauth2/token", "/oauth2/jwks", "/login"} {
				if r := w.sendRaw("GET", path, "", "", nil); r.status != 404 {
					t.Errorf("%s outside the path is answered with %d", path, r.status)
				}
			}
		})
	}
}

func TestRFC8414_03_NoEmptyLists(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	m := w.metadata(oauthMetadata)
	for name, v := range m {
		switch v := v.(type) {
		case []any:
			list(t, m, name)
		case string:
			if v == "" {
				t.Errorf("%s is empty", name)
			}
		case nil:
			t.Errorf("%s is null", name)
		}
	}
	if w.sendRaw("GET", oauthMetadata, "", "", nil).raw != w.sendRaw("GET", oidcMetadata, "", "", nil).raw {
		t.Error("the two documents differ")
	}
}

// TestRFC8414_05_WhatIsListedWorks tries each value of the metadata, and what it does
// not list.
func TestRFC8414_05_WhatIsListedWorks(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		m := w.metadata(oauthMetadata)
		b := w.browser()
		b.code(newFlow("strict"))
		for name, v := range m {
			if s, ok := v.(string); ok && (strings.HasSuffix(name, "_endpoint") || name == "jwks_uri") {
				path, ok := strings.CutPrefix(s, w.issuer)
				if !ok {
					t.Errorf("%s is %s", name, s)
				} else if r := w.sendRaw("POST", path, formType, "", nil); r.status == 404 {
					t.Errorf("there is nothing at %s", s)
				}
			}
		}
		expect := func(name string, known []string, works func(v string) bool, others ...string) {
			t.Helper()
			listed := list(t, m, name)
			for _, v := range slices.Concat(listed, known, others) {
				if got, want := works(v), slices.Contains(listed, v); got != want {
					t.Errorf("%s: %q works: %v, listed: %v", name, v, got, want)
				}
			}
		}
		code := func(pairs ...string) url.Values {
			f := newFlow("strict", pairs...)
			return b.get(f.url()).answered(t, f.redirect)
		}
		expect("response_types_supported", nil, func(v string) bool { return code("response_type", v).Get("code") != "" }, "token", "id_token", "code id_token")
		expect("response_modes_supported", nil, func(v string) bool { return code("response_mode", v).Get("code") != "" }, "fragment", "jwt", "query.jwt", "form_post.jwt", "web_message")
		expect("code_challenge_methods_supported", nil, func(v string) bool { return code("code_challenge_method", v).Get("code") != "" }, "plain", "S512")
		expect("prompt_values_supported", nil, func(v string) bool {
			p := b.get(newFlow("strict", "prompt", v).url())
			return !strings.Contains(p.location, "error=")
		}, "create", "x")
		expect("grant_types_supported", nil, func(v string) bool {
			r := w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", v, "code", "x", "refresh_token", "x")...)
			return r.str("error") != "unsupported_grant_type"
		}, "password", "implicit", "urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange", "urn:ietf:params:oauth:grant-type:jwt-bearer", "urn:openid:params:grant-type:ciba")
		for endpoint, path := range map[string]string{"token": "/oauth2/token", "revocation": "/oauth2/revoke", "introspection": "/oauth2/introspect"} {
			expect(endpoint+"_endpoint_auth_methods_supported", nil, func(v string) bool {
				pairs := []string{"grant_type", "refresh_token", "refresh_token", "x", "token", "x"}
				switch v {
				case "client_secret_basic":
					return w.post(path, basic("web", w.secret["web"]), pairs...).status != 401
				case "client_secret_post":
					return w.post(path, nil, append(pairs, w.as("web")...)...).status != 401
				case "none":
					return w.post(path, nil, append(pairs, w.as("strict")...)...).status != 401
				}
				return w.post(path, nil, append(pairs, "client_id", "web", "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", "e.e.e")...).status != 401
			}, "private_key_jwt", "client_secret_jwt", "none", "tls_client_auth")
		}
		expect("scopes_supported", nil, func(v string) bool {
			f := newFlow("strict", "scope", strings.TrimSpace("openid "+strings.TrimPrefix(v, "openid")))
			return slices.Contains(strings.Fields(w.exchange(f, b.code(f)).must(t).str("scope")), v)
		}, "groups")
		expect("id_token_signing_alg_values_supported", []string{"RS256"}, func(v string) bool {
			c, err := w.store.Client(t.Context(), "strict")
			if err != nil {
				t.Fatal(err)
			}
			if c.IDTokenAlg = v; c.Check() != nil {
				return false
			}
			w.updateClient("strict", func(c *client.Client) { c.IDTokenAlg = v })
			f := newFlow("strict")
			h, _ := w.verified(w.exchange(f, b.code(f)).must(t).str("id_token"))
			return h["alg"] == v
		}, "none", "HS256", "ES384", "RS512")
		if m["request_parameter_supported"] != (code("request", "x").Get("error") != "request_not_supported") ||
			m["request_uri_parameter_supported"] != (code("request_uri", "x").Get("error") != "request_uri_not_supported") {
			t.Error("request objects are not as listed")
		}
		if f := newFlow("strict", "claims", `{"userinfo":{"email":null}}`, "scope", "openid"); m["claims_parameter_supported"] != (w.userinfo(w.exchange(f, b.code(f)).must(t).str("access_token")).str("email") != "") {
			t.Error("the claims parameter is not as listed")
		}
		r := w.refresh("strict", w.newFamily("strict")).must(t)
		for typ, member := range map[string]string{"token_timeout": "refresh_token_timeout", "authorization": "authorization_expires_in"} {
			if slices.Contains(list(t, m, "refresh_token_expiration_types_supported"), typ) != (r.body[member] != nil) {
				t.Errorf("%s is not as listed", typ)
			}
		}
		for _, name := range []string{"pushed_authorization_request_endpoint", "device_authorization_endpoint", "registration_endpoint", "dpop_signing_alg_values_supported"} {
			if _, listed := m[name]; listed {
				path := strings.TrimPrefix(m[name].(string), w.issuer)
				if r := w.sendRaw("POST", path, formType, "", nil); r.status == 404 {
					t.Errorf("%s is listed and is not there", name)
				}
			}
		}
	})
}

func TestOIDCD_01_RequiredMembers(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	m := w.metadata(oidcMetadata)
	for _, name := range []string{"issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"} {
		if s, _ := m[name].(string); !strings.HasPrefix(s, w.issuer) {
			t.Errorf("%s is %v", name, m[name])
		}
	}
	if !slices.Contains(list(t, m, "scopes_supported"), "openid") || !slices.Contains(list(t, m, "id_token_signing_alg_values_supported"), "RS256") ||
		!slices.Contains(list(t, m, "subject_types_supported"), "public") || !slices.Contains(list(t, m, "grant_types_supported"), "refresh_token") {
		t.Error("a required value is missing")
	}
	// What is listed as a claim is one that can come.
	tok := w.signIn("strict", "scope", "openid profile email address phone")
	_, id := w.verified(tok.id)
	listed := list(t, m, "claims_supported")
	for _, m := range []map[string]any{id, w.userinfo(tok.access).must(t).body} {
		for name := range m {
			if !slices.Contains(listed, name) {
				t.Errorf("the claim %s is given and not listed", name)
			}
		}
	}
}

func TestOIDCD_02_OnlyPublicKeysArePublished(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		r := w.sendRaw("GET", "/oauth2/jwks", "", "", nil).must(t)
		if r.header.Get("Content-Type") != "application/jwk-set+json" {
			t.Errorf("Content-Type is %s", r.header.Get("Content-Type"))
		}
		var set struct{ Keys []map[string]any }
		if err := json.Unmarshal([]byte(r.raw), &set); err != nil {
			t.Fatal(err)
		}
		kids, algs := map[any]bool{}, map[any]bool{}
		for _, k := range set.Keys {
			for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k", "oth"} {
				if _, has := k[private]; has {
					t.Errorf("a key has %s", private)
				}
			}
			if k["kid"] == nil || kids[k["kid"]] || k["use"] != "sig" || k["alg"] == nil || k["kty"] == "oct" {
				t.Errorf("a key is %v", k)
			}
			kids[k["kid"]], algs[k["alg"]] = true, true
		}
		for _, alg := range list(t, w.metadata(oidcMetadata), "id_token_signing_alg_values_supported") {
			if !algs[alg] {
				t.Errorf("there is no key for %s", alg)
			}
		}
	})
}
