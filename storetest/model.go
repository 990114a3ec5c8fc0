package storetest

import (
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/user"
)

// world is the simplest thing that behaves like an engine, for a few families of two
// users and two clients.
type world struct {
	families map[family.ID]family.State
	events   map[family.ID][]family.EventKind
	users    map[user.ID]*user.User // nil: deleted
	clients  map[string]*client.Client
	deleted  map[string]family.Time // users and clients
}

// cutOff is a cut-off that covers a family.
type cutOff struct {
	why family.Reason
	at  family.Time
}

// cuts returns those of the family's user and client.
func (w *world) cuts(s family.State) (all []cutOff) {
	if id := s.Grant.User; id != "" {
		if u := w.users[user.ID(id)]; u == nil {
			all = append(all, cutOff{family.UserDisabled, w.deleted[id]})
		} else if word, dead := u.Enable().Dead(user.Origin{Session: s.Grant.Session, Issued: s.IssuedAt.Std()}); dead {
			why, err := family.ParseReason(word)
			if err != nil {
				panic(err)
			}
			all = append(all, cutOff{why, family.At(u.NotBefore)})
		}
	}
	if c := w.clients[s.Grant.Client]; c == nil {
		all = append(all, cutOff{family.RevokedAdmin, w.deleted[s.Grant.Client]})
	} else if at := family.At(c.NotBefore); at != 0 && s.IssuedAt <= at {
		all = append(all, cutOff{family.RevokedAdmin, at})
	}
	return all
}

// against returns why a family is barred; 0: it is not.
func (w *world) against(s family.State) family.Reason {
	u, c := w.users[user.ID(s.Grant.User)], w.clients[s.Grant.Client]
	if u != nil && u.Status == user.Disabled {
		return family.UserDisabled
	}
	all := w.cuts(s)
	if len(all) == 0 && c.Status == client.Disabled || len(all) == 1 && c != nil && c.Status == client.Disabled && all[0].why == family.RevokedAdmin {
		return family.ClientDisabled
	}
	if len(all) == 0 {
		return 0
	}
	return all[0].why
}

// sweep does what Sweep does.
func (w *world) sweep(now family.Time) {
	for id, s := range w.families {
		end := s.Ends
		if s.IdleEnds != 0 && (end == 0 || s.IdleEnds < end) {
			end = s.IdleEnds
		}
		for _, c := range w.cuts(s) {
			if s.Status == family.Live && (end == 0 || end > c.at) {
				s = s.Revoke(now, c.why, family.Origin{})
				s.Version++
				w.families[id] = s
				w.events[id] = append(w.events[id], family.FamilyRevoked)
			}
		}
		if s.Status == family.Revoked {
			h := s.History()
			end = family.At(h[len(h)-1].At.Std().Truncate(day).Add(day))
		}
		if end != 0 && now >= end.Add(KeepEnded) {
			delete(w.families, id)
			if s.Status == family.Live {
				w.events[id] = append(w.events[id], family.FamilyExpired)
			}
		}
	}
}

func model() []story {
	return []story{{"any sequence of steps does what the simplest engine does", func(b bench) {
		round := 0
		rapid.Check(b.T, func(t *rapid.T) {
			round++
			b.walk(t, round)
		})
	}}}
}

