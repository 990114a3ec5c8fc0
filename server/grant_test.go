package server_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/user"
)

// userinfo asks who an access token is of.
func (w *world) userinfo(access string) reply {
	w.t.Helper()
	req, err := http.NewRequest("GET", w.issuer+"/oauth2/userinfo", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+access)
	return w.do(req)
}

// headerOf decodes a JWT's header without checking it.
func headerOf(t *testing.T, jwt string) map[string]any {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(jwt, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// audOf returns the audience of an access token.
func audOf(t *testing.T, jwt string) string {
	t.Helper()
	switch aud := claimsOf(t, jwt)["aud"].(type) {
	case string:
		return aud
	case []any:
		return strings.Trim(fmt.Sprint(aud), "[]")
	}
	return ""
}

const allScopes = "offline_access openid read write"

func TestRT_D01_WideningIsRefused(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, id := range []string{"strict", "norotate"} {
			first := w.signIn(id, "scope", "openid read")
			w.unspent(first.refresh, func() {
				w.refresh(id, first.refresh, "scope", "openid read write").errs(t, 400, "invalid_scope")
				w.refresh(id, first.refresh, "scope", "email").errs(t, 400, "invalid_scope")
			})
			w.refresh(id, first.refresh).must(t)
		}
	})
}

func TestRT_D02_NarrowOnceWideAgain(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("strict", "scope", "read write")
		r := w.refresh("strict", first.refresh, "scope", "read").must(t)
		if r.str("scope") != "read" || claimsOf(t, r.str("access_token"))["scope"] != "read" {
			t.Errorf("the answer is %s", r.raw)
		}
		r = w.refresh("strict", r.str("refresh_token")).must(t)
		if r.str("scope") != "read write" || claimsOf(t, r.str("access_token"))["scope"] != "read write" {
			t.Errorf("the answer is %s", r.raw)
		}
	})
}

func TestRT_D03_ScopeIsASetInAStrictGrammar(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict", "scope", "read write").refresh
		for asked, want := range map[string]string{"write read": "read write", "read read": "read", "": "read write"} {
			r := w.refresh("strict", rt, "scope", asked).must(t)
			if r.str("scope") != want {
				t.Errorf("scope %q gives %q, want %q", asked, r.str("scope"), want)
			}
			rt = r.str("refresh_token")
		}
		w.unspent(rt, func() {
			for _, bad := range []string{"read  write", " read", "read ", " ", "read\twrite", "read\"", "re\\ad", "r\u00e9ad", "Read"} {
				w.refresh("strict", rt, "scope", bad).errs(t, 400, "invalid_scope")
			}
		})
	})
}

func TestRT_D04_OfflineAccessIsNeverAnError(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		granted := w.signIn("strict", "scope", "read offline_access")
		if got := w.refresh("strict", granted.refresh, "scope", "read offline_access").must(t).str("scope"); got != "offline_access read" {
			t.Errorf("scope is %q", got)
		}
		without := w.signIn("strict", "scope", "read write")
		r := w.refresh("strict", without.refresh, "scope", "read offline_access").must(t)
		if r.str("scope") != "read" {
			t.Errorf("scope is %q, want it ignored", r.str("scope"))
		}
		if got := w.refresh("strict", r.str("refresh_token"), "scope", "offline_access").must(t).str("scope"); got != "read write" {
			t.Errorf("scope is %q, want it ignored", got)
		}
	})
}

func TestRT_D05_ScopeTakenFromTheClient(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict", "scope", "read write").refresh
		keep := func(scopes ...string) {
			w.updateClient("strict", func(c *client.Client) { c.Scopes = scopes })
		}
		keep("openid", "read")
		r := w.refresh("strict", rt).must(t)
		if r.str("scope") != "read" || claimsOf(t, r.str("access_token"))["scope"] != "read" {
			t.Errorf("the answer is %s", r.raw)
		}
		rt = r.str("refresh_token")
		keep("openid")
		w.unspent(rt, func() {
			w.refresh("strict", rt).refused(t)
			w.refresh("strict", rt, "scope", "read").refused(t)
		})
		keep("openid", "read", "write")
		if got := w.refresh("strict", rt).must(t).str("scope"); got != "read write" {
			t.Errorf("scope is %q once it was given back", got)
		}
	})
}

