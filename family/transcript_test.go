package family_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
)

var update = flag.Bool("update", false, "write what happens into the transcripts")

// stories are the transcripts in testdata/transcripts, which see. Each is named by
// the sentence it proves, with the row of the matrix where it is the core's share of
// one.
var stories = []string{
	// The rule table of DESIGN §2, row by row.
	"row1_head_rotates",
	"row2_proven_retry_repeats",
	"row3_possession_repeats",
	"row4_window_repeats",
	"row4_predecessor_keeps_its_leeway",
	"row5_until_used_repeats",
	"row6_reuse_revokes",
	"row6_reuse_rejected",
	"row7_newer_than_the_store_recovers",
	// The presets of DESIGN §3.
	"preset_browser",
	"preset_native",
	"preset_web",
	"preset_strict",
	"preset_fapi",
	// Rows of the matrix.
	"RT_A01_replay_of_the_parent_ends_the_family",
	"RT_A02_replay_of_the_grandparent_ends_the_family",
	"RT_A03_thief_first_owner_second",
	"RT_A04_owner_first_thief_second",
	"RT_A05_dead_family_stays_as_it_is",
	"RT_A06_reuse_counts_while_the_family_lives",
	"RT_A07_expired_is_not_replay",
	"RT_A10_never_rotating_token_repeats",
	"RT_A12_replay_just_before_the_absolute_end",
	"RT_A13_replay_after_a_thousand_rotations",
	"RT_A20_thief_rotates_five_times",
	"RT_B01_strict_without_key_parallel",
	"RT_B04_proven_retry_after_any_delay",
	"RT_B04a_wrong_key_is_reuse",
	"RT_B04b_key_is_worthless_once_the_successor_was_used",
	"RT_B04c_until_used_after_a_long_night",
	"RT_B05_window_boundary",
	"RT_B06_whole_burst_gets_the_head",
	"RT_B07_below_the_floor",
	"RT_B10_lost_response",
	"RT_B11_window_does_not_slide",
	"RT_B12_price_of_leeway",
	"RT_B24_same_presenter",
	"RT_E01_idle_boundary",
	"RT_E02_absolute_end_does_not_slide",
	"RT_E04_draft_lifetimes",
	"RT_E06_clock_set_back",
	"RT_E08_shortened_policy",
	"RT_E09_lengthened_policy",
	"RT_E10_session_bound_end",
	"RT_E12_hundred_years",
	"RT_F12_policy_tightened",
	"RT_G06_store_lost_commits",
	"RT_G06_lost_code_exchange",
	"RT_G06_stale_idle_end",
	"RT_G07_fork_after_lost_commits",
	"RT_K01_code_replay",
	"RT_K02_code_replay_after_rotations",
	"RT_K03_code_exchanged_twice_at_once",
	"RT_K07_code_retry_is_proven",
	"RT_K08_code_boundary",
	// What has no row.
	"never_asks_for_possession",
	"absolute_boundary",
	"revoked_before_expired",
	"recovered_then_older",
	"last_generation",
	"narrow_takes_scopes_away",
	"policies_of_reuse",
}

// TestTranscripts runs each story and compares what happens with what is written.
// With -update what happens is written; the diff is then read by a person.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts (%v): have they moved?", err)
	}
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".txt"); !slices.Contains(stories, name) {
			t.Errorf("%s is not in the list of stories", f)
		}
	}
	for _, name := range stories {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata/transcripts", name+".txt")
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := tell(t, string(want))
			if got == string(want) {
				return
			}
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			wantLines := strings.Split(string(want), "\n")
			for i, line := range strings.Split(got, "\n") {
				if i >= len(wantLines) || line != wantLines[i] {
					t.Errorf("%s:%d\n got %s\nwant %s", path, i+1, line, wantLines[min(i, len(wantLines)-1)])
				}
			}
		})
	}
}

// tale is a story while it is told.
type tale struct {
	policy family.Policy
	state  family.State
	past   []family.State // before each change, for "lose"
	base   family.Time
}

