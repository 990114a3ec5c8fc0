package page

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Notice is something that was done, told on the next page. Zero is nothing.
type Notice uint8

const (
	SignedOutHere   Notice = 1 + iota // the user signed out
	SessionEnded                      // something else ended the session; SignIn.Reason says what
	Reauthenticate                    // the client asked for a fresh sign-in
	PasswordChanged                   // and everything else was signed out
	DeviceSignedOut
	OthersSignedOut
	ScopeWithdrawn
	AccessRemoved
)

// noticeText is an error for a notice that nobody knows: a page must not show an
// empty box.
func noticeText(n Notice, reason string) (string, error) {
	switch n {
	case 0:
		return "", nil
	case SignedOutHere:
		return "You are signed out.", nil
	case SessionEnded:
		return whyEnded(reason) + " Sign in again to go on.", nil
	case Reauthenticate:
		return "Please confirm that it is you.", nil
	case PasswordChanged:
		return "Your password is changed. All other devices and apps are signed out.", nil
	case DeviceSignedOut:
		return "The device is signed out.", nil
	case OthersSignedOut:
		return "All other devices and apps are signed out.", nil
	case ScopeWithdrawn:
		return "The permission is withdrawn.", nil
	case AccessRemoved:
		return "The app has no access any more.", nil
	}
	return "", fmt.Errorf("there is no notice %d", n)
}

// whyEnded puts a reason of DESIGN §9 into words for the user.
func whyEnded(reason string) string {
	switch reason {
	case "expired_idle", "expired_absolute":
		return "You have been signed in for long enough."
	case "revoked_logout":
		return "You were signed out."
	case "revoked_user":
		return "You signed out this device from another one."
	case "revoked_password_change":
		return "You were signed out because the password was changed."
	case "revoked_admin", "user_disabled":
		return "An administrator ended your session."
	case "reuse":
		return "You were signed out because somebody used a copy of your access."
	case "evicted":
		return "You were signed out because you signed in on many other devices."
	}
	return "Your session has ended."
}

// scopeWords says what a scope lets a client do; the words follow "asks to".
func scopeWords(s Scope) string {
	if s.Description != "" {
		return s.Description
	}
	switch s.Name {
	case "openid":
		return "Know that it is you, each time you sign in"
	case "profile":
		return "See your name and profile"
	case "email":
		return "See your email address"
	case "address":
		return "See your postal address"
	case "phone":
		return "See your phone number"
	case "offline_access":
		return "Stay connected while you are away, until you remove its access"
	}
	return "Use “" + s.Name + "” for you"
}

// local says whether a redirect host is this very device: a loopback address, or
// a native app's own scheme.
func local(host string) bool {
	host = strings.TrimSuffix(host, ":")
	if h, _, ok := strings.Cut(host, ":"); ok && (h == "localhost" || h == "127.0.0.1") {
		return true
	}
	if a, err := netip.ParseAddrPort(host); err == nil {
		return a.Addr().IsLoopback()
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return a.IsLoopback()
	}
	return host == "localhost"
}

type moment struct{ Now, At time.Time }

// ago tells a past time as people do. A time in the future is a clock's mistake
// and becomes now.
func ago(now, at time.Time) string {
	d := now.Sub(at)
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return count(int(d/time.Minute), "minute")
	case d < 24*time.Hour:
		return count(int(d/time.Hour), "hour")
	case d < 14*24*time.Hour:
		return count(int(d/(24*time.Hour)), "day")
	}
	return at.UTC().Format("2 January 2006")
}

func count(n int, unit string) string {
	if n == 1 {
		return "1 " + unit + " ago"
	}
	return fmt.Sprintf("%d %ss ago", n, unit)
}
