package sqlitedb

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock takes the file's side file for this process until it is closed, also by death:
// it opens it without sharing.
func lock(path string) (*os.File, error) {
	name, err := syscall.UTF16PtrFromString(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("lock %s.lock: %v", path, err)
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		const sharingViolation = syscall.Errno(32)
		if errors.Is(err, sharingViolation) {
			return nil, fmt.Errorf("%s is in use by another process: stop it first, or give this one another file", path)
		}
		return nil, fmt.Errorf("lock %s.lock: %v", path, err)
	}
	return os.NewFile(uintptr(h), path+".lock"), nil
}
