package server_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
)

// moved is what must not move when a request fails.
type moved struct {
	version       uint64
	status        family.Status
	head          uint32
	used, idle    family.Time
	ends, windows family.Time
	floor         uint32
	scope         family.Scope
}

func still(st family.State) moved {
	return moved{st.Version, st.Status, st.Head, st.LastUsed, st.IdleEnds, st.Ends, st.WindowStart, st.Floor, st.Grant.Scope}
}

// unspent runs f and fails the test if it moved anything in the family of a token.
func (w *world) unspent(token string, f func()) {
	w.t.Helper()
	before := still(w.family(token))
	f()
	if after := still(w.family(token)); after != before {
		w.t.Errorf("the family moved from %+v to %+v", before, after)
	}
}

// tokens signs alice in, if she is not, and gives this browser a family at a client.
func (b *browser) tokens(clientID string, pairs ...string) tokens {
	b.w.t.Helper()
	f := newFlow(clientID, pairs...)
	r := b.w.exchange(f, b.code(f))
	if r.status != 200 {
		b.w.t.Fatalf("the code is answered with %d %s", r.status, r.raw)
	}
	return r.tokens()
}

// basic is an Authorization header: each part is urlencoded first (RFC 6749 §2.3.1).
func basic(id, secret string) http.Header {
	text := url.QueryEscape(id) + ":" + url.QueryEscape(secret)
	return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(text))}}
}

// newest fails the test unless the newest event of the token's family is of this kind.
func (w *world) newest(token string, kind family.EventKind, why family.Reason, level family.Level) {
	w.t.Helper()
	e := w.events(token)[0]
	if e.Kind != kind || e.Reason != why || e.Level != level {
		w.t.Errorf("the newest event is %s %v %v, want %s %v %v", e.Kind, e.Reason, e.Level, kind, why, level)
	}
}

// forged is a refresh token of the right shape that nobody issued.
func forged(token string) string {
	last := token[len(token)-2]
	other := byte('A')
	if last == other {
		other = 'B'
	}
	return token[:len(token)-2] + string(other) + token[len(token)-1:]
}

func TestRT_C01_ForeignTokenIsRefusedAndUnspent(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("web", 1)
		unknown := w.refresh("web2", forged(rt[1])).refused(t)
		w.unspent(rt[1], func() {
			if r := w.refresh("web2", rt[1]).refused(t); r.raw != unknown.raw {
				t.Errorf("another client's token is told apart: %s, unknown: %s", r.raw, unknown.raw)
			}
		})
		w.newest(rt[1], family.FamilyAlarm, family.ForeignClient, family.Alert)
		w.refresh("web", rt[1]).must(t)
	})
}

func TestRT_C02_PublicTokenAtAnotherClientID(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("app", 0)
		w.unspent(rt[0], func() {
			for _, id := range []string{"app2", "spa", "strict"} {
				w.refresh(id, rt[0]).refused(t)
			}
			w.refresh("web", rt[0]).refused(t)
		})
		w.refresh("app", rt[0]).must(t)
	})
}

