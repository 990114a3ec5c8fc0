package feed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

func fam(id string, until int64) Entry {
	return Entry{Kind: Family, ID: id, Reason: "reuse", Until: until}
}

func add(t *testing.T, s *Set, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := s.Add(e); err != nil {
			t.Fatalf("Add(%+v): %v", e, err)
		}
	}
}

func TestEntriesThatMakeNoSenseAreRefused(t *testing.T) {
	s := NewSet(0)
	for name, e := range map[string]Entry{
		"nothing":              {},
		"no kind":              {ID: "x", Until: 9},
		"unknown kind":         {Kind: 99, ID: "x", Until: 9},
		"family without id":    {Kind: Family, Until: 9},
		"family with cut-off":  {Kind: Family, ID: "x", Before: 1, Until: 9},
		"family that keeps":    {Kind: Family, ID: "x", Keep: "s", Until: 9},
		"token without id":     {Kind: Token, Until: 9},
		"user without cut-off": {Kind: User, ID: "x", Until: 9},
		"user with negative":   {Kind: User, ID: "x", Before: -1, Until: 9},
		"client that keeps":    {Kind: Client, ID: "x", Before: 1, Keep: "s", Until: 9},
		"all with id":          {Kind: All, ID: "x", Before: 1, Until: 9},
		"no end":               {Kind: Family, ID: "x"},
		"long id":              {Kind: Family, ID: strings.Repeat("x", 513), Until: 9},
		"long session":         {Kind: User, ID: "x", Before: 1, Keep: strings.Repeat("x", 513), Until: 9},
		"long reason":          {Kind: Family, ID: "x", Reason: strings.Repeat("x", 65), Until: 9},
	} {
		if err := s.Add(e); err == nil {
			t.Errorf("%s: Add(%+v) = nil", name, e)
		}
		if _, err := AppendFrame(nil, Frame{Event: Revoked, Entry: e}); err == nil {
			t.Errorf("%s: AppendFrame(%+v) = nil", name, e)
		}
	}
	if s.Len() != 0 {
		t.Errorf("%d entries of nonsense", s.Len())
	}
}

// Within the second of a cut-off a token counts as newer; a second earlier it is dead.
func TestCutOffBoundary(t *testing.T) {
	for _, row := range []struct {
		before, iat int64
		dead        bool
	}{
		{10_000, 8, true}, {10_000, 9, true}, {9_999, 9, true}, {9_998, 9, false}, {10_000, 10, false}, {10_998, 10, false}, {10_999, 10, true}, {10_000, 11, false},
	} {
		for name, e := range map[string]Entry{
			"user": {Kind: User, ID: "u"}, "client": {Kind: Client, ID: "c"}, "all": {Kind: All},
		} {
			e.Before, e.Until = row.before, 99
			s := NewSet(0)
			add(t, s, e)
			if got := s.Dead(Subject{User: "u", Client: "c", IssuedAt: row.iat}); got != row.dead {
				t.Errorf("%s, cut-off %d, issued at %d: dead is %t", name, row.before, row.iat, got)
			}
		}
	}
}

// A set whose answers are worked out the slow way, entry by entry.
func deadBy(entries []Entry, s Subject) bool {
	for _, e := range entries {
		old := e.Before > 0 && s.IssuedAt*1000+999 <= e.Before
		switch e.Kind {
		case Family:
			if e.ID == s.Family {
				return true
			}
		case Token:
			if e.ID == s.Token {
				return true
			}
		case User:
			if e.ID == s.User && old && (e.Keep == "" || e.Keep != s.Session) {
				return true
			}
		case Client:
			if e.ID == s.Client && old {
				return true
			}
		case All:
			if old {
				return true
			}
		}
	}
	return false
}

var word = rapid.SampledFrom([]string{"a", "b", "c", "d"})

