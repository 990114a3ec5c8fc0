package server_test

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
)

const (
	oneDay = 24 * time.Hour
	tick   = time.Millisecond // the one resolution of everything stored
)

// edges are the three points of a boundary, and whether the last moment before it, the
// boundary itself and the first after it are still inside.
var edges = []struct {
	off time.Duration
	in  bool
}{{-tick, true}, {0, false}, {tick, false}}

// policy sets fields on top of a client's preset.
func (w *world) policy(id string, pairs ...string) {
	w.t.Helper()
	w.updateClient(id, func(c *client.Client) {
		c.Policy = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			c.Policy[pairs[i]] = pairs[i+1]
		}
	})
}

// secondsOf returns a whole number of an answer, -1 if it is not there.
func (r reply) secondsOf(name string) int64 {
	n, ok := r.body[name].(float64)
	if !ok {
		return -1
	}
	return int64(n)
}

// lives fails the test unless the answer has these three figures.
func (r reply) lives(t *testing.T, access, refresh, authorization int64) {
	t.Helper()
	r.must(t)
	got := [3]int64{r.secondsOf("expires_in"), r.secondsOf("refresh_token_timeout"), r.secondsOf("authorization_expires_in")}
	if want := [3]int64{access, refresh, authorization}; got != want {
		t.Errorf("expires_in, refresh_token_timeout, authorization_expires_in are %v, want %v", got, want)
	}
}

func TestRT_E01_IdleEndsToTheMillisecond(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		for _, id := range []string{"strict", "norotate"} {
			w.policy(id, "idle", "7d")
			for _, at := range edges {
				rt := w.signIn(id).refresh
				w.clock.Advance(7*oneDay + at.off)
				if at.in {
					w.refresh(id, rt).must(t)
					continue
				}
				w.unspent(rt, func() { w.refresh(id, rt).refused(t) })
			}
		}
	})
}

func TestRT_E02_DEC6_UseNeverSlidesPastTheAbsoluteEnd(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		w.policy("strict", "idle", "7d", "absolute", "30d")
		for _, at := range edges {
			rt := w.signIn("strict").refresh
			for range 4 {
				w.clock.Advance(6 * oneDay)
				rt = w.refresh("strict", rt).must(t).str("refresh_token")
			}
			w.clock.Advance(6*oneDay + at.off)
			if at.in {
				w.refresh("strict", rt).lives(t, 0, 0, 0)
				continue
			}
			w.unspent(rt, func() { w.refresh("strict", rt).refused(t) })
			if !strings.Contains(w.logs.String(), `"reason":"expired_absolute"`) {
				t.Error("the log does not say expired_absolute")
			}
		}
	})
}

func TestRT_E03_NothingIsAnnouncedPastTheEnd(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		w.clock.Advance(time.Duration(1000-w.clock.Now().UnixMilli()%1000) * tick) // a JWT counts whole seconds
		w.policy("web", "idle", "10d", "absolute", "10d")
		rt := w.signIn("web").refresh
		w.clock.Advance(10*oneDay - 30*time.Second)
		r := w.refresh("web", rt)
		r.lives(t, 30, 30, 30)
		access := r.str("access_token")
		w.clock.Advance(30*time.Second - tick)
		if !w.active(access) {
			t.Error("the access token is over before its time")
		}
		w.clock.Advance(tick)
		if w.active(access) {
			t.Error("the access token outlives the authorization")
		}
	})
}

func TestRT_E04_RTX_01_TheDraftsExample(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		w.policy("app", "idle", "7d", "absolute", "10d")
		f := newFlow("app")
		r := w.exchange(f, w.browser().code(f))
		r.lives(t, 600, 604800, 864000)
		w.clock.Advance(2 * oneDay)
		r = w.refresh("app", r.str("refresh_token"))
		r.lives(t, 600, 604800, 691200)
		w.clock.Advance(5 * oneDay)
		r = w.refresh("app", r.str("refresh_token"))
		r.lives(t, 600, 259200, 259200)

		held := w.signIn("app").refresh
		w.clock.Advance(8 * oneDay)
		w.refresh("app", held).refused(t)
	})
}

// The store's clock stands an hour from that of the process, in both directions: every
// window and deadline follows the store's.
func TestRT_E05_OneClockJudgesAll(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, off := range []time.Duration{time.Hour, -2 * time.Hour} {
			w.clock.Advance(off)
			w.clock.Freeze()
			first := w.signIn("leeway")
			if c := claimsOf(t, first.access); c["iat"] != float64(w.clock.Now().Unix()) || !w.active(first.access) {
				t.Errorf("an access token issued at %v is of %v", w.clock.Now().Unix(), c["iat"])
			}
			next := w.refresh("leeway", first.refresh).must(t).str("refresh_token")
			w.clock.Advance(10*time.Second - tick)
			if got := w.refresh("leeway", first.refresh).must(t).str("refresh_token"); got != next {
				t.Error("inside the window another token was given")
			}
			w.clock.Advance(tick)
			w.refresh("leeway", first.refresh).refused(t)
			w.refresh("leeway", next).refused(t)
		}
	})
}

