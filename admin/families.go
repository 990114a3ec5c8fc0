package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// FamilyView is a family as the API shows it.
type FamilyView struct {
	ID         string    `json:"id"`
	Client     string    `json:"client"`
	User       string    `json:"user,omitempty"`
	Username   string    `json:"username,omitempty"`
	Session    string    `json:"session,omitempty"`
	Status     string    `json:"status"`           // live or ended
	Reason     string    `json:"reason,omitempty"` // why it ended
	Generation uint32    `json:"generation"`       // the head; 0: only the code was issued
	Offline    bool      `json:"offline"`
	Scope      string    `json:"scope"`
	Resources  []string  `json:"resources,omitempty"`
	IssuedAt   time.Time `json:"issued_at"`
	LastUsed   time.Time `json:"last_used"`
	EndedAt    time.Time `json:"ended_at,omitzero"` // of an ended family, as far as it is known
	EndsAt     time.Time `json:"ends_at,omitzero"`  // of a live one: when it ends unless it is used; zero: never
	IP         string    `json:"ip,omitempty"`      // of the last use
	Device     string    `json:"device,omitempty"`  // of the last use
}

// people remembers names and clients while one answer is made.
type people struct {
	a       *API
	users   map[string]user.User
	clients map[string]client.Client
}

func (a *API) people() *people {
	return &people{a, map[string]user.User{}, map[string]client.Client{}}
}

// user returns the user with this id; the zero User if there is none any more.
func (p *people) user(ctx context.Context, id string) (user.User, error) {
	if id == "" {
		return user.User{}, nil
	}
	if u, ok := p.users[id]; ok {
		return u, nil
	}
	u, err := p.a.Store.User(ctx, user.ID(id))
	if err != nil && !errors.Is(err, family.ErrNotFound) {
		return user.User{}, fmt.Errorf("load user: %w", err)
	}
	p.users[id] = u
	return u, nil
}

func (p *people) client(ctx context.Context, id string) (client.Client, error) {
	if cl, ok := p.clients[id]; ok {
		return cl, nil
	}
	cl, err := p.a.Store.Client(ctx, id)
	if err != nil && !errors.Is(err, family.ErrNotFound) {
		return client.Client{}, fmt.Errorf("load client: %w", err)
	}
	p.clients[id] = cl
	return cl, nil
}

// fate is what is known of a family's end.
type fate struct {
	over   bool
	why    family.Reason
	at     family.Time   // of an ended family: when; 0: not known
	ends   family.Time   // of a live family: its deadline; 0: never
	policy family.Policy // of its client; the zero Policy if the client is gone
	user   user.User
	client client.Client
}

// fate judges a family as a refresh would: by its row, its bars and its deadlines of today.
func (p *people) fate(ctx context.Context, s family.State) (f fate, err error) {
	if f.user, err = p.user(ctx, s.Grant.User); err != nil {
		return fate{}, err
	}
	if f.client, err = p.client(ctx, s.Grant.Client); err != nil {
		return fate{}, err
	}
	// A client that is gone has no policy; its families are barred whatever it was.
	f.policy, _ = PolicyOf(f.client)
	if s.Status != family.Live {
		f.over, f.why = true, s.Reason
		for _, u := range s.Trail.Uses {
			f.at = max(f.at, u.At)
		}
		return f, nil
	}
	_, standing, err := p.a.Store.Load(ctx, s.ID)
	if err != nil && !errors.Is(err, family.ErrNotFound) {
		return fate{}, fmt.Errorf("load family: %w", err)
	}
	end, why := s.Deadline(f.policy)
	expired := end != 0 && standing.Now >= end
	bar := f.barredAt(s, standing.Barred)
	switch {
	case standing.Barred != 0 && (!expired || bar != 0 && bar < end):
		f.over, f.why, f.at = true, standing.Barred, bar
	case expired:
		f.over, f.why, f.at = true, why, end
	default:
		f.ends = end
	}
	return f, nil
}

// barredAt finds the cut-off behind a bar; 0: it is a status, of which the events tell.
func (f fate) barredAt(s family.State, why family.Reason) family.Time {
	if t := family.At(f.user.NotBefore); t >= s.IssuedAt && f.user.NotBeforeReason == why.String() {
		return t
	}
	if t := family.At(f.client.NotBefore); t >= s.IssuedAt && f.client.NotBeforeReason == why.String() {
		return t
	}
	return 0
}

func (p *people) view(ctx context.Context, s family.State) (FamilyView, error) {
	f, err := p.fate(ctx, s)
	if err != nil {
		return FamilyView{}, err
	}
	return viewFamily(s, f), nil
}

