package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// UserView is a user as the API shows them.
type UserView struct {
	ID          user.ID     `json:"id"`
	Username    string      `json:"username"`
	Status      string      `json:"status"` // enabled or disabled
	HasPassword bool        `json:"has_password"`
	PasswordAt  time.Time   `json:"password_set_at,omitzero"`
	CreatedAt   time.Time   `json:"created_at"`
	CutOff      *CutOffView `json:"cut_off,omitempty"`
	Claims      user.Claims `json:"claims,omitzero"`
}

// CutOffView is a moment before which everything is dead.
type CutOffView struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

func viewUser(u user.User) UserView {
	v := UserView{
		ID: u.ID, Username: u.Username, Status: u.Status.String(), HasPassword: u.Password != "",
		PasswordAt: u.PasswordAt, CreatedAt: u.CreatedAt, Claims: u.Claims,
	}
	if !u.NotBefore.IsZero() {
		v.CutOff = &CutOffView{u.NotBefore, u.NotBeforeReason}
	}
	return v
}

// UserPage is one page of users.
type UserPage struct {
	Users []UserView `json:"users"`
	Next  string     `json:"next,omitempty"` // `after` of the next page; "": this is the last
}

func (a *API) listUsers(c *call) (any, error) {
	q, err := c.params("after", "limit")
	if err != nil {
		return nil, err
	}
	n, err := limit(q)
	if err != nil {
		return nil, err
	}
	users, err := a.Store.Users(c.Context(), user.ID(q.Get("after")), n)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	page := UserPage{Users: []UserView{}}
	for _, u := range users {
		page.Users = append(page.Users, viewUser(u))
	}
	if len(users) == n {
		page.Next = string(users[n-1].ID)
	}
	return page, nil
}

// findUser takes an id or a username. Ids come first: a user who calls himself by
// another's id must not be taken for that one.
func (a *API) findUser(ctx context.Context, name string) (user.User, error) {
	if id, err := user.ParseID(name); err == nil {
		u, err := a.Store.User(ctx, id)
		if !errors.Is(err, family.ErrNotFound) {
			return u, err
		}
	}
	username, err := user.ParseUsername(name)
	if err != nil {
		return user.User{}, invalid(err.Error(), "")
	}
	u, err := a.Store.UserByName(ctx, username)
	if errors.Is(err, family.ErrNotFound) {
		return user.User{}, &apiError{http.StatusNotFound, "not_found", fmt.Sprintf("there is no user %q", name), `"heirloom user list" shows who there is`}
	}
	if err != nil {
		return user.User{}, fmt.Errorf("load user: %w", err)
	}
	return u, nil
}

// changeUser stores what change makes of the user of the path, with its event. It is
// tried again when somebody else was faster, from what that one stored.
func (a *API) changeUser(c *call, change func(u user.User, now time.Time) (user.User, []family.Event)) (user.User, error) {
	for range rewrite {
		u, err := a.findUser(c.Context(), c.PathValue("user"))
		if err != nil {
			return user.User{}, err
		}
		now, err := a.now(c.Context())
		if err != nil {
			return user.User{}, err
		}
		next, events := change(u, now)
		if next == u {
			return u, nil
		}
		for i := range events {
			events[i].User = string(u.ID)
		}
		err = a.Store.PutUser(c.Context(), next, events...)
		if errors.Is(err, family.ErrConflict) {
			continue
		}
		if err != nil {
			return user.User{}, fmt.Errorf("store user: %w", err)
		}
		return next, nil
	}
	return user.User{}, family.ErrConflict
}

// Ended counts what a revocation ended.
type Ended struct {
	Sessions int `json:"sessions"`
	Families int `json:"families"`
}

// UserChange is the answer to a change of a user.
type UserChange struct {
	User  UserView `json:"user"`
	Ended Ended    `json:"ended"`
}

// endSessions ends the user's living sessions. The cut-off or the status that was
// stored before has put them out of force already; this makes their rows say so.
func (a *API) endSessions(c *call, id user.ID, why family.Reason) (int, error) {
	live, err := a.Store.Sessions(c.Context(), id, true)
	if err != nil {
		return 0, fmt.Errorf("list sessions: %w", err)
	}
	n := 0
	for _, s := range live {
		ended, err := a.endSession(c, s.ID, why)
		if err != nil {
			return n, err
		}
		if ended {
			n++
		}
	}
	return n, nil
}

