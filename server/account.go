package server

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/server/page"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// owner returns the person whose account page is asked for, or sends the browser to the
// sign-in page and returns nil.
func (s *Server) owner(w http.ResponseWriter, r *http.Request, c *call) (*signedIn, error) {
	who, err := s.who(r)
	if err != nil {
		return nil, err
	}
	if who == nil {
		back := form{{"continue", s.path("/account")}}
		if r.Method == http.MethodGet {
			back = form{{"continue", r.URL.Path}}
		}
		http.Redirect(w, r, s.path("/login")+"?"+back.encode(), http.StatusSeeOther)
		return nil, nil
	}
	c.user = string(who.user.ID)
	now, err := s.conf.Store.Now(r.Context())
	if err != nil {
		return nil, err
	}
	if next, changed := who.session.Seen(now.Std(), c.from.UserAgent, c.from.IP.String()); changed {
		err := s.conf.Store.PutSession(r.Context(), next)
		if err != nil && !errors.Is(err, family.ErrConflict) {
			return nil, err
		}
	}
	return who, nil
}

// doneNotices are what the pages tell after a change, by the word in the address.
var doneNotices = map[string]page.Notice{
	"password": page.PasswordChanged, "device": page.DeviceSignedOut, "others": page.OthersSignedOut,
	"scope": page.ScopeWithdrawn, "app": page.AccessRemoved,
}

func (s *Server) notice(r *http.Request) page.Notice { return doneNotices[r.URL.Query().Get("done")] }

