package user

import (
	"strings"
	"testing"
	"time"
	"unicode"
)

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	phc  = "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)

func someone() User {
	return User{
		ID: NewID([16]byte{1, 2, 3}), Username: "ada", Status: Enabled,
		Password: phc, CreatedAt: noon, PasswordAt: noon,
	}
}

func TestIDHasOneSpelling(t *testing.T) {
	for _, raw := range [][16]byte{{}, {1}, {15: 1}, {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}} {
		id := NewID(raw)
		if len(id) != 28 || !strings.HasPrefix(string(id), "u_") {
			t.Errorf("NewID(%x) = %q: want u_ and 26 characters", raw, id)
		}
		if got, err := ParseID(string(id)); err != nil || got != id {
			t.Errorf("ParseID(%q) = %q, %v", id, got, err)
		}
	}
	zero := string(NewID([16]byte{}))
	for _, bad := range []string{
		"", "u_", zero[2:], zero + "a", zero[:27], strings.ToUpper(zero),
		"u_" + strings.ToUpper(zero[2:]), "c_" + zero[2:],
		zero[:27] + "b", // the two bits that no byte fills
		zero[:10] + "\n" + zero[11:], zero[:10] + "1" + zero[11:], zero[:10] + "=" + zero[11:],
	} {
		if id, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %q, want an error", bad, id)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(string(NewID([16]byte{1})))
	f.Add("u_aaaaaaaaaaaaaaaaaaaaaaaaab")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			return
		}
		raw, err := base32Lower.DecodeString(s[2:])
		if err != nil || string(id) != s || NewID([16]byte(raw)) != id {
			t.Errorf("ParseID(%q) = %q, which is not its only spelling (%v)", s, id, err)
		}
	})
}

func TestParseUsername(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"ada", "ada"},
		{"Ada.Lovelace@Example.COM", "ada.lovelace@example.com"},
		{"MÜLLER", "müller"},
		{"Ольга", "ольга"},
		{"田中", "田中"},
		{"한국", "한국"},
		{"DOMAIN\\x", "domain\\x"},
		{"\u212Belvin", "åelvin"}, // ANGSTROM SIGN is lowered to the letter
		{strings.Repeat("É", 128), strings.Repeat("é", 128)},
	} {
		if got, err := ParseUsername(c.in); err != nil || got != c.want {
			t.Errorf("ParseUsername(%q) = %q, %v, want %q", c.in, got, err, c.want)
		}
	}
	for _, c := range []struct{ in, says string }{
		{"", "empty"},
		{" ada", "space"},
		{"ada ", "space"},
		{"a da", "space"},
		{"ada\u00A0", "space"},
		{"ada\t", "space"},
		{"ada\n", "space"},
		{"ada\u3000", "space"},
		{"ada\x00", "U+0000"},
		{"ada\x7f", "U+007F"},
		{"ada\u200b", "U+200B"}, // zero width space
		{"ada\u202e", "U+202E"}, // right-to-left override
		{"\ufeffada", "U+FEFF"}, // byte order mark
		{"ada\u00ad", "U+00AD"}, // soft hyphen
		{"jose\u0301", "combining mark U+0301"},
		{"\u1112\u1161\u11ab", "another way"}, // 한 in three letters
		{"\uF900", "another way"},             // 豈 as a compatibility ideograph
		{"\U0002F800", "another way"},
		{"\ue000", "U+E000"},
		{"ada\xff", "UTF-8"},
		{strings.Repeat("a", 129), "at most 128"},
	} {
		got, err := ParseUsername(c.in)
		if err == nil || !strings.Contains(err.Error(), c.says) || got != "" {
			t.Errorf("ParseUsername(%q) = %q, %v, want an error that says %q", c.in, got, err, c.says)
		}
	}
}

func TestEveryCharacterHasOneNormalForm(t *testing.T) {
	accepted := 0
	for r := rune(0); r <= unicode.MaxRune; r++ {
		once, err := ParseUsername(string(r))
		if err != nil {
			continue
		}
		accepted++
		if twice, err := ParseUsername(once); err != nil || twice != once {
			t.Errorf("U+%04X: normal form %q becomes %q, %v", r, once, twice, err)
		}
	}
	if accepted < 100_000 {
		t.Errorf("%d characters accepted: the rules refuse whole scripts", accepted)
	}
}

func FuzzParseUsername(f *testing.F) {
	f.Add("Ada")
	f.Add("İſßς")
	f.Fuzz(func(t *testing.T, s string) {
		name, err := ParseUsername(s)
		if err != nil {
			return
		}
		if again, err := ParseUsername(name); err != nil || again != name {
			t.Errorf("ParseUsername(%q) = %q, which parses as %q, %v", s, name, again, err)
		}
	})
}