// endSession ends one session and reports whether it was this call that did.
func (a *API) endSession(c *call, id session.ID, why family.Reason) (bool, error) {
	for range rewrite {
		s, err := a.Store.Session(c.Context(), id)
		if err != nil {
			return false, fmt.Errorf("load session: %w", err)
		}
		now, err := a.now(c.Context())
		if err != nil {
			return false, err
		}
		if !s.Alive(now) {
			return false, nil
		}
		e := c.event(family.SessionEnded, "")
		e.Reason, e.User, e.Session = why, s.User, s.ID
		err = a.Store.PutSession(c.Context(), s.End(now, why.String()), e)
		if errors.Is(err, family.ErrConflict) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("store session: %w", err)
		}
		return true, nil
	}
	return false, family.ErrConflict
}

// endAll ends the user's sessions and all families, for good.
func (a *API) endAll(c *call, id user.ID, why family.Reason) (Ended, error) {
	sessions, err := a.endSessions(c, id, why)
	if err != nil {
		return Ended{Sessions: sessions}, err
	}
	n, err := a.endFamilies(c, id, 0, why)
	n.Sessions = sessions
	return n, err
}

// endFamilies ends the user's families issued until a moment (0: all), for good. A
// cut-off of the user or the user's deletion must cover them too.
func (a *API) endFamilies(c *call, id user.ID, until family.Time, why family.Reason) (n Ended, err error) {
	now, err := a.Store.Now(c.Context())
	if err != nil {
		return n, fmt.Errorf("read the store's clock: %w", err)
	}
	spared := func(s family.State) bool {
		// What has expired has its reason already, and who asks why shall hear that one.
		// It needs no row: were the clock wrong, the cut-off would still hold.
		expired := s.IdleEnds != 0 && s.IdleEnds <= now || s.Ends != 0 && s.Ends <= now
		return expired || until != 0 && s.IssuedAt > until
	}
	n.Families, err = family.EndAll(c.Context(), a.Store, a.Store, family.Query{User: string(id)}, spared, why, c.from, c.id)
	return n, err
}

// NewUser is the body of POST /admin/v1/users.
type NewUser struct {
	Username string      `json:"username"`
	Password string      `json:"password,omitempty"` // "": none opens the account
	Claims   user.Claims `json:"claims,omitzero"`
}

func (a *API) addUser(c *call) (any, error) {
	var in NewUser
	if err := c.read(&in, false); err != nil {
		return nil, err
	}
	username, err := user.ParseUsername(in.Username)
	if err != nil {
		return nil, invalid(err.Error(), "")
	}
	if err := in.Claims.Check(); err != nil {
		return nil, invalid(err.Error(), "")
	}
	now, err := a.now(c.Context())
	if err != nil {
		return nil, err
	}
	var random [16]byte
	rand.Read(random[:])
	u := user.User{ID: user.NewID(random), Username: username, Status: user.Enabled, Claims: in.Claims, CreatedAt: now}
	if in.Password != "" {
		if err := user.CheckPassword(in.Password); err != nil {
			return nil, invalid(err.Error(), "")
		}
		if u.Password, err = a.Hasher.Hash(c.Context(), in.Password); err != nil {
			return nil, fmt.Errorf("hash password: %w", err)
		}
		u.PasswordAt = now
	}
	if err := u.Check(); err != nil {
		return nil, invalid(err.Error(), "")
	}
	e := c.event(family.UserCreated, "by an operator")
	e.User = string(u.ID)
	err = a.Store.PutUser(c.Context(), u, e)
	if errors.Is(err, family.ErrExists) {
		return nil, &apiError{http.StatusConflict, "exists", fmt.Sprintf("there is a user %q already", username), "take another name, or set that user's password"}
	}
	if err != nil {
		return nil, fmt.Errorf("store user: %w", err)
	}
	return created{viewUser(u)}, nil
}

func (a *API) showUser(c *call) (any, error) {
	u, err := a.findUser(c.Context(), c.PathValue("user"))
	if err != nil {
		return nil, err
	}
	return viewUser(u), nil
}

