package user

import (
	"container/list"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"
)

// Limits of the Throttle: so many attempts at once, then one for each interval.
const (
	// One network at one username. Ten: people try their few passwords, each
	// with and without caps lock. Then 2,880 a day, which is what one botnet
	// member or one neighbour behind the same address gets.
	sourceBurst    = 10
	sourceInterval = 30 * time.Second

	// All unknown browsers at one username, wherever they are. It bounds what a
	// botnet gets to about 1,440 guesses a day, hopeless against any password
	// that is not among the first few thousand of a list.
	globalBurst    = 60
	globalInterval = time.Minute

	// One browser that proved an earlier sign-in of the same user. Only who
	// steals its cookie can guess here.
	deviceBurst    = 20
	deviceInterval = 15 * time.Second

	// A network from which the user has signed in is spared the global limit
	// until so many failures in a row, or until so long after the sign-in.
	trustFailures = 10
	trustTime     = 30 * 24 * time.Hour

	defaultThrottleEntries = 1 << 16
)

// Throttle slows down password guessing without locking anybody out. An attempt
// is counted when Allow lets it through, so that a hundred requests at once
// are a hundred attempts:
//
//   - for each username and source network (an IPv4 address or an IPv6 /64):
//     10 at once, then one every 30 seconds;
//   - for each username, over all networks: 60 at once, then one a minute. A
//     network from which this user signed in during the last 30 days is spared
//     this limit, so a flood from elsewhere does not keep the owner out at home;
//   - for each username and browser that proved an earlier sign-in of that user:
//     20 at once, then one every 15 seconds, and neither of the other two
//     limits. Nobody else's guesses delay the owner there.
//
// No wait is ever longer than a minute, and nothing but time is needed to end
// it. What remains: an owner with a new browser in a new network, while a botnet
// guesses at that very name, competes with it for one attempt a minute and had
// better use a known browser; and one guess each at many usernames is not slowed
// here, only bounded by the Hasher.
//
// Usernames that do not exist are throttled like all others, so the wait tells
// nobody who exists. State is in memory only: three tables, each of at most the
// given number of entries of about 200 bytes. The longest unused entry makes room
// for a new one. An attempt that is refused makes no entry, so throwing out
// somebody's entry costs as many password checks as there are entries. Strangers
// can fill the first two tables, never that of the known browsers. A restart
// forgets everything, which gives a guesser one more burst.
//
// A Throttle is safe for many goroutines. Time is what the callers pass; when it
// goes backwards nobody waits longer than the limits say.
type Throttle struct {
	mu      sync.Mutex
	sources table // guarded by mu
	globals table // guarded by mu
	devices table // guarded by mu
}

// NewThrottle remembers at most entries buckets of each of the three kinds; zero
// means 65,536.
func NewThrottle(entries int) *Throttle {
	if entries <= 0 {
		entries = defaultThrottleEntries
	}
	return &Throttle{
		sources: newTable(entries, sourceBurst, sourceInterval),
		globals: newTable(entries, globalBurst, globalInterval),
		devices: newTable(entries, deviceBurst, deviceInterval),
	}
}

// Allow counts an attempt and returns 0, or counts nothing and returns how long
// to wait before the next try. username is what ParseUsername returned. source is
// the client's address as the server believes it; the zero Addr is a network of
// its own. knownDevice names a browser that has proven an earlier sign-in of this
// same user, by a secret that nobody can guess; it is empty for all others.
//
// After 0 call Failed or Succeeded when the password was checked, and Refund
// when it was not.
func (t *Throttle) Allow(now time.Time, username string, source netip.Addr, knownDevice string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if knownDevice != "" {
		k := keyOf("device", username, knownDevice)
		wait := t.devices.wait(now, k)
		if wait == 0 {
			t.devices.charge(now, k)
		}
		return wait
	}
	k, g := keyOf("source", username, network(source)), keyOf("global", username, "")
	wait := t.sources.wait(now, k)
	trusted := t.sources.trusted(now, k)
	if !trusted {
		wait = max(wait, t.globals.wait(now, g))
	}
	if wait > 0 {
		return wait
	}
	t.sources.charge(now, k)
	if !trusted {
		t.globals.charge(now, g)
	}
	return 0
}

