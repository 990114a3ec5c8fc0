// Command bench measures the real server against a floor that no durable Go server can undercut (go run ./bench), and
// wears it down for longer (-soak): lost answers, retries, kills, thieves. It knows nothing of the server's inside: it
// signs in as a browser does and refreshes as any client does, over HTTP.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command(ctx, os.Args[1:])
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "heirloom bench:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("wrong flags")

func command(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	var p plan
	fs.StringVar(&p.binary, "binary", os.Getenv("HEIRLOOM_BIN"), "a built heirloom; empty: build it (HEIRLOOM_BIN)")
	fs.IntVar(&p.rounds, "rounds", 3, "rounds; each visits every number of clients, and there floor and server in turn")
	fs.IntVar(&p.sessions, "sessions", 1000, "virtual sessions, each with its own chain")
	fs.DurationVar(&p.warmup, "warmup", 500*time.Millisecond, "load before the window")
	fs.DurationVar(&p.window, "window", 4*time.Second, "what is measured of each cell")
	write := fs.String("write", "", "file whose figures block is rewritten, such as BENCHMARKS.md")
	jsonFile := fs.String("json", "", "file for all runs as JSON; - is standard output, instead of Markdown")
	floorAddr := fs.String("floor", "", "only serve the floor at this address")
	journal := fs.String("journal", "floor.log", "with -floor: its journal")
	s := soakPlan{}
	soak := fs.Bool("soak", false, "wear the server down instead, and exit 1 if an honest client is signed out")
	fs.Int64Var(&s.refreshes, "refreshes", 100_000, "with -soak: answered refreshes")
	fs.IntVar(&s.clients, "clients", 1000, "with -soak: virtual clients")
	fs.IntVar(&s.workers, "workers", 32, "with -soak: clients at work at the same time")
	fs.IntVar(&s.kills, "kills", 10, "with -soak: how often the server is killed and started again")
	fs.IntVar(&s.thefts, "thefts", 200, "with -soak: clients whose token is stolen once")
	fs.Float64Var(&s.loss, "loss", 0.05, "with -soak: share of requests whose answer is lost")
	fs.DurationVar(&s.leeway, "leeway", 10*time.Second, "with -soak: leeway of the demo clients but demo-strict")
	fs.Uint64Var(&s.seed, "seed", uint64(time.Now().UnixNano()), "with -soak: what chance begins with")
	if err := fs.Parse(args); err != nil {
		return errors.Join(errUsage, err)
	}
	switch {
	case fs.NArg() > 0 || p.rounds < 1 || p.sessions < 64 || p.window <= 0:
		fmt.Fprintln(os.Stderr, "heirloom bench: no arguments, at least 1 round, 64 sessions and a window")
		return errUsage
	case *floorAddr != "":
		return serveFloor(ctx, *floorAddr, *journal)
	case *soak:
		s.binary = p.binary
		return runSoak(ctx, s)
	}
	started := time.Now()
	f, err := measure(ctx, p, os.Stderr)
	if err != nil {
		return err
	}
	if *jsonFile != "-" {
		fmt.Printf("%s\n%s", f.block(), f.absolute())
	}
	if *jsonFile != "" {
		raw, err := json.MarshalIndent(f, "", "  ")
		if err != nil {
			return err
		}
		raw = append(raw, '\n')
		if *jsonFile == "-" {
			_, err = os.Stdout.Write(raw)
		} else {
			err = os.WriteFile(*jsonFile, raw, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if *write != "" {
		if err := rewrite(*write, f.block()); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "heirloom bench: done in", took(started))
	return nil
}

// runSoak wears the server down and tells what came of it.
func runSoak(ctx context.Context, s soakPlan) error {
	started := time.Now()
	fmt.Fprintf(os.Stderr, "heirloom soak: seed %d\n", s.seed)
	got, err := wear(ctx, s, os.Stderr)
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		return err
	}
	fmt.Println(string(raw))
	fmt.Fprintln(os.Stderr, "heirloom soak: done in", took(started))
	return got.check()
}
