package keys

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func testRules() rules {
	return rules{wait: day, roll: 90 * day, keepSign: 2 * day, keepMAC: 30 * day}
}

// rec is a record of the ES256 line.
func rec(id uint16, created, signs time.Time) Record {
	return Record{Use: UseSign, ID: id, Alg: ES256, Created: created, Signs: signs}
}

func TestLifeOfAKey(t *testing.T) {
	one := rec(1, t0, t0)
	two := rec(2, t0.Add(89*day), t0.Add(90*day))
	emergency := rec(3, t0.Add(89*day+time.Hour), t0.Add(89*day+time.Hour)) // while two is only published
	for _, c := range []struct {
		name string
		recs []Record
		id   uint16
		at   time.Duration // after t0
		want State
	}{
		{"the first signs at once", []Record{one}, 1, 0, Signing},
		{"the first signs for a node whose clock is behind", []Record{one}, 1, -time.Minute, Signing},
		{"alone it signs for ever", []Record{one}, 1, 9999 * day, Signing},
		{"a published successor changes nothing", []Record{one, two}, 1, 90*day - 1, Signing},
		{"published", []Record{one, two}, 2, 90*day - 1, Published},
		{"takes over", []Record{one, two}, 2, 90 * day, Signing},
		{"retired at the same moment", []Record{one, two}, 1, 90 * day, Retired},
		{"kept", []Record{one, two}, 1, 92*day + grace - 1, Retired},
		{"gone", []Record{one, two}, 1, 92*day + grace, Gone},
		{"an emergency key beats the signing one", []Record{one, two, emergency}, 1, 89*day + time.Hour, Retired},
		{"and signs", []Record{one, two, emergency}, 3, 89*day + time.Hour, Signing},
		{"and beats the published one, which never signs", []Record{one, two, emergency}, 2, 90 * day, Retired},
		{"still", []Record{one, two, emergency}, 3, 90 * day, Signing},
		{"order of records does not matter", []Record{emergency, two, one}, 3, 90 * day, Signing},
	} {
		for _, l := range testRules().lives(c.recs) {
			if got := l.state(t0.Add(c.at)); l.ID == c.id && got != c.want {
				t.Errorf("%s: key %d at %v is %s, want %s", c.name, c.id, c.at, got, c.want)
			}
		}
	}
}

func TestWhatIsKeptForEver(t *testing.T) {
	for _, c := range []struct {
		use     Use
		alg     Alg
		keepMAC time.Duration
		want    time.Duration // from retirement to the end; 0: never
	}{
		{UseSign, ES256, 0, 2*day + grace},
		{UseMAC, HS256, 30 * day, 30*day + grace},
		{UseMAC, HS256, 0, 0},
		{UseSeal, A256GCM, 30 * day, 0},
	} {
		p := testRules()
		p.keepMAC = c.keepMAC
		old := Record{Use: c.use, Alg: c.alg, ID: 1, Created: t0, Signs: t0}
		young := Record{Use: c.use, Alg: c.alg, ID: 2, Created: t0, Signs: t0.Add(day)}
		l := p.lives([]Record{old, young})[0]
		want := time.Time{}
		if c.want != 0 {
			want = t0.Add(day + c.want)
		}
		if !l.ends.Equal(want) {
			t.Errorf("%s with KeepMAC %v ends %v, want %v", c.use, c.keepMAC, l.ends, want)
		}
	}
}

func TestDue(t *testing.T) {
	p := testRules()
	births, deaths, err := p.due(nil, t0)
	if err != nil || len(deaths) != 0 {
		t.Fatalf("due at the first start: %v, drops %v", err, deaths)
	}
	var got []string
	for _, r := range births {
		got = append(got, fmt.Sprintf("%s/%d %s", r.Use, r.ID, r.Alg))
		if !r.Signs.Equal(t0) {
			t.Errorf("%s signs %v, want at once: there is no other", r.name(), r.Signs)
		}
	}
	want := []string{"mac/1 HS256", "seal/1 A256GCM", "index/1 HS256", "sign/1 ES256", "sign/2 RS256", "sign/3 PS256", "sign/4 EdDSA"}
	if !slices.Equal(got, want) {
		t.Fatalf("due at the first start: %v, want %v", got, want)
	}
	if more, _, _ := p.due(births, t0.Add(89*day-1)); len(more) != 0 {
		t.Errorf("due before its time: %v", more)
	}
	second, _, _ := p.due(births, t0.Add(89*day))
	if len(second) != 6 { // all but index
		t.Fatalf("due after 89 days: %v, want six keys", second)
	}
	for _, r := range second {
		if !r.Signs.Equal(t0.Add(90*day)) || r.Use == UseIndex {
			t.Errorf("%s signs %v, want after 90 days", r.name(), r.Signs)
		}
	}
	all := slices.Concat(births, second)
	if more, _, _ := p.due(all, t0.Add(100*day)); len(more) != 0 {
		t.Errorf("due twice: %v", more)
	}
	_, deaths, _ = p.due(all, t0.Add(92*day+grace))
	if len(deaths) != 4 || deaths[0].Use != UseSign {
		t.Errorf("gone after 92 days: %v, want the four signing keys", deaths)
	}
	p.roll = -1
	if more, _, _ := p.due(births, t0.Add(9999*day)); len(more) != 0 {
		t.Errorf("rolls though it never should: %v", more)
	}
}

func TestKeyIDsRunOut(t *testing.T) {
	p := testRules()
	births, _, _ := p.due(nil, t0)
	births = append(births, rec(65535, t0, t0))
	if _, _, err := p.due(births, t0.Add(91*day)); err == nil {
		t.Error("key 65535 got a successor: its id would be 0")
	}
}

