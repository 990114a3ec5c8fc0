package admin

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// SessionView is a session as the API shows it.
type SessionView struct {
	ID        string    `json:"id"`
	User      string    `json:"user"`
	Username  string    `json:"username,omitempty"`
	Status    string    `json:"status"` // live or ended
	Reason    string    `json:"reason,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	AuthTime  time.Time `json:"auth_time"`
	LastSeen  time.Time `json:"last_seen"`
	EndsAt    time.Time `json:"ends_at"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	IP        string    `json:"ip,omitempty"`
	Device    string    `json:"device,omitempty"`
}

// viewSession judges the session by its own row, its end and its user.
func viewSession(s session.Session, u user.User, now time.Time) SessionView {
	v := SessionView{
		ID: s.ID.String(), User: s.User, Username: u.Username, Status: "live",
		CreatedAt: s.CreatedAt, AuthTime: s.AuthTime, LastSeen: s.LastSeen, EndsAt: s.Ends,
		IP: s.IP,
	}
	if s.UserAgent != "" {
		v.Device = session.Device(s.UserAgent)
	}
	why, dead := u.Dead(user.Origin{Session: s.ID, Issued: s.CreatedAt})
	switch {
	case s.Status != session.Live:
		v.Status, v.Reason, v.EndedAt = "ended", s.Reason, s.EndedAt
	case dead:
		v.Status, v.Reason, v.EndedAt = "ended", why, u.NotBefore
	case !now.Before(s.Ends):
		v.Status, v.Reason, v.EndedAt = "ended", family.ExpiredAbsolute.String(), s.Ends
	}
	return v
}

// SessionPage is a user's sessions, the newest first. There is one page only.
type SessionPage struct {
	Sessions []SessionView `json:"sessions"`
}

func (a *API) listSessions(c *call) (any, error) {
	q, err := c.params("user", "live")
	if err != nil {
		return nil, err
	}
	live, err := flag(q, "live")
	if err != nil {
		return nil, err
	}
	if q.Get("user") == "" {
		return nil, invalid("user is missing", "write whose sessions: ?user=NAME")
	}
	u, err := a.findUser(c.Context(), q.Get("user"))
	if err != nil {
		return nil, err
	}
	views, err := a.sessionsOf(c, u, live)
	return SessionPage{views}, err
}

func (a *API) sessionsOf(c *call, u user.User, live bool) ([]SessionView, error) {
	sessions, err := a.Store.Sessions(c.Context(), u.ID, live)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	now, err := a.now(c.Context())
	if err != nil {
		return nil, err
	}
	views := []SessionView{}
	for _, s := range sessions {
		if v := viewSession(s, u, now); !live || v.Status == "live" {
			views = append(views, v)
		}
	}
	slices.SortFunc(views, func(a, b SessionView) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return views, nil
}

// SessionRevocation is the body of POST …/revoke of a session.
type SessionRevocation struct {
	// Offline ends the session's offline_access families too, which a sign-out leaves alone.
	Offline bool `json:"offline,omitempty"`
}

// SessionEnded is the answer to it.
type SessionEnded struct {
	Session SessionView `json:"session"`
	Ended   Ended       `json:"ended"`
}

// revokeSession does what a sign-out in that browser would: the session and its
// session-bound families end, offline_access families stay except at browser clients.
func (a *API) revokeSession(c *call) (any, error) {
	var in SessionRevocation
	if err := c.read(&in, true); err != nil {
		return nil, err
	}
	id, err := session.ParseID(c.PathValue("id"))
	if err != nil {
		return nil, invalid(err.Error(), `"heirloom session list USER" shows ids`)
	}
	ended, err := a.endSession(c, id, family.RevokedAdmin)
	if errors.Is(err, family.ErrNotFound) {
		return nil, &apiError{http.StatusNotFound, "not_found", "there is no session " + id.String(), `"heirloom session list USER" shows which there are`}
	}
	if err != nil {
		return nil, err
	}
	var n Ended
	if ended {
		n.Sessions = 1
	}
	who := a.people()
	var lookUp error
	spared := func(s family.State) bool {
		if in.Offline || !s.Grant.Offline {
			return false
		}
		cl, err := who.client(c.Context(), s.Grant.Client)
		if err != nil {
			lookUp = err
		}
		return cl.Preset != "browser"
	}
	n.Families, err = family.EndAll(c.Context(), a.Store, a.Store, family.Query{Session: id}, spared, family.RevokedAdmin, c.from, c.id)
	if err = errors.Join(err, lookUp); err != nil {
		return nil, err
	}
	s, err := a.Store.Session(c.Context(), id)
	if err != nil {
		return nil, fmt.Errorf("load session: %w", err)
	}
	u, err := who.user(c.Context(), s.User)
	if err != nil {
		return nil, err
	}
	now, err := a.now(c.Context())
	return SessionEnded{viewSession(s, u, now), n}, err
}
