package family_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"pgregory.net/rapid"
)

func TestIDHasOneSpelling(t *testing.T) {
	id := family.ID{0xde, 0xad, 0xbe, 0xef, 15: 0x01}
	const text = "deadbeef000000000000000000000001"
	if id.String() != text {
		t.Errorf("String() = %s, want %s", id, text)
	}
	if got, err := family.ParseID(text); err != nil || got != id {
		t.Errorf("ParseID(%s) = %v, %v", text, got, err)
	}
	for in, want := range map[string]string{
		"":                       "family id has 0 characters: want 32 hexadecimal digits",
		text[1:]:                 "family id has 31 characters: want 32 hexadecimal digits",
		text + "0":               "family id has 33 characters: want 32 hexadecimal digits",
		strings.ToUpper(text):    `family id has 'D' at place 1: want lower-case hexadecimal digits`,
		text[:31] + "g":          `family id has 'g' at place 32: want lower-case hexadecimal digits`,
		text[:30] + " 1":         `family id has ' ' at place 31: want lower-case hexadecimal digits`,
		"0x" + text[:30]:         `family id has 'x' at place 2: want lower-case hexadecimal digits`,
		"deadbeef-0000-0000-000": "family id has 22 characters: want 32 hexadecimal digits",
	} {
		if got, err := family.ParseID(in); err == nil || err.Error() != want || got != (family.ID{}) {
			t.Errorf("ParseID(%q) = %v, %v\nwant %s", in, got, err, want)
		}
	}
	type row struct{ Family family.ID }
	b, err := json.Marshal(row{id})
	if err != nil || string(b) != `{"Family":"`+text+`"}` {
		t.Errorf("Marshal: %s, %v", b, err)
	}
	var back row
	if err := json.Unmarshal(b, &back); err != nil || back.Family != id {
		t.Errorf("Unmarshal: %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"Family":"x"}`), &back); err == nil {
		t.Error("Unmarshal of x: no error")
	}
}

func TestTimeIsInMilliseconds(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 999_999_999, time.FixedZone("", 3600))
	if got := family.At(at).Std(); !got.Equal(at.Truncate(time.Millisecond)) || got.Location() != time.UTC {
		t.Errorf("At(%v).Std() = %v: want it rounded down, in UTC", at, got)
	}
	if family.At(time.Time{}) != 0 || !family.Time(0).Std().IsZero() {
		t.Error("the zero time.Time is not 0 and back")
	}
	const last = family.Time(math.MaxInt64)
	for _, c := range []struct {
		t    family.Time
		d    time.Duration
		want family.Time
	}{
		{1000, time.Second, 2000}, {1000, -time.Second, 0}, {1000, time.Microsecond, 1000},
		{last, time.Second, last}, {last - 1, time.Millisecond, last}, {last - 999, time.Second, last}, {1000, math.MaxInt64, 1000 + 9_223_372_036_854},
	} {
		if got := c.t.Add(c.d); got != c.want {
			t.Errorf("%d.Add(%v) = %d, want %d", c.t, c.d, got, c.want)
		}
	}
	const most = 9_223_372_036_854 * time.Millisecond
	for _, c := range []struct {
		t, u family.Time
		want time.Duration
	}{
		{2000, 1000, time.Second}, {1000, 2000, -time.Second}, {5, 5, 0}, {last, 0, most}, {0, last, -most},
		{last, -last, most}, {-last, last, -most}, {math.MinInt64, last, -most}, {last, math.MinInt64, most},
	} {
		if got := c.t.Sub(c.u); got != c.want {
			t.Errorf("%d.Sub(%d) = %v, want %v", c.t, c.u, got, c.want)
		}
	}
}

// TestLeftIsWhatIsLeft: what the client is told is exactly how long its token works.
func TestLeftIsWhatIsLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := family.Time(1_700_000_000_000)
		p := drawPolicy(t)
		var until family.Time
		if rapid.Bool().Draw(t, "session bound") {
			until = now.Add(90 * time.Minute)
		}
		s := family.New(family.ID{1}, p, now, &family.Grant{}, 1, until, family.Origin{})
		for range rapid.IntRange(0, 3).Draw(t, "uses") {
			s, _ = family.Present(s, p, now, family.Token{Generation: s.Head}, family.Proof{Possession: true})
			now += family.Time(rapid.IntRange(0, 100_000).Draw(t, "ms"))
		}
		if rapid.Bool().Draw(t, "other policy") {
			p = drawPolicy(t)
		}
		refresh, authorization := s.Left(p, now)
		if _, ended := s.Ended(p, now); ended {
			if refresh != 0 {
				t.Fatalf("ended, and %v are left", refresh)
			}
			return
		}
		works := func(after time.Duration) bool {
			_, v := family.Present(s, p, now.Add(after), family.Token{Generation: s.Head}, family.Proof{Possession: true})
			return v.Accepted()
		}
		switch {
		case refresh < 0 && !works(100*365*24*time.Hour):
			t.Fatal("for ever was promised")
		case refresh > 0 && !works(refresh-time.Millisecond):
			t.Fatalf("ends before the %v that were promised", refresh)
		case refresh >= 0 && works(refresh):
			t.Fatalf("lives longer than the %v that were promised", refresh)
		case authorization >= 0 && works(authorization):
			t.Fatalf("the authorization lives longer than the %v that were promised", authorization)
		}
	})
}

