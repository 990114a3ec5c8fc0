package server

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// told fails the test unless an error is one that a caller is told, below 500.
func told(t *testing.T, err error) {
	t.Helper()
	var e *oauthError
	if !errors.As(err, &e) || e.status < 400 || e.status >= 500 {
		t.Fatalf("the error is %v", err)
	}
}

// FuzzForm holds the form decoder to net/url's: what is accepted reads the same there,
// and nothing is there twice, unbounded or not text.
func FuzzForm(f *testing.F) {
	seeds := []string{"", "a=b", "a=b&a=c", "resource=x&resource=y", "a=%41+b%2B", "&&=&", "a;b=c", "%ff=1", "a=%00", "a=b=c", "refresh_token=hrt_AQAA&grant_type=refresh_token", strings.Repeat("x=&", 101), "a=%E6%97%A5", "a=%", "\x00"}
	if len(seeds) == 0 {
		f.Fatal("no seeds: the fuzzer would start blind")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseForm(text)
		if err != nil {
			told(t, err)
			return
		}
		want, err := url.ParseQuery(strings.ReplaceAll(text, ";", "%3B"))
		if err != nil {
			t.Fatalf("%q is accepted; net/url says %v", text, err)
		}
		if len(got) > maxParams {
			t.Fatalf("%q has %d parameters", text, len(got))
		}
		n := 0
		for name, values := range want {
			n += len(values)
			if len(values) > 1 && name != "resource" {
				t.Fatalf("%q has %q %d times", text, name, len(values))
			}
			if got.get(name) != values[0] {
				t.Fatalf("%q: %q is %q, net/url says %q", text, name, got.get(name), values[0])
			}
		}
		if n != len(got) {
			t.Fatalf("%q has %d parameters, net/url says %d", text, len(got), n)
		}
		for _, p := range got {
			if !utf8.ValidString(p.name+p.value) || strings.Contains(p.name+p.value, "\x00") {
				t.Fatalf("%q: %q=%q is not text", text, p.name, p.value)
			}
		}
		again, err := parseForm(got.encode())
		if err != nil || !slices.Equal(got, again) {
			t.Fatalf("%q is written as %q, which reads as %v, %v", text, got.encode(), again, err)
		}
	})
}

// FuzzCredentials holds the reading of client credentials to its grammar: what was
// accepted can be written again, and what is written right is read right.
func FuzzCredentials(f *testing.F) {
	b64 := base64.StdEncoding.EncodeToString
	seeds := [][3]string{{"", "", ""}, {"", "web", "secret"}, {"Basic " + b64([]byte("web:secret")), "", ""}, {"Basic " + b64([]byte("w%65b:a%3Ab+c")), "web", ""}, {"basic " + b64([]byte("web:")), "", "x"},
		{"Basic !", "", ""}, {"Bearer x", "web", ""}, {"Basic " + b64([]byte(":")), "", ""}, {"Basic", "", ""}, {"Basic " + b64([]byte("a:%zz")), "", ""}, {"Basic  " + b64([]byte("a:b:c")), "a", ""}}
	if len(seeds) == 0 {
		f.Fatal("no seeds: the fuzzer would start blind")
	}
	for _, s := range seeds {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, auth, clientID, clientSecret string) {
		h, body := http.Header{}, form{{"client_id", clientID}, {"client_secret", clientSecret}}
		if auth != "" {
			h["Authorization"] = []string{auth}
		}
		id, secret, basic, err := credentials(h, body)
		switch {
		case err != nil:
			told(t, err)
			if id != "" || secret != "" {
				t.Fatalf("an error and credentials: %q %q", id, secret)
			}
		case !basic:
			if auth != "" || id != clientID || secret != clientSecret {
				t.Fatalf("%q %q %q is read as %q %q", auth, clientID, clientSecret, id, secret)
			}
		default:
			if id == "" || clientSecret != "" || clientID != "" && clientID != id {
				t.Fatalf("%q %q %q is read as %q %q", auth, clientID, clientSecret, id, secret)
			}
			scheme, value, _ := strings.Cut(auth, " ")
			raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
			if !strings.EqualFold(scheme, "basic") || err != nil {
				t.Fatalf("%q is accepted", auth)
			}
			u, p, _ := strings.Cut(string(raw), ":")
			if du, err := url.QueryUnescape(u); err != nil || du != id {
				t.Fatalf("%q: the id is %q", raw, id)
			}
			if dp, err := url.QueryUnescape(p); err != nil || dp != secret {
				t.Fatalf("%q: the secret is %q", raw, secret)
			}
		}
		// And the other way round (RFC 6749 §2.3.1).
		if clientID == "" {
			return
		}
		h["Authorization"] = []string{"Basic " + b64([]byte(url.QueryEscape(clientID)+":"+url.QueryEscape(clientSecret)))}
		id, secret, basic, err = credentials(h, nil)
		if err != nil || !basic || id != clientID || secret != clientSecret {
			t.Fatalf("%q %q is read as %q %q, %v", clientID, clientSecret, id, secret, err)
		}
	})
}

// FuzzContinue holds the way on after a sign-in to pages of ours.
func FuzzContinue(f *testing.F) {
	seeds := []string{"", "/account", "/oauth2/authorize?client_id=a", "//evil", "/\\evil", "/oauth2/authorize?%0d%0a", "https://evil", "/account/../x", "/oauth2/authorize?a=%26b", "/login"}
	if len(seeds) == 0 {
		f.Fatal("no seeds: the fuzzer would start blind")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	s := &Server{}
	f.Fuzz(func(t *testing.T, raw string) {
		target, request := s.continueTo(raw)
		switch path, query, asks := strings.Cut(target, "?"); path {
		case "/account", "/account/apps", "/account/password":
			if asks || request != nil {
				t.Fatalf("%q leads to %q", raw, target)
			}
		case "/oauth2/authorize":
			if strings.ContainsAny(query, "\r\n#\\ \t\"<>") {
				t.Fatalf("%q leads to %q", raw, target)
			}
		default:
			t.Fatalf("%q leads to %q", raw, target)
		}
	})
}