// TestScheduleProperties runs histories of a store: time passes, nodes look at it, operators rotate, in an emergency or
// not, and drop. In every state: each line has one signing key; it never moves back; a key that signs has been published
// for the wait, unless it was the first of its line or an emergency; and whatever was made with a key, by a node that has
// last looked up to an hour ago, finds the key again until it has expired.
//
// Planted, and found at seed 0 each: a due key that does not wait; no grace, for signing or for MAC keys; ends counted
// from Signs; the key with the latest Signs signs instead of that with the highest id; Signs truncated like Created.
func TestScheduleProperties(t *testing.T) {
	type made struct {
		key slot
		at  time.Time
	}
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		p := testRules()
		p.roll = time.Duration(2+rnd.IntN(60)) * day
		p.keepSign = time.Duration(1+rnd.IntN(72)) * time.Hour
		var recs []Record
		born := map[slot]time.Time{} // to the nanosecond, unlike Created
		free := map[slot]bool{}      // first of its line, or an emergency: need not wait
		signing := map[line]uint16{}
		var living []made
		now := t0.Add(time.Duration(rnd.Int64N(int64(time.Second)))) // clocks do not stop at whole seconds
		rotations, drops := 0, 0
		for range 400 {
			switch rnd.IntN(4) {
			case 0:
				now = now.Add(time.Duration(rnd.Int64N(int64(time.Minute))))
			case 1:
				now = now.Add(time.Duration(rnd.Int64N(int64(5 * time.Hour))))
			case 2:
				now = now.Add(time.Duration(rnd.Int64N(int64(3 * day))))
			default: // about the next moment at which something changes: the edges are where mistakes are
				next := now.Add(9 * day)
				for _, l := range p.lives(recs) {
					for _, at := range []time.Time{l.Signs, l.retires, l.ends} {
						if at.After(now.Add(grace)) && at.Before(next) {
							next = at
						}
					}
				}
				now = next.Add(time.Duration(rnd.Int64N(int64(2*grace))) - grace)
			}
			births, deaths, err := p.due(recs, now)
			if err != nil {
				t.Fatalf("seed %d: due: %v", seed, err)
			}
			for _, b := range births {
				born[slot{b.Use, b.ID}] = now
				free[slot{b.Use, b.ID}] = !slices.ContainsFunc(recs, func(r Record) bool { return r.line() == b.line() })
			}
			recs = append(recs, births...)
			for _, d := range deaths {
				recs = slices.DeleteFunc(recs, func(r Record) bool { return r.Use == d.Use && r.ID == d.ID })
				drops++
			}
			rotations += len(births)
			if rnd.IntN(10) == 0 {
				ln := []line{{UseMAC, HS256}, {UseSign, ES256}, {UseSign, RS256}}[rnd.IntN(3)]
				signs, urgent := now.Add(p.wait), rnd.IntN(2) == 0
				if urgent {
					signs = now
				}
				r, err := next(recs, ln, now, signs)
				if err != nil {
					t.Fatalf("seed %d: next: %v", seed, err)
				}
				born[slot{r.Use, r.ID}], free[slot{r.Use, r.ID}] = now, urgent
				recs = append(recs, r)
			}
			if all := p.lives(recs); rnd.IntN(20) == 0 { // what Drop allows
				l := all[rnd.IntN(len(all))]
				if (l.Use == UseSign || l.Use == UseMAC) && l.state(now) != Signing {
					recs = slices.DeleteFunc(recs, func(r Record) bool { return r.Use == l.Use && r.ID == l.ID })
					living = slices.DeleteFunc(living, func(m made) bool { return m.key == slot{l.Use, l.ID} })
				}
			}
			rnd.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })

			count := map[line]int{}
			state := map[slot]State{}
			for _, l := range p.lives(recs) {
				at := slot{l.Use, l.ID}
				state[at] = l.state(now)
				// A node that last looked some time ago makes something with the key that it believes to sign.
				if seen := now.Add(-time.Duration(rnd.Int64N(int64(grace)))); l.state(seen) == Signing && !l.Created.After(seen) {
					living = append(living, made{at, now})
				}
				if state[at] != Signing {
					continue
				}
				count[l.line()]++
				if l.ID < signing[l.line()] {
					t.Fatalf("seed %d: %s signs again after %d", seed, l.name(), signing[l.line()])
				}
				signing[l.line()] = l.ID
				if age := now.Sub(born[at]); age < p.wait && !free[at] {
					t.Fatalf("seed %d: %s signs after %v, want %v", seed, l.name(), age, p.wait)
				}
				if wait := l.Signs.Sub(born[at]); wait < p.wait && !free[at] {
					t.Fatalf("seed %d: %s is to sign after %v, want %v", seed, l.name(), wait, p.wait)
				}
			}
			for _, ln := range lines() {
				if count[ln] != 1 {
					t.Fatalf("seed %d: %d keys of %v sign at %v, want one: %+v", seed, count[ln], ln, now, p.lives(recs))
				}
			}
			living = slices.DeleteFunc(living, func(m made) bool {
				switch m.key.use {
				case UseSign:
					return now.After(m.at.Add(p.keepSign))
				case UseMAC:
					return now.After(m.at.Add(p.keepMAC))
				}
				return false
			})
			for _, m := range living {
				if s := state[m.key]; s != Signing && s != Retired {
					t.Fatalf("seed %d: %v is %q at %v, but made something at %v that is still alive", seed, m.key, s, now, m.at)
				}
			}
		}
		if rotations < 10 || drops == 0 || len(living) == 0 {
			t.Fatalf("seed %d: %d rotations, %d drops, %d living: nothing was tested", seed, rotations, drops, len(living))
		}
	}
}
