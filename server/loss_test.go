package server_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/sqlitedb"
)

// restart puts a new server at the old one's address: what only its memory had is gone.
func (w *world) restart(st engine, ring *keys.Ring, front server.Store) {
	w.t.Helper()
	w.store, w.ring, w.reg = st, ring, prometheus.NewRegistry()
	h, err := server.New(server.Config{
		Issuer: w.issuer, Store: front, Keys: ring, Metrics: w.reg,
		Log: slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: server.AlertLevel})),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.ts.Config.Handler = h
}

// disk is a directory with the file of an embedded store.
type disk string

func (d disk) file() string { return filepath.Join(string(d), "heirloom.db") }

// open is an opener.
func (d disk) open(t testing.TB, issuer string, now func() time.Time) (engine, *keys.Ring) {
	var ring *keys.Ring
	db, err := sqlitedb.Open(context.Background(), sqlitedb.Config{
		Path: d.file(), Now: now,
		Keys: func(ctx context.Context, st keys.Store) (_ *keys.Ring, err error) {
			ring, err = openRing(ctx, st, issuer)
			return ring, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return db, ring
}

// copied is another disk with the same database file and log. Of a store that is open
// but at rest it is what a kill would have left behind.
func (d disk) copied(t testing.TB) disk {
	t.Helper()
	to := disk(t.TempDir())
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(d.file() + suffix)
		if suffix != "" && errors.Is(err, fs.ErrNotExist) {
			continue // folded into the file
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to.file()+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// onKills runs a test with a store that can fail and a function that kills the server,
// and with it the embedded engine, and starts another on what is left of it.
func onKills(t *testing.T, f func(t *testing.T, w *world, cut *faulty, kill func())) {
	t.Run("memory", func(t *testing.T) {
		cut := &faulty{}
		w := newWorld(t, engines["memory"], func(c *server.Config) { cut.Store = c.Store; c.Store = cut })
		f(t, w, cut, func() {
			cut.reset()
			w.restart(w.store, w.ring, cut)
		})
	})
	t.Run("sqlite", func(t *testing.T) {
		d, cut := disk(t.TempDir()), &faulty{}
		w := newWorld(t, d.open, func(c *server.Config) { cut.Store = c.Store; c.Store = cut })
		f(t, w, cut, func() {
			d = d.copied(t)
			st, ring := d.open(t, w.issuer, w.clock.Now)
			cut.reset()
			cut.Store = st
			w.restart(st, ring, cut)
		})
	})
}

// modes are clients with what their retries prove themselves by.
var modes = []struct {
	client, key string
	served      bool // a retry of what was rotated is served
}{{"strict", "", false}, {"strict", "k", true}, {"leeway", "", true}, {"app", "", true}, {"web", "", true}}

func (w *world) refreshMaybeKey(clientID, token, key string) reply {
	w.t.Helper()
	if key == "" {
		return w.refresh(clientID, token)
	}
	return w.refreshKey(clientID, token, key)
}

func TestRT_G01_KilledBeforeTheCommit(t *testing.T) {
	onKills(t, func(t *testing.T, w *world, cut *faulty, kill func()) {
		for _, m := range modes {
			rt, at := w.chain(m.client, 1)
			f := newFlow(m.client)
			code := w.browser().code(f)
			w.unspent(rt[0], func() {
				w.unspent(code, func() {
					cut.set(func(op string) broken {
						if op == "Commit" {
							return broken{err: errCut}
						}
						return broken{}
					})
					// Nobody hears these answers; they are looked at only to see that nothing
					// was handed out.
					w.refreshMaybeKey(m.client, rt[1], m.key).unavailable(t)
					w.exchangeKey(f, code, "c").unavailable(t)
					kill()
				})
			})
			next := w.refreshMaybeKey(m.client, rt[1], m.key).must(t).tokens()
			if st := w.family(rt[0]); st.Head != 3 || st.Status != family.Live {
				t.Errorf("%s: head is %d after the retry, want 3", m.client, st.Head)
			}
			for _, a := range append(at, next.access) {
				if !w.active(a) {
					t.Errorf("%s: an access token is not active after the kill", m.client)
				}
			}
			w.exchangeKey(f, code, "c").must(t)
		}
	})
}

func TestRT_G02_KilledAfterTheCommit(t *testing.T) {
	onKills(t, func(t *testing.T, w *world, cut *faulty, kill func()) {
		for _, m := range modes {
			rt, at := w.chain(m.client, 1)
			other, _ := w.chain(m.client, 1)
			before, bystander := w.family(rt[0]), w.family(other[0])
			f := newFlow(m.client)
			code := w.browser().code(f)
			cut.set(func(op string) broken {
				if op == "Commit" {
					return broken{err: errCut, persist: true}
				}
				return broken{}
			})
			w.refreshMaybeKey(m.client, rt[1], m.key).unavailable(t)
			w.exchangeKey(f, code, "c").unavailable(t)
			kill()
			if st := w.family(rt[0]); st.Head != before.Head+1 || st.Version != before.Version+1 {
				t.Fatalf("%s: head %d, version %d: want one step from %d, %d", m.client, st.Head, st.Version, before.Head, before.Version)
			}
			// As any lost answer (B10).
			r := w.refreshMaybeKey(m.client, rt[1], m.key)
			if m.served {
				next := r.must(t).tokens()
				w.refreshMaybeKey(m.client, next.refresh, m.key).must(t)
			} else {
				r.refused(t)
				w.dead(m.client, family.Reused, rt, at)
			}
			// A code's exchange is repeated under any policy, if it has a key.
			w.refresh(m.client, w.exchangeKey(f, code, "c").must(t).str("refresh_token")).must(t)
			// Nothing else is damaged.
			if st := w.family(other[0]); still(st) != still(bystander) {
				t.Errorf("%s: another family moved from %+v to %+v", m.client, still(bystander), still(st))
			}
			w.refresh(m.client, other[1]).must(t)
		}
	})
}

// What an answer tells of is in the log of events when it is given: it was written by
// the same commit, and a kill right after the answer loses none of it.
func TestRT_G03_EventsAreThereAfterAKill(t *testing.T) {
	onKills(t, func(t *testing.T, w *world, cut *faulty, kill func()) {
		// No other write than the commit itself: events are not sent after it.
		reused, _ := w.chain("strict", 1)
		revoked, _ := w.chain("app", 0)
		recovered := w.signIn("web")
		early := w.family(recovered.refresh)
		recovered.refresh = w.refresh("web", w.refresh("web", recovered.refresh).must(t).str("refresh_token")).must(t).str("refresh_token")
		w.lose(recovered.refresh, early)
		cut.set(func(op string) broken {
			if op == "Record" {
				return broken{err: errCut}
			}
			return broken{}
		})
		w.refresh("strict", reused[0]).refused(t)
		if r := w.revoke("app", revoked[0]); r.status != 200 {
			t.Fatalf("revoke is answered with %d %s", r.status, r.raw)
		}
		next := w.refresh("web", recovered.refresh).must(t).str("refresh_token")
		issued := w.signIn("spa")
		kill()
		w.newest(reused[0], family.FamilyRevoked, family.Reused, family.Alert)
		w.dead("strict", family.Reused, reused, nil)
		w.newest(revoked[0], family.FamilyRevoked, family.RevokedClient, family.Info)
		w.dead("app", family.RevokedClient, revoked, nil)
		w.newest(recovered.refresh, family.FamilyRecovered, family.Recovered, family.Alert)
		w.refresh("web", next).must(t)
		w.newest(issued.refresh, family.FamilyIssued, family.Issued, family.Info)
		w.refresh("spa", issued.refresh).must(t)
	})
}

// lose makes the store forget what it committed to a token's family since it was as old.
func (w *world) lose(token string, old family.State) {
	w.t.Helper()
	now := w.family(token)
	if now.ID != old.ID || now.Status != family.Live {
		w.t.Fatalf("can not make %+v of %+v", old, now)
	}
	old.Version = now.Version
	if err := w.store.Commit(context.Background(), old); err != nil {
		w.t.Fatal(err)
	}
}

// history rotates n times and returns the tokens with the state after each.
func (w *world) history(clientID string, n int) (refresh []string, states []family.State) {
	w.t.Helper()
	refresh = []string{w.signIn(clientID).refresh}
	states = []family.State{w.family(refresh[0])}
	for range n {
		refresh = append(refresh, w.refresh(clientID, refresh[len(refresh)-1]).must(w.t).str("refresh_token"))
		states = append(states, w.family(refresh[0]))
	}
	return refresh, states
}

// recovered fails the test unless the token's family has exactly n events of a
// recovery, and none of its end.
func (w *world) recovered(token string, n int) {
	w.t.Helper()
	for _, e := range w.events(token) {
		switch e.Kind {
		case family.FamilyRecovered:
			n--
			if e.Reason != family.Recovered || e.Level != family.Alert {
				w.t.Errorf("the event is %+v, want an alert of recovered", e)
			}
		case family.FamilyRevoked:
			w.t.Errorf("loss of data was taken for %v", e.Reason)
		}
	}
	if n != 0 {
		w.t.Errorf("%d events of a recovery are missing", n)
	}
}

func TestRT_G06_NewerThanTheStoreRecovers(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, id := range []string{"strict", "leeway", "app", "spa", "web", "strictweb"} {
			for _, newest := range []int{1, 4} {
				rt, states := w.history(id, newest)
				w.lose(rt[0], states[0])
				w.clock.Advance(time.Hour)
				next := w.refreshKey(id, rt[newest], "k").must(t).tokens()
				w.recovered(rt[0], 1)
				if st := w.family(rt[0]); st.Head != uint32(newest)+2 || st.LastUsed <= states[newest].LastUsed {
					t.Errorf("%s: head is %d, want %d", id, st.Head, newest+2)
				}
				if !w.active(next.access) {
					t.Errorf("%s: the access token is not active", id)
				}
				// The answer may have been lost as any other.
				if got := w.refreshKey(id, rt[newest], "k").must(t).str("refresh_token"); got != next.refresh {
					t.Errorf("%s: the retry gives another token", id)
				}
				w.recovered(rt[0], 1)
				// From now on an older generation is an ordinary reuse, but for who proves possession.
				last := w.refresh(id, next.refresh).must(t).str("refresh_token")
				w.clock.Advance(time.Minute)
				if r := w.refresh(id, rt[0]); id == "web" {
					r.must(t)
				} else {
					r.refused(t)
					w.dead(id, family.Reused, append(rt, next.refresh, last), []string{next.access})
				}
			}
		}
		if got := counter(t, w, "heirloom_token_decisions_total", "reason", "recovered"); got != 12 {
			t.Errorf("%v recoveries are counted, want 12", got)
		}
	})
}

// The lost commit may be the exchange of the code: the row says that a code waits, and
// its minute is over.
func TestRT_G06_LostCodeExchangeRecovers(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, id := range []string{"strict", "app", "web", "norotate"} {
			f := newFlow(id)
			code := w.browser().code(f)
			fresh := w.family(code)
			first := w.exchange(f, code).must(t).tokens()
			w.lose(first.refresh, fresh)
			w.clock.Advance(2 * time.Hour)
			if w.family(first.refresh).IdleEnds >= family.At(w.clock.Now()) {
				t.Fatal("the code has not expired: nothing is tested")
			}
			next := w.refresh(id, first.refresh).must(t).tokens()
			w.recovered(first.refresh, 1)
			w.refresh(id, next.refresh).must(t)
			w.recovered(first.refresh, 1)
			w.clock.Advance(time.Minute)
			// A code of a family that has moved on is reuse, whoever brings it.
			w.exchange(f, code).refused(t)
			w.dead(id, family.Reused, []string{first.refresh, next.refresh}, []string{first.access, next.access})
		}
	})
}

// The stored idle end is of before the loss; a revocation, a cut-off and the absolute
// end are as true as ever.
func TestRT_G06_RecoveryObeysWhatIsCertain(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		// used lives on for days with a daily refresh; the store then forgets all but the first.
		used := func(id string) (rt []string) {
			rt, states := w.history(id, 0)
			for range 3 {
				w.clock.Advance(20 * time.Hour) // idle is 24 h
				rt = append(rt, w.refresh(id, rt[len(rt)-1]).must(t).str("refresh_token"))
			}
			w.lose(rt[0], states[0])
			return rt
		}
		rt := used("strict")
		w.unspent(rt[0], func() { w.refresh("strict", rt[0]).refused(t) }) // not newer: expired
		next := w.refresh("strict", rt[3]).must(t).str("refresh_token")
		w.recovered(rt[0], 1)
		w.clock.Advance(24 * time.Hour)
		w.unspent(rt[0], func() { w.refresh("strict", next).refused(t) }) // idle counts from the recovery

		rt = used("strict")
		w.clock.Advance(30*24*time.Hour - 60*time.Hour) // absolute is 30 d
		w.unspent(rt[0], func() { w.refresh("strict", rt[3]).refused(t) })
		w.recovered(rt[0], 0)

		rt = used("strict")
		if r := w.revoke("strict", rt[3]); r.status != 200 {
			t.Fatalf("revoke is answered with %d %s", r.status, r.raw)
		}
		w.dead("strict", family.RevokedClient, rt, nil)

		rt = used("strict")
		w.updateClient("strict", func(c *client.Client) {
			c.NotBefore, c.NotBeforeReason = w.clock.Now(), family.RevokedAdmin.String()
		})
		w.unspent(rt[0], func() { w.refresh("strict", rt[3]).refused(t) })
		w.recovered(rt[0], 0)
	})
}

