package verify

import (
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"
)

// scanner reads one JSON text (RFC 8259) from front to back and refuses what two
// readers could understand differently: a member named twice, bytes that are not
// UTF-8, anything after the value. It makes no copies: the strings it returns are
// parts of s unless they have escapes.
type scanner struct {
	s   string
	i   int
	bad string // the first fault; "" = none. Everything after it returns zero values
}

// maxDepth bounds the nesting, so that a hostile text can not exhaust the stack.
const maxDepth = 16

func (p *scanner) fail(why string) {
	if p.bad == "" {
		p.bad = why
		p.i = len(p.s)
	}
}

func (p *scanner) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

// eat takes c if it is next.
func (p *scanner) eat(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *scanner) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

// end demands that nothing follows.
func (p *scanner) end() {
	p.space()
	if p.bad == "" && p.i != len(p.s) {
		p.fail("there is something after the JSON value")
	}
}

// members is how far an object has been read. Its zero value stands before the brace.
type members struct {
	open  bool
	n     int
	names [24]string // of the first members; most tokens have fewer
	more  map[string]struct{}
}

// seen reports whether a name was read before, and notes it.
func (m *members) seen(name string) bool {
	for _, had := range m.names[:min(m.n, len(m.names))] {
		if had == name {
			return true
		}
	}
	if m.n < len(m.names) {
		m.names[m.n] = name
		m.n++
		return false
	}
	if _, had := m.more[name]; had {
		return true
	}
	if m.more == nil {
		m.more = map[string]struct{}{}
	}
	m.more[name] = struct{}{}
	m.n++
	return false
}

// next reads up to the value of the next member of an object, which the caller has to
// take. ok is false at the end of the object and after a fault.
func (p *scanner) next(m *members) (name string, ok bool) {
	p.space()
	switch {
	case !m.open:
		m.open = true
		if !p.eat('{') {
			p.fail("it is not a JSON object")
			return "", false
		}
		p.space()
		if p.eat('}') {
			return "", false
		}
	case p.eat('}'):
		return "", false
	case !p.eat(','):
		p.fail("its JSON is broken")
		return "", false
	default:
		p.space()
	}
	name = p.str()
	p.space()
	if !p.eat(':') {
		p.fail("its JSON is broken")
	}
	p.space()
	if p.bad == "" && m.seen(name) {
		// Which of two members counts depends on the reader: an attack, never an accident.
		p.fail("a JSON member is there twice")
	}
	return name, p.bad == ""
}

// str takes a string.
func (p *scanner) str() string {
	if !p.eat('"') {
		p.fail("a JSON string is missing")
		return ""
	}
	start, escaped := p.i, false
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			raw := p.s[start:p.i]
			p.i++
			if !escaped {
				return raw
			}
			var v string
			if json.Unmarshal([]byte(p.s[start-1:p.i]), &v) != nil {
				p.fail("a JSON string is broken")
				return ""
			}
			return v
		case c == '\\':
			escaped = true
			p.i += 2
		case c < 0x20:
			p.fail("a JSON string is broken")
			return ""
		default:
			p.i++
		}
	}
	p.fail("a JSON string does not end")
	return ""
}

// strs takes a list of strings, at most 64, and appends them to all.
func (p *scanner) strs(all []string) []string {
	if !p.eat('[') {
		p.fail("a JSON list of strings is missing")
		return nil
	}
	p.space()
	if p.eat(']') {
		return nil
	}
	for p.bad == "" {
		if len(all) == 64 {
			p.fail("a JSON list has more than 64 strings")
			break
		}
		p.space()
		all = append(all, p.str())
		p.space()
		if p.eat(']') {
			return all
		}
		if !p.eat(',') {
			p.fail("a JSON list is broken")
		}
	}
	return nil
}

// number takes a number and returns how it is written.
func (p *scanner) number() string {
	start := p.i
	digits := func() (n int) {
		for p.i < len(p.s) && '0' <= p.s[p.i] && p.s[p.i] <= '9' {
			p.i++
			n++
		}
		return n
	}
	p.eat('-')
	if p.eat('0') {
		if c := p.peek(); '0' <= c && c <= '9' {
			p.fail("a JSON number is broken")
			return ""
		}
	} else if digits() == 0 {
		p.fail("a JSON number is missing")
		return ""
	}
	if p.eat('.') && digits() == 0 {
		p.fail("a JSON number is broken")
		return ""
	}
	if p.eat('e') || p.eat('E') {
		if !p.eat('+') {
			p.eat('-')
		}
		if digits() == 0 {
			p.fail("a JSON number is broken")
			return ""
		}
	}
	return p.s[start:p.i]
}

// lastDate is the last second of the year 9999: no honest moment lies after it, and
// arithmetic in milliseconds can not overflow below it.
const lastDate = 253402300799

// date takes a NumericDate (RFC 7519 §2), in Unix seconds, rounded down.
func (p *scanner) date() int64 {
	raw := p.number()
	if p.bad != "" {
		return 0
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil {
		f, err := strconv.ParseFloat(raw, 64)
		if err != nil || !(f >= 0 && f <= lastDate) {
			p.fail("a date is out of range")
			return 0
		}
		n = int64(math.Floor(f))
	}
	if n < 0 || n > lastDate {
		p.fail("a date is out of range")
		return 0
	}
	return n
}

// skip takes any value and checks it like the others.
func (p *scanner) skip(depth int) {
	if depth > maxDepth {
		p.fail("its JSON is nested too deep")
		return
	}
	switch c := p.peek(); {
	case c == '{':
		var m members
		for _, ok := p.next(&m); ok; _, ok = p.next(&m) {
			p.skip(depth + 1)
		}
	case c == '[':
		p.i++
		p.space()
		if p.eat(']') {
			return
		}
		for p.bad == "" {
			p.space()
			p.skip(depth + 1)
			p.space()
			if p.eat(']') {
				return
			}
			if !p.eat(',') {
				p.fail("a JSON list is broken")
			}
		}
	case c == '"':
		p.str()
	case c == '-' || '0' <= c && c <= '9':
		p.number()
	default:
		for _, word := range [...]string{"true", "false", "null"} {
			if len(p.s)-p.i >= len(word) && p.s[p.i:p.i+len(word)] == word {
				p.i += len(word)
				return
			}
		}
		p.fail("its JSON is broken")
	}
}

// scan begins with a text.
func scan(s string) scanner {
	p := scanner{s: s}
	if !utf8.ValidString(s) {
		p.fail("it is not UTF-8")
	}
	return p
}
