package server

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/heirloom-auth/heirloom/family"
)

// limits bounds what strangers may try. Everything here counts failures only, and one
// source's failures never hold up another (MATRIX J09, J10; RFC 6749 §2.3.1). A right
// client secret always passes; who has used up the failures of a family or of
// introspection waits with right requests, too.
type limits struct {
	secrets *bucket[guess]   // wrong client secrets
	refused *bucket[refused] // refused members of a known family
	probes  *bucket[guess]   // introspections that found nothing
	alarms  *bucket[family.ID]
}

type guess struct {
	client string
	ip     netip.Addr
}

type refused struct {
	family family.ID
	ip     netip.Addr
}

func newLimits() limits {
	return limits{
		secrets: newBucket[guess](20, 6*time.Second),
		refused: newBucket[refused](2000, 100*time.Millisecond),
		probes:  newBucket[guess](20_000, 5*time.Millisecond),
		alarms:  newBucket[family.ID](5, time.Minute),
	}
}

// network is what failures are counted by: an address, or the /64 that one IPv6 host
// has to itself.
func network(ip netip.Addr) netip.Addr {
	if !ip.Is6() {
		return ip
	}
	p, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return ip
	}
	return p.Addr()
}

// tooMany is the answer to a source that has failed too often.
func tooMany(wait time.Duration) error {
	return &oauthError{status: http.StatusTooManyRequests, code: "temporarily_unavailable", reason: family.Unavailable,
		text: "too many failures from here; wait as Retry-After says", retry: int(wait/time.Second) + 1}
}

// bucket counts failures by key, each key with an allowance that refills in time. It
// holds at most maxKeys keys: past that, keys whose allowance is full again are
// dropped, and if there are none, the count starts anew, which favours the honest.
type bucket[K comparable] struct {
	size   int
	refill time.Duration // for one failure

	mu   sync.Mutex
	full map[K]time.Time // guarded by mu; when the key's allowance will be whole again
}

const maxKeys = 100_000

func newBucket[K comparable](size int, refill time.Duration) *bucket[K] {
	return &bucket[K]{size: size, refill: refill, full: map[K]time.Time{}}
}

// wait returns how long the key has to wait before it may fail again; 0: not at all.
func (b *bucket[K]) wait(k K, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	full, ok := b.full[k]
	if !ok {
		return 0
	}
	// The allowance is used up when it needs size refills to be whole.
	return max(0, full.Sub(now)-time.Duration(b.size-1)*b.refill)
}

// take counts one failure and reports whether there was an allowance for it.
func (b *bucket[K]) take(k K, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	full := b.full[k]
	if full.Before(now) {
		full = now
	}
	if full.Sub(now) > time.Duration(b.size-1)*b.refill {
		return false
	}
	if len(b.full) >= maxKeys {
		for key, f := range b.full {
			if f.Before(now) {
				delete(b.full, key)
			}
		}
		if len(b.full) >= maxKeys {
			clear(b.full)
		}
	}
	b.full[k] = full.Add(b.refill)
	return true
}

// crowd lets a few of each network inside at a time; the others of that network wait
// their turn, and when too many wait they are sent away. So many right sign-ins at once
// from behind one address all succeed, one after another, and none of another network
// waits for them.
type crowd struct {
	most, queue int
	patience    time.Duration

	mu    sync.Mutex
	rooms map[netip.Addr]*room // guarded by mu; those with somebody in or before them
}

type room struct {
	places chan struct{}
	here   int // guarded by crowd.mu; inside or waiting
}

// enter waits for a place; leave has to be called when ok.
func (c *crowd) enter(ctx context.Context, from netip.Addr) (leave func(), ok bool) {
	c.mu.Lock()
	r := c.rooms[from]
	if r == nil {
		r = &room{places: make(chan struct{}, c.most)}
		c.rooms[from] = r
	}
	if r.here >= c.most+c.queue {
		c.mu.Unlock()
		return nil, false
	}
	r.here++
	c.mu.Unlock()
	gone := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.here--; r.here == 0 {
			delete(c.rooms, from)
		}
	}
	late := time.NewTimer(c.patience)
	defer late.Stop()
	select {
	case r.places <- struct{}{}:
		return func() { <-r.places; gone() }, true
	case <-late.C:
	case <-ctx.Done():
	}
	gone()
	return nil, false
}
