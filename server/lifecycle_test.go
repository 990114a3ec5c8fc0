package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/user"
)

// lives fails the test unless the family's newest token works; it returns the next.
func (w *world) lives(clientID, token string) string {
	w.t.Helper()
	r := w.refresh(clientID, token)
	if r.status != 200 {
		w.t.Fatalf("%s: the family should live, the answer is %d %s", clientID, r.status, r.raw)
	}
	return r.str("refresh_token")
}

// signedIn reports whether a browser has a session.
func (b *browser) signedIn() bool {
	b.w.t.Helper()
	return b.get("/account").status == 200
}

// silent asks with prompt=none and returns the error that the client is told, "" for a
// code.
func (b *browser) silent(clientID string) string {
	b.w.t.Helper()
	p := b.get(newFlow(clientID, "prompt", "none").url())
	u, err := url.Parse(p.location)
	if err != nil || p.status != 303 {
		b.w.t.Fatalf("prompt=none is answered with %d %q", p.status, p.location)
	}
	return u.Query().Get("error")
}

// end presses one of the buttons of the account page.
func (b *browser) end(what string) shownPage {
	b.w.t.Helper()
	return b.post("/account/sessions", url.Values{"end": {what}})
}

func (w *world) revoke(clientID, token string, more ...string) reply {
	w.t.Helper()
	return w.post("/oauth2/revoke", nil, append(append(w.as(clientID), "token", token), more...)...)
}

func (w *world) introspect(clientID, token string) reply {
	w.t.Helper()
	return w.post("/oauth2/introspect", nil, append(w.as(clientID), "token", token)...).must(w.t.(*testing.T))
}

// told counts the events of a user by kind and reason.
func (w *world) told(id user.ID, kind family.EventKind, why family.Reason) (n int) {
	w.t.Helper()
	all, err := w.store.Events(context.Background(), family.EventQuery{User: string(id), Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range all {
		if e.Kind == kind && e.Reason == why {
			n++
		}
	}
	return n
}

func TestRT_F01_LogoutEndsWhatIsBoundToTheSession(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		bound, offline := b.tokens("web", "scope", "openid read"), b.tokens("web")
		other := b.tokens("strict", "scope", "read")
		p := b.get("/oauth2/end_session?id_token_hint=" + bound.id)
		if p.status != 200 || !strings.Contains(p.body, "You are signed out") {
			t.Fatalf("the browser shows %d %s", p.status, p.body)
		}
		w.dead("web", family.RevokedLogout, []string{bound.refresh}, []string{bound.access})
		w.dead("strict", family.RevokedLogout, []string{other.refresh}, []string{other.access})
		if !w.active(offline.access) {
			t.Error("the offline family's access token is not active")
		}
		w.lives("web", offline.refresh)
		if b.signedIn() {
			t.Error("the browser is still signed in")
		}
	})
}

func TestRT_F02_OtherBrowsersStaySignedIn(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		one, two := w.browser(), w.browser()
		first, second := one.tokens("web", "scope", "openid"), two.tokens("web", "scope", "openid")
		one.end("this")
		w.dead("web", family.RevokedLogout, []string{first.refresh}, nil)
		w.lives("web", second.refresh)
		if !two.signedIn() {
			t.Error("the other browser was signed out")
		}
	})
}

// Whatever is notified afterwards: when the person sees "signed out", it is so.
func TestRT_F03_LocalRevocationFirst(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		var all []tokens
		for range 30 {
			all = append(all, b.tokens("web", "scope", "openid"))
		}
		if p := b.end("this"); p.status != 200 {
			t.Fatalf("signing out is answered with %d", p.status)
		}
		for _, tok := range all {
			w.refresh("web", tok.refresh).refused(t)
			if w.active(tok.access) {
				t.Error("an access token is active")
			}
		}
	})
}

func TestRT_F04_RFC10017_04_BrowserAppEndsWithTheSession(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for name, out := range map[string]func(b *browser, id string){
			"button":      func(b *browser, _ string) { b.end("this") },
			"end_session": func(b *browser, id string) { b.get("/oauth2/end_session?id_token_hint=" + id) },
			"from another device": func(_ *browser, id string) {
				other := w.browser()
				other.login(aliceName, alicePassword)
				other.end("s" + claimsOf(t, id)["sid"].(string))
			},
		} {
			b := w.browser()
			tok := b.tokens("spa", "scope", "openid offline_access")
			out(b, tok.id)
			why := family.RevokedLogout
			if name == "from another device" {
				why = family.RevokedUser
			}
			w.dead("spa", why, []string{tok.refresh}, []string{tok.access})
		}
	})
}