func TestRT_D06_NeverMoreThanTheUserAllowed(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict", "scope", "read").refresh
		w.updateClient("strict", func(c *client.Client) { c.Scopes = append(slices.Clone(c.Scopes), "admin") })
		w.unspent(rt, func() { w.refresh("strict", rt, "scope", "read admin").errs(t, 400, "invalid_scope") })
		if got := w.refresh("strict", rt).must(t).str("scope"); got != "read" {
			t.Errorf("scope is %q", got)
		}
	})
}

func TestRT_D07_UserWithdrawsAScope(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		wide := b.tokens("third")
		narrow := w.refresh("third", wide.refresh, "scope", "openid read").must(t).tokens()
		p := b.get("/account/apps")
		if !strings.Contains(p.body, `id="withdraw-third-write"`) || strings.Contains(p.body, `id="withdraw-third-openid"`) {
			t.Fatalf("the page is %s", p.body)
		}
		if p = b.post("/account/apps", url.Values{"client": {"third"}, "withdraw": {"write"}}); p.status != 303 {
			t.Fatalf("withdrawing is answered with %d", p.status)
		}
		if p = b.get(p.location); strings.Contains(p.body, `id="withdraw-third-write"`) || !strings.Contains(p.body, "The permission is withdrawn.") {
			t.Errorf("the page is %s", p.body)
		}
		if w.active(wide.access) || w.userinfo(wide.access).status != 401 {
			t.Error("an access token with the withdrawn scope is active")
		}
		if !w.active(narrow.access) {
			t.Error("an access token without it is not active")
		}
		r := w.refresh("third", narrow.refresh).must(t)
		if r.str("scope") != "offline_access openid read" {
			t.Errorf("scope is %q", r.str("scope"))
		}
		w.unspent(r.str("refresh_token"), func() {
			w.refresh("third", r.str("refresh_token"), "scope", "write").errs(t, 400, "invalid_scope")
		})
		// Asking again for it is asking the person again.
		if p = b.get(newFlow("third").url()); p.status != 303 || !strings.HasPrefix(p.location, "/consent?") {
			t.Errorf("the person is not asked again: %d %s", p.status, p.location)
		}
	})
}

func TestRT_D08_ResourcesNarrowAndStay(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict", "resource", apiURL, "resource", otherURL).refresh
		for _, res := range []string{apiURL, otherURL} {
			r := w.refresh("strict", rt, "resource", res).must(t)
			if got := audOf(t, r.str("access_token")); got != res {
				t.Errorf("aud is %q, want %q", got, res)
			}
			rt = r.str("refresh_token")
		}
		w.unspent(rt, func() {
			for _, bad := range []string{"https://third.example.com", apiURL + "#x", "relative", apiURL + "/deeper"} {
				w.refresh("strict", rt, "resource", bad).errs(t, 400, "invalid_target")
				w.refresh("strict", rt, "resource", apiURL, "resource", bad).errs(t, 400, "invalid_target")
			}
		})
		if got := audOf(t, w.refresh("strict", rt).must(t).str("access_token")); got != apiURL+" "+otherURL {
			t.Errorf("aud is %q, want both", got)
		}
	})
}

func TestRT_D09_ResourceTakenFromTheClient(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict", "resource", apiURL, "resource", otherURL).refresh
		w.updateClient("strict", func(c *client.Client) { c.Audience = nil })
		w.unspent(rt, func() { w.refresh("strict", rt, "resource", apiURL).errs(t, 400, "invalid_target") })
		r := w.refresh("strict", rt).must(t)
		if got := audOf(t, r.str("access_token")); got != otherURL {
			t.Errorf("aud is %q, want %q", got, otherURL)
		}
		w.updateClient("strict", func(c *client.Client) { c.Resources = nil })
		w.unspent(r.str("refresh_token"), func() {
			w.refresh("strict", r.str("refresh_token")).errs(t, 400, "invalid_target")
		})
	})
}