func genEntry(t *rapid.T) Entry {
	e := Entry{Kind: Kind(rapid.IntRange(1, 5).Draw(t, "kind")), Reason: "reuse", Until: rapid.Int64Range(1, 40).Draw(t, "until")}
	if e.Kind != All {
		e.ID = word.Draw(t, "id")
	}
	if e.Kind == User || e.Kind == Client || e.Kind == All {
		e.Before = rapid.Int64Range(1, 30_000).Draw(t, "before")
	}
	if e.Kind == User && rapid.Bool().Draw(t, "keeps") {
		e.Keep = word.Draw(t, "keep")
	}
	return e
}

func genSubject(t *rapid.T) Subject {
	return Subject{
		Family: word.Draw(t, "fam"), Token: word.Draw(t, "jti"), User: word.Draw(t, "sub"), Client: word.Draw(t, "client"),
		Session: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "sid"), IssuedAt: rapid.Int64Range(0, 30).Draw(t, "iat"),
	}
}

// The set says what all its entries say, in whatever order they came and however often;
// a token that lives as long as its entries is never revived by forgetting.
func TestSetSaysWhatItsEntriesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSet(0)
		var all []Entry
		now := int64(0)
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				now += rapid.Int64Range(0, 10).Draw(t, "later")
				s.Forget(now)
			case 1:
				all = nil
				for range rapid.IntRange(0, 10).Draw(t, "snapshot") {
					all = append(all, genEntry(t))
				}
				if err := s.Replace(all); err != nil {
					t.Fatal(err)
				}
			default:
				e := genEntry(t)
				all = append(all, e)
				if err := s.Add(e); err != nil {
					t.Fatal(err)
				}
			}
			who := genSubject(t)
			must := deadBy(all, who)
			// What may have been forgotten need not be known any more; what has not ended must.
			var living []Entry
			for _, e := range all {
				if e.Until > now {
					living = append(living, e)
				}
			}
			got := s.Dead(who)
			if got && !must {
				t.Fatalf("%+v is dead; no entry of %+v says so", who, all)
			}
			if !got && deadBy(living, who) {
				t.Fatalf("%+v lives; %+v say otherwise at %d", who, living, now)
			}
			if s.Len() > len(all) {
				t.Fatalf("%d entries of %d", s.Len(), len(all))
			}
		}
		s.Forget(1000)
		if s.Len() != 0 || len(s.families)+len(s.tokens)+len(s.users)+len(s.clients) != 0 || s.all != (cutoff{}) || s.soonest != 0 {
			t.Fatalf("something is left for ever: %d", s.Len())
		}
	})
}

func TestForgetBoundary(t *testing.T) {
	s := NewSet(0)
	add(t, s, fam("a", 100), fam("b", 101), fam("a", 99)) // the last says less than the first
	s.Forget(99)
	if !s.Dead(Subject{Family: "a"}) || s.Len() != 2 {
		t.Error("forgotten a second before its end")
	}
	s.Forget(100)
	if s.Dead(Subject{Family: "a"}) || !s.Dead(Subject{Family: "b"}) || s.Len() != 1 {
		t.Error("at its end it is to be forgotten, and it alone")
	}
	add(t, s, fam("b", 200))
	s.Forget(101)
	if !s.Dead(Subject{Family: "b"}) {
		t.Error("an entry that was made to last longer was forgotten")
	}
	add(t, s, fam("c", 150))
	s.Forget(150)
	if s.Len() != 1 {
		t.Error("an entry that came later and ends sooner was not forgotten")
	}
	s.Forget(200)
	if s.Len() != 0 {
		t.Errorf("%d entries are left", s.Len())
	}
}