func TestRT_C03_ConfidentialClientMustAuthenticate(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("web", 0)
		w.unspent(rt[0], func() {
			w.post("/oauth2/token", nil, "client_id", "web", "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 401, "invalid_client")
			w.post("/oauth2/token", nil, "client_id", "web", "client_secret", "", "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 401, "invalid_client")
			w.post("/oauth2/token", nil, "client_id", "web", "client_secret", w.secret["web2"], "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 401, "invalid_client")
			w.post("/oauth2/token", nil, "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 401, "invalid_client")
		})
		w.refresh("web", rt[0]).must(t)
	})
}

func TestRT_C05_SecretsOverlap(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("web", 0)
		old := w.secret["web"]
		fresh, hash := client.NewSecret([32]byte{1, 2, 3}, time.Now())
		overlap := func(ends time.Time) {
			w.updateClient("web", func(c *client.Client) {
				c.Secrets = []client.Hash{c.Secrets[0], hash}
				c.Secrets[0].Expires = ends
			})
		}
		with := func(secret string) reply {
			return w.post("/oauth2/token", basic("web", secret), "grant_type", "refresh_token", "refresh_token", rt[len(rt)-1])
		}
		overlap(time.Now().Add(time.Hour))
		for _, s := range []string{old, fresh} {
			rt = append(rt, with(s).must(t).str("refresh_token"))
		}
		overlap(time.Now().Add(-time.Millisecond))
		w.unspent(rt[0], func() {
			r := with(old).errs(t, 401, "invalid_client")
			if !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Basic ") {
				t.Errorf("WWW-Authenticate is %q", r.header.Get("WWW-Authenticate"))
			}
		})
		with(fresh).must(t)
	})
}

func TestRT_C06_ClientBecomesConfidential(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("app", 0)
		secret, hash := client.NewSecret([32]byte{4}, time.Now())
		w.updateClient("app", func(c *client.Client) {
			c.Auth, c.Preset, c.Secrets = client.Secret, "web", []client.Hash{hash}
		})
		w.unspent(rt[0], func() { w.refresh("app", rt[0]).errs(t, 401, "invalid_client") })
		w.secret["app"] = secret
		w.refresh("app", rt[0]).must(t)
	})
}

func TestRT_C07_ConfidentialTokenMayNotLiveAtAPublicClient(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, id := range []string{"norotate", "web2"} {
			rt, _ := w.chain(id, 0)
			w.updateClient(id, func(c *client.Client) { c.Auth, c.Preset, c.Secrets = client.None, "native", nil })
			delete(w.secret, id)
			w.unspent(rt[0], func() { w.refresh(id, rt[0]).refused(t) })
			w.newest(rt[0], family.FamilyAlarm, family.BindingMismatch, family.Alert)
			next := w.signIn(id)
			w.refresh(id, next.refresh).must(t)
		}
	})
}

func TestRT_C19_TwoNamesInOneRequest(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("web", 0)
		w.unspent(rt[0], func() {
			w.post("/oauth2/token", basic("web", w.secret["web"]), "client_id", "web2", "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 400, "invalid_request")
			w.post("/oauth2/token", basic("web", w.secret["web"]), "client_id", "web2", "client_secret", w.secret["web2"], "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 400, "invalid_request")
			w.post("/oauth2/token", basic("web", w.secret["web"]), "client_secret", w.secret["web"], "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 400, "invalid_request")
		})
		w.post("/oauth2/token", basic("web", w.secret["web"]), "client_id", "web", "grant_type", "refresh_token", "refresh_token", rt[0]).must(t)
	})
}

// The two worlds have the same keys and the same clients, as a careless copy of a
// configuration would; only the issuer differs.
func TestRT_C23_TokenOfAnotherInstallation(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		staging := newWorld(t, engines["memory"], nil)
		theirs := staging.signIn("app")
		w.refresh("app", theirs.refresh).refused(t)
		if w.active(theirs.access) {
			t.Error("an access token of another issuer is active")
		}
		if r := w.post("/oauth2/revoke", nil, "client_id", "app", "token", theirs.refresh); r.status != 200 {
			t.Errorf("revoking it is answered with %d", r.status)
		}
		all, err := w.store.Events(context.Background(), family.EventQuery{})
		if err != nil || len(all) != 0 {
			t.Errorf("there are events %v, %v", all, err)
		}
		staging.refresh("app", theirs.refresh).must(t)
	})
}

