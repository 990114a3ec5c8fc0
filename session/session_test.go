package session

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func random() (r [48]byte) {
	for i := range r {
		r[i] = byte(i + 1)
	}
	return r
}

func fresh() (Session, Cookie) {
	return New(random(), SignIn{
		User: "u_x", Now: noon, Ends: noon.Add(24 * time.Hour), ACR: "pwd", AMR: []string{"pwd"},
		UserAgent: "curl/8.5.0", IP: "192.0.2.1",
	})
}

func TestNewSession(t *testing.T) {
	s, c := fresh()
	if err := s.Check(); err != nil {
		t.Errorf("Check: %v", err)
	}
	id, secret, err := ParseCookie(c.Value())
	if err != nil || id != s.ID || !s.Proves(secret) {
		t.Errorf("the cookie %q: %v, %v, proves %t", c.Value(), id, err, s.Proves(secret))
	}
	if !strings.HasPrefix(c.Value(), "hss_") || len(c.Value()) != 68 {
		t.Errorf("cookie %q: want hss_ and 64 characters", c.Value())
	}
	r := random()
	if s.SecretHash != sha256.Sum256(r[16:]) {
		t.Error("SecretHash is not the SHA-256 of the secret")
	}
	for i := range secret {
		wrong := secret
		wrong[i] ^= 1
		if s.Proves(wrong) {
			t.Errorf("byte %d of the secret does not count", i)
		}
	}
	if s.Proves([32]byte{}) || s.Proves(s.SecretHash) {
		t.Error("a session is proven without its secret")
	}
	if (Session{}).Proves([32]byte{}) {
		t.Error("the zero secret proves the zero session")
	}
}

func TestCookieHasOneSpelling(t *testing.T) {
	_, c := fresh()
	good := c.Value()
	for _, bad := range []string{
		"", "hss_", good[4:], good + "A", good[:67], good + "=", good + "\n", " " + good, strings.ToUpper(good),
		"hrt_" + good[4:], good[:20] + "+" + good[21:], good[:20] + "/" + good[21:], good[:20] + "\n" + good[21:], good[:20] + "=" + good[21:],
	} {
		if id, secret, err := ParseCookie(bad); err == nil || id != (ID{}) || secret != ([32]byte{}) {
			t.Errorf("ParseCookie(%q) = %v, %v", bad, id, err)
		} else if strings.Contains(err.Error(), good[8:20]) {
			t.Errorf("the error repeats the cookie: %v", err)
		}
	}
}

func FuzzParseCookie(f *testing.F) {
	_, c := fresh()
	f.Add(c.Value())
	f.Add("hss_" + strings.Repeat("A", 64))
	f.Add("hss_" + strings.Repeat("A", 63) + "\n")
	f.Fuzz(func(t *testing.T, s string) {
		id, secret, err := ParseCookie(s)
		if err == nil && newCookie(id, secret).Value() != s {
			t.Errorf("%q parses and is written %q", s, newCookie(id, secret).Value())
		}
	})
}

func TestIDHasOneSpelling(t *testing.T) {
	s, _ := fresh()
	if got, err := ParseID(s.ID.String()); err != nil || got != s.ID {
		t.Errorf("ParseID(%q) = %v, %v", s.ID, got, err)
	}
	for _, bad := range []string{"", "0", strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("A", 32), strings.Repeat("g", 32), strings.Repeat("0", 31) + "\n"} {
		if id, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %v", bad, id)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(strings.Repeat("0a", 16))
	f.Add(strings.Repeat("0A", 16))
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s); err == nil && id.String() != s {
			t.Errorf("%q parses and is written %q", s, id)
		}
	})
}