func TestFullSetRefusesAndStaysAsItWas(t *testing.T) {
	s := NewSet(3)
	add(t, s, fam("a", 10), Entry{Kind: User, ID: "u", Before: 1000, Until: 10}, Entry{Kind: All, Before: 1, Until: 10})
	for _, e := range []Entry{fam("b", 10), {Kind: Token, ID: "t", Until: 10}, {Kind: User, ID: "u", Before: 1, Keep: "s", Until: 10}, {Kind: Client, ID: "c", Before: 1, Until: 10}} {
		if err := s.Add(e); !errors.Is(err, ErrFull) {
			t.Errorf("Add(%+v): %v; want ErrFull", e, err)
		}
	}
	add(t, s, fam("a", 20), Entry{Kind: User, ID: "u", Before: 9000, Until: 30}) // takes no room
	if err := s.Replace([]Entry{fam("1", 9), fam("2", 9), fam("3", 9), fam("4", 9)}); !errors.Is(err, ErrFull) {
		t.Errorf("Replace: %v; want ErrFull", err)
	}
	if err := s.Replace([]Entry{fam("1", 9), {}}); err == nil {
		t.Error("Replace with nonsense: nil")
	}
	if s.Len() != 3 || !s.Dead(Subject{Family: "a"}) || s.Dead(Subject{Family: "1"}) {
		t.Error("a refusal changed the set")
	}
	s.Forget(20)
	add(t, s, fam("b", 30), fam("c", 30))
}

// Nobody ever sees half a snapshot: each of two kills the subject in its own way, and it
// is never alive in between.
func TestReplaceIsOneStep(t *testing.T) {
	one, two := []Entry{fam("one", 99)}, []Entry{{Kind: Token, ID: "two", Until: 99}}
	for i := range 1000 {
		one, two = append(one, fam(fmt.Sprintf("x%d", i), 99)), append(two, fam(fmt.Sprintf("y%d", i), 99))
	}
	s := NewSet(0)
	if err := s.Replace(one); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !s.Dead(Subject{Family: "one", Token: "two"}) {
					t.Error("the subject came to life")
					return
				}
				if n := s.Len(); n != len(one) {
					t.Errorf("a set of %d entries was seen; want %d", n, len(one))
					return
				}
			}
		})
	}
	for i := range 200 {
		if err := s.Replace([][]Entry{two, one}[i%2]); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestSetIsSafeForManyGoroutines(t *testing.T) {
	s := NewSet(100)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				// A full set is part of the story.
				_ = s.Add(fam(fmt.Sprint(g, i), int64(i+1)))
				_ = s.Add(Entry{Kind: User, ID: "u", Keep: fmt.Sprint(i % 5), Before: int64(i + 1), Until: int64(i + 1)})
				s.Dead(Subject{Family: fmt.Sprint(g, i), User: "u", IssuedAt: 1})
				s.Forget(int64(i - 20))
				s.Len()
			}
		})
	}
	wg.Wait()
	s.Forget(1000)
	if s.Len() != 0 {
		t.Errorf("%d entries are left", s.Len())
	}
}

func TestHundredThousandFamiliesIn16MiB(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s := NewSet(0)
	for i := range 100_000 {
		add(t, s, fam(fmt.Sprintf("%022d", i), 99))
	}
	got := heap() - before
	t.Logf("%.1f MiB", float64(got)/(1<<20))
	if got > 16<<20 {
		t.Errorf("100,000 families take %d bytes", got)
	}
	s.Forget(99)
	if s.Len() != 0 {
		t.Errorf("%d are left", s.Len())
	}
	runtime.KeepAlive(s)
}

