package storetest

import (
	"context"
	"sync"
	"time"

	"github.com/heirloom-auth/heirloom/family"
)

// journal is what the revocation feed and the status lists need of an engine.
type journal interface {
	Killed(ctx context.Context, after uint64, limit int) (events []family.Event, head uint64, err error)
	Await(ctx context.Context, after uint64) error
	Reserve(ctx context.Context, n int) (first uint64, err error)
}

func journals() []story {
	return []story{
		{"the journal tells what ends tokens, in order, once", func(b bench) {
			kinds := []family.EventKind{
				family.FamilyIssued, family.FamilyRevoked, family.SessionStarted, family.TokenRevoked, family.UserRevoked,
				family.FamilyNarrowed, family.UserDeleted, family.ClientRevoked, family.FamilyAlarm, family.FamilyExpired,
			}
			for i, k := range kinds {
				if err := b.e.Record(b.Context(), family.Event{Kind: k, Reason: family.RevokedAdmin, Client: string(rune('a' + i))}); err != nil {
					b.Fatal(err)
				}
			}
			var got string
			after := uint64(0)
			for range 20 {
				events, head, err := b.e.Killed(b.Context(), after, 2)
				if err != nil {
					b.Fatal(err)
				}
				for _, e := range events {
					if e.Seq <= after || e.Seq > head {
						b.Errorf("event %d between %d and %d", e.Seq, after, head)
					}
					got += e.Client
				}
				after = head
			}
			if got != "bdefgh" {
				b.Errorf("the journal tells %q, want bdefgh", got)
			}
		}},
		{"who waits is woken by the next event, and by nothing before it", func(b bench) {
			_, head, err := b.e.Killed(b.Context(), 0, 10)
			if err != nil {
				b.Fatal(err)
			}
			short, cancel := context.WithTimeout(b.Context(), 50*time.Millisecond)
			defer cancel()
			if err := b.e.Await(short, head); err == nil {
				b.Error("Await returned although nothing happened")
			}
			woken := make(chan error, 1)
			go func() { woken <- b.e.Await(b.Context(), head) }()
			if err := b.e.Record(b.Context(), family.Event{Kind: family.TokenRevoked, Reason: family.RevokedClient}); err != nil {
				b.Fatal(err)
			}
			select {
			case err := <-woken:
				if err != nil {
					b.Error(err)
				}
			case <-time.After(10 * time.Second):
				b.Fatal("nobody was woken in 10 s")
			}
			if events, _, err := b.e.Killed(b.Context(), head, 10); err != nil || len(events) != 1 {
				b.Errorf("behind the wake stand %d events, %v; want 1", len(events), err)
			}
		}},
		{"a reader that keeps up misses nothing that many writers add", func(b bench) {
			const writers, each = 8, 50
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for i := range each {
						kind := family.TokenRevoked
						if i%2 == 0 {
							kind = family.SessionStarted
						}
						if err := b.e.Record(b.Context(), family.Event{Kind: kind, Reason: family.RevokedClient}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			seen, after := map[uint64]bool{}, uint64(0)
			ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
			defer cancel()
			for len(seen) < writers*each/2 {
				if err := b.e.Await(ctx, after); err != nil {
					b.Fatalf("after %d events: %v", len(seen), err)
				}
				events, head, err := b.e.Killed(ctx, after, 7)
				if err != nil {
					b.Fatal(err)
				}
				for _, e := range events {
					if seen[e.Seq] {
						b.Errorf("event %d came twice", e.Seq)
					}
					seen[e.Seq] = true
				}
				after = head
			}
			wg.Wait()
		}},
		{"a closed store wakes who waits, with an error", func(b bench) {
			_, head, err := b.e.Killed(b.Context(), 0, 10)
			if err != nil {
				b.Fatal(err)
			}
			woken := make(chan error, 1)
			go func() { woken <- b.e.Await(b.Context(), head) }()
			if err := b.e.Close(); err != nil {
				b.Fatal(err)
			}
			select {
			case err := <-woken:
				if err == nil {
					b.Error("Await said that something happened")
				}
			case <-time.After(10 * time.Second):
				b.Fatal("nobody was woken in 10 s")
			}
		}},
		{"no status place is given twice", func(b bench) {
			var mu sync.Mutex
			var wg sync.WaitGroup
			taken := map[uint64]bool{}
			for n := range 8 {
				wg.Go(func() {
					for range 25 {
						first, err := b.e.Reserve(b.Context(), n)
						if err != nil {
							b.Error(err)
							return
						}
						mu.Lock()
						for i := range n {
							if taken[first+uint64(i)] {
								b.Errorf("place %d was given twice", first+uint64(i))
							}
							taken[first+uint64(i)] = true
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if next, err := b.e.Reserve(b.Context(), 0); err != nil || next != uint64(len(taken)) {
				b.Errorf("the next place is %d, %v; want %d", next, err, len(taken))
			}
		}},
	}
}
