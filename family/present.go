package family

import "time"

// Act is what the rules decided about a presented token. The zero Act is invalid.
type Act uint8

// The acts. Only Rotate, Repeat and Recover are answered with tokens.
const (
	_       Act = iota
	Rotate      // the head was presented: its successor is issued
	Repeat      // a retry: the head is issued once more, nothing moved
	Recover     // newer than the store knows: the store lost commits
	Reuse       // a retired token came back: somebody has a copy
	Refuse      // not accepted; Reason says why
)

// Verdict is what the rules decide, and why.
type Verdict struct {
	Act    Act
	Reason Reason
}

// Accepted reports whether the verdict is answered with tokens.
func (v Verdict) Accepted() bool { return v.Act == Rotate || v.Act == Repeat || v.Act == Recover }

// Token is what a presented refresh token or code says once its MAC has been checked.
type Token struct {
	Family     ID
	Generation uint32 // 0 is the authorization code (or device code)
}

// Proof is what the request proves besides having the token.
type Proof struct {
	// Possession: the family is sender-constrained and this request carries a valid
	// proof by that key, or the client is confidential and authenticated itself.
	Possession bool
	Retry      RetryHash // digest of the Idempotency-Key; zero: none was sent
	Presenter  Presenter // digest of the User-Agent; zero: none was sent
	Origin     Origin    // for the trail; decides nothing
	Key        uint16    // the MAC key a successor would be made with
}

// lastGeneration has no successor. A family that rotates once a second reaches it
// after 136 years.
const lastGeneration = 1<<32 - 1

// Present judges a token at the store's now under a policy and returns the state
// that follows. It is the rule table of the design's section 2, first row that fits:
//
//	g = h                                                  rotate
//	g = h-1, same Idempotency-Key                          repeat
//	g < h,   proof of possession, policy not strict        repeat
//	g >= floor, inside the window, presenter as asked      repeat
//	g = h-1, retired within leeway, presenter as asked     repeat
//	g = h-1, policy until_used, presenter as asked         repeat
//	g < h                                                  reuse
//	g > h                                                  recover
//
// What Refuses refuses is refused before any of it, and so is, under rotation "never", a
// refresh token without proof of possession. Whatever is not accepted leaves the state as it was,
// except that Reuse ends the family: always when it is the code that came back,
// otherwise unless the policy says "reject".
// Whether the client, its binding and the asked scope fit is the caller's to check
// first: a stranger with an old token must not reach the rules.
func Present(s State, p Policy, now Time, t Token, proof Proof) (State, Verdict) {
	if why, refused := s.Refuses(p, now, t); refused {
		return s, Verdict{Refuse, why}
	}
	g, h := t.Generation, s.Head
	leeway := p.Leeway
	if g == 0 {
		// RFC 6749 §4.1.2: a code is used once. Only a proven retry is forgiven.
		leeway = 0
	}
	presenter := !p.SamePresenter || proof.Presenter == s.Presenter
	switch {
	case p.Rotation == Never && g > 0 && !proof.Possession:
		// What never rotates is worth nothing without the key or the secret it is bound
		// to (RFC 9700 §4.14.2): a copy would do for ever. Who proves nothing must not
		// end the family with an old token either.
		return s, Verdict{Refuse, BindingMismatch}
	case g == lastGeneration && (g > h || p.Rotation == Always):
		// Its successor would be generation 0 again and every token since a repetition.
		return s, Verdict{Refuse, ExpiredAbsolute}
	case g > h:
		return s.advance(p, now, g, Recovered, leeway, proof), Verdict{Recover, Recovered}
	case g == h && p.Rotation == Never && g > 0:
		return s.touch(p, now, proof), Verdict{Repeat, RepeatedPossession}
	case g == h:
		return s.advance(p, now, g, Rotated, leeway, proof), Verdict{Rotate, Rotated}
	case g == h-1 && proof.Retry != (RetryHash{}) && proof.Retry == s.RetryHash:
		return s, Verdict{Repeat, RepeatedRetry}
	case g > 0 && proof.Possession && !p.Strict():
		return s, Verdict{Repeat, RepeatedPossession}
	// Without a leeway there is no window, not even while a clock that was set back
	// stands before its start.
	case g > 0 && g >= s.Floor && leeway > 0 && s.WindowStart != 0 && now < s.WindowStart.Add(leeway) && presenter:
		return s, Verdict{Repeat, RepeatedWindow}
	// The window of a burst may have been nearly over when the head was made; a lost
	// answer is no rarer then. Before LastUsed the clock was set back: that must not
	// lengthen what the window alone forgives.
	case g > 0 && g == h-1 && s.WindowStart != 0 && s.LastUsed <= now && now < s.LastUsed.Add(leeway) && presenter:
		return s, Verdict{Repeat, RepeatedWindow}
	case g > 0 && g == h-1 && p.UntilUsed && presenter:
		return s, Verdict{Repeat, RepeatedUntilUsed}
	case p.OnReuse == RejectReuse && g > 0:
		return s, Verdict{Refuse, Superseded}
	}
	next := s.note(now, g, Reused, proof.Origin)
	next.Status, next.Reason = Revoked, Reused
	return next, Verdict{Reuse, Reused}
}

// advance makes generation g+1 the head.
func (s State) advance(p Policy, now Time, g uint32, why Reason, leeway time.Duration, proof Proof) State {
	s = s.note(now, g, why, proof.Origin)
	switch {
	case g == 0:
		// A code opens no window: the first refresh token gets its own, whole.
		s.WindowStart, s.Floor = 0, 0
	case why == Recovered, s.WindowStart == 0, leeway == 0, now >= s.WindowStart.Add(leeway):
		s.WindowStart, s.Floor = now, g
	}
	s.Head, s.HeadKey = g+1, proof.Key
	s.RetryHash, s.Presenter = proof.Retry, proof.Presenter
	// A clock that was set back must not move the last use into the past.
	s.LastUsed = max(now, s.LastUsed)
	s.IdleEnds = 0
	if p.Idle > 0 {
		s.IdleEnds = s.LastUsed.Add(p.Idle)
	}
	return s
}

// touch records the use of a token that does not rotate, in steps so coarse that a
// busy client costs no write: one hundredth of the idle time, at least a minute, but
// never more than a tenth of the idle time, or use could not keep a family alive.
func (s State) touch(p Policy, now Time, proof Proof) State {
	step := max(p.Idle/100, time.Minute)
	if p.Idle > 0 {
		step = min(step, p.Idle/10)
	}
	if now.Sub(s.LastUsed) < step {
		return s
	}
	s = s.note(now, s.Head, RepeatedPossession, proof.Origin)
	// From here on LastUsed is not when the predecessor was retired; without a window
	// nobody takes it for that, should the policy begin to rotate.
	s.WindowStart, s.Floor = 0, 0
	s.LastUsed = now
	s.IdleEnds = 0
	if p.Idle > 0 {
		s.IdleEnds = now.Add(p.Idle)
	}
	return s
}
