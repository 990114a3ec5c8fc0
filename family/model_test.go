package family_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"pgregory.net/rapid"
)

// TestMain makes random tests draw 10,000 lives instead of rapid's 100, unless the
// command line says otherwise: with 100 a rare excuse may not come up.
func TestMain(m *testing.M) {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "rapid.checks" })
	if !said {
		if err := flag.Set("rapid.checks", "10000"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// diary is the reference model: a family as the plain list of everything that was
// accepted or done. It knows no head, no floor, no window and no deadline field; each
// question is answered by reading the list from its beginning.
type diary struct {
	until family.Time
	lines []line
}

type line struct {
	kind      string // "issue", "rotate", "touch", "dead"
	at        family.Time
	g         uint32 // rotate: the generation that was presented
	lost      bool   // rotate: it was newer than the list knew
	mac       uint16 // rotate: the key its successor was made with
	key       family.RetryHash
	presenter family.Presenter
	policy    family.Policy // of that moment
	why       family.Reason
}

// newest is the newest generation that was handed out.
func (d diary) newest() (g uint32) {
	for _, l := range d.lines {
		if l.kind == "rotate" {
			g = l.g + 1
		}
	}
	return g
}

// maker is the line that handed out the newest generation.
func (d diary) maker() (m line) {
	for _, l := range d.lines {
		if l.kind == "rotate" {
			m = l
		}
	}
	return m
}

// lastUse is the latest moment at which the family was used.
func (d diary) lastUse() (at family.Time) {
	for _, l := range d.lines {
		if l.kind != "dead" {
			at = max(at, l.at)
		}
	}
	return at
}

// burst is the list of generations that were retired since the current burst began,
// and when it began.
func (d diary) burst() (retired []uint32, began family.Time) {
	for _, l := range d.lines {
		if l.kind == "touch" {
			retired, began = nil, 0 // used without retiring anything: no burst goes on
		}
		if l.kind != "rotate" {
			continue
		}
		leeway := l.policy.Leeway
		over := len(retired) == 0 || leeway == 0 || l.at >= began+family.Time(leeway.Milliseconds())
		switch {
		case l.g == 0:
			retired = nil
		case l.lost || over:
			retired, began = []uint32{l.g}, l.at
		default:
			retired = append(retired, l.g)
		}
	}
	return retired, began
}

// forgiven says whether the newest retired generation was retired less than leeway ago:
// by the clock, or when it was set back, by the latest moment that anybody has seen.
func (d diary) forgiven(leeway time.Duration, now family.Time) bool {
	last := len(d.lines) - 1
	for last >= 0 && d.lines[last].kind == "dead" {
		last--
	}
	if last < 0 || d.lines[last].kind != "rotate" {
		return false // the family was used since in a way that retired nothing
	}
	since := now - d.lastUse()
	return since >= 0 && since < family.Time(leeway.Milliseconds())
}

// refuses says why a token is not looked at, or 0: of a token that is newer than the
// list, the list does not know when it was used last.
func (d diary) refuses(p family.Policy, now family.Time, g uint32) family.Reason {
	if g <= d.newest() {
		return d.over(p, now)
	}
	end := d.until
	for _, l := range d.lines {
		if l.kind == "dead" {
			return l.why
		}
		if l.kind == "issue" {
			for _, abs := range []time.Duration{l.policy.Absolute, p.Absolute} {
				if at := l.at + family.Time(abs.Milliseconds()); abs > 0 && (end == 0 || at < end) {
					end = at
				}
			}
		}
	}
	if end != 0 && now >= end {
		return family.ExpiredAbsolute
	}
	return 0
}

// over says why nothing is accepted any more, or 0.
func (d diary) over(p family.Policy, now family.Time) family.Reason {
	var ends, idles []family.Time // every promise and rule that bounds the family
	var announced family.Time
	for i, l := range d.lines {
		ms := func(d time.Duration) family.Time { return family.Time(d.Milliseconds()) }
		switch l.kind {
		case "dead":
			return l.why
		case "issue":
			announced = l.at + ms(l.policy.CodeTTL)
			for _, abs := range []time.Duration{l.policy.Absolute, p.Absolute} {
				if abs > 0 {
					ends = append(ends, l.at+ms(abs))
				}
			}
		case "rotate", "touch":
			announced = 0
			if l.policy.Idle > 0 {
				announced = diary{lines: d.lines[:i+1]}.lastUse() + ms(l.policy.Idle)
			}
		}
	}
	if d.until != 0 {
		ends = append(ends, d.until)
	}
	if announced != 0 {
		idles = append(idles, announced)
	}
	if d.newest() == 0 {
		idles = append(idles, d.lines[0].at+family.Time(p.CodeTTL.Milliseconds()))
	} else if p.Idle > 0 {
		idles = append(idles, d.lastUse()+family.Time(p.Idle.Milliseconds()))
	}
	// The reason is that of the bound that was passed first; the absolute one when
	// both are the same moment.
	switch {
	case len(ends) > 0 && now >= slices.Min(ends) && (len(idles) == 0 || slices.Min(ends) <= slices.Min(idles)):
		return family.ExpiredAbsolute
	case len(idles) > 0 && now >= slices.Min(idles):
		return family.ExpiredIdle
	}
	return 0
}

// present says what becomes of a token and writes it down.
func (d diary) present(p family.Policy, now family.Time, g uint32, pr family.Proof) (diary, family.Verdict) {
	if why := d.refuses(p, now, g); why != 0 {
		return d, family.Verdict{Act: family.Refuse, Reason: why}
	}
	if g != 0 && p.Rotation == family.Never && !pr.Possession {
		return d, family.Verdict{Act: family.Refuse, Reason: family.BindingMismatch}
	}
	write := func(l line) diary {
		l.at, l.policy = now, p
		return diary{d.until, append(slices.Clip(d.lines), l)}
	}
	rotated := line{kind: "rotate", g: g, mac: pr.Key, key: pr.Retry, presenter: pr.Presenter}
	newest, maker := d.newest(), d.maker()
	if g > newest {
		rotated.lost = true
		return write(rotated), family.Verdict{Act: family.Recover, Reason: family.Recovered}
	}
	if g == newest {
		if p.Rotation == family.Never && g != 0 {
			if now-d.lastUse() >= coarse(p) {
				d = write(line{kind: "touch"})
			}
			return d, family.Verdict{Act: family.Repeat, Reason: family.RepeatedPossession}
		}
		return write(rotated), family.Verdict{Act: family.Rotate, Reason: family.Rotated}
	}
	// What was retired needs an excuse; the first one in the design's order is named.
	parent := maker.g == g && g+1 == newest
	familiar := maker.presenter == pr.Presenter || !p.SamePresenter
	retired, began := d.burst()
	excuses := []struct {
		holds bool
		why   family.Reason
	}{
		{parent && pr.Retry != family.RetryHash{} && pr.Retry == maker.key, family.RepeatedRetry},
		{g != 0 && pr.Possession && (p.Rotation == family.Never || p.Leeway > 0 || p.UntilUsed), family.RepeatedPossession},
		{slices.Contains(retired, g) && p.Leeway > 0 && now < began+family.Time(p.Leeway.Milliseconds()) && familiar, family.RepeatedWindow},
		{parent && g != 0 && d.forgiven(p.Leeway, now) && familiar, family.RepeatedWindow},
		{parent && g != 0 && p.UntilUsed && familiar, family.RepeatedUntilUsed},
	}
	for _, e := range excuses {
		if e.holds {
			return d, family.Verdict{Act: family.Repeat, Reason: e.why}
		}
	}
	if p.OnReuse == family.RejectReuse && g != 0 {
		return d, family.Verdict{Act: family.Refuse, Reason: family.Superseded}
	}
	return write(line{kind: "dead", why: family.Reused}), family.Verdict{Act: family.Reuse, Reason: family.Reused}
}

// coarse is the step in which the last use of a token that does not rotate moves.
func coarse(p family.Policy) family.Time {
	step := p.Idle / 100
	if step < time.Minute {
		step = time.Minute
	}
	if p.Idle > 0 && step > p.Idle/10 {
		step = p.Idle / 10
	}
	// A duration below a millisecond is reached by the next whole one.
	return family.Time((step + time.Millisecond - 1) / time.Millisecond)
}

// policies are what random families live under: the presets, and each switch alone.
var policies = []struct {
	preset string
	set    map[string]string
}{
	{"strict", nil},
	{"web", nil},
	{"browser", nil},
	{"native", nil},
	{"fapi", nil},
	{"web", map[string]string{"leeway": "10s"}},
	{"native", map[string]string{"leeway": "0s"}},
	{"native", map[string]string{"same_presenter": "true", "leeway": "5s"}},
	{"web", map[string]string{"on_reuse": "reject"}},
	{"strict", map[string]string{"on_reuse": "reject"}},
	{"strict", map[string]string{"on_reuse": "revoke_user"}},
	{"web", map[string]string{"idle": "0", "absolute": "0"}},
	{"web", map[string]string{"idle": "1m", "absolute": "5m"}},
	{"fapi", map[string]string{"idle": "1m", "absolute": "1h"}},
	{"browser", map[string]string{"idle": "1h", "absolute": "0", "code_ttl": "10m"}},
}

func drawPolicy(t *rapid.T) family.Policy {
	c := policies[rapid.IntRange(0, len(policies)-1).Draw(t, "policy")]
	p, err := family.PolicyOf(c.preset, c.set)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var steps = []time.Duration{
	0, time.Millisecond, time.Second, 5*time.Second - time.Millisecond, 5 * time.Second, 10*time.Second - time.Millisecond,
	10 * time.Second, 10*time.Second + time.Millisecond, 20 * time.Second, 30*time.Second - time.Millisecond, 30 * time.Second,
	time.Minute - time.Millisecond, time.Minute, time.Hour, 24*time.Hour - time.Millisecond, 24 * time.Hour, 10 * 24 * time.Hour,
	-time.Millisecond, -time.Second, -time.Minute, -time.Hour,
}

var scopes = []string{"openid", "mail", "photos", "offline_access"}

func drawProof(t *rapid.T) family.Proof {
	return family.Proof{
		Possession: rapid.IntRange(0, 3).Draw(t, "possession") == 0,
		Retry:      family.RetryHash{byte(rapid.IntRange(0, 2).Draw(t, "key"))}, // 0: none
		Presenter:  family.Presenter{byte(rapid.IntRange(0, 2).Draw(t, "presenter"))},
		Origin:     family.Origin{UserAgent: rapid.SampledFrom([]string{"", "firefox", "curl"}).Draw(t, "agent")},
		Key:        uint16(rapid.IntRange(1, 2).Draw(t, "mac key")),
	}
}

// moment is a state with its diary, as a backup would have them.
type moment struct {
	state family.State
	diary diary
}

// TestPresentAgreesWithTheModel runs random lives of families against the diary, and
// after each step checks what the design promises whatever the rules are: I1–I5 and
// I7 of DESIGN §2, INV1–INV4, INV6 and INV7 of the matrix as far as the core decides them.
func TestPresentAgreesWithTheModel(t *testing.T) {
	seen := map[family.Verdict]int{}
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		now := family.At(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
		var until family.Time
		if rapid.IntRange(0, 4).Draw(t, "session bound") == 0 {
			until = now.Add(8 * time.Hour)
		}
		grant := &family.Grant{Client: "app", User: "ada", Scope: family.ScopeOf(scopes...)}
		s := family.New(family.ID{7}, p, now, grant, 9, until, family.Origin{})
		d := diary{until, []line{{kind: "issue", at: now, policy: p}}}
		backups := []moment{{s, d}}
		if rapid.IntRange(0, 9).Draw(t, "exchange the code") > 0 {
			var v family.Verdict
			proof := drawProof(t)
			s, v = family.Present(s, p, now, family.Token{Family: s.ID}, proof)
			d, _ = d.present(p, now, 0, proof)
			if v.Act != family.Rotate {
				t.Fatalf("code: got %v", v)
			}
		}
		for range rapid.IntRange(10, 60).Draw(t, "steps") {
			before, ended := s, s.Status != family.Live
			switch rapid.SampledFrom([]string{
				"present", "present", "present", "present", "present", "refresh", "refresh", "refresh",
				"clock", "clock", "clock", "policy", "revoke", "narrow", "backup", "restore",
			}).Draw(t, "step") {
			case "present":
				// Mostly what is near the head, where the rules differ.
				back := rapid.SampledFrom([]int{0, 1, 1, 1, 2, 2, 3, 5, -1, -3, 1000}).Draw(t, "generations back")
				g := uint32(max(0, int(s.Head)-back))
				proof := drawProof(t)
				next, v := family.Present(s, p, now, family.Token{Family: s.ID, Generation: g}, proof)
				nd, want := d.present(p, now, g, proof)
				if v != want {
					t.Fatalf("present g%d of head g%d at %v under %+v with %+v:\n got %v\nwant %v", g, s.Head, now, p, proof, v, want)
				}
				checkStep(t, s, next, p, now, g, v)
				seen[v]++
				s, d = next, nd
			case "refresh":
				proof := drawProof(t)
				next, v := family.Present(s, p, now, family.Token{Family: s.ID, Generation: s.Head}, proof)
				nd, want := d.present(p, now, s.Head, proof)
				if v != want {
					t.Fatalf("refresh g%d at %v under %+v:\n got %v\nwant %v", s.Head, now, p, v, want)
				}
				checkStep(t, s, next, p, now, s.Head, v)
				seen[v]++
				s, d = next, nd
			case "clock":
				now = now.Add(rapid.SampledFrom(steps).Draw(t, "clock"))
			case "policy":
				p = drawPolicy(t)
			case "revoke":
				if rapid.IntRange(0, 4).Draw(t, "really") == 0 {
					why := rapid.SampledFrom([]family.Reason{family.RevokedUser, family.RevokedLogout, family.Evicted}).Draw(t, "why")
					s = s.Revoke(now, why, family.Origin{})
					if !ended {
						d = diary{d.until, append(slices.Clip(d.lines), line{kind: "dead", why: why})}
					}
				}
			case "narrow":
				keep := family.ScopeOf(rapid.SliceOfDistinct(rapid.SampledFrom(append(scopes, "admin")), rapid.ID[string]).Draw(t, "keep")...)
				s = s.Narrow(keep)
				if !s.Grant.Scope.Within(before.Grant.Scope) || !ended && !s.Grant.Scope.Within(keep) {
					t.Fatalf("I5: narrowed %q by %q to %q", before.Grant.Scope, keep, s.Grant.Scope)
				}
			case "backup":
				backups = append(backups, moment{s, d})
			case "restore":
				b := rapid.SampledFrom(backups).Draw(t, "backup")
				s, d = b.state, b.diary
				continue // what was promised since is lost
			}
			if ended && (s != before) {
				t.Fatalf("I2, I7: a dead family changed\n got %+v\nwant %+v", s, before)
			}
			mac := uint16(9) // the code's
			if d.newest() > 0 {
				mac = d.maker().mac
			}
			if s.Head != d.newest() || s.LastUsed != d.lastUse() || s.HeadKey != mac {
				t.Fatalf("head g%d of key %d, last use %v; the model has g%d of key %d, %v", s.Head, s.HeadKey, s.LastUsed, d.newest(), mac, d.lastUse())
			}
			if why, over := s.Ended(p, now); over != (d.over(p, now) != 0) || why != d.over(p, now) {
				t.Fatalf("ended %v (%v) at %v under %+v; the model has %v", over, why, now, p, d.over(p, now))
			}
			checkFamily(t, s, p, now)
		}
	})
	// A test that found nothing to test fails: every act and excuse must have come up.
	for _, v := range []family.Verdict{
		{Act: family.Rotate, Reason: family.Rotated},
		{Act: family.Repeat, Reason: family.RepeatedRetry},
		{Act: family.Repeat, Reason: family.RepeatedPossession},
		{Act: family.Repeat, Reason: family.RepeatedWindow},
		{Act: family.Repeat, Reason: family.RepeatedUntilUsed},
		{Act: family.Recover, Reason: family.Recovered},
		{Act: family.Reuse, Reason: family.Reused},
		{Act: family.Refuse, Reason: family.Superseded},
		{Act: family.Refuse, Reason: family.Reused},
		{Act: family.Refuse, Reason: family.ExpiredIdle},
		{Act: family.Refuse, Reason: family.ExpiredAbsolute},
		{Act: family.Refuse, Reason: family.RevokedUser},
		{Act: family.Refuse, Reason: family.BindingMismatch},
	} {
		if seen[v] == 0 && !t.Failed() {
			t.Errorf("never came up: %v (seen %v)", v, seen)
		}
	}
}

// checkStep checks one verdict against what holds under any rules.
func checkStep(t *rapid.T, s, next family.State, p family.Policy, now family.Time, g uint32, v family.Verdict) {
	end, _ := s.Deadline(p)
	if v.Act == family.Recover {
		end = s.Ends // the idle end is of before the loss
		if abs := s.IssuedAt.Add(p.Absolute); p.Absolute > 0 && (end == 0 || abs < end) {
			end = abs
		}
	}
	switch {
	case v.Accepted() && s.Status != family.Live:
		t.Fatalf("I2: accepted %v by a dead family", v)
	case v.Accepted() && end != 0 && now >= end:
		t.Fatalf("I3: accepted %v at %v, ended at %v", v, now, end)
	case v.Act == family.Refuse && next != s:
		t.Fatalf("I4: refused (%v) and changed\n got %+v\nwant %+v", v, next, s)
	case v.Act == family.Repeat && p.Rotation == family.Always && next != s:
		t.Fatalf("I4: repeated (%v) and changed\n got %+v\nwant %+v", v, next, s)
	case v.Act == family.Reuse && (next.Status != family.Revoked || next.Reason != family.Reused):
		t.Fatalf("I2: reuse left status %v, reason %v", next.Status, next.Reason)
	case (v.Act == family.Rotate || v.Act == family.Recover) && next.Head != g+1:
		t.Fatalf("I1: accepted g%d, head is g%d", g, next.Head)
	case next.Head < s.Head:
		t.Fatalf("I1: head went from g%d to g%d", s.Head, next.Head)
	case next.Ends != s.Ends || next.IssuedAt != s.IssuedAt || next.ID != s.ID || next.Grant != s.Grant || next.Version != s.Version:
		t.Fatalf("what never moves moved\n got %+v\nwant %+v", next, s)
	case next.LastUsed < s.LastUsed:
		t.Fatalf("last use went back from %v to %v", s.LastUsed, next.LastUsed)
	case !v.Reason.Valid():
		t.Fatalf("I7: no reason: %v", v)
	}
	if v.Accepted() {
		refresh, authorization := next.Left(p, now)
		if authorization >= 0 && (refresh < 0 || refresh > authorization) {
			t.Fatalf("RTX-03: refresh token lives %v, authorization %v", refresh, authorization)
		}
	}
}

// checkFamily checks a state against what always holds.
func checkFamily(t *rapid.T, s family.State, p family.Policy, now family.Time) {
	if (s.Status == family.Live) != (s.Reason == 0) {
		t.Fatalf("I7: status %v with reason %v", s.Status, s.Reason)
	}
	if s.Floor > s.Head {
		t.Fatalf("floor g%d above head g%d", s.Floor, s.Head)
	}
	if s.Head > 2000 {
		return // recovered far ahead: asking each generation would only take long
	}
	// I1: of all generations that exist at most one is a live head, and it is the newest.
	heads := 0
	for g := range s.Head + 1 {
		_, v := family.Present(s, p, now, family.Token{Family: s.ID, Generation: g}, family.Proof{
			Presenter: family.Presenter{99}, Possession: p.Rotation == family.Never,
		})
		if v.Act == family.Rotate || v.Act == family.Repeat && p.Rotation == family.Never && g == s.Head {
			heads++
			if g != s.Head {
				t.Fatalf("I1: g%d is a live head beside g%d", g, s.Head)
			}
		}
		if v.Act == family.Recover {
			t.Fatalf("I1: g%d of head g%d recovers", g, s.Head)
		}
	}
	if _, ended := s.Ended(p, now); (heads == 1) == ended {
		t.Fatalf("I1: %d live heads, ended %v", heads, ended)
	}
}

// TestStrictForgivesOnlyAProvenRetry is RFC 9700 §4.14.2 to the letter, for every
// request that is not the holder of the retry key: after a rotation the old token ends
// the family, at any moment.
func TestStrictForgivesOnlyAProvenRetry(t *testing.T) {
	strict, _ := family.Preset("strict")
	rapid.Check(t, func(t *rapid.T) {
		s := family.New(family.ID{1}, strict, 1_000_000, &family.Grant{}, 1, 0, family.Origin{})
		now := family.Time(1_000_000)
		n := rapid.IntRange(2, 10).Draw(t, "rotations")
		for range n {
			proof := drawProof(t)
			s, _ = family.Present(s, strict, now, family.Token{Generation: s.Head}, proof)
			now = max(now+family.Time(rapid.IntRange(-5000, 3_600_000).Draw(t, "ms")), 1)
		}
		g := uint32(rapid.IntRange(0, n-1).Draw(t, "old"))
		proof := drawProof(t)
		proof.Retry = family.RetryHash{200}
		dead, v := family.Present(s, strict, now, family.Token{Generation: g}, proof)
		if v.Act != family.Reuse {
			t.Fatalf("g%d of head g%d: got %v, want reuse", g, s.Head, v)
		}
		for g := range s.Head + 3 {
			if _, v := family.Present(dead, strict, now, family.Token{Generation: g}, drawProof(t)); v.Act != family.Refuse {
				t.Fatalf("g%d of the dead family: got %v", g, v)
			}
		}
	})
}

// TestThiefDoesNotStay plays a thief with a copy of one token and the owner, each
// using whatever it has newest, at random moments, under strict with the owner's
// retry key. Whoever moves first, after the owner's next refresh nobody but the owner
// is ever served, and once both have used the stolen generation the family is dead.
func TestThiefDoesNotStay(t *testing.T) {
	strict, _ := family.Preset("strict")
	first := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		now := family.Time(1_000_000)
		s := family.New(family.ID{1}, strict, now, &family.Grant{}, 1, 0, family.Origin{})
		key := byte(0)
		use := func(g uint32, k byte) family.Verdict {
			now += 1000
			var v family.Verdict
			s, v = family.Present(s, strict, now, family.Token{Generation: g}, family.Proof{Retry: family.RetryHash{k}})
			return v
		}
		for range rapid.IntRange(1, 5).Draw(t, "before") {
			key++
			use(s.Head, key)
		}
		owner, thief := s.Head, s.Head // the copy
		stolen, moved := s.Head, ""
		for range 12 {
			who := rapid.SampledFrom([]string{"owner", "thief"}).Draw(t, "who")
			if moved == "" {
				first[who]++
			}
			var v family.Verdict
			if who == "owner" {
				key++
				if v = use(owner, key); v.Accepted() {
					owner = s.Head
				}
			} else if v = use(thief, 0); v.Accepted() {
				thief = s.Head
			}
			if moved != "" && moved != who && s.Status == family.Live {
				t.Fatalf("both used g%d (%s first): %v, the family lives", stolen, moved, v)
			}
			if moved == "" {
				moved = who
			}
		}
	})
	if first["owner"] == 0 || first["thief"] == 0 {
		t.Errorf("who moved first: %v: want both", first)
	}
}

// ExamplePresent is the life of a stolen token.
func ExamplePresent() {
	p, _ := family.Preset("strict")
	now := family.Time(1_800_000_000_000)
	s := family.New(family.ID{1}, p, now, &family.Grant{Client: "app", User: "ada"}, 1, 0, family.Origin{})
	for _, g := range []uint32{0, 1, 1, 2} {
		now = now.Add(time.Second)
		var v family.Verdict
		s, v = family.Present(s, p, now, family.Token{Family: s.ID, Generation: g}, family.Proof{})
		fmt.Printf("g%d: %v\n", g, v.Reason)
	}
	// Output:
	// g0: rotated
	// g1: rotated
	// g1: reuse
	// g2: reuse
}