func TestRT_F05_PasswordChangeEndsEverything(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		password := alicePassword
		for _, keep := range []string{"1", ""} {
			id := w.user(aliceName).ID
			before := w.told(id, family.UserRevoked, family.RevokedPasswordChange)
			devices := []*browser{w.browser(), w.browser(), w.browser()}
			var all []tokens
			for _, b := range devices {
				for _, scope := range []string{"openid", "openid offline_access"} {
					f := newFlow("web", "scope", scope)
					v := b.walk(f, aliceName, password)
					all = append(all, w.exchange(f, v.Get("code")).must(t).tokens())
				}
			}
			bob := w.browser()
			f := newFlow("web")
			his := w.exchange(f, bob.walk(f, bobName, bobPassword).Get("code")).must(t).tokens()

			change := url.Values{"current_password": {password}, "new_password": {password + "!"}}
			if keep != "" {
				change.Set("keep", keep)
			}
			p := devices[0].post("/account/password", change)
			if want := map[string]int{"1": 303, "": 200}[keep]; p.status != want {
				t.Fatalf("the change is answered with %d %s", p.status, p.body)
			}
			password += "!"
			for _, tok := range all {
				w.dead("web", family.RevokedPasswordChange, []string{tok.refresh}, []string{tok.access})
			}
			for i, b := range devices {
				if got, want := b.signedIn(), i == 0 && keep == "1"; got != want {
					t.Errorf("keep=%q: device %d is signed in: %v, want %v", keep, i, got, want)
				}
			}
			if n := w.told(id, family.UserRevoked, family.RevokedPasswordChange) - before; n != 1 {
				t.Errorf("%d credential-change events, want 1", n)
			}
			w.lives("web", his.refresh)
			if keep == "1" {
				// The kept session opens new families at once.
				f := newFlow("web", "prompt", "none")
				w.exchange(f, devices[0].walk(f, "", "").Get("code")).must(t)
			}
		}
	})
}

func TestRT_F07_DisabledUser(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("web")
		ctx := context.Background()
		if err := w.store.PutUser(ctx, w.user(aliceName).Disable(w.clock.Now())); err != nil {
			t.Fatal(err)
		}
		w.unspent(tok.refresh, func() { w.refresh("web", tok.refresh).refused(t) })
		if !strings.Contains(w.logs.String(), `"reason":"user_disabled"`) {
			t.Error("the log does not say user_disabled")
		}
		if w.active(tok.access) || w.userinfo(tok.access).status != 401 {
			t.Error("an access token of a disabled user is active")
		}
		if got := b.silent("web"); got != "login_required" {
			t.Errorf("prompt=none is answered with %q", got)
		}
		if err := w.store.PutUser(ctx, w.user(aliceName).Enable()); err != nil {
			t.Fatal(err)
		}
		// What was issued before stays dead: nobody knows why they were disabled.
		w.refresh("web", tok.refresh).refused(t)
		if b.signedIn() {
			t.Error("the old session came back")
		}
		w.clock.Advance(time.Second)
		w.lives("web", b.tokens("web").refresh)
	})
}

func TestRT_F08_DeletedUserNeverComesBack(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("web")
		old, ctx := w.user(aliceName), context.Background()
		if err := w.store.DeleteUser(ctx, old.ID); err != nil {
			t.Fatal(err)
		}
		refused := func() {
			t.Helper()
			w.refresh("web", tok.refresh).refused(t)
			if w.active(tok.access) || w.userinfo(tok.access).status != 401 || b.signedIn() {
				t.Error("something of a deleted user lives")
			}
		}
		refused()
		next := old
		next.ID, next.Version, next.CreatedAt = user.NewID([16]byte{9}), 0, w.clock.Now()
		if err := w.store.PutUser(ctx, next); err != nil {
			t.Fatal(err)
		}
		refused()
		fresh := w.signIn("web")
		if a, b := claimsOf(t, fresh.id)["sub"], claimsOf(t, tok.id)["sub"]; a == b {
			t.Errorf("the new user has the old sub %v", a)
		}
		old.Version = 0
		if err := w.store.PutUser(ctx, old); err == nil {
			t.Error("the old sub was given again")
		}
		refused()
	})
}

