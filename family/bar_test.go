package family

import "testing"

func TestABarCoversWhatWasIssuedUpToItsCutOff(t *testing.T) {
	mine, other := [16]byte{1}, [16]byte{2}
	for name, c := range map[string]struct {
		bar    Bar
		issued Time
		from   [16]byte
		want   Reason
	}{
		"nothing":               {Bar{}, 10, mine, 0},
		"issued before":         {Bar{Before: 10, Why: RevokedUser}, 9, mine, RevokedUser},
		"issued at the moment":  {Bar{Before: 10, Why: RevokedUser}, 10, mine, RevokedUser},
		"issued after":          {Bar{Before: 10, Why: RevokedUser}, 11, mine, 0},
		"spared":                {Bar{Before: 10, Why: RevokedUser, Keep: mine}, 9, mine, 0},
		"not the spared one":    {Bar{Before: 10, Why: RevokedUser, Keep: mine}, 9, other, RevokedUser},
		"no session, none kept": {Bar{Before: 10, Why: RevokedUser}, 9, [16]byte{}, RevokedUser},
		"for ever":              {Bar{Before: BarAll, Why: RevokedAdmin}, 1 << 60, mine, RevokedAdmin},
		"for the time being":    {Bar{Now: UserDisabled, Keep: mine}, 11, mine, UserDisabled},
	} {
		s := State{IssuedAt: c.issued, Grant: &Grant{Session: c.from}}
		if got := c.bar.Against(s); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		if got, want := c.bar.Covers(s), c.want != 0 && c.bar.Now == 0; got != want {
			t.Errorf("%s: covers is %t, want %t", name, got, want)
		}
	}
	if CutOffReason("no such word") != RevokedAdmin || CutOffReason("revoked_user") != RevokedUser {
		t.Error("a cut-off's word is read wrongly")
	}
}
