package main

import (
	"strings"
	"testing"
	"time"
)

// Planted, each found: no repeat for a proven retry, or none inside both leeways (clients are signed out); repeat for
// anybody (thieves are missed); an answer three milliseconds before its commit (rotations are forgotten; not in every run).
func TestSoakShort_RT_G17_RT_G02_NoHonestClientIsSignedOut(t *testing.T) {
	var said strings.Builder
	p := soakPlan{refreshes: 6000, clients: 300, workers: 24, kills: 3, thefts: 50, loss: 0.05, leeway: 5 * time.Second, seed: uint64(time.Now().UnixNano())}
	if raced {
		// As make test builds it, so that the cache has it already.
		p.buildFlags = []string{"-race", "-gcflags=modernc.org/sqlite/lib=-race=false"}
	}
	got, err := wear(t.Context(), p, &said)
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", p.seed, err, &said)
	}
	t.Logf("seed %d: %+v", p.seed, got)
	if err := got.check(); err != nil {
		t.Errorf("seed %d: %v", p.seed, err)
	}
	if got.Refreshes < p.refreshes || got.Kills < p.kills || got.Thefts != int64(p.thefts) {
		t.Errorf("%d refreshes, %d kills, %d thefts; want at least %d, %d and exactly %d", got.Refreshes, got.Kills, got.Thefts, p.refreshes, p.kills, p.thefts)
	}
	for what, n := range map[string]int64{
		"requests were cut": got.LostRequests, "answers were lost": got.LostAnswers, "retries came through": got.Retries,
		"connections were broken by a kill": got.Broken, "pairs came at once": got.Twins,
	} {
		if n == 0 {
			t.Errorf("no %s: nothing was put to the test", what)
		}
	}
	// A retry that came too late says that the machine was busy, not that the server is right or wrong.
	if got.BeyondPromise > int64(p.clients)/10 {
		t.Errorf("%d retries came after the leeway: too slow to prove anything", got.BeyondPromise)
	}
}
