package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heirloom-auth/heirloom/user"
)

// passwordFlags say where a new password comes from. It is never an argument: others
// can read command lines.
type passwordFlags struct {
	stdin, generate, none bool
}

func (p *passwordFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&p.stdin, "password-stdin", false, "read the password from the first line of standard input")
	c.Flags().BoolVar(&p.generate, "generate", false, "make a password and print it")
}

// read returns a new password; shown says that it was generated, so nobody knows it yet.
func (p passwordFlags) read(ctx context.Context, t *terminal) (password string, shown bool, err error) {
	switch {
	case p.none && (p.stdin || p.generate), p.stdin && p.generate:
		return "", false, usage(errors.New("--generate, --password-stdin and --no-password exclude each other"))
	case p.none:
		return "", false, nil
	case p.generate:
		return newPassword(), true, nil
	case p.stdin:
		password, err = firstLine(t.in)
	default:
		password, err = askPassword(ctx, t)
	}
	if err != nil {
		return "", false, err
	}
	if err := user.CheckPassword(password); err != nil {
		return "", false, err
	}
	return password, false, nil
}

// firstLine reads a line as it is: a password may begin or end with a space.
func firstLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 1<<16)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), nil
}

// askPassword asks twice at the terminal and shows nothing.
func askPassword(ctx context.Context, t *terminal) (string, error) {
	if !isTerminal(t.in) {
		return "", hinted(usage(errors.New("standard input is no terminal to ask for a password")), "use --password-stdin or --generate")
	}
	var answers [2]string
	for i, prompt := range []string{"New password: ", "The same again: "} {
		fmt.Fprint(t.err, prompt)
		err := withoutEcho(t.in, func() (err error) {
			answers[i], err = firstLineUntil(ctx, t.in)
			return err
		})
		fmt.Fprintln(t.err)
		if err != nil {
			return "", err
		}
	}
	if answers[0] != answers[1] {
		return "", hinted(errors.New("the two passwords differ"), "try again")
	}
	return answers[0], nil
}

// firstLineUntil gives up when ctx ends, so that an interrupted prompt leaves a terminal
// that shows what is typed. The line itself can not be un-read: the program ends then.
func firstLineUntil(ctx context.Context, f *os.File) (string, error) {
	type answer struct {
		line string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		line, err := firstLine(f)
		got <- answer{line, err}
	}()
	select {
	case a := <-got:
		return a.line, a.err
	case <-ctx.Done():
		return "", errors.New("interrupted")
	}
}