// sameIdentity fails the test unless a refreshed ID token speaks of the same sign-in as
// the first (OpenID Connect Core §12.2).
func sameIdentity(t *testing.T, first, next map[string]any) {
	t.Helper()
	for _, name := range []string{"iss", "sub", "aud", "azp", "auth_time", "acr", "amr", "sid"} {
		if !reflect.DeepEqual(first[name], next[name]) {
			t.Errorf("%s was %v and is %v", name, first[name], next[name])
		}
	}
	if first["iat"].(float64) >= next["iat"].(float64) {
		t.Errorf("iat was %v and is %v", first["iat"], next["iat"])
	}
	if _, has := next["nonce"]; has || first["nonce"] != "n-1" {
		t.Errorf("nonce was %v and is %v", first["nonce"], next["nonce"])
	}
}

// halfHash is at_hash for the algorithms with SHA-256.
func halfHash(access string) string {
	sum := sha256.Sum256([]byte(access))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

func TestRT_D11_IDTokenOfARefresh(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("web")
		w.clock.Advance(time.Hour)
		next := w.refresh("web", first.refresh).must(t).tokens()
		if _, err := w.ring.Verify(next.id, "JWT"); err != nil {
			t.Fatal(err)
		}
		sameIdentity(t, claimsOf(t, first.id), claimsOf(t, next.id))
		if got := claimsOf(t, next.id)["at_hash"]; got != halfHash(next.access) {
			t.Errorf("at_hash is %v, want %v", got, halfHash(next.access))
		}
		if got := claimsOf(t, next.id)["aud"]; got != "web" {
			t.Errorf("aud is %v", got)
		}
	})
}

func TestDEC9_NoIDTokenWhereItWasSwitchedOff(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("web", func(c *client.Client) { c.NoIDTokenOnRefresh = true })
		first := w.signIn("web")
		if first.id == "" {
			t.Error("the code gave no ID token")
		}
		if next := w.refresh("web", first.refresh).must(t).tokens(); next.id != "" {
			t.Error("the refresh gave an ID token")
		}
	})
}

func TestRT_D12_WithoutOpenIDNoIDToken(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("web")
		r := w.refresh("web", first.refresh, "scope", "read").must(t)
		if r.str("id_token") != "" {
			t.Error("an ID token without openid")
		}
		if r := w.userinfo(r.str("access_token")); r.status != 403 || !strings.Contains(r.header.Get("WWW-Authenticate"), "insufficient_scope") {
			t.Errorf("userinfo answers %d %s", r.status, r.raw)
		}
		if r = w.refresh("web", r.str("refresh_token")).must(t); r.str("id_token") == "" {
			t.Error("no ID token with openid")
		}
		plain := w.signIn("web", "scope", "read", "nonce", "")
		if plain.id != "" {
			t.Error("an ID token, though openid was never asked for")
		}
	})
}

// authentication is what a token says of how and when the user signed in.
func authentication(t *testing.T, jwt string) [3]string {
	c := claimsOf(t, jwt)
	return [3]string{fmt.Sprint(c["auth_time"]), fmt.Sprint(c["acr"]), fmt.Sprint(c["amr"])}
}

func TestRT_D13_StepUpDoesNotReachAnOldFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		old := b.tokens("web")
		w.clock.Advance(time.Hour)
		stepped := b.tokens("web", "prompt", "login")
		if authentication(t, stepped.access)[0] == authentication(t, old.access)[0] {
			t.Fatal("prompt=login did not ask again")
		}
		next := w.refresh("web", old.refresh).must(t).tokens()
		for _, jwt := range []string{next.access, next.id} {
			if got, want := authentication(t, jwt), authentication(t, old.access); got != want {
				t.Errorf("after the step-up of another family it is %v, was %v", got, want)
			}
		}
	})
}

func TestRFC9470_03_RefreshNeverFreshensTheSignIn(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("web")
		want, rt := authentication(t, first.access), first.refresh
		if want[0] == "<nil>" || want[1] != "0" || want[2] != "[pwd]" {
			t.Fatalf("the first token says %v", want)
		}
		for range 3 {
			w.clock.Advance(24 * time.Hour)
			// Neither parameter means anything here, and neither is obeyed.
			r := w.refresh("web", rt, "acr_values", "gold", "max_age", "0").must(t)
			for _, jwt := range []string{r.str("access_token"), r.str("id_token")} {
				if got := authentication(t, jwt); got != want {
					t.Errorf("it is %v, was %v", got, want)
				}
			}
			said := w.post("/oauth2/introspect", nil, append(w.as("web"), "token", r.str("access_token"))...).must(t)
			if got := fmt.Sprint(said.body["auth_time"]); got != want[0] {
				t.Errorf("introspection says auth_time %s, want %s", got, want[0])
			}
			rt = r.str("refresh_token")
		}
	})
}

