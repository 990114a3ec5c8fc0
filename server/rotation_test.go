package server_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
)

// chain rotates n times and returns every refresh token and access token, the first
// pair included.
func (w *world) chain(clientID string, n int) (refresh, access []string) {
	w.t.Helper()
	t := w.signIn(clientID)
	refresh, access = []string{t.refresh}, []string{t.access}
	for range n {
		t = w.refresh(clientID, t.refresh).must(w.t).tokens()
		refresh, access = append(refresh, t.refresh), append(access, t.access)
	}
	return refresh, access
}

func TestRT_A01_ReplayOfParentKillsFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("strict", 1)
		w.refresh("strict", rt[0]).refused(t)
		w.dead("strict", family.Reused, rt, at)
	})
}

func TestRT_A02_ReplayOfGrandparentKillsFamilyInEveryMode(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, id := range []string{"strict", "leeway", "app"} {
			rt, at := w.chain(id, 2)
			w.clock.Advance(31 * time.Second)
			w.refresh(id, rt[0]).refused(t)
			w.dead(id, family.Reused, rt, at)
		}
	})
}

func TestRT_A03_ThiefFirstOwnerSecond(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("strict", 0)
		thief := w.refresh("strict", rt[0]).must(t).tokens()
		w.refresh("strict", rt[0]).refused(t)
		w.dead("strict", family.Reused, append(rt, thief.refresh), append(at, thief.access))
	})
}

func TestRT_A04_OwnerFirstThiefSecond(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("leeway", 1)
		w.clock.Advance(10 * time.Second)
		w.refresh("leeway", rt[0]).refused(t)
		w.dead("leeway", family.Reused, rt, at)
	})
}

func TestRT_A05_DeadFamilyTellsOnce(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("strict", 2)
		w.refresh("strict", rt[0]).refused(t)
		for range 100 {
			for _, r := range rt {
				w.refresh("strict", r).refused(t)
			}
		}
		w.dead("strict", family.Reused, rt, at)
	})
}

func TestRT_A06_ReuseCountsWhileTheFamilyLives(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strict", 0)
		for range 3 {
			w.clock.Advance(20 * time.Hour) // idle is 24 h: the first token's own time is over
			next := w.refresh("strict", rt[len(rt)-1]).must(t).tokens()
			rt = append(rt, next.refresh)
		}
		w.refresh("strict", rt[0]).refused(t)
		w.dead("strict", family.Reused, rt, nil)
	})
}

func TestRT_A07_ExpiredIsNotReplay(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strict", 0)
		w.clock.Advance(24 * time.Hour)
		before := len(w.events(rt[0]))
		w.refresh("strict", rt[0]).refused(t)
		if st := w.family(rt[0]); st.Status != family.Live {
			t.Errorf("an expired family was written: %v", st.Reason)
		}
		if n := len(w.events(rt[0])); n != before {
			t.Errorf("%d events, want %d", n, before)
		}
		if !strings.Contains(w.logs.String(), `"reason":"expired_idle"`) {
			t.Error("the log does not say expired_idle")
		}
	})
}

func TestRT_A08_StrangersOldTokenHarmsNobody(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("web", 1)
		w.refresh("web2", rt[0]).refused(t)
		w.refresh("web2", rt[1]).refused(t)
		w.refresh("web", rt[1]).must(t)
		if e := w.events(rt[0])[0]; e.Kind != family.FamilyAlarm || e.Reason != family.ForeignClient || e.Level != family.Alert {
			t.Errorf("newest event is %+v, want an alarm", e)
		}
	})
}

func TestRT_A10_WithoutRotationTheTokenStays(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("norotate")
		for range 1000 {
			r := w.refresh("norotate", first.refresh).must(t)
			if got := r.str("refresh_token"); got != "" && got != first.refresh {
				t.Fatalf("refresh token changed to %q", got)
			}
		}
		if strings.Contains(w.logs.String(), `"reason":"reuse"`) {
			t.Error("a replay was seen")
		}
	})
}

func TestRT_A12_ReplayUntilTheEndAndAfterIt(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("strict", func(c *client.Client) { c.Policy = map[string]string{"idle": "30d"} })
		rt, at := w.chain("strict", 1)
		w.clock.Advance(30*24*time.Hour - time.Hour - time.Minute)
		w.refresh("strict", rt[0]).refused(t)
		w.dead("strict", family.Reused, rt, at)

		rt, _ = w.chain("strict", 1)
		id := w.family(rt[0]).ID
		w.clock.Advance(400 * 24 * time.Hour)
		for {
			n, err := w.store.Sweep(context.Background(), 1000)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
		}
		before, _ := w.store.Events(context.Background(), family.EventQuery{Family: id})
		w.refresh("strict", rt[0]).refused(t)
		after, _ := w.store.Events(context.Background(), family.EventQuery{Family: id})
		if len(before) != len(after) {
			t.Error("an event was written for a family that is gone")
		}
	})
}