// account lists the person's sessions and devices.
func (s *Server) account(w http.ResponseWriter, r *http.Request, c *call) error {
	who, err := s.owner(w, r, c)
	if who == nil {
		return err
	}
	ctx := r.Context()
	now, err := s.conf.Store.Now(ctx)
	if err != nil {
		return err
	}
	view := page.Sessions{Username: who.user.Username, Now: now.Std(), Notice: s.notice(r)}
	sessions, err := s.conf.Store.Sessions(ctx, who.user.ID, true)
	if err != nil {
		return err
	}
	for _, se := range sessions {
		if _, dead := who.user.Dead(user.Origin{Session: [16]byte(se.ID), Issued: se.CreatedAt}); dead || !se.Alive(now.Std()) {
			continue
		}
		view.Devices = append(view.Devices, page.Device{
			ID: "s" + se.ID.String(), Label: session.Device(se.UserAgent), Address: se.IP,
			Created: se.CreatedAt, LastUsed: se.LastSeen, Current: se.ID == who.session.ID,
		})
	}
	err = s.eachFamily(r, who, now, func(st family.State, k *known) {
		if st.Head == 0 || !st.Grant.Offline && k.Preset != "native" {
			return // part of a browser's session, and ends with it
		}
		d := page.Device{ID: "f" + st.ID.String(), App: k.display(), Created: st.IssuedAt.Std(), LastUsed: st.LastUsed.Std(), Label: k.display()}
		if h := st.History(); len(h) > 0 {
			last := h[len(h)-1]
			d.Label, d.Address = session.Device(last.Origin.UserAgent), last.Origin.IP.String()
			d.LastUsed = last.At.Std()
		}
		view.Devices = append(view.Devices, d)
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(view.Devices, func(a, b page.Device) int {
		if a.Current != b.Current {
			if a.Current {
				return -1
			}
			return 1
		}
		return b.LastUsed.Compare(a.LastUsed)
	})
	return s.show(w, http.StatusOK, view)
}

// eachFamily calls f with every family of the person that could be used now.
func (s *Server) eachFamily(r *http.Request, who *signedIn, now family.Time, f func(family.State, *known)) error {
	q := family.Query{User: string(who.user.ID), LiveOnly: true, Limit: 1000}
	for {
		all, err := s.conf.Store.Families(r.Context(), q)
		if err != nil {
			return err
		}
		for _, st := range all {
			if _, dead := who.user.Dead(user.Origin{Session: st.Grant.Session, Issued: st.IssuedAt.Std()}); dead {
				continue
			}
			k, err := s.party(r.Context(), st.Grant.Client)
			if errors.Is(err, family.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if _, ended := st.Ended(k.policy, now); !ended {
				f(st, k)
			}
		}
		if len(all) < q.Limit {
			return nil
		}
		q.After = all[len(all)-1].ID
	}
}

// accountSessions signs out of one session or device, of the others, or everywhere.
func (s *Server) accountSessions(w http.ResponseWriter, r *http.Request, c *call) error {
	who, err := s.owner(w, r, c)
	if who == nil {
		return err
	}
	f, err := readPost(r)
	if err != nil {
		return err
	}
	ctx, what := r.Context(), f.get("end")
	all := func(u user.User, now time.Time, keep user.Origin) (user.User, error) {
		return u.CutOff(now, user.ReasonUser, keep), nil
	}
	switch {
	case what == "this" || what == "s"+who.session.ID.String():
		return s.signOutHere(w, r, c, who, family.RevokedLogout)
	case what == "others":
		if err := s.cutOff(ctx, c, who.user.ID, family.RevokedUser, &who.session, all); err != nil {
			return err
		}
		return s.done(w, r, "/account", "others")
	case what == "all":
		if err := s.cutOff(ctx, c, who.user.ID, family.RevokedUser, nil, all); err != nil {
			return err
		}
		s.setCookie(w, s.cookieName(), "", 0)
		return s.show(w, http.StatusOK, page.SignedOut{})
	case strings.HasPrefix(what, "s"):
		id, err := session.ParseID(what[1:])
		if err != nil {
			break
		}
		se, err := s.conf.Store.Session(ctx, id)
		if errors.Is(err, family.ErrNotFound) || err == nil && se.User != string(who.user.ID) {
			break // gone, or another person's: nothing of theirs is touched or told
		}
		if err != nil {
			return err
		}
		if err := s.endSession(ctx, c, id, family.RevokedUser); err != nil {
			return err
		}
		return s.done(w, r, "/account", "device")
	case strings.HasPrefix(what, "f"):
		id, err := family.ParseID(what[1:])
		if err != nil {
			break
		}
		st, _, err := s.conf.Store.Load(ctx, id)
		if errors.Is(err, family.ErrNotFound) || err == nil && st.Grant.User != string(who.user.ID) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := family.End(ctx, s.conf.Store, id, family.RevokedUser, c.from, c.id); err != nil {
			return err
		}
		return s.done(w, r, "/account", "device")
	}
	return badRequest("end must be one of the devices of the page, this, others or all")
}

// signOutHere ends this browser's session and says so.
func (s *Server) signOutHere(w http.ResponseWriter, r *http.Request, c *call, who *signedIn, why family.Reason) error {
	if err := s.endSession(r.Context(), c, who.session.ID, why); err != nil {
		return err
	}
	if err := s.endBrowserApps(r, c, who, why); err != nil {
		return err
	}
	s.setCookie(w, s.cookieName(), "", 0)
	return s.show(w, http.StatusOK, page.SignedOut{})
}

// done leads back to a page, so that a reload does not send the form again.
func (s *Server) done(w http.ResponseWriter, r *http.Request, path, what string) error {
	http.Redirect(w, r, s.path(path)+"?done="+what, http.StatusSeeOther)
	return nil
}

// apps lists the clients that the person has let in.
func (s *Server) apps(w http.ResponseWriter, r *http.Request, c *call) error {
	who, err := s.owner(w, r, c)
	if who == nil {
		return err
	}
	now, err := s.conf.Store.Now(r.Context())
	if err != nil {
		return err
	}
	view := page.Apps{Username: who.user.Username, Now: now.Std(), Notice: s.notice(r)}
	index := map[string]int{}
	consents, err := s.conf.Store.Consents(r.Context(), who.user.ID)
	if err != nil {
		return err
	}
	for _, con := range consents {
		app := page.App{ClientID: con.Client, Name: con.Client, Since: con.GrantedAt}
		k, err := s.party(r.Context(), con.Client)
		if err == nil {
			app.Name = k.display()
		} else if !errors.Is(err, family.ErrNotFound) {
			return err
		}
		for _, word := range family.Scope(con.Scope).Words() {
			app.Scopes = append(app.Scopes, page.Scope{Name: word, Required: word == "openid"})
		}
		index[con.Client] = len(view.Apps)
		view.Apps = append(view.Apps, app)
	}
	err = s.eachFamily(r, who, now, func(st family.State, k *known) {
		i, ok := index[k.ID]
		if !ok {
			i = len(view.Apps)
			index[k.ID] = i
			view.Apps = append(view.Apps, page.App{ClientID: k.ID, Name: k.display(), Since: st.IssuedAt.Std()})
		}
		if at := st.LastUsed.Std(); at.After(view.Apps[i].LastUsed) {
			view.Apps[i].LastUsed = at
		}
	})
	if err != nil {
		return err
	}
	return s.show(w, http.StatusOK, view)
}

// accountApps takes a scope back from a client, or everything. Access tokens that have
// the scope are inactive from then on.
func (s *Server) accountApps(w http.ResponseWriter, r *http.Request, c *call) error {
	who, err := s.owner(w, r, c)
	if who == nil {
		return err
	}
	f, err := readPost(r)
	if err != nil {
		return err
	}
	ctx, clientID := r.Context(), f.get("client")
	if clientID == "" {
		return badRequest("client is missing")
	}
	e := family.Event{Kind: family.UserChanged, User: string(who.user.ID), Client: clientID, Origin: c.from, Request: c.id}
	mine := family.Query{User: string(who.user.ID), Client: clientID}
	if word := f.get("withdraw"); word != "" {
		if err := s.withdraw(r, c, who, clientID, word, e); err != nil {
			return err
		}
		return s.done(w, r, "/account/apps", "scope")
	}
	if f.get("remove") != clientID {
		return badRequest("withdraw or remove is missing")
	}
	e.Detail = "removed the client's access"
	// The consent goes first, so that nothing new is given without asking again.
	if err := s.conf.Store.DropConsent(ctx, who.user.ID, clientID, e); err != nil && !errors.Is(err, family.ErrNotFound) {
		return err
	}
	n, err := family.EndAll(ctx, s.conf.Store, s.conf.Store, mine, nil, family.RevokedUser, c.from, c.id)
	s.metrics.ended.WithLabelValues(family.RevokedUser.String()).Add(float64(n))
	if err != nil {
		return err
	}
	return s.done(w, r, "/account/apps", "app")
}

// withdraw takes one scope out of the consent and out of every family of the client.
func (s *Server) withdraw(r *http.Request, c *call, who *signedIn, clientID, word string, e family.Event) error {
	ctx := r.Context()
	con, err := s.conf.Store.Consent(ctx, who.user.ID, clientID)
	if errors.Is(err, family.ErrNotFound) {
		return badRequest("the app has no consent to withdraw from")
	}
	if err != nil {
		return err
	}
	con.Scope = string(family.Scope(con.Scope).Without(word))
	e.Detail = "withdrew scope " + word
	if err := s.conf.Store.PutConsent(ctx, con, e); err != nil {
		return err
	}
	q := family.Query{User: string(who.user.ID), Client: clientID, LiveOnly: true, Limit: 1000}
	for {
		all, err := s.conf.Store.Families(ctx, q)
		if err != nil {
			return err
		}
		for _, st := range all {
			_, _, _, err := family.Step(ctx, s.conf.Store, st.ID, func(st family.State, _ family.Standing) (family.State, family.Verdict, []family.Event) {
				ev := st.EventFor(family.FamilyNarrowed, 0, family.Token{Generation: st.Head}, c.from)
				ev.Request, ev.Detail = c.id, e.Detail
				return st.Narrow(st.Grant.Scope.Without(word)), family.Verdict{Act: family.Refuse}, []family.Event{ev}
			})
			if err != nil && !errors.Is(err, family.ErrNotFound) {
				return err
			}
		}
		if len(all) < q.Limit {
			return nil
		}
		q.After = all[len(all)-1].ID
	}
}

// password is the page on which a password is changed.
func (s *Server) password(w http.ResponseWriter, r *http.Request, c *call) error {
	who, err := s.owner(w, r, c)
	if who == nil {
		return err
	}
	return s.show(w, http.StatusOK, page.ChangePassword{Username: who.user.Username, Notice: s.notice(r)})
}

// changePassword sets a new password. Everything that the old one opened ends: the
// other sessions and all families; this session stays if it asks to.
func (s *Server) changePassword(w http.ResponseWriter, r *http.Request, c *call) error {
	who, err := s.owner(w, r, c)
	if who == nil {
		return err
	}
	f, err := readPost(r)
	if err != nil {
		return err
	}
	view := page.ChangePassword{Username: who.user.Username}
	fresh := f.get("new_password")
	if err := user.CheckPassword(fresh); err != nil {
		view.Field, view.Error = "new_password", sentence(err)
		return s.show(w, http.StatusUnprocessableEntity, view)
	}
	if who.user.Password == "" {
		view.Error = "This account has no password here; it signs in elsewhere."
		return s.show(w, http.StatusUnprocessableEntity, view)
	}
	// Asked again, and throttled like a sign-in: an unlocked screen must not be enough.
	proven, refusal, err := s.checkPassword(r, c, who.user.Username, f.get("current_password"))
	if err != nil {
		return err
	}
	if refusal != "" {
		view.Field, view.Error = "current_password", refusal
		if refusal == wrongPassword {
			view.Error = "The current password is wrong."
		}
		return s.show(w, http.StatusUnprocessableEntity, view)
	}
	phc, err := s.hasher.Hash(r.Context(), fresh)
	if errors.Is(err, user.ErrBusy) {
		view.Error = "The server is busy. Try again in a few seconds."
		return s.show(w, http.StatusServiceUnavailable, view)
	}
	if err != nil {
		return err
	}
	keep := &who.session
	if f.get("keep") != "1" {
		keep = nil
	}
	err = s.cutOff(r.Context(), c, who.user.ID, family.RevokedPasswordChange, keep, func(u user.User, now time.Time, origin user.Origin) (user.User, error) {
		// Another change was faster: what was proven here is the password of before, and
		// whoever knew it must not take the account back.
		if !u.PasswordAt.Equal(proven.PasswordAt) {
			return u, errOldPassword
		}
		return u.WithPassword(phc, now, origin), nil
	})
	if errors.Is(err, errOldPassword) {
		view.Field, view.Error = "current_password", "The current password is wrong."
		return s.show(w, http.StatusUnprocessableEntity, view)
	}
	if err != nil {
		return err
	}
	if keep == nil {
		s.setCookie(w, s.cookieName(), "", 0)
		return s.show(w, http.StatusOK, page.SignedOut{})
	}
	// A copy of the cookie ends with the rest. The row is read again: signing in elsewhere
	// or a page view may have changed it.
	kept, err := s.conf.Store.Session(r.Context(), keep.ID)
	if err == nil {
		err = s.renew(r.Context(), w, kept)
	}
	if err != nil {
		return err
	}
	return s.done(w, r, "/account/password", "password")
}

var errOldPassword = errors.New("the password was changed meanwhile")

// sentence makes an error's text one for a page.
func sentence(err error) string {
	t := err.Error()
	return strings.ToUpper(t[:1]) + t[1:] + "."
}

// endBrowserApps ends the families of browser apps that came from this session even
// when they had offline_access: such an app's tokens end with the session at the server
// (RFC 10017 §6.3.2.3).
func (s *Server) endBrowserApps(r *http.Request, c *call, who *signedIn, why family.Reason) error {
	var failed error
	_, err := family.EndAll(r.Context(), s.conf.Store, s.conf.Store, family.Query{Session: [16]byte(who.session.ID)},
		func(st family.State) bool {
			k, err := s.party(r.Context(), st.Grant.Client)
			if err != nil && !errors.Is(err, family.ErrNotFound) {
				failed = err
			}
			return err != nil || k.Preset != "browser"
		}, why, c.from, c.id)
	return errors.Join(err, failed)
}

// endSessionAsked is RP-Initiated Logout 1.0. It asks the person, unless the hint shows
// that the request comes from a client of this very session.
func (s *Server) endSessionAsked(w http.ResponseWriter, r *http.Request, c *call) error {
	f, err := readAuthRequest(r)
	if err != nil {
		return err
	}
	var k *known
	hint := hintClaims{}
	if text := f.get("id_token_hint"); text != "" {
		if hint, err = s.idTokenHint(text); err != nil {
			return badRequest("id_token_hint is not an ID token of this server")
		}
		if len(hint.Audience) != 1 || f.get("client_id") != "" && f.get("client_id") != hint.Audience[0] {
			return badRequest("client_id is not the audience of id_token_hint")
		}
	}
	id := f.get("client_id")
	if id == "" && len(hint.Audience) == 1 {
		id = hint.Audience[0]
	}
	if id != "" {
		k, err = s.party(r.Context(), id)
		if errors.Is(err, family.ErrNotFound) {
			return &pageError{http.StatusBadRequest, page.UnknownClient("")}
		}
		if err != nil {
			return err
		}
		c.client = k.ID
	}
	back := f.get("post_logout_redirect_uri")
	if back != "" && (k == nil || !k.ReturnsFromLogout(back)) {
		return &pageError{http.StatusBadRequest, page.BadRedirect("")}
	}
	who, err := s.who(r)
	if err != nil {
		return err
	}
	if who != nil {
		c.user = string(who.user.ID)
		sure := hint.Session == who.session.ID.String()
		// The form posts back to this path; a post from another site never counts as an
		// answer, whatever fields it has.
		if !sure && r.Method == http.MethodPost && http.NewCrossOriginProtection().Check(r) == nil {
			switch f.get("decision") {
			case "sign_out":
				sure = true
			case "stay":
				http.Redirect(w, r, s.path("/account"), http.StatusSeeOther)
				return nil
			}
		}
		if !sure {
			return s.askSignOut(w, f, k, who, back)
		}
		if err := s.endSession(r.Context(), c, who.session.ID, family.RevokedLogout); err != nil {
			return err
		}
		if err := s.endBrowserApps(r, c, who, family.RevokedLogout); err != nil {
			return err
		}
		s.setCookie(w, s.cookieName(), "", 0)
	}
	if back == "" {
		return s.show(w, http.StatusOK, page.SignedOut{})
	}
	if hint.Subject == "" && who == nil {
		// Without a hint and without a session nobody vouches for the redirect
		// (RP-Initiated Logout §3): offer it as a link.
		view := page.SignedOut{Client: k.display()}
		if strings.HasPrefix(back, "http") {
			view.ReturnURL = back
		}
		return s.show(w, http.StatusOK, view)
	}
	to := back
	if state := f.get("state"); state != "" {
		sep := "?"
		if strings.Contains(back, "?") {
			sep = "&"
		}
		to += sep + form{{"state", state}}.encode()
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

func (s *Server) askSignOut(w http.ResponseWriter, f form, k *known, who *signedIn, back string) error {
	view := page.SignOut{Username: who.user.Username}
	if k != nil {
		view.Client = k.display()
	}
	for _, p := range f {
		switch p.name {
		case "id_token_hint", "client_id", "post_logout_redirect_uri", "state":
			view.Hidden = append(view.Hidden, page.Field{Name: p.name, Value: p.value})
		}
	}
	secureHeaders(w.Header(), back)
	return s.show(w, http.StatusOK, view)
}
