package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// plan says how much to measure.
type plan struct {
	binary   string // "": build it
	rounds   int
	sessions int
	warmup   time.Duration
	window   time.Duration
}

var levels = []int{1, 8, 64}

const demoScope = "offline_access demo.read"

// figures is what was measured.
type figures struct {
	Cores    int           `json:"cores"`
	OS       string        `json:"os"`
	Go       string        `json:"go"`
	Sessions int           `json:"sessions"`
	Rounds   int           `json:"rounds"`
	Window   time.Duration `json:"window_ns"`
	Runs     []run         `json:"runs"`

	IdleRSS   int64 `json:"rss_idle_bytes"` // started, nothing asked yet
	LoadedRSS int64 `json:"rss_loaded_bytes"`
	PeakRSS   int64 `json:"rss_peak_bytes"`

	WALAlone    float64 `json:"wal_bytes_per_rotation_alone"`
	WALTogether float64 `json:"wal_bytes_per_rotation_64"`
	Rotations   int64   `json:"rotations"`
	FileBefore  int64   `json:"file_bytes_before"`
	FileAfter   int64   `json:"file_bytes_after_checkpoint"`

	Generations []stretch `json:"generations"`
	Forged      forged    `json:"forged"`
	Allocations int64     `json:"allocations_per_refresh"` // through the handler, without net/http's
	AllocBytes  int64     `json:"allocated_bytes_per_refresh"`
}

// stretch is many rotations of one chain, and of chains that begin.
type stretch struct {
	What       string  `json:"what"`
	From       int     `json:"from_generation"`
	Rotations  int     `json:"rotations"`
	P50        float64 `json:"p50_ms"`
	CPU        float64 `json:"server_cpu_s_per_1000"`
	Statements float64 `json:"statements_per_refresh"`
}

type forged struct {
	Sent       int64   `json:"sent"`
	PerSecond  float64 `json:"per_second"`
	Statements float64 `json:"statements"` // in all
	CPU        float64 `json:"server_cpu_s_per_1000"`
}

// rig is everything that runs during a measurement.
type rig struct {
	plan
	progress io.Writer
	site     site
	stderr   *os.File
	server   *server
	heirloom *target
	floor    *target
	spare    []string // chains for generations: a sign-in adds rows, so all come before the file is weighed
}

// How generations measures.
const oldAge, turns, perTurn = 10_000, 8, 300

