//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package main

import (
	"os"
	"syscall"
	"unsafe"
)

func termios(f *os.File, request uintptr, t *syscall.Termios) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(t))); errno != 0 {
		return errno
	}
	return nil
}

// isTerminal reports whether a person sits at the other end.
func isTerminal(f *os.File) bool {
	var t syscall.Termios
	return termios(f, getTermios, &t) == nil
}

// withoutEcho calls f while what is typed is not shown.
func withoutEcho(tty *os.File, f func() error) error {
	var before syscall.Termios
	if err := termios(tty, getTermios, &before); err != nil {
		return err
	}
	quiet := before
	quiet.Lflag &^= syscall.ECHO
	quiet.Lflag |= syscall.ICANON | syscall.ISIG
	if err := termios(tty, setTermios, &quiet); err != nil {
		return err
	}
	defer termios(tty, setTermios, &before)
	return f()
}
