package server_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
)

// jwk is a public key as RFC 7517 writes it.
type jwk struct {
	Kty, Kid, Use, Alg, Crv, N, E, X, Y string
}

// jwks fetches the published keys.
func (w *world) jwks() map[string]jwk {
	w.t.Helper()
	var set struct{ Keys []jwk }
	if err := json.Unmarshal([]byte(w.sendRaw("GET", "/oauth2/jwks", "", "", nil).must(w.t).raw), &set); err != nil {
		w.t.Fatal(err)
	}
	byID := map[string]jwk{}
	for _, k := range set.Keys {
		byID[k.Kid] = k
	}
	if len(byID) == 0 || len(byID) != len(set.Keys) {
		w.t.Fatalf("%d keys with %d ids", len(set.Keys), len(byID))
	}
	return byID
}

func unb64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// verified checks a JWT against the published keys with Go's own cryptography and
// nothing of ours, and returns its header and claims.
func (w *world) verified(token string) (header, claims map[string]any) {
	t := w.t
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is not a JWT", token)
	}
	if err := json.Unmarshal(unb64(t, parts[0]), &header); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(unb64(t, parts[1]), &claims); err != nil {
		t.Fatal(err)
	}
	kid, _ := header["kid"].(string)
	k, ok := w.jwks()[kid]
	if !ok || k.Alg != header["alg"] || k.Use != "sig" {
		t.Fatalf("the key %q is not published for %v: %+v", kid, header["alg"], k)
	}
	sig, msg := unb64(t, parts[2]), []byte(parts[0]+"."+parts[1])
	sum := sha256.Sum256(msg)
	num := func(s string) *big.Int { return new(big.Int).SetBytes(unb64(t, s)) }
	good := false
	switch k.Alg {
	case "ES256":
		pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, unb64(t, k.X), unb64(t, k.Y)))
		if err != nil {
			t.Fatal(err)
		}
		good = k.Kty == "EC" && k.Crv == "P-256" && len(sig) == 64 && ecdsa.Verify(pub, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	case "RS256":
		pub := &rsa.PublicKey{N: num(k.N), E: int(num(k.E).Int64())}
		good = k.Kty == "RSA" && pub.N.BitLen() >= 2048 && rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], sig) == nil
	case "PS256":
		pub := &rsa.PublicKey{N: num(k.N), E: int(num(k.E).Int64())}
		good = k.Kty == "RSA" && pub.N.BitLen() >= 2048 && rsa.VerifyPSS(pub, crypto.SHA256, sum[:], sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	case "EdDSA":
		good = k.Kty == "OKP" && k.Crv == "Ed25519" && ed25519.Verify(ed25519.PublicKey(unb64(t, k.X)), msg, sig)
	default:
		t.Fatalf("algorithm %q", k.Alg)
	}
	if !good {
		t.Fatalf("the %s signature is wrong", k.Alg)
	}
	return header, claims
}

func num(t testing.TB, m map[string]any, name string) int64 {
	t.Helper()
	f, ok := m[name].(float64)
	if !ok || f != float64(int64(f)) {
		t.Fatalf("%s is %v", name, m[name])
	}
	return int64(f)
}

// asks fails the test unless the browser is led to the sign-in page, and returns it.
func (b *browser) asks(f *flow) shownPage {
	b.w.t.Helper()
	p := b.get(f.url())
	if p.status == 303 && strings.HasPrefix(p.location, "/login?") {
		p = b.get(p.location)
	}
	if p.status != 200 || !strings.Contains(p.body, `id="sign-in"`) {
		b.w.t.Fatalf("the browser shows %d %s, want the sign-in page", p.status, p.location)
	}
	return p
}

