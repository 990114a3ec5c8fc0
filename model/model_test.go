// Package model_test checks the rotation protocol of DESIGN.md §2 with spin: what it
// promises holds in every order of events that fits into a small world, what it does
// not promise is shown by an example, and each planted fault is found. README.md says
// it all in plain words; rotation.pml is the model.
//
// It does not know HTTP, tokens' bytes, deadlines of idle and absolute life, or what
// a client is allowed to ask for.
package model_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
)

// The properties, as the model asserts them. The empty one: nothing is violated.
const (
	holds               = ""
	honestClientRevoked = "honest_client_revoked"
	secondSuccessor     = "second_successor"
	tokensDiffer        = "tokens_differ"
	servedAfterTheEnd   = "served_after_the_end"
	servedWithoutExcuse = "served_without_excuse"
	thiefOverstays      = "thief_overstays"
)

// A configuration of the model: README.md has a line for each name.
type configuration struct {
	name  string
	world string // macros, without -D
	want  string // the property that the checker must find violated
}

// promises are checked to the end and must hold.
func promises() []configuration {
	return []configuration{
		{"strict-key", "KEY=1 GENS=5", holds},
		{"strict-key-lock", "KEY=1 TABS=2 LOCK=1", holds},
		{"leeway-key", "LEEWAY=2 TICKS=6 KEY=1", holds},
		{"leeway-key-lock", "LEEWAY=2 TICKS=4 KEY=1 TABS=2 LOCK=1", holds},
		{"leeway-busy", "LEEWAY=2 TICKS=7 FIRST=1 PROMPT=1", holds},
		{"leeway-busy-lock", "LEEWAY=2 TICKS=6 FIRST=1 PROMPT=1 TABS=2 LOCK=1", holds},
		{"leeway-burst", "LEEWAY=3 TICKS=3 FIRST=1 TABS=2", holds},
		{"leeway-burst-late", "LEEWAY=2 TICKS=2 FIRST=1 LATE=1", holds},
		{"leeway-tabs", "LEEWAY=2 TICKS=6 FIRST=1 PROMPT=1 SPACED=1 TABS=2", holds},
		{"leeway-late", "LEEWAY=2 TICKS=6 FIRST=1 PROMPT=1 SPACED=1 LATE=1", holds},
		{"presenter-tabs", "LEEWAY=2 TICKS=5 SAME_PRESENTER=1 FIRST=1 PROMPT=1 SPACED=1 TABS=2", holds},
		{"until-used", "UNTIL_USED=1 FIRST=1 GENS=5", holds},
		{"until-used-leeway", "UNTIL_USED=1 LEEWAY=2 TICKS=5 FIRST=1", holds},
		{"possession", "POSSESSION=1 LEEWAY=1 TICKS=3 FIRST=1 LATE=1", holds},
		{"possession-tabs", "POSSESSION=1 UNTIL_USED=1 FIRST=1 TABS=2 LATE=1", holds},
		{"possession-thief", "POSSESSION=1 LEEWAY=1 TICKS=3 FIRST=1 THIEF=1 BOUND=0", holds},

		{"strict-key-thief", "KEY=1 THIEF=1 BOUND=1 GENS=5", holds},
		{"strict-thief", "THIEF=1 BOUND=1", holds},
		{"strict-key-thief-key", "KEY=1 THIEF=2 BOUND=2", holds},
		{"presenter-thief", "LEEWAY=2 TICKS=3 SAME_PRESENTER=1 KEY=1 THIEF=1 DISGUISE=0 BOUND=1", holds},
		{"leeway-thief", "LEEWAY=2 TICKS=4 KEY=1 FIRST=1 THIEF=1", holds},
		{"code-thief", "LEEWAY=1 TICKS=2 UNTIL_USED=1 KEY=1 THIEF=1", holds},
		{"until-used-thief-key", "UNTIL_USED=1 KEY=1 THIEF=2", holds},

		{"revoked", "LEEWAY=2 TICKS=4 KEY=1 FIRST=1 TABS=2 REVOKER=1", holds},
		{"loss-strict-key", "KEY=1 LOSSES=2", holds},
		{"loss-strict-key-lock", "KEY=1 TABS=2 LOCK=1 LOSSES=1", holds},
		{"loss-until-used", "UNTIL_USED=1 FIRST=1 LOSSES=2", holds},
		{"loss-leeway", "LEEWAY=2 TICKS=5 FIRST=1 PROMPT=1 LOSSES=1", holds},
	}
}