// What is written is read again, byte for byte and however the network cuts it.
func TestFramesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var frames []Frame
		var raw []byte
		for range rapid.IntRange(1, 10).Draw(t, "frames") {
			f := Frame{Event: rapid.SampledFrom([]string{Reset, Revoked, Ready, Beat}).Draw(t, "event")}
			if rapid.Bool().Draw(t, "has id") {
				f.ID = Position{History: rapid.StringMatching(`[a-z0-9.]{1,20}`).Draw(t, "history"), Seq: rapid.Uint64().Draw(t, "seq")}.String()
			}
			if f.Event == Revoked {
				f.Entry = genEntry(t)
				if f.Entry.ID != "" {
					f.Entry.ID = rapid.StringN(1, 100, 512).Draw(t, "any id")
				}
			} else {
				f.Mark = Mark{Head: rapid.Uint64().Draw(t, "head"), Now: rapid.Int64().Draw(t, "now"), Live: rapid.Int().Draw(t, "live")}
			}
			frames = append(frames, f)
			var err error
			if raw, err = AppendFrame(raw, f); err != nil {
				t.Fatal(err)
			}
			raw = append(raw, ": a comment\n"...)
		}
		r := NewReader(iotest.OneByteReader(bytes.NewReader(raw)))
		for _, want := range frames {
			got, err := r.Next()
			if err != nil || got != want {
				t.Fatalf("got %+v, %v; want %+v", got, err, want)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
		// Cut anywhere, the stream gives whole frames and then says that it was cut.
		n := rapid.IntRange(0, len(raw)-1).Draw(t, "cut")
		r = NewReader(bytes.NewReader(raw[:n]))
		for i := 0; ; i++ {
			got, err := r.Next()
			if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			if err != nil || got != frames[i] {
				t.Fatalf("cut at %d: got %+v, %v; want %+v", n, got, err, frames[i])
			}
		}
	})
}

