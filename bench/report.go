package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"time"
)

const (
	blockBegin = "<!-- figures: `make bench` writes what is between these two lines -->"
	blockEnd   = "<!-- end of figures -->"
)

// at returns the runs of a target at a concurrency, by round.
func (f figures) at(target string, c int) []run {
	return slices.DeleteFunc(slices.Clone(f.Runs), func(r run) bool { return r.Target != target || r.Concurrency != c })
}

// ratios returns Heirloom's figure over the floor's, of the same round each, sorted.
func (f figures) ratios(c int, what func(run) float64) []float64 {
	ours, floors := f.at("heirloom", c), f.at("floor", c)
	var all []float64
	for i := range min(len(ours), len(floors)) {
		all = append(all, what(ours[i])/what(floors[i]))
	}
	slices.Sort(all)
	return all
}

func perSecond(r run) float64  { return r.PerSecond }
func p50(r run) float64        { return r.P50 }
func p99(r run) float64        { return r.P99 }
func cpuEach(r run) float64    { return r.CPU }
func statement(r run) float64  { return r.Statements }
func batchEach(r run) float64  { return r.Batches }
func otherCores(r run) float64 { return r.Others }

func spread(all []float64, format string) string {
	if len(all) == 0 {
		return "–"
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", median(all), all[0], all[len(all)-1])
}

// block is what BENCHMARKS.md shows: ratios, which travel from machine to machine, and counts, which do not change.
func (f figures) block() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Machine: %d cores, %s, %s. %d sessions, %d rounds of %s a cell; the median of the rounds' ratios, in parentheses the lowest and the highest.\n\n",
		f.Cores, f.OS, f.Go, f.Sessions, f.Rounds, f.Window)
	b.WriteString("| clients at once | rate ÷ floor | p50 ÷ floor | p99 ÷ floor | server CPU ÷ floor | statements per refresh | commits to disk per refresh |\n| --: | --: | --: | --: | --: | --: | --: |\n")
	for _, c := range levels {
		ours := f.at("heirloom", c)
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %.2f | %.3f |\n", c, spread(f.ratios(c, perSecond), "%.2f"), spread(f.ratios(c, p50), "%.2f"),
			spread(f.ratios(c, p99), "%.2f"), spread(f.ratios(c, cpuEach), "%.2f"), middle(ours, statement), middle(ours, batchEach))
	}
	young, old := f.Generations[0], f.Generations[1]
	b.WriteString("\n| what | figure |\n| --- | --: |\n")
	for _, row := range [][2]string{
		{"allocations per refresh, through the handler (net/http's own apart)", fmt.Sprintf("%d, %d bytes", f.Allocations, f.AllocBytes)},
		{"write-ahead log per rotation before a checkpoint: alone / 64 together", fmt.Sprintf("%.0f / %.0f bytes", f.WALAlone, f.WALTogether)},
		{fmt.Sprintf("growth of the file after %d rotations and a checkpoint", f.Rotations), fmt.Sprintf("%d bytes", f.FileAfter-f.FileBefore)},
		{fmt.Sprintf("a chain past generation 10,000 ÷ chains that begin: p50, CPU, statements (%d refreshes each)", old.Rotations),
			fmt.Sprintf("%.2f, %.2f, %.2f", old.P50/young.P50, old.CPU/young.CPU, old.Statements/young.Statements)},
		{"forged token: statements, server CPU ÷ a refresh's with 8 clients", fmt.Sprintf("%.0f, %.2f", f.Forged.Statements, f.Forged.CPU/middle(f.at("heirloom", 8), cpuEach))},
		{"resident memory: started / under load / at most", fmt.Sprintf("%s / %s / %s", mib(f.IdleRSS), mib(f.LoadedRSS), mib(f.PeakRSS))},
		{"cores that other programs took meanwhile, median", fmt.Sprintf("%.1f", middle(f.Runs, otherCores))},
	} {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], row[1])
	}
	return b.Bytes()
}

func mib(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }

// absolute is the table that says how fast this machine was today.
func (f figures) absolute() []byte {
	var b bytes.Buffer
	b.WriteString("| server | clients | refresh/s | p50 ms | p99 ms | server CPU-s per 1,000 | generator CPU-s per 1,000 | cores used by others |\n| --- | --: | --: | --: | --: | --: | --: | --: |\n")
	for _, c := range levels {
		for _, name := range []string{"floor", "heirloom"} {
			runs := f.at(name, c)
			fmt.Fprintf(&b, "| %s | %d | %.0f | %.2f | %.2f | %.3f | %.3f | %.1f |\n", name, c, middle(runs, perSecond), middle(runs, p50),
				middle(runs, p99), middle(runs, cpuEach), middle(runs, func(r run) float64 { return r.Generator }), middle(runs, otherCores))
		}
	}
	fmt.Fprintf(&b, "\nForged tokens: %.0f/s, %.3f CPU-s per 1,000.\n", f.Forged.PerSecond, f.Forged.CPU)
	return b.Bytes()
}

// rewrite puts the block between its two lines in a file.
func rewrite(path string, block []byte) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	out, err := between(raw, block)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, out, 0o644)
}

func between(text, block []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(text, []byte(blockBegin+"\n"))
	_, after, ok2 := bytes.Cut(rest, []byte(blockEnd+"\n"))
	if !ok || !ok2 {
		return nil, fmt.Errorf("it has not the lines %q and %q", blockBegin, blockEnd)
	}
	return bytes.Join([][]byte{before, []byte(blockBegin + "\n\n"), block, []byte("\n" + blockEnd + "\n"), after}, nil), nil
}

// took says how long something took, for a person.
func took(since time.Time) string { return time.Since(since).Round(100 * time.Millisecond).String() }
