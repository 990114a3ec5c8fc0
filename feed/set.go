package feed

import (
	"errors"
	"slices"
	"sync"
)

// Set is the entries that still count. Its memory is bounded by MaxEntries; what it
// says is never wrong silently: when it is full, Add fails and the owner has to take a
// new snapshot or treat what it knows as stale. It is safe for many goroutines; asking
// does not wait for anything but an entry being added.
type Set struct {
	max int

	mu       sync.RWMutex
	families map[string]int64    // guarded by mu; fam → until
	tokens   map[string]int64    // guarded by mu; jti → until
	users    map[string][]cutoff // guarded by mu; sub → cut-offs
	clients  map[string]cutoff   // guarded by mu; client_id → newest cut-off
	narrowed map[string]cutoff   // guarded by mu; fam → newest cut-off
	all      cutoff              // guarded by mu
	soonest  int64               // guarded by mu; no entry ends before it; 0: none
	size     int                 // guarded by mu
}

type cutoff struct {
	before, until int64
	keep          string
}

// ErrFull means that the set holds as many entries as it may.
var ErrFull = errors.New("feed: the set is full")

// NewSet returns an empty set for at most so many entries; 0: 1,000,000.
func NewSet(maxEntries int) *Set {
	if maxEntries <= 0 {
		maxEntries = 1_000_000
	}
	s := &Set{max: maxEntries}
	s.reset()
	return s
}

// reset empties the set; the caller holds mu, or nobody else knows the set.
func (s *Set) reset() {
	s.families, s.tokens = map[string]int64{}, map[string]int64{}
	s.users, s.clients = map[string][]cutoff{}, map[string]cutoff{}
	s.narrowed = map[string]cutoff{}
	s.all, s.soonest, s.size = cutoff{}, 0, 0
}

// Add puts an entry into the set. Adding what is there already only makes it count
// longer. ErrFull leaves the set as it was.
func (s *Set) Add(e Entry) error {
	if err := e.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	grows := s.grows(e)
	if grows && s.size >= s.max {
		return ErrFull
	}
	switch e.Kind {
	case Family:
		s.families[e.ID] = max(s.families[e.ID], e.Until)
	case Token:
		s.tokens[e.ID] = max(s.tokens[e.ID], e.Until)
	case User:
		s.addUser(e)
	case Client:
		s.clients[e.ID] = later(s.clients[e.ID], e)
	case Narrowed:
		s.narrowed[e.ID] = later(s.narrowed[e.ID], e)
	case All:
		s.all = later(s.all, e)
	}
	if grows {
		s.size++
	}
	if s.soonest == 0 || e.Until < s.soonest {
		s.soonest = e.Until
	}
	return nil
}

// grows reports whether an entry takes new room.
func (s *Set) grows(e Entry) bool {
	var has bool
	switch e.Kind {
	case Family:
		_, has = s.families[e.ID]
	case Token:
		_, has = s.tokens[e.ID]
	case User:
		has = slices.ContainsFunc(s.users[e.ID], func(c cutoff) bool { return c.keep == e.Keep })
	case Client:
		_, has = s.clients[e.ID]
	case Narrowed:
		_, has = s.narrowed[e.ID]
	case All:
		has = s.all.before != 0
	}
	return !has
}

// later keeps of two cut-offs the one that kills more.
func later(c cutoff, e Entry) cutoff {
	return cutoff{before: max(c.before, e.Before), until: max(c.until, e.Until)}
}

// addUser keeps one cut-off for each session that was spared: a later cut-off that
// spares another session must not bring an earlier one's victims back.
func (s *Set) addUser(e Entry) {
	cuts := s.users[e.ID]
	for i, c := range cuts {
		if c.keep == e.Keep {
			cuts[i] = later(c, e)
			cuts[i].keep = e.Keep
			return
		}
	}
	s.users[e.ID] = append(cuts, cutoff{before: e.Before, until: e.Until, keep: e.Keep})
}

// Dead reports whether a token is dead.
func (s *Set) Dead(t Subject) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.size == 0 {
		return false
	}
	if s.all.before != 0 && covers(s.all.before, t.IssuedAt) {
		return true
	}
	if _, ok := s.families[t.Family]; ok && t.Family != "" {
		return true
	}
	if _, ok := s.tokens[t.Token]; ok && t.Token != "" {
		return true
	}
	// Here the whole second counts as before: the old token may have had the scope that
	// was withdrawn, and a new one is a refresh away.
	if c, ok := s.narrowed[t.Family]; ok && t.IssuedAt*1000 <= c.before {
		return true
	}
	if c, ok := s.clients[t.Client]; ok && covers(c.before, t.IssuedAt) {
		return true
	}
	for _, c := range s.users[t.User] {
		if covers(c.before, t.IssuedAt) && (c.keep == "" || c.keep != t.Session) {
			return true
		}
	}
	return false
}

// Forget drops the entries that no living token needs any more at now, Unix seconds.
// It costs nothing while there are none.
func (s *Set) Forget(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.soonest == 0 || now < s.soonest {
		return
	}
	s.soonest = 0
	keep := func(until int64) bool {
		if until <= now {
			s.size--
			return false
		}
		if s.soonest == 0 || until < s.soonest {
			s.soonest = until
		}
		return true
	}
	for k, until := range s.families {
		if !keep(until) {
			delete(s.families, k)
		}
	}
	for k, until := range s.tokens {
		if !keep(until) {
			delete(s.tokens, k)
		}
	}
	for k, c := range s.clients {
		if !keep(c.until) {
			delete(s.clients, k)
		}
	}
	for k, c := range s.narrowed {
		if !keep(c.until) {
			delete(s.narrowed, k)
		}
	}
	for k, cuts := range s.users {
		cuts = slices.DeleteFunc(cuts, func(c cutoff) bool { return !keep(c.until) })
		if len(cuts) == 0 {
			delete(s.users, k)
		} else {
			s.users[k] = cuts
		}
	}
	if s.all.before != 0 && !keep(s.all.until) {
		s.all = cutoff{}
	}
}

// Replace makes the set hold exactly the entries of a snapshot, in one step: nobody
// ever sees half of it. ErrFull leaves the set as it was.
func (s *Set) Replace(entries []Entry) error {
	fresh := NewSet(s.max)
	for _, e := range entries {
		if err := fresh.Add(e); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.families, s.tokens, s.users, s.clients = fresh.families, fresh.tokens, fresh.users, fresh.clients
	s.narrowed = fresh.narrowed
	s.all, s.soonest, s.size = fresh.all, fresh.soonest, fresh.size
	return nil
}

// Len returns how many entries the set holds.
func (s *Set) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.size
}
