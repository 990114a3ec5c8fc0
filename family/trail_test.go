package family

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// TestTrailRemembersTheLastUses compares the ring with a plain list, whatever comes:
// each remembered use has the origin it was made from, and none has another's.
func TestTrailRemembersTheLastUses(t *testing.T) {
	origins := []Origin{{}}
	for i := range 40 {
		origins = append(origins, Origin{IP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), UserAgent: fmt.Sprint("agent ", i%7)})
	}
	forgot, shared := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		var s State
		var list []Entry
		variety := rapid.IntRange(1, len(origins)).Draw(t, "variety")
		for i := range rapid.IntRange(0, 60).Draw(t, "uses") {
			from := origins[rapid.IntRange(0, variety-1).Draw(t, "from")]
			why := Reason(rapid.IntRange(1, int(reasons)-1).Draw(t, "why"))
			before, held := s, s.Places
			var copied Places
			if held != nil {
				copied = *held
			}
			s = s.note(Time(1000+i), uint32(i), why, from)
			if held != nil && *held != copied {
				t.Fatal("Places was changed in place")
			}
			if before.Places != nil && s.Places == before.Places {
				shared++
			}
			list = append(list, Entry{Use{At: Time(1000 + i), Generation: uint32(i), Reason: why}, from})
			if len(list) > trailLen {
				list = list[1:]
				forgot++
			}
			got := s.History()
			for i := range got {
				got[i].place = 0
			}
			if !slices.Equal(got, list) {
				t.Fatalf("after %d uses\n got %+v\nwant %+v", i+1, got, list)
			}
			// What is stored and read again is the same life.
			back, ok := ParseTrail(s.Trail.AppendTrail(nil))
			if !ok || back != s.Trail {
				t.Fatalf("the trail comes back as %+v, %v\nwant %+v", back, ok, s.Trail)
			}
		}
		if len(list) == 0 && s.History() != nil {
			t.Fatalf("an empty trail has %+v", s.History())
		}
	})
	if forgot == 0 || shared == 0 {
		t.Errorf("the ring was never full (%d) or no place ever known (%d)", forgot, shared)
	}
}

// TestKnownPlacesAreKept: a family that is used from the places it knows does not
// write them again, although its ring turns.
func TestKnownPlacesAreKept(t *testing.T) {
	home, phone := Origin{UserAgent: "home"}, Origin{UserAgent: "phone"}
	s := State{}.note(1, 0, Issued, home).note(2, 1, Rotated, phone)
	places := s.Places
	for i := range 100 {
		s = s.note(Time(3+i), uint32(i), Rotated, []Origin{home, phone}[i%2])
	}
	if s.Places != places {
		t.Error("Places was written again")
	}
	// A place that was forgotten and comes back before its slot is taken is known, too.
	for i := range trailLen {
		s = s.note(Time(200+i), uint32(i), Rotated, home)
	}
	if s = s.note(300, 1, Rotated, phone); s.Places != places {
		t.Error("Places was written again for a slot that still had it")
	}
}

func TestUserAgentsAreCut(t *testing.T) {
	long := strings.Repeat("x", MaxUserAgent)
	s := State{}.note(1, 0, Issued, Origin{UserAgent: long + "y"})
	if got := s.History()[0].Origin.UserAgent; got != long {
		t.Errorf("kept %d bytes, want %d", len(got), len(long))
	}
	if next := s.note(2, 1, Rotated, Origin{UserAgent: long + "z"}); next.Places != s.Places {
		t.Error("two agents that are cut to the same are two places")
	}
}

// TestTrailFormat pins the stored bytes of version 1. Files have them: they never change.
func TestTrailFormat(t *testing.T) {
	if TrailSize != 194 || trailLen != 16 || trailVersion != 1 {
		t.Errorf("TrailSize %d, %d uses, version %d: want 194, 16, 1", TrailSize, trailLen, trailVersion)
	}
	s := State{}.note(0x0102030405, 0x0a0b0c0d, Rotated, Origin{UserAgent: "a"}).note(1<<48-1, 1<<32-1, Unavailable, Origin{UserAgent: "b"})
	got := s.Trail.AppendTrail([]byte{0xee})
	want := "ee" + "01" + "02" + "000102030405" + "0a0b0c0d" + "02" + "00" + "ffffffffffff" + "ffffffff" + "19" + "01" + strings.Repeat("00", 12*14)
	if hex.EncodeToString(got) != want {
		t.Errorf("AppendTrail\n got %x\nwant %s", got, want)
	}
	if len(got) != TrailSize+1 {
		t.Errorf("%d bytes, want TrailSize = %d and the one before", len(got), TrailSize)
	}
	if size := unsafe.Sizeof(s); size > 640 {
		t.Errorf("a State has %d bytes: it is copied on every request; keep it small", size)
	}
}

func TestParseTrailRefuses(t *testing.T) {
	good := State{}.note(1, 2, Rotated, Origin{}).Trail.AppendTrail(nil)
	if _, ok := ParseTrail(good); !ok {
		t.Fatal("a good trail is refused")
	}
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for what, b := range map[string][]byte{
		"nothing": nil, "one byte short": good[:TrailSize-1], "one byte long": append(bytes.Clone(good), 0),
		"version 0": change(0, 0), "version 2": change(0, 2), "a next slot beyond the ring": change(1, trailLen),
		"a reason beyond the list": change(2+10, byte(reasons)), "a place beyond the list": change(2+11, trailLen),
		"a place beyond the list in an empty slot": change(2+12+11, trailLen),
	} {
		if tr, ok := ParseTrail(b); ok || tr != (Trail{}) {
			t.Errorf("%s: got %+v, %v", what, tr, ok)
		}
	}
}

// FuzzParseTrail: what is accepted is exactly what would be written, and can be shown.
func FuzzParseTrail(f *testing.F) {
	s := State{}
	f.Add(s.Trail.AppendTrail(nil))
	for i := range 20 {
		s = s.note(Time(i), uint32(i), Rotated, Origin{UserAgent: fmt.Sprint(i % 3)})
		f.Add(s.Trail.AppendTrail(nil))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		trail, ok := ParseTrail(b)
		if !ok {
			return
		}
		if again := trail.AppendTrail(nil); !bytes.Equal(again, b) {
			t.Errorf("%x is written as %x", b, again)
		}
		for _, places := range []*Places{nil, {}} {
			s := State{Trail: trail, Places: places}
			for _, e := range s.History() {
				if !e.Reason.Valid() {
					t.Errorf("%x shows %+v", b, e)
				}
			}
			s.note(1, 1, Rotated, Origin{UserAgent: "x"})
		}
	})
}
