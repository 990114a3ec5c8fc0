package storetest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/family"
)

// full is a family whose every field is set, and the ring of its trail gone round.
func (b bench) full(n int) family.State {
	all := filled[family.Grant]()
	g := &all
	g.Client, g.User, g.Scope = app, string(ada), "email offline_access openid"
	s := family.New(id(n), policy("native"), b.time(), g, 7, b.time().Add(5*365*day), phone)
	for i := range 40 {
		from := family.Origin{IP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 5)}), UserAgent: strings.Repeat("ü", i)}
		var v family.Verdict
		s, v = family.Present(s, policy("native"), b.time().Add(time.Duration(i)*time.Minute), family.Token{Generation: s.Head},
			family.Proof{Origin: from, Key: uint16(i), Retry: family.RetryHash{byte(i)}, Presenter: family.Presenter{byte(i)}})
		if v.Act != family.Rotate {
			b.Fatal(v)
		}
	}
	return s
}

func families() []story {
	return []story{
		{"what was created is loaded again with all its fields", func(b bench) {
			b.settle()
			s := b.full(1)
			s.Version = 77 // what the caller has in it means nothing
			b.must(b.e.Create(b.Context(), s))
			got, at, err := b.e.Load(b.Context(), s.ID)
			b.must(err)
			s.Version = 1
			b.same("Load", got, s)
			b.same("Standing", at, family.Standing{Now: b.time()})
			if len(got.History()) != 16 || got.History()[15].Origin != s.History()[15].Origin {
				b.Errorf("history: got %v, want %v", got.History(), s.History())
			}
		}},
		{"a family without user, session, places and ends is loaded again", func(b bench) {
			b.settle()
			s := family.State{ID: id(1), Version: 1, Status: family.Live, IssuedAt: 1, LastUsed: 1, Grant: &family.Grant{Client: app}}
			b.must(b.e.Create(b.Context(), s))
			b.same("Load", b.load(s.ID), s)
		}},
		{"a committed step is loaded again with all that it changed", func(b bench) {
			b.settle()
			s := b.create(b.newFamily(1))
			next := b.full(1)
			g := *next.Grant
			// Client, user and session of a grant never change.
			g.Client, g.User, g.Session = s.Grant.Client, s.Grant.User, s.Grant.Session
			next.Grant, next.IssuedAt, next.Version = &g, s.IssuedAt, s.Version
			b.must(b.e.Commit(b.Context(), next))
			got := b.load(s.ID)
			next.Version = got.Version
			b.same("Load", got, next)
			// Once more from what was loaded, when grant and places are the same ones.
			again, _ := family.Present(got, policy("native"), b.time().Add(time.Hour), family.Token{Generation: got.Head}, family.Proof{Key: 9})
			b.must(b.e.Commit(b.Context(), again))
			got = b.load(s.ID)
			again.Version = got.Version
			b.same("Load after the second step", got, again)
		}},
		{"an absolute end that moved is stored", func(b bench) {
			b.settle()
			s := b.create(b.newFamily(1))
			s.Ends -= 1000
			b.must(b.e.Commit(b.Context(), s))
			b.same("ends", b.load(s.ID).Ends, s.Ends)
		}},
		{"a narrowed grant is stored", func(b bench) {
			b.settle()
			s := b.create(b.newFamily(1))
			b.must(b.e.Commit(b.Context(), s.Narrow("openid")))
			if got := b.load(s.ID).Grant.Scope; got != "openid" {
				b.Errorf("scope is %q, want openid", got)
			}
		}},
		{"a large origin fits", func(b bench) {
			b.settle()
			s := b.newFamily(1)
			for i := range 16 {
				from := family.Origin{IP: netip.MustParseAddr("2001:db8::1%zone"), UserAgent: strings.Repeat(string(rune('a'+i)), 300)}
				s, _ = family.Present(s, policy("native"), b.time(), family.Token{Generation: s.Head}, family.Proof{Origin: from})
			}
			s.Version = 1
			b.must(b.e.Create(b.Context(), s))
			b.same("Load", b.load(s.ID), s)
		}},
		{"RT_G20: a taken id is refused and nothing is overwritten", func(b bench) {
			b.settle()
			s := b.create(b.newFamily(1))
			other := b.newFamily(1)
			other.Grant = &family.Grant{Client: app, User: string(bob)}
			b.want("Create", b.e.Create(b.Context(), other, family.Event{Kind: family.FamilyIssued}), family.ErrExists)
			b.same("Load", b.load(s.ID), s)
			b.same("events", len(b.events()), 1)
		}},
		{"a family that is not there is not found, and can not be committed", func(b bench) {
			b.settle()
			s := b.newFamily(1)
			_, _, err := b.e.Load(b.Context(), s.ID)
			b.want("Load", err, family.ErrNotFound)
			s.Version = 1
			b.want("Commit", b.e.Commit(b.Context(), s), family.ErrConflict)
			_, _, err = b.e.Load(b.Context(), s.ID)
			b.want("Load after Commit", err, family.ErrNotFound)
		}},
		{"a stale step loses, and its events with it", func(b bench) {
			b.settle()
			s := b.create(b.newFamily(1))
			first, second := s, s
			first.Head, second.Head = 1, 2
			b.must(b.e.Commit(b.Context(), first))
			b.want("second Commit", b.e.Commit(b.Context(), second, family.Event{Kind: family.FamilyRecovered}), family.ErrConflict)
			for _, version := range []uint64{0, s.Version - 1, s.Version, s.Version + 2} {
				second.Version = version
				b.want("Commit with another version", b.e.Commit(b.Context(), second), family.ErrConflict)
			}
			got := b.load(s.ID)
			b.same("head", got.Head, uint32(1))
			if got.Version == s.Version {
				b.Errorf("version is still %d", got.Version)
			}
			b.same("events", len(b.events()), 1)
		}},
		{"a revoked family is never changed again", func(b bench) {
			b.settle()
			s := b.create(b.newFamily(1))
			b.must(b.e.Commit(b.Context(), s.Revoke(b.time(), family.RevokedUser, phone)))
			dead := b.load(s.ID)
			b.same("reason", dead.Reason, family.RevokedUser)
			risen := dead
			risen.Status, risen.Reason = family.Live, 0
			b.want("Commit", b.e.Commit(b.Context(), risen), family.ErrConflict)
			other := dead
			other.Reason = family.RevokedAdmin
			b.want("Commit", b.e.Commit(b.Context(), other), family.ErrConflict)
			b.same("Load", b.load(s.ID), dead)
		}},
		{"events are stored with their step, numbered in its order, and completed", func(b bench) {
			b.settle()
			s := b.newFamily(1)
			given := []family.Event{
				{Kind: family.FamilyIssued, Family: s.ID, Client: app, User: string(ada), Session: [16]byte{9}, Origin: phone, Request: "r1",
					Generation: 3, Reason: family.Issued, Detail: "one"},
				{Kind: family.FamilyAlarm, Family: s.ID, Level: family.Alert, At: 12345, Seq: 99,
					Origin: family.Origin{UserAgent: strings.Repeat("x", 500)}},
			}
			b.must(b.e.Create(b.Context(), s, given...))
			got := b.events()
			if len(got) != 2 {
				b.Fatalf("%d events, want 2: %+v", len(got), got)
			}
			want := slices.Clone(given)
			want[0].Level, want[0].At, want[0].Seq = family.Info, b.time(), got[0].Seq
			want[1].Seq = got[0].Seq + 1
			want[1].Origin.UserAgent = strings.Repeat("x", family.MaxUserAgent)
			b.same("events", got, want)
		}},
		{"an event that tells of no change is recorded", func(b bench) {
			b.must(b.e.Record(b.Context(), family.Event{Kind: family.SignInFailed, Origin: phone}, family.Event{Kind: family.KeyChanged}))
			b.must(b.e.Record(b.Context()))
			got := b.events()
			if len(got) != 2 || got[0].Kind != family.SignInFailed || got[1].Kind != family.KeyChanged || got[0].Origin != phone {
				b.Errorf("events: %+v", got)
			}
		}},
		{"events are found by family, user, session and level, newest first, page by page", func(b bench) {
			var all []family.Event
			for i := range 60 {
				e := family.Event{Kind: family.FamilyAlarm, Detail: string(rune('0' + i)), Level: family.Info}
				if i%2 == 0 {
					e.Family = id(1)
				}
				if i%3 == 0 {
					e.User = string(ada)
				}
				if i%5 == 0 {
					e.Session = [16]byte{5}
				}
				if i%7 == 0 {
					e.Level = family.Alert
				}
				b.must(b.e.Record(b.Context(), e))
			}
			all = b.events()
			if len(all) != 60 {
				b.Fatalf("%d events, want 60", len(all))
			}
			for _, q := range []family.EventQuery{
				{}, {Family: id(1)}, {User: string(ada)}, {Session: [16]byte{5}}, {MinLevel: family.Alert}, {MinLevel: family.Info},
				{Family: id(1), User: string(ada)}, {Family: id(1), Session: [16]byte{5}, MinLevel: family.Alert},
				{User: string(ada), Before: all[30].Seq}, {User: string(bob)}, {Before: all[0].Seq},
			} {
				var want []family.Event
				for _, e := range slices.Backward(all) {
					if (q.Family == family.ID{} || q.Family == e.Family) && (q.User == "" || q.User == e.User) &&
						(q.Session == [16]byte{} || q.Session == e.Session) && e.Level >= q.MinLevel && (q.Before == 0 || e.Seq < q.Before) {
						want = append(want, e)
					}
				}
				var got []family.Event
				for q.Limit = 4; ; {
					page, err := b.e.Events(b.Context(), q)
					b.must(err)
					got = append(got, page...)
					if len(page) < q.Limit {
						break
					}
					q.Before = page[len(page)-1].Seq
				}
				if !slices.Equal(got, want) {
					b.Errorf("Events(%+v):\n got %+v\nwant %+v", q, got, want)
				}
			}
		}},
		{"families are found by client, user and session, page by page in the order of their ids", func(b bench) {
			b.settle()
			b.must(b.e.PutClient(b.Context(), appClient("other")))
			var all []family.State
			for n := range 40 {
				g := &family.Grant{Client: app, User: string(ada), Session: [16]byte{1}}
				if n%2 == 1 {
					g.Client = "other"
				}
				if n%3 == 1 {
					g.User = string(bob)
				}
				if n%5 == 1 {
					g.Session = [16]byte{2}
				}
				if n%8 == 1 {
					g.User, g.Session = "", [16]byte{}
				}
				// Not created in the order of ids.
				s := family.New(id(1+n*7%40), policy("web"), b.time(), g, 1, 0, phone)
				b.must(b.e.Create(b.Context(), s))
				s = b.load(s.ID)
				if n%4 == 3 {
					b.must(b.e.Commit(b.Context(), s.Revoke(b.time(), family.RevokedClient, phone)))
					s = b.load(s.ID)
				}
				all = append(all, s)
			}
			slices.SortFunc(all, func(x, y family.State) int { return slices.Compare(x.ID[:], y.ID[:]) })
			for _, q := range []family.Query{
				{}, {Client: app}, {Client: "nobody"}, {User: string(ada)}, {Session: [16]byte{2}}, {LiveOnly: true},
				{Client: "other", User: string(bob)}, {User: string(bob), Session: [16]byte{2}, LiveOnly: true},
				{Client: app, Session: [16]byte{1}}, {After: all[20].ID}, {User: string(ada), After: all[7].ID},
			} {
				var want, got []family.State
				for _, s := range all {
					if (q.Client == "" || q.Client == s.Grant.Client) && (q.User == "" || q.User == s.Grant.User) &&
						(q.Session == [16]byte{} || q.Session == s.Grant.Session) && (!q.LiveOnly || s.Status == family.Live) &&
						slices.Compare(s.ID[:], q.After[:]) > 0 {
						want = append(want, s)
					}
				}
				for q.Limit = 6; ; {
					page, err := b.e.Families(b.Context(), q)
					b.must(err)
					got = append(got, page...)
					if len(page) < q.Limit {
						break
					}
					q.After = page[len(page)-1].ID
				}
				b.same("Families", got, want)
			}
		}},
		{"a page has 100 rows if nothing is said, and never more than 1000", func(b bench) {
			b.settle()
			for n := range 1001 {
				s := b.newFamily(n + 1)
				b.must(b.e.Create(b.Context(), s, family.Event{Kind: family.FamilyIssued}))
			}
			for asked, want := range map[int]int{0: 100, 1: 1, 1000: 1000, 5000: 1000} {
				f, err := b.e.Families(b.Context(), family.Query{Limit: asked})
				b.must(err)
				e, err := b.e.Events(b.Context(), family.EventQuery{Limit: asked})
				b.must(err)
				if len(f) != want || len(e) != want {
					b.Errorf("limit %d: %d families and %d events, want %d", asked, len(f), len(e), want)
				}
			}
		}},
		{"a denied access token is denied until it is swept after its end", func(b bench) {
			ends := b.time().Add(time.Minute)
			b.must(b.e.Deny(b.Context(), "jti-1", ends, family.Event{Kind: family.TokenRevoked}))
			// The longer of two ends counts.
			b.must(b.e.Deny(b.Context(), "jti-1", ends-10, family.Event{Kind: family.TokenRevoked}))
			b.same("events", len(b.events()), 2)
			is := func(when string, want bool) {
				b.Helper()
				got, err := b.e.Denied(b.Context(), "jti-1")
				b.must(err)
				b.same("Denied "+when, got, want)
				got, err = b.e.Denied(b.Context(), "jti-2")
				b.must(err)
				b.same("Denied of another", got, false)
			}
			is("at once", true)
			b.clock.set((ends - 1).Std())
			_, err := b.e.Sweep(b.Context(), 0)
			b.must(err)
			is("a millisecond before its end", true)
			b.clock.set(ends.Std())
			n, err := b.e.Sweep(b.Context(), 0)
			b.must(err)
			b.same("swept", n, 1)
			is("after its end", false)
		}},
		{"the clock is the one that was given", func(b bench) {
			for range 3 {
				now, err := b.e.Now(b.Context())
				b.must(err)
				b.same("Now", now, b.time())
				b.clock.move(1500 * time.Microsecond)
			}
		}},
		{"RT_G18: a request that has gone away changes nothing", func(b bench) {
			b.settle()
			s := b.create(b.newFamily(1))
			ctx, cancel := context.WithCancel(b.Context())
			cancel()
			next := s
			next.Head++
			for what, err := range map[string]error{
				"Create":       b.e.Create(ctx, b.newFamily(2)),
				"Commit":       b.e.Commit(ctx, next),
				"Record":       b.e.Record(ctx, family.Event{Kind: family.KeyChanged}),
				"Deny":         b.e.Deny(ctx, "jti", 1, family.Event{Kind: family.TokenRevoked}),
				"PutUser":      b.e.PutUser(ctx, person(bob, "bob")),
				"DeleteUser":   b.e.DeleteUser(ctx, ada),
				"DeleteClient": b.e.DeleteClient(ctx, app),
				"Ping":         b.e.Ping(ctx),
			} {
				b.want(what, err, context.Canceled)
			}
			_, _, err := b.e.Load(ctx, s.ID)
			b.want("Load", err, context.Canceled)
			b.same("Load", b.load(s.ID), s)
			b.same("events", len(b.events()), 1)
		}},
		{"a closed store answers nothing and may be closed twice", func(b bench) {
			b.settle()
			s := b.create(b.newFamily(1))
			b.must(b.e.Ping(b.Context()))
			b.must(b.e.Close())
			b.must(b.e.Close())
			_, _, loadErr := b.e.Load(b.Context(), s.ID)
			_, clientErr := b.e.Client(b.Context(), app)
			_, listErr := b.e.Families(b.Context(), family.Query{})
			for what, err := range map[string]error{
				"Load": loadErr, "Client": clientErr, "Families": listErr,
				"Commit": b.e.Commit(b.Context(), s), "Ping": b.e.Ping(b.Context()),
			} {
				if err == nil || errors.Is(err, family.ErrNotFound) || errors.Is(err, family.ErrConflict) {
					b.Errorf("%s: got error %v, want one that says the store is closed", what, err)
				}
			}
		}},
	}
}