func TestRT_C24_DisabledClientComesBack(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, id := range []string{"app", "web"} {
			rt, at := w.chain(id, 1)
			w.updateClient(id, func(c *client.Client) { c.Status = client.Disabled })
			w.unspent(rt[1], func() { w.refresh(id, rt[1]).errs(t, 401, "invalid_client") })
			if id != "web" && w.active(at[1]) { // web is the one that asks
				t.Error("an access token of a disabled client is active")
			}
			if p := w.browser().get(newFlow(id).url()); p.status != 403 || p.location != "" {
				t.Errorf("authorize answers %d, sends to %q", p.status, p.location)
			}
			w.updateClient(id, func(c *client.Client) { c.Status = client.Enabled })
			w.refresh(id, rt[1]).must(t)
			if !w.active(at[1]) {
				t.Error("its access token is not active again")
			}
		}
	})
}

func TestRT_C25_GrantTypeTakenAway(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("web", 1)
		w.updateClient("web", func(c *client.Client) { c.GrantTypes = []string{client.AuthorizationCode} })
		w.unspent(rt[1], func() {
			w.refresh("web", rt[1]).errs(t, 400, "unauthorized_client")
			w.refresh("web", rt[0]).errs(t, 400, "unauthorized_client")
		})
		w.updateClient("web", func(c *client.Client) {
			c.GrantTypes = []string{client.AuthorizationCode, client.RefreshToken}
		})
		w.refresh("web", rt[1]).must(t)
	})
}

// A secret that ships with every copy of an app proves nothing (RFC 8252 §8.5): with it
// the replay of A01 and A02 is one all the same.
func TestRT_C26_EmbeddedSecretDoesNotExcuseReplay(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		secret, hash := client.NewSecret([32]byte{5}, time.Now())
		w.updateClient("app", func(c *client.Client) { c.Auth, c.Secrets = client.Secret, []client.Hash{hash} })
		w.secret["app"] = secret
		rt, at := w.chain("app", 2)
		w.clock.Advance(31 * time.Second)
		w.refresh("app", rt[0]).refused(t)
		w.dead("app", family.Reused, rt, at)
	})
}

func TestRFC6749_10_ClientsNameOrProveThemselves(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		f := newFlow("app")
		code := w.browser().code(f)
		w.unspent(code, func() {
			w.post("/oauth2/token", nil, "grant_type", "authorization_code", "code", code, "code_verifier", f.verifier).errs(t, 401, "invalid_client")
			w.post("/oauth2/token", nil, "grant_type", "authorization_code", "code", code, "code_verifier", f.verifier, "client_id", "nobody").errs(t, 401, "invalid_client")
		})
		w.exchange(f, code).must(t)
	})
}

func TestRFC6749_18_RefreshTokenIsRequired(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.post("/oauth2/token", nil, "client_id", "app", "grant_type", "refresh_token").errs(t, 400, "invalid_request")
		w.post("/oauth2/token", nil, "client_id", "app", "grant_type", "refresh_token", "refresh_token", "").errs(t, 400, "invalid_request")
		w.post("/oauth2/token", nil, "client_id", "app", "refresh_token", "x").errs(t, 400, "invalid_request")
		w.refresh("app", "x").refused(t)
	})
}

func TestRFC6749_19_RefreshAuthenticatesThenBindsThenJudges(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strictweb", 2)
		w.unspent(rt[2], func() {
			// rt[0] would be reuse: but who asks has not even proven to be the client.
			w.post("/oauth2/token", basic("strictweb", "wrong"), "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 401, "invalid_client")
			// And here it is another one, whose requests end nothing.
			w.refresh("web", rt[0]).refused(t)
		})
		w.refresh("strictweb", rt[2]).must(t)
	})
}

func TestOAuth21_03_GrantMustStillBeActive(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("web2", 1)
		if _, err := family.End(context.Background(), w.store, w.family(rt[0]).ID, family.RevokedAdmin, family.Origin{}, ""); err != nil {
			t.Fatal(err)
		}
		w.dead("web2", family.RevokedAdmin, rt, at)
	})
}

