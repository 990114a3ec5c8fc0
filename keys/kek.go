package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	kekPrefix  = "hkek_" // lets secret scanners find leaks
	kekSize    = 32
	kekVersion = 1 // first byte of what Wrap returns
)

// KEK is the key-encryption key: it wraps keys before a store sees them, and is itself kept outside the database. Its zero
// value is invalid. It cannot be printed, logged or encoded. Safe for many goroutines.
type KEK struct{ k *kek }

type kek struct {
	id   string
	from string // where people find it, for messages
	aead cipher.AEAD
}

// ParseKEK reads a KEK from the text of an environment variable: "hkek_" and base64url, without padding, of 32 random
// bytes. Space around it is ignored. Errors never contain the text.
func ParseKEK(text string) (KEK, error) { return parseKEK(text, "the environment variable") }

func parseKEK(text, from string) (KEK, error) {
	const hint = `a line of "hkek_" and 43 characters of base64url (32 random bytes)`
	body, ok := strings.CutPrefix(strings.TrimSpace(text), kekPrefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(kekSize) {
		return KEK{}, fmt.Errorf("key-encryption key in %s: want %s", from, hint)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(raw) != kekSize {
		// The decoder's own message would quote a piece of the key.
		return KEK{}, fmt.Errorf("key-encryption key in %s: want %s", from, hint)
	}
	defer clear(raw)
	return newKEK(raw, from)
}

func newKEK(raw []byte, from string) (KEK, error) {
	aead, err := newGCM(raw)
	if err != nil {
		return KEK{}, fmt.Errorf("key-encryption key in %s: %v", from, err)
	}
	h := hmac.New(sha256.New, raw)
	h.Write([]byte("heirloom kek id v1"))
	return KEK{&kek{id: hex.EncodeToString(h.Sum(nil)[:8]), from: from, aead: aead}}, nil
}

// FileKEK reads a KEK from a file in the form that ParseKEK reads. If there is no such file, it makes one with a new key,
// mode 0600, complete and durable before it can be seen under that name; of several processes that do so at once, all get
// the same key. A file that others may read is refused (not on Windows, which has no such modes).
func FileKEK(path string) (KEK, error) {
	k, err := readKEK(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := createKEK(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return KEK{}, fmt.Errorf("create key-encryption key: %v", err)
	}
	return readKEK(path)
}

func readKEK(path string) (KEK, error) {
	f, err := os.Open(path)
	if err != nil {
		return KEK{}, fmt.Errorf("read key-encryption key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return KEK{}, fmt.Errorf("read key-encryption key: %v", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return KEK{}, fmt.Errorf("key-encryption key %s can be read by others (mode %04o): chmod 600 %s", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return KEK{}, fmt.Errorf("read key-encryption key: %v", err)
	}
	defer clear(text)
	return parseKEK(string(text), "file "+path)
}

func createKEK(path string) error {
	raw := make([]byte, kekSize)
	rand.Read(raw)
	defer clear(raw)
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".kek-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(kekPrefix + base64.RawURLEncoding.EncodeToString(raw) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	// Not a rename: that would replace the key of a process that was faster, and everything wrapped by it were lost.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a new name in a directory durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ID names the KEK without telling anything about it; it is stored with what the KEK wrapped. Empty for the zero value.
func (k KEK) ID() string {
	if k.k == nil {
		return ""
	}
	return k.k.id
}

// wrap seals a key; aad is authenticated with it.
func (k KEK) wrap(plain, aad []byte) []byte {
	return k.k.aead.Seal([]byte{kekVersion}, nil, plain, aad)
}

func (k KEK) unwrap(sealed, aad []byte) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != kekVersion {
		return nil, errors.New("unknown format: was it written by a newer version?")
	}
	return k.k.aead.Open(nil, nil, sealed[1:], aad)
}

// newGCM is AES-256-GCM with a random 96-bit nonce in front of the ciphertext.
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Format keeps the key out of every verb.
func (k KEK) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "[key-encryption key %s]", k.ID()) }

// LogValue keeps the key out of logs.
func (k KEK) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(k)) }

// MarshalJSON refuses.
func (k KEK) MarshalJSON() ([]byte, error) { return nil, errors.New("a KEK is not encoded") }