// walk takes an engine and the model through one random sequence. Every round has
// users, clients and families of its own.
func (b bench) walk(t *rapid.T, round int) {
	ctx := b.Context()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &world{
		families: map[family.ID]family.State{}, events: map[family.ID][]family.EventKind{},
		users: map[user.ID]*user.User{}, clients: map[string]*client.Client{}, deleted: map[string]family.Time{},
	}
	var people []user.ID
	var apps []string
	var ids []family.ID
	for i := range 2 {
		u := person(user.NewID([16]byte{byte(round >> 16), byte(round >> 8), byte(round), byte(i)}), fmt.Sprintf("p%d-%d", round, i))
		c := appClient(fmt.Sprintf("c%d-%d", round, i))
		must(b.e.PutUser(ctx, u))
		must(b.e.PutClient(ctx, c))
		u.Version, c.Version = 1, 1
		people, apps = append(people, u.ID), append(apps, c.ID)
		w.users[u.ID], w.clients[c.ID] = &u, &c
	}
	for i := range 4 {
		ids = append(ids, family.ID{byte(round >> 16), byte(round >> 8), byte(round), byte(i), 0xee})
	}
	p := policy("native")
	anyOf := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
	commit := func(next family.State, stale bool, events ...family.Event) {
		now, there := w.families[next.ID]
		if stale {
			next.Version--
		}
		err := b.e.Commit(ctx, next, events...)
		if ok := there && now.Version == next.Version && now.Status == family.Live; ok != (err == nil) {
			t.Fatalf("Commit: %v, but the model says %v", err, ok)
		}
		if err != nil {
			return
		}
		next.Version++
		w.families[next.ID] = next
		for _, e := range events {
			w.events[next.ID] = append(w.events[next.ID], e.Kind)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"create": func(t *rapid.T) {
			g := &family.Grant{Client: apps[anyOf("client", 2)], Session: [16]byte{byte(anyOf("session", 3))}, Scope: "openid"}
			if n := anyOf("user", 3); n < 2 {
				g.User = string(people[n])
			}
			policy := p
			if anyOf("ends", 2) == 0 {
				policy.Idle, policy.Absolute = 0, 0
			}
			s := family.New(ids[anyOf("family", 4)], policy, b.time(), g, 1, 0, phone)
			if anyOf("code", 2) == 0 {
				s.IdleEnds = 0
			}
			err := b.e.Create(ctx, s, s.EventFor(family.FamilyIssued, family.Issued, family.Token{}, phone))
			if _, taken := w.families[s.ID]; taken != (err != nil) {
				t.Fatalf("Create: %v, but the model says taken is %v", err, taken)
			}
			if err == nil {
				s.Version = 1
				w.families[s.ID] = s
				w.events[s.ID] = append(w.events[s.ID], family.FamilyIssued)
			}
		},
		"rotate": func(t *rapid.T) {
			s, ok := w.families[ids[anyOf("family", 4)]]
			if !ok || s.Status != family.Live {
				t.Skip()
			}
			from := family.Origin{UserAgent: fmt.Sprint("ua", anyOf("from", 20))}
			next, v := family.Present(s, p, b.time(), family.Token{Generation: s.Head}, family.Proof{Origin: from, Key: 2})
			if v.Act == family.Rotate {
				commit(next, anyOf("stale", 4) == 0)
			}
		},
		"revoke": func(t *rapid.T) {
			s, ok := w.families[ids[anyOf("family", 4)]]
			if !ok {
				t.Skip()
			}
			next := s.Revoke(b.time(), family.RevokedUser, phone)
			commit(next, anyOf("stale", 4) == 0, s.EventFor(family.FamilyRevoked, family.RevokedUser, family.Token{}, phone))
		},
		"narrow": func(t *rapid.T) {
			s, ok := w.families[ids[anyOf("family", 4)]]
			if !ok || s.Status != family.Live {
				t.Skip()
			}
			commit(s.Narrow("email"), false)
		},
		"user": func(t *rapid.T) {
			u := w.users[people[anyOf("user", 2)]]
			if u == nil {
				t.Skip()
			}
			next := *u
			switch anyOf("what", 4) {
			case 0:
				next.Status = user.Disabled
			case 1:
				next = next.Enable()
			case 2:
				next = next.CutOff(b.clock.now(), user.ReasonUser, user.Origin{})
			case 3:
				next = next.CutOff(b.clock.now(), user.ReasonPasswordChange, user.Origin{Session: [16]byte{1}, Issued: b.clock.now()})
			}
			must(b.e.PutUser(ctx, next))
			next.Version++
			next.NotBefore = family.At(next.NotBefore).Std()
			w.users[next.ID] = &next
		},
		"client": func(t *rapid.T) {
			c := w.clients[apps[anyOf("client", 2)]]
			if c == nil {
				t.Skip()
			}
			next := *c
			switch anyOf("what", 3) {
			case 0:
				next.Status = client.Disabled
			case 1:
				next.Status = client.Enabled
			case 2:
				next.NotBefore, next.NotBeforeReason = b.clock.now(), "revoked_admin"
			}
			must(b.e.PutClient(ctx, next))
			next.Version++
			w.clients[next.ID] = &next
		},
		"delete": func(t *rapid.T) {
			if anyOf("rarely", 5) != 0 {
				t.Skip()
			}
			if n := anyOf("what", 4); n < 2 {
				err := b.e.DeleteUser(ctx, people[n])
				if (err == nil) != (w.users[people[n]] != nil) {
					t.Fatalf("DeleteUser: %v", err)
				}
				if err == nil {
					w.users[people[n]] = nil
					w.deleted[string(people[n])] = b.time()
				}
			} else {
				n -= 2
				err := b.e.DeleteClient(ctx, apps[n])
				if (err == nil) != (w.clients[apps[n]] != nil) {
					t.Fatalf("DeleteClient: %v", err)
				}
				if err == nil {
					w.clients[apps[n]] = nil
					w.deleted[apps[n]] = b.time()
				}
			}
		},
		"time": func(t *rapid.T) {
			b.clock.move(rapid.SampledFrom([]time.Duration{
				time.Millisecond, time.Second, time.Hour, 20 * time.Hour, 3 * day, 31 * day,
			}).Draw(t, "step"))
		},
		"sweep": func(t *rapid.T) {
			for {
				n, err := b.e.Sweep(ctx, 0)
				must(err)
				if n == 0 {
					break
				}
			}
			w.sweep(b.time())
		},
		"": func(t *rapid.T) {
			for _, id := range ids {
				want, there := w.families[id]
				got, at, err := b.e.Load(ctx, id)
				if (err == nil) != there {
					t.Fatalf("Load: %v, but the model says there is %v", err, there)
				}
				if !there {
					continue
				}
				if g, e := show(got), show(want); g != e {
					t.Fatalf("Load:\n got %s\nwant %s", g, e)
				}
				if why := w.against(want); at.Barred != why {
					t.Fatalf("barred with %v, want %v", at.Barred, why)
				}
				page, err := b.e.Events(ctx, family.EventQuery{Family: id, Limit: 1000})
				must(err)
				var kinds []family.EventKind
				for _, e := range slices.Backward(page) {
					kinds = append(kinds, e.Kind)
				}
				// Old ones may have been swept.
				if all := w.events[id]; len(kinds) > len(all) || !slices.Equal(kinds, all[len(all)-len(kinds):]) {
					t.Fatalf("events %v, want %v", kinds, all)
				}
			}
			q := family.Query{User: string(people[0]), LiveOnly: true}
			page, err := b.e.Families(ctx, q)
			must(err)
			var got, want []family.ID
			for _, s := range page {
				got = append(got, s.ID)
			}
			for _, id := range ids {
				if s, ok := w.families[id]; ok && s.Grant.User == string(people[0]) && s.Status == family.Live {
					want = append(want, id)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("families %v, want %v", got, want)
			}
		},
	})
}