// limits are what is not promised: the checker must find the example.
func limits() []configuration {
	return []configuration{
		{"strict-without-key", "FIRST=1", honestClientRevoked},
		{"code-without-key", "LEEWAY=1 UNTIL_USED=1", honestClientRevoked},
		{"strict-key-no-lock", "KEY=1 TABS=2", honestClientRevoked},
		{"strict-key-late", "KEY=1 LATE=1", honestClientRevoked},
		{"leeway-slow-retry", "LEEWAY=2 TICKS=6 FIRST=1 SPACED=1", honestClientRevoked},
		{"leeway-busy-tabs", "LEEWAY=2 TICKS=6 FIRST=1 PROMPT=1 TABS=2", honestClientRevoked},
		{"leeway-busy-late", "LEEWAY=2 TICKS=6 FIRST=1 PROMPT=1 LATE=1", honestClientRevoked},
		{"until-used-tabs", "UNTIL_USED=1 FIRST=1 TABS=2", honestClientRevoked},
		{"until-used-late", "UNTIL_USED=1 FIRST=1 LATE=1", honestClientRevoked},

		{"leeway-lock-step-thief", "LEEWAY=1 TICKS=4 KEY=1 FIRST=1 SPACED=1 THIEF=1 BOUND=3", thiefOverstays},
		{"until-used-lock-step-thief", "UNTIL_USED=1 KEY=1 THIEF=1 BOUND=3", thiefOverstays},
		{"presenter-disguised-thief", "LEEWAY=1 TICKS=4 SAME_PRESENTER=1 KEY=1 FIRST=1 SPACED=1 THIEF=1 BOUND=3", thiefOverstays},
		{"strict-key-thief-key-once", "KEY=1 THIEF=2 BOUND=1", thiefOverstays},

		{"loss-of-revocation", "KEY=1 REVOKER=1 LOSSES=1", servedAfterTheEnd},
		{"loss-frees-thief", "KEY=1 THIEF=1 LOSSES=1", servedAfterTheEnd},
	}
}

