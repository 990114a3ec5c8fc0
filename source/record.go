package source

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Tokens is what an authorization server handed out. It prints as "[tokens]" and is not
// encoded as JSON, so that it reaches no log and no browser by accident: its fields do
// only where they are named.
type Tokens struct {
	AccessToken  string
	RefreshToken string // "": the session can not be renewed
	IDToken      string // "": none; it is not checked here
	Scope        string // space-separated; "": what was asked for

	// Issued is when the answer arrived and Expiry when the access token dies, both by the
	// clock of the machine that received it; a zero Expiry means that the server did not say.
	Issued, Expiry time.Time
	// SessionExpiry is when the session ends if it is not renewed before, SessionEnds when it
	// ends at the latest; zero: never, or the server does not tell
	// (draft-ietf-oauth-refresh-token-expiration-03).
	SessionExpiry, SessionEnds time.Time
}

// Format implements fmt.Formatter: no verb prints a token.
func (Tokens) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[tokens]")) }

// LogValue implements slog.LogValuer.
func (Tokens) LogValue() slog.Value { return slog.StringValue("[tokens]") }

// MarshalJSON implements json.Marshaler: it refuses.
func (Tokens) MarshalJSON() ([]byte, error) {
	return nil, errors.New("tokens are not encoded as JSON: name the field that is meant, or use Encode")
}

// Record is what a Store keeps for one session.
type Record struct {
	Tokens Tokens
	// RetryKey is the Idempotency-Key with which Tokens.RefreshToken is presented, each time.
	// It is drawn once and stored before it is first sent: then a retry by anybody who shares
	// the store proves that it is one, however late it comes.
	RetryKey string
	// Ended says why the session is over: SignedOut, or the error code of the server; "": it
	// is not. There are no tokens then.
	Ended string
	// Offset is how far the server's clock was ahead of the machine that received the tokens;
	// it counts if Dated.
	Offset time.Duration
	Dated  bool
}

// SignedOut is the Ended of a session that its user ended here.
const SignedOut = "signed_out"

// Format implements fmt.Formatter: no verb prints a token or key.
func (r Record) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "[record ended=%q]", r.Ended) }

// LogValue implements slog.LogValuer.
func (r Record) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// Version names one state of a store. It means something to the store that gave it
// only. "" is the state of a store that holds nothing.
type Version string

// Store keeps the record of one session. All who share a session, also in other
// processes and on other machines, share its store.
type Store interface {
	// Load returns the record and its version; a zero Record and "" if there is none.
	Load(ctx context.Context) (Record, Version, error)
	// Swap replaces the record if the store still is at version old; ErrChanged otherwise.
	// When it returns nil, the record is durable. Any other error than ErrChanged leaves the
	// outcome unknown.
	Swap(ctx context.Context, old Version, next Record) error
}

// Locker is what a Store may offer besides: one refresh at a time among all who share it.
type Locker interface {
	// Lock waits until the lock is free or ctx ends. It is freed by calling unlock, once, and
	// by itself some time after the holder crashed. It keeps nobody from loading or swapping.
	// The error is ErrBusy if the lock changed hands during the wait: then nobody is stuck.
	Lock(ctx context.Context) (unlock func(), err error)
}

// ErrChanged says that somebody else wrote to the store since it was read.
var ErrChanged = errors.New("the stored tokens were changed meanwhile")

// ErrBusy says that a lock was not had in time though others got it meanwhile.
var ErrBusy = errors.New("others hold the lock in turn")

// Memory is a Store in memory, for one process. It is safe for many goroutines; its zero
// value is empty and ready.
type Memory struct {
	mu  sync.Mutex
	rec Record // guarded by mu
	n   int    // guarded by mu; the version
}

// Load implements Store.
func (m *Memory) Load(context.Context) (Record, Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec, m.version(), nil
}

func (m *Memory) version() Version {
	if m.n == 0 {
		return ""
	}
	return Version(fmt.Sprint(m.n))
}

// Swap implements Store.
func (m *Memory) Swap(_ context.Context, old Version, next Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.version() != old {
		return ErrChanged
	}
	m.rec = next
	m.n++
	return nil
}

// stored is the body of format 1. Times are Unix milliseconds, 0 for none.
type stored struct {
	AccessToken   string `json:"access_token,omitempty"`
	RefreshToken  string `json:"refresh_token,omitempty"`
	IDToken       string `json:"id_token,omitempty"`
	Scope         string `json:"scope,omitempty"`
	Issued        int64  `json:"issued,omitempty"`
	Expiry        int64  `json:"expiry,omitempty"`
	SessionExpiry int64  `json:"session_expiry,omitempty"`
	SessionEnds   int64  `json:"session_ends,omitempty"`
	RetryKey      string `json:"retry_key,omitempty"`
	Ended         string `json:"ended,omitempty"`
	Offset        int64  `json:"offset,omitempty"` // milliseconds
	Dated         bool   `json:"dated,omitempty"`
}

// The first line of an encoded record is magic, a space, and the SHA-256 of the rest in
// hexadecimal. A format that changes gets another number.
const magic = "heirloom-tokens-1"

// Encode writes a record for a Store, in a format that Decode reads for ever and that
// shows any damage. Times are kept to the millisecond.
func Encode(r Record) []byte {
	body, err := json.Marshal(stored{
		AccessToken: r.Tokens.AccessToken, RefreshToken: r.Tokens.RefreshToken, IDToken: r.Tokens.IDToken, Scope: r.Tokens.Scope,
		Issued: millis(r.Tokens.Issued), Expiry: millis(r.Tokens.Expiry),
		SessionExpiry: millis(r.Tokens.SessionExpiry), SessionEnds: millis(r.Tokens.SessionEnds),
		RetryKey: r.RetryKey, Ended: r.Ended, Offset: r.Offset.Milliseconds(), Dated: r.Dated,
	})
	if err != nil {
		panic(err) // strings and numbers can always be written
	}
	body = append(body, '\n')
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "%s %x\n%s", magic, sum, body)
}

// Decode reads what Encode wrote.
func Decode(b []byte) (Record, error) {
	head, body, ok := bytes.Cut(b, []byte("\n"))
	name, sum, ok2 := bytes.Cut(head, []byte(" "))
	if !ok || !ok2 || string(name) != magic {
		return Record{}, fmt.Errorf("not a token record of this version (%s)", magic)
	}
	want := sha256.Sum256(body)
	if hex.EncodeToString(want[:]) != string(sum) {
		return Record{}, errors.New("the token record is damaged: its checksum differs")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	var s stored
	if err := dec.Decode(&s); err != nil {
		return Record{}, fmt.Errorf("the token record is damaged: %v", err)
	}
	if dec.More() {
		return Record{}, errors.New("the token record is damaged: something follows it")
	}
	if abs(s.Offset) > int64(maxLifetime/time.Millisecond) {
		return Record{}, errors.New("the token record is damaged: offset")
	}
	return Record{
		Tokens: Tokens{
			AccessToken: s.AccessToken, RefreshToken: s.RefreshToken, IDToken: s.IDToken, Scope: s.Scope,
			Issued: moment(s.Issued), Expiry: moment(s.Expiry),
			SessionExpiry: moment(s.SessionExpiry), SessionEnds: moment(s.SessionEnds),
		},
		RetryKey: s.RetryKey, Ended: s.Ended, Offset: time.Duration(s.Offset) * time.Millisecond, Dated: s.Dated,
	}, nil
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func abs(n int64) int64 { return max(n, -n) }

// draw returns 32 random bytes as text: a retry key, a state, a PKCE verifier.
func draw() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}