// These are the parameters of Core §3.1.2.1.
func TestOIDC_01_PromptLoginAsksAgain(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, prompt := range []string{"login", "select_account", "login consent"} {
			b := w.browser()
			f := newFlow("strict")
			_, first := w.verified(w.exchange(f, b.code(f)).must(t).str("id_token"))
			w.clock.Advance(5 * time.Minute)
			f = newFlow("strict", "prompt", prompt)
			b.asks(f)
			login, err := url.Parse(b.get(f.url()).location)
			if err != nil {
				t.Fatal(err)
			}
			// Coming back without having signed in is not enough.
			if p := b.get(login.Query().Get("continue")); !strings.HasPrefix(p.location, "/login?") {
				t.Errorf("prompt %s: who comes back unasked is sent to %s", prompt, p.location)
			}
			_, again := w.verified(w.exchange(f, b.code(f)).must(t).str("id_token"))
			if d := num(t, again, "auth_time") - num(t, first, "auth_time"); d < 300 || d > 360 {
				t.Errorf("prompt %s: auth_time moved by %d s", prompt, d)
			}
			if again["sid"] != first["sid"] {
				t.Errorf("prompt %s: the session is another one", prompt)
			}
			// A proof that belongs to another request is none.
			other := newFlow("strict", "prompt", prompt)
			p := b.get(f.url())
			u, err := url.Parse(p.location)
			if err != nil {
				t.Fatal(err)
			}
			_, query, _ := strings.Cut(u.Query().Get("continue"), "?")
			v, _ := url.ParseQuery(query)
			if v.Get("heirloom_since") == "" {
				t.Fatal("no proof of when the request came")
			}
			w.clock.Advance(time.Minute)
			b.code(f)
			other.params.Set("heirloom_since", v.Get("heirloom_since"))
			b.asks(other)
		}
	})
}

func TestOIDC_01_PromptNoneNeverShowsAPage(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		silent := func(pairs ...string) url.Values {
			f := newFlow(pairs[0], append([]string{"prompt", "none"}, pairs[1:]...)...)
			return b.get(f.url()).answered(t, f.redirect)
		}
		if v := silent("strict"); v.Get("error") != "login_required" {
			t.Errorf("nobody is signed in: the client is told %v", v)
		}
		b.code(newFlow("strict"))
		if v := silent("strict"); v.Get("code") == "" {
			t.Errorf("alice is signed in: the client is told %v", v)
		}
		if v := silent("third"); v.Get("error") != "consent_required" {
			t.Errorf("alice has not agreed: the client is told %v", v)
		}
		b.code(newFlow("third"))
		if v := silent("third"); v.Get("code") == "" {
			t.Errorf("alice has agreed: the client is told %v", v)
		}
		for _, with := range []string{"none login", "login none", "none none", "nothing", "NONE"} {
			f := newFlow("strict", "prompt", with)
			if v := b.get(f.url()).answered(t, f.redirect); v.Get("error") != "invalid_request" && with != "none none" {
				t.Errorf("prompt %q: the client is told %v", with, v)
			}
		}
		w.clock.Advance(time.Hour)
		if v := silent("strict", "max_age", "60"); v.Get("error") != "login_required" {
			t.Errorf("max_age is over: the client is told %v", v)
		}
	})
}

func TestOIDC_01_PromptConsentAsksAgain(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.code(newFlow("third"))
		if p := b.get(newFlow("third").url()); !strings.HasPrefix(p.location, "https://third.example.com/cb?code=") {
			t.Fatalf("alice is asked twice: %s", p.location)
		}
		p := b.get(newFlow("third", "prompt", "consent").url())
		if !strings.HasPrefix(p.location, "/consent?") {
			t.Fatalf("alice is not asked: %s", p.location)
		}
		p = b.get(p.location)
		v := p.fields()
		v.Set("decision", "allow")
		if got := b.post("/consent", v).answered(t, "https://third.example.com/cb"); got.Get("code") == "" {
			t.Errorf("the client is told %v", got)
		}
		// More than was agreed to is asked for; less is not.
		w.updateClient("third", func(c *client.Client) { c.Scopes = append(c.Scopes, "more") })
		if p := b.get(newFlow("third", "scope", "openid more").url()); !strings.HasPrefix(p.location, "/consent?") {
			t.Errorf("a new scope is not asked for: %s", p.location)
		}
		if p := b.get(newFlow("third", "scope", "openid read").url()); strings.HasPrefix(p.location, "/consent?") {
			t.Error("less than was agreed to is asked for")
		}
	})
}