func TestRT_F09_ConsentWithdrawn(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		theirs := []tokens{b.tokens("third"), b.tokens("third", "scope", "openid")}
		own := b.tokens("web")
		f := newFlow("third")
		his := w.exchange(f, w.browser().walk(f, bobName, bobPassword).Get("code")).must(t).tokens()
		if p := b.get("/account/apps"); !strings.Contains(p.body, `id="remove-third"`) {
			t.Fatalf("the page is %s", p.body)
		}
		if p := b.post("/account/apps", url.Values{"client": {"third"}, "remove": {"third"}}); p.status != 303 {
			t.Fatalf("removing is answered with %d %s", p.status, p.body)
		}
		for _, tok := range theirs {
			w.dead("third", family.RevokedUser, []string{tok.refresh}, []string{tok.access})
		}
		w.lives("web", own.refresh)
		w.lives("third", his.refresh)
		if p := b.get("/account/apps"); strings.Contains(p.body, `id="remove-third"`) || !strings.Contains(p.body, `id="remove-web"`) {
			t.Errorf("the page is %s", p.body)
		}
		if p := b.get(newFlow("third").url()); !strings.HasPrefix(p.location, "/consent?") {
			t.Errorf("the person is not asked again: %d %s", p.status, p.location)
		}
	})
}

func TestRT_F10_AllOfAClientAtOnce(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		var all []tokens
		for range 100 {
			all = append(all, b.tokens("strict", "scope", "read"))
		}
		other := b.tokens("web")
		machine := w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials")...).must(t).str("access_token")
		cut := func(id string) {
			w.updateClient(id, func(c *client.Client) {
				c.NotBefore, c.NotBeforeReason = w.clock.Now(), family.RevokedAdmin.String()
			})
		}
		cut("strict")
		for _, tok := range all {
			w.refresh("strict", tok.refresh).refused(t)
			if w.active(tok.access) {
				t.Error("an access token is active")
			}
		}
		if st := w.family(all[0].refresh); st.Status != family.Live {
			t.Error("rows were written: the cut-off alone should do")
		}
		w.lives("web", other.refresh)
		w.sweep()
		for _, tok := range all {
			w.dead("strict", family.RevokedAdmin, []string{tok.refresh}, []string{tok.access})
		}
		w.clock.Advance(time.Second)
		w.lives("strict", b.tokens("strict").refresh)
		if !w.active(machine) {
			t.Fatal("a token of another client is not active")
		}
		cut("web")
		w.clock.Advance(time.Second)
		if w.active(machine) {
			t.Error("a token of client_credentials is active")
		}
	})
}

func TestRT_F11_DeletedClient(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("strict")
		f := newFlow("strict")
		code := b.code(f)
		gone, err := w.store.Client(context.Background(), "strict")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.DeleteClient(context.Background(), "strict"); err != nil {
			t.Fatal(err)
		}
		w.refresh("strict", tok.refresh).errs(t, 401, "invalid_client")
		w.exchange(f, code).errs(t, 401, "invalid_client")
		w.refresh("web", tok.refresh).refused(t)
		if w.active(tok.access) || w.userinfo(tok.access).status != 401 {
			t.Error("an access token of a deleted client is active")
		}
		if p := b.get(newFlow("strict").url()); p.status != 400 || p.location != "" {
			t.Errorf("authorize answers %d, sends to %q", p.status, p.location)
		}
		gone.Version = 0
		if err := w.store.PutClient(context.Background(), gone); !errors.Is(err, family.ErrExists) {
			t.Errorf("its id was given again: %v", err)
		}
	})
}

func TestRT_F12_TightenedClient(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("norotate")
		w.refresh("norotate", first.refresh).must(t)
		w.updateClient("norotate", func(c *client.Client) { c.Preset = "strict" })
		next := w.lives("norotate", first.refresh)
		if next == first.refresh {
			t.Error("it does not rotate")
		}
		w.refresh("norotate", first.refresh).refused(t)
		w.dead("norotate", family.Reused, []string{first.refresh, next}, []string{first.access})

		again := w.signIn("norotate")
		w.clock.Advance(2 * time.Hour)
		w.policy("norotate", "idle", "1h")
		w.unspent(again.refresh, func() { w.refresh("norotate", again.refresh).refused(t) })
	})
}