// faults are mistakes planted in the model: the checker must find each.
func faults() []configuration {
	return []configuration{
		// the server's rules
		{"KEY_IGNORED", "KEY=1", honestClientRevoked},
		{"KEY_WORKS_ONCE", "KEY=1", honestClientRevoked},
		{"ANY_KEY", "KEY=1 THIEF=1", servedWithoutExcuse},
		{"KEY_AFTER_USED", "KEY=1 THIEF=2", servedWithoutExcuse},
		{"POSSESSION_OF_PARENT_ONLY", "POSSESSION=1 LEEWAY=1 TICKS=3 FIRST=1 LATE=1", honestClientRevoked},
		{"PROOF_NOT_CHECKED", "POSSESSION=1 LEEWAY=1 TICKS=3 FIRST=1 THIEF=1 BOUND=0", thiefOverstays},
		{"BAD_PROOF_IS_REUSE", "POSSESSION=1 LEEWAY=1 TICKS=3 FIRST=1 THIEF=1 BOUND=0", honestClientRevoked},
		{"WINDOW_CLOSED", "LEEWAY=3 TICKS=3 FIRST=1 TABS=2", honestClientRevoked},
		{"WINDOW_ENDS_LATE", "LEEWAY=2 TICKS=4 KEY=1 FIRST=1 THIEF=1", servedWithoutExcuse},
		{"SLIDING_WINDOW", "LEEWAY=2 TICKS=4 KEY=1 FIRST=1 THIEF=1", servedWithoutExcuse},
		{"OWN_LEEWAY_CLOSED", "LEEWAY=2 TICKS=6 FIRST=1 PROMPT=1", honestClientRevoked},
		{"OWN_LEEWAY_ENDS_LATE", "LEEWAY=2 TICKS=5 KEY=1 FIRST=1 THIEF=1", servedWithoutExcuse},
		{"OWN_LEEWAY_OF_ALL", "LEEWAY=2 TICKS=4 KEY=1 FIRST=1 THIEF=1", servedWithoutExcuse},
		{"OWN_LEEWAY_SLIDES", "LEEWAY=2 TICKS=4 KEY=1 FIRST=1 THIEF=1", servedWithoutExcuse},
		{"FLOOR", "LEEWAY=2 TICKS=4 KEY=1 FIRST=1 THIEF=1", servedWithoutExcuse},
		{"PRESENTER_IGNORED", "LEEWAY=2 TICKS=3 SAME_PRESENTER=1 KEY=1 THIEF=1 DISGUISE=0 BOUND=1", thiefOverstays},
		{"PRESENTER_REVERSED", "LEEWAY=2 TICKS=5 SAME_PRESENTER=1 FIRST=1 PROMPT=1 SPACED=1", honestClientRevoked},
		{"UNTIL_USED_IGNORED", "UNTIL_USED=1 FIRST=1", honestClientRevoked},
		{"REPEAT_AFTER_USED", "UNTIL_USED=1 KEY=1 THIEF=1", servedWithoutExcuse},
		{"REPEAT_ROTATES", "KEY=1", secondSuccessor},
		{"RANDOM_TOKEN", "KEY=1", tokensDiffer},
		{"NO_REVOKE", "KEY=1 THIEF=1", servedAfterTheEnd},
		{"STATUS_FORGOTTEN", "KEY=1 REVOKER=1", servedAfterTheEnd},
		{"CODE_LEEWAY", "UNTIL_USED=1 KEY=1 THIEF=1", servedWithoutExcuse},
		{"CODE_REPLAY_FORGIVEN", "KEY=1 THIEF=1", servedAfterTheEnd},
		{"RECOVER_IS_REUSE", "KEY=1 LOSSES=1", honestClientRevoked},
		{"RECOVER_FORGETS_RETRY", "KEY=1 LOSSES=1", honestClientRevoked},
		{"RECOVER_OPENS_NO_WINDOW", "LEEWAY=2 TICKS=6 FIRST=1 PROMPT=1 SPACED=1 LOSSES=1", honestClientRevoked},
		// the server's store
		{"NO_COMPARE_AND_SWAP", "LEEWAY=1 KEY=1 TABS=2", secondSuccessor},
		{"NO_COMPARE_AND_SWAP", "KEY=1 REVOKER=1", servedAfterTheEnd},
		// the owner's library
		{"KEY_PER_ATTEMPT", "KEY=1", honestClientRevoked},
		{"KEY_PER_TAB", "KEY=1 TABS=2 LOCK=1", honestClientRevoked},
		{"TAB_OVERWRITES", "LEEWAY=2 TICKS=5 FIRST=1 PROMPT=1 SPACED=1 TABS=2", honestClientRevoked},
	}
}

const depth = 20_000 // of the search; the deepest configuration needs less than 1,000

func TestRotationKeepsItsPromises(t *testing.T) {
	needSpin(t)
	for _, c := range promises() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := build(t, proving, strings.Fields(c.world)...)
			r := v.check(t, depth)
			if err := r.judge(c.want); err != nil {
				t.Fatalf("%s: %v\n%s%s", c.world, err, v.story(t), r.output)
			}
			t.Logf("%s: %d states, depth %d", c.world, r.states, r.depth)
		})
	}
}

func TestRotationDoesNotPromiseMore(t *testing.T) {
	needSpin(t)
	for _, c := range limits() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := build(t, seeking, strings.Fields(c.world)...)
			r := v.check(t, depth)
			if err := r.judge(c.want); err != nil {
				t.Fatalf("%s: %v\n%s", c.world, err, r.output)
			}
			story := v.story(t)
			if !strings.Contains(story, " presents ") {
				t.Errorf("%s: the example tells nothing: %q", c.world, story)
			}
			t.Logf("%s: %s\n%s", c.world, c.want, story)
		})
	}
}

func TestCheckerFindsPlantedFaults(t *testing.T) {
	needSpin(t)
	for _, c := range faults() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := build(t, seeking, append(strings.Fields(c.world), "FAULT_"+c.name)...)
			r := v.check(t, depth)
			if err := r.judge(c.want); err != nil {
				t.Fatalf("%s FAULT_%s: %v\n%s", c.world, c.name, err, r.output)
			}
		})
	}
}

