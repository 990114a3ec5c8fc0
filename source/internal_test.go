package source

import (
	"errors"
	"net/http"
	"testing"
	"time"
)

// The parser of answers takes anything the network brings and keeps its promises.
func FuzzReadAnswer(f *testing.F) {
	f.Add(200, "application/json", "", []byte(`{"access_token":"a","token_type":"Bearer","expires_in":300,"refresh_token":"r","refresh_token_timeout":1e300}`))
	f.Add(400, "application/json", "9", []byte(`{"error":"invalid_grant"}`))
	f.Add(503, "text/html", "Mon, 02 Jan 2006 15:04:05 GMT", []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, kind, retry string, body []byte) {
		now := time.Unix(1e9, 0)
		r, err := readAnswer(status, http.Header{"Content-Type": {kind}, "Retry-After": {retry}}, body, now)
		if err == nil {
			e := r.Tokens.Expiry
			if status != 200 || !sendable(r.Tokens.AccessToken) || !e.IsZero() && (!e.After(now) || e.Sub(now) > maxLifetime) {
				t.Errorf("%d %q is taken: expiry %v", status, body, e)
			}
			return
		}
		if r != (Record{}) {
			t.Error("a value and an error")
		}
		re, rejected := errors.AsType[*RejectedError](err)
		te, transient := errors.AsType[*TransientError](err)
		if rejected == transient {
			t.Fatalf("neither or both: %v", err)
		}
		if rejected && (status != 400 && status != 401 || re.Ended != (re.Code == "invalid_grant")) {
			t.Errorf("%d %q ends a session", status, body)
		}
		if transient && (te.RetryAfter < 0 || te.RetryAfter > maxRetry) {
			t.Errorf("retry after %v", te.RetryAfter)
		}
	})
}