func viewFamily(s family.State, f fate) FamilyView {
	v := FamilyView{
		ID: s.ID.String(), Client: s.Grant.Client, User: s.Grant.User, Username: f.user.Username,
		Status: "live", Generation: s.Head, Offline: s.Grant.Offline,
		Scope: string(s.Grant.Scope), Resources: s.Grant.Resources,
		IssuedAt: s.IssuedAt.Std(), LastUsed: s.LastUsed.Std(),
	}
	if s.Grant.Session != [16]byte{} {
		v.Session = session.ID(s.Grant.Session).String()
	}
	if f.over {
		v.Status, v.Reason, v.EndedAt = "ended", f.why.String(), f.at.Std()
	} else {
		v.EndsAt = f.ends.Std()
	}
	if from, ok := lastOrigin(s); ok {
		v.IP, v.Device = ipOf(from), deviceOf(from)
	}
	return v
}

// lastOrigin is where the family's holder was last seen: the last line of the trail that
// is a use and not somebody's decision to end it.
func lastOrigin(s family.State) (family.Origin, bool) {
	for _, e := range slices.Backward(s.History()) {
		switch e.Reason {
		case family.Issued, family.Rotated, family.Recovered, family.RepeatedPossession:
			return e.Origin, e.Origin != family.Origin{}
		}
	}
	return family.Origin{}, false
}

func ipOf(o family.Origin) string {
	if !o.IP.IsValid() {
		return ""
	}
	return o.IP.String()
}

func deviceOf(o family.Origin) string {
	if o.UserAgent == "" {
		return ""
	}
	return session.Device(o.UserAgent)
}

// FamilyPage is one page of families.
type FamilyPage struct {
	Families []FamilyView `json:"families"`
	Next     string       `json:"next,omitempty"`
}

func (a *API) listFamilies(c *call) (any, error) {
	q, err := c.params("user", "client", "session", "live", "after", "limit")
	if err != nil {
		return nil, err
	}
	query := family.Query{Client: q.Get("client")}
	if query.Limit, err = limit(q); err != nil {
		return nil, err
	}
	live, err := flag(q, "live")
	if err != nil {
		return nil, err
	}
	query.LiveOnly = live
	if name := q.Get("user"); name != "" {
		u, err := a.findUser(c.Context(), name)
		if err != nil {
			return nil, err
		}
		query.User = string(u.ID)
	}
	if raw := q.Get("session"); raw != "" {
		id, err := session.ParseID(raw)
		if err != nil {
			return nil, invalid(err.Error(), "")
		}
		query.Session = id
	}
	if raw := q.Get("after"); raw != "" {
		if query.After, err = family.ParseID(raw); err != nil {
			return nil, invalid(err.Error(), "")
		}
	}
	page := FamilyPage{Families: []FamilyView{}}
	who := a.people()
	// Live rows may be expired or barred, so a page of living ones may take several reads.
	for len(page.Families) < query.Limit {
		states, err := a.Store.Families(c.Context(), query)
		if err != nil {
			return nil, fmt.Errorf("list families: %w", err)
		}
		for _, s := range states {
			if len(page.Families) == query.Limit {
				break
			}
			v, err := who.view(c.Context(), s)
			if err != nil {
				return nil, err
			}
			query.After = s.ID
			if !live || v.Status == "live" {
				page.Families = append(page.Families, v)
			}
		}
		if len(states) < query.Limit {
			return page, nil
		}
	}
	page.Next = query.After.String()
	return page, nil
}

// findFamily loads the family of the path.
func (a *API) findFamily(c *call) (family.State, error) {
	id, err := family.ParseID(c.PathValue("id"))
	if err != nil {
		return family.State{}, invalid(err.Error(), `"heirloom family list" shows ids; a token is not an id`)
	}
	s, _, err := a.Store.Load(c.Context(), id)
	if errors.Is(err, family.ErrNotFound) {
		return family.State{}, &apiError{http.StatusNotFound, "not_found", "there is no family " + id.String(), "families that ended long ago are swept; their events may still tell: GET /admin/v1/events?family=" + id.String()}
	}
	if err != nil {
		return family.State{}, fmt.Errorf("load family: %w", err)
	}
	return s, nil
}

func (a *API) showFamily(c *call) (any, error) {
	s, err := a.findFamily(c)
	if err != nil {
		return nil, err
	}
	return a.people().view(c.Context(), s)
}

// FamilyEnded is the answer to the revocation of a family.
type FamilyEnded struct {
	Family FamilyView `json:"family"`
	Ended  bool       `json:"ended"` // false: it had ended before
}

func (a *API) revokeFamily(c *call) (any, error) {
	if err := c.read(&struct{}{}, true); err != nil {
		return nil, err
	}
	s, err := a.findFamily(c)
	if err != nil {
		return nil, err
	}
	ended, err := family.End(c.Context(), a.Store, s.ID, family.RevokedAdmin, c.from, c.id)
	if err != nil {
		return nil, err
	}
	if s, err = a.findFamily(c); err != nil {
		return nil, err
	}
	v, err := a.people().view(c.Context(), s)
	return FamilyEnded{v, ended}, err
}