func TestOIDC_01_MaxAge(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.code(newFlow("strict"))
		w.clock.Advance(10 * time.Minute)
		for age, asks := range map[string]bool{"601": false, "1000": false, "500": true, "1": true, "0": true} {
			w2 := w.browser()
			w2.http.Jar = b.http.Jar
			f := newFlow("strict", "max_age", age)
			p := w2.get(f.url())
			if got := strings.HasPrefix(p.location, "/login?"); got != asks {
				t.Errorf("max_age %s: the browser is sent to %s", age, p.location)
			}
		}
		f := newFlow("strict", "max_age", "60")
		_, claims := w.verified(w.exchange(f, b.code(f)).must(t).str("id_token"))
		if age := w.clock.Now().Unix() - num(t, claims, "auth_time"); age < 0 || age > 60 {
			t.Errorf("auth_time is %d s old", age)
		}
		for _, bad := range []string{"-1", "x", "1.5", "99999999999"} {
			f := newFlow("strict", "max_age", bad)
			if v := b.get(f.url()).answered(t, f.redirect); v.Get("error") != "invalid_request" {
				t.Errorf("max_age %s: the client is told %v", bad, v)
			}
		}
	})
}

func TestOIDC_01_Hints(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		p := b.asks(newFlow("strict", "login_hint", `bob" onfocus="x`))
		if !strings.Contains(p.body, `value="bob&#34; onfocus=&#34;x"`) {
			t.Errorf("login_hint is not on the page: %s", p.body)
		}
		b.asks(newFlow("strict", "login_hint", strings.Repeat("x", 5000)))

		f := newFlow("strict")
		alice := w.exchange(f, b.code(f)).must(t).tokens()
		f = newFlow("strict")
		bb := w.browser()
		bob := w.exchange(f, bb.walk(f, bobName, bobPassword).Get("code")).must(t).tokens()

		w.clock.Advance(48 * time.Hour) // an expired hint still is one
		for hint, want := range map[string]bool{alice.id: true, bob.id: false} {
			f := newFlow("strict", "prompt", "none", "id_token_hint", hint)
			v := b.get(f.url()).answered(t, f.redirect)
			if want && v.Get("code") == "" || !want && v.Get("error") != "login_required" {
				t.Errorf("the client is told %v, want a code: %v", v, want)
			}
		}
		b.asks(newFlow("strict", "id_token_hint", bob.id))
		f = newFlow("strict", "id_token_hint", bob.id)
		if v := b.walk(f, aliceName, alicePassword); v.Get("error") != "login_required" {
			t.Errorf("alice signs in where bob is meant: the client is told %v", v)
		}
		f = newFlow("strict", "id_token_hint", bob.id)
		if v := b.walk(f, bobName, bobPassword); v.Get("code") == "" {
			t.Errorf("bob signs in: the client is told %v", v)
		}
		for _, bad := range []string{"x", alice.access, bob.id[:len(bob.id)-4] + "AAAA", "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0."} {
			f := newFlow("strict", "prompt", "none", "id_token_hint", bad)
			if v := b.get(f.url()).answered(t, f.redirect); v.Get("error") != "invalid_request" {
				t.Errorf("a wrong hint: the client is told %v", v)
			}
		}
	})
}

func TestOIDC_01_HarmlessParametersAreNoErrors(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	b.code(newFlow("strict"))
	for _, pair := range [][2]string{{"display", "page"}, {"display", "popup"}, {"display", "xyz"}, {"ui_locales", "de fr-CA x"}, {"claims_locales", "se"}, {"acr_values", "1 2 urn:x"}, {"acr_values", "0"},
		{"nonce", strings.Repeat("n", 64)}, {"nonce", ""}, {"prompt", ""}, {"claims", `{"userinfo":{"email":null,"x#de":{"value":1}},"id_token":{"auth_time":{"essential":true}},"other":1}`}} {
		f := newFlow("strict", pair[0], pair[1])
		r := w.exchange(f, b.code(f)).must(t)
		if _, c := w.verified(r.str("id_token")); pair[0] == "nonce" && pair[1] == "" && c["nonce"] != nil || pair[0] == "nonce" && pair[1] != "" && c["nonce"] != pair[1] {
			t.Errorf("nonce %q came back as %v", pair[1], c["nonce"])
		}
	}
	for _, bad := range []string{`{`, `[]`, `"x"`, `{"userinfo":[]}`, strings.Repeat(" ", 9000) + "{}"} {
		f := newFlow("strict", "claims", bad)
		if v := b.get(f.url()).answered(t, f.redirect); v.Get("error") != "invalid_request" {
			t.Errorf("claims %.20q: the client is told %v", bad, v)
		}
	}
	f := newFlow("strict", "nonce", strings.Repeat("n", 1025))
	if v := b.get(f.url()).answered(t, f.redirect); v.Get("error") != "invalid_request" {
		t.Errorf("a huge nonce: the client is told %v", v)
	}
}

