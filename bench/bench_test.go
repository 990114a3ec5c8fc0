package main

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, c := range []struct {
		of   []float64
		p    float64
		want float64
	}{
		{hundred, 0.50, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred[:1], 0.99, 1}, {hundred[:2], 0.50, 1},
	} {
		if got := percentile(c.of, c.p); got != c.want {
			t.Errorf("percentile(%d values, %v) = %v, want %v", len(c.of), c.p, got, c.want)
		}
	}
	if got := median([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median of three = %v, want 2", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of four = %v, want 2.5", got)
	}
}

func TestTheFloorAnswersOnlyWhatIsInItsJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	f, err := newFloor(path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(f)
	defer s.Close()
	k := &caller{host: s.Listener.Addr().String(), path: "/oauth2/token", agent: agent, clientID: "floor"}
	c := newConn(k.host)
	defer c.close()
	seen := []string{"first"}
	for n := 1; n <= 5; n++ {
		status, body, err := c.do(k.refresh(nil, seen[len(seen)-1], ""))
		if err != nil || status != 200 {
			t.Fatalf("answer %d: %d %v", n, status, err)
		}
		next := member(body, "refresh_token")
		if slices.Contains(seen, next) || next == "" {
			t.Errorf("answer %d: refresh token %q is not new", n, next)
		}
		seen = append(seen, next)
		if parts := strings.Split(member(body, "access_token"), "."); len(parts) != 3 || len(parts[2]) != 86 {
			t.Errorf("answer %d: access token of %d parts is no ES256 JWT", n, len(parts))
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != int64(n*recordSize) {
			t.Errorf("after answer %d the journal has %d bytes, want %d", n, info.Size(), n*recordSize)
		}
	}
	if status, _, err := c.do(k.form(nil, "grant_type=refresh_token")); err != nil || status != 400 {
		t.Errorf("without a token: %d %v, want 400", status, err)
	}
}

func TestABurstDrivesEveryChainAndStopsAtTheFirstWrongAnswer(t *testing.T) {
	f, err := newFloor(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(f)
	defer s.Close()
	load := &target{name: "floor", pid: os.Getpid(), caller: &caller{host: s.Listener.Addr().String(), path: "/oauth2/token", agent: agent, clientID: "floor"}}
	load.chains = []string{"a", "b", "c", "d", "e"}
	got, err := load.drive(t.Context(), burst{workers: 2, rotations: 20})
	if err != nil {
		t.Fatal(err)
	}
	if got.Rotations != 20 || load.total != 20 || got.P50 <= 0 || got.P99 < got.P50 || got.PerSecond <= 0 {
		t.Errorf("burst: %+v, total %d", got, load.total)
	}
	for i, c := range load.chains {
		if len(c) < 10 {
			t.Errorf("chain %d was not driven: %q", i, c)
		}
	}
	timed, err := load.drive(t.Context(), burst{workers: 8, warmup: 20 * time.Millisecond, window: 100 * time.Millisecond})
	if err != nil || timed.Rotations == 0 {
		t.Errorf("timed burst: %+v %v", timed, err)
	}
	load.caller.path = "/nothing\x00here"
	if _, err := load.drive(context.Background(), burst{workers: 2, rotations: 20}); err == nil {
		t.Error("a burst of wrong answers has a figure")
	}
}

func TestFiguresGoBetweenTheirLinesOnly(t *testing.T) {
	text := "before\n" + blockBegin + "\nold\n" + blockEnd + "\nafter\n"
	got, err := between([]byte(text), []byte("new\n"))
	if want := "before\n" + blockBegin + "\n\nnew\n\n" + blockEnd + "\nafter\n"; err != nil || string(got) != want {
		t.Errorf("between: %q %v, want %q", got, err, want)
	}
	if again, err := between(got, []byte("new\n")); err != nil || string(again) != string(got) {
		t.Errorf("a second time: %q %v", again, err)
	}
	for _, lacking := range []string{"", blockBegin + "\n", blockEnd + "\n" + blockBegin + "\n"} {
		if _, err := between([]byte(lacking), nil); err == nil {
			t.Errorf("%q: no error", lacking)
		}
	}
	raw, err := os.ReadFile(filepath.Join("..", "BENCHMARKS.md"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := between(raw, nil); err != nil {
		t.Errorf("BENCHMARKS.md: %v", err)
	}
}

func TestTheLogWatchSeesAlertsAndTokensInPieces(t *testing.T) {
	l := newLogWatch()
	for _, piece := range []string{
		`{"level":"ALERT","msg":"request","reason":"reu`, "se\"}\n", `{"level":"ERROR+4","reason":"recovered"}` + "\n" + `{"level":"INFO","reason":"rotated"}` + "\n",
		`{"level":"INFO","token":"hr` + "t_AAAA\"}\n", `{"half`,
	} {
		if n, err := l.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	alerts, tokens := l.result()
	if alerts["reuse"] != 1 || alerts["recovered"] != 1 || len(alerts) != 2 || tokens != 1 {
		t.Errorf("alerts %v, tokens %d; want one reuse, one recovered, one token", alerts, tokens)
	}
}

func TestATollWithAVictimIsAnError(t *testing.T) {
	if err := (toll{Refreshes: 5, Thefts: 1, BeyondPromise: 1}).check(); err != nil {
		t.Errorf("nothing happened: %v", err)
	}
	for _, bad := range []toll{{ForcedSignOuts: 1}, {DoubleHeads: 1}, {LostCommits: 1}, {ThievesMissed: 1}, {Unexpected: 1}, {TokensInLog: 1}, {Killed: 1}} {
		if bad.check() == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}
