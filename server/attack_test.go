package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/user"
)

// meanwhile is a store at which something happens just after a user was looked up by
// name, while the password that was sent is still being checked.
type meanwhile struct {
	server.Store
	happens func()
	before  func()
}

func (m *meanwhile) UserByName(ctx context.Context, name string) (user.User, error) {
	u, err := m.Store.UserByName(ctx, name)
	if happens := m.happens; happens != nil {
		m.happens = nil
		happens()
	}
	return u, err
}

// attacked is a world with such a store.
func attacked(t *testing.T) (*world, *meanwhile) {
	m := &meanwhile{}
	w := newWorld(t, engines["memory"], func(c *server.Config) {
		m.Store = c.Store
		c.Store = m
	})
	return w, m
}

// changePassword is what another browser or an operator does.
func (w *world) changePassword(name, password string) {
	w.t.Helper()
	phc, err := user.HashPassword(password, cheap)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.PutUser(context.Background(), w.user(name).WithPassword(phc, w.clock.Now(), user.Origin{})); err != nil {
		w.t.Fatal(err)
	}
	w.clock.Advance(time.Second)
}

// Who knows the old password and keeps signing in has a sign-in under way when the
// owner changes it. It must not outlive the change.
func TestSignInThatAPasswordChangeOvertakesIsDead(t *testing.T) {
	w, m := attacked(t)
	m.happens = func() { w.changePassword(aliceName, "a new one, known to nobody else") }
	thief := w.browser()
	thief.login(aliceName, alicePassword)
	if thief.signedIn() {
		t.Fatal("the old password signs in after it was changed")
	}
	if p := thief.login(aliceName, "a new one, known to nobody else"); p.status != 303 || !thief.signedIn() {
		t.Errorf("the new password is answered with %d", p.status)
	}
}

// The same race for the account itself: a change that proved the old password must not
// undo the one that overtook it.
func TestPasswordChangeThatAnotherOvertakesIsRefused(t *testing.T) {
	w, m := attacked(t)
	thief := w.browser()
	thief.login(aliceName, alicePassword)
	m.happens = func() { w.changePassword(aliceName, "a new one, known to nobody else") }
	p := thief.post("/account/password", url.Values{"current_password": {alicePassword}, "new_password": {"the thief's own one"}})
	if p.status != 422 {
		t.Errorf("the change is answered with %d", p.status)
	}
	if p := w.browser().login(aliceName, "a new one, known to nobody else"); p.status != 303 {
		t.Fatal("the owner's new password does not sign in")
	}
}

// The claims parameter is on no consent page: a client can not get by it what nobody
// agreed to, nor keep by it what was withdrawn.
func TestClaimsParameterReleasesNothingBeyondTheConsent(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	const all = `{"id_token":{"email":null,"phone_number":null},"userinfo":{"email":null,"phone_number":null,"address":null}}`
	b := w.browser()
	f := newFlow("third", "scope", "openid", "claims", all)
	tok := w.exchange(f, b.code(f)).must(t).tokens()
	info, id := w.userinfo(tok.access).must(t).body, claimsOf(t, tok.id)
	for _, name := range []string{"email", "phone_number", "address"} {
		if info[name] != nil || id[name] != nil {
			t.Errorf("%s is released and was not agreed to", name)
		}
	}

	f = newFlow("third", "scope", "openid email", "claims", all)
	tok = w.exchange(f, b.code(f)).must(t).tokens()
	if got := w.userinfo(tok.access).str("email"); got == "" || claimsOf(t, tok.id)["email"] != got {
		t.Error("email is not released and was agreed to")
	}
	if p := b.post("/account/apps", url.Values{"client": {"third"}, "withdraw": {"email"}}); p.status != 303 {
		t.Fatalf("the withdrawal is answered with %d", p.status)
	}
	tok = w.refresh("third", tok.refresh).must(t).tokens()
	if got := w.userinfo(tok.access).must(t).str("email"); got != "" || claimsOf(t, tok.id)["email"] != nil {
		t.Error("email is released after it was withdrawn")
	}

	// A client that may not ask for the scope can not ask for its claims either.
	w.updateClient("web", func(c *client.Client) { c.Scopes = []string{"openid"} })
	f = newFlow("web", "scope", "openid", "claims", all)
	tok = w.exchange(f, b.code(f)).must(t).tokens()
	if got := w.userinfo(tok.access).must(t).str("email"); got != "" {
		t.Error("email is released to a client that may not have it")
	}
}

// The proof of when a request came must not make a sign-in of last week a new one.
func TestOldProofOfAFreshSignInIsWorthNothing(t *testing.T) {
	for _, pairs := range [][]string{{"prompt", "login"}, {"max_age", "60"}} {
		w := newWorld(t, engines["memory"], nil)
		b := w.browser()
		b.code(newFlow("web"))
		w.clock.Advance(time.Hour)
		f := newFlow("web", pairs...)
		login, err := url.Parse(b.get(f.url()).location)
		if err != nil {
			t.Fatal(err)
		}
		again := login.Query().Get("continue")
		w.clock.Advance(time.Minute)
		b.login(aliceName, alicePassword)
		w.clock.Advance(9 * time.Minute)
		if p := b.get(again); !strings.HasPrefix(p.location, f.redirect) {
			t.Errorf("%v: after the sign-in the browser is sent to %s", pairs, p.location)
		}
		w.clock.Advance(7 * 24 * time.Hour)
		if p := b.get(again); !strings.HasPrefix(p.location, "/login?") {
			t.Errorf("%v: a week later the browser is sent to %s", pairs, p.location)
		}
	}
}

// copied is another browser with the same cookies.
func (b *browser) copied() *browser {
	thief := b.w.browser()
	u, err := url.Parse(b.w.issuer)
	if err != nil {
		b.w.t.Fatal(err)
	}
	thief.http.Jar.SetCookies(u, b.http.Jar.Cookies(u))
	return thief
}