func TestRT_E06_ClockJumpsBack(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		rt, _ := w.chain("strict", 1)
		before := w.family(rt[1])
		w.clock.Advance(-time.Hour)
		r := w.refresh("strict", rt[1]).must(t)
		if n := r.secondsOf("expires_in"); n != 300 {
			t.Errorf("expires_in is %d", n)
		}
		if !w.active(r.str("access_token")) || w.userinfo(r.str("access_token")).status != 200 {
			t.Error("the new access token is not active")
		}
		after := w.family(rt[1])
		if after.Ends != before.Ends || after.LastUsed < before.LastUsed {
			t.Errorf("ends %v → %v, last used %v → %v", before.Ends, after.Ends, before.LastUsed, after.LastUsed)
		}
		w.clock.Advance(2 * time.Hour)
		w.refresh("strict", r.str("refresh_token")).must(t)
	})
}

func (w *world) sweep() {
	w.t.Helper()
	for {
		n, err := w.store.Sweep(context.Background(), 1000)
		if err != nil {
			w.t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

func TestRT_E07_SweeperKeepsAMargin(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		rt := b.tokens("strict").refresh
		w.clock.Advance(25 * time.Hour) // idle is 24 h
		w.sweep()
		w.clock.Advance(-25 * time.Hour)
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_E08_ShorterPolicyWorksAtOnce(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		b := w.browser()
		for _, at := range edges {
			w.policy("app", "idle", "30d")
			rt := b.tokens("app").refresh
			w.clock.Advance(oneDay + at.off)
			w.policy("app", "idle", "1d")
			if at.in {
				w.refresh("app", rt).must(t)
				continue
			}
			w.unspent(rt, func() { w.refresh("app", rt).refused(t) })
		}
	})
}

func TestRT_E09_RTX_05_LongerPolicyFromTheNextRotation(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		w.policy("app", "idle", "1d", "absolute", "300d")
		b := w.browser()
		old, renewed := b.tokens("app").refresh, b.tokens("app").refresh
		w.policy("app", "idle", "30d", "absolute", "300d")
		w.clock.Advance(oneDay - tick)
		r := w.refresh("app", renewed)
		r.lives(t, 600, 30*86400, 299*86400)
		w.clock.Advance(tick)
		w.unspent(old, func() { w.refresh("app", old).refused(t) })
		w.clock.Advance(29 * oneDay)
		w.refresh("app", r.str("refresh_token")).must(t)
	})
}

func TestRT_E10_RFC10017_04_SessionEndsByTime(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		w.policy("spa", "idle", "60d", "absolute", "60d")
		for _, at := range edges {
			b := w.browser()
			offline := b.tokens("web").refresh
			bound := map[string]string{"web": b.tokens("web", "scope", "openid read").refresh, "spa": b.tokens("spa").refresh}
			w.clock.Advance(30*oneDay - time.Hour)
			for id, rt := range bound {
				r := w.refresh(id, rt)
				if n := r.must(t).secondsOf("authorization_expires_in"); n != 3600 {
					t.Errorf("%s: authorization_expires_in is %d, want the session's hour", id, n)
				}
				bound[id] = r.str("refresh_token")
			}
			offline = w.refresh("web", offline).must(t).str("refresh_token")
			w.clock.Advance(time.Hour + at.off)
			for id, rt := range bound {
				if at.in {
					w.refresh(id, rt).must(t)
				} else {
					w.unspent(rt, func() { w.refresh(id, rt).refused(t) })
				}
			}
			w.refresh("web", offline).must(t)
		}
	})
}

func TestRT_E12_FarEndsDoNotOverflow(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.policy("app", "idle", "876000h", "absolute", "876000h") // a hundred years
		b := w.browser()
		for range 2 {
			f := newFlow("app")
			r := w.exchange(f, b.code(f)).must(t)
			var all map[string]json.RawMessage
			if err := json.Unmarshal([]byte(r.raw), &all); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"refresh_token_timeout", "authorization_expires_in"} {
				// An integer, not 3.1536e9.
				if n, err := strconv.ParseInt(string(all[name]), 10, 64); err != nil || n < 3153599990 || n > 3153600000 {
					t.Errorf("%s is %s", name, all[name])
				}
			}
			if c := claimsOf(t, r.str("access_token")); !w.active(r.str("access_token")) {
				t.Errorf("an access token of the year %v is not active", time.Unix(int64(c["iat"].(float64)), 0).Year())
			}
			r = w.refresh("app", r.str("refresh_token")).must(t)
			w.clock.Advance(20 * 365 * oneDay) // past 2038
			w.refresh("app", r.str("refresh_token")).must(t)
		}
		w.policy("web", "idle", "0", "absolute", "0")
		r := w.refresh("web", b.tokens("web").refresh)
		r.lives(t, 600, -1, -1)
	})
}

