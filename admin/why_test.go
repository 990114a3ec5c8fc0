package admin_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/family"
)

func (w *world) familyLife(id family.ID) admin.FamilyLife {
	w.Helper()
	var life admin.FamilyLife
	w.do("GET", "/admin/v1/families/"+id.String()+"/why", nil, &life, 200)
	return life
}

// told writes a life in one line each: what a reviewer can read.
func told(lines []admin.Line) string {
	var b strings.Builder
	for _, l := range lines {
		at := "-"
		if !l.At.IsZero() {
			at = l.At.Format("15:04:05")
		}
		fmt.Fprintf(&b, "%s %s g%d %s | %s | %s %s\n", at, l.Level, l.Generation, l.Reason, l.Text, l.IP, l.Device)
	}
	return b.String()
}

func wantTold(t *testing.T, got, want string) {
	t.Helper()
	want = strings.TrimPrefix(want, "\n")
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestRT_A20_LifeOfAStolenFamilyIsToldLineByLine(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "strict")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		w.pass(time.Hour)
		w.present(f, 1, home)
		w.pass(time.Hour)
		w.present(f, 2, thief)
		w.pass(time.Minute)
		if v := w.present(f, 2, home); v.Act != family.Reuse {
			w.Fatalf("%+v", v)
		}
		life := w.familyLife(f)
		wantTold(w.T, told(life.Lines), `
12:00:00 INFO g0 issued | the authorization was given and its code issued | 192.0.2.7 Firefox on Linux
12:00:00 INFO g0 rotated | the code was exchanged: generation 1 issued | 192.0.2.7 Firefox on Linux
13:00:00 INFO g1 rotated | generation 1 was used: generation 2 issued | 192.0.2.7 Firefox on Linux
14:00:00 INFO g2 rotated | generation 2 was used: generation 3 issued | 203.0.113.66 curl
14:01:00 ALERT g2 reuse | generation 2 was presented again after it had been used: somebody has a copy of it, so the family was ended | 192.0.2.7 Firefox on Linux
`)
		if life.Family.Status != "ended" || life.Family.Reason != "reuse" || life.Family.Username != "alice" ||
			!life.Family.EndedAt.Equal(w.clock()) || life.Family.IP != "203.0.113.66" {
			w.Errorf("%+v", life.Family)
		}
	})
}

func TestOldUsesAreNotToldAndSaidSo(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "strict")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		for g := range uint32(984) {
			w.pass(time.Second)
			w.present(f, g+1, home)
		}
		life := w.familyLife(f)
		lines := life.Lines
		if len(lines) != 1+1+16+1 {
			w.Fatalf("%d lines:\n%s", len(lines), told(lines))
		}
		if lines[0].Reason != "issued" {
			w.Errorf("the first line is %+v", lines[0])
		}
		if want := "the uses of generations 0–968 are older than the 16 uses that are kept"; lines[1].Text != want {
			w.Errorf("%q, want %q", lines[1].Text, want)
		}
		if lines[2].Generation != 969 || lines[17].Generation != 984 {
			w.Errorf("\n%s", told(lines))
		}
		if want := "lives; without another use it ends at 2026-11-24T12:16:24Z"; lines[18].Text != want {
			w.Errorf("%q, want %q", lines[18].Text, want)
		}
	})
}

func TestLifeNamesEndsThatNoRowTellsOf(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "strict")
		w.addClient("long", "native")
		id := w.addUser("alice")
		idle := w.issue(id, "app", w.signIn(id), true)
		off := w.issue(id, "long", w.signIn(id), true)
		last := func(f family.ID) admin.Line {
			lines := w.familyLife(f).Lines
			return lines[len(lines)-1]
		}
		w.pass(23*time.Hour + 59*time.Minute)
		w.wantLive(idle)
		w.pass(time.Minute)
		if l := last(idle); l.Reason != "expired_idle" || l.Text != "ended: it was not used for longer than its policy allows (idle: 1d)" || !l.At.Equal(w.clock()) {
			w.Errorf("%+v", l)
		}
		w.do("POST", "/admin/v1/users/alice/disable", nil, nil, 200)
		if l := last(off); l.Reason != "user_disabled" || !strings.Contains(l.Text, "disabled") {
			w.Errorf("%+v", l)
		}
		// It had expired before the user was disabled: the first reason counts.
		if l := last(idle); l.Reason != "expired_idle" && l.Reason != "user_disabled" {
			w.Errorf("%+v", l)
		}
		w.do("POST", "/admin/v1/users/alice/enable", nil, nil, 200)
		w.do("POST", "/admin/v1/clients/long/revoke", nil, nil, 200)
		if l := last(off); l.Reason != "revoked_admin" || l.Text != "ended: an operator ended it" || !l.At.Equal(w.clock()) {
			w.Errorf("%+v", l)
		}
		if l := last(idle); l.Reason != "expired_idle" {
			w.Errorf("%+v", l)
		}
		if _, err := w.store.Sweep(w.Context(), 1000); err != nil {
			w.Fatal(err)
		}
		if l := last(off); l.Reason != "revoked_admin" || !strings.HasPrefix(l.Text, "ended: an operator ended it") {
			w.Errorf("after the sweep: %+v", l)
		}
	})
}

