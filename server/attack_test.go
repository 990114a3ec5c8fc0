package server_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/user"
)

// meanwhile is a store at which something happens just after a user was looked up by
// name, while the password that was sent is still being checked.
type meanwhile struct {
	server.Store
	happens func()
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