// The largest entry there is, written at its worst, fits a line.
func TestTheLargestEntryFits(t *testing.T) {
	f := Frame{Event: Revoked, ID: strings.Repeat("x", 120) + ".1", Entry: Entry{
		Kind: User, ID: strings.Repeat("\x01", maxID), Keep: strings.Repeat("<", maxID), Reason: strings.Repeat("&", maxReason), Before: 1 << 62, Until: 1 << 62,
	}}
	raw, err := AppendFrame(nil, f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := NewReader(bytes.NewReader(raw)).Next()
	if err != nil || got != f {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestStreamsThatAreRefused(t *testing.T) {
	for name, raw := range map[string]string{
		"unknown event":   "event: other\ndata: {}\n\n",
		"no event":        "data: {}\n\n",
		"no data":         "event: beat\n\n",
		"no entry":        "event: revoked\ndata: {}\n\n",
		"unknown kind":    "event: revoked\ndata: {\"kind\":\"x\",\"id\":\"a\",\"until\":1}\n\n",
		"nonsense":        "event: revoked\ndata: {\"kind\":\"user\",\"id\":\"a\",\"until\":1}\n\n",
		"broken":          "event: beat\ndata: {\n\n",
		"long line":       "event: beat\ndata: " + strings.Repeat("x", 9<<10) + "\n\n",
		"long data":       "event: beat\n" + strings.Repeat("data: "+strings.Repeat("x", 1000)+"\n", 9) + "\n",
		"long and no end": strings.Repeat("x", 9<<10),
		"cut":             "event: beat\ndata: {}\n",
		"cut in a line":   "event: be",
	} {
		if f, err := NewReader(strings.NewReader(raw)).Next(); err == nil || err == io.EOF || f != (Frame{}) {
			t.Errorf("%s: %+v, %v; want an error", name, f, err)
		}
	}
	f, err := NewReader(strings.NewReader("\n\r\n: hello\nretry: 5\nevent:beat\r\ndata:{\"head\":3}\r\n\r\n")).Next()
	if err != nil || f.Mark.Head != 3 {
		t.Errorf("another way to write a stream: %+v, %v", f, err)
	}
	broken := errors.New("broken")
	if _, err := NewReader(iotest.ErrReader(broken)).Next(); !errors.Is(err, broken) {
		t.Errorf("an error of the network: %v", err)
	}
}

func TestFramesThatCannotBeWritten(t *testing.T) {
	for name, f := range map[string]Frame{
		"no event":    {},
		"other event": {Event: "other"},
		"line in id":  {Event: Beat, ID: "a\nevent: revoked"},
		"no entry":    {Event: Revoked},
	} {
		if raw, err := AppendFrame([]byte("x"), f); err == nil || string(raw) != "x" {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}
}

func TestPositions(t *testing.T) {
	for _, p := range []Position{{"h", 0}, {"h.1", 7}, {"01J", 1<<64 - 1}} {
		if got, ok := ParsePosition(p.String()); !ok || got != p {
			t.Errorf("ParsePosition(%q) = %+v, %t", p, got, ok)
		}
	}
	for _, s := range []string{"", ".", ".1", "h", "h.", "h.x", "h.-1", "h.+1", "h.01", "h. 1", "h.18446744073709551616", strings.Repeat("h", 128) + ".1"} {
		if got, ok := ParsePosition(s); ok || got != (Position{}) {
			t.Errorf("ParsePosition(%q) = %+v, %t", s, got, ok)
		}
	}
}

func TestKindsHaveWords(t *testing.T) {
	for k := Family; k <= Narrowed; k++ {
		raw, err := json.Marshal(Entry{Kind: k})
		var back struct{ Kind Kind }
		if err != nil || json.Unmarshal(raw, &back) != nil || back.Kind != k || !strings.Contains(string(raw), `"`+k.String()+`"`) {
			t.Errorf("%v is written as %s, %v", k, raw, err)
		}
	}
	for _, k := range []Kind{0, Narrowed + 1} {
		if _, err := json.Marshal(Entry{Kind: k}); err == nil || k.String() != fmt.Sprintf("kind(%d)", k) {
			t.Errorf("kind %d has a word: %v", k, k)
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, fr := range []Frame{
		{Event: Revoked, ID: "h.1", Entry: fam("a", 9)}, {Event: Ready, Mark: Mark{Head: 1, Now: 2, Live: 3}}, {Event: Reset}, {Event: Beat, ID: "h.9"},
		{Event: Revoked, Entry: Entry{Kind: User, ID: "u", Before: 5, Keep: "s", Until: 9}},
	} {
		raw, err := AppendFrame(nil, fr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(append(raw, raw...))
	}
	f.Add([]byte("data: a\ndata: b\n:c\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := NewReader(bytes.NewReader(raw))
		for {
			got, err := r.Next()
			if err != nil {
				if !reflect.DeepEqual(got, Frame{}) {
					t.Errorf("a frame and an error: %+v, %v", got, err)
				}
				return
			}
			if got.Event == Revoked {
				if err := got.Entry.Check(); err != nil {
					t.Errorf("an entry that makes no sense was read: %v", err)
				}
			}
			if strings.ContainsAny(got.ID, "\r\n\x00") {
				continue
			}
			again, err := AppendFrame(nil, got)
			if err != nil {
				t.Fatalf("what was read can not be written: %+v: %v", got, err)
			}
			if back, err := NewReader(bytes.NewReader(again)).Next(); err != nil || back != got {
				t.Errorf("%+v came back as %+v, %v", got, back, err)
			}
		}
	})
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"h.1", "", ".1", "a.b.3", "h.00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, ok := ParsePosition(s); ok && p.String() != s {
			t.Errorf("%q was read as %+v", s, p)
		}
	})
}

// What was issued in the second of the withdrawal may still have the scope: it goes.
func TestRT_D07_NarrowedFamiliesLoseTheirOldTokens(t *testing.T) {
	s := NewSet(0)
	add(t, s, Entry{Kind: Narrowed, ID: "f", Before: 10_500, Until: 99})
	for iat, dead := range map[int64]bool{9: true, 10: true, 11: false} {
		if got := s.Dead(Subject{Family: "f", IssuedAt: iat}); got != dead {
			t.Errorf("issued at %d: dead is %t", iat, got)
		}
	}
	if s.Dead(Subject{Family: "g", IssuedAt: 1}) || s.Dead(Subject{IssuedAt: 1}) {
		t.Error("another family's token is dead")
	}
	s.Forget(99)
	if s.Len() != 0 || s.Dead(Subject{Family: "f", IssuedAt: 1}) {
		t.Error("a narrowed family is not forgotten")
	}
}
