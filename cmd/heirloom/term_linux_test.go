package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// openTerminal makes a pseudo-terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	var n, zero uint32
	for request, arg := range map[uintptr]*uint32{syscall.TIOCSPTLCK: &zero, syscall.TIOCGPTN: &n} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Fatal(errno)
		}
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	var s syscall.Termios
	if err := termios(f, getTermios, &s); err != nil {
		t.Fatal(err)
	}
	return s.Lflag&syscall.ECHO != 0
}

func TestPasswordsAreNotEchoedAndTheTerminalIsGivenBack(t *testing.T) {
	_, tty := openTerminal(t)
	if !isTerminal(tty) {
		t.Error("a terminal is not seen as one")
	}
	if f, err := os.Open(os.DevNull); err != nil || isTerminal(f) {
		t.Errorf("%s is seen as a terminal (%v)", os.DevNull, err)
	}
	failed := errors.New("failed")
	for _, want := range []error{nil, failed} {
		if !echoes(t, tty) {
			t.Fatal("the terminal does not echo to begin with")
		}
		err := withoutEcho(tty, func() error {
			if echoes(t, tty) {
				t.Error("the terminal echoes a password")
			}
			return want
		})
		if err != want || !echoes(t, tty) {
			t.Errorf("err %v, want %v; echo after: %v", err, want, echoes(t, tty))
		}
	}
}

// A person who presses Ctrl-C at the prompt gets a terminal back that echoes.
func TestAnInterruptedPromptGivesTheTerminalBack(t *testing.T) {
	master, tty := openTerminal(t)
	go func() {
		// What the program writes must be read, or it waits.
		buf := make([]byte, 1024)
		for {
			if _, err := master.Read(buf); err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := askPassword(ctx, &terminal{in: tty, err: tty})
		done <- err
	}()
	for deadline := time.Now().Add(5 * time.Second); echoes(t, tty) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	select {
	case err := <-done:
		if err == nil || err.Error() != "interrupted" || !echoes(t, tty) {
			t.Errorf("err %v, echo %v", err, echoes(t, tty))
		}
	case <-time.After(5 * time.Second):
		t.Error("the prompt did not end")
	}
}
