package family

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Scope is a set of scope tokens (RFC 6749 §3.3) in canonical form: sorted, each
// once, one space between. The zero Scope is the empty set.
type Scope string

// ParseScope reads a scope parameter. Order and repetition do not matter; spaces at
// the ends, two spaces in a row and characters outside the grammar are errors. An
// empty string is the empty set.
func ParseScope(s string) (Scope, error) {
	if s == "" {
		return "", nil
	}
	if len(s) > 4096 {
		return "", errors.New("scope is longer than 4096 bytes")
	}
	words := strings.Split(s, " ")
	for _, w := range words {
		if w == "" {
			return "", errors.New("scope has an empty word: one space between words, none at the ends")
		}
		for i := range len(w) {
			if c := w[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
				return "", fmt.Errorf("scope has a character that RFC 6749 does not allow at place %d of a word", i+1)
			}
		}
	}
	return ScopeOf(words...), nil
}

// ScopeOf makes a Scope of words that are known to be right.
func ScopeOf(words ...string) Scope {
	words = slices.Clone(words)
	slices.Sort(words)
	return Scope(strings.Join(slices.Compact(words), " "))
}

// Words returns the set's words in order; nil for the empty set.
func (s Scope) Words() []string {
	if s == "" {
		return nil
	}
	return strings.Split(string(s), " ")
}

// Has reports whether the set has the word.
func (s Scope) Has(word string) bool {
	for w := range strings.SplitSeq(string(s), " ") {
		if w == word && w != "" {
			return true
		}
	}
	return false
}

// Within reports whether every word of s is also in of.
func (s Scope) Within(of Scope) bool {
	if s == of {
		return true
	}
	for _, w := range s.Words() {
		if !of.Has(w) {
			return false
		}
	}
	return true
}

// And returns the words that both sets have.
func (s Scope) And(t Scope) Scope {
	if s == t {
		return s
	}
	return ScopeOf(slices.DeleteFunc(s.Words(), func(w string) bool { return !t.Has(w) })...)
}

// Without returns the set without some words.
func (s Scope) Without(words ...string) Scope {
	return ScopeOf(slices.DeleteFunc(s.Words(), func(w string) bool { return slices.Contains(words, w) })...)
}
