package sqlitedb

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/user"
)

// typical is where and by what a family is usually used.
func typical(n int) family.Origin {
	return family.Origin{
		IP:        netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}),
		UserAgent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/146.0.0.0 Safari/537.36",
	}
}

func typicalPolicy(t testing.TB) family.Policy {
	p, ok := family.Preset("native")
	if !ok {
		t.Fatal("no preset native")
	}
	return p
}

// populate creates a client, a user and n families.
func populate(t testing.TB, db *DB, n int) []family.ID {
	t.Helper()
	ctx := t.Context()
	now := db.now()
	err := db.PutClient(ctx, client.Client{ID: "app", Status: client.Enabled, Auth: client.None, Preset: "native", CreatedAt: now})
	if err != nil {
		t.Fatal(err)
	}
	uid := user.NewID([16]byte{7})
	err = db.PutUser(ctx, user.User{ID: uid, Username: "ada", Status: user.Enabled, CreatedAt: now})
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]family.ID, n)
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < n; i += 64 {
				id := &ids[i]
				// Spread like random ones, and the same in every run.
				binary.BigEndian.PutUint64(id[:], uint64(i+1)*0x9e3779b97f4a7c15)
				g := &family.Grant{
					Client: "app", User: string(uid), Session: [16]byte{1, byte(i)}, Scope: "offline_access openid profile",
					AuthTime: family.At(now), AMR: []string{"pwd"}, Nonce: strings.Repeat("n", 11+i%37), // so that pages are filled in many ways
					RedirectURI: "http://127.0.0.1/callback", SentURI: true, Challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
				}
				s := family.New(*id, typicalPolicy(t), family.At(now), g, 1, 0, typical(i))
				if err := db.Create(ctx, s); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return ids
}

// rotate presents the head of a family.
func rotate(t testing.TB, db *DB, p family.Policy, id family.ID, n int) {
	_, v, _, err := family.Step(t.Context(), db, id, func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
		next, v := family.Present(s, p, at.Now, family.Token{Family: id, Generation: s.Head}, family.Proof{Origin: typical(n), Key: 1})
		return next, v, nil
	})
	if err != nil || v.Act != family.Rotate {
		t.Errorf("rotate: %v, %v", v, err)
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			db := openTest(b, config(b, nil))
			ids := populate(b, db, 1000)
			p := typicalPolicy(b)
			before := db.Stats()
			var turn atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range callers {
				wg.Go(func() {
					for turn.Add(1) <= int64(b.N) {
						// Each its own families: conflicts are not what is measured.
						i := (int(turn.Load())*callers + w) % len(ids)
						rotate(b, db, p, ids[i], i)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			after := db.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			b.ReportMetric(float64(after.Ops-before.Ops)/float64(after.Batches-before.Batches), "ops/batch")
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, known := range []bool{true, false} {
		b.Run(fmt.Sprint("recent=", known), func(b *testing.B) {
			db := openTest(b, config(b, nil))
			ids := populate(b, db, 1000)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				id := ids[i%len(ids)]
				if !known {
					db.recent.forget(id)
				}
				if _, _, err := db.Load(b.Context(), id); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