func TestCutOffSparesOnlyTheKeptSession(t *testing.T) {
	mine := Origin{Session: [16]byte{1}, Issued: noon.Add(-time.Hour)}
	other := Origin{Session: [16]byte{2}, Issued: noon.Add(-time.Hour)}
	sessionless := Origin{Issued: noon.Add(-time.Hour)}
	sameInstant := Origin{Session: [16]byte{3}, Issued: noon}
	later := Origin{Session: [16]byte{3}, Issued: noon.Add(1)}

	u := someone()
	for _, o := range []Origin{mine, other, sessionless, sameInstant, later} {
		if r, dead := u.Dead(o); dead {
			t.Errorf("no cut-off, and %v is dead: %s", o, r)
		}
	}
	kept := u.CutOff(noon, ReasonPasswordChange, mine)
	all := u.CutOff(noon, ReasonUser, Origin{})
	for _, c := range []struct {
		name   string
		u      User
		o      Origin
		reason string
	}{
		{"kept/mine", kept, mine, ""},
		{"kept/other", kept, other, ReasonPasswordChange},
		{"kept/sessionless", kept, sessionless, ReasonPasswordChange},
		{"kept/same instant", kept, sameInstant, ReasonPasswordChange},
		{"kept/later", kept, later, ""},
		{"all/mine", all, mine, ReasonUser},
		{"all/sessionless", all, sessionless, ReasonUser},
		{"all/later", all, later, ""},
	} {
		if r, dead := c.u.Dead(c.o); r != c.reason || dead != (c.reason != "") {
			t.Errorf("%s: Dead = %q, %t, want %q", c.name, r, dead, c.reason)
		}
	}
}

func TestCutOffDoesNotReviveADeadSession(t *testing.T) {
	mine := Origin{Session: [16]byte{1}, Issued: noon.Add(-time.Hour)}
	other := Origin{Session: [16]byte{2}, Issued: noon.Add(-time.Hour)}
	// Two browsers change the password at once, each wants to stay.
	u := someone().WithPassword(phc, noon, mine)
	u = u.WithPassword(phc, noon.Add(time.Second), other)
	for _, o := range []Origin{mine, other} {
		if _, dead := u.Dead(o); !dead {
			t.Errorf("session %x lives after both changes: neither owns the last word", o.Session[0])
		}
	}
}

func TestCutOffNeverMovesBack(t *testing.T) {
	u := someone().CutOff(noon, ReasonUser, Origin{})
	u = u.CutOff(noon.Add(-time.Hour), ReasonAdmin, Origin{})
	if !u.NotBefore.Equal(noon) {
		t.Errorf("cut-off at %v, want %v: the clock went back", u.NotBefore, noon)
	}
}

func TestDisableKillsForGood(t *testing.T) {
	mine := Origin{Session: [16]byte{1}, Issued: noon.Add(-time.Hour)}
	new := Origin{Session: [16]byte{1}, Issued: noon.Add(time.Hour)}
	u := someone().CutOff(noon.Add(-time.Minute), ReasonPasswordChange, mine).Disable(noon)
	for _, o := range []Origin{mine, new} {
		if r, dead := u.Dead(o); !dead || r != ReasonDisabled {
			t.Errorf("disabled: Dead = %q, %t", r, dead)
		}
	}
	u = u.Enable()
	if r, dead := u.Dead(mine); !dead || r != ReasonDisabled {
		t.Errorf("enabled again: what was issued before is %q, %t, want dead", r, dead)
	}
	if r, dead := u.Dead(new); dead {
		t.Errorf("enabled again: a new session is dead: %s", r)
	}
	if _, dead := (User{}).Dead(new); !dead {
		t.Error("the zero User lets things live")
	}
}

func TestRehashCutsNothingOff(t *testing.T) {
	u := someone()
	if got := u.Rehashed("x"); got.NotBefore != u.NotBefore || got.PasswordAt != u.PasswordAt || got.Password != "x" {
		t.Errorf("Rehashed = %+v", got)
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	if err := someone().Check(); err != nil {
		t.Fatalf("a good user: %v", err)
	}
	for _, c := range []struct {
		says   string
		change func(*User)
	}{
		{"user id", func(u *User) { u.ID = "u_x" }},
		{"username is empty", func(u *User) { u.Username = "" }},
		{"not normalised", func(u *User) { u.Username = "Ada" }},
		{"invalid status 0", func(u *User) { u.Status = 0 }},
		{"password hash", func(u *User) { u.Password = "hunter22" }},
		{"time it was set", func(u *User) { u.PasswordAt = time.Time{} }},
		{"CreatedAt", func(u *User) { u.CreatedAt = time.Time{} }},
		{"cut-off time", func(u *User) { u.NotBeforeReason = ReasonUser }},
		{"cut-off time", func(u *User) { u.Keep[0] = 1 }},
		{"cut-off reason", func(u *User) { u.NotBefore = noon }},
		{"cut-off reason", func(u *User) { u.NotBefore, u.NotBeforeReason = noon, "because" }},
		{"claim email", func(u *User) { u.Claims.Email = "x" }},
	} {
		u := someone()
		c.change(&u)
		err := u.Check()
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Check = %v, want an error that says %q", err, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "hunter22") {
			t.Errorf("Check repeats the stored hash: %v", err)
		}
	}
}