func TestRT_A13_LongChain(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strict", 1000)
		w.refresh("strict", rt[2]).refused(t)
		w.refresh("strict", rt[1000]).refused(t)
	})
}

func TestRT_A14_OtherDevicesLive(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		var two []tokens
		for range 2 {
			f := newFlow("strict")
			two = append(two, w.exchange(f, b.code(f)).must(t).tokens())
		}
		next := w.refresh("strict", two[0].refresh).must(t).tokens()
		w.refresh("strict", two[0].refresh).refused(t)
		w.dead("strict", family.Reused, []string{two[0].refresh, next.refresh}, []string{two[0].access})
		two[1] = w.refresh("strict", two[1].refresh).must(t).tokens()

		w.updateClient("strict", func(c *client.Client) { c.Policy = map[string]string{"on_reuse": "revoke_user"} })
		third := w.signIn("strict")
		w.refresh("strict", third.refresh).must(t)
		w.refresh("strict", third.refresh).refused(t)
		w.refresh("strict", two[1].refresh).refused(t)
	})
}

func TestRT_A15_AccessTokensDieWithTheFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("strict", 3)
		for _, a := range at {
			if !w.active(a) {
				t.Fatal("an access token of a living family is not active")
			}
		}
		w.refresh("strict", rt[0]).refused(t)
		for i, a := range at {
			if w.active(a) {
				t.Errorf("access token %d is active", i)
			}
			req, _ := http.NewRequest("GET", w.issuer+"/oauth2/userinfo", nil)
			req.Header.Set("Authorization", "Bearer "+a)
			if r := w.do(req); r.status != 401 {
				t.Errorf("userinfo answers %d to access token %d", r.status, i)
			}
		}
	})
}

func TestRT_A17_RevokingAnOldTokenKillsTheFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("strict", 2)
		r := w.post("/oauth2/revoke", nil, "client_id", "strict", "token", rt[0], "token_type_hint", "access_token")
		if r.status != 200 || r.raw != "" {
			t.Fatalf("revoke is answered with %d %q", r.status, r.raw)
		}
		w.dead("strict", family.RevokedClient, rt, at)
	})
}

func TestRT_A18_IntrospectingAnOldTokenIsNoReplay(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strictweb", 1)
		r := w.post("/oauth2/introspect", nil, append(w.as("strictweb"), "token", rt[0])...).must(t)
		if r.raw != `{"active":false}` {
			t.Errorf("introspection says %s", r.raw)
		}
		w.refresh("strictweb", rt[1]).must(t)
	})
}

func TestRT_A19_NewSignInIsANewFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("strict", 1)
		w.refresh("strict", rt[0]).refused(t)
		again := w.signIn("strict")
		w.refresh("strict", again.refresh).must(t)
		w.dead("strict", family.Reused, rt, at)
	})
}

func TestRT_A20_TheRecordShowsTheThief(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		owner := w.signIn("strict")
		stolen, all := owner.refresh, []string{owner.refresh}
		for range 5 {
			w.clock.Advance(time.Minute)
			r := w.post("/oauth2/token", http.Header{"User-Agent": {"thief/1.0"}}, "client_id", "strict", "grant_type", "refresh_token", "refresh_token", stolen).must(t)
			stolen = r.str("refresh_token")
			all = append(all, stolen)
		}
		w.refresh("strict", owner.refresh).refused(t)
		w.dead("strict", family.Reused, all, []string{owner.access})
		foreign := 0
		for _, e := range w.family(stolen).History() {
			if e.Origin.UserAgent == "thief/1.0" && e.Origin.IP.String() == "127.0.0.1" && e.At != 0 && e.Reason == family.Rotated {
				foreign++
			}
		}
		if foreign != 5 {
			t.Errorf("the record shows %d uses by the thief, want 5", foreign)
		}
	})
}

