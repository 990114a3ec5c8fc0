package family_test

import (
	"testing"

	"github.com/heirloom-auth/heirloom/family"
)

// rotating returns a step that presents the head, from a place the family knows.
func rotating(b testing.TB) func() {
	p, _ := family.Preset("browser")
	now := family.Time(1_800_000_000_000)
	from := family.Origin{UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
	s := family.New(family.ID{1}, p, now, &family.Grant{Client: "app", User: "ada", Scope: "openid"}, 1, 0, from)
	return func() {
		now += 100
		next, v := family.Present(s, p, now, family.Token{Family: s.ID, Generation: s.Head}, family.Proof{Origin: from, Key: 1})
		if v.Act != family.Rotate {
			// The absolute end: begin again.
			next = family.New(family.ID{1}, p, now, s.Grant, 1, 0, from)
			next.Places = s.Places
		}
		s = next
	}
}

func BenchmarkPresent(b *testing.B) {
	b.Run("rotate", func(b *testing.B) {
		step := rotating(b)
		b.ReportAllocs()
		for b.Loop() {
			step()
		}
	})
	b.Run("repeat", func(b *testing.B) {
		p, _ := family.Preset("web")
		s := family.New(family.ID{1}, p, 1000, &family.Grant{}, 1, 0, family.Origin{})
		s, _ = family.Present(s, p, 2000, family.Token{}, family.Proof{})
		s, _ = family.Present(s, p, 3000, family.Token{Generation: 1}, family.Proof{})
		b.ReportAllocs()
		for b.Loop() {
			if _, v := family.Present(s, p, 4000, family.Token{Generation: 1}, family.Proof{}); v.Act != family.Repeat {
				b.Fatal(v)
			}
		}
	})
}

// The tag costs nothing here: what is measured is the codec, not HMAC.
func freeTag(uint16, string, []byte) ([32]byte, bool)          { return [32]byte{1}, true }
func freeCheck(_ uint16, _ string, _ []byte, _ *[32]byte) bool { return true }

func BenchmarkMint(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := family.Mint(1, live2, freeTag); !ok {
			b.Fatal("no key")
		}
	}
}

func BenchmarkRead(b *testing.B) {
	s := mint(b, 1, live2)
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := family.Read(s, false, freeCheck); !ok {
				b.Fatal("refused")
			}
		}
	})
	b.Run("misspelt", func(b *testing.B) {
		bad := s[:40] + "!" + s[41:]
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := family.Read(bad, false, freeCheck); ok {
				b.Fatal("accepted")
			}
		}
	})
}

func BenchmarkAppendTrail(b *testing.B) {
	step := rotating(b)
	for range 20 {
		step()
	}
	var s family.State
	buf := make([]byte, 0, family.TrailSize)
	b.ReportAllocs()
	for b.Loop() {
		buf = s.Trail.AppendTrail(buf[:0])
	}
}

// TestHotPathAllocations: a refresh from a known place allocates nothing in Present,
// and the codec only what leaves it: the token's text, and the bytes that an unknown
// function checks or tags.
func TestHotPathAllocations(t *testing.T) {
	step := rotating(t)
	step()
	s := mint(t, 1, live2)
	trail := family.State{}.Trail
	buf := make([]byte, 0, family.TrailSize)
	for _, c := range []struct {
		name string
		most float64
		f    func()
	}{
		{"Present, rotate, known origin", 0, step},
		{"Read", 1, func() { family.Read(s, false, freeCheck) }},
		{"Mint", 2, func() { family.Mint(1, live2, freeTag) }},
		{"AppendTrail", 0, func() { buf = trail.AppendTrail(buf[:0]) }},
	} {
		if got := testing.AllocsPerRun(1000, c.f); got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", c.name, got, c.most)
		}
	}
}