// Two holders after a loss: the store no longer knows that the thief's token was used.
// One generation has one token, so what he is given is the owner's own newest token and
// not a fork of it. The family dies as soon as both have used what they have.
func TestRT_G07_ThiefAfterALossIsSeenOnceBothHaveCome(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, id := range []string{"strict", "leeway"} {
			away := func() { w.clock.Advance(11 * time.Second) } // no leeway helps anybody

			// The thief has g1, the owner g2.
			rt, states := w.history(id, 1)
			w.lose(rt[0], states[0])
			thief := w.refresh(id, rt[0]).must(t).tokens()
			if thief.refresh != rt[1] {
				t.Errorf("%s: the thief got another token of the same generation", id)
			}
			away()
			owner := w.refresh(id, rt[1]).must(t).tokens() // the head: nothing shows yet
			away()
			w.refresh(id, thief.refresh).refused(t)
			w.dead(id, family.Reused, append(rt, owner.refresh), []string{thief.access, owner.access})

			// The same when the thief is faster: then it is the owner's token that is late.
			rt, states = w.history(id, 1)
			w.lose(rt[0], states[0])
			thief = w.refresh(id, rt[0]).must(t).tokens()
			away()
			thief = w.refresh(id, thief.refresh).must(t).tokens()
			away()
			w.refresh(id, rt[1]).refused(t)
			w.dead(id, family.Reused, append(rt, thief.refresh), []string{thief.access})

			// The owner is further: he recovers, and what the thief has is reuse.
			rt, states = w.history(id, 4)
			w.lose(rt[0], states[0])
			thief = w.refresh(id, rt[0]).must(t).tokens()
			away()
			owner = w.refresh(id, rt[4]).must(t).tokens()
			w.recovered(rt[0], 1)
			away()
			w.refresh(id, thief.refresh).refused(t)
			w.dead(id, family.Reused, append(rt, owner.refresh), []string{thief.access, owner.access})
		}
	})
}

