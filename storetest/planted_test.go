package storetest

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/memdb"
)

// These engines are wrong, each in one way that a test of one caller can not see. The
// check of histories must find them.

// forgetful compares versions, but not in the same step as it stores.
type forgetful struct{ *memdb.DB }

func (f forgetful) Commit(ctx context.Context, next family.State, events ...family.Event) error {
	s, _, err := f.Load(ctx, next.ID)
	if err != nil {
		return err
	}
	if s.Version != next.Version || s.Status != family.Live {
		return family.ErrConflict
	}
	runtime.Gosched()
	for {
		err := f.DB.Commit(ctx, next, events...)
		if err != family.ErrConflict {
			return err
		}
		if s, _, err = f.Load(ctx, next.ID); err != nil {
			return err
		}
		if s.Status != family.Live {
			return family.ErrConflict
		}
		next.Version = s.Version
	}
}

// stale sometimes answers a load with what it answered before, as a cache does that
// nobody tells of commits.
type stale struct {
	*memdb.DB
	mu   *sync.Mutex
	seen map[family.ID]family.State // guarded by mu
}

func (s stale) Load(ctx context.Context, id family.ID) (family.State, family.Standing, error) {
	got, at, err := s.DB.Load(ctx, id)
	if err != nil {
		return got, at, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.seen[id]
	if ok && rand.IntN(100) == 0 {
		return old, at, nil
	}
	s.seen[id] = got
	return got, at, nil
}

// liar says that a step lost which it has stored.
type liar struct{ *memdb.DB }

func (l liar) Commit(ctx context.Context, next family.State, events ...family.Event) error {
	if err := l.DB.Commit(ctx, next, events...); err != nil || rand.IntN(100) != 0 {
		return err
	}
	return family.ErrConflict
}

func TestTheCheckOfHistoriesFindsPlantedFaults(t *testing.T) {
	const rounds = 10
	for _, fault := range []struct {
		name  string
		wrong func(*memdb.DB) family.Store
		least int // in how many of the rounds it has to be found; eight to ten in practice
	}{
		{"versions compared outside of the step", func(db *memdb.DB) family.Store { return forgetful{db} }, 5},
		{"a stale load in a hundred", func(db *memdb.DB) family.Store {
			return stale{db, new(sync.Mutex), map[family.ID]family.State{}}
		}, 5},
		{"a stored step in a hundred called lost", func(db *memdb.DB) family.Store { return liar{db} }, 5},
	} {
		t.Run(fault.name, func(t *testing.T) {
			found := 0
			for round := range rounds {
				all, err := history(t.Context(), fault.wrong(memdb.New(memdb.Config{})), 100*(round+1), 8, 200)
				if err != nil {
					t.Fatal(err)
				}
				if !explained(all) {
					found++
				}
			}
			t.Logf("found in %d of %d rounds", found, rounds)
			if found < fault.least {
				t.Errorf("found in %d of %d rounds, want at least %d", found, rounds, fault.least)
			}
		})
	}
}