// Failed says that the password was wrong. The attempt stays counted; ten
// failures in a row from a network end its exemption from the global limit.
func (t *Throttle) Failed(now time.Time, username string, source netip.Addr, knownDevice string) {
	if knownDevice != "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.sources.find(keyOf("source", username, network(source))); b != nil {
		b.failures++
	}
}

// Succeeded says that the password was right. The network or browser starts
// afresh; what strangers did elsewhere stays counted.
func (t *Throttle) Succeeded(now time.Time, username string, source netip.Addr, knownDevice string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if knownDevice != "" {
		t.devices.forget(keyOf("device", username, knownDevice))
		return
	}
	k := keyOf("source", username, network(source))
	if !t.sources.trusted(now, k) {
		t.globals.refund(keyOf("global", username, ""))
	}
	b := t.sources.touch(k)
	*b = bucket{key: k, signedIn: now}
}

// Refund takes back one attempt that Allow let through and whose password was
// never checked, because the server was busy or the browser went away.
func (t *Throttle) Refund(now time.Time, username string, source netip.Addr, knownDevice string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if knownDevice != "" {
		t.devices.refund(keyOf("device", username, knownDevice))
		return
	}
	k := keyOf("source", username, network(source))
	t.sources.refund(k)
	if !t.sources.trusted(now, k) {
		t.globals.refund(keyOf("global", username, ""))
	}
}

// network is what one guesser can change for free: an IPv6 customer has at
// least a /64 to draw addresses from.
func network(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// key is a digest: of one size however long the names are, and no list of
// usernames in a memory dump.
type key [16]byte

func keyOf(kind, username, what string) key {
	// The username can not contain a zero byte and the kind does not.
	sum := sha256.Sum256([]byte(kind + "\x00" + username + "\x00" + what))
	return key(sum[:16])
}

// bucket is a leaky bucket in one number: full is the time at which all
// attempts so far have leaked away.
type bucket struct {
	key      key
	full     time.Time
	signedIn time.Time // sources only: the last sign-in; zero for none
	failures int       // sources only: since then
}

// table holds the buckets of one limit, the longest unused ones last.
type table struct {
	entries  int
	burst    time.Duration // in intervals
	interval time.Duration
	byKey    map[key]*list.Element
	recent   *list.List
}

func newTable(entries, burst int, interval time.Duration) table {
	return table{
		entries: entries, burst: time.Duration(burst), interval: interval,
		byKey: make(map[key]*list.Element), recent: list.New(),
	}
}

func (t *table) find(k key) *bucket {
	if e, ok := t.byKey[k]; ok {
		return e.Value.(*bucket)
	}
	return nil
}

// touch returns the bucket of k as the most recently used one; it makes one when
// there is none.
func (t *table) touch(k key) *bucket {
	if e, ok := t.byKey[k]; ok {
		t.recent.MoveToFront(e)
		return e.Value.(*bucket)
	}
	if t.recent.Len() >= t.entries {
		old := t.recent.Back()
		delete(t.byKey, old.Value.(*bucket).key)
		t.recent.Remove(old)
	}
	b := &bucket{key: k}
	t.byKey[k] = t.recent.PushFront(b)
	return b
}

func (t *table) forget(k key) {
	if e, ok := t.byKey[k]; ok {
		t.recent.Remove(e)
		delete(t.byKey, k)
	}
}

func (t *table) wait(now time.Time, k key) time.Duration {
	b := t.find(k)
	if b == nil {
		return 0
	}
	// After a jump of the clock backwards full may lie anywhere in the future.
	// Stored, not just judged: else the wait would begin anew with each look.
	if latest := now.Add(t.burst * t.interval); b.full.After(latest) {
		b.full = latest
	}
	return max(0, b.full.Add(-(t.burst-1)*t.interval).Sub(now))
}

func (t *table) charge(now time.Time, k key) {
	b := t.touch(k)
	if b.full.Before(now) {
		b.full = now
	}
	b.full = b.full.Add(t.interval)
}

func (t *table) refund(k key) {
	if b := t.find(k); b != nil {
		b.full = b.full.Add(-t.interval)
	}
}

func (t *table) trusted(now time.Time, k key) bool {
	b := t.find(k)
	return b != nil && !b.signedIn.IsZero() && b.failures < trustFailures && now.Sub(b.signedIn) < trustTime
}
