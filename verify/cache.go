package verify

import (
	"crypto/sha256"
	"sync"
)

// cache keeps what was verified, at most so many entries, the used before the unused.
// It keeps no tokens: an entry is found by a digest. Whoever takes an entry out judges
// whether it still counts. It is safe for many goroutines.
type cache[V any] struct {
	half int // entries a generation may hold; 0: the cache keeps nothing

	mu       sync.RWMutex
	now, old map[[sha256.Size]byte]V // guarded by mu
}

func newCache[V any](size int) *cache[V] {
	c := &cache[V]{half: size / 2}
	if size == 1 {
		c.half = 1
	}
	c.clear()
	return c
}

func (c *cache[V]) get(k [sha256.Size]byte) (v V, ok bool) {
	c.mu.RLock()
	v, ok = c.now[k]
	young := ok
	if !ok {
		v, ok = c.old[k]
	}
	c.mu.RUnlock()
	if ok && !young {
		c.put(k, v)
	}
	return v, ok
}

// put adds an entry. When a generation is full the older one goes: what was not asked
// for since the last such moment.
func (c *cache[V]) put(k [sha256.Size]byte, v V) {
	if c.half == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.now) >= c.half {
		c.old, c.now = c.now, make(map[[sha256.Size]byte]V)
	}
	c.now[k] = v
	delete(c.old, k)
}

func (c *cache[V]) drop(k [sha256.Size]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.now, k)
	delete(c.old, k)
}

func (c *cache[V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.old = map[[sha256.Size]byte]V{}, map[[sha256.Size]byte]V{}
}

func (c *cache[V]) len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.now) + len(c.old)
}