func TestRT_F13_RedirectURIRemoved(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("web")
		w.updateClient("web", func(c *client.Client) { c.RedirectURIs = []string{"https://new.example.com/cb"} })
		w.lives("web", tok.refresh)
		if p := b.get(newFlow("web").url()); p.status != 400 || p.location != "" {
			t.Errorf("authorize answers %d, sends to %q", p.status, p.location)
		}
	})
}

func TestRT_F15_RFC7009_05_AccessTokenAloneThenTheFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("app", 1)
		if r := w.revoke("app", at[0]); r.status != 200 || r.raw != "" {
			t.Fatalf("the answer is %d %q", r.status, r.raw)
		}
		if w.active(at[0]) || w.userinfo(at[0]).status != 401 {
			t.Error("the revoked access token is active")
		}
		if !w.active(at[1]) {
			t.Error("its sibling is not active")
		}
		rt = append(rt, w.lives("app", rt[1]))
		w.revoke("app", rt[2]).must(t)
		w.dead("app", family.RevokedClient, rt, at)
	})
}

func TestRT_F16_EverywhereMeansEverything(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		one, two := w.browser(), w.browser()
		all := []tokens{one.tokens("web"), one.tokens("app", "scope", "read"), two.tokens("web"), two.tokens("spa")}
		ids := []string{"web", "app", "web", "spa"}
		f := newFlow("app")
		outstanding := two.code(f)
		if p := one.end("all"); p.status != 200 || !strings.Contains(p.body, "You are signed out") {
			t.Fatalf("the answer is %d %s", p.status, p.body)
		}
		w.exchange(f, outstanding).refused(t)
		for i, tok := range all {
			w.dead(ids[i], family.RevokedUser, []string{tok.refresh}, []string{tok.access})
		}
		for _, b := range []*browser{one, two} {
			if got := b.silent("web"); got != "login_required" {
				t.Errorf("prompt=none is answered with %q", got)
			}
		}
		w.clock.Advance(time.Second)
		w.lives("web", one.tokens("web").refresh)
	})
}

func TestRT_F19_StepUpIsANewFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		old := b.tokens("strict")
		f := newFlow("strict", "prompt", "login")
		code := b.code(f)
		mid := w.lives("strict", old.refresh)
		stepped := w.exchange(f, code).must(t).tokens()
		if w.family(stepped.refresh).ID == w.family(old.refresh).ID {
			t.Error("the step-up changed the old family")
		}
		w.lives("strict", mid)
		w.lives("strict", stepped.refresh)
	})
}

func TestRT_F23_KeysRotate(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		old := w.signIn("strict")
		kid := func(jwt string) string { return headerOf(t, jwt)["kid"].(string) }
		published := func(kid string) bool {
			return strings.Contains(w.browser().get("/oauth2/jwks").body, kid)
		}
		for _, use := range []struct {
			use keys.Use
			alg keys.Alg
		}{{keys.UseSign, keys.ES256}, {keys.UseMAC, ""}} {
			if _, err := w.ring.Rotate(ctx, use.use, use.alg, true); err != nil {
				t.Fatal(err)
			}
		}
		next := w.refresh("strict", old.refresh).must(t).tokens()
		if kid(next.access) == kid(old.access) {
			t.Error("the new key does not sign")
		}
		for _, jwt := range []string{old.access, next.access} {
			if !w.active(jwt) || !published(kid(jwt)) {
				t.Errorf("a token by the key %s does not count", kid(jwt))
			}
		}
		if _, err := w.ring.Verify(old.id, "JWT"); err != nil {
			t.Error(err)
		}
		for _, k := range w.ring.List() {
			if k.Kid == kid(old.access) {
				if err := w.ring.Drop(ctx, k.Use, k.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		if w.active(old.access) || published(kid(old.access)) {
			t.Error("a token by a dropped key counts")
		}
		rt := w.lives("strict", next.refresh)
		w.refresh("strict", old.refresh).refused(t)
		w.dead("strict", family.Reused, []string{rt}, nil)
	})
}

func TestRT_F24_NameChangesSubStays(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("web", "scope", "openid email")
		u := w.user(aliceName)
		u.Username, u.Claims.Email = "alicia", "alicia@example.com"
		if err := w.store.PutUser(context.Background(), u); err != nil {
			t.Fatal(err)
		}
		next := w.refresh("web", tok.refresh).must(t).tokens()
		if a, b := claimsOf(t, tok.id)["sub"], claimsOf(t, next.id)["sub"]; a != b || w.family(next.refresh).ID != w.family(tok.refresh).ID {
			t.Errorf("sub was %v and is %v", a, b)
		}
		if got := w.userinfo(next.access).must(t).str("email"); got != "alicia@example.com" {
			t.Errorf("email is %q", got)
		}
		if !b.signedIn() {
			t.Error("the browser was signed out")
		}
	})
}

