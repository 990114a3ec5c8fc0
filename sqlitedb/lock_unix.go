//go:build unix

package sqlitedb

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// lock takes the file's side file for this process until it is closed, also by death.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%v: let the server's user write the directory", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner := make([]byte, 32)
		n, _ := f.ReadAt(owner, 0)
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s.lock: %v: the directory must be on a local disk", path, err)
		}
		return nil, fmt.Errorf("%s is in use by process %s: stop it first, or give this one another file",
			path, strings.TrimSpace(string(owner[:n])))
	}
	if err := f.Truncate(0); err == nil {
		// For the message above alone; a disk that is full must not stop a start.
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return f, nil
}
