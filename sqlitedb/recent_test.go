package sqlitedb

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/user"
)

func at(version uint64) memo {
	return memo{state: family.State{ID: family.ID{1}, Version: version}, asOf: 1}
}

func (r *recent) locked(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func TestALateLoadDoesNotBringAnOldRowBack(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(r *recent)
		want      uint64 // version; 0: nothing is remembered
	}{
		"nothing happened":                 {func(r *recent) {}, 5},
		"it was committed":                 {func(r *recent) { r.locked(func() { r.put(at(6)) }) }, 6},
		"it was committed, then forgotten": {func(r *recent) { r.locked(func() { r.put(at(6)) }); r.forget(family.ID{1}) }, 0},
		"it was swept":                     {func(r *recent) { r.forget(family.ID{1}) }, 0},
		"a commit failed":                  {func(r *recent) { r.forgetAll() }, 0},
		"another load saw more and could not say so": {func(r *recent) {
			_, _, before := r.get(family.ID{1})
			r.forget(family.ID{2})
			r.offer(at(6), before)
		}, 0},
		"others took its place": {func(r *recent) {
			r.locked(func() {
				r.put(at(6))
				for n := range recentFamilies {
					r.put(memo{state: family.State{ID: family.ID{2, byte(n >> 8), byte(n)}, Version: 1}})
				}
			})
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recent{entries: map[family.ID]memo{}}
			_, _, forgotten := r.get(family.ID{1})
			c.meanwhile(r)
			r.offer(at(5), forgotten) // what the load had read before
			if m, ok, _ := r.get(family.ID{1}); m.state.Version != c.want || ok != (c.want != 0) {
				t.Errorf("version %d is remembered, want %d", m.state.Version, c.want)
			}
			if n := len(r.entries); n > recentFamilies {
				t.Errorf("%d are remembered, want at most %d", n, recentFamilies)
			}
		})
	}
}

func TestWhatIsRememberedIsWhatTheFileSays(t *testing.T) {
	c := config(t, nil)
	c.Path = fast(t) + "/heirloom.db"
	db := openTest(t, c)
	ids := populate(t, db, 100)
	p := typicalPolicy(t)
	uid := user.NewID([16]byte{7})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 300 {
				id := ids[(n*13+w*7)%len(ids)]
				switch n % 50 {
				case 7:
					if _, err := family.End(t.Context(), db, id, family.RevokedUser, typical(w), ""); err != nil {
						t.Error(err)
					}
				case 9:
					u, err := db.User(t.Context(), uid)
					if err == nil {
						// A conflict is another worker's change.
						_ = db.PutUser(t.Context(), u.CutOff(time.Now().Add(-time.Hour), user.ReasonUser, user.Origin{}))
					}
				case 11:
					db.recent.forget(id)
				case 13:
					if _, err := db.Sweep(t.Context(), 10); err != nil {
						t.Error(err)
					}
				default:
					_, _, _, err := family.Step(t.Context(), db, id, func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
						next, v := family.Present(s, p, at.Now, family.Token{Generation: s.Head}, family.Proof{Origin: typical(n % 3)})
						return next, v, nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	known := 0
	for _, id := range ids {
		m, ok, _ := db.recent.get(id)
		got, gotAt, err := db.Load(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		db.recent.forget(id)
		want, wantAt, err := db.Load(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		fromFile, _, _ := db.recent.get(id)
		g, w := got, want
		g.Grant, w.Grant, g.Places, w.Places = nil, nil, nil, nil
		if g != w || fmt.Sprintf("%+v", *got.Grant) != fmt.Sprintf("%+v", *want.Grant) || *got.Places != *want.Places || gotAt.Barred != wantAt.Barred {
			t.Errorf("family %s: memory says\n%+v, barred %v\nthe file\n%+v, barred %v", id, got, gotAt.Barred, want, wantAt.Barred)
		}
		if ok {
			known++
			if m.bucket != fromFile.bucket {
				t.Errorf("family %s: bucket %d in memory, %d in the file", id, m.bucket, fromFile.bucket)
			}
		}
	}
	if known == 0 {
		t.Error("nothing was remembered: the test shows nothing")
	}
}

func TestALoadOfAFamilySeenLatelyCostsNoStatement(t *testing.T) {
	db := openTest(t, config(t, nil))
	ids := populate(t, db, 1)
	for range 3 {
		rotate(t, db, typicalPolicy(t), ids[0], 0)
	}
	before := db.Stats().Statements
	if _, _, err := db.Load(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Client(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	if n := db.Stats().Statements - before; n != 0 {
		t.Errorf("%d statements", n)
	}
	rotate(t, db, typicalPolicy(t), ids[0], 0)
	if n := db.Stats().Statements - before; n != 3 {
		t.Errorf("a rotation took %d statements, want 3: begin, update, commit", n)
	}
}