func TestRT_A21_FailedRefreshSpendsNothing(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strictweb", 0)
		before := w.family(rt[0])
		w.clock.Advance(time.Hour)
		w.refresh("strictweb", rt[0], "scope", "read admin").errs(t, 400, "invalid_scope")
		w.refresh("strictweb", rt[0], "scope", "a\"b").errs(t, 400, "invalid_scope")
		w.refresh("strictweb", rt[0], "resource", "https://elsewhere.example.com").errs(t, 400, "invalid_target")
		w.refresh("strictweb", rt[0], "resource", "relative").errs(t, 400, "invalid_target")
		w.post("/oauth2/token", nil, "client_id", "strictweb", "client_secret", "wrong", "grant_type", "refresh_token", "refresh_token", rt[0]).errs(t, 401, "invalid_client")
		if after := w.family(rt[0]); after.Version != before.Version || after.LastUsed != before.LastUsed || after.Head != before.Head {
			t.Errorf("a failed refresh moved the family from %+v to %+v", before, after)
		}
		w.refresh("strictweb", rt[0]).must(t)
	})
}

func TestRT_A22_AnswerOfARefresh(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		first := w.signIn("strict")
		r := w.refresh("strict", first.refresh).must(t)
		if r.str("refresh_token") == first.refresh || r.str("token_type") != "Bearer" || r.str("scope") != "offline_access openid read write" {
			t.Errorf("answer is %s", r.raw)
		}
		if r.body["expires_in"] != 300.0 || r.body["refresh_token_timeout"] != 86400.0 {
			t.Errorf("expires_in %v, refresh_token_timeout %v", r.body["expires_in"], r.body["refresh_token_timeout"])
		}
		if left, _ := r.body["authorization_expires_in"].(float64); left > 30*86400 || left < 30*86400-5 {
			t.Errorf("authorization_expires_in is %v", left)
		}
		if r.header.Get("Pragma") != "no-cache" || r.header.Get("Content-Type") != "application/json" {
			t.Errorf("headers are %v", r.header)
		}
	})
}

func TestRT_A24_SilentSignInAfterReplay(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("strict")
		first := w.exchange(f, b.code(f)).must(t).tokens()
		w.refresh("strict", first.refresh).must(t)
		w.refresh("strict", first.refresh).refused(t)
		again := newFlow("strict", "prompt", "none")
		second := w.exchange(again, b.code(again)).must(t).tokens()
		if w.family(second.refresh).ID == w.family(first.refresh).ID {
			t.Error("the old family came back")
		}
	})
}

// together sends n requests at the same moment.
func together(n int, f func(i int) reply) []reply {
	out := make([]reply, n)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		ready.Add(1)
		done.Add(1)
		go func() {
			defer done.Done()
			ready.Done()
			<-start
			out[i] = f(i)
		}()
	}
	ready.Wait()
	close(start)
	done.Wait()
	return out
}

func TestRT_B01_StrictRaceHasAtMostOneWinner(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for range 20 {
			rt, _ := w.chain("strict", 0)
			out := together(2, func(i int) reply { return w.refreshKey("strict", rt[0], fmt.Sprintf("key-%d", i)) })
			won := 0
			for _, r := range out {
				if r.status == 200 {
					won++
					rt = append(rt, r.str("refresh_token"))
				} else {
					r.refused(t)
				}
			}
			if won > 1 {
				t.Fatalf("%d winners", won)
			}
			w.dead("strict", family.Reused, rt, nil)
		}
	})
}

func TestRT_B02_OneCommitInARace(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("leeway", 0)
		before := w.family(rt[0])
		together(100, func(int) reply { return w.refresh("leeway", rt[0]) })
		after := w.family(rt[0])
		if after.Head != before.Head+1 || after.Version != before.Version+1 {
			t.Errorf("head %d → %d, version %d → %d: want one step", before.Head, after.Head, before.Version, after.Version)
		}
	})
}

func TestRT_B03_HundredAtOnceShareOneSuccessor(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for name, use := range map[string]func(rt string) reply{
			"leeway":     func(rt string) reply { return w.refresh("leeway", rt) },
			"strict+key": func(rt string) reply { return w.refreshKey("strict", rt, "the same key") },
			"possession": func(rt string) reply { return w.refresh("web", rt) },
		} {
			id := map[string]string{"leeway": "leeway", "strict+key": "strict", "possession": "web"}[name]
			rt, _ := w.chain(id, 0)
			succ := map[string]bool{}
			for _, r := range together(100, func(int) reply { return use(rt[0]) }) {
				got := r.must(t).tokens()
				succ[got.refresh] = true
				if !w.active(got.access) {
					t.Errorf("%s: an access token is not active", name)
				}
			}
			if len(succ) != 1 {
				t.Errorf("%s: %d successors, want 1", name, len(succ))
			}
			if st := w.family(rt[0]); st.Head != 2 {
				t.Errorf("%s: head is %d, want 2", name, st.Head)
			}
		}
	})
}

