package storetest

import (
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/user"
)

// changeUser and changeClient store a change.
func (b bench) changeUser(id user.ID, f func(user.User) user.User) {
	b.Helper()
	u, err := b.e.User(b.Context(), id)
	b.must(err)
	b.must(b.e.PutUser(b.Context(), f(u)))
}

func (b bench) changeClient(id string, f func(client.Client) client.Client) {
	b.Helper()
	c, err := b.e.Client(b.Context(), id)
	b.must(err)
	b.must(b.e.PutClient(b.Context(), f(c)))
}

func cutOffUser(at time.Time, why string) func(user.User) user.User {
	return func(u user.User) user.User {
		u.NotBefore, u.NotBeforeReason = at, why
		return u
	}
}

func cutOffClient(at time.Time, why string) func(client.Client) client.Client {
	return func(c client.Client) client.Client {
		c.NotBefore, c.NotBeforeReason = at, why
		return c
	}
}

// isBarred checks a family of ada, one of bob and one of the client alone.
func (b bench) isBarred(adas, bobs, nobodys family.Reason) {
	b.Helper()
	for n, want := range []family.Reason{adas, bobs, nobodys} {
		if got := b.barred(id(n + 1)); got != want {
			b.Errorf("%s family is barred with %v, want %v", []string{"ada's", "bob's", "nobody's"}[n], got, want)
		}
	}
}

// trio stores those three families.
func (b bench) trio() {
	b.Helper()
	b.settle()
	for n, u := range []string{string(ada), string(bob), ""} {
		s := b.newFamily(n + 1)
		g := *s.Grant
		g.User = u
		s.Grant = &g
		b.create(s)
	}
	b.isBarred(0, 0, 0)
}