// A promise about a row that nobody reaches is none.
func TestEveryRowOfTheTableIsReached(t *testing.T) {
	needSpin(t)
	spoken := regexp.MustCompile(`^at \d+ (owner|thief) presents .* -> (\w+), head`)
	for world, want := range map[string][]string{
		"KEY=1 THIEF=1": {
			"owner rotated", "owner repeated_retry", "owner reuse", "owner revoked",
			"thief rotated", "thief repeated_retry", "thief reuse", "thief revoked",
		},
		"LEEWAY=1 UNTIL_USED=1 TICKS=2 FIRST=1 GENS=3 KEY=1 THIEF=2": {
			"owner repeated_window", "owner repeated_until_used",
			"thief repeated_retry", "thief repeated_window", "thief repeated_until_used",
		},
		"POSSESSION=1 LEEWAY=1 TICKS=2 FIRST=1 GENS=3 THIEF=1": {
			"owner repeated_possession", "thief invalid_proof",
		},
		"KEY=1 LOSSES=1": {"owner recovered"},
	} {
		t.Run(world, func(t *testing.T) {
			t.Parallel()
			r := build(t, talking, strings.Fields(world)...).check(t, depth)
			if err := r.judge(holds); err != nil {
				t.Fatalf("%v\n%s", err, r.output[max(0, len(r.output)-2000):])
			}
			seen := map[string]int{}
			for line := range strings.Lines(r.output) {
				if m := spoken.FindStringSubmatch(line); m != nil {
					seen[m[1]+" "+m[2]]++
				}
			}
			t.Log(seen)
			for _, w := range want {
				if seen[w] == 0 {
					t.Errorf("%s: nobody gets to %q", world, w)
				}
			}
		})
	}
}

func TestSearchThatWasCutProvesNothing(t *testing.T) {
	needSpin(t)
	v := build(t, proving, "KEY=1")
	r := v.check(t, 10)
	if err := r.judge(holds); err == nil || !strings.Contains(err.Error(), "too small") {
		t.Fatalf("a search cut at depth 10: got %v, want it refused for its depth\n%s", err, r.output)
	}
	if r := v.check(t, depth); r.judge(honestClientRevoked) == nil {
		t.Fatalf("a promise that holds was taken for an example against it\n%s", r.output)
	}
}

// The model and package family answer alike whatever small question they are asked.
func TestModelDecidesAsPackageFamily(t *testing.T) {
	needSpin(t)
	for _, c := range []struct {
		policy string
		want   family.Policy
	}{
		{"LEEWAY=0", family.Policy{}},
		{"LEEWAY=2", family.Policy{Leeway: 2 * tick}},
		{"LEEWAY=2 SAME_PRESENTER=1", family.Policy{Leeway: 2 * tick, SamePresenter: true}},
		{"UNTIL_USED=1", family.Policy{UntilUsed: true}},
		{"LEEWAY=1 UNTIL_USED=1 SAME_PRESENTER=1", family.Policy{Leeway: tick, UntilUsed: true, SamePresenter: true}},
		{"POSSESSION=1", family.Policy{}},
		{"POSSESSION=1 LEEWAY=1", family.Policy{Leeway: tick}},
		{"POSSESSION=1 UNTIL_USED=1", family.Policy{UntilUsed: true}},
	} {
		t.Run(c.policy, func(t *testing.T) {
			t.Parallel()
			p := c.want
			p.Rotation, p.OnReuse, p.CodeTTL = family.Always, family.RevokeFamily, time.Minute
			v := build(t, talking, append(strings.Fields(c.policy), "TABLE")...)
			r := v.check(t, depth)
			if err := r.judge(holds); err != nil {
				t.Fatalf("%v\n%s", err, r.output[:min(len(r.output), 2000)])
			}
			answers := map[string]int{}
			for line := range strings.Lines(r.output) {
				if !strings.HasPrefix(line, "question ") {
					continue
				}
				var (
					before, want   row
					now, g, k, who int
					word           string
				)
				if err := scan(line, "question", &before.live, &before.head, &before.floor, &before.window, &before.last, &before.retry, &before.presenter,
					"at", &now, "token", &g, "key", &k, "by", &who,
					"answer", &want.live, &want.head, &want.floor, &want.window, &want.last, &want.retry, &want.presenter, &word); err != nil {
					t.Fatal(err)
				}
				answers[word]++
				next, verdict := family.Present(before.state(), p, family.Time(now), family.Token{Generation: uint32(g)}, family.Proof{
					Possession: strings.HasPrefix(c.policy, "POSSESSION"),
					Retry:      family.RetryHash{byte(k)},
					Presenter:  family.Presenter{byte(who)},
				})
				got := verdict.Reason.String()
				if verdict.Act == family.Refuse {
					got = "revoked" // the model knows one reason why a family ended
				}
				if got != word || rowOf(next) != want {
					t.Fatalf("%spackage family: %s %+v", line, got, rowOf(next))
				}
			}
			t.Log(answers)
			for _, word := range []string{"rotated", "repeated_retry", "recovered", "reuse", "revoked"} {
				if answers[word] == 0 {
					t.Errorf("nothing was answered with %q: %v", word, answers)
				}
			}
		})
	}
}