// At their ends families meet the sweeper and a refresh at the same moment.
func TestRT_E14_SweeperAtTheBoundary(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		w.policy("strict", "idle", "1h")
		b := w.browser()
		for range 50 {
			rt := b.tokens("strict").refresh
			w.clock.Advance(time.Hour - tick)
			var r reply
			var wg sync.WaitGroup
			wg.Go(func() { r = w.refresh("strict", rt) })
			wg.Go(func() { w.clock.Advance(tick) })
			wg.Go(w.sweep)
			wg.Wait()
			if r.status != 200 {
				r.refused(t)
				w.refresh("strict", rt).refused(t)
				continue
			}
			if st := w.family(rt); st.Head != 2 || st.Status != family.Live {
				t.Errorf("after a 200 the family is %+v", st)
			}
		}
	})
}

func TestRT_E15_OnlyUseMovesTheIdleTimer(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		tok := w.signIn("strictweb")
		w.unspent(tok.refresh, func() {
			for range 23 {
				w.clock.Advance(time.Hour)
				w.post("/oauth2/introspect", nil, append(w.as("strictweb"), "token", tok.refresh)...).must(t)
				w.post("/oauth2/introspect", nil, append(w.as("strictweb"), "token", tok.access)...).must(t)
				w.userinfo(tok.access)
				w.refresh("strictweb", tok.refresh, "scope", "admin").errs(t, 400, "invalid_scope")
				w.refresh("web", tok.refresh).refused(t)
			}
		})
		w.clock.Advance(time.Hour)
		w.refresh("strictweb", tok.refresh).refused(t)
	})
}

func TestRTX_02_ExpiredIsGoodForNothing(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		tok := w.signIn("strictweb")
		w.clock.Advance(oneDay)
		w.unspent(tok.refresh, func() {
			w.refresh("strictweb", tok.refresh).refused(t)
			w.refreshKey("strictweb", tok.refresh, "k").refused(t)
			r := w.post("/oauth2/introspect", nil, append(w.as("strictweb"), "token", tok.refresh)...).must(t)
			if r.raw != `{"active":false}` {
				t.Errorf("introspection says %s", r.raw)
			}
		})
		if r := w.post("/oauth2/revoke", nil, append(w.as("strictweb"), "token", tok.refresh)...); r.status != 200 {
			t.Errorf("revoking it is answered with %d", r.status)
		}
		w.refresh("strictweb", tok.refresh).refused(t)
	})
}

func TestRTX_03_FiguresComeWithEveryRefreshToken(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, id := range []string{"spa", "app", "strict", "leeway", "web"} {
			f := newFlow(id)
			r := w.exchange(f, b.code(f)).must(t)
			for range 3 {
				refresh, authorization := r.secondsOf("refresh_token_timeout"), r.secondsOf("authorization_expires_in")
				if refresh <= 0 || authorization <= 0 || refresh > authorization || r.secondsOf("expires_in") > refresh {
					t.Errorf("%s: the answer is %s", id, r.raw)
				}
				w.clock.Advance(time.Minute)
				r = w.refresh(id, r.str("refresh_token")).must(t)
			}
		}
	})
}

func TestRTX_04_FiguresWithoutRotation(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		tok := w.signIn("norotate")
		w.clock.Advance(10 * oneDay)
		w.refresh("norotate", tok.refresh).lives(t, 300, 30*86400, 355*86400)
	})
}

func TestRTX_07_MetadataSaysWhichEndsThereAre(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		p := w.browser().get("/.well-known/oauth-authorization-server")
		var doc struct {
			Types []string `json:"refresh_token_expiration_types_supported"`
		}
		if err := json.Unmarshal([]byte(p.body), &doc); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(doc.Types, []string{"authorization", "token_timeout"}) {
			t.Errorf("the types are %v", doc.Types)
		}
	})
}

func TestRFC10017_03_RotationDoesNotExtend(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		w.policy("spa", "idle", "8h", "absolute", "8h")
		rt := w.signIn("spa").refresh
		w.clock.Advance(10 * time.Minute)
		r := w.refresh("spa", rt)
		r.lives(t, 300, 28200, 28200)
		rt = r.str("refresh_token")
		w.clock.Advance(8*time.Hour - 10*time.Minute - tick)
		rt = w.refresh("spa", rt).must(t).str("refresh_token")
		w.clock.Advance(tick)
		w.refresh("spa", rt).refused(t)
	})
}

func TestRFC9700_08_UnusedTokensEnd(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		b := w.browser()
		for id, idle := range map[string]time.Duration{"spa": oneDay, "strict": oneDay, "app": 30 * oneDay, "web": 30 * oneDay} {
			rt := b.tokens(id).refresh
			w.clock.Advance(idle)
			w.unspent(rt, func() { w.refresh(id, rt).refused(t) })
			w.clock.Advance(-idle)
			w.refresh(id, rt).must(t)
		}
	})
}