func TestACookieIsNotPrinted(t *testing.T) {
	s, c := fresh()
	secret := c.Value()[30:50]
	type inner struct{ c Cookie }
	type Outer struct{ C Cookie }
	var b strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "cookie", c, "in", inner{c}, "out", Outer{c}, "session", s)
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "cookie", c, "in", inner{c}, "out", Outer{c}, "session", s)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+verb+verb, c, inner{c}, Outer{c})
	}
	if raw, err := json.Marshal(Outer{c}); err == nil {
		t.Errorf("encoded as %s", raw)
	}
	if strings.Contains(b.String(), secret) || strings.Contains(b.String(), fmt.Sprintf("%x", secret)) {
		t.Errorf("the cookie was printed: %s", b.String())
	}
	if (Cookie{}).Value() != "" {
		t.Error("the zero cookie has a value")
	}
}

func TestAliveUntilItsEnd(t *testing.T) {
	s, _ := fresh()
	for _, c := range []struct {
		at   time.Time
		want bool
	}{
		{noon, true},
		{s.Ends.Add(-1), true},
		{s.Ends, false},
		{s.Ends.Add(1), false},
	} {
		if got := s.Alive(c.at); got != c.want {
			t.Errorf("Alive(%v) = %t", c.at, got)
		}
	}
	if s.End(noon, "revoked_logout").Alive(noon) {
		t.Error("an ended session is alive")
	}
	if (Session{Ends: noon.Add(1)}).Alive(noon) {
		t.Error("a session without status is alive")
	}
}

func TestTheFirstReasonStays(t *testing.T) {
	s, c := fresh()
	ended := s.End(noon.Add(time.Hour), "revoked_logout")
	if s.Status != Live {
		t.Error("End changed its receiver")
	}
	if err := ended.Check(); err != nil {
		t.Errorf("Check: %v", err)
	}
	again := ended.End(noon.Add(2*time.Hour), "revoked_admin")
	if again.Reason != "revoked_logout" || !again.EndedAt.Equal(noon.Add(time.Hour)) {
		t.Errorf("ended twice: %q at %v", again.Reason, again.EndedAt)
	}
	_, secret, _ := ParseCookie(c.Value())
	if !ended.Proves(secret) {
		t.Error("the browser of an ended session can not be told why")
	}
}

func TestSeenMovesInSteps(t *testing.T) {
	s, _ := fresh()
	if next, changed := s.Seen(noon.Add(SeenStep-1), s.UserAgent, s.IP); changed || !reflect.DeepEqual(next, s) {
		t.Errorf("within the step: changed %t", changed)
	}
	next, changed := s.Seen(noon.Add(SeenStep), s.UserAgent, s.IP)
	if !changed || !next.LastSeen.Equal(noon.Add(SeenStep)) {
		t.Errorf("after the step: changed %t, LastSeen %v", changed, next.LastSeen)
	}
	next, changed = s.Seen(noon.Add(1), s.UserAgent, "192.0.2.2")
	if !changed || next.IP != "192.0.2.2" {
		t.Errorf("another address: changed %t, IP %s", changed, next.IP)
	}
	next, changed = s.Seen(noon.Add(-time.Hour), "other", s.IP)
	if !changed || !next.LastSeen.Equal(noon) || next.UserAgent != "other" {
		t.Errorf("the clock went back: changed %t, LastSeen %v, by %q", changed, next.LastSeen, next.UserAgent)
	}
	if next.Ends != s.Ends {
		t.Error("Seen moved the end")
	}
}

func TestReauthenticatedKeepsTheSession(t *testing.T) {
	s, _ := fresh()
	amr := []string{"pwd", "otp"}
	next := s.Reauthenticated(noon.Add(time.Hour), "mfa", amr)
	amr[0] = "changed"
	if next.ID != s.ID || next.SecretHash != s.SecretHash || next.Ends != s.Ends || next.CreatedAt != s.CreatedAt {
		t.Error("another session came out")
	}
	if !next.AuthTime.Equal(noon.Add(time.Hour)) || next.ACR != "mfa" || !reflect.DeepEqual(next.AMR, []string{"pwd", "otp"}) {
		t.Errorf("Reauthenticated: %v %s %v", next.AuthTime, next.ACR, next.AMR)
	}
}

func TestSessionCheckNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		says   string
		change func(*Session)
	}{
		{"id", func(s *Session) { s.ID = ID{} }},
		{"user", func(s *Session) { s.User = "" }},
		{"invalid status", func(s *Session) { s.Status = 0 }},
		{"live and has an end", func(s *Session) { s.Reason = "revoked_user" }},
		{"live and has an end", func(s *Session) { s.EndedAt = noon }},
		{"without a reason", func(s *Session) { s.Status = Ended }},
		{"time", func(s *Session) { s.AuthTime = time.Time{} }},
		{"before it begins", func(s *Session) { s.Ends = s.CreatedAt }},
		{"secret", func(s *Session) { s.SecretHash = [32]byte{} }},
		{"user agent", func(s *Session) { s.UserAgent = strings.Repeat("x", 513) }},
	} {
		s, _ := fresh()
		c.change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Check = %v, want an error that says %q", err, c.says)
		}
	}
}

func TestUserAgentsAreBounded(t *testing.T) {
	for _, ua := range []string{"", "x", strings.Repeat("x", 512), strings.Repeat("é", 400), strings.Repeat("\xff", 600), "x" + strings.Repeat("🔑", 200)} {
		s, _ := New(random(), SignIn{User: "u", Now: noon, Ends: noon.Add(1), UserAgent: ua})
		if err := s.Check(); err != nil {
			t.Errorf("user agent of %d bytes: %v", len(ua), err)
		}
		if utf8.ValidString(ua) && len(ua) > 512 && len(s.UserAgent) < 509 {
			t.Errorf("user agent of %d bytes was cut to %d", len(ua), len(s.UserAgent))
		}
	}
}

func TestDevice(t *testing.T) {
	for _, c := range []struct{ ua, want string }{
		{"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"},
		{"Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0", "Firefox on Android"},
		{"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36", "Chrome on Android"},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0", "Edge on Windows"},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 OPR/127.0.0.0", "Opera on Windows"},
		{"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15", "Safari on macOS"},
		{"Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1", "Safari on iPhone"},
		{"Mozilla/5.0 (iPad; CPU OS 17_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/141.0 Mobile/15E148 Safari/604.1", "Chrome on iPad"},
		{"Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/140.0 Mobile/15E148 Safari/605.1.15", "Firefox on iPhone"},
		{"Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148", "App web view on iPhone"},
		{"Mozilla/5.0 (Linux; Android 14; SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36", "Samsung Internet on Android"},
		{"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36", "Chrome on ChromeOS"},
		{"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/142.0.0.0 Safari/537.36", "Headless Chrome on Linux"},
		{"Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko", "Internet Explorer on Windows"},
		{"curl/8.5.0", "curl"},
		{"Wget/1.21.4", "Wget"},
		{"Go-http-client/2.0", "Go program"},
		{"python-requests/2.32.3", "Python program"},
		{"okhttp/4.12.0", "Android app"},
		{"MyApp/3.1 (build 7)", "MyApp"},
		{"", "Unknown device"},
		{"   ", "Unknown device"},
		{"\x00\x01\u202e", "Unknown device"},
		{"<script>alert(1)</script>", "scriptalert"},
		{"Mozilla/5.0", "Mozilla"},
	} {
		if got := Device(c.ua); got != c.want {
			t.Errorf("Device(%q) = %q, want %q", c.ua, got, c.want)
		}
	}
}

func FuzzDevice(f *testing.F) {
	f.Add("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	f.Add("<b>\"'&/")
	f.Add(strings.Repeat("é", 100))
	f.Fuzz(func(t *testing.T, ua string) {
		d := Device(ua)
		if d == "" || len(d) > 60 || !utf8.ValidString(d) || strings.ContainsAny(d, "<>&\"'`\x00\n\r\t") {
			t.Errorf("Device(%q) = %q", ua, d)
		}
	})
}
