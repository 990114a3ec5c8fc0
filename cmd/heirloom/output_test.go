package main

import (
	"strings"
	"testing"
	"time"
)

// What strangers choose, such as a user agent, must not steer the operator's terminal.
func TestTablesPrintNoControlCharacters(t *testing.T) {
	var b strings.Builder
	out := table{head: []string{"CLIENT", "DEVICE", "WHEN"}}
	out.add("app\tx", "\x1b[2Jgone\r\n\u202eevil\u0007", when(time.Time{}))
	if err := out.print(&b); err != nil {
		t.Fatal(err)
	}
	if err := printFields(&b, map[string]string{"name": "\x1b[31mred\u202e"}); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.String() {
		if r < ' ' && r != '\n' || r == '\u202e' || r == 0x7f {
			t.Errorf("U+%04X is printed: %q", r, b.String())
		}
	}
	if want := "CLIENT  DEVICE            WHEN\napp x    [2Jgone   evil   -\n"; !strings.HasPrefix(b.String(), want) {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestTheNearestNameIsNamed(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"issuer", "isuer", 1}, {"kitten", "sitting", 3}, {"addr", "addr", 0}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