func TestRT_B04_KeyProvesARetryAfterAnyDelay(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("strict", func(c *client.Client) { c.Policy = map[string]string{"idle": "10d"} })
		rt, _ := w.chain("strict", 0)
		lost := w.refreshKey("strict", rt[0], "k1").must(t).str("refresh_token")
		before := w.family(rt[0])
		for _, wait := range []time.Duration{time.Second, 12 * time.Hour, 7 * 24 * time.Hour} {
			w.clock.Advance(wait)
			if got := w.refreshKey("strict", rt[0], "k1").must(t).str("refresh_token"); got != lost {
				t.Errorf("after %v the retry gives %q, want %q", wait, got, lost)
			}
		}
		if after := w.family(rt[0]); after != before {
			t.Error("a repeat changed the family")
		}
		w.refreshKey("strict", lost, "k2").must(t)
	})
}

func TestRT_B04a_AnotherKeyOrNoneIsReplay(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, key := range []string{"another", ""} {
			rt, _ := w.chain("strict", 0)
			next := w.refreshKey("strict", rt[0], "k1").must(t).str("refresh_token")
			if key == "" {
				w.refresh("strict", rt[0]).refused(t)
			} else {
				w.refreshKey("strict", rt[0], key).refused(t)
			}
			w.dead("strict", family.Reused, append(rt, next), nil)
		}
	})
}

func TestRT_B04b_TheKeyIsSpentWithTheSuccessor(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strict", 0)
		one := w.refreshKey("strict", rt[0], "k1").must(t).str("refresh_token")
		two := w.refreshKey("strict", one, "k2").must(t).str("refresh_token")
		w.refreshKey("strict", rt[0], "k1").refused(t)
		w.dead("strict", family.Reused, append(rt, one, two), nil)
	})
}

func TestRT_B04c_PredecessorRepeatsUntilTheSuccessorIsUsed(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("app", 1)
		w.clock.Advance(12 * time.Hour)
		if got := w.refresh("app", rt[0]).must(t).str("refresh_token"); got != rt[1] {
			t.Errorf("the repeat gives %q, want %q", got, rt[1])
		}
		two := w.refresh("app", rt[1]).must(t).str("refresh_token")
		w.clock.Advance(time.Minute)
		w.refresh("app", rt[0]).refused(t)
		w.dead("app", family.Reused, append(rt, two), nil)
	})
}

func TestRT_B04d_KeyGrammar(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strict", 0)
		for _, bad := range []string{strings.Repeat("k", 300), "k\u00e9y", `"open`, `""`, `"a"b"`} {
			if bad == `"open` {
				continue // a bare key may have a quote
			}
			w.refreshKey("strict", rt[0], bad).errs(t, 400, "invalid_request")
		}
		if r := w.post("/oauth2/token", http.Header{"Idempotency-Key": {"a", "b"}}, "client_id", "strict", "grant_type", "refresh_token", "refresh_token", rt[0]); r.status != 400 {
			t.Errorf("two keys are answered with %d", r.status)
		}
		one := w.refreshKey("strict", rt[0], "k").must(t).str("refresh_token")
		if got := w.refreshKey("strict", rt[0], `"k"`).must(t).str("refresh_token"); got != one {
			t.Error("a quoted key is not the same as a bare one")
		}
		w.refreshKey("strict", one, strings.Repeat("k", 255)).must(t)
	})
}

func TestRT_B05_LeewayEndsToTheMillisecond(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		for _, at := range []struct {
			after time.Duration
			ok    bool
		}{{10*time.Second - time.Millisecond, true}, {10 * time.Second, false}, {10*time.Second + time.Millisecond, false}} {
			rt, _ := w.chain("leeway", 1)
			w.clock.Advance(at.after)
			r := w.refresh("leeway", rt[0])
			if !at.ok {
				r.refused(t)
				w.dead("leeway", family.Reused, rt, nil)
			} else if got := r.must(t).str("refresh_token"); got != rt[1] {
				t.Errorf("after %v the repeat gives %q", at.after, got)
			}
		}
	})
}

func TestRT_B06_BurstRepeatsTheHead(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("leeway", 2)
		if got := w.refresh("leeway", rt[0]).must(t).str("refresh_token"); got != rt[2] {
			t.Errorf("the repeat gives %q, want the head %q", got, rt[2])
		}
	})
}

