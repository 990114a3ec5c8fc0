package family_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/heirloom-auth/heirloom/family"
	"pgregory.net/rapid"
)

// TestRFC6749_11_ScopeIsASet: order and repetition do not count, case does.
func TestRFC6749_11_ScopeIsASet(t *testing.T) {
	for in, want := range map[string]family.Scope{
		"": "", "a": "a", "b a": "a b", "a a": "a", "b a b": "a b", "Read read": "Read read", "a:b/c#!~": "a:b/c#!~",
	} {
		if got, err := family.ParseScope(in); err != nil || got != want {
			t.Errorf("ParseScope(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	const empty = "scope has an empty word: one space between words, none at the ends"
	for in, want := range map[string]string{
		" ": empty, "a ": empty, " a": empty, "a  b": empty,
		"a\tb":                    "scope has a character that RFC 6749 does not allow at place 2 of a word",
		"b a\"":                   "scope has a character that RFC 6749 does not allow at place 2 of a word",
		"\\":                      "scope has a character that RFC 6749 does not allow at place 1 of a word",
		"é":                       "scope has a character that RFC 6749 does not allow at place 1 of a word",
		"a\x00":                   "scope has a character that RFC 6749 does not allow at place 2 of a word",
		"\x7f":                    "scope has a character that RFC 6749 does not allow at place 1 of a word",
		strings.Repeat("a", 4097): "scope is longer than 4096 bytes",
	} {
		if got, err := family.ParseScope(in); err == nil || err.Error() != want || got != "" {
			t.Errorf("ParseScope(%.20q) = %q, %v; want %s", in, got, err, want)
		}
	}
	if _, err := family.ParseScope(strings.Repeat("a", 4096)); err != nil {
		t.Errorf("4096 bytes: %v", err)
	}
}

// TestScopeAgreesWithSets compares the set operations with maps.
func TestScopeAgreesWithSets(t *testing.T) {
	words := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "ab", "b", "c", "abc", "openid", "A"}), 0, 6)
	rapid.Check(t, func(t *rapid.T) {
		ws, vs := words.Draw(t, "s"), words.Draw(t, "t")
		s, u := family.ScopeOf(ws...), family.ScopeOf(vs...)
		both, minus := map[string]bool{}, map[string]bool{}
		within := true
		for _, w := range ws {
			in := slices.Contains(vs, w)
			both[w], minus[w] = in, !in
			within = within && in
		}
		keys := func(m map[string]bool) (k []string) {
			for w, in := range m {
				if in {
					k = append(k, w)
				}
			}
			slices.Sort(k)
			return k
		}
		if got := s.And(u).Words(); !slices.Equal(got, keys(both)) {
			t.Fatalf("%q.And(%q) = %q, want %q", s, u, got, keys(both))
		}
		if got := s.Without(vs...).Words(); !slices.Equal(got, keys(minus)) {
			t.Fatalf("%q.Without(%q) = %q, want %q", s, vs, got, keys(minus))
		}
		if got := s.Within(u); got != within {
			t.Fatalf("%q.Within(%q) = %v", s, u, got)
		}
		for _, w := range append(slices.Clone(vs), "", " ", "a b") {
			if got := s.Has(w); got != slices.Contains(ws, w) {
				t.Fatalf("%q.Has(%q) = %v", s, w, got)
			}
		}
	})
}

// FuzzParseScope: what is accepted is canonical, and nothing is lost or added.
func FuzzParseScope(f *testing.F) {
	for _, s := range []string{
		"", "a", "b a", "openid profile offline_access", "a  b", " a", "a\"", "é", "a a a", "\x00", "https://api.example/x?y=1#z",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scope, err := family.ParseScope(s)
		if err != nil {
			if scope != "" {
				t.Errorf("ParseScope(%q): %q with %v", s, scope, err)
			}
			return
		}
		if again, err := family.ParseScope(string(scope)); err != nil || again != scope {
			t.Errorf("ParseScope(%q) = %q, which reads as %q, %v", s, scope, again, err)
		}
		words := strings.Fields(s)
		slices.Sort(words)
		if !slices.Equal(slices.Compact(words), scope.Words()) && s != "" {
			t.Errorf("ParseScope(%q) = %q", s, scope)
		}
		if !scope.Within(scope) || scope.And(scope) != scope || scope.Without(scope.Words()...) != "" {
			t.Errorf("%q is not a set", scope)
		}
	})
}