func TestRFC9068_03_AuthenticationStaysThroughRefreshes(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("spa")
		want, rt := authentication(t, first.access), first.refresh
		for range 3 {
			w.clock.Advance(time.Hour)
			next := w.refresh("spa", rt).must(t).tokens()
			if got := authentication(t, next.access); got != want {
				t.Errorf("it is %v, was %v", got, want)
			}
			rt = next.refresh
		}
	})
}

func TestRT_D14_TodaysClaims(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("web", "scope", "openid email", "claims", `{"id_token":{"email":null,"name":{"essential":true}}}`)
		sub := claimsOf(t, first.id)["sub"]
		u := w.user(aliceName)
		u.Claims.Email, u.Claims.Name = "new@example.com", ""
		if err := w.store.PutUser(context.Background(), u); err != nil {
			t.Fatal(err)
		}
		next := w.refresh("web", first.refresh).must(t).tokens()
		c := claimsOf(t, next.id)
		if _, has := c["name"]; c["email"] != "new@example.com" || has || c["sub"] != sub {
			t.Errorf("the ID token says %v", c)
		}
		r := w.userinfo(next.access).must(t)
		if r.str("email") != "new@example.com" || r.body["sub"] != sub || r.str("name") != "" {
			t.Errorf("userinfo says %s", r.raw)
		}
	})
}

func TestRT_D15_IDTokenAlgorithmChanges(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("web").refresh
		for _, alg := range []string{"RS256", "PS256", "EdDSA", "ES256", ""} {
			w.updateClient("web", func(c *client.Client) { c.IDTokenAlg = alg })
			next := w.refresh("web", rt).must(t).tokens()
			want := alg
			if alg == "" {
				want = "ES256"
			}
			if got := headerOf(t, next.id)["alg"]; got != want {
				t.Errorf("alg is %v, want %s", got, want)
			}
			if _, err := w.ring.Verify(next.id, "JWT"); err != nil {
				t.Error(err)
			}
			if h := headerOf(t, next.access); h["alg"] != "ES256" || h["typ"] != "at+jwt" {
				t.Errorf("the access token's header is %v", h)
			}
			rt = next.refresh
		}
	})
}

func TestRFC6749_11_ScopeIsASetOfWordsWithCase(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for asked, want := range map[string]string{"write read": "read write", "read write read": "read write", "read Read": "read", "read no-such": "read"} {
			f := newFlow("web", "scope", asked, "nonce", "")
			r := w.exchange(f, b.code(f)).must(t)
			if r.str("scope") != want {
				t.Errorf("scope %q gives %q, want %q", asked, r.str("scope"), want)
			}
		}
		if v := b.walk(newFlow("web", "scope", "Read"), aliceName, alicePassword); v.Get("error") != "invalid_scope" {
			t.Errorf("a scope that nobody has is answered with %v", v)
		}
	})
}

func TestRFC6749_14_StateComesBackExactly(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		states := []string{"a", strings.Repeat("s", 1024), "a&b=c", "a#b", "100%", "a b+c", "ж·日本", `"'<>`, "&code=stolen", "a;b", "\r\n x"}
		in := w.browser()
		in.tokens("web")
		for _, state := range states {
			for _, b := range []*browser{w.browser(), in} {
				want := "login_required"
				if b == in {
					want = ""
				}
				p := b.get(newFlow("web", "prompt", "none", "state", state).url())
				u, err := url.Parse(p.location)
				if err != nil || p.status != 303 {
					t.Fatalf("%d %q %v", p.status, p.location, err)
				}
				q := u.Query()
				if q.Get("state") != state || q.Get("error") != want || q.Get("iss") != w.issuer || len(q["code"]) > 1 || u.Fragment != "" {
					t.Errorf("state %q comes back in %q", state, p.location)
				}
			}
		}
	})
}

