package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// File is a Store in one file that any number of processes of one machine share. The
// file has mode 0600 and is replaced as a whole: a crash leaves the old record or the
// new one. Beside it lie two lock files, which stay; the operating system frees
// the locks of a process that dies. A record that can not be read is an error and is
// never overwritten. It is safe for many goroutines. Network file systems whose locks
// or renames do not hold between machines are not for it.
type File struct {
	path string
	key  []byte
}

// NewFile returns the store in the file at path; its directory must exist. key, when not
// nil, has 32 bytes and seals the record (AES-256-GCM); keep it where the file is not.
func NewFile(path string, key []byte) (*File, error) {
	if path == "" {
		return nil, errors.New("token file: the path is empty")
	}
	if key != nil && len(key) != 32 {
		return nil, fmt.Errorf("token file %s: the sealing key has %d bytes: it needs 32", path, len(key))
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("token file: %v", err)
	}
	// A link is followed once, here: renaming over it would leave its target behind.
	if target, err := filepath.EvalSymlinks(abs); err == nil {
		abs = target
	}
	dir := filepath.Dir(abs)
	if fi, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("token file: %v: create the directory first, with mode 0700", err)
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("token file: %s is not a directory", dir)
	}
	return &File{path: abs, key: slices.Clone(key)}, nil
}

// maxRecord bounds what is read, in bytes.
const maxRecord = 1 << 20

func (f *File) read() ([]byte, Version, error) {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("token file: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxRecord+1))
	if err != nil {
		return nil, "", fmt.Errorf("token file %s: %w", f.path, err)
	}
	if len(b) > maxRecord {
		return nil, "", fmt.Errorf("token file %s: it is larger than any record", f.path)
	}
	sum := sha256.Sum256(b)
	return b, Version(hex.EncodeToString(sum[:])), nil
}

// Load implements Store.
func (f *File) Load(context.Context) (Record, Version, error) {
	b, ver, err := f.read()
	if err != nil || ver == "" {
		return Record{}, "", err
	}
	plain, err := unseal(f.key, b, "file")
	if err != nil {
		return Record{}, "", fmt.Errorf("token file %s: %w; it was left as it is: move it away to sign in afresh", f.path, err)
	}
	r, err := Decode(plain)
	if err != nil {
		return Record{}, "", fmt.Errorf("token file %s: %w; it was left as it is: move it away to sign in afresh", f.path, err)
	}
	return r, ver, nil
}

// Swap implements Store.
func (f *File) Swap(ctx context.Context, old Version, next Record) error {
	b, err := seal(f.key, Encode(next), "file")
	if err != nil {
		return fmt.Errorf("token file %s: %w", f.path, err)
	}
	unlock, err := f.lock(ctx, ".swap")
	if err != nil {
		return err
	}
	defer unlock()
	_, ver, err := f.read()
	if err != nil {
		return err
	}
	if ver != old {
		return ErrChanged
	}
	return replace(f.path, b)
}

// replace puts b into a file so that a crash at any moment leaves the old content or the
// new one, and the new one is on disk when it returns nil.
func replace(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if _, err := tmp.Write(b); err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	if err := tmp.Sync(); err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	if err := tmp.Close(); err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	if runtime.GOOS == "windows" {
		return nil // directories can not be synced there; NTFS journals the rename
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	return nil
}

// Lock implements Locker.
func (f *File) Lock(ctx context.Context) (unlock func(), err error) {
	return f.lock(ctx, ".lock")
}

// lock takes the lock file with this ending. It asks again and again rather than wait in
// the kernel, where a context can not reach. The file tells holders apart.
func (f *File) lock(ctx context.Context, ending string) (unlock func(), err error) {
	name := f.path + ending
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock token file: %w", err)
	}
	var before string
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		free, err := tryLock(file)
		if err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if free {
			if _, err := file.WriteAt([]byte(draw()), 0); err != nil {
				_ = file.Close()
				return nil, fmt.Errorf("lock %s: %w", name, err)
			}
			return func() { _ = file.Close() }, nil // closing frees it
		}
		if before == "" {
			before = holder(file)
		}
		if err := sleep(ctx, wait/2+rand.N(wait)); err != nil {
			after := holder(file)
			_ = file.Close()
			if after != before {
				return nil, fmt.Errorf("lock %s: %w", name, ErrBusy)
			}
			return nil, fmt.Errorf("lock %s: somebody holds it: %w", name, err)
		}
	}
}

// holder reads who took a lock last.
func holder(f *os.File) string {
	var b [64]byte
	n, _ := f.ReadAt(b[:], 0) // an empty file is nobody
	return string(b[:n])
}

// sleep waits for d or until ctx ends, which is an error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
