package client_test

import (
	"testing"

	"github.com/heirloom-auth/heirloom/client"
)

// A port begins with a colon: digits straight after a loopback name make another host,
// and a code must not be sent there (RFC 9700 §4.1.3).
func TestRFC9700_LoopbackNameWithDigitsIsAnotherHost(t *testing.T) {
	c := client.Client{RedirectURIs: []string{"http://localhost/cb", "http://127.0.0.1/cb", "http://[::1]/cb"}}
	for _, uri := range []string{
		"http://localhost1:8080/cb", "http://localhost99:80/cb",
		"http://127.0.0.11:8080/cb", "http://127.0.0.199:80/cb", "http://[::1]1:80/cb",
	} {
		if c.Redirects(uri) {
			t.Errorf("the client may be answered at %s", uri)
		}
	}
	for _, uri := range []string{"http://localhost:8080/cb", "http://127.0.0.1:1/cb", "http://[::1]:65535/cb"} {
		if !c.Redirects(uri) {
			t.Errorf("the client may not be answered at %s", uri)
		}
	}
}