func TestRT_F25_SessionEndsBeforeTheExchange(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for name, out := range map[string]func(b *browser){
			"here": func(b *browser) { b.end("this") },
			"from another device": func(b *browser) {
				all, err := w.store.Sessions(context.Background(), w.user(aliceName).ID, true)
				if err != nil || len(all) != 1 {
					t.Fatalf("%d sessions, %v", len(all), err)
				}
				other := w.browser()
				other.tokens("web")
				if p := other.end("s" + all[0].ID.String()); p.status != 303 {
					t.Fatalf("it is answered with %d", p.status)
				}
				other.end("this")
			},
		} {
			for _, scope := range []string{"openid", "openid offline_access"} {
				b := w.browser()
				f := newFlow("app", "scope", scope)
				code := b.code(f)
				out(b)
				if b.signedIn() {
					t.Fatalf("%s: still signed in", name)
				}
				w.exchange(f, code).refused(t)
				if st := w.family(code); st.Head != 0 {
					t.Errorf("%s, %s: the code was used: %+v", name, scope, st)
				}
			}
		}
	})
}

// What ends what (OIDC Back-Channel Logout §2.7, RFC 9700 §4.14.2).
func TestDEC8_CausesHaveTheirReach(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for name, c := range map[string]struct {
			do      func(b *browser)
			offline bool // an offline family survives it
		}{
			"sign-out":        {func(b *browser) { b.end("this") }, true},
			"everywhere":      {func(b *browser) { b.end("all") }, false},
			"somebody else":   {func(b *browser) { b.walk(newFlow("web", "prompt", "login"), bobName, bobPassword) }, true},
			"password change": {func(b *browser) { b.changePassword(t, alicePassword, alicePassword) }, false},
		} {
			b := w.browser()
			bound, offline := b.tokens("web", "scope", "openid"), b.tokens("web")
			c.do(b)
			w.refresh("web", bound.refresh).refused(t)
			if got := w.refresh("web", offline.refresh).status == 200; got != c.offline {
				t.Errorf("%s: the offline family lives: %v, want %v", name, got, c.offline)
			}
			w.clock.Advance(time.Second)
		}
	})
}

// changePassword goes through the account's page and stays signed in.
func (b *browser) changePassword(t *testing.T, from, to string) {
	t.Helper()
	if p := b.post("/account/password", url.Values{"current_password": {from}, "new_password": {to}, "keep": {"1"}}); p.status != 303 {
		t.Fatalf("the change is answered with %d %s", p.status, p.body)
	}
}

func TestOIDC_11_UserSeesAndEndsWhatWasGiven(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		tok := b.tokens("app")
		id := "f" + w.family(tok.refresh).ID.String()
		if p := b.get("/account"); !strings.Contains(p.body, `id="end-`+id+`"`) || !strings.Contains(p.body, "Client app") {
			t.Fatalf("the page is %s", p.body)
		}
		if p := b.end(id); p.status != 303 {
			t.Fatalf("ending it is answered with %d", p.status)
		}
		w.dead("app", family.RevokedUser, []string{tok.refresh}, []string{tok.access})
		if p := b.get("/account"); strings.Contains(p.body, id) {
			t.Error("it is still listed")
		}
	})
}

func TestRFC7009_01_BothKindsAreRevoked(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, id := range []string{"app", "web", "norotate"} {
			tok := w.signIn(id)
			w.revoke(id, tok.access).must(t)
			if w.active(tok.access) {
				t.Error("the access token is active")
			}
			w.revoke(id, tok.refresh).must(t)
			w.dead(id, family.RevokedClient, []string{tok.refresh}, []string{tok.access})
		}
		machine := w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials")...).must(t).str("access_token")
		w.revoke("web", machine).must(t)
		if w.active(machine) {
			t.Error("a token of client_credentials is active")
		}
	})
}