func bars() []story {
	stories := []story{
		{"a disabled user's families are barred until they are enabled again", func(b bench) {
			b.trio()
			b.changeUser(ada, func(u user.User) user.User { u.Status = user.Disabled; return u })
			b.isBarred(family.UserDisabled, 0, 0)
			b.changeUser(ada, user.User.Enable)
			b.isBarred(0, 0, 0)
		}},
		{"RT_F07: what a user had before Disable stays dead when they are enabled", func(b bench) {
			b.trio()
			b.changeUser(ada, func(u user.User) user.User { return u.Disable(b.clock.now()) })
			b.isBarred(family.UserDisabled, 0, 0)
			b.changeUser(ada, user.User.Enable)
			b.isBarred(family.UserDisabled, 0, 0)
			b.clock.move(time.Millisecond)
			b.create(b.newFamily(9))
			b.same("a new family", b.barred(id(9)), family.Reason(0))
		}},
		{"RT_F08: a deleted user's families are barred for good", func(b bench) {
			b.trio()
			b.must(b.e.DeleteUser(b.Context(), ada))
			b.isBarred(family.UserDisabled, 0, 0)
			again := user.NewID([16]byte{0xa0})
			b.must(b.e.PutUser(b.Context(), person(again, "ada")))
			b.isBarred(family.UserDisabled, 0, 0)
			// Nor does a family that is created afterwards live.
			b.clock.move(time.Hour)
			b.create(b.newFamily(9))
			b.same("a later family", b.barred(id(9)), family.UserDisabled)
		}},
		{"the family of a user who was never there is barred", func(b bench) {
			b.must(b.e.PutClient(b.Context(), appClient(app)))
			b.create(b.newFamily(1))
			b.same("barred", b.barred(id(1)), family.UserDisabled)
			b.must(b.e.PutUser(b.Context(), person(ada, "ada")))
			b.same("barred", b.barred(id(1)), family.Reason(0))
		}},
		{"a disabled client's families are barred until it is enabled again", func(b bench) {
			b.trio()
			b.changeClient(app, func(c client.Client) client.Client { c.Status = client.Disabled; return c })
			b.isBarred(family.ClientDisabled, family.ClientDisabled, family.ClientDisabled)
			b.changeClient(app, func(c client.Client) client.Client { c.Status = client.Enabled; return c })
			b.isBarred(0, 0, 0)
		}},
		{"RT_F11: a deleted client's families are barred for good", func(b bench) {
			b.trio()
			b.must(b.e.DeleteClient(b.Context(), app))
			b.isBarred(family.RevokedAdmin, family.RevokedAdmin, family.RevokedAdmin)
			b.clock.move(time.Hour)
			b.create(b.newFamily(9))
			b.same("a later family", b.barred(id(9)), family.RevokedAdmin)
		}},
		{"the family of a client that was never there is barred", func(b bench) {
			b.must(b.e.PutUser(b.Context(), person(ada, "ada")))
			b.create(b.newFamily(1))
			b.same("barred", b.barred(id(1)), family.RevokedAdmin)
		}},
		{"a cut-off spares the session that it keeps, and only that", func(b bench) {
			b.trio()
			s := b.newFamily(4)
			g := *s.Grant
			g.Session = [16]byte{0xee}
			s.Grant = &g
			b.create(s)
			s = b.newFamily(5)
			g = *s.Grant
			g.Session = [16]byte{}
			s.Grant = &g
			b.create(s)
			b.changeUser(ada, func(u user.User) user.User {
				return u.CutOff(b.clock.now(), user.ReasonPasswordChange, user.Origin{Session: [16]byte{0x5e}, Issued: b.clock.now()})
			})
			b.isBarred(0, 0, 0) // 5e is the session of newFamily
			b.same("another session's", b.barred(id(4)), family.RevokedPasswordChange)
			b.same("no session's", b.barred(id(5)), family.RevokedPasswordChange)
			// The zero session is none: it is never spared.
			b.changeUser(ada, func(u user.User) user.User { u.Keep = [16]byte{}; return u })
			b.same("no session's", b.barred(id(5)), family.RevokedPasswordChange)
			b.isBarred(family.RevokedPasswordChange, 0, 0)
		}},
		{"a cut-off whose reason can not be read cuts off", func(b bench) {
			b.trio()
			b.changeUser(ada, cutOffUser(b.clock.now(), "no such word"))
			b.isBarred(family.RevokedAdmin, 0, 0)
			b.changeClient(app, cutOffClient(b.clock.now(), ""))
			b.isBarred(family.RevokedAdmin, family.RevokedAdmin, family.RevokedAdmin)
		}},
		{"the bar of a user comes before that of the client", func(b bench) {
			b.trio()
			b.changeUser(ada, cutOffUser(b.clock.now(), user.ReasonReuse))
			b.changeClient(app, cutOffClient(b.clock.now(), user.ReasonAdmin))
			b.isBarred(family.Reused, family.RevokedAdmin, family.RevokedAdmin)
		}},
	}
	for _, ms := range []int{-1, 0, 1} {
		at := map[int]string{-1: "a millisecond before", 0: "when", 1: "a millisecond after"}[ms]
		stories = append(stories,
			story{"a user's cut-off " + at + " the family was issued", func(b bench) {
				b.trio()
				b.changeUser(ada, cutOffUser(b.clock.now().Add(time.Duration(ms)*time.Millisecond), user.ReasonUser))
				if ms < 0 {
					b.isBarred(0, 0, 0)
				} else {
					b.isBarred(family.RevokedUser, 0, 0)
				}
			}},
			story{"a client's cut-off " + at + " the family was issued", func(b bench) {
				b.trio()
				b.changeClient(app, cutOffClient(b.clock.now().Add(time.Duration(ms)*time.Millisecond), "revoked_admin"))
				if ms < 0 {
					b.isBarred(0, 0, 0)
				} else {
					b.isBarred(family.RevokedAdmin, family.RevokedAdmin, family.RevokedAdmin)
				}
			}})
	}
	return stories
}