func TestOIDC_01_POSTIsLikeGET(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("strict")
		p := b.post("/oauth2/authorize", f.params)
		if p.status != 303 || !strings.HasPrefix(p.location, "/login?") {
			t.Fatalf("a POST is answered with %d %s", p.status, p.location)
		}
		b.code(newFlow("strict"))
		w.exchange(f, b.post("/oauth2/authorize", f.params).answered(t, f.redirect).Get("code")).must(t)
	})
}

func TestOIDC_02_Errors(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	tell := func(want string, f *flow) {
		t.Helper()
		if v := b.get(f.url()).answered(t, f.redirect); v.Get("error") != want || v.Get("state") != f.state {
			t.Errorf("the client is told %v, want %s", v, want)
		}
	}
	tell("login_required", newFlow("strict", "prompt", "none"))
	b.code(newFlow("strict"))
	tell("consent_required", newFlow("third", "prompt", "none"))
	tell("request_not_supported", newFlow("strict", "request", "eyJhbGciOiJub25lIn0.e30."))
	tell("request_uri_not_supported", newFlow("strict", "request_uri", "https://rp.example.com/r.jwt"))
	tell("request_uri_not_supported", newFlow("strict", "request_uri", "urn:ietf:params:oauth:request_uri:x"))
	tell("registration_not_supported", newFlow("strict", "registration", "{}"))
	tell("invalid_scope", newFlow("strict", "scope", "openid  read"))
	tell("invalid_scope", newFlow("strict", "scope", "open\"id"))
}

// TestOIDC_03_IDTokenIsRight verifies with Go's cryptography, for each algorithm.
func TestOIDC_03_IDTokenIsRight(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, alg := range []string{"", "ES256", "RS256", "PS256", "EdDSA"} {
			w.updateClient("strict", func(c *client.Client) { c.IDTokenAlg = alg })
			f := newFlow("strict", "nonce", "the nonce", "scope", "openid profile email address phone")
			r := w.exchange(f, b.code(f)).must(t)
			for _, first := range []bool{true, false} {
				tok := r.tokens()
				header, c := w.verified(tok.id)
				want := alg
				if alg == "" {
					want = "ES256"
				}
				if header["alg"] != want || header["typ"] != "JWT" {
					t.Errorf("%s: header is %v", alg, header)
				}
				now := w.clock.Now().Unix()
				if c["iss"] != w.issuer || c["sub"] != string(w.user(aliceName).ID) || c["aud"] != "strict" {
					t.Errorf("%s: claims are %v", alg, c)
				}
				if iat, exp := num(t, c, "iat"), num(t, c, "exp"); iat > now || iat < now-30 || exp <= now || exp > now+3600 {
					t.Errorf("%s: iat %d, exp %d, now %d", alg, iat, exp, now)
				}
				if at := num(t, c, "auth_time"); at > now || at < now-60 {
					t.Errorf("%s: auth_time %d, now %d", alg, at, now)
				}
				half := func() []byte { s := sha256.Sum256([]byte(tok.access)); return s[:16] }()
				if alg == "EdDSA" {
					s := sha512.Sum512([]byte(tok.access))
					half = s[:32]
				}
				if c["at_hash"] != base64.RawURLEncoding.EncodeToString(half) {
					t.Errorf("%s: at_hash is %v", alg, c["at_hash"])
				}
				names := slices.Sorted(maps.Keys(c))
				wantNames := []string{"acr", "amr", "at_hash", "aud", "auth_time", "exp", "iat", "iss", "nonce", "sid", "sub"}
				if !first {
					wantNames = slices.DeleteFunc(wantNames, func(s string) bool { return s == "nonce" })
				} else if c["nonce"] != "the nonce" {
					t.Errorf("%s: nonce is %v", alg, c["nonce"])
				}
				if !slices.Equal(names, wantNames) { // nothing that was not asked for: OIDC-05
					t.Errorf("%s: the claims are %v, want %v", alg, names, wantNames)
				}
				r = w.refresh("strict", tok.refresh).must(t)
			}
		}
		// The access token is signed by the server's algorithm, whatever the client's.
		header, at := w.verified(w.signIn("strict").access)
		if header["typ"] != "at+jwt" || header["alg"] != "ES256" || at["iss"] != w.issuer {
			t.Errorf("access token: %v %v", header, at)
		}
	})
}

