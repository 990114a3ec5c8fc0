package client_test

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/heirloom-auth/heirloom/client"
)

// nearMisses are made of a registered URI by somebody who wants the code elsewhere.
// None of them may match (STANDARDS 6749-06, 8252-04, 9700-01, 10017-06).
var nearMisses = []struct{ name, registered, uri string }{
	{"path suffix", "https://app.example/cb", "https://app.example/cb/evil"},
	{"path suffix without slash", "https://app.example/cb", "https://app.example/cbevil"},
	{"trailing slash", "https://app.example/cb", "https://app.example/cb/"},
	{"trailing slash missing", "https://app.example/cb/", "https://app.example/cb"},
	{"root slash missing", "https://app.example/", "https://app.example"},
	{"path prefix only", "https://app.example/cb/one", "https://app.example/cb"},
	{"dot dot", "https://app.example/cb", "https://app.example/cb/../evil"},
	{"dot dot that leads back", "https://app.example/cb", "https://app.example/x/../cb"},
	{"dot segment", "https://app.example/cb", "https://app.example/./cb"},
	{"encoded dot dot", "https://app.example/cb", "https://app.example/cb/%2e%2e/evil"},
	{"encoded letter", "https://app.example/cb", "https://app.example/%63b"},
	{"double slash", "https://app.example/cb", "https://app.example//cb"},
	{"backslash", "https://app.example/cb", "https://app.example\\cb"},
	{"user info", "https://app.example/cb", "https://app.example@evil.example/cb"},
	{"user info before the host", "https://app.example/cb", "https://user@app.example/cb"},
	{"empty user info", "https://app.example/cb", "https://@app.example/cb"},
	{"default port", "https://app.example/cb", "https://app.example:443/cb"},
	{"port", "https://app.example/cb", "https://app.example:8443/cb"},
	{"other port", "https://app.example:8443/cb", "https://app.example:8444/cb"},
	{"port missing", "https://app.example:8443/cb", "https://app.example/cb"},
	{"case of the path", "https://app.example/cb", "https://app.example/CB"},
	{"case of the host", "https://app.example/cb", "https://APP.example/cb"},
	{"case of the scheme", "https://app.example/cb", "HTTPS://app.example/cb"},
	{"plain http", "https://app.example/cb", "http://app.example/cb"},
	{"query added", "https://app.example/cb", "https://app.example/cb?next=evil"},
	{"empty query", "https://app.example/cb", "https://app.example/cb?"},
	{"query missing", "https://app.example/cb?a=1", "https://app.example/cb"},
	{"query extended", "https://app.example/cb?a=1", "https://app.example/cb?a=1&b=2"},
	{"query in other order", "https://app.example/cb?a=1&b=2", "https://app.example/cb?b=2&a=1"},
	{"fragment", "https://app.example/cb", "https://app.example/cb#x"},
	{"empty fragment", "https://app.example/cb", "https://app.example/cb#"},
	{"subdomain", "https://app.example/cb", "https://evil.app.example/cb"},
	{"suffix of the host", "https://app.example/cb", "https://app.example.evil.example/cb"},
	{"dot behind the host", "https://app.example/cb", "https://app.example./cb"},
	{"space behind", "https://app.example/cb", "https://app.example/cb "},
	{"space before", "https://app.example/cb", " https://app.example/cb"},
	{"newline behind", "https://app.example/cb", "https://app.example/cb\n"},
	{"NUL behind", "https://app.example/cb", "https://app.example/cb\x00"},
	{"tab inside", "https://app.example/cb", "https://app.exam\tple/cb"},
	{"full-width letter", "https://app.example/cb", "https://ａpp.example/cb"},
	{"semicolon parameter", "https://app.example/cb", "https://app.example/cb;x"},
	{"no scheme", "https://app.example/cb", "//app.example/cb"},
	{"path only", "https://app.example/cb", "/cb"},
	{"empty", "https://app.example/cb", ""},
	{"private-use scheme, other path", "com.example.app:/cb", "com.example.app:/cb2"},
	{"private-use scheme, with authority", "com.example.app:/cb", "com.example.app://cb"},
	{"private-use scheme, other case", "com.example.app:/cb", "COM.example.app:/cb"},
	{"private-use scheme, port", "com.example.app://127.0.0.1/cb", "com.example.app://127.0.0.1:8080/cb"},
	// Loopback: the port is free, all else is not (8252-01).
	{"loopback, other path", "http://127.0.0.1/cb", "http://127.0.0.1:4711/evil"},
	{"loopback, path missing", "http://127.0.0.1/cb", "http://127.0.0.1:4711"},
	{"loopback, path suffix", "http://127.0.0.1/cb", "http://127.0.0.1:4711/cb/x"},
	{"loopback, query added", "http://127.0.0.1/cb", "http://127.0.0.1:4711/cb?x"},
	{"loopback, fragment", "http://127.0.0.1/cb", "http://127.0.0.1:4711/cb#x"},
	{"loopback, https", "http://127.0.0.1/cb", "https://127.0.0.1/cb"},
	{"loopback, https with port", "http://127.0.0.1/cb", "https://127.0.0.1:4711/cb"},
	{"loopback, registered https", "https://127.0.0.1/cb", "https://127.0.0.1:4711/cb"},
	{"loopback, registered https, plain", "https://localhost/cb", "http://localhost:4711/cb"},
	{"loopback, other name", "http://127.0.0.1/cb", "http://localhost:4711/cb"},
	{"loopback, other family", "http://127.0.0.1/cb", "http://[::1]:4711/cb"},
	{"loopback, name for number", "http://localhost/cb", "http://127.0.0.1:4711/cb"},
	{"loopback, other number", "http://127.0.0.1/cb", "http://127.0.0.2:4711/cb"},
	{"loopback, short number", "http://127.0.0.1/cb", "http://127.1:4711/cb"},
	{"loopback, decimal number", "http://127.0.0.1/cb", "http://2130706433/cb"},
	{"loopback, long IPv6", "http://[::1]/cb", "http://[0:0:0:0:0:0:0:1]:4711/cb"},
	{"loopback, zone", "http://[::1]/cb", "http://[::1%25lo]:4711/cb"},
	{"loopback, IPv6 without brackets", "http://[::1]/cb", "http://::1:4711/cb"},
	{"loopback, suffix of the name", "http://localhost/cb", "http://localhost.evil.example/cb"},
	{"loopback, suffix of the number", "http://127.0.0.1/cb", "http://127.0.0.1.evil.example/cb"},
	{"loopback, user info", "http://127.0.0.1/cb", "http://127.0.0.1:4711@evil.example/cb"},
	{"loopback, user info before", "http://127.0.0.1/cb", "http://evil@127.0.0.1:4711/cb"},
	{"loopback, case of the name", "http://localhost/cb", "http://LOCALHOST:4711/cb"},
	{"loopback, case of the scheme", "http://localhost/cb", "HTTP://localhost:4711/cb"},
	{"loopback, dot behind", "http://localhost/cb", "http://localhost.:4711/cb"},
	{"loopback, empty port", "http://127.0.0.1/cb", "http://127.0.0.1:/cb"},
	{"loopback, port 0", "http://127.0.0.1/cb", "http://127.0.0.1:0/cb"},
	{"loopback, port 65536", "http://127.0.0.1/cb", "http://127.0.0.1:65536/cb"},
	{"loopback, negative port", "http://127.0.0.1/cb", "http://127.0.0.1:-1/cb"},
	{"loopback, port with a sign", "http://127.0.0.1/cb", "http://127.0.0.1:+80/cb"},
	{"loopback, port in hex", "http://127.0.0.1/cb", "http://127.0.0.1:0x50/cb"},
	{"loopback, port and more", "http://127.0.0.1/cb", "http://127.0.0.1:80:80/cb"},
	{"loopback, port in the path", "http://127.0.0.1/cb", "http://127.0.0.1/:80/cb"},
	{"loopback, backslash", "http://127.0.0.1/cb", "http://127.0.0.1:80\\@evil.example/cb"},
	{"loopback, query for a path", "http://127.0.0.1", "http://127.0.0.1:80?@evil.example"},
}

