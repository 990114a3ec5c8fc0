package sqlitedb

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/heirloom-auth/heirloom/family"
)

// Grants and places are sealed in a compact form of their own: a version byte, then
// the fields in the order below; strings and lists begin with their length. A new
// field goes to the end under a new version; readers keep all versions.
const (
	grantVersion  = 1
	grantVersion2 = 2 // with a place in the status lists
	placesVersion = 1
)

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

// reader takes a form apart; after the first thing that is not there it returns zeros
// and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string { return string(r.bytes(r.uvarint())) }

func (r *reader) strings() []string {
	n := r.uvarint()
	if r.bad || n == 0 || n > uint64(len(r.b)) {
		r.bad = r.bad || n != 0
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.string()
	}
	return list
}

// The bits of a grant's flags.
const (
	flagOffline = 1 << iota
	flagConfident
	flagSentURI
)

// appendGrant leaves out client, user and session, which are columns.
func appendGrant(b []byte, g *family.Grant) []byte {
	var flags byte
	if g.Offline {
		flags |= flagOffline
	}
	if g.Confident {
		flags |= flagConfident
	}
	if g.SentURI {
		flags |= flagSentURI
	}
	version := byte(grantVersion)
	if g.Place > 0 {
		version = grantVersion2
	}
	b = append(b, version, flags)
	b = appendString(b, string(g.Scope))
	b = appendStrings(b, g.Resources)
	b = binary.AppendUvarint(b, uint64(g.AuthTime))
	b = appendString(b, g.ACR)
	b = appendStrings(b, g.AMR)
	b = appendString(b, g.Nonce)
	b = appendString(b, g.Claims)
	b = appendString(b, g.RedirectURI)
	b = appendString(b, g.Challenge)
	if version == grantVersion2 {
		b = binary.AppendUvarint(b, g.Place)
	}
	return b
}

// parseGrant fills in what appendGrant wrote.
func parseGrant(b []byte, g *family.Grant) error {
	r := reader{b: b}
	version, flags := r.byte(), r.byte()
	if version != grantVersion && version != grantVersion2 {
		return errors.New("grant: a form that this program does not know")
	}
	g.Offline, g.Confident, g.SentURI = flags&flagOffline != 0, flags&flagConfident != 0, flags&flagSentURI != 0
	g.Scope = family.Scope(r.string())
	g.Resources = r.strings()
	g.AuthTime = family.Time(r.uvarint())
	g.ACR = r.string()
	g.AMR = r.strings()
	g.Nonce = r.string()
	g.Claims = r.string()
	g.RedirectURI = r.string()
	g.Challenge = r.string()
	if version == grantVersion2 {
		g.Place = r.uvarint()
	}
	if r.bad || len(r.b) != 0 {
		return errors.New("grant: cut off or too long")
	}
	return nil
}

// placesStep is what the form of places is padded to a multiple of, so that the row
// does not grow with every new address of a phone.
const placesStep = 192

// appendPlaces writes each User-Agent once: a phone has one, and many addresses.
func appendPlaces(b []byte, p *family.Places) []byte {
	start := len(b)
	b = append(b, placesVersion)
	var agents []string
	at := make([]byte, len(p))
	for i, o := range p {
		n := 0
		for n < len(agents) && agents[n] != o.UserAgent {
			n++
		}
		if n == len(agents) {
			agents = append(agents, o.UserAgent)
		}
		at[i] = byte(n)
	}
	b = appendStrings(b, agents)
	for i, o := range p {
		ip, _ := o.IP.MarshalBinary() // never fails
		b = append(b, at[i])
		b = appendString(b, string(ip))
	}
	for (len(b)-start)%placesStep != 0 {
		b = append(b, 0)
	}
	return b
}

func parsePlaces(b []byte) (*family.Places, error) {
	r := reader{b: b}
	if r.byte() != placesVersion {
		return nil, errors.New("places: a form that this program does not know")
	}
	agents := r.strings()
	p := new(family.Places)
	for i := range p {
		n := int(r.byte())
		ip := r.bytes(r.uvarint())
		if r.bad || n >= len(agents) {
			return nil, errors.New("places: cut off")
		}
		p[i].UserAgent = agents[n]
		if err := p[i].IP.UnmarshalBinary(ip); err != nil {
			return nil, errors.New("places: not an address")
		}
	}
	return p, nil
}

// appendOrigin is the form of an event's origin.
func appendOrigin(b []byte, o family.Origin) []byte {
	ip, _ := o.IP.MarshalBinary() // never fails
	b = append(b, placesVersion)
	b = appendString(b, string(ip))
	return appendString(b, o.UserAgent)
}

func parseOrigin(b []byte) (o family.Origin, err error) {
	r := reader{b: b}
	if r.byte() != placesVersion {
		return o, errors.New("origin: a form that this program does not know")
	}
	ip := r.bytes(r.uvarint())
	o.UserAgent = r.string()
	if r.bad || len(r.b) != 0 {
		return family.Origin{}, errors.New("origin: cut off or too long")
	}
	var addr netip.Addr
	if err := addr.UnmarshalBinary(ip); err != nil {
		return family.Origin{}, errors.New("origin: not an address")
	}
	o.IP = addr
	return o, nil
}

// roomSize is the most that the integers of a row's changing part take: status and
// reason 1 each, bucket 4, head_key 3, the others 6.
const roomSize = 1 + 1 + 4 + 3 + 6*6

// width returns how many bytes SQLite stores an integer in (file format, §2.1).
func width(n int64) int {
	switch {
	case n == 0 || n == 1:
		return 0
	case n >= -1<<7 && n < 1<<7:
		return 1
	case n >= -1<<15 && n < 1<<15:
		return 2
	case n >= -1<<23 && n < 1<<23:
		return 3
	case n >= -1<<31 && n < 1<<31:
		return 4
	case n >= -1<<47 && n < 1<<47:
		return 6
	}
	return 8
}