func TestOAuth21_05_TamperedTokensAreUnknown(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strict", 0)
		raw, err := base64.RawURLEncoding.DecodeString(rt[0][len(family.RefreshPrefix):])
		if err != nil {
			t.Fatal(err)
		}
		w.unspent(rt[0], func() {
			// Every byte: version, key id, family, generation and tag.
			for i := range raw {
				bad := append([]byte(nil), raw...)
				bad[i] ^= 1
				w.refresh("strict", family.RefreshPrefix+base64.RawURLEncoding.EncodeToString(bad)).refused(t)
			}
			w.refresh("strict", family.CodePrefix+rt[0][len(family.RefreshPrefix):]).refused(t)
			f := newFlow("strict")
			w.exchange(f, rt[0]).refused(t)
			w.exchange(f, family.CodePrefix+rt[0][len(family.RefreshPrefix):]).refused(t)
		})
		if n := len(w.events(rt[0])); n != 1 {
			t.Errorf("%d events, want the one of the issue", n)
		}
		w.refresh("strict", rt[0]).must(t)
	})
}

// A policy that the store should never have got: the server would rather give nothing
// than an eternal bearer token, and the log says what to write instead.
func TestRFC9700_05_PublicClientRotatesOrGetsNothing(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("app", 0)
		for _, set := range []map[string]string{
			{"rotation": "never", "leeway": "0s", "until_used": "false"}, {"on_reuse": "reject"},
		} {
			w.updateClient("app", func(c *client.Client) { c.Policy = set })
			w.unspent(rt[0], func() {
				if r := w.refresh("app", rt[0]); r.status != 503 || r.str("access_token") != "" {
					t.Errorf("with %v the answer is %d %s", set, r.status, r.raw)
				}
			})
		}
		if !strings.Contains(w.logs.String(), "RFC 9700") {
			t.Error("the log does not say why")
		}
		w.updateClient("app", func(c *client.Client) { c.Policy = nil })
		w.refresh("app", rt[0]).must(t)
	})
}

func TestRFC10017_01_BrowserAppRotates(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("spa")
		second := w.refresh("spa", first.refresh).must(t).str("refresh_token")
		if second == first.refresh {
			t.Error("the token of a browser app was not rotated")
		}
		w.updateClient("spa", func(c *client.Client) {
			c.Policy = map[string]string{"rotation": "never", "leeway": "0s", "same_presenter": "false"}
		})
		w.unspent(second, func() {
			if r := w.refresh("spa", second); r.status != 503 {
				t.Errorf("the answer is %d %s", r.status, r.raw)
			}
		})
	})
}

func TestRFC10017_02_BrowserAppsTokenEnds(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("spa")
		w.updateClient("spa", func(c *client.Client) { c.Policy = map[string]string{"idle": "0", "absolute": "0"} })
		w.unspent(first.refresh, func() {
			if r := w.refresh("spa", first.refresh); r.status != 503 {
				t.Errorf("the answer is %d %s", r.status, r.raw)
			}
		})
		for _, set := range []map[string]string{{"idle": "0"}, {"absolute": "0"}} {
			w.updateClient("spa", func(c *client.Client) { c.Policy = set })
			first = w.refresh("spa", first.refresh).must(t).tokens()
		}
	})
}

func TestRFC10017_05_BrowserAppHasNoSecret(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		c, err := w.store.Client(context.Background(), "spa")
		if err != nil {
			t.Fatal(err)
		}
		_, hash := client.NewSecret([32]byte{6}, time.Now())
		c.Auth, c.Secrets = client.Secret, []client.Hash{hash}
		if err := c.Check(); err == nil {
			t.Error("a browser app may register a secret")
		}
		rt, _ := w.chain("spa", 0)
		w.unspent(rt[0], func() {
			w.refresh("spa", rt[0], "client_secret", "hcs_of its own").errs(t, 401, "invalid_client")
			w.post("/oauth2/token", basic("spa", ""), "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 401, "invalid_client")
		})
	})
}