func TestRFC6749_15_NoRefreshTokenForClientCredentials(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		r := w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials", "scope", "read offline_access openid")...).must(t)
		if r.str("refresh_token") != "" || r.str("id_token") != "" || r.str("scope") != "read" {
			t.Errorf("the answer is %s", r.raw)
		}
		if c := claimsOf(t, r.str("access_token")); c["sub"] != "web" || c["client_id"] != "web" || c["fam"] != nil {
			t.Errorf("the token says %v", c)
		}
		if !w.active(r.str("access_token")) {
			t.Error("the token is not active")
		}
		if r := w.userinfo(r.str("access_token")); r.status != 403 {
			t.Errorf("userinfo answers %d", r.status)
		}
		w.post("/oauth2/token", nil, append(w.as("web2"), "grant_type", "client_credentials")...).errs(t, 400, "unauthorized_client")
	})
}

func TestRFC6749_20_OmittedScopeIsTheGrantedOne(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("web", "scope", allScopes)
		if got := w.refresh("web", first.refresh).must(t).str("scope"); got != allScopes {
			t.Errorf("scope is %q, want %q", got, allScopes)
		}
	})
}

func TestRFC6749_21_DEC7_GrantIsAsBeforeAfterANarrowRefresh(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		for range 3 {
			rt = w.refresh("strict", rt, "scope", "read", "resource", apiURL).must(t).str("refresh_token")
			if got := w.family(rt).Grant.Scope; got != family.Scope(allScopes) {
				t.Errorf("the stored grant is %q", got)
			}
		}
		if got := w.refresh("strict", rt, "scope", allScopes).must(t).str("scope"); got != allScopes {
			t.Errorf("scope is %q", got)
		}
	})
}

func TestOAuth21_06_RotatedTokenHasTheSameScope(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("web", "scope", "read write").refresh
		rt = w.refresh("web", rt, "scope", "write").must(t).str("refresh_token")
		r := w.post("/oauth2/introspect", nil, append(w.as("web"), "token", rt)...).must(t)
		if r.str("scope") != "read write" {
			t.Errorf("the refresh token's scope is %q", r.str("scope"))
		}
	})
}

func TestRFC8707_01_ResourceIsAnAbsoluteURIWithoutFragment(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, bad := range []string{"relative", "/path", apiURL + "#x", "#", "api", "https://api.example.com/\n", "::"} {
			p := b.get(newFlow("web", "resource", bad).url())
			if u, _ := url.Parse(p.location); p.status != 303 || u.Query().Get("error") != "invalid_target" {
				t.Errorf("authorize answers resource %q with %d %s", bad, p.status, p.location)
			}
			w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials", "resource", bad)...).errs(t, 400, "invalid_target")
		}
		if got := audOf(t, b.tokens("web", "resource", apiURL, "resource", otherURL).access); got != apiURL+" "+otherURL {
			t.Errorf("aud is %q, want both", got)
		}
	})
}

func TestRFC8707_02_UnknownResourceEverywhere(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		const unknown = "https://unknown.example.com"
		b := w.browser()
		p := b.get(newFlow("web", "resource", apiURL, "resource", unknown).url())
		if u, _ := url.Parse(p.location); u.Query().Get("error") != "invalid_target" || u.Query().Get("state") == "" {
			t.Errorf("authorize answers with %d %s", p.status, p.location)
		}
		f := newFlow("strictweb", "resource", apiURL)
		code := b.code(f)
		w.unspent(code, func() {
			w.exchange(f, code, "resource", unknown).errs(t, 400, "invalid_target")
			w.exchange(f, code, "resource", otherURL).errs(t, 400, "invalid_target")
		})
		tok := w.exchange(f, code).must(t).tokens()
		w.unspent(tok.refresh, func() {
			w.refresh("strictweb", tok.refresh, "resource", unknown).errs(t, 400, "invalid_target")
		})
		w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials", "resource", unknown)...).errs(t, 400, "invalid_target")
	})
}

func TestRFC8707_03_CodeMayBeExchangedForOneOfItsResources(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		f := newFlow("strict", "resource", apiURL, "resource", otherURL)
		tok := w.exchange(f, w.browser().code(f), "resource", otherURL).must(t).tokens()
		if got := audOf(t, tok.access); got != otherURL {
			t.Errorf("aud is %q", got)
		}
		tok = w.refresh("strict", tok.refresh).must(t).tokens()
		if got := audOf(t, tok.access); got != apiURL+" "+otherURL {
			t.Errorf("aud is %q, want both", got)
		}
	})
}