func TestOIDC_04_UserInfo(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		tok := w.signIn("strict", "scope", "openid email")
		_, id := w.verified(tok.id)
		get := w.userinfo(tok.access).must(t)
		for name, r := range map[string]reply{
			"GET":            get,
			"POST header":    w.sendRaw("POST", "/oauth2/userinfo", "", "", http.Header{"Authorization": {"Bearer " + tok.access}}),
			"POST form":      w.post("/oauth2/userinfo", nil, "access_token", tok.access),
			"POST form+auth": w.post("/oauth2/userinfo", http.Header{"Authorization": {"Bearer " + tok.access}}, "x", "y"),
		} {
			if r.must(t).raw != get.raw || r.str("sub") != id["sub"] || r.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %s, want %s", name, r.raw, get.raw)
			}
		}
	})
}

func TestOIDC_05_ScopesReleaseTheirClaims(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for scope, want := range map[string][]string{
			"openid": {"sub"}, "openid profile": {"given_name", "name", "sub"}, "openid email": {"email", "email_verified", "sub"},
			"openid address": {"address", "sub"}, "openid phone": {"phone_number", "phone_number_verified", "sub"},
			"openid read write":                   {"sub"},
			"openid profile email address phone":  {"address", "email", "email_verified", "given_name", "name", "phone_number", "phone_number_verified", "sub"},
			"openid email unknown offline_access": {"email", "email_verified", "sub"},
		} {
			f := newFlow("strict", "scope", scope)
			r := w.userinfo(w.exchange(f, b.code(f)).must(t).str("access_token")).must(t)
			if got := slices.Sorted(maps.Keys(r.body)); !slices.Equal(got, want) {
				t.Errorf("%s releases %v, want %v", scope, got, want)
			}
		}
		// The claims parameter adds to one place only.
		f := newFlow("strict", "scope", "openid", "claims", `{"userinfo":{"email":{"essential":true},"nickname":null,"sub":null},"id_token":{"phone_number":null,"iss":{"value":"x"},"aud":{"value":"x"}}}`)
		tok := w.exchange(f, b.code(f)).must(t).tokens()
		if got := slices.Sorted(maps.Keys(w.userinfo(tok.access).must(t).body)); !slices.Equal(got, []string{"email", "sub"}) {
			t.Errorf("userinfo has %v", got)
		}
		_, c := w.verified(tok.id)
		if c["phone_number"] != "+441632960000" || c["email"] != nil || c["iss"] != w.issuer || c["aud"] != "strict" {
			t.Errorf("the ID token has %v", c)
		}
		// A value that insists on somebody else is not answered for alice.
		f = newFlow("strict", "prompt", "none", "claims", `{"id_token":{"sub":{"value":"`+string(w.user(bobName).ID)+`"}}}`)
		if v := b.get(f.url()).answered(t, f.redirect); v.Get("error") != "login_required" {
			t.Errorf("the client is told %v", v)
		}
	})
}

func TestRFC6750_01_SchemeHasNoCase(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	tok := w.signIn("strict")
	for _, scheme := range []string{"Bearer", "bearer", "BEARER", "bEaReR"} {
		w.sendRaw("GET", "/oauth2/userinfo", "", "", http.Header{"Authorization": {scheme + " " + tok.access}}).must(t)
	}
	for _, scheme := range []string{"Basic", "Token", "DPoP", ""} {
		if r := w.sendRaw("GET", "/oauth2/userinfo", "", "", http.Header{"Authorization": {scheme + " " + tok.access}}); r.status != 401 {
			t.Errorf("%s is answered with %d", scheme, r.status)
		}
	}
}