func (a *API) setPassword(c *call) (any, error) {
	var in struct {
		Password string `json:"password"`
	}
	if err := c.read(&in, false); err != nil {
		return nil, err
	}
	if err := user.CheckPassword(in.Password); err != nil {
		return nil, invalid(err.Error(), "")
	}
	phc, err := a.Hasher.Hash(c.Context(), in.Password)
	if err != nil {
		return nil, fmt.Errorf("hash password: %w", err)
	}
	u, err := a.changeUser(c, func(u user.User, now time.Time) (user.User, []family.Event) {
		changed := c.event(family.UserChanged, "password set by an operator")
		cut := c.event(family.UserRevoked, "")
		cut.Reason = family.RevokedPasswordChange
		return u.WithPassword(phc, now, user.Origin{}), []family.Event{changed, cut}
	})
	if err != nil {
		return nil, err
	}
	n, err := a.endAll(c, u.ID, family.RevokedPasswordChange)
	return UserChange{viewUser(u), n}, err
}

// SignOut is the body of the calls that may end what they would only suspend.
type SignOut struct {
	// SignOut ends the user's families for good; without it they live again when the
	// user is enabled.
	SignOut bool `json:"sign_out,omitempty"`
}

func (a *API) disableUser(c *call) (any, error) {
	var in SignOut
	if err := c.read(&in, true); err != nil {
		return nil, err
	}
	u, err := a.changeUser(c, func(u user.User, now time.Time) (user.User, []family.Event) {
		changed := c.event(family.UserChanged, "disabled")
		changed.Reason = family.UserDisabled
		// Also when the families are only suspended: it is by this event that APIs hear
		// that the access tokens of until now are dead.
		cut := c.event(family.UserRevoked, "")
		cut.Reason = family.UserDisabled
		if in.SignOut {
			u = u.Disable(now)
		}
		u.Status = user.Disabled
		return u, []family.Event{changed, cut}
	})
	if err != nil {
		return nil, err
	}
	if in.SignOut {
		n, err := a.endAll(c, u.ID, family.UserDisabled)
		return UserChange{viewUser(u), n}, err
	}
	n, err := a.endSessions(c, u.ID, family.UserDisabled)
	return UserChange{viewUser(u), Ended{Sessions: n}}, err
}

func (a *API) enableUser(c *call) (any, error) {
	var in SignOut
	if err := c.read(&in, true); err != nil {
		return nil, err
	}
	u, err := a.changeUser(c, func(u user.User, now time.Time) (user.User, []family.Event) {
		events := []family.Event{c.event(family.UserChanged, "enabled")}
		if in.SignOut && u.Status != user.Enabled {
			// In the same step: nothing of what was suspended lives for a moment.
			u = u.CutOff(now, user.ReasonDisabled, user.Origin{})
			cut := c.event(family.UserRevoked, "")
			cut.Reason = family.UserDisabled
			events = append(events, cut)
		}
		return u.Enable(), events
	})
	if err != nil {
		return nil, err
	}
	var n Ended
	if cut := family.At(u.NotBefore); in.SignOut && u.NotBeforeReason == user.ReasonDisabled {
		// The sessions ended when the user was disabled; new ones are not this call's.
		n, err = a.endFamilies(c, u.ID, cut, family.UserDisabled)
	}
	return UserChange{viewUser(u), n}, err
}

func (a *API) revokeUser(c *call) (any, error) {
	if err := c.read(&struct{}{}, true); err != nil {
		return nil, err
	}
	u, err := a.changeUser(c, func(u user.User, now time.Time) (user.User, []family.Event) {
		cut := c.event(family.UserRevoked, "signed out everywhere by an operator")
		cut.Reason = family.RevokedAdmin
		return u.CutOff(now, user.ReasonAdmin, user.Origin{}), []family.Event{cut}
	})
	if err != nil {
		return nil, err
	}
	n, err := a.endAll(c, u.ID, family.RevokedAdmin)
	return UserChange{viewUser(u), n}, err
}

func (a *API) deleteUser(c *call) (any, error) {
	u, err := a.findUser(c.Context(), c.PathValue("user"))
	if err != nil {
		return nil, err
	}
	// The rows of the families first, so that each has its event while its user can
	// still be looked up; deleting bars whatever begins meanwhile.
	if _, err := a.endAll(c, u.ID, family.UserDisabled); err != nil {
		return nil, err
	}
	e := c.event(family.UserDeleted, "by an operator")
	e.User, e.Reason = string(u.ID), family.UserDisabled
	if err := a.Store.DeleteUser(c.Context(), u.ID, e); err != nil {
		return nil, fmt.Errorf("delete user: %w", err)
	}
	return viewUser(u), nil
}