func TestRFC7009_02_HintIsOnlyAHint(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, hint := range []string{"access_token", "refresh_token", "no_such_kind", ""} {
			tok := b.tokens("app")
			w.revoke("app", tok.access, "token_type_hint", hint).must(t)
			w.revoke("app", tok.refresh, "token_type_hint", hint).must(t)
			w.dead("app", family.RevokedClient, []string{tok.refresh}, []string{tok.access})
		}
		tok := b.tokens("app")
		w.unspent(tok.refresh, func() {
			w.post("/oauth2/revoke", nil, "client_id", "app").errs(t, 400, "invalid_request")
			if p := b.get("/oauth2/revoke?client_id=app&token=" + tok.refresh); p.status != 405 {
				t.Errorf("GET is answered with %d", p.status)
			}
		})
	})
}

func TestRFC7009_03_OnlyItsOwnClientRevokes(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("web", 1)
		w.unspent(rt[1], func() {
			for _, token := range rt {
				w.revoke("web2", token).errs(t, 400, "invalid_grant")
				w.post("/oauth2/revoke", nil, "client_id", "web", "token", token).errs(t, 401, "invalid_client")
			}
			w.newest(rt[1], family.FamilyAlarm, family.ForeignClient, family.Alert)
			w.revoke("web2", at[1]).errs(t, 400, "invalid_grant")
			w.post("/oauth2/revoke", nil, "client_id", "web", "token", at[1]).errs(t, 401, "invalid_client")
		})
		if !w.active(at[1]) {
			t.Error("the access token is not active")
		}
		w.lives("web", rt[1])
	})
}

func TestRFC7009_04_AtOnce(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for range 50 {
			tok := b.tokens("web")
			w.revoke("web", tok.refresh).must(t)
			w.refresh("web", tok.refresh).refused(t)
			if w.active(tok.access) {
				t.Fatal("the access token is active")
			}
		}
	})
}

func TestRFC7009_06_AlwaysAnsweredWithDone(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		tok := w.signIn("app")
		for range 2 {
			w.revoke("app", tok.refresh).must(t)
			w.revoke("app", tok.access).must(t)
		}
		expired := w.signIn("app")
		w.clock.Advance(31 * oneDay)
		for _, token := range []string{expired.refresh, expired.access, expired.id, "garbage", "hrt_", "a.b.c", forged(tok.refresh)} {
			if r := w.revoke("app", token); r.status != 200 || r.raw != "" {
				t.Errorf("the answer is %d %q", r.status, r.raw)
			}
		}
		w.dead("app", family.RevokedClient, []string{tok.refresh}, []string{tok.access})
		w.refresh("app", expired.refresh).refused(t)
	})
}

// faltering is an engine that can be told to fail.
type faltering struct {
	engine
	load, commit atomic.Bool
}

var errFaltering = errors.New("the disk is gone")

func (s *faltering) Load(ctx context.Context, id family.ID) (family.State, family.Standing, error) {
	if s.load.Load() {
		return family.State{}, family.Standing{}, errFaltering
	}
	return s.engine.Load(ctx, id)
}

func (s *faltering) Commit(ctx context.Context, next family.State, events ...family.Event) error {
	if s.commit.Load() {
		return errFaltering
	}
	return s.engine.Commit(ctx, next, events...)
}

func (s *faltering) Deny(ctx context.Context, jti string, until family.Time, e family.Event) error {
	if s.commit.Load() {
		return errFaltering
	}
	return s.engine.Deny(ctx, jti, until, e)
}

func TestRFC7009_07_NeverDoneWhenTheStoreIsDown(t *testing.T) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			var st *faltering
			w := newWorld(t, func(t testing.TB, issuer string, now func() time.Time) (engine, *keys.Ring) {
				inner, ring := open(t, issuer, now)
				st = &faltering{engine: inner}
				return st, ring
			}, nil)
			tok := w.signIn("app")
			down := func(r reply) {
				t.Helper()
				if r.errs(t, 503, "temporarily_unavailable"); r.header.Get("Retry-After") == "" {
					t.Error("there is no Retry-After")
				}
			}
			w.unspent(tok.refresh, func() {
				st.load.Store(true)
				down(w.revoke("app", tok.refresh))
				down(w.refresh("app", tok.refresh))
				down(w.post("/oauth2/introspect", nil, append(w.as("web"), "token", tok.access)...))
				st.load.Store(false)
				st.commit.Store(true)
				down(w.revoke("app", tok.refresh))
				down(w.revoke("app", tok.access))
				down(w.refresh("app", tok.refresh))
				st.commit.Store(false)
			})
			if !w.active(tok.access) {
				t.Error("the access token is not active")
			}
			w.revoke("app", tok.refresh).must(t)
			w.dead("app", family.RevokedClient, []string{tok.refresh}, []string{tok.access})
		})
	}
}

