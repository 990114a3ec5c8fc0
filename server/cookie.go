package server

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// cookieName carries the __Host- prefix wherever the browser lets it: it pins the
// cookie to this host, to https and to the whole path. Over plain http, which is for
// loopback hosts only, browsers refuse it.
func (s *Server) cookieName() string {
	if s.secure {
		return "__Host-heirloom"
	}
	return "heirloom"
}

// deviceCookie marks a browser in which a user has signed in before: guesses of others
// do not slow them down there.
func (s *Server) deviceCookie() string {
	if s.secure {
		return "__Host-heirloom-device"
	}
	return "heirloom-device"
}

func (s *Server) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, Secure: s.secure, SameSite: http.SameSiteLaxMode}
	if life > 0 {
		c.MaxAge = int(life / time.Second)
	} else {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// who returns the person signed in at the browser, nil if nobody is. The session, the
// user's status and the user's cut-off are asked of the store each time.
func (s *Server) who(r *http.Request) (*signedIn, error) {
	cookies := r.CookiesNamed(s.cookieName())
	if len(cookies) != 1 {
		return nil, nil
	}
	id, secret, err := session.ParseCookie(cookies[0].Value)
	if err != nil {
		return nil, nil // not a cookie of ours: nobody is signed in with it
	}
	se, err := s.conf.Store.Session(r.Context(), id)
	if errors.Is(err, family.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	now, err := s.conf.Store.Now(r.Context())
	if err != nil {
		return nil, err
	}
	if !se.Proves(secret) || !se.Alive(now.Std()) {
		return nil, nil
	}
	u, err := s.conf.Store.User(r.Context(), user.ID(se.User))
	if errors.Is(err, family.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, dead := u.Dead(user.Origin{Session: [16]byte(se.ID), Issued: se.CreatedAt}); dead {
		return nil, nil
	}
	return &signedIn{session: se, user: u}, nil
}

// startSession signs a user in at the browser. A session of the same user goes on, with
// a new authentication time; one of another user ends. now is the store's time from
// before the user was loaded and proven: a cut-off that came meanwhile, such as that of a
// changed password, covers the session.
func (s *Server) startSession(w http.ResponseWriter, r *http.Request, c *call, u user.User, now family.Time, at time.Time, acr string, amr []string) error {
	ctx := r.Context()
	// What is issued in the very millisecond of a cut-off is dead. Who proved the new
	// password after it must not be.
	now = max(now, family.At(u.NotBefore)+1)
	if at.IsZero() {
		at = now.Std()
	}
	before, err := s.who(r)
	if err != nil {
		return err
	}
	if before != nil && before.user.ID == u.ID {
		next := before.session.Reauthenticated(at, acr, amr)
		next, _ = next.Seen(now.Std(), c.from.UserAgent, c.from.IP.String())
		// Whoever has a copy of the cookie has not shown who they are.
		err := s.renew(ctx, w, next, s.sessionEvent(family.SessionStarted, next, 0, c))
		if err == nil || !errors.Is(err, family.ErrConflict) {
			return err
		}
		before = nil // it ended this very moment: begin a new one
	}
	if before != nil {
		if err := s.endSession(ctx, c, before.session.ID, family.RevokedLogout); err != nil {
			return err
		}
	}
	var random [48]byte
	rand.Read(random[:]) // never fails: the runtime ends the program instead
	se, cookie := session.New(random, session.SignIn{
		User: string(u.ID), Now: now.Std(), Ends: now.Add(s.conf.SessionLifetime).Std(),
		ACR: acr, AMR: amr, UserAgent: c.from.UserAgent, IP: c.from.IP.String(),
	})
	se.AuthTime = at
	if err := s.conf.Store.PutSession(ctx, se, s.sessionEvent(family.SessionStarted, se, 0, c)); err != nil {
		return err
	}
	s.setCookie(w, s.cookieName(), cookie.Value(), s.conf.SessionLifetime)
	return nil
}

// renew stores a session with a new secret and gives the browser its cookie.
func (s *Server) renew(ctx context.Context, w http.ResponseWriter, se session.Session, events ...family.Event) error {
	var secret [32]byte
	rand.Read(secret[:]) // never fails: the runtime ends the program instead
	next, cookie := se.Renewed(secret)
	if err := s.conf.Store.PutSession(ctx, next, events...); err != nil {
		return err
	}
	s.setCookie(w, s.cookieName(), cookie.Value(), s.conf.SessionLifetime)
	return nil
}

func (s *Server) sessionEvent(kind family.EventKind, se session.Session, why family.Reason, c *call) family.Event {
	return family.Event{Kind: kind, Reason: why, User: se.User, Session: [16]byte(se.ID), Origin: c.from, Request: c.id}
}

// endSession ends a sign-in and the families that are bound to it. When it returns nil
// they are durably dead. The session goes first: a code of it that is exchanged
// meanwhile finds it ended (MATRIX F25, B15).
func (s *Server) endSession(ctx context.Context, c *call, id session.ID, why family.Reason) error {
	for range 8 {
		se, err := s.conf.Store.Session(ctx, id)
		if errors.Is(err, family.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		now, err := s.conf.Store.Now(ctx)
		if err != nil {
			return err
		}
		if se.Status == session.Live {
			next := se.End(now.Std(), why.String())
			err = s.conf.Store.PutSession(ctx, next, s.sessionEvent(family.SessionEnded, next, why, c))
			if errors.Is(err, family.ErrConflict) {
				continue
			}
			if err != nil {
				return err
			}
		}
		// Also when the session was over before: an earlier sign-out may have been cut
		// off half-way.
		n, err := family.EndAll(ctx, s.conf.Store, s.conf.Store, family.Query{Session: [16]byte(id)},
			func(st family.State) bool { return st.Grant.Offline }, why, c.from, c.id)
		s.metrics.ended.WithLabelValues(why.String()).Add(float64(n))
		return err
	}
	return family.ErrBusy
}

// cutOff ends everything of a user, but for a session that is kept, in one durable
// write; then it cleans up the rows. change makes the user that is stored, or refuses. A change of
// the password keeps the session only: whoever knew the old password may have used that
// very browser to let an app in.
func (s *Server) cutOff(ctx context.Context, c *call, id user.ID, why family.Reason, keep *session.Session, change func(u user.User, now time.Time, keep user.Origin) (user.User, error)) error {
	origin := user.Origin{}
	if keep != nil {
		origin = user.Origin{Session: [16]byte(keep.ID), Issued: keep.CreatedAt}
	}
	spare := origin.Session
	if why == family.RevokedPasswordChange {
		spare = [16]byte{}
		if keep != nil {
			// These the cut-off would spare. They go first: if the server dies in between,
			// the password is still the old one and the person tries again.
			q := family.Query{User: string(id), Session: origin.Session}
			if _, err := family.EndAll(ctx, s.conf.Store, s.conf.Store, q, nil, why, c.from, c.id); err != nil {
				return err
			}
		}
	}
	for range 8 {
		u, err := s.conf.Store.User(ctx, id)
		if err != nil {
			return err
		}
		now, err := s.conf.Store.Now(ctx)
		if err != nil {
			return err
		}
		next, err := change(u, now.Std(), origin)
		if err != nil {
			return err
		}
		e := family.Event{Kind: family.UserRevoked, Reason: why, User: string(id), Origin: c.from, Request: c.id}
		err = s.conf.Store.PutUser(ctx, next, e)
		if errors.Is(err, family.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		return s.cleanUp(ctx, c, id, why, origin.Session, spare)
	}
	return family.ErrBusy
}

// cleanUp writes into rows what a cut-off has already put in force. keep is a session
// that stays, spare one whose families stay; zero: none.
func (s *Server) cleanUp(ctx context.Context, c *call, id user.ID, why family.Reason, keep, spare [16]byte) error {
	live, err := s.conf.Store.Sessions(ctx, id, true)
	if err != nil {
		return err
	}
	for _, se := range live {
		if keep != ([16]byte{}) && [16]byte(se.ID) == keep {
			continue
		}
		if err := s.endSession(ctx, c, se.ID, why); err != nil {
			return err
		}
	}
	n, err := family.EndAll(ctx, s.conf.Store, s.conf.Store, family.Query{User: string(id)},
		func(st family.State) bool { return spare != [16]byte{} && st.Grant.Session == spare }, why, c.from, c.id)
	s.metrics.ended.WithLabelValues(why.String()).Add(float64(n))
	return err
}