func TestRFC8707_04_ResourceAddedLaterIsOutOfReach(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		const later = "https://later.example.com"
		b := w.browser()
		tok := b.tokens("third", "resource", otherURL)
		con, err := w.store.Consent(context.Background(), w.user(aliceName).ID, "third")
		if err != nil || !slices.Equal(con.Resources, []string{otherURL}) || con.Scope != allScopes {
			t.Fatalf("the consent is %+v, %v", con, err)
		}
		w.updateClient("third", func(c *client.Client) { c.Resources = append(slices.Clone(c.Resources), later) })
		w.unspent(tok.refresh, func() {
			w.refresh("third", tok.refresh, "resource", later).errs(t, 400, "invalid_target")
			w.refresh("third", tok.refresh, "resource", apiURL).errs(t, 400, "invalid_target")
		})
		if p := b.get(newFlow("third", "resource", later).url()); !strings.HasPrefix(p.location, "/consent?") {
			t.Errorf("a new resource is not asked for: %d %s", p.status, p.location)
		}
	})
}

func TestRFC8707_05_OneCanonicalForm(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("web", "resource", "HTTPS://API.example.com/").refresh
		for _, same := range []string{apiURL, apiURL + "/", "https://API.EXAMPLE.COM", apiURL + ":443"} {
			r := w.refresh("web", rt, "resource", same).must(t)
			if got := audOf(t, r.str("access_token")); got != apiURL {
				t.Errorf("resource %q gives aud %q", same, got)
			}
			rt = r.str("refresh_token")
		}
		w.unspent(rt, func() {
			for _, other := range []string{"http://api.example.com", apiURL + ":8443", apiURL + "/x", apiURL + "?x"} {
				w.refresh("web", rt, "resource", other).errs(t, 400, "invalid_target")
			}
		})
	})
}

func TestRFC9068_01_HeaderOfEveryAccessToken(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		first := b.tokens("web")
		all := []string{
			first.access, w.refresh("web", first.refresh).must(t).str("access_token"), b.tokens("spa").access, b.tokens("norefresh").access,
			w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials")...).must(t).str("access_token"),
		}
		for _, jwt := range all {
			if h := headerOf(t, jwt); h["typ"] != "at+jwt" || h["alg"] != "ES256" || h["kid"] == nil {
				t.Errorf("the header is %v", h)
			}
		}
		// An ID token is no access token.
		if w.active(first.id) || w.userinfo(first.id).status != 401 {
			t.Error("an ID token is accepted as an access token")
		}
	})
}

func TestRFC9068_02_ClaimsOfAnAccessToken(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		first := w.signIn("strict")
		seen := map[string]bool{}
		rt := first.refresh
		for range 100 {
			r := w.refresh("strict", rt).must(t)
			c := claimsOf(t, r.str("access_token"))
			if c["iss"] != w.issuer || c["sub"] != string(w.user(aliceName).ID) || c["client_id"] != "strict" {
				t.Fatalf("the claims are %v", c)
			}
			now := float64(w.clock.Now().Unix())
			if c["iat"] != now || c["exp"] != now+300 {
				t.Fatalf("iat %v, exp %v at %v", c["iat"], c["exp"], now)
			}
			seen[c["jti"].(string)] = true
			rt = r.str("refresh_token")
		}
		if len(seen) != 100 {
			t.Errorf("%d different jti, want 100", len(seen))
		}
	})
}

func TestRFC9068_04_ScopeIsTheNarrowedOne(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("strict")
		if got := claimsOf(t, first.access)["scope"]; got != allScopes {
			t.Errorf("scope is %v", got)
		}
		if got := claimsOf(t, w.refresh("strict", first.refresh, "scope", "write").must(t).str("access_token"))["scope"]; got != "write" {
			t.Errorf("scope is %v", got)
		}
		none := w.signIn("strict", "scope", "")
		if c := claimsOf(t, none.access); c["scope"] != nil {
			t.Errorf("scope is %v, want none", c["scope"])
		}
	})
}