// tell runs the commands of a transcript and returns it with the outcomes filled in.
// A line is empty, a comment (#), "policy PRESET FIELD=VALUE…" or "at TIME COMMAND -> OUTCOME".
func tell(t *testing.T, text string) string {
	t.Helper()
	tl := &tale{base: family.At(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))}
	var out []string
	steps := 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		command, _, _ := strings.Cut(line, "->")
		words := strings.Fields(command)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
			out = append(out, line)
			continue
		case words[0] == "policy" && len(words) > 1:
			if err := tl.setPolicy(words[1], words[2:]); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			out = append(out, line)
			continue
		case words[0] != "at" || len(words) < 3:
			t.Fatalf("%q: want policy or at", line)
		}
		at, err := parseMoment(words[1])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		outcome, err := tl.do(tl.base+family.Time(at.Milliseconds()), words[2], words[3:])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, fmt.Sprintf("%-55s -> %s", strings.TrimRight(command, " "), outcome))
		steps++
	}
	if steps == 0 {
		t.Fatal("the transcript has no steps")
	}
	return strings.Join(out, "\n") + "\n"
}

func (tl *tale) setPolicy(preset string, fields []string) (err error) {
	set := map[string]string{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		set[name] = value
	}
	tl.policy, err = family.PolicyOf(preset, set)
	return err
}

// do runs one command at a moment and returns its outcome.
//
//	issue [until=TIME]
//	present gN [key=K] [from=UA] [possession]    try: the same, but nothing is kept
//	revoke REASON
//	narrow SCOPE…
//	left                                         what the client is told of its lifetimes
//	lose N                                       the store loses its last N commits
//	rotate N                                     N rotations, one a second, all of them of the head
func (tl *tale) do(now family.Time, command string, args []string) (string, error) {
	before := tl.state
	switch command {
	case "issue":
		var until family.Time
		for _, a := range args {
			d, err := parseMoment(strings.TrimPrefix(a, "until="))
			if err != nil {
				return "", err
			}
			until = tl.base + family.Time(d.Milliseconds())
		}
		g := &family.Grant{Client: "app", User: "ada", Scope: "openid photos"}
		tl.state = family.New(family.ID{1}, tl.policy, now, g, 1, until, family.Origin{})
		return "code g0" + tl.changes(family.State{}, tl.state), nil
	case "present", "try":
		tok, proof, err := parsePresent(args)
		if err != nil {
			return "", err
		}
		next, v := family.Present(tl.state, tl.policy, now, tok, proof)
		if command == "present" {
			tl.keep(next)
		}
		return verdictLine(next, v) + tl.changes(before, next), nil
	case "revoke":
		why, err := family.ParseReason(args[0])
		if err != nil {
			return "", err
		}
		tl.keep(tl.state.Revoke(now, why, family.Origin{}))
		return "done" + tl.changes(before, tl.state), nil
	case "narrow":
		tl.keep(tl.state.Narrow(family.ScopeOf(args...)))
		return fmt.Sprintf("scope %q", tl.state.Grant.Scope) + tl.changes(before, tl.state), nil
	case "left":
		refresh, authorization := tl.state.Left(tl.policy, now)
		return fmt.Sprintf("refresh %s, authorization %s", left(refresh), left(authorization)), nil
	case "lose":
		n, err := strconv.Atoi(args[0])
		if err != nil || n > len(tl.past) {
			return "", fmt.Errorf("lose %s of %d commits", args[0], len(tl.past))
		}
		tl.state = tl.past[len(tl.past)-n]
		tl.past = tl.past[:len(tl.past)-n]
		return "the store has" + tl.changes(before, tl.state), nil
	case "rotate":
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		for i := range n {
			next, v := family.Present(tl.state, tl.policy, now.Add(time.Duration(i)*time.Second),
				family.Token{Family: tl.state.ID, Generation: tl.state.Head}, family.Proof{})
			if v.Act != family.Rotate {
				return "", fmt.Errorf("rotation %d: %v", i+1, v)
			}
			tl.keep(next)
		}
		return fmt.Sprintf("%d rotations", n) + tl.changes(before, tl.state), nil
	case "head":
		g, err := parseGeneration(args[0])
		if err != nil {
			return "", err
		}
		tl.state.Head = g
		return "taken for granted" + tl.changes(before, tl.state), nil
	}
	return "", fmt.Errorf("command %q is not known", command)
}

func (tl *tale) keep(next family.State) {
	if next != tl.state {
		tl.past = append(tl.past, tl.state)
		tl.state = next
	}
}