func TestRFC7009_08_AnyMemberEndsTheFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for i := range 3 {
			for _, id := range []string{"app", "web", "leeway"} {
				rt, at := w.chain(id, 2)
				w.revoke(id, rt[i]).must(t)
				w.dead(id, family.RevokedClient, rt, at)
			}
		}
		b := w.browser()
		f := newFlow("app")
		code := b.code(f)
		tok := w.exchange(f, code).must(t).tokens()
		// A spent code is no proof of anything: who has it without its verifier must not
		// be able to sign the user out (MATRIX K05). One that was not used yet is ended.
		w.revoke("app", code).must(t)
		w.refresh("app", tok.refresh).must(t)
		f = newFlow("app")
		code = b.code(f)
		w.revoke("app", code).must(t)
		w.exchange(f, code).refused(t)
	})
}

func TestRFC7662_01_CallerMustBeAllowed(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		tok := w.signIn("web2")
		w.post("/oauth2/introspect", nil, "token", tok.access).errs(t, 401, "invalid_client")
		w.post("/oauth2/introspect", nil, "client_id", "web", "token", tok.access).errs(t, 401, "invalid_client")
		w.post("/oauth2/introspect", nil, "client_id", "app", "token", tok.access).errs(t, 401, "invalid_client")
		w.post("/oauth2/introspect", http.Header{"Authorization": {"Bearer " + tok.access}}, "token", tok.access).errs(t, 401, "invalid_client")
		w.post("/oauth2/introspect", nil, w.as("web")...).errs(t, 400, "invalid_request")
		if p := w.browser().get("/oauth2/introspect?token=x"); p.status != 405 || p.header.Get("Allow") == "" {
			t.Errorf("GET is answered with %d", p.status)
		}
	})
}

func TestRFC7662_02_ActiveOnlyForItsResourceServer(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("web2", func(c *client.Client) { c.Introspects = []string{otherURL} })
		b := w.browser()
		api, other := b.tokens("strict", "resource", apiURL), b.tokens("strict", "resource", otherURL)
		for _, c := range []struct {
			caller, token string
			active        bool
		}{
			{"web", api.access, true}, {"web", other.access, true},
			{"web2", api.access, false}, {"web2", other.access, true},
			{"third", api.access, false}, {"strictweb", other.access, false},
		} {
			if got := w.introspect(c.caller, c.token).body["active"]; got != c.active {
				t.Errorf("%s is told active: %v, want %v", c.caller, got, c.active)
			}
		}
		own := b.tokens("strictweb")
		if w.introspect("strictweb", own.access).body["active"] != true {
			t.Error("a client is not told of its own token")
		}
	})
}

func TestRFC7662_03_InactiveSaysNothingElse(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		expired := b.tokens("strictweb")
		w.clock.Advance(oneDay)
		rt, at := []string{}, []string{}
		for _, id := range []string{"strictweb", "web2"} {
			tok := b.tokens(id)
			rt, at = append(rt, tok.refresh), append(at, tok.access)
		}
		w.revoke("strictweb", rt[0]).must(t)
		parts := strings.Split(at[1], ".")
		for name, token := range map[string]string{
			"unknown": "nonsense", "unknown refresh": forged(rt[0]), "unknown jwt": parts[0] + "." + parts[1] + "." + strings.Repeat("A", 86),
			"expired": expired.access, "expired refresh": expired.refresh, "revoked": at[0], "revoked refresh": rt[0],
			"foreign": at[1], "foreign refresh": rt[1], "id token": expired.id, "alg none": "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0." + parts[1] + ".",
		} {
			r := w.introspect("strictweb", token)
			if r.raw != `{"active":false}` || r.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %s, %v", name, r.raw, r.header)
			}
		}
	})
}