func TestRFC6750_02_FormBodyOnlyAsAForm(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	tok := w.signIn("strict")
	w.post("/oauth2/userinfo", nil, "access_token", tok.access).must(t)
	for typ, body := range map[string]string{"application/json": `{"access_token":"` + tok.access + `"}`, "multipart/form-data; boundary=x": "--x\r\nContent-Disposition: form-data; name=\"access_token\"\r\n\r\n" + tok.access + "\r\n--x--\r\n", "text/plain": "access_token=" + tok.access} {
		if r := w.sendRaw("POST", "/oauth2/userinfo", typ, body, nil); r.status != 415 {
			t.Errorf("%s is answered with %d", typ, r.status)
		}
	}
	if r := w.sendRaw("GET", "/oauth2/userinfo", formType, "access_token="+tok.access, nil); r.status != 401 {
		t.Errorf("a GET with a body is answered with %d", r.status)
	}
}

func TestRFC6750_03_NoTokenInTheURL(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	tok := w.signIn("strict")
	for _, h := range []http.Header{nil, {"Authorization": {"Bearer " + tok.access}}} {
		for _, method := range []string{"GET", "POST"} {
			w.sendRaw(method, "/oauth2/userinfo?access_token="+tok.access, "", "", h).errs(t, 401, "invalid_request")
		}
	}
	if strings.Contains(w.logs.String(), tok.access) {
		t.Error("the token is in the log")
	}
}

func TestRFC6750_04_OneWayToSendAToken(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	tok := w.signIn("strict")
	auth := http.Header{"Authorization": {"Bearer " + tok.access}}
	w.post("/oauth2/userinfo", auth, "access_token", tok.access).errs(t, 400, "invalid_request")
	w.sendRaw("GET", "/oauth2/userinfo", "", "", http.Header{"Authorization": {"Bearer " + tok.access, "Bearer " + tok.access}}).errs(t, 400, "invalid_request")
	w.sendRaw("POST", "/oauth2/userinfo", formType, "access_token="+tok.access+"&access_token="+tok.access, nil).errs(t, 400, "invalid_request")
}

// bearerGolden is each challenge as RFC 6750 §3 has it.
var bearerGolden = map[string]string{
	"none":               `401 Bearer realm="heirloom"`,
	"invalid_token":      `401 Bearer realm="heirloom", error="invalid_token", error_description="the access token is not valid here"`,
	"insufficient_scope": `403 Bearer realm="heirloom", error="insufficient_scope", error_description="the access token was not given the scope openid", scope="openid"`,
	"two tokens":         `400 Bearer realm="heirloom", error="invalid_request", error_description="the request has several access tokens"`,
	"in the URL":         `401 Bearer realm="heirloom", error="invalid_request", error_description="an access token in the URL is not accepted"`,
}

// TestRFC6750_05_RFC6750_06_ChallengesAreAsWritten has one request for each row.
func TestRFC6750_05_RFC6750_06_ChallengesAreAsWritten(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		good := w.signIn("strict").access
		narrow := w.signIn("strict", "scope", "read").access
		dead := w.signIn("strict")
		w.post("/oauth2/revoke", nil, "client_id", "strict", "token", dead.refresh)
		info := func(h http.Header) reply { return w.sendRaw("GET", "/oauth2/userinfo", "", "", h) }
		got := map[string]reply{
			"none": info(nil), "invalid_token": w.userinfo("x"), "insufficient_scope": w.userinfo(narrow),
			"two tokens": w.post("/oauth2/userinfo", http.Header{"Authorization": {"Bearer " + good}}, "access_token", good),
			"in the URL": w.sendRaw("GET", "/oauth2/userinfo?access_token=x", "", "", nil),
		}
		for name, want := range bearerGolden {
			r := got[name]
			if s := fmt.Sprintf("%d %s", r.status, r.header.Get("WWW-Authenticate")); s != want {
				t.Errorf("%s: %s, want %s", name, s, want)
			}
			r.errorShape(t)
		}
		want := w.userinfo("x").outside()
		w.clock.Advance(time.Second)
		for name, token := range map[string]string{"revoked": dead.access, "forged": good[:len(good)-8] + "AAAAAAAA", "id token": dead.id, "refresh token": dead.refresh, "empty": " "} {
			if name == "empty" {
				continue
			}
			if got := w.userinfo(token).outside(); got != want {
				t.Errorf("%s is answered with\n%s\nwant\n%s", name, got, want)
			}
		}
		w.userinfo(good).must(t)
		w.clock.Advance(time.Hour)
		if got := w.userinfo(good).outside(); got != want {
			t.Errorf("an expired one is answered with\n%s", got)
		}
	})
}
