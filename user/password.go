package user

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// Lengths of a password that is being set, in bytes. There are no other rules
// (NIST SP 800-63B §3.1.1.2: no composition rules, no truncation, all of
// Unicode, spaces too). A password is taken byte for byte: never trimmed and
// never normalised.
const (
	MinPassword = 8
	MaxPassword = 1024
)

// Params are the costs of argon2id (RFC 9106).
type Params struct {
	Memory  uint32 // KiB
	Time    uint32 // passes
	Threads uint8
}

// DefaultParams are 19 MiB, two passes, one thread: OWASP's choice for servers
// that check passwords online.
func DefaultParams() Params { return Params{Memory: 19 * 1024, Time: 2, Threads: 1} }

const (
	saltLen = 16
	keyLen  = 32

	// What a stored hash may cost at most: an imported or tampered record must
	// not be able to take the server's memory.
	maxMemory  = 256 * 1024
	maxTime    = 16
	maxThreads = 16
)

// Check tells which cost is out of bounds.
func (p Params) Check() error {
	switch {
	case p.Threads < 1 || p.Threads > maxThreads:
		return fmt.Errorf("argon2id: %d threads: want 1 to %d", p.Threads, maxThreads)
	case p.Time < 1 || p.Time > maxTime:
		return fmt.Errorf("argon2id: %d passes: want 1 to %d", p.Time, maxTime)
	case p.Memory < 8*uint32(p.Threads) || p.Memory > maxMemory:
		return fmt.Errorf("argon2id: %d KiB: want %d to %d", p.Memory, 8*uint32(p.Threads), maxMemory)
	}
	return nil
}

// CheckPassword tells whether a password may be set.
func CheckPassword(password string) error {
	switch n := len(password); {
	case n < MinPassword:
		return fmt.Errorf("the password is too short: use at least %d characters", MinPassword)
	case n > MaxPassword:
		return fmt.Errorf("the password is too long: use at most %d bytes", MaxPassword)
	case !utf8.ValidString(password):
		return errors.New("the password is not valid UTF-8")
	}
	return nil
}

// HashPassword checks a new password and returns its PHC string with a fresh
// salt. It takes p.Memory of memory and tens of milliseconds of one processor:
// a server calls it through a Hasher.
func HashPassword(password string, p Params) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	if err := p.Check(); err != nil {
		return "", err
	}
	h := hash{Params: p, salt: make([]byte, saltLen)}
	rand.Read(h.salt) // never fails since Go 1.24
	h.key = h.derive(password, keyLen)
	return h.String(), nil
}

// VerifyPassword compares a password with a stored PHC string, in constant time
// and at the cost the string names. outdated asks for a new hash, with
// DefaultParams, of the password that was just proven; it is false when ok is
// false. The error says that phc is no argon2id hash that HashPassword could
// have written, and says nothing about the password.
func VerifyPassword(phc, password string) (ok, outdated bool, err error) {
	return verify(phc, password, DefaultParams())
}

func verify(phc, password string, want Params) (ok, outdated bool, err error) {
	h, err := parsePHC(phc)
	if err != nil {
		return false, false, err
	}
	// Nothing so long was ever set; hashing it would only serve a flood. The
	// answer is early for every user alike, so it tells nobody who exists.
	if len(password) > MaxPassword {
		return false, false, nil
	}
	if subtle.ConstantTimeCompare(h.derive(password, uint32(len(h.key))), h.key) != 1 {
		return false, false, nil
	}
	return true, h.weakerThan(want), nil
}

// hash is a parsed PHC string.
type hash struct {
	Params
	salt, key []byte
}

func (h hash) derive(password string, n uint32) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.Time, h.Memory, h.Threads, n)
}

func (h hash) weakerThan(p Params) bool {
	return h.Memory < p.Memory || h.Time < p.Time || len(h.salt) < saltLen || len(h.key) < keyLen
}

func (h hash) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.Memory, h.Time, h.Threads, b64.EncodeToString(h.salt), b64.EncodeToString(h.key))
}

var errPHC = errors.New("password hash: want $argon2id$v=19$m=…,t=…,p=…$salt$hash")