func TestRFC6749_06_NearMissesDoNotMatch(t *testing.T) {
	for _, m := range nearMisses {
		t.Run(m.name, func(t *testing.T) {
			c := client.Client{RedirectURIs: []string{"https://other.example/", m.registered}, PostLogoutRedirectURIs: []string{m.registered}}
			if !c.Redirects(m.registered) || !c.ReturnsFromLogout(m.registered) {
				t.Fatalf("%q does not match itself", m.registered)
			}
			if c.Redirects(m.uri) {
				t.Errorf("registered %q: a code may be sent to %q", m.registered, m.uri)
			}
			if c.ReturnsFromLogout(m.uri) {
				t.Errorf("registered %q: a user may be sent to %q after sign-out (6749-27)", m.registered, m.uri)
			}
		})
	}
	if (client.Client{}).Redirects("") || (client.Client{}).ReturnsFromLogout("") {
		t.Error("a client without redirect URIs is answered at the empty one")
	}
}

// TestRFC8252_01_LoopbackPortsAreFree: RFC 8252 §7.3 for the two numbers and the name.
func TestRFC8252_01_LoopbackPortsAreFree(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "[::1]", "localhost"} {
		for _, registered := range []string{"http://" + host + "/cb", "http://" + host + ":3000/cb"} {
			c := client.Client{RedirectURIs: []string{registered}}
			for _, port := range []string{"", ":1", ":80", ":4711", ":65535"} {
				if uri := "http://" + host + port + "/cb"; !c.Redirects(uri) {
					t.Errorf("registered %q: %q is refused", registered, uri)
				}
			}
		}
		with := client.Client{RedirectURIs: []string{"http://" + host + "/cb?a=1", "http://" + host}}
		for _, uri := range []string{"http://" + host + ":4711/cb?a=1", "http://" + host + ":4711"} {
			if !with.Redirects(uri) {
				t.Errorf("%q is refused", uri)
			}
		}
		if uri := "https://" + host + ":4711/cb"; (client.Client{RedirectURIs: []string{"http://" + host + "/cb"}}).Redirects(uri) {
			t.Errorf("%q matches plain http", uri)
		}
	}
}