// TestStatesOfNoStatusAreDead: a row that was never filled in is not a living family.
func TestStatesOfNoStatusAreDead(t *testing.T) {
	for _, name := range family.Presets() {
		p, _ := family.Preset(name)
		for g := range uint32(3) {
			next, v := family.Present(family.State{}, p, 1, family.Token{Generation: g}, family.Proof{Possession: true})
			if v.Act != family.Refuse || next != (family.State{}) {
				t.Errorf("%s, g%d: %v, %+v", name, g, v, next)
			}
		}
	}
	var zero family.Verdict
	if zero.Accepted() {
		t.Error("the zero Verdict is accepted")
	}
	for act, want := range map[family.Act]bool{
		family.Rotate: true, family.Repeat: true, family.Recover: true, family.Reuse: false, family.Refuse: false, family.Refuse + 1: false,
	} {
		if got := (family.Verdict{Act: act}).Accepted(); got != want {
			t.Errorf("act %d: accepted %v", act, got)
		}
	}
	var none family.Policy
	if none.Check(family.Kind{Confidential: true}) == nil {
		t.Error("the zero Policy passes its check")
	}
}

// TestRevokeKeepsTheFirstReason is I7.
func TestRevokeKeepsTheFirstReason(t *testing.T) {
	p, _ := family.Preset("web")
	s := family.New(family.ID{1}, p, 1000, &family.Grant{Scope: "a b"}, 1, 0, family.Origin{})
	for _, why := range family.Reasons() {
		dead := s.Revoke(2000, why, family.Origin{UserAgent: "console"})
		if dead.Status != family.Revoked || dead.Reason != why || dead.Head != s.Head || dead.Grant != s.Grant {
			t.Errorf("%v: %+v", why, dead)
		}
		h := dead.History()
		if last := h[len(h)-1]; last.Reason != why || last.At != 2000 || last.Origin.UserAgent != "console" {
			t.Errorf("%v: the trail ends with %+v", why, last)
		}
		if again := dead.Revoke(3000, family.Evicted, family.Origin{}); again != dead {
			t.Errorf("%v: revoked again: %+v", why, again)
		}
		if narrowed := dead.Narrow("a"); narrowed != dead {
			t.Errorf("%v: narrowed: %+v", why, narrowed)
		}
		if got, ended := dead.Ended(p, math.MaxInt64); got != why || !ended {
			t.Errorf("%v: ended with %v, %v", why, got, ended)
		}
	}
	if s.Status != family.Live {
		t.Error("Revoke changed its receiver")
	}
}

// TestNarrowMakesANewGrant: others may hold the old one.
func TestNarrowMakesANewGrant(t *testing.T) {
	p, _ := family.Preset("web")
	g := &family.Grant{Client: "app", Scope: "a b", Resources: []string{"https://api.example"}}
	s := family.New(family.ID{1}, p, 1000, g, 1, 0, family.Origin{})
	n := s.Narrow("b c")
	if n.Grant.Scope != "b" || g.Scope != "a b" || s.Grant != g || n.Grant.Client != "app" {
		t.Errorf("narrowed to %+v, the old grant is %+v", n.Grant, g)
	}
	if n.Narrow("b c") != n || n.Narrow("a b") != n {
		t.Error("narrowing to what is left is a change")
	}
}

// TestEventForKnowsTheFamily fills what an event takes from the family.
func TestEventForKnowsTheFamily(t *testing.T) {
	s := family.State{ID: family.ID{1}, Grant: &family.Grant{Client: "app", User: "ada", Session: [16]byte{2}}}
	from := family.Origin{UserAgent: "x"}
	got := s.EventFor(family.FamilyRevoked, family.Reused, family.Token{Generation: 7}, from)
	want := family.Event{
		Kind: "family_revoked", Reason: family.Reused, Family: family.ID{1}, Generation: 7,
		Client: "app", User: "ada", Session: [16]byte{2}, Origin: from,
	}
	if got != want {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if family.Alert.String() != "ALERT" || family.Info.String() != "INFO" || family.Level(0).String() != "INFO" {
		t.Error("levels have other words")
	}
}
