package storetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heirloom-auth/heirloom/family"
)

// errCut is what a cut store answers.
var errCut = errors.New("the store went away")

// cut fails one write of a family, the at-th from 1 on: having stored it or not.
type cut struct {
	family.Store
	persist bool
	at      int
	writes  *int
}

func (c cut) fail(write func() error) error {
	if *c.writes++; *c.writes != c.at {
		return write()
	}
	if c.persist {
		if err := write(); err != nil {
			return err
		}
	}
	return errCut
}

func (c cut) Create(ctx context.Context, s family.State, events ...family.Event) error {
	return c.fail(func() error { return c.Store.Create(ctx, s, events...) })
}

func (c cut) Commit(ctx context.Context, s family.State, events ...family.Event) error {
	return c.fail(func() error { return c.Store.Commit(ctx, s, events...) })
}

// present is one request of a client with a retry key, as a server serves it.
func (b bench) present(st family.Store, p family.Policy, f family.ID, generation uint32, key byte) (family.State, family.Verdict, error) {
	proof := family.Proof{Retry: family.RetryHash{key}, Origin: phone, Key: 1}
	s, v, _, err := family.Step(b.Context(), st, f, func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
		next, v := family.Present(s, p, at.Now, family.Token{Family: f, Generation: generation}, proof)
		var events []family.Event
		if v.Act == family.Reuse {
			e := next.EventFor(family.FamilyRevoked, family.Reused, family.Token{Generation: generation}, phone)
			e.Level = family.Alert
			events = []family.Event{e}
		}
		return next, v, events
	})
	return s, v, err
}

// faults tells each story twice for every write in it: the write fails having been
// stored, and having not.
func faults() []story {
	var stories []story
	for _, preset := range []string{"strict", "native"} {
		for _, persist := range []bool{false, true} {
			for at := 1; at <= 6; at++ {
				name := fmt.Sprintf("%s, write %d fails, stored: %v", preset, at, persist)
				stories = append(stories,
					story{"RT_G01 RT_G02 RT_G04 RT_G13: an honest client that retries goes on, one head at a time: " + name, func(b bench) {
						b.honest(preset, at, persist)
					}},
				)
				if at <= 2 {
					stories = append(stories,
						story{"RT_G04: a thief is found in the end: " + name, func(b bench) { b.thief(preset, at, persist) }},
						story{"9700: what End acknowledged is dead, with one reason and one event: " + name, func(b bench) { b.ended(preset, at, persist) }},
					)
				}
			}
		}
	}
	return stories
}

func (b bench) honest(preset string, at int, persist bool) {
	b.settle()
	writes := 0
	st := cut{b.e, persist, at, &writes}
	p := policy(preset)
	f := b.newFamily(1)
	err := st.Create(b.Context(), f, f.EventFor(family.FamilyIssued, family.Issued, family.Token{}, phone))
	failed := 0
	if err != nil {
		// The code was not handed out. Asked again, the server authorizes a new family.
		b.want("Create", err, errCut)
		failed++
		if _, _, err := b.e.Load(b.Context(), f.ID); (err == nil) != persist {
			b.Errorf("after a Create that failed, stored %v: Load says %v", persist, err)
		}
		f = b.newFamily(2)
		b.must(st.Create(b.Context(), f, f.EventFor(family.FamilyIssued, family.Issued, family.Token{}, phone)))
	}
	for generation := range uint32(5) {
		b.clock.move(time.Second)
		for try := range 3 {
			s, v, err := b.present(st, p, f.ID, generation, byte(generation)+1)
			if err != nil {
				b.want("present", err, errCut)
				if try > 0 {
					b.Fatal("failed twice")
				}
				failed++
				stored := b.load(f.ID)
				if want := generation + map[bool]uint32{true: 1}[persist]; stored.Head != want || stored.Status != family.Live {
					b.Fatalf("generation %d, stored %v: head is %d, want %d", generation, persist, stored.Head, want)
				}
				// Beyond every leeway, not beyond the life of a code.
				b.clock.move(map[bool]time.Duration{true: 50 * time.Second, false: time.Hour}[generation == 0])
				continue
			}
			if want := map[bool]family.Act{true: family.Repeat, false: family.Rotate}[try > 0 && persist]; v.Act != want {
				b.Fatalf("generation %d, try %d: %v, want act %d", generation, try, v, want)
			}
			if s.Head != generation+1 {
				b.Fatalf("generation %d: head is %d", generation, s.Head)
			}
			break
		}
	}
	if at <= 6 && failed != 1 {
		b.Errorf("%d writes failed, want 1: the story tests nothing", failed)
	}
	if s := b.load(f.ID); s.Status != family.Live || s.Head != 5 {
		b.Errorf("in the end: status %d, head %d", s.Status, s.Head)
	}
}

func (b bench) thief(preset string, at int, persist bool) {
	b.settle()
	p := policy(preset)
	f := b.create(b.newFamily(1))
	for generation := range uint32(3) {
		if _, v, err := b.present(b.e, p, f.ID, generation, byte(generation)+1); err != nil || v.Act != family.Rotate {
			b.Fatal(v, err)
		}
	}
	b.clock.move(time.Hour)
	writes := 0
	st := cut{b.e, persist, at, &writes}
	_, v, err := b.present(st, p, f.ID, 1, 77)
	if at == 1 {
		b.want("reuse", err, errCut)
		if got := b.load(f.ID); (got.Status == family.Revoked) != persist {
			b.Errorf("stored %v: status is %d", persist, got.Status)
		}
		_, v, err = b.present(st, p, f.ID, 1, 77)
		b.must(err)
		want := family.Verdict{Act: family.Reuse, Reason: family.Reused}
		if persist {
			want.Act = family.Refuse
		}
		b.same("second try", v, want)
	} else {
		b.must(err)
		b.same("reuse", v, family.Verdict{Act: family.Reuse, Reason: family.Reused})
	}
	// INV2: from here on every member is refused.
	for generation := range uint32(5) {
		_, v, err := b.present(b.e, p, f.ID, generation, byte(generation)+1)
		b.must(err)
		b.same("afterwards", v, family.Verdict{Act: family.Refuse, Reason: family.Reused})
	}
	b.same("events", b.count(f.ID, family.FamilyRevoked), 1)
}

func (b bench) ended(preset string, at int, persist bool) {
	b.settle()
	p := policy(preset)
	f := b.create(b.newFamily(1))
	writes := 0
	st := cut{b.e, persist, at, &writes}
	ended, err := family.End(b.Context(), st, f.ID, family.RevokedUser, phone, "r1")
	if at == 1 {
		b.want("End", err, errCut)
		ended, err = family.End(b.Context(), st, f.ID, family.RevokedAdmin, phone, "r2")
		b.must(err)
		b.same("the second End ended it", ended, !persist)
	} else {
		b.must(err)
		b.same("End ended it", ended, true)
	}
	_, v, err := b.present(b.e, p, f.ID, 0, 1)
	b.must(err)
	if v.Act != family.Refuse {
		b.Errorf("afterwards: %v", v)
	}
	got := b.load(f.ID)
	b.same("status", got.Status, family.Revoked)
	b.same("events", b.count(f.ID, family.FamilyRevoked), 1)
	for _, e := range b.events() {
		if e.Kind == family.FamilyRevoked && e.Reason != got.Reason {
			b.Errorf("the event says %v, the row %v", e.Reason, got.Reason)
		}
	}
}