// A stolen session cookie must not gain from the owner's sign-in, nor live on because
// the owner stays signed in when changing the password.
func TestCopiedCookieEndsWithTheNextProofOfThePassword(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	b := w.browser()
	b.login(aliceName, alicePassword)
	thief := b.copied()
	if !thief.signedIn() {
		t.Fatal("the copied cookie is none")
	}
	b.login(aliceName, alicePassword)
	if thief.signedIn() || !b.signedIn() || len(w.sessions(aliceName)) != 1 {
		t.Errorf("after a new sign-in: thief %t, owner %t, %d sessions", thief.signedIn(), b.signedIn(), len(w.sessions(aliceName)))
	}
	thief = b.copied()
	p := b.post("/account/password", url.Values{"current_password": {alicePassword}, "new_password": {"a new one, known to nobody else"}, "keep": {"1"}})
	if p.status != 303 || thief.signedIn() || !b.signedIn() {
		t.Errorf("after the change (%d): thief %t, owner %t", p.status, thief.signedIn(), b.signedIn())
	}
}

// Create is where something happens just before the family is there.
func (m *meanwhile) Create(ctx context.Context, st family.State, events ...family.Event) error {
	if before := m.before; before != nil {
		m.before = nil
		before()
	}
	return m.Store.Create(ctx, st, events...)
}

// A client that keeps asking silently has a request under way when the person removes
// it. The code of that request must be worth nothing.
func TestCodeThatTheRemovalOfConsentOvertakesIsWorthNothing(t *testing.T) {
	for _, change := range []url.Values{{"client": {"third"}, "remove": {"third"}}, {"client": {"third"}, "withdraw": {"write"}}} {
		w, m := attacked(t)
		b := w.browser()
		b.code(newFlow("third"))
		other := b.copied()
		m.before = func() {
			if p := other.post("/account/apps", change); p.status != 303 {
				t.Errorf("%v is answered with %d", change, p.status)
			}
		}
		f := newFlow("third", "prompt", "none")
		w.exchange(f, b.code(f)).refused(t)

		f = newFlow("third") // once asked again, all is well
		w.exchange(f, b.code(f)).must(t)
	}
}

// What reuse ends besides the family includes the sign-ins: with the cookie, the thief
// would have a new family at once.
func TestReuseThatEndsMoreEndsTheSignIns(t *testing.T) {
	for _, c := range []struct {
		policy string
		others bool // the person's other browsers stay
	}{{"revoke_session", true}, {"revoke_user", false}} {
		w := newWorld(t, engines["memory"], nil)
		w.updateClient("strict", func(cl *client.Client) { cl.Policy = map[string]string{"on_reuse": c.policy} })
		b, other := w.browser(), w.browser()
		other.login(aliceName, alicePassword)
		tok := b.tokens("strict")
		underWay := newFlow("web")
		code := b.code(underWay)
		w.refresh("strict", tok.refresh).must(t)
		w.refresh("strict", tok.refresh).refused(t)
		if b.signedIn() || other.signedIn() != c.others {
			t.Errorf("%s: signed in: %t, elsewhere %t", c.policy, b.signedIn(), other.signedIn())
		}
		w.exchange(underWay, code).refused(t)
		b.tokens("strict") // the owner signs in again
	}
}

func TestOneNetworkDoesNotFillTheHasher(t *testing.T) {
	w := newWorld(t, engines["memory"], proxied)
	known := w.browser()
	f := newFlow("app")
	known.code(f)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				w.post("/login", from("203.0.113.1"), "username", fmt.Sprintf("nobody-%d-%d", i, n), "password", "guess guess guess")
			}
		}()
	}
	defer wg.Wait()
	defer close(stop)
	for range 10 {
		r := w.post("/login", from("198.51.100.7"), "username", aliceName, "password", alicePassword)
		if r.status == 429 {
			t.Error("somebody in another network could not sign in")
		}
	}
}

func TestConsentIsThatOfWhoSawIt(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("third")
		p := b.get(f.url())
		for !strings.Contains(p.body, `id="consent"`) {
			if strings.Contains(p.body, `id="sign-in"`) {
				v := p.fields()
				v.Set("username", aliceName)
				v.Set("password", alicePassword)
				p = b.post("/login", v)
			} else {
				p = b.get(p.location)
			}
		}
		// In another tab Bob signs in; then Alice's page is sent.
		v := url.Values{"username": {bobName}, "password": {bobPassword}, "continue": {"/account"}}
		if got := b.post("/login", v).status; got != 303 {
			t.Fatalf("Bob's sign-in is answered with %d", got)
		}
		v = p.fields()
		v.Set("decision", "allow")
		b.post("/consent", v)
		if _, err := w.store.Consent(t.Context(), w.user(bobName).ID, "third"); !errors.Is(err, family.ErrNotFound) {
			t.Errorf("Bob's consent: %v, want none", err)
		}
	})
}

func TestManyRightSignInsAtOnceAllSucceed(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				r := w.post("/login", nil, "username", aliceName, "password", alicePassword, "continue", "/account")
				if r.status != http.StatusSeeOther {
					t.Errorf("a right sign-in is answered with %d", r.status)
				}
			})
		}
		wg.Wait()
		// Guesses are still counted, however they come.
		limited := 0
		var mu sync.Mutex
		for range 40 {
			wg.Go(func() {
				if r := w.post("/login", nil, "username", aliceName, "password", "a wrong password"); r.status == http.StatusTooManyRequests {
					mu.Lock()
					limited++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if limited < 20 {
			t.Errorf("%d of 40 guesses at once were held up", limited)
		}
	})
}
