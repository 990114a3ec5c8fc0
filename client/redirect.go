package client

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// CheckRedirect refuses a redirect URI that must not be registered: relative, with a
// fragment or user info, plain http but for loopback hosts (RFC 9700 §2.6), or a
// private-use scheme without a dot (RFC 8252 §7.1).
func CheckRedirect(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a URI", raw)
	case len(raw) > 2048:
		return errors.New("a URI is longer than 2048 bytes")
	case u.Scheme == "":
		return fmt.Errorf("%q is not absolute", raw)
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return fmt.Errorf("%q has a fragment (RFC 6749 §3.1.2): remove it", raw)
	case u.User != nil:
		return fmt.Errorf("%q has user info: remove it", raw)
	case strings.ContainsAny(raw, " \\<>\"") || strings.Contains(raw, "*"):
		return fmt.Errorf("%q has a character that a redirect URI can not have", raw)
	}
	for i := range len(raw) {
		if raw[i] < 0x21 || raw[i] > 0x7e {
			return fmt.Errorf("%q has a character that is not printable ASCII", raw)
		}
	}
	switch u.Scheme {
	case "https":
		if u.Hostname() == "" {
			return fmt.Errorf("%q has no host", raw)
		}
		return nil
	case "http":
		if !loopback(u.Hostname()) {
			return fmt.Errorf("%q is plain http: write https, or a loopback host for a native app", raw)
		}
		return nil
	case "javascript", "data", "file", "vbscript", "blob", "about", "ftp", "ws", "wss":
		return fmt.Errorf("%q has a scheme that can not receive a code", raw)
	}
	if !strings.Contains(u.Scheme, ".") {
		return fmt.Errorf("%q has a private-use scheme without a dot (RFC 8252 §7.1): write a domain you own in reverse, such as com.example.app:/callback", raw)
	}
	return nil
}

// CheckResource refuses what can not name a resource server (RFC 8707 §2): absolute,
// no fragment.
func CheckResource(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme == "" || len(raw) > 2048:
		return errors.New("is not an absolute URI")
	case strings.Contains(raw, "#"):
		return errors.New("has a fragment")
	}
	for i := range len(raw) {
		if raw[i] < 0x21 || raw[i] > 0x7e {
			return errors.New("has a character that is not printable ASCII")
		}
	}
	return nil
}

// loopback reports whether a host is one of the three names of this machine that
// RFC 8252 §7.3 and §8.3 speak of.
func loopback(host string) bool {
	return host == "127.0.0.1" || host == "::1" || host == "localhost"
}

// Loopback reports whether a URI's host is 127.0.0.1, [::1] or localhost.
func Loopback(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && loopback(u.Hostname())
}

// matches compares by simple string comparison (RFC 9700 §4.1.3), but for the port of
// http loopback URIs: the system gives a native app whichever is free. What was
// registered without a port matches with any; with one, too (RFC 8252 §7.3).
func matches(registered, uri string) bool {
	if registered == uri {
		return true
	}
	rest, ok := cutPort(registered)
	if !ok {
		return false
	}
	other, ok := cutPort(uri)
	return ok && rest == other
}

// cutPort takes the port out of an http loopback URI without parsing and printing it
// again, which would make different strings equal.
func cutPort(uri string) (string, bool) {
	const scheme = "http://"
	rest, ok := strings.CutPrefix(uri, scheme)
	if !ok {
		return "", false
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	for _, host := range []string{"127.0.0.1", "[::1]", "localhost"} {
		port, ok := strings.CutPrefix(authority, host)
		if !ok {
			continue
		}
		if port != "" {
			// Without its colon it is the rest of a longer name: localhost1:80 is another host.
			if _, err := netip.ParseAddrPort("127.0.0.1" + port); port[0] != ':' || err != nil || port == ":0" {
				return "", false
			}
		}
		return scheme + host + tail, true
	}
	return "", false
}