func TestRFC7662_04_MembersOfAnActiveAnswer(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		tok := w.signIn("strictweb")
		r := w.introspect("web", tok.access)
		var said struct {
			Active    bool   `json:"active"`
			Scope     string `json:"scope"`
			ClientID  string `json:"client_id"`
			TokenType string `json:"token_type"`
			Exp       int64  `json:"exp"`
			Iat       int64  `json:"iat"`
			Sub       string `json:"sub"`
			Aud       string `json:"aud"`
			Iss       string `json:"iss"`
			Jti       string `json:"jti"`
			AuthTime  int64  `json:"auth_time"`
			ACR       string `json:"acr"`
			Fam       string `json:"fam"`
			Sid       string `json:"sid"`
		}
		if err := json.Unmarshal([]byte(r.raw), &said); err != nil {
			t.Fatal(err)
		}
		c := claimsOf(t, tok.access)
		for name, pair := range map[string][2]any{
			"active": {said.Active, true}, "scope": {said.Scope, allScopes}, "client_id": {said.ClientID, "strictweb"}, "token_type": {said.TokenType, "Bearer"},
			"exp": {float64(said.Exp), c["exp"]}, "iat": {float64(said.Iat), c["iat"]}, "sub": {said.Sub, string(w.user(aliceName).ID)}, "aud": {said.Aud, apiURL},
			"iss": {said.Iss, w.issuer}, "jti": {said.Jti, c["jti"]}, "auth_time": {float64(said.AuthTime), c["auth_time"]}, "acr": {said.ACR, "0"},
			"fam": {said.Fam, w.family(tok.refresh).ID.String()}, "sid": {said.Sid, c["sid"]},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s is %v, want %v", name, pair[0], pair[1])
			}
		}
	})
}

// Twenty thousand guesses go through the handler without sockets: they are many.
func TestRFC7662_06_FishingIsSlowedDown(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	access := w.signIn("strictweb").access
	ask := func(id, token string) *httptest.ResponseRecorder {
		body := url.Values{"client_id": {id}, "client_secret": {w.secret[id]}, "token": {token}}.Encode()
		r := httptest.NewRequest("POST", "/oauth2/introspect", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		rec := httptest.NewRecorder()
		w.ts.Config.Handler.ServeHTTP(rec, r)
		return rec
	}
	last := 0
	for n := range 60_000 {
		if rec := ask("web", fmt.Sprint("guess-", n)); rec.Code != 200 {
			if rec.Code != 429 || rec.Header().Get("Retry-After") == "" || rec.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("guess %d is answered with %d %v", n, rec.Code, rec.Header())
			}
			last = n
			break
		}
	}
	if last < 20_000 {
		t.Errorf("guess %d was refused, want about the 20,000th", last)
	}
	if rec := ask("strictweb", access); !strings.Contains(rec.Body.String(), `"active":true`) {
		t.Errorf("another caller is told %s", rec.Body)
	}
}

func TestRFC7662_07_RefreshTokenOnlyForItsClient(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		tok := w.signIn("strictweb")
		for _, rs := range []string{"web", "web2", "third"} {
			if r := w.introspect(rs, tok.refresh); r.raw != `{"active":false}` {
				t.Errorf("%s is told %s", rs, r.raw)
			}
		}
		r := w.introspect("strictweb", tok.refresh)
		if r.body["active"] != true || r.str("token_type") != "refresh_token" || r.str("client_id") != "strictweb" {
			t.Errorf("its client is told %s", r.raw)
		}
		// A public client can not prove that it asks, so it is not told.
		w.post("/oauth2/introspect", nil, "client_id", "app", "token", w.signIn("app").refresh).errs(t, 401, "invalid_client")
	})
}

func TestRFC7662_08_FiguresAndNoTimerMoves(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		tok := w.signIn("strictweb")
		w.unspent(tok.refresh, func() {
			for i := range 100 {
				w.clock.Advance(time.Second)
				r := w.introspect("strictweb", tok.refresh)
				if got, want := r.secondsOf("refresh_token_timeout"), int64(86400-i-1); got != want {
					t.Fatalf("refresh_token_timeout is %d, want %d", got, want)
				}
				if got, want := r.secondsOf("authorization_expires_in"), int64(30*86400-i-1); got != want {
					t.Fatalf("authorization_expires_in is %d, want %d", got, want)
				}
			}
		})
	})
}
