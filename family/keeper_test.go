package family_test

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/memdb"
)

// started is a store with one family whose first refresh token is the head.
func started(t *testing.T, preset string) (*memdb.DB, family.ID, family.Policy) {
	t.Helper()
	p, ok := family.Preset(preset)
	if !ok {
		t.Fatalf("preset %q", preset)
	}
	db := memdb.New(memdb.Config{})
	id := family.ID{1}
	create(t, db, id, p, "ada")
	if _, v, err := present(t.Context(), db, id, p, 0); err != nil || v.Act != family.Rotate {
		t.Fatalf("exchange: %v, %v", v, err)
	}
	return db, id, p
}

func create(t *testing.T, db family.Store, id family.ID, p family.Policy, user string) {
	t.Helper()
	s := family.New(id, p, family.At(time.Now()), &family.Grant{Client: "app", User: user}, 1, 0, family.Origin{})
	if err := db.Create(t.Context(), s, s.EventFor(family.FamilyIssued, family.Issued, family.Token{}, family.Origin{})); err != nil {
		t.Fatal(err)
	}
}

// present is one refresh, as the server does it.
func present(ctx context.Context, st family.Store, id family.ID, p family.Policy, g uint32) (family.State, family.Verdict, error) {
	s, v, _, err := family.Step(ctx, st, id, func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
		next, v := family.Present(s, p, at.Now, family.Token{Family: id, Generation: g}, family.Proof{Key: 1})
		if v.Act == family.Reuse {
			return next, v, []family.Event{next.EventFor(family.FamilyRevoked, v.Reason, family.Token{Generation: g}, family.Origin{})}
		}
		return next, v, nil
	})
	return s, v, err
}