// parsePHC accepts one spelling of each hash. It never repeats the string in an
// error: it is a secret's digest and errors are logged.
func parsePHC(s string) (hash, error) {
	f := strings.Split(s, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != "v="+strconv.Itoa(argon2.Version) {
		return hash{}, errPHC
	}
	costs := strings.Split(f[3], ",")
	if len(costs) != 3 {
		return hash{}, errPHC
	}
	var n [3]uint64
	for i, name := range []string{"m=", "t=", "p="} {
		v, ok := strings.CutPrefix(costs[i], name)
		if !ok {
			return hash{}, errPHC
		}
		var err error
		if n[i], err = strconv.ParseUint(v, 10, 32); err != nil || n[i] > 1<<31 {
			return hash{}, errPHC
		}
	}
	if n[2] > maxThreads {
		return hash{}, fmt.Errorf("password hash: %d threads: at most %d are allowed", n[2], maxThreads)
	}
	h := hash{Params: Params{Memory: uint32(n[0]), Time: uint32(n[1]), Threads: uint8(n[2])}}
	if err := h.Check(); err != nil {
		return hash{}, fmt.Errorf("password hash: %w", err)
	}
	var err error
	b64 := base64.RawStdEncoding.Strict()
	if h.salt, err = b64.DecodeString(f[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return hash{}, errPHC
	}
	if h.key, err = b64.DecodeString(f[5]); err != nil || len(h.key) < 16 || len(h.key) > 64 {
		return hash{}, errPHC
	}
	if h.String() != s {
		return hash{}, errPHC
	}
	return h, nil
}

// ErrBusy says that too many passwords are waiting to be checked. It is the
// server's fault and not the user's: answer 503 with Retry-After.
var ErrBusy = errors.New("too many passwords are being checked: try again in a few seconds")

// HasherConfig bounds what password hashing may take from the machine.
type HasherConfig struct {
	Params Params // zero: DefaultParams
	// Parallel is how many hashes are computed at once, each with Params.Memory
	// of memory; zero: GOMAXPROCS.
	Parallel int
	// Queue is how many more callers may wait for their turn before ErrBusy;
	// zero: 16 for each parallel hash, a wait of about a second.
	Queue int
}

// Hasher computes password hashes, a bounded number at once. It is safe for many
// goroutines.
type Hasher struct {
	params Params
	dummy  string
	places chan struct{} // one for each caller, waiting or computing
	turns  chan struct{} // one for each caller that computes
}

// NewHasher computes one hash, of nobody's password, and returns a Hasher.
func NewHasher(c HasherConfig) (*Hasher, error) {
	if c.Params == (Params{}) {
		c.Params = DefaultParams()
	}
	if c.Parallel == 0 {
		c.Parallel = runtime.GOMAXPROCS(0)
	}
	if c.Parallel < 0 || c.Queue < 0 {
		return nil, fmt.Errorf("password hasher: parallel %d and queue %d must not be negative", c.Parallel, c.Queue)
	}
	if c.Queue == 0 {
		c.Queue = 16 * c.Parallel
	}
	dummy, err := HashPassword(rand.Text(), c.Params)
	if err != nil {
		return nil, fmt.Errorf("password hasher: %w", err)
	}
	return &Hasher{
		params: c.Params,
		dummy:  dummy,
		places: make(chan struct{}, c.Parallel+c.Queue),
		turns:  make(chan struct{}, c.Parallel),
	}, nil
}

// Hash is HashPassword with the Hasher's costs. Besides its errors it returns
// ErrBusy, or the context's error when the caller went away while waiting.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	// Before queueing: a refused password must not cost a turn.
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	leave, err := h.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	return HashPassword(password, h.params)
}

// Verify is VerifyPassword with the Hasher's costs as the measure for outdated.
// An empty phc, of a user without a password, costs what a hash costs and is
// never ok. Errors as for Hash and VerifyPassword.
func (h *Hasher) Verify(ctx context.Context, phc, password string) (ok, outdated bool, err error) {
	if phc == "" {
		return false, false, h.VerifyNothing(ctx, password)
	}
	leave, err := h.enter(ctx)
	if err != nil {
		return false, false, err
	}
	defer leave()
	return verify(phc, password, h.params)
}

// VerifyNothing takes the time that Verify takes. Call it for a username that
// does not exist, so that the answer's delay does not tell so. It is nil when
// the time was spent, else ErrBusy or the context's error.
func (h *Hasher) VerifyNothing(ctx context.Context, password string) error {
	leave, err := h.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, _, err = verify(h.dummy, password, h.params)
	return err
}

func (h *Hasher) enter(ctx context.Context) (leave func(), err error) {
	select {
	case h.places <- struct{}{}:
	default:
		return nil, ErrBusy
	}
	select {
	case h.turns <- struct{}{}:
		return func() { <-h.turns; <-h.places }, nil
	case <-ctx.Done():
		<-h.places
		return nil, ctx.Err()
	}
}
