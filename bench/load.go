package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// target is a token endpoint under load, with the chains that live there.
type target struct {
	name   string
	pid    int
	caller *caller
	chains []string // the head of each, as its client knows it
	total  int64    // rotations so far
}

// burst says how to load a target: for a time, or for a number of rotations.
type burst struct {
	workers        int
	warmup, window time.Duration
	rotations      int64 // 0: as many as fit in the window; else warmup and window do not count
}

// run is what one burst was like. Times are in milliseconds.
type run struct {
	Target      string  `json:"target"`
	Round       int     `json:"round"`
	Concurrency int     `json:"concurrency"`
	Rotations   int64   `json:"rotations"` // warm-up included
	PerSecond   float64 `json:"per_second"`
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	CPU         float64 `json:"server_cpu_s_per_1000"`
	Generator   float64 `json:"generator_cpu_s_per_1000"`
	Others      float64 `json:"cores_used_by_others"`
	Statements  float64 `json:"statements_per_refresh,omitempty"`
	Batches     float64 `json:"commits_per_refresh,omitempty"`
}

// drive runs a burst in a closed loop: each worker has one connection and its own share of the chains, and sends the
// next refresh when the last one is answered. Every answer must be a 200 with an access token and a refresh token
// other than the one sent; the first that is not ends the burst with an error, for a figure with failures in it is
// none.
func (t *target) drive(ctx context.Context, b burst) (run, error) {
	workers := min(b.workers, len(t.chains))
	times := make([][]float64, workers)
	var left, sent atomic.Int64
	left.Store(b.rotations)
	begin := time.Now()
	open, end := begin.Add(b.warmup), begin.Add(b.warmup+b.window)
	if b.rotations > 0 {
		open, end = begin, begin.Add(time.Hour)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			c := newConn(t.caller.host)
			defer c.close()
			var out []byte
			for i := w; ctx.Err() == nil; i += workers {
				if i >= len(t.chains) {
					i = w
				}
				if b.rotations > 0 && left.Add(-1) < 0 {
					return
				}
				started := time.Now()
				if !started.Before(end) {
					return
				}
				out = t.caller.refresh(out[:0], t.chains[i], "")
				status, body, err := c.do(out)
				now := time.Now()
				next := member(body, "refresh_token")
				if err != nil || status != 200 || next == "" || next == t.chains[i] || member(body, "access_token") == "" {
					cancel(fmt.Errorf("%s answered %d %.200q: %v", t.name, status, body, err))
					return
				}
				t.chains[i] = next
				sent.Add(1)
				if now.After(open) && !now.After(end) {
					times[w] = append(times[w], now.Sub(started).Seconds()*1000)
				}
			}
		})
	}
	if b.rotations == 0 {
		wait(ctx, open)
	}
	from, err1 := accounts(t.pid)
	if b.rotations == 0 {
		wait(ctx, end)
	} else {
		all.Wait()
	}
	to, err2 := accounts(t.pid)
	all.Wait()
	if err := errors.Join(context.Cause(ctx), err1, err2); err != nil {
		return run{}, err
	}
	flat := slices.Concat(times...)
	if len(flat) == 0 {
		return run{}, fmt.Errorf("%s answered nothing in %v", t.name, b.window)
	}
	slices.Sort(flat)
	n, took := float64(len(flat)), to.at.Sub(from.at).Seconds()
	server, own := to.server-from.server, to.own-from.own
	t.total += sent.Load()
	return run{
		Target: t.name, Concurrency: b.workers, Rotations: sent.Load(), PerSecond: n / took,
		P50: percentile(flat, 0.50), P99: percentile(flat, 0.99),
		CPU: server / n * 1000, Generator: own / n * 1000, Others: max(0, (to.machine-from.machine-server-own)/took),
	}, nil
}

func wait(ctx context.Context, until time.Time) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Until(until)):
	}
}

// account is the processor time used so far, in seconds.
type account struct {
	at                   time.Time
	server, own, machine float64
}

func accounts(pid int) (a account, err error) {
	a.at = time.Now()
	if a.server, err = cpu(pid); err != nil {
		return a, err
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return a, err
	}
	a.own = float64(own.Utime.Nano()+own.Stime.Nano()) / 1e9
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return a, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	f := strings.Fields(line)
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // user nice system irq softirq steal
		if i >= len(f) {
			return a, fmt.Errorf("/proc/stat: %d fields", len(f))
		}
		n, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return a, fmt.Errorf("/proc/stat: %v", err)
		}
		a.machine += n / ticks
	}
	return a, nil
}

// percentile of a sorted list, by nearest rank.
func percentile(sorted []float64, p float64) float64 {
	return sorted[max(0, int(math.Ceil(p*float64(len(sorted))))-1)]
}

func median(of []float64) float64 {
	s := slices.Sorted(slices.Values(of))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