func measure(ctx context.Context, p plan, progress io.Writer) (f figures, err error) {
	dir, err := room(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	say := func(format string, a ...any) { fmt.Fprintf(progress, "heirloom bench: "+format+"\n", a...) }

	say("building the server")
	bin, err := build(ctx, p.binary, dir)
	if err != nil {
		return f, err
	}
	version, err := goRun(ctx, "env", "GOVERSION")
	if err != nil {
		return f, err
	}
	f = figures{
		Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: strings.TrimSpace(string(version)),
		Sessions: p.sessions, Rounds: p.rounds, Window: p.window,
	}
	say("allocations")
	if err := f.allocations(ctx); err != nil {
		return f, err
	}
	r := &rig{plan: p, progress: progress}
	if r.site, err = newSite(bin, filepath.Join(dir, "data")); err != nil {
		return f, err
	}
	// The log goes to a file, as it would under a service manager: each refresh writes its line.
	if r.stderr, err = os.Create(filepath.Join(dir, "server.log")); err != nil {
		return f, err
	}
	defer r.stderr.Close()
	stopFloor, err := r.openFloor(ctx, filepath.Join(dir, "floor.log"))
	if err != nil {
		return f, err
	}
	defer stopFloor()
	if err := r.restart(ctx); err != nil {
		return f, err
	}
	defer func() {
		if r.server != nil {
			r.server.kill()
		}
	}()

	wait(ctx, time.Now().Add(time.Second))
	if f.IdleRSS, _, err = resident(r.server.pid()); err != nil {
		return f, err
	}
	say("%d sign-ins", p.sessions)
	if err := r.signIn(ctx); err != nil {
		return f, err
	}
	say("bytes")
	if err := r.bytes(ctx, &f); err != nil {
		return f, err
	}
	for round := range p.rounds {
		say("round %d of %d", round+1, p.rounds)
		for _, c := range levels {
			targets := []*target{r.floor, r.heirloom}
			if round%2 == 1 {
				slices.Reverse(targets)
			}
			for _, t := range targets {
				one, err := r.counted(ctx, t, burst{workers: c, warmup: p.warmup, window: p.window})
				if err != nil {
					return f, err
				}
				one.Round = round + 1
				f.Runs = append(f.Runs, one)
			}
		}
	}
	if f.LoadedRSS, f.PeakRSS, err = resident(r.server.pid()); err != nil {
		return f, err
	}
	say("one chain to generation 10,000")
	if err := r.generations(ctx, &f); err != nil {
		return f, err
	}
	say("forged tokens")
	if err := r.forge(ctx, &f); err != nil {
		return f, err
	}
	f.Rotations = r.heirloom.total
	if f.FileAfter, err = r.fileAfterStop(); err != nil {
		return f, err
	}
	return f, nil
}

// openFloor starts the floor: this program in another process, so that /proc tells its processor time.
func (r *rig) openFloor(ctx context.Context, path string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	p, _, err := launch(ctx, os.Stderr, self, "-floor", addr, "-journal", path)
	if err != nil {
		return nil, err
	}
	r.floor = &target{name: "floor", pid: p.pid(), caller: &caller{host: addr, path: "/oauth2/token", agent: agent, clientID: "demo-native"}}
	for i := range r.sessions {
		r.floor.chains = append(r.floor.chains, fmt.Sprintf("hrt_%070d", i))
	}
	return p.kill, nil
}

const agent = "heirloom-bench/1"

func (r *rig) restart(ctx context.Context) (err error) {
	if r.server, err = r.site.start(ctx, r.stderr); err != nil {
		return err
	}
	if r.heirloom == nil {
		r.heirloom = &target{name: "heirloom"}
	}
	r.heirloom.pid = r.server.pid()
	r.heirloom.caller, err = r.server.caller("demo-native", agent)
	return err
}

// signIn gives the target its chains: one person signs in once and authorizes the client again and again.
func (r *rig) signIn(ctx context.Context) error {
	person, err := newBrowser(r.server)
	if err != nil {
		return err
	}
	for n := range r.sessions + 1 + turns {
		token, _, err := person.grant(ctx, "demo-native", demoScope)
		if err != nil {
			return err
		}
		if n < r.sessions {
			r.heirloom.chains = append(r.heirloom.chains, token)
		} else {
			r.spare = append(r.spare, token)
		}
	}
	return nil
}

// fileAfterStop stops the server, which moves its write-ahead log into the file, and returns the file's size.
func (r *rig) fileAfterStop() (int64, error) {
	err := r.server.stop()
	r.server = nil
	if err != nil {
		return 0, fmt.Errorf("stop the server: %w", err)
	}
	db := filepath.Join(r.site.data, "heirloom.db")
	if info, err := os.Stat(db + "-wal"); err == nil && info.Size() > 0 {
		return 0, fmt.Errorf("%s-wal has %d bytes after a clean stop", db, info.Size())
	}
	info, err := os.Stat(db)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// bytes measures what rotations add to an empty log, alone and together. They are few enough to stay below the
// server's own checkpoints.
func (r *rig) bytes(ctx context.Context, f *figures) (err error) {
	for i, c := range []int{1, 64} {
		size, err := r.fileAfterStop()
		if err != nil {
			return err
		}
		if i == 0 {
			f.FileBefore = size
		}
		if err := r.restart(ctx); err != nil {
			return err
		}
		// What the start itself writes is no rotation's.
		before, err := r.server.metrics(ctx)
		if err != nil {
			return err
		}
		const n = 300
		if _, err := r.heirloom.drive(ctx, burst{workers: c, rotations: n}); err != nil {
			return err
		}
		after, err := r.server.metrics(ctx)
		if err != nil {
			return err
		}
		const wal = "heirloom_store_wal_bytes"
		per := (after[wal] - before[wal]) / n
		if c == 1 {
			f.WALAlone = per
		} else {
			f.WALTogether = per
		}
	}
	return nil
}

// counted drives a burst and adds what the server counted meanwhile.
func (r *rig) counted(ctx context.Context, t *target, b burst) (run, error) {
	if t == r.floor {
		return t.drive(ctx, b)
	}
	before, err := r.server.metrics(ctx)
	if err != nil {
		return run{}, err
	}
	one, err := t.drive(ctx, b)
	if err != nil {
		return run{}, err
	}
	after, err := r.server.metrics(ctx)
	if err != nil {
		return run{}, err
	}
	n := float64(one.Rotations)
	one.Statements = (after[statements] - before[statements]) / n
	one.Batches = (after["heirloom_store_batches_total"] - before["heirloom_store_batches_total"]) / n
	return one, nil
}

// generations compares a chain that is 10,000 generations old with chains that begin, in turns, so that a disturbance
// hits both.
func (r *rig) generations(ctx context.Context, f *figures) error {
	one := func(chain string) *target {
		return &target{name: "heirloom", pid: r.server.pid(), caller: r.heirloom.caller, chains: []string{chain}}
	}
	old := one(r.spare[turns])
	if _, err := old.drive(ctx, burst{workers: 1, rotations: oldAge}); err != nil {
		return err
	}
	both := [2][]run{}
	for turn := range turns {
		for i, t := range []*target{one(r.spare[turn]), old} {
			got, err := r.counted(ctx, t, burst{workers: 1, rotations: perTurn})
			if err != nil {
				return err
			}
			both[i] = append(both[i], got)
			r.heirloom.total += perTurn
		}
	}
	r.heirloom.total += oldAge
	for i, s := range []stretch{{What: "chains that begin", From: 1}, {What: "one old chain", From: oldAge + 1}} {
		s.Rotations = turns * perTurn
		s.P50, s.CPU, s.Statements = middle(both[i], func(r run) float64 { return r.P50 }), mean(both[i], func(r run) float64 { return r.CPU }),
			mean(both[i], func(r run) float64 { return r.Statements })
		f.Generations = append(f.Generations, s)
	}
	return nil
}

func middle(of []run, what func(run) float64) float64 {
	all := make([]float64, 0, len(of))
	for _, r := range of {
		all = append(all, what(r))
	}
	return median(all)
}

func mean(of []run, what func(run) float64) float64 {
	sum := 0.0
	for _, r := range of {
		sum += what(r)
	}
	return sum / float64(len(of))
}

// forge sends tokens whose tag is wrong and counts what they cost. The server's sweeper runs twice a minute and has
// statements of its own; it cannot meet all of three bursts, so the burst with the fewest tells.
func (r *rig) forge(ctx context.Context, f *figures) error {
	var bursts []forged
	for range 3 {
		one, err := r.forgeOnce(ctx)
		if err != nil {
			return err
		}
		bursts = append(bursts, one)
	}
	f.Forged = slices.MinFunc(bursts, func(a, b forged) int { return cmp.Compare(a.Statements, b.Statements) })
	return nil
}

func (r *rig) forgeOnce(ctx context.Context) (f forged, err error) {
	token := []byte(r.heirloom.chains[0])
	// The middle of the tag: the last character of the encoding has bits to spare.
	at := len(token) - 20
	if token[at]++; token[at] == 'z'+1 || token[at] == 'Z'+1 || token[at] == '9'+1 || token[at] == '-'+1 || token[at] == '_'+1 {
		token[at] = 'a'
	}
	request := r.heirloom.caller.refresh(nil, string(token), "")
	before, err := r.server.metrics(ctx)
	if err != nil {
		return f, err
	}
	from, err := accounts(r.server.pid())
	if err != nil {
		return f, err
	}
	const workers = 8
	counts, errs := make([]int64, workers), make([]error, workers)
	done := make(chan struct{})
	for w := range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			c := newConn(r.heirloom.caller.host)
			defer c.close()
			for end := time.Now().Add(time.Second); time.Now().Before(end); counts[w]++ {
				status, body, err := c.do(request)
				if err != nil || status != http.StatusBadRequest || member(body, "error") != "invalid_grant" {
					errs[w] = fmt.Errorf("a forged token was answered %d %.200q: %v", status, body, err)
					return
				}
			}
		}()
	}
	for range workers {
		<-done
	}
	to, err := accounts(r.server.pid())
	if err := errors.Join(append(errs, err)...); err != nil {
		return f, err
	}
	after, err := r.server.metrics(ctx)
	if err != nil {
		return f, err
	}
	for _, n := range counts {
		f.Sent += n
	}
	f.PerSecond = float64(f.Sent) / to.at.Sub(from.at).Seconds()
	f.CPU = (to.server - from.server) / float64(f.Sent) * 1000
	f.Statements = after[statements] - before[statements]
	return f, nil
}

var benchLine = regexp.MustCompile(`(?m)^BenchmarkRefresh/sqlite\S*\s.*\s(\d+) B/op\s+(\d+) allocs/op`)

// allocations takes those of one refresh through the handler from the server's own benchmark.
func (f *figures) allocations(ctx context.Context) error {
	out, err := goRun(ctx, "test", "-run", "^$", "-bench", "^BenchmarkRefresh$/sqlite", "-benchtime", "3000x", "-benchmem", "./server")
	if err != nil {
		return err
	}
	m := benchLine.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("no BenchmarkRefresh/sqlite in the output of go test -bench:\n%s", out)
	}
	f.AllocBytes, err = strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		return err
	}
	f.Allocations, err = strconv.ParseInt(string(m[2]), 10, 64)
	return err
}