func TestRFC9068_05_AudienceIsNeverEmpty(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		if got := audOf(t, w.signIn("web").access); got != apiURL {
			t.Errorf("aud is %q, want the client's default", got)
		}
		w.updateClient("web2", func(c *client.Client) { c.Audience, c.Resources = nil, nil })
		if got := audOf(t, w.signIn("web2").access); got != w.issuer {
			t.Errorf("aud is %q, want the issuer", got)
		}
	})
}

func TestOIDC_06_OfflineAccessIsNeverAnErrorEither(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, id := range []string{"web", "app", "third"} {
			for _, prompt := range []string{"", "consent"} {
				tok := b.tokens(id, "prompt", prompt)
				if tok.refresh == "" || !w.family(tok.refresh).Grant.Offline {
					t.Errorf("%s with prompt %q: no offline family", id, prompt)
				}
			}
		}
		if tok := b.tokens("web", "scope", "openid"); w.family(tok.refresh).Grant.Offline {
			t.Error("an offline family that was not asked for")
		}
		w.updateClient("web2", func(c *client.Client) { c.Scopes = []string{"openid", "read"} })
		if tok := b.tokens("web2"); w.family(tok.refresh).Grant.Offline {
			t.Error("an offline family that the client may not have")
		}
		if p := b.get(newFlow("web", "response_type", "id_token").url()); !strings.Contains(p.location, "unsupported_response_type") {
			t.Errorf("an implicit request is answered with %q", p.location)
		}
	})
}

func TestOIDC_07_RefreshTokenIsItsClients(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		tok := w.signIn("web", "scope", "openid")
		w.unspent(tok.refresh, func() {
			w.refresh("web2", tok.refresh).refused(t)
			w.post("/oauth2/token", basic("web", w.secret["web2"]), "grant_type", "refresh_token", "refresh_token", tok.refresh).errs(t, 401, "invalid_client")
		})
	})
}

func TestOIDC_08_DEC9_EightRulesOfARefreshedIDToken(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, id := range []string{"web", "spa", "norotate"} {
			first := b.tokens(id)
			rt := first.refresh
			for range 2 {
				w.clock.Advance(2 * time.Second)
				next := w.refresh(id, rt).must(t).tokens()
				c := claimsOf(t, next.id)
				sameIdentity(t, claimsOf(t, first.id), c)
				if c["exp"].(float64) <= c["iat"].(float64) || c["aud"] != id || c["at_hash"] != halfHash(next.access) {
					t.Errorf("%s: the claims are %v", id, c)
				}
				if r := w.userinfo(next.access).must(t); r.body["sub"] != c["sub"] {
					t.Errorf("userinfo's sub is %v, the ID token's %v", r.body["sub"], c["sub"])
				}
				rt = next.refresh
			}
		}
	})
}

func TestOIDC_09_ErrorsOfARefresh(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		w.unspent(rt, func() {
			for _, r := range []reply{
				w.refresh("strict", "hrt_nothing").errs(t, 400, "invalid_grant"),
				w.refresh("strict", "").errs(t, 400, "invalid_request"),
				w.refresh("strict", rt, "scope", "admin").errs(t, 400, "invalid_scope"),
				w.refresh("nobody", rt).errs(t, 401, "invalid_client"),
				w.post("/oauth2/token", nil, "client_id", "strict", "grant_type", "password", "username", aliceName, "password", alicePassword).errs(t, 400, "unsupported_grant_type"),
			} {
				if r.header.Get("Content-Type") != "application/json" || r.header.Get("Cache-Control") != "no-store" || r.header.Get("Pragma") != "no-cache" {
					t.Errorf("the headers are %v", r.header)
				}
				if strings.Contains(r.raw, "nothing") || strings.Contains(r.raw, "nobody") {
					t.Errorf("the answer repeats what was sent: %s", r.raw)
				}
			}
		})
	})
}

func TestRT_D14_UserWithoutTheClaimGetsNone(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		u := w.user(aliceName)
		u.Claims = user.Claims{}
		if err := w.store.PutUser(context.Background(), u); err != nil {
			t.Fatal(err)
		}
		tok := w.signIn("web", "scope", "openid email profile address phone")
		if r := w.userinfo(tok.access).must(t); r.raw != `{"sub":"`+string(u.ID)+`"}` {
			t.Errorf("userinfo says %s", r.raw)
		}
	})
}
