package storetest

import (
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// swept runs Sweep and checks how many rows it says it touched.
func (b bench) swept(want int) {
	b.Helper()
	n, err := b.e.Sweep(b.Context(), 0)
	b.must(err)
	if n != want {
		b.Errorf("Sweep touched %d rows, want %d", n, want)
	}
}

// gone checks whether a family is there.
func (b bench) gone(n int, want bool) {
	b.Helper()
	_, _, err := b.e.Load(b.Context(), id(n))
	if want {
		b.want("Load of what was swept", err, family.ErrNotFound)
	} else if err != nil {
		b.Errorf("family %d: %v, want it to be there", n, err)
	}
}

// ending stores a family with these stored ends, 0 is never.
func (b bench) ending(n int, idle, ends family.Time) {
	b.Helper()
	s := b.newFamily(n)
	s.Head, s.IdleEnds, s.Ends = 1, idle, ends
	b.must(b.e.Create(b.Context(), s))
}

func sweep() []story {
	var stories []story
	for _, end := range []struct {
		name             string
		idle, ends       time.Duration
		after            time.Duration // when it is over
		why              family.Reason
		never, stillThen bool
	}{
		{name: "idle end", idle: time.Hour, ends: 2 * time.Hour, after: time.Hour, why: family.ExpiredIdle},
		{name: "idle end, no absolute one", idle: time.Hour, after: time.Hour, why: family.ExpiredIdle},
		{name: "absolute end", idle: 2 * time.Hour, ends: time.Hour, after: time.Hour, why: family.ExpiredAbsolute},
		{name: "absolute end, no idle one", ends: time.Hour, after: time.Hour, why: family.ExpiredAbsolute},
		{name: "both ends at once", idle: time.Hour, ends: time.Hour, after: time.Hour, why: family.ExpiredAbsolute},
		{name: "no end", never: true},
	} {
		for _, ms := range []time.Duration{-1, 0, 1} {
			if end.never && ms != 0 {
				continue
			}
			stories = append(stories, story{
				"RT_E14: a family is removed exactly KeepEnded after its " + end.name + ", at " + (ms * time.Millisecond).String(),
				func(b bench) {
					b.settle()
					at := func(d time.Duration) family.Time {
						if d == 0 {
							return 0
						}
						return b.time().Add(d)
					}
					b.ending(1, at(end.idle), at(end.ends))
					if end.never {
						b.clock.move(100 * 365 * day)
						b.swept(0)
						b.gone(1, false)
						return
					}
					b.clock.move(end.after + KeepEnded + ms*time.Millisecond)
					if ms < 0 {
						b.swept(0)
						b.gone(1, false)
						b.same("events", len(b.events()), 0)
						return
					}
					b.swept(1)
					b.gone(1, true)
					got := b.events()
					if len(got) != 1 {
						b.Fatalf("events: %+v, want one", got)
					}
					b.same("event", got[0], family.Event{
						Seq: got[0].Seq, At: b.time(), Level: family.Info, Kind: family.FamilyExpired, Reason: end.why, Family: id(1),
						Generation: 1, Client: app, User: string(ada), Session: [16]byte{0x5e},
					})
					b.swept(0)
				},
			})
		}
	}
	return append(stories, []story{
		{"what a policy could still accept is never removed, however often it was rotated", func(b bench) {
			b.settle()
			s := b.newFamily(1)
			s.Ends, s.IdleEnds = 0, 0 // as a policy without an absolute end makes it
			b.create(s)
			for range 60 {
				b.clock.move(29 * day)
				b.swept(0)
				_, v, at, err := family.Step(b.Context(), b.e, s.ID, func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
					p := policy("native")
					p.Absolute, p.CodeTTL = 0, 30*day // the rules' own bound of a code is not the engine's
					next, v := family.Present(s, p, at.Now, family.Token{Generation: s.Head}, family.Proof{})
					return next, v, nil
				})
				b.must(err)
				if v.Act != family.Rotate || at.Barred != 0 {
					b.Fatalf("%v, barred %v", v, at.Barred)
				}
			}
		}},
		{"a revoked family is kept to the end of its day and KeepEnded, and not told of twice", func(b bench) {
			b.settle()
			b.ending(1, 0, 0)
			s := b.load(id(1))
			b.must(b.e.Commit(b.Context(), s.Revoke(b.time(), family.RevokedUser, phone), family.Event{Kind: family.FamilyRevoked, Family: s.ID}))
			midnight := epoch.Truncate(day).Add(day)
			b.clock.set(midnight.Add(KeepEnded - time.Millisecond))
			b.swept(0)
			b.gone(1, false)
			b.clock.set(midnight.Add(KeepEnded))
			b.swept(1)
			b.gone(1, true)
			b.same("revoked", b.count(id(1), family.FamilyRevoked), 1)
			b.same("expired", b.count(id(1), family.FamilyExpired), 0)
		}},
		{"what a user's cut-off covers is marked, each with one event, and nothing else", func(b bench) {
			b.trio()
			kept := b.newFamily(4)
			g := *kept.Grant
			g.Session = [16]byte{0xee}
			kept.Grant = &g
			b.create(kept)
			b.clock.move(time.Second)
			cut := b.clock.now()
			b.changeUser(ada, func(u user.User) user.User {
				u = cutOffUser(cut, user.ReasonPasswordChange)(u)
				u.Keep = [16]byte{0xee}
				return u
			})
			b.clock.move(time.Second)
			b.create(b.newFamily(5))
			b.swept(1)
			b.swept(0)
			s := b.load(id(1))
			if s.Status != family.Revoked || s.Reason != family.RevokedPasswordChange {
				b.Errorf("family 1: %v %v", s.Status, s.Reason)
			}
			h := s.History()
			if last := h[len(h)-1]; last.Reason != family.RevokedPasswordChange || last.At != b.time() {
				b.Errorf("trail ends with %+v", last)
			}
			b.same("events of family 1", b.count(id(1), family.FamilyRevoked), 1)
			for _, e := range b.events() {
				if e.Kind == family.FamilyRevoked && (e.Reason != family.RevokedPasswordChange || e.Client != app || e.User != string(ada)) {
					b.Errorf("event %+v", e)
				}
			}
			for _, n := range []int{2, 3, 4, 5} {
				if s := b.load(id(n)); s.Status != family.Live {
					b.Errorf("family %d is %v for %v", n, s.Status, s.Reason)
				}
			}
		}},
		{"a cut-off that no longer spares its session is marked there too", func(b bench) {
			b.trio()
			b.changeUser(ada, func(u user.User) user.User {
				u = cutOffUser(b.clock.now(), user.ReasonPasswordChange)(u)
				u.Keep = [16]byte{0x5e}
				return u
			})
			b.swept(0)
			b.changeUser(ada, func(u user.User) user.User { u.Keep = [16]byte{}; return u })
			b.swept(1)
			b.same("reason", b.load(id(1)).Reason, family.RevokedPasswordChange)
		}},
		{"RT_F10: a client's cut-off marks all of its many families, in as many sweeps as it takes", func(b bench) {
			b.settle()
			b.must(b.e.PutClient(b.Context(), appClient("other")))
			const many = 333
			for n := range many {
				b.must(b.e.Create(b.Context(), b.newFamily(n+1)))
			}
			s := b.newFamily(many + 1)
			s.Grant = &family.Grant{Client: "other", User: string(ada)}
			b.must(b.e.Create(b.Context(), s))
			b.changeClient(app, cutOffClient(b.clock.now(), "revoked_admin"))
			for n := range many {
				b.same("barred before any sweep", b.barred(id(n+1)), family.RevokedAdmin)
			}
			total := 0
			for {
				n, err := b.e.Sweep(b.Context(), 50)
				b.must(err)
				if n > 50 {
					b.Errorf("Sweep touched %d rows, at most 50 were asked for", n)
				}
				if total += n; n == 0 {
					break
				}
			}
			b.same("marked", total, many)
			live, err := b.e.Families(b.Context(), family.Query{LiveOnly: true, Limit: 1000})
			b.must(err)
			if len(live) != 1 || live[0].ID != s.ID {
				b.Errorf("%d families live, want the other client's alone", len(live))
			}
			b.same("events", len(b.events()), many)
		}},
		{"RT_F08: what a deleted user and a deleted client leave is marked", func(b bench) {
			b.trio()
			b.must(b.e.DeleteUser(b.Context(), ada))
			b.swept(1)
			b.same("reason", b.load(id(1)).Reason, family.UserDisabled)
			b.must(b.e.DeleteClient(b.Context(), app))
			b.swept(2)
			b.same("reason", b.load(id(1)).Reason, family.UserDisabled)
			b.same("reason", b.load(id(2)).Reason, family.RevokedAdmin)
			b.same("reason", b.load(id(3)).Reason, family.RevokedAdmin)
			b.clock.move(time.Hour)
			b.create(b.newFamily(9))
			b.swept(1)
			b.same("reason of what was created afterwards", b.load(id(9)).Reason, family.UserDisabled)
		}},
		{"a family that is created when its cut-off was swept already is marked too", func(b bench) {
			b.settle()
			late := b.newFamily(1)
			b.changeUser(ada, cutOffUser(b.clock.now(), user.ReasonUser))
			b.swept(0)
			b.clock.move(time.Minute)
			b.create(late)
			b.same("barred", b.barred(late.ID), family.RevokedUser)
			b.swept(1)
			b.same("reason", b.load(late.ID).Reason, family.RevokedUser)
		}},
		{"what is only disabled is not marked: it comes back", func(b bench) {
			b.trio()
			b.changeUser(ada, func(u user.User) user.User { u.Status = user.Disabled; return u })
			b.changeClient(app, func(c client.Client) client.Client { c.Status = client.Disabled; return c })
			b.swept(0)
			b.changeUser(ada, user.User.Enable)
			b.changeClient(app, func(c client.Client) client.Client { c.Status = client.Enabled; return c })
			b.isBarred(0, 0, 0)
		}},
		{"what had expired before a cut-off keeps that reason", func(b bench) {
			b.settle()
			end := b.time().Add(time.Hour)
			for n, d := range []family.Time{-1, 0, 1} {
				b.ending(n+1, end+d, 0)
			}
			b.clock.set(end.Std())
			b.changeUser(ada, cutOffUser(end.Std(), user.ReasonUser))
			b.swept(1)
			b.same("ended later", b.load(id(3)).Reason, family.RevokedUser)
			b.clock.move(KeepEnded + 2*day)
			b.swept(3)
			for n, want := range map[int]family.EventKind{1: family.FamilyExpired, 2: family.FamilyExpired, 3: family.FamilyRevoked} {
				b.same("events that end it", b.count(id(n), family.FamilyExpired)+b.count(id(n), family.FamilyRevoked), 1)
				b.same("events of the kind", b.count(id(n), want), 1)
			}
		}},
		{"sessions are removed KeepEnded after their end", func(b bench) {
			b.settle()
			live := b.session(1, ada)
			ended := b.session(2, ada)
			b.must(b.e.PutSession(b.Context(), live))
			b.must(b.e.PutSession(b.Context(), ended))
			ended, err := b.e.Session(b.Context(), ended.ID)
			b.must(err)
			b.must(b.e.PutSession(b.Context(), ended.End(b.clock.now(), "revoked_logout")))
			is := func(want ...session.ID) {
				b.Helper()
				all, err := b.e.Sessions(b.Context(), ada, false)
				b.must(err)
				var got []session.ID
				for _, s := range all {
					got = append(got, s.ID)
				}
				b.same("sessions", got, want)
			}
			end := b.time()
			b.clock.set(end.Add(KeepEnded - time.Millisecond).Std())
			b.swept(0)
			is(live.ID, ended.ID)
			b.clock.set(end.Add(KeepEnded).Std())
			b.swept(1)
			is(live.ID)
			b.clock.set(live.Ends.Add(KeepEnded))
			b.swept(1)
			is()
		}},
		{"events are removed after KeepEvents, but for the newest, and numbers go on", func(b bench) {
			for range 5 {
				b.must(b.e.Record(b.Context(), family.Event{Kind: family.KeyChanged}))
			}
			first := b.events()
			b.clock.move(KeepEvents - time.Millisecond)
			b.swept(0)
			b.clock.move(time.Millisecond)
			b.swept(4)
			b.same("events", b.events(), first[4:])
			b.must(b.e.Record(b.Context(), family.Event{Kind: family.KeyChanged}))
			got := b.events()
			if len(got) != 2 || got[1].Seq <= got[0].Seq {
				b.Errorf("events %+v", got)
			}
			b.swept(1)
		}},
		{"a sweep touches no more rows than it is told", func(b bench) {
			b.settle()
			for n := range 10 {
				b.ending(n+1, b.time()+1, 0)
				b.must(b.e.Deny(b.Context(), string(rune('a'+n)), b.time()+1, family.Event{Kind: family.TokenRevoked}))
			}
			b.clock.move(KeepEnded + time.Second)
			for _, want := range []int{7, 7, 6, 0} {
				n, err := b.e.Sweep(b.Context(), 7)
				b.must(err)
				b.same("swept", n, want)
			}
		}},
		{"RT_E14: a refresh beside the sweep, at the boundary, is accepted or refused and revives nothing", func(b bench) {
			b.settle()
			p := policy("native")
			for round := range 300 {
				n := round + 1
				end := b.time().Add(time.Second)
				b.ending(n, end, 0)
				b.clock.set(end.Add(KeepEnded).Std() /* to be removed just now */)
				done := make(chan error)
				go func() {
					_, err := b.e.Sweep(b.Context(), 0)
					done <- err
				}()
				s, v, _, err := family.Step(b.Context(), b.e, id(n), func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
					next, v := family.Present(s, p, at.Now, family.Token{Generation: s.Head}, family.Proof{})
					return next, v, nil
				})
				switch {
				case err == nil && v.Reason == family.ExpiredIdle && s.Head == 1:
				case err != nil && v == family.Verdict{}:
					b.want("Step", err, family.ErrNotFound)
				default:
					b.Errorf("round %d: %v, head %d, %v", round, v, s.Head, err)
				}
				b.must(<-done)
				b.gone(n, true)
			}
		}},
	}...)
}