const tick = time.Millisecond // family.Time's resolution

// A row of the family as the model prints it: numbers only.
type row struct{ live, head, floor, window, last, retry, presenter int }

func (r row) state() family.State {
	s := family.State{
		Status: family.Live, IssuedAt: 1, LastUsed: family.Time(r.last), Grant: &family.Grant{},
		Head: uint32(r.head), Floor: uint32(r.floor), WindowStart: family.Time(r.window),
		RetryHash: family.RetryHash{byte(r.retry)}, Presenter: family.Presenter{byte(r.presenter)},
	}
	if r.live == 0 {
		s.Status, s.Reason = family.Revoked, family.RevokedAdmin
	}
	return s
}

func rowOf(s family.State) row {
	r := row{
		head: int(s.Head), floor: int(s.Floor), window: int(s.WindowStart), last: int(s.LastUsed),
		retry: int(s.RetryHash[0]), presenter: int(s.Presenter[0]),
	}
	if s.Status == family.Live {
		r.live = 1
	}
	return r
}

// README.md and the model speak of the same things as the tables above.
func TestDocumentAndModelNameEveryConfiguration(t *testing.T) {
	readme, pml := read(t, "README.md"), read(t, "rotation.pml")
	var named, planted []string
	for _, c := range slices.Concat(promises(), limits()) {
		named = append(named, c.name)
	}
	for _, c := range faults() {
		planted = append(planted, "FAULT_"+c.name)
	}
	slices.Sort(named)
	slices.Sort(planted)
	planted = slices.Compact(planted)

	lines := regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(readme, -1)
	if got := second(lines); !slices.Equal(got, named) {
		t.Errorf("README.md has lines for\n%q, the tests for\n%q", got, named)
	}
	macros := regexp.MustCompile(`defined\((FAULT_[A-Z_]+)\)`).FindAllStringSubmatch(pml, -1)
	if got := slices.Compact(second(macros)); !slices.Equal(got, planted) {
		t.Errorf("rotation.pml has the faults\n%q, the tests\n%q", got, planted)
	}
	if got := slices.Compact(second(regexp.MustCompile("`(FAULT_[A-Z_]+)`").FindAllStringSubmatch(readme, -1))); !slices.Equal(got, planted) {
		t.Errorf("README.md has the faults\n%q, the tests\n%q", got, planted)
	}
}

// scan reads a line of words and numbers. (fmt.Sscanf takes seconds for all of them.)
func scan(line string, fields ...any) error {
	words := strings.Fields(line)
	if len(words) != len(fields) {
		return fmt.Errorf("%q: %d words, want %d", line, len(words), len(fields))
	}
	for i, f := range fields {
		var err error
		switch f := f.(type) {
		case *int:
			*f, err = strconv.Atoi(words[i])
		case *string:
			*f = words[i]
		case string:
			if f != words[i] {
				err = fmt.Errorf("got %q, want %q", words[i], f)
			}
		}
		if err != nil {
			return fmt.Errorf("%q, word %d: %v", line, i+1, err)
		}
	}
	return nil
}