// TestOIDCRPInitiatedLogout_WayBackIsExact: RP-Initiated Logout 1.0 §3 knows no exception
// for loopback hosts; no listener on a port of the moment waits for a user.
func TestOIDCRPInitiatedLogout_WayBackIsExact(t *testing.T) {
	for _, registered := range []string{"http://127.0.0.1/bye", "http://localhost:3000/bye", "http://[::1]/bye", "https://app.example/bye", "com.example.app:/bye"} {
		c := client.Client{RedirectURIs: []string{registered}, PostLogoutRedirectURIs: []string{"https://other.example/", registered}}
		if !c.ReturnsFromLogout(registered) {
			t.Errorf("%q does not match itself", registered)
		}
		for _, uri := range []string{"http://127.0.0.1:4711/bye", "http://localhost/bye", "http://localhost:4711/bye", "http://[::1]:4711/bye", "https://app.example:443/bye"} {
			if c.ReturnsFromLogout(uri) {
				t.Errorf("registered %q: a user may be sent to %q", registered, uri)
			}
		}
	}
}

func TestLoopback(t *testing.T) {
	for uri, want := range map[string]bool{
		"http://127.0.0.1/": true, "http://127.0.0.1:80/cb": true, "http://[::1]:80": true, "https://localhost/": true,
		"http://127.0.0.2/": false, "http://localhost.example/": false, "http://[::2]/": false, "": false, "127.0.0.1": false,
		"http://127.0.0.1@evil.example/": false, "http://[::1": false, "http://LOCALHOST/": false,
	} {
		if got := client.Loopback(uri); got != want {
			t.Errorf("Loopback(%q) = %v", uri, got)
		}
	}
}