func load(t *testing.T, st family.Store, id family.ID) family.State {
	t.Helper()
	s, _, err := st.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// kinds counts a family's events of a kind.
func kinds(t *testing.T, db *memdb.DB, id family.ID, kind family.EventKind) (n int) {
	t.Helper()
	events, err := db.Events(t.Context(), family.EventQuery{Family: id, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// gate lets nobody go on who has loaded until as many as are awaited have: all of them
// decide on the same state, without luck.
type gate struct {
	family.Store
	loads   atomic.Int32
	awaited int32
	open    chan struct{}
}

func (g *gate) Load(ctx context.Context, id family.ID) (family.State, family.Standing, error) {
	s, st, err := g.Store.Load(ctx, id)
	if g.loads.Add(1) == g.awaited {
		close(g.open)
	}
	<-g.open
	return s, st, err
}

// What Step returns is what Load would, whether or not something was stored: it can be
// decided on again.
func TestStepReturnsWhatIsStored(t *testing.T) {
	db, id, p := started(t, "web")
	for _, g := range []uint32{1, 1, 2, 1} {
		s, v, err := present(t.Context(), db, id, p, g)
		if err != nil {
			t.Fatal(err)
		}
		// Grants are behind pointers, which an engine may copy.
		stored := load(t, db, id)
		s.Grant, s.Places = stored.Grant, stored.Places
		if s != stored {
			t.Errorf("g%d, %v:\n got %+v\nwant %+v", g, v, s, stored)
		}
	}
	s, _, err := present(t.Context(), db, id, p, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Commit(t.Context(), s.Revoke(s.LastUsed, family.RevokedAdmin, family.Origin{})); err != nil {
		t.Errorf("commit on what Step returned: %v", err)
	}
}

// A hundred holders of one token at the same moment: one rotation, one head, and under
// a leeway every one of them is served.
func TestParallelRefreshesRotateOnce(t *testing.T) {
	for preset, allServed := range map[string]bool{"web": true, "native": true, "strict": false} {
		t.Run(preset, func(t *testing.T) {
			db, id, p := started(t, preset)
			before := load(t, db, id).Version
			acts := make([]family.Act, 100)
			st := &gate{Store: db, awaited: 100, open: make(chan struct{})}
			var all sync.WaitGroup
			for i := range acts {
				all.Go(func() {
					_, v, err := present(t.Context(), st, id, p, 1)
					if err != nil {
						t.Error(err)
					}
					acts[i] = v.Act
				})
			}
			all.Wait()
			count := map[family.Act]int{}
			for _, a := range acts {
				count[a]++
			}
			s := load(t, db, id)
			if count[family.Rotate] != 1 || s.Head != 2 {
				t.Errorf("acts %v, head g%d: want one rotation", count, s.Head)
			}
			if allServed && (count[family.Repeat] != 99 || s.Version != before+1) {
				t.Errorf("acts %v, %d writes: want 99 repeats and 1 write", count, s.Version-before)
			}
			if !allServed && (count[family.Reuse] != 1 || count[family.Refuse] != 98 || kinds(t, db, id, family.FamilyRevoked) != 1) {
				t.Errorf("acts %v, %d events: want one reuse, one event", count, kinds(t, db, id, family.FamilyRevoked))
			}
		})
	}
}

// rival changes the family behind the back of a request, a number of times.
type rival struct {
	family.Store
	times int
	judge family.Judge
}

func (r *rival) Load(ctx context.Context, id family.ID) (family.State, family.Standing, error) {
	s, st, err := r.Store.Load(ctx, id)
	if err == nil && r.times > 0 {
		r.times--
		if _, _, _, err := family.Step(ctx, r.Store, id, r.judge); err != nil {
			return family.State{}, family.Standing{}, err
		}
	}
	return s, st, err
}

// What was decided on a state that is no more is decided again: a revocation between
// load and commit wins, and a rotation turns this one into a repeat.
func TestStaleDecisionsAreJudgedAgain(t *testing.T) {
	t.Run("revoked meanwhile", func(t *testing.T) {
		db, id, p := started(t, "web")
		r := &rival{db, 1, func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
			return s.Revoke(at.Now, family.RevokedUser, family.Origin{}), family.Verdict{}, nil
		}}
		s, v, err := present(t.Context(), r, id, p, 1)
		if err != nil || v.Act != family.Refuse || v.Reason != family.RevokedUser || s.Head != 1 {
			t.Errorf("got %v, head g%d, %v: want refused, revoked_user", v, s.Head, err)
		}
	})
	t.Run("rotated meanwhile", func(t *testing.T) {
		db, id, p := started(t, "web")
		r := &rival{db, 1, func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
			next, v := family.Present(s, p, at.Now, family.Token{Family: id, Generation: 1}, family.Proof{})
			return next, v, nil
		}}
		s, v, err := present(t.Context(), r, id, p, 1)
		if err != nil || v.Act != family.Repeat || s.Head != 2 {
			t.Errorf("got %v, head g%d, %v: want a repeat of g2", v, s.Head, err)
		}
	})
	t.Run("for ever", func(t *testing.T) {
		db, id, p := started(t, "web")
		r := &rival{db, 1_000, func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
			s.LastUsed++
			return s, family.Verdict{}, nil
		}}
		s, v, err := present(t.Context(), r, id, p, 1)
		if !errors.Is(err, family.ErrBusy) || v.Accepted() || s != (family.State{}) {
			t.Errorf("got %v, %+v, %v: want ErrBusy and nothing else", v, s, err)
		}
		if got := load(t, db, id).Head; got != 1 {
			t.Errorf("head g%d: want g1", got)
		}
		if r.times == 0 {
			t.Error("tried a thousand times")
		}
	})
}

var errCut = errors.New("the line was cut")

// cut fails commits, once having persisted them and once not.
type cut struct {
	family.Store
	persist bool
}

func (c cut) Commit(ctx context.Context, next family.State, events ...family.Event) error {
	if c.persist {
		if err := c.Store.Commit(ctx, next, events...); err != nil {
			return err
		}
	}
	return errCut
}

// After an unknown outcome nothing is handed out, and the client's retry finds one of
// the two legal states.
func TestUnknownOutcomesHandOutNothing(t *testing.T) {
	for _, persist := range []bool{false, true} {
		db, id, p := started(t, "web")
		s, v, err := present(t.Context(), cut{db, persist}, id, p, 1)
		if !errors.Is(err, errCut) || v != (family.Verdict{}) || s != (family.State{}) {
			t.Errorf("persist %v: got %v, %+v, %v: want the error alone", persist, v, s, err)
		}
		want := map[bool]family.Act{false: family.Rotate, true: family.Repeat}[persist]
		if s, v, err := present(t.Context(), db, id, p, 1); err != nil || v.Act != want || s.Head != 2 {
			t.Errorf("persist %v: the retry got %v, head g%d, %v", persist, v, s.Head, err)
		}
		ended, err := family.End(t.Context(), cut{db, persist}, id, family.RevokedUser, family.Origin{}, "r1")
		if ended || !errors.Is(err, errCut) {
			t.Errorf("persist %v: End = %v, %v: want the error alone", persist, ended, err)
		}
		again, err := family.End(t.Context(), db, id, family.RevokedUser, family.Origin{}, "r1")
		if err != nil || again == persist {
			t.Errorf("persist %v: End again = %v, %v", persist, again, err)
		}
		if n := kinds(t, db, id, family.FamilyRevoked); n != 1 {
			t.Errorf("persist %v: %d events of the end, want 1", persist, n)
		}
	}
}

func TestEndEndsOnce(t *testing.T) {
	db, id, p := started(t, "web")
	from := family.Origin{UserAgent: "console"}
	for i, want := range []bool{true, false, false} {
		if ended, err := family.End(t.Context(), db, id, []family.Reason{family.RevokedAdmin, family.RevokedUser, family.Reused}[i], from, "r7"); err != nil || ended != want {
			t.Errorf("End %d: %v, %v; want %v", i+1, ended, err, want)
		}
	}
	if s := load(t, db, id); s.Status != family.Revoked || s.Reason != family.RevokedAdmin {
		t.Errorf("status %v, reason %v", s.Status, s.Reason)
	}
	events, err := db.Events(t.Context(), family.EventQuery{Family: id, Limit: 1})
	if err != nil || len(events) != 1 {
		t.Fatalf("events: %v, %v", events, err)
	}
	if e := events[0]; e.Kind != family.FamilyRevoked || e.Reason != family.RevokedAdmin || e.Request != "r7" || e.Generation != 1 || e.Origin != from {
		t.Errorf("event %+v", e)
	}
	if n := kinds(t, db, id, family.FamilyRevoked); n != 1 {
		t.Errorf("%d events of the end, want 1", n)
	}
	if _, v, err := present(t.Context(), db, id, p, 1); err != nil || v.Reason != family.RevokedAdmin {
		t.Errorf("the head afterwards: %v, %v", v, err)
	}
	if ended, err := family.End(t.Context(), db, family.ID{99}, family.RevokedAdmin, from, ""); ended || err != nil {
		t.Errorf("a family that is not there: %v, %v", ended, err)
	}
}

// EndAll turns pages, spares what is to be kept, and does not touch other users.
func TestEndAllEndsThemAll(t *testing.T) {
	db := memdb.New(memdb.Config{})
	p, _ := family.Preset("web")
	const mine, others = 2_500, 10
	for i := range mine + others {
		var id family.ID
		binary.BigEndian.PutUint32(id[:], uint32(i*2_654_435_761)) // in no order
		id[15] = 1
		user := "ada"
		if i >= mine {
			user = "bob"
		}
		create(t, db, id, p, user)
	}
	spared := 0
	n, err := family.EndAll(t.Context(), db, db, family.Query{User: "ada", Limit: 7}, func(s family.State) bool {
		if s.ID[3]%5 == 0 {
			spared++
			return true
		}
		return false
	}, family.RevokedPasswordChange, family.Origin{}, "")
	if err != nil || spared == 0 || n+spared != mine {
		t.Errorf("ended %d, spared %d, %v: want %d together", n, spared, err, mine)
	}
	for user, want := range map[string]int{"ada": spared, "bob": others} {
		live := 0
		q := family.Query{User: user, LiveOnly: true, Limit: 1000}
		for {
			page, err := db.Families(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			live += len(page)
			if len(page) < q.Limit {
				break
			}
			q.After = page[len(page)-1].ID
		}
		if live != want {
			t.Errorf("%s has %d living families, want %d", user, live, want)
		}
	}
	if n, err := family.EndAll(t.Context(), db, db, family.Query{User: "ada"}, nil, family.UserDisabled, family.Origin{}, ""); err != nil || n != spared {
		t.Errorf("the rest: %d, %v; want %d", n, err, spared)
	}
	if n, err := family.EndAll(t.Context(), cut{db, false}, db, family.Query{User: "bob"}, nil, family.UserDisabled, family.Origin{}, ""); !errors.Is(err, errCut) || n != 0 {
		t.Errorf("on a cut line: %d, %v", n, err)
	}
}