func parsePresent(args []string) (family.Token, family.Proof, error) {
	g, err := parseGeneration(args[0])
	tok, proof := family.Token{Family: family.ID{1}, Generation: g}, family.Proof{Key: 1}
	if err != nil {
		return tok, proof, err
	}
	for _, a := range args[1:] {
		switch name, value, _ := strings.Cut(a, "="); name {
		case "key":
			copy(proof.Retry[:], value)
		case "from":
			copy(proof.Presenter[:], value)
		case "possession":
			proof.Possession = true
		default:
			return tok, proof, fmt.Errorf("argument %q is not known", a)
		}
	}
	return tok, proof, nil
}

func parseGeneration(s string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "g"), 10, 32)
	return uint32(n), err
}

func verdictLine(next family.State, v family.Verdict) string {
	act := map[family.Act]string{
		family.Rotate: "rotate", family.Repeat: "repeat", family.Recover: "recover", family.Reuse: "reuse", family.Refuse: "refuse",
	}[v.Act]
	if v.Accepted() {
		act += fmt.Sprintf(" g%d", next.Head)
	}
	return fmt.Sprintf("%s (%s)", act, v.Reason)
}

// changes names every field in which b is not a: what would be written.
func (tl *tale) changes(a, b family.State) string {
	if a == b {
		return "; unchanged"
	}
	text := func(s []byte) string {
		if t := strings.TrimRight(string(s), "\x00"); t != "" {
			return t
		}
		return "none"
	}
	var d []string
	add := func(changed bool, format string, args ...any) {
		if changed {
			d = append(d, fmt.Sprintf(format, args...))
		}
	}
	add(b.Status == family.Revoked && a.Status != b.Status, "FAMILY DEAD")
	add(a.Reason != b.Reason, "reason %v", b.Reason)
	add(a.Head != b.Head, "head g%d", b.Head)
	add(a.Floor != b.Floor, "floor g%d", b.Floor)
	add(a.WindowStart != b.WindowStart, "window from %s", tl.moment(b.WindowStart))
	add(a.RetryHash != b.RetryHash, "key %s", text(b.RetryHash[:]))
	add(a.Presenter != b.Presenter, "presenter %s", text(b.Presenter[:]))
	add(a.LastUsed != b.LastUsed, "used %s", tl.moment(b.LastUsed))
	add(a.IdleEnds != b.IdleEnds, "idle ends %s", tl.moment(b.IdleEnds))
	add(a.Ends != b.Ends, "ends %s", tl.moment(b.Ends))
	add(a.Grant != b.Grant && a.Grant != nil, "grant changed")
	add(a.IssuedAt != b.IssuedAt && a.IssuedAt != 0, "issued %s", tl.moment(b.IssuedAt))
	return "; " + strings.Join(d, ", ")
}

// moment writes a time as the story does: days and the rest since its beginning.
func (tl *tale) moment(at family.Time) string {
	if at == 0 {
		return "never"
	}
	return writeMoment(at.Sub(tl.base))
}

func left(d time.Duration) string {
	if d < 0 {
		return "for ever"
	}
	return writeMoment(d)
}

func writeMoment(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	days, rest := d/(24*time.Hour), d%(24*time.Hour)
	s := rest.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	switch {
	case days == 0:
		return sign + s
	case rest == 0:
		return fmt.Sprintf("%s%dd", sign, days)
	}
	return fmt.Sprintf("%s%dd+%s", sign, days, s)
}

// parseMoment reads a sum of durations, each Go's or whole days: "30d-1ms", "1h+10s".
func parseMoment(s string) (time.Duration, error) {
	var sum time.Duration
	sign := time.Duration(1)
	for s != "" {
		end := strings.IndexAny(s[1:], "+-") + 1
		if end == 0 {
			end = len(s)
		}
		term := strings.TrimLeft(s[:end], "+-")
		sign = 1
		if s[0] == '-' {
			sign = -1
		}
		if days, ok := strings.CutSuffix(term, "d"); ok {
			n, err := strconv.Atoi(days)
			if err != nil {
				return 0, err
			}
			sum += sign * time.Duration(n) * 24 * time.Hour
		} else {
			d, err := time.ParseDuration(term)
			if err != nil {
				return 0, err
			}
			sum += sign * d
		}
		s = s[end:]
	}
	return sum, nil
}