// redirectChecks are the rows of CheckRedirect with the words of each refusal.
var redirectChecks = []struct{ name, uri, want string }{
	{"https", "https://app.example/cb", ""},
	{"https with port and query", "https://app.example:8443/cb?a=1", ""},
	{"https loopback", "https://localhost/cb", ""},
	{"9700-20 loopback number", "http://127.0.0.1/cb", ""},
	{"9700-20 loopback number, port", "http://127.0.0.1:4711/cb", ""},
	{"9700-20 loopback IPv6", "http://[::1]/cb", ""},
	{"9700-20 loopback name", "http://localhost/cb", ""},
	{"9700-20 plain http", "http://app.example/cb", `"http://app.example/cb" is plain http: write https, or a loopback host for a native app`},
	{"9700-20 plain http, upper case", "HTTP://app.example/cb", `"HTTP://app.example/cb" is plain http: write https, or a loopback host for a native app`},
	{"9700-20 suffix of localhost", "http://localhost.evil.example/", `"http://localhost.evil.example/" is plain http: write https, or a loopback host for a native app`},
	{"9700-20 other number", "http://127.0.0.2/", `"http://127.0.0.2/" is plain http: write https, or a loopback host for a native app`},
	{"9700-20 any address", "http://0.0.0.0/", `"http://0.0.0.0/" is plain http: write https, or a loopback host for a native app`},
	{"9700-20 zone", "http://[::1%25lo]/", `"http://[::1%25lo]/" is plain http: write https, or a loopback host for a native app`},
	{"9700-20 no host", "http:///cb", `"http:///cb" is plain http: write https, or a loopback host for a native app`},
	{"9700-20 opaque", "http:app.example", `"http:app.example" is plain http: write https, or a loopback host for a native app`},
	{"8252-02 private-use scheme", "com.example.app:/cb", ""},
	{"8252-02 private-use scheme, short", "com.example:/cb", ""},
	{"8252-02 private-use scheme, authority", "com.example.app://cb", ""},
	{"8252-02 without a dot", "myapp:/cb", `"myapp:/cb" has a private-use scheme without a dot (RFC 8252 §7.1): write a domain you own in reverse, such as com.example.app:/callback`},
	{"8252-02 without a dot, mailto", "mailto:a@b.example", `"mailto:a@b.example" has a private-use scheme without a dot (RFC 8252 §7.1): write a domain you own in reverse, such as com.example.app:/callback`},
	{"javascript", "javascript:alert(1)", `"javascript:alert(1)" has a scheme that can not receive a code`},
	{"javascript, upper case", "JavaScript:alert(1)", `"JavaScript:alert(1)" has a scheme that can not receive a code`},
	{"data", "data:text/html,x", `"data:text/html,x" has a scheme that can not receive a code`},
	{"file", "file:///etc/passwd", `"file:///etc/passwd" has a scheme that can not receive a code`},
	{"vbscript", "vbscript:x", `"vbscript:x" has a scheme that can not receive a code`},
	{"blob", "blob:https://app.example/x", `"blob:https://app.example/x" has a scheme that can not receive a code`},
	{"about", "about:blank", `"about:blank" has a scheme that can not receive a code`},
	{"ftp", "ftp://app.example/", `"ftp://app.example/" has a scheme that can not receive a code`},
	{"ws", "ws://app.example/", `"ws://app.example/" has a scheme that can not receive a code`},
	{"wss", "wss://app.example/", `"wss://app.example/" has a scheme that can not receive a code`},
	{"empty", "", `"" is not absolute`},
	{"relative", "/cb", `"/cb" is not absolute`},
	{"host only", "app.example/cb", `"app.example/cb" is not absolute`},
	{"no scheme", "//app.example/cb", `"//app.example/cb" is not absolute`},
	{"not a URI", "https://[::1", `"https://[::1" is not a URI`},
	{"bad escape", "https://app.example/%zz", `"https://app.example/%zz" is not a URI`},
	{"no host", "https:///cb", `"https:///cb" has no host`},
	{"port without host", "https://:443/cb", `"https://:443/cb" has no host`},
	{"opaque https", "https:app.example", `"https:app.example" has no host`},
	{"fragment", "https://app.example/cb#x", `"https://app.example/cb#x" has a fragment (RFC 6749 §3.1.2): remove it`},
	{"empty fragment", "https://app.example/cb#", `"https://app.example/cb#" has a fragment (RFC 6749 §3.1.2): remove it`},
	{"user info", "https://user:pass@app.example/cb", `"https://user:pass@app.example/cb" has user info: remove it`},
	{"empty user info", "https://@app.example/cb", `"https://@app.example/cb" has user info: remove it`},
	{"loopback user info", "http://127.0.0.1:80@evil.example/cb", `"http://127.0.0.1:80@evil.example/cb" has user info: remove it`},
	{"wildcard host", "https://*.app.example/cb", `"https://*.app.example/cb" has a character that a redirect URI can not have`},
	{"wildcard path", "https://app.example/*", `"https://app.example/*" has a character that a redirect URI can not have`},
	{"space", "https://app.example/a b", `"https://app.example/a b" has a character that a redirect URI can not have`},
	{"backslash", `https://app.example/\evil`, `"https://app.example/\\evil" has a character that a redirect URI can not have`},
	{"angle bracket", "https://app.example/<x>", `"https://app.example/<x>" has a character that a redirect URI can not have`},
	{"not ASCII", "https://äpp.example/cb", `"https://äpp.example/cb" has a character that is not printable ASCII`},
	{"newline", "https://app.example/cb\n", `"https://app.example/cb\n" is not a URI`},
	{"2048 bytes", "https://app.example/" + strings.Repeat("a", 2048-20), ""},
	{"2049 bytes", "https://app.example/" + strings.Repeat("a", 2049-20), "a URI is longer than 2048 bytes"},
}