func TestAbsoluteEndIsTold(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "strict")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		for g := range uint32(30) {
			w.pass(day - time.Second)
			w.present(f, g+1, home)
		}
		w.pass(30 * time.Second)
		lines := w.familyLife(f).Lines
		if l := lines[len(lines)-1]; l.Reason != "expired_absolute" || l.Text != "ended: it reached the end of its life (absolute: 30d)" {
			w.Errorf("%+v", l)
		}
	})
}

func TestRecoveryIsToldAsAnAlert(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "strict")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		w.pass(time.Minute)
		w.present(f, 4, home)
		wantTold(w.T, told(w.familyLife(f).Lines[2:3]), `
12:01:00 ALERT g4 recovered | generation 4 was presented, newer than the store knew: generation 5 issued, the store has lost commits | 192.0.2.7 Firefox on Linux
`)
	})
}

func (w *world) userLife(name string) admin.UserLife {
	w.Helper()
	var life admin.UserLife
	w.do("GET", "/admin/v1/users/"+name+"/why", nil, &life, 200)
	return life
}

func TestWhyWasILoggedOut(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "strict")
		id := w.addUser("alice")
		if life := w.userLife("alice"); len(life.Ends) != 0 || !strings.Contains(life.Answer, "has never been signed in") {
			w.Errorf("%+v", life)
		}
		stolen, idle := w.issue(id, "app", w.signIn(id), true), w.issue(id, "app", w.signIn(id), true)
		if life := w.userLife("alice"); life.Answer != "alice has not been signed out" || life.LiveFamilies != 2 || life.LiveSessions != 2 {
			w.Errorf("%+v", life)
		}
		w.pass(time.Hour)
		w.present(stolen, 1, home)
		w.pass(time.Minute)
		w.present(stolen, 1, thief)
		w.pass(day)
		kept := w.issue(id, "app", w.signIn(id), true)
		life := w.userLife("alice")
		if life.LiveFamilies != 1 || life.LiveSessions != 3 || len(life.Ends) != 2 {
			w.Fatalf("%+v", life)
		}
		if e := life.Ends[0]; e.ID != idle.String() || e.Reason != "expired_idle" || e.What != "family" ||
			e.Text != "app was signed out: it was not used for longer than its policy allows (idle: 1d)" || e.Client != "app" || e.Level != "INFO" {
			w.Errorf("%+v", e)
		}
		if e := life.Ends[1]; e.ID != stolen.String() || e.Reason != "reuse" || e.Level != "ALERT" || e.IP != "203.0.113.66" || e.Device != "curl" ||
			!strings.Contains(e.Text, "generation 1 was presented again") {
			w.Errorf("%+v", e)
		}
		if want := "the last end was at 2026-11-24T12:00:00Z: app was signed out: it was not used"; !strings.HasPrefix(life.Answer, want) {
			w.Errorf("answer %q, want %q…", life.Answer, want)
		}

		w.pass(time.Hour)
		w.do("PUT", "/admin/v1/users/alice/password", map[string]string{"password": "another good one"}, nil, 200)
		life = w.userLife("alice")
		if life.LiveFamilies+life.LiveSessions != 0 {
			w.Errorf("%+v", life)
		}
		n := map[string]int{}
		for _, e := range life.Ends {
			if e.Reason == "revoked_password_change" {
				n[e.What]++
			}
		}
		if n["family"] != 1 || n["session"] != 3 || n["user"] != 1 {
			w.Errorf("ends by the password change: %v", n)
		}
		if !strings.Contains(life.Answer, "password was changed") {
			w.Errorf("answer %q", life.Answer)
		}
		w.wantEnded(kept, family.RevokedPasswordChange)

		w.do("POST", "/admin/v1/users/alice/disable", nil, nil, 200)
		if life = w.userLife("alice"); !strings.HasPrefix(life.Answer, "alice is disabled") {
			w.Errorf("answer %q", life.Answer)
		}
	})
}

func TestSweptEndsAreStillTold(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "strict")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		w.pass(time.Minute)
		w.do("POST", "/admin/v1/families/"+f.String()+"/revoke", nil, nil, 200)
		w.pass(31 * day)
		if _, err := w.store.Sweep(w.Context(), 1000); err != nil {
			w.Fatal(err)
		}
		w.do("GET", "/admin/v1/families/"+f.String(), nil, nil, 404)
		found := false
		for _, e := range w.userLife("alice").Ends {
			found = found || e.ID == f.String() && e.Reason == "revoked_admin"
		}
		if !found {
			w.Errorf("%+v", w.userLife("alice"))
		}
	})
}

func TestEveryReasonHasASentence(t *testing.T) {
	seen := map[string]family.Reason{}
	for _, r := range family.Reasons() {
		s := admin.Sentence(r)
		if s == "" || strings.HasSuffix(s, ".") {
			t.Errorf("%s: %q", r, s)
		}
		if other, ok := seen[s]; ok {
			t.Errorf("%s and %s share a sentence", r, other)
		}
		seen[s] = r
	}
	if len(seen) == 0 {
		t.Fatal("no reasons: have they moved?")
	}
	if s := admin.Sentence(0); s != "" {
		t.Errorf("no reason: %q", s)
	}
}