func TestRT_G12_RestoredBackup(t *testing.T) {
	d := disk(t.TempDir())
	w := newWorld(t, d.open, nil)
	reopen := func(d disk) {
		st, ring := d.open(t, w.issuer, w.clock.Now)
		w.restart(st, ring, st)
	}
	stop := func() {
		if err := w.store.(*sqlitedb.DB).Close(); err != nil {
			t.Fatal(err)
		}
	}
	rotated, _ := w.chain("strict", 1)
	rested, _ := w.chain("strict", 1)
	revoked, _ := w.chain("app", 1)
	reused, _ := w.chain("app", 1)
	before := w.clock.Now()
	stop()
	backup := d.copied(t)
	reopen(d)
	w.clock.Advance(time.Hour)
	for range 3 {
		rotated = append(rotated, w.refresh("strict", rotated[len(rotated)-1]).must(t).str("refresh_token"))
	}
	issued := w.signIn("strict")
	if r := w.revoke("app", revoked[1]); r.status != 200 {
		t.Fatalf("revoke is answered with %d %s", r.status, r.raw)
	}
	w.refresh("app", reused[0]).must(t) // until_used
	reused = append(reused, w.refresh("app", reused[1]).must(t).str("refresh_token"))
	w.clock.Advance(time.Minute)
	w.refresh("app", reused[0]).refused(t)
	w.dead("app", family.RevokedClient, revoked, nil)
	w.dead("app", family.Reused, reused, nil)

	// A day after the backup the disk is lost.
	stop()
	w.clock.Advance(20 * time.Hour)
	reopen(backup)

	// Rotated since: recovered. Not used since: as if nothing had happened.
	w.refresh("strict", rotated[4]).must(t)
	w.recovered(rotated[0], 1)
	w.refresh("strict", rested[1]).must(t)
	w.recovered(rested[0], 0)

	// Issued since: unknown, and nobody is accused of anything.
	w.refresh("strict", issued.refresh).refused(t)
	if got := counter(t, w, "heirloom_token_decisions_total", "reason", "unknown"); got != 1 {
		t.Errorf("%v tokens were unknown, want 1", got)
	}

	// Revoked since: the backup does not know. This is the price of a restore, and a
	// cut-off is what to pay it with: one write for each client, in force at once.
	w.refresh("app", revoked[1]).must(t)
	w.refresh("app", reused[2]).must(t)
	now := w.clock.Now()
	if !now.After(before) {
		t.Fatal("the cut-off would not cover anything")
	}
	w.updateClient("app", func(c *client.Client) { c.NotBefore, c.NotBeforeReason = now, family.RevokedAdmin.String() })
	for _, token := range append(revoked, reused...) {
		w.refresh("app", token).refused(t)
	}
	w.signIn("app") // signing in again is all that is needed
}

// A token that is retired late in the window of a burst has its leeway for itself: a
// client without a key whose refreshes come closer together than the leeway stays
// signed in. B11 holds all the same: what was retired first gets no more time by it.
func TestRT_B11_EachPredecessorHasItsOwnLeeway(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		rt, _ := w.chain("leeway", 1) // the window of the burst begins
		w.clock.Advance(9 * time.Second)
		rt = append(rt, w.refresh("leeway", rt[1]).must(t).str("refresh_token"))
		w.clock.Advance(9*time.Second + 999*time.Millisecond)
		w.untouched(rt[0], func() {
			if got := w.refresh("leeway", rt[1]).must(t).str("refresh_token"); got != rt[2] {
				t.Error("the retry gives another token")
			}
		})
		w.clock.Advance(time.Millisecond)
		w.refresh("leeway", rt[1]).refused(t)
		w.dead("leeway", family.Reused, rt, nil)

		rt, _ = w.chain("leeway", 1)
		w.clock.Advance(9 * time.Second)
		rt = append(rt, w.refresh("leeway", rt[1]).must(t).str("refresh_token"))
		w.clock.Advance(time.Second)
		w.refresh("leeway", rt[0]).refused(t)
		w.dead("leeway", family.Reused, rt, nil)
	})
}