func second(matches [][]string) []string {
	var all []string
	for _, m := range matches {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return all
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func needSpin(t *testing.T) {
	t.Helper()
	for program, debian := range map[string]string{"spin": "spin", "gcc": "gcc libc6-dev"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("the model needs %s: apt-get install %s (%v)", program, debian, err)
		}
	}
}

// A verifier is a checker that spin generated for one configuration.
type verifier struct{ dir string }

// A use of a verifier, in gcc's words.
type use string

const (
	proving use = "-DCOLLAPSE"          // as few states as possible
	seeking use = "-DNOREDUCE"          // as little to compile as possible
	talking use = "-DNOREDUCE -DPRINTF" // says each verdict aloud
)

// build generates and compiles the verifier of a configuration, given as macros
// without -D. Compiling is most of the work, so gcc does not optimize: that pays for
// itself only from a few million states on.
func build(t *testing.T, u use, macros ...string) verifier {
	t.Helper()
	v := verifier{t.TempDir()}
	if err := os.WriteFile(filepath.Join(v.dir, "rotation.pml"), []byte(read(t, "rotation.pml")), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-a"}
	for _, m := range macros {
		args = append(args, "-D"+m)
	}
	// spin exits 0 after some syntax errors, but then it has not written pan.c, or has complained.
	if out := v.run(t, "spin", append(args, "rotation.pml")...); out != "" {
		t.Fatalf("spin %s: %s", strings.Join(args, " "), out)
	}
	cc := append([]string{"-O0", "-w", "-DSAFETY", "-DMEMLIM=1024", "-o", "pan", "pan.c"}, strings.Fields(string(u))...)
	if out := v.run(t, "gcc", cc...); out != "" {
		t.Fatalf("gcc %s: %s", strings.Join(cc, " "), out)
	}
	return v
}

// check searches all states that a path of at most depth steps reaches.
func (v verifier) check(t *testing.T, depth int) result {
	t.Helper()
	return parse(v.run(t, "./pan", "-n", "-w20", "-m"+strconv.Itoa(depth)))
}

// story tells the example that check found, one line for each request that took effect
// and was not the same as the one before; without an example it is empty.
func (v verifier) story(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(v.dir, "rotation.pml.trail")); err != nil {
		return ""
	}
	var story strings.Builder
	last := ""
	for line := range strings.Lines(v.run(t, "./pan", "-r")) {
		if strings.HasPrefix(line, "at ") && line != last {
			story.WriteString(line)
			last = line
		}
	}
	return story.String()
}

// run returns what a program said on both outputs. Exit codes are not looked at: pan
// has the same for many things, and what counts is what it says.
func (v verifier) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = v.dir
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s: %v", program, ctx.Err())
	}
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatalf("%s: %v", program, err)
	}
	return string(out)
}

// A result is what a verifier said.
type result struct {
	output    string
	errors    int // -1: it did not say
	states    int
	depth     int
	violation string   // the property of the first violated assertion
	cut       []string // why the search is not a proof
}

func parse(output string) result {
	r := result{output: output, errors: -1}
	if m := regexp.MustCompile(`State-vector \d+ byte, depth reached (\d+), errors: (\d+)`).FindStringSubmatch(output); m != nil {
		r.depth, _ = strconv.Atoi(m[1])
		r.errors, _ = strconv.Atoi(m[2])
	}
	if m := regexp.MustCompile(`(\d+) states, stored`).FindStringSubmatch(output); m != nil {
		r.states, _ = strconv.Atoi(m[1])
	}
	if m := regexp.MustCompile(`assertion violated\s+!\((\w+)\)`).FindStringSubmatch(output); m != nil {
		r.violation = m[1]
	}
	lower := strings.ToLower(output)
	for _, words := range []string{
		"max search depth too small", "search not completed", "out of memory", "memlim", "memory bound",
		"vectorsz", "aborting", "interrupted", "hash factor", "invalid end state (",
	} {
		if strings.Contains(lower, words) {
			r.cut = append(r.cut, words)
		}
	}
	return r
}

// judge returns why the result is not the wanted one: a property, or holds.
func (r result) judge(want string) error {
	switch {
	case r.errors < 0:
		return errors.New("the verifier gave no account of its search")
	case want == holds && (r.errors > 0 || r.violation != ""):
		return fmt.Errorf("violated: %q, %d errors; want none", r.violation, r.errors)
	case want == holds && len(r.cut) > 0:
		return fmt.Errorf("the search was cut (%s), so it proves nothing", strings.Join(r.cut, ", "))
	case want == holds && r.states < 50:
		return fmt.Errorf("only %d states: nothing happened", r.states)
	case want != holds && (r.errors == 0 || r.violation != want):
		return fmt.Errorf("violated: %q, %d errors; want an example against %q", r.violation, r.errors, want)
	}
	return nil
}
