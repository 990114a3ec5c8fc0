package family

import "net/netip"

// Origin is where a request came from, as far as it can be told. It is personal:
// engines keep it sealed.
type Origin struct {
	IP        netip.Addr // the zero Addr: not known
	UserAgent string     // at most MaxUserAgent bytes
}

// MaxUserAgent bounds what is kept of a User-Agent, in bytes.
const MaxUserAgent = 160

// trailLen is how many uses a family remembers. The ring has a fixed size, so a
// family is one row of one size for ever.
const trailLen = 16

// Use is one line in the life of a family.
type Use struct {
	At         Time
	Generation uint32 // the generation that was presented
	Reason     Reason // 0: the slot is empty
	place      uint8  // index into Places
}

// Trail is the last uses of a family, a ring.
type Trail struct {
	Next uint8 // the slot that is written next
	Uses [trailLen]Use
}

// Places is the list of origins the trail's uses refer to. It changes only when a
// family is used from somewhere new, so that a refresh need not seal it again.
type Places [trailLen]Origin

// Entry is a Use with its Origin.
type Entry struct {
	Use
	Origin Origin
}

// History returns the remembered uses, oldest first.
func (s State) History() []Entry {
	var entries []Entry
	for i := range trailLen {
		u := s.Trail.Uses[(int(s.Trail.Next)+i)%trailLen]
		if u.Reason == 0 {
			continue
		}
		e := Entry{Use: u}
		if s.Places != nil && int(u.place) < trailLen {
			e.Origin = s.Places[u.place]
		}
		entries = append(entries, e)
	}
	return entries
}

// note writes a use into the trail's oldest slot.
func (s State) note(now Time, g uint32, why Reason, from Origin) State {
	if len(from.UserAgent) > MaxUserAgent {
		from.UserAgent = from.UserAgent[:MaxUserAgent]
	}
	slot := s.Trail.Next % trailLen
	s.Trail.Uses[slot] = Use{}
	place, known := s.place(from)
	if !known {
		places := Places{}
		if s.Places != nil {
			places = *s.Places
		}
		places[place] = from
		s.Places = &places
	}
	s.Trail.Uses[slot] = Use{At: now, Generation: g, Reason: why, place: place}
	s.Trail.Next = (slot + 1) % trailLen
	return s
}

// place finds an origin in the list, or a slot that no remembered use refers to.
// There is one: fewer than trailLen uses are remembered when it is asked.
func (s State) place(from Origin) (slot uint8, known bool) {
	var used [trailLen]bool
	for _, u := range s.Trail.Uses {
		if u.Reason != 0 {
			used[u.place%trailLen] = true
		}
	}
	if s.Places != nil {
		for i, o := range s.Places {
			if used[i] && o == from {
				return uint8(i), true
			}
		}
	}
	for i := range used {
		if !used[i] {
			if s.Places != nil && s.Places[i] == from {
				return uint8(i), true
			}
			return uint8(i), false
		}
	}
	return slot, false
}

// AppendTrail encodes the trail in its fixed stored size; TrailSize bytes.
func (t Trail) AppendTrail(b []byte) []byte {
	b = append(b, trailVersion, t.Next)
	for _, u := range t.Uses {
		b = append(b, byte(u.At>>40), byte(u.At>>32), byte(u.At>>24), byte(u.At>>16), byte(u.At>>8), byte(u.At),
			byte(u.Generation>>24), byte(u.Generation>>16), byte(u.Generation>>8), byte(u.Generation),
			byte(u.Reason), u.place)
	}
	return b
}

// TrailSize is the size of an encoded trail in bytes.
const TrailSize = 2 + 12*trailLen

const trailVersion = 1

// ParseTrail decodes what AppendTrail wrote; ok is false for anything else.
func ParseTrail(b []byte) (t Trail, ok bool) {
	if len(b) != TrailSize || b[0] != trailVersion || b[1] >= trailLen {
		return Trail{}, false
	}
	t.Next = b[1]
	b = b[2:]
	for i := range t.Uses {
		u := b[12*i : 12*i+12]
		t.Uses[i] = Use{
			At:         Time(u[0])<<40 | Time(u[1])<<32 | Time(u[2])<<24 | Time(u[3])<<16 | Time(u[4])<<8 | Time(u[5]),
			Generation: uint32(u[6])<<24 | uint32(u[7])<<16 | uint32(u[8])<<8 | uint32(u[9]),
			Reason:     Reason(u[10]),
			place:      u[11],
		}
		if u[10] >= byte(reasons) || u[11] >= trailLen {
			return Trail{}, false
		}
	}
	return t, true
}