func TestRT_B07_BelowTheFloorIsReplay(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, at := w.chain("leeway", 1)
		w.clock.Advance(11 * time.Second)
		rt = append(rt, w.refresh("leeway", rt[1]).must(t).str("refresh_token"))
		w.refresh("leeway", rt[0]).refused(t)
		w.dead("leeway", family.Reused, rt, at)
	})
}

func TestRT_B09_RetryWithOtherScope(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("leeway", 1)
		r := w.refresh("leeway", rt[0], "scope", "read", "resource", apiURL).must(t)
		if r.str("refresh_token") != rt[1] || r.str("scope") != "read" {
			t.Errorf("answer is %s", r.raw)
		}
		if got := w.refresh("leeway", rt[1]).must(t).str("scope"); got != "offline_access openid read write" {
			t.Errorf("the successor's scope is %q", got)
		}
	})
}

func TestRT_B10_LostResponsePerMode(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, m := range []struct {
			client, key string
			wait        time.Duration
			ok          bool
		}{
			{"leeway", "", 9 * time.Second, true},
			{"app", "", 24 * time.Hour, true},
			{"strict", "k", 20 * time.Hour, true},
			{"web", "", 24 * time.Hour, true},
			{"norotate", "", 24 * time.Hour, true},
			{"strict", "", 0, false},
		} {
			rt, _ := w.chain(m.client, 0)
			again := func() reply {
				if m.key != "" {
					return w.refreshKey(m.client, rt[0], m.key)
				}
				return w.refresh(m.client, rt[0])
			}
			lost := again().must(t).str("refresh_token")
			w.clock.Advance(m.wait)
			r := again()
			if !m.ok {
				r.refused(t)
				continue
			}
			if got := r.must(t).str("refresh_token"); got != lost {
				t.Errorf("%s: the retry gives another token", m.client)
			}
		}
	})
}

func TestRT_B11_WindowDoesNotSlide(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		rt, _ := w.chain("leeway", 1)
		before := w.family(rt[0])
		w.clock.Advance(5 * time.Second)
		w.refresh("leeway", rt[0]).must(t)
		w.clock.Advance(4 * time.Second)
		w.refresh("leeway", rt[0]).must(t)
		if w.family(rt[0]) != before {
			t.Error("a repeat moved the family")
		}
		w.clock.Advance(2 * time.Second)
		w.refresh("leeway", rt[0]).refused(t)
	})
}

func TestRT_B12_PriceOfLeeway(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("leeway", 1)
		thief := w.refresh("leeway", rt[1]).must(t).str("refresh_token")
		if got := w.refresh("leeway", rt[0]).must(t).str("refresh_token"); got != thief {
			t.Error("inside the window the owner is not repeated")
		}
		w.clock.Advance(10 * time.Second)
		w.refresh("leeway", rt[0]).refused(t)
		w.dead("leeway", family.Reused, append(rt, thief), nil)
	})
}

func TestRT_B14_NothingSucceedsAfterRevoke(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for range 50 {
			f := newFlow("leeway")
			tok := w.exchange(f, b.code(f)).must(t).tokens()
			var wg sync.WaitGroup
			revoked := make(chan struct{})
			overlapped := []reply{}
			var mu sync.Mutex
			wg.Add(1)
			go func() {
				defer wg.Done()
				rt := tok.refresh
				for {
					select {
					case <-revoked:
						if r := w.refresh("leeway", rt); r.status == 200 {
							t.Error("a refresh succeeded after the revocation's 200")
						}
						return
					default:
					}
					r := w.refresh("leeway", rt)
					mu.Lock()
					overlapped = append(overlapped, r)
					mu.Unlock()
					if r.status == 200 {
						rt = r.str("refresh_token")
					}
				}
			}()
			w.post("/oauth2/revoke", nil, "client_id", "leeway", "token", tok.refresh)
			close(revoked)
			wg.Wait()
			for _, r := range overlapped {
				if a := r.str("access_token"); a != "" && w.active(a) {
					t.Error("an overlapping refresh gave a living access token")
				}
			}
		}
	})
}

func TestRT_B24_SamePresenterOnlyNarrows(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		as := func(ua, token string) reply {
			return w.post("/oauth2/token", http.Header{"User-Agent": {ua}}, "client_id", "spa", "grant_type", "refresh_token", "refresh_token", token)
		}
		first := w.signIn("spa").refresh
		second := as("Firefox", first).must(t).str("refresh_token")
		if got := as("Firefox", first).must(t).str("refresh_token"); got != second {
			t.Error("the same presenter is not repeated")
		}
		as("curl", first).refused(t)
		w.dead("spa", family.Reused, []string{first, second}, nil)
	})
}