func TestRFC9700_20_RFC8252_02_RegisteredRedirects(t *testing.T) {
	for _, c := range redirectChecks {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := client.CheckRedirect(c.uri); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("CheckRedirect(%q)\n got %s\nwant %s", c.uri, got, c.want)
			}
		})
	}
}

func TestRFC8707_ResourcesAreAbsolute(t *testing.T) {
	for uri, want := range map[string]string{
		"https://api.example": "", "https://api.example/a?b": "", "urn:example:api": "", "http://127.0.0.1:8420": "",
		"":                               "is not an absolute URI",
		"api":                            "is not an absolute URI",
		"/api":                           "is not an absolute URI",
		"https://api.example/\x7f":       "is not an absolute URI",
		"https://api.example#":           "has a fragment",
		"https://api.example/#x":         "has a fragment",
		"https://api.example/a b":        "has a character that is not printable ASCII",
		"https://api.example/é":          "has a character that is not printable ASCII",
		"a:" + strings.Repeat("b", 2047): "is not an absolute URI",
	} {
		got := ""
		if err := client.CheckResource(uri); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("CheckResource(%.40q): got %q, want %q", uri, got, want)
		}
	}
}

// FuzzRedirect: whatever is asked for, it matches a registered URI only by being the
// same string, or on loopback http by differing in nothing but a port; and whatever
// matches a URI that may be registered leads to the same scheme, host and path.
func FuzzRedirect(f *testing.F) {
	if len(nearMisses) == 0 || len(redirectChecks) == 0 {
		f.Fatal("no seeds")
	}
	for _, m := range nearMisses {
		f.Add(m.registered, m.uri)
	}
	for _, c := range redirectChecks {
		f.Add(c.uri, c.uri)
	}
	f.Add("http://127.0.0.1/cb", "http://127.0.0.1:4711/cb")
	f.Add("http://[::1]:1/", "http://[::1]:2/")
	f.Fuzz(func(t *testing.T, registered, uri string) {
		allowed := client.CheckRedirect(registered) == nil
		c := client.Client{RedirectURIs: []string{registered}}
		if !c.Redirects(uri) || registered == uri {
			return
		}
		if back := (client.Client{RedirectURIs: []string{uri}}); !back.Redirects(registered) {
			t.Errorf("%q matches %q, but not the other way round", uri, registered)
		}
		for _, u := range []string{registered, uri} {
			if !strings.HasPrefix(u, "http://127.0.0.1") && !strings.HasPrefix(u, "http://[::1]") && !strings.HasPrefix(u, "http://localhost") {
				t.Fatalf("%q matches %q", uri, registered)
			}
		}
		if !allowed {
			return
		}
		a, errA := url.Parse(registered)
		b, errB := url.Parse(uri)
		if errA != nil || errB != nil {
			t.Fatalf("%q matches %q: %v, %v", uri, registered, errA, errB)
		}
		if port := b.Port(); port != "" {
			if _, err := netip.ParseAddrPort("127.0.0.1:" + port); err != nil {
				t.Errorf("%q matches %q: %v", uri, registered, err)
			}
		}
		if b.User != nil || b.Fragment != "" || a.Scheme != b.Scheme || a.Hostname() != b.Hostname() || a.RequestURI() != b.RequestURI() {
			t.Errorf("%q matches %q", uri, registered)
		}
	})
}
