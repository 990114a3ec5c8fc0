//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package main

import (
	"errors"
	"os"
)

// isTerminal reports whether a person sits at the other end.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// withoutEcho is not known here: a password that is shown while it is typed is worse
// than none.
func withoutEcho(*os.File, func() error) error {
	return errors.New("this system's terminal is not known: use --password-stdin")
}
