package storetest

import (
	"fmt"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// session makes one that ends in 12 hours.
func (b bench) session(n byte, u user.ID) session.Session {
	at := b.time().Std()
	return session.Session{
		ID: session.ID{n}, User: string(u), Status: session.Live, CreatedAt: at, AuthTime: at, LastSeen: at, Ends: at.Add(12 * time.Hour),
		ACR: "urn:acr", AMR: []string{"pwd"}, SecretHash: [32]byte{n, 1}, UserAgent: "Browser/1.0", IP: "203.0.113.9",
	}
}

func people() []story {
	return []story{
		{"a client is loaded again with all its fields", func(b bench) {
			c := filled[client.Client]()
			c.Version, c.Status, c.Auth, c.NotBeforeReason = 0, client.Disabled, client.Secret, "revoked_admin"
			b.must(b.e.PutClient(b.Context(), c, family.Event{Kind: family.ClientChanged, Client: c.ID}))
			got, err := b.e.Client(b.Context(), c.ID)
			b.must(err)
			c.Version = 1
			b.same("Client", got, c)
			b.same("events", len(b.events()), 1)
			// What the caller does with its own afterwards is nothing to the store.
			mine, want := c, filled[client.Client]()
			want.Version, want.Status, want.Auth, want.NotBeforeReason = c.Version, c.Status, c.Auth, c.NotBeforeReason
			mine.Secrets[0].Sum[0]++
			for k := range mine.Policy {
				mine.Policy[k] = "changed"
			}
			for _, list := range [][]string{mine.RedirectURIs, mine.PostLogoutRedirectURIs, mine.GrantTypes, mine.Scopes, mine.Audience, mine.Resources, mine.Introspects} {
				list[0] = "changed"
			}
			got, err = b.e.Client(b.Context(), c.ID)
			b.must(err)
			b.same("Client after its first owner changed their own", got, want)
		}},
		{"RT_F11: a client follows the rules of versions, and its id is never given again", func(b bench) {
			ctx := b.Context()
			put := func(version uint64, name string) error {
				c := appClient(app)
				c.Version, c.Name = version, name
				return b.e.PutClient(ctx, c, family.Event{Kind: family.ClientChanged})
			}
			name := func() string {
				c, err := b.e.Client(ctx, app)
				b.must(err)
				return c.Name
			}
			_, err := b.e.Client(ctx, app)
			b.want("Client before", err, family.ErrNotFound)
			b.want("change of none", put(1, "x"), family.ErrConflict)
			b.want("delete of none", b.e.DeleteClient(ctx, app), family.ErrNotFound)
			b.must(put(0, "first"))
			b.want("create again", put(0, "x"), family.ErrExists)
			b.must(put(1, "second"))
			b.want("stale change", put(1, "x"), family.ErrConflict)
			b.want("change from the future", put(3, "x"), family.ErrConflict)
			b.same("name", name(), "second")
			b.same("events", len(b.events()), 2)
			b.must(b.e.DeleteClient(ctx, app, family.Event{Kind: family.ClientChanged, Detail: "deleted"}))
			_, err = b.e.Client(ctx, app)
			b.want("Client after", err, family.ErrNotFound)
			b.want("delete again", b.e.DeleteClient(ctx, app), family.ErrNotFound)
			b.want("create after delete", put(0, "x"), family.ErrExists)
			b.want("change after delete", put(2, "x"), family.ErrConflict)
			b.same("events", len(b.events()), 3)
			list, err := b.e.Clients(ctx, "", 0)
			b.must(err)
			b.same("clients", len(list), 0)
		}},
		{"clients are listed page by page in the order of their ids", func(b bench) {
			for _, n := range []int{3, 1, 4, 0, 2} {
				b.must(b.e.PutClient(b.Context(), appClient(fmt.Sprint("c", n))))
			}
			b.must(b.e.DeleteClient(b.Context(), "c2"))
			var got []string
			for after := ""; ; {
				page, err := b.e.Clients(b.Context(), after, 2)
				b.must(err)
				for _, c := range page {
					got, after = append(got, c.ID), c.ID
				}
				if len(page) < 2 {
					break
				}
			}
			b.same("clients", got, []string{"c0", "c1", "c3", "c4"})
		}},
		{"a user is loaded again with all their fields, by id and by name", func(b bench) {
			u := filled[user.User]()
			u.ID, u.Version, u.Username, u.Status, u.NotBeforeReason = ada, 0, "ada", user.Disabled, user.ReasonUser
			at := u.PasswordAt
			u.PasswordAt = at.Add(1)
			b.must(b.e.PutUser(b.Context(), u, family.Event{Kind: family.UserCreated, User: string(ada)}))
			u.Version, u.PasswordAt = 1, at // rounded to milliseconds
			got, err := b.e.User(b.Context(), ada)
			b.must(err)
			b.same("User", got, u)
			got, err = b.e.UserByName(b.Context(), "ada")
			b.must(err)
			b.same("UserByName", got, u)
			b.same("events", len(b.events()), 1)
		}},
		{"RT_F08: users follow the rules of versions, names are unique, ids are never given again", func(b bench) {
			ctx := b.Context()
			put := func(id user.ID, version uint64, name string) error {
				u := person(id, name)
				u.Version = version
				return b.e.PutUser(ctx, u, family.Event{Kind: family.UserChanged})
			}
			is := func(name string, want user.ID) {
				b.Helper()
				u, err := b.e.UserByName(ctx, name)
				if want == "" {
					b.want("UserByName "+name, err, family.ErrNotFound)
				} else if err != nil || u.ID != want {
					b.Errorf("UserByName %s: %v, %v, want %s", name, u.ID, err, want)
				}
			}
			_, err := b.e.User(ctx, ada)
			b.want("User before", err, family.ErrNotFound)
			is("ada", "")
			b.want("change of none", put(ada, 1, "ada"), family.ErrConflict)
			b.want("delete of none", b.e.DeleteUser(ctx, ada), family.ErrNotFound)
			b.must(put(ada, 0, "ada"))
			b.want("create again", put(ada, 0, "other"), family.ErrExists)
			b.want("the same name", put(bob, 0, "ada"), family.ErrExists)
			b.must(put(bob, 0, "bob"))
			b.want("take a name by a change", put(bob, 1, "ada"), family.ErrExists)
			b.must(put(ada, 1, "countess"))
			is("ada", "")
			is("countess", ada)
			b.must(put(bob, 1, "ada"))
			is("ada", bob)
			b.want("stale change", put(ada, 1, "x"), family.ErrConflict)
			b.same("events", len(b.events()), 4)
			b.must(b.e.DeleteUser(ctx, bob, family.Event{Kind: family.UserDeleted}))
			_, err = b.e.User(ctx, bob)
			b.want("User after", err, family.ErrNotFound)
			is("ada", "")
			b.want("delete again", b.e.DeleteUser(ctx, bob), family.ErrNotFound)
			b.want("create after delete", put(bob, 0, "bob"), family.ErrExists)
			b.want("change after delete", put(bob, 2, "bob"), family.ErrConflict)
			again := user.NewID([16]byte{99})
			b.must(put(again, 0, "ada"))
			is("ada", again)
			b.same("events", len(b.events()), 6)
		}},
		{"users are listed page by page in the order of their ids", func(b bench) {
			var want []user.ID
			for n := range 5 {
				want = append(want, user.NewID([16]byte{byte(n + 1)}))
			}
			for _, n := range []int{3, 1, 4, 0, 2} {
				b.must(b.e.PutUser(b.Context(), person(want[n], fmt.Sprint("u", n))))
			}
			b.must(b.e.DeleteUser(b.Context(), want[2]))
			want = append(want[:2], want[3:]...)
			var got []user.ID
			for after := user.ID(""); ; {
				page, err := b.e.Users(b.Context(), after, 2)
				b.must(err)
				for _, u := range page {
					got, after = append(got, u.ID), u.ID
				}
				if len(page) < 2 {
					break
				}
			}
			b.same("users", got, want)
		}},
		{"a consent replaces the one before, and goes with its user, its client, or by itself", func(b bench) {
			ctx := b.Context()
			b.settle()
			b.must(b.e.PutClient(ctx, appClient("other")))
			at := b.time().Std()
			consent := func(u user.ID, c, scope string) user.Consent {
				all := filled[user.Consent]()
				all.User, all.Client, all.Scope, all.GrantedAt = u, c, scope, at
				return all
			}
			_, err := b.e.Consent(ctx, ada, app)
			b.want("Consent before", err, family.ErrNotFound)
			b.want("DropConsent before", b.e.DropConsent(ctx, ada, app), family.ErrNotFound)
			b.must(b.e.PutConsent(ctx, consent(ada, app, "email"), family.Event{Kind: family.UserChanged}))
			b.must(b.e.PutConsent(ctx, consent(ada, app, "email openid")))
			b.must(b.e.PutConsent(ctx, user.Consent{User: ada, Client: "other", GrantedAt: at}))
			b.must(b.e.PutConsent(ctx, consent(bob, app, "openid")))
			got, err := b.e.Consent(ctx, ada, app)
			b.must(err)
			b.same("Consent", got, consent(ada, app, "email openid"))
			all, err := b.e.Consents(ctx, ada)
			b.must(err)
			b.same("Consents", all, []user.Consent{consent(ada, app, "email openid"), {User: ada, Client: "other", GrantedAt: at}})
			b.want("of nobody", b.e.PutConsent(ctx, consent(user.NewID([16]byte{1}), app, "")), family.ErrNotFound)
			b.want("to nothing", b.e.PutConsent(ctx, consent(ada, "nothing", "")), family.ErrNotFound)
			b.must(b.e.DropConsent(ctx, ada, "other", family.Event{Kind: family.UserChanged}))
			_, err = b.e.Consent(ctx, ada, "other")
			b.want("Consent after", err, family.ErrNotFound)
			b.must(b.e.DeleteUser(ctx, ada))
			_, err = b.e.Consent(ctx, ada, app)
			b.want("Consent of a deleted user", err, family.ErrNotFound)
			b.want("PutConsent of a deleted user", b.e.PutConsent(ctx, consent(ada, app, "")), family.ErrNotFound)
			b.must(b.e.DeleteClient(ctx, app))
			_, err = b.e.Consent(ctx, bob, app)
			b.want("Consent to a deleted client", err, family.ErrNotFound)
			b.want("PutConsent to a deleted client", b.e.PutConsent(ctx, consent(bob, app, "")), family.ErrNotFound)
			b.same("events", len(b.events()), 2)
		}},
		{"a session follows the rules of versions and is loaded again with all its fields", func(b bench) {
			ctx := b.Context()
			b.settle()
			s := filled[session.Session]()
			s.User, s.Version, s.Status = string(ada), 0, session.Live
			_, err := b.e.Session(ctx, s.ID)
			b.want("Session before", err, family.ErrNotFound)
			b.want("of nobody", b.e.PutSession(ctx, b.session(2, user.NewID([16]byte{1}))), family.ErrNotFound)
			s.Version = 1
			b.want("change of none", b.e.PutSession(ctx, s), family.ErrConflict)
			s.Version = 0
			b.must(b.e.PutSession(ctx, s, family.Event{Kind: family.SessionStarted, Session: s.ID}))
			b.want("create again", b.e.PutSession(ctx, s), family.ErrExists)
			s.Version = 1
			got, err := b.e.Session(ctx, s.ID)
			b.must(err)
			b.same("Session", got, s)
			s = s.End(b.clock.now().Add(time.Hour), "revoked_logout")
			s.AMR = nil
			b.must(b.e.PutSession(ctx, s, family.Event{Kind: family.SessionEnded, Session: s.ID}))
			b.want("stale change", b.e.PutSession(ctx, s), family.ErrConflict)
			got, err = b.e.Session(ctx, s.ID)
			b.must(err)
			s.Version, s.EndedAt = 2, family.At(s.EndedAt).Std()
			b.same("Session after", got, s)
			b.same("events", len(b.events()), 2)
		}},
		{"a user's sessions are listed in the order of their ids, live ones alone if asked", func(b bench) {
			ctx := b.Context()
			b.settle()
			for _, n := range []byte{3, 1, 2, 4} {
				s := b.session(n, ada)
				switch n {
				case 2:
					s = s.End(b.clock.now(), "revoked_logout")
				case 3:
					s.Ends = b.time().Add(time.Minute).Std()
				}
				b.must(b.e.PutSession(ctx, s))
			}
			b.must(b.e.PutSession(ctx, b.session(5, bob)))
			ids := func(live bool) (got []byte) {
				all, err := b.e.Sessions(ctx, ada, live)
				b.must(err)
				for _, s := range all {
					got = append(got, s.ID[0])
				}
				return got
			}
			b.same("all", ids(false), []byte{1, 2, 3, 4})
			b.same("live", ids(true), []byte{1, 3, 4})
			b.clock.move(time.Minute - time.Millisecond)
			b.same("live a millisecond before an end", ids(true), []byte{1, 3, 4})
			b.clock.move(time.Millisecond)
			b.same("live at an end", ids(true), []byte{1, 4})
			b.must(b.e.DeleteUser(ctx, ada))
			b.same("of a deleted user", len(ids(false)), 0)
			_, err := b.e.Session(ctx, session.ID{1})
			b.want("Session of a deleted user", err, family.ErrNotFound)
		}},
	}
}

func keyStore() []story {
	return []story{
		{"keys are kept, never overwritten, and dropped", func(b bench) {
			ctx := b.Context()
			rec := keys.Record{
				Use: keys.UseMAC, ID: 1, Alg: keys.HS256, Created: epoch.Truncate(time.Second), Signs: epoch.Truncate(time.Second).Add(day),
				Wrapped: []byte("wrapped one"), KEK: "abc",
			}
			before, err := b.e.Keys(ctx)
			b.must(err)
			b.must(b.e.PutKey(ctx, rec))
			b.must(b.e.PutKey(ctx, rec)) // again after an unknown outcome
			other := rec
			other.Wrapped = []byte("wrapped two")
			b.want("another key", b.e.PutKey(ctx, other), keys.ErrExists)
			other.ID = 65535
			b.must(b.e.PutKey(ctx, other))
			other2 := other
			other2.Use = keys.UseSeal
			b.must(b.e.PutKey(ctx, other2))
			b.must(b.e.DropKey(ctx, keys.UseMAC, 65535))
			b.must(b.e.DropKey(ctx, keys.UseMAC, 65535))
			all, err := b.e.Keys(ctx)
			b.must(err)
			b.same("keys", len(all), len(before)+2)
			found := 0
			for _, k := range all {
				switch {
				case k.Use == keys.UseMAC && k.ID == 1:
					b.same("key", k, rec)
					found++
				case k.Use == keys.UseSeal && k.ID == 65535:
					b.same("key", k, other2)
					found++
				}
			}
			b.same("found", found, 2)
		}},
	}
}
