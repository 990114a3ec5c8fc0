package family

// Bar is what a user or a client holds against their families: all of them are barred
// for the time being, or those issued up to a cut-off are dead. The zero Bar holds
// nothing. Engines keep it; which families it covers is decided here, once.
type Bar struct {
	Now    Reason   // not 0: all of them are barred as long as it stands
	Before Time     // those issued at or before it are dead for Why; 0: none
	At     Time     // when the cut-off was decided
	Why    Reason   // of the cut-off
	Keep   [16]byte // the session whose families the cut-off spares; zero: none
}

// BarAll is a cut-off that covers whatever was or will be issued.
const BarAll = Time(1<<63 - 1)

// Covers reports whether the cut-off ends the family for good.
func (b Bar) Covers(s State) bool {
	return b.Before != 0 && s.IssuedAt <= b.Before && (b.Keep == [16]byte{} || s.Grant.Session != b.Keep)
}

// Against returns why the family is not accepted; 0: the bar does not concern it.
func (b Bar) Against(s State) Reason {
	if b.Now != 0 {
		return b.Now
	}
	if b.Covers(s) {
		return b.Why
	}
	return 0
}

// CutOffReason reads the word of a stored cut-off. What can not be read still cuts off.
func CutOffReason(word string) Reason {
	if r, err := ParseReason(word); err == nil {
		return r
	}
	return RevokedAdmin
}
