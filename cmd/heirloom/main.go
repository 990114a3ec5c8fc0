// Command heirloom is the authorization server and its command line. It is the only
// place that reads configuration and wires the parts; it decides nothing itself. All
// commands but serve, config check and version talk to a running server's admin API.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the whole program. It returns 0, 1 when what was asked for did not work, or 2
// when it was called wrongly.
func run(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// After the first signal the next one has its usual effect: a person who presses
	// Ctrl-C twice means it.
	context.AfterFunc(ctx, stop)

	root := newRoot(&terminal{stdin, stdout, stderr})
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	complain(stderr, err)
	if _, ok := errors.AsType[*usageError](err); ok {
		return 2
	}
	return 1
}

// terminal is where a command reads and writes.
type terminal struct {
	in       *os.File
	out, err io.Writer
}

// say writes words, as opposed to data, for people.
func (t *terminal) say(format string, args ...any) {
	fmt.Fprintf(t.err, "heirloom: "+format+"\n", args...)
}

// complain writes each error with its hint.
func complain(w io.Writer, err error) {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range all.Unwrap() {
			complain(w, e)
		}
		return
	}
	fmt.Fprintf(w, "heirloom: %s\n", strings.ReplaceAll(err.Error(), "\n", "\nheirloom: "))
	if h, ok := errors.AsType[*hintError](err); ok {
		fmt.Fprintf(w, "heirloom: hint: %s\n", h.hint)
	}
}

// usageError is a command that was called wrongly.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usage(err error) error { return &usageError{err} }

// hintError is an error with a line on what to do.
type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

func hinted(err error, hint string) error { return &hintError{err, hint} }

// bare takes the operation off a file error, which the message names itself.
func bare(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return err
}

func newRoot(t *terminal) *cobra.Command {
	root := group("heirloom", "an OAuth 2.1 and OpenID Connect server built around refresh token families",
		serveCommand(t), userCommand(t), clientCommand(t), familyCommand(t), sessionCommand(t), keysCommand(t),
		eventCommand(t), configCommand(t), versionCommand(t))
	root.Long = `Heirloom is an OAuth 2.1 and OpenID Connect server. Its refresh tokens are heirlooms:
each is used once, and when a copy turns up the whole family ends.

Try it:   heirloom serve --dev`
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions = cobra.CompletionOptions{HiddenDefaultCmd: true}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return hinted(usage(err), fmt.Sprintf("see %s --help", c.CommandPath()))
	})
	return root
}

// name is how messages call a command; they begin with the program's name anyway.
func name(c *cobra.Command) string {
	path := c.CommandPath()
	return strings.TrimPrefix(path, "heirloom ")
}

// group is a command that only has commands below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 && !c.HasParent() {
			return hinted(usage(errors.New("which command?")), "see heirloom --help; to try it: heirloom serve --dev")
		}
		if len(args) == 0 {
			return hinted(usage(fmt.Errorf("%s: which command?", name(c))), fmt.Sprintf("see %s --help", c.CommandPath()))
		}
		return hinted(usage(fmt.Errorf("unknown command %q", strings.TrimPrefix(name(c)+" "+args[0], "heirloom "))), fmt.Sprintf("see %s --help", c.CommandPath()))
	}
	c.AddCommand(below...)
	return c
}
