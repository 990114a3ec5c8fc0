package keys

// The schedule is pure: records and a time in, a decision out. It does no I/O, reads no clock and draws no randomness.

import (
	"fmt"
	"slices"
	"time"
)

// grace is added to every time a retired key is kept for: nodes move at their next look at the store, so the last thing
// made with a key may be a little younger than the key's retirement, and clocks differ.
const grace = time.Hour

// rules are the durations of Config, defaults filled in.
type rules struct {
	wait     time.Duration // published before it signs
	roll     time.Duration // from one key's Signs to the next one's; negative: only by command
	keepSign time.Duration // retired signing keys stay published
	keepMAC  time.Duration // retired MAC keys stay; 0: for ever
}

// life is a record with what follows from the others.
type life struct {
	Record
	retires time.Time // zero: nothing succeeds it yet
	ends    time.Time // zero: not known yet, or never
	first   bool      // the oldest kept key of its line
}

// lives works out every record's life, in the order of use and id.
//
// Of the keys of a line whose time to sign has come, the one with the highest id signs. So an emergency key beats one
// that was published before it and whose time has not come yet: that one never signs.
func (p rules) lives(recs []Record) []life {
	out := make([]life, 0, len(recs))
	for _, rec := range recs {
		l := life{Record: rec, first: true}
		for _, other := range recs {
			if other.line() != rec.line() {
				continue
			}
			if other.ID < rec.ID {
				l.first = false
			}
			if other.ID > rec.ID && (l.retires.IsZero() || other.Signs.Before(l.retires)) {
				l.retires = other.Signs
			}
		}
		if !l.retires.IsZero() {
			switch rec.Use {
			case UseSign:
				l.ends = l.retires.Add(p.keepSign + grace)
			case UseMAC:
				if p.keepMAC > 0 {
					l.ends = l.retires.Add(p.keepMAC + grace)
				}
			case UseSeal, UseIndex:
				// Rows sealed or indexed with it are still there.
			}
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b life) int {
		if a.Use != b.Use {
			if a.Use < b.Use {
				return -1
			}
			return 1
		}
		return int(a.ID) - int(b.ID)
	})
	return out
}

// state is where the key stands at a time.
func (l life) state(now time.Time) State {
	switch {
	case !l.ends.IsZero() && !now.Before(l.ends):
		return Gone
	case !l.retires.IsZero() && !now.Before(l.retires):
		return Retired
	case now.Before(l.Signs) && !l.first:
		return Published
	default:
		// The oldest key signs even before its time: a node whose clock is behind that of the node that made it has
		// nothing else to sign with.
		return Signing
	}
}

// due decides what has to be done now: keys to make, without their material, and keys to drop.
func (p rules) due(recs []Record, now time.Time) (births, deaths []Record, err error) {
	all := p.lives(recs)
	for _, ln := range lines() {
		var newest Record
		for _, l := range all {
			if l.line() == ln {
				newest = l.Record
			}
		}
		switch {
		case newest.ID == 0:
			// Nothing of its line can be cached anywhere yet, and there is nothing else to sign with.
			rec, err := next(slices.Concat(recs, births), ln, now, now)
			if err != nil {
				return nil, nil, err
			}
			births = append(births, rec)
		case ln.use == UseIndex || p.roll < 0:
		case !now.Before(newest.Signs.Add(p.roll - p.wait)):
			rec, err := next(slices.Concat(recs, births), ln, now, now.Add(p.wait))
			if err != nil {
				return nil, nil, err
			}
			births = append(births, rec)
		}
	}
	for _, l := range all {
		if l.state(now) == Gone {
			deaths = append(deaths, l.Record)
		}
	}
	return births, deaths, nil
}

// next is the record, without its material, of a new key of a line. Its id is one above the highest of its use, so a store
// that refuses an id that exists makes one decision of those of several nodes.
func next(recs []Record, ln line, now, signs time.Time) (Record, error) {
	rec := Record{Use: ln.use, Alg: ln.alg, Created: now.UTC().Truncate(time.Second), Signs: signs.UTC().Truncate(time.Second)}
	if signs.After(now) && rec.Signs.Before(signs) {
		rec.Signs = rec.Signs.Add(time.Second) // never a part of a second short of its wait
	}
	for _, other := range recs {
		if other.Use == ln.use {
			rec.ID = max(rec.ID, other.ID)
		}
	}
	rec.ID++
	if rec.ID == 0 {
		return Record{}, fmt.Errorf("no %s key id is left: 65535 keys were made", ln.use)
	}
	return rec, nil
}
