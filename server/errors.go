package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/wire"
)

// oauthError is a failure that is told to the caller as RFC 6749 §5.2 asks. text is
// ours, fixed, and within the character set of error_description; it never repeats
// what was sent.
type oauthError struct {
	status    int
	code      string
	text      string
	challenge string // WWW-Authenticate; "" = none
	retry     int    // Retry-After in seconds; 0 = none
	reason    family.Reason
}

func (e *oauthError) Error() string { return e.code + ": " + e.text }

// invalidRequest is a request whose form is wrong.
func invalidRequest(text string) error {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_request", text: text}
}

var (
	errPanic    = errors.New("panic")
	errTooLarge = &oauthError{status: http.StatusRequestEntityTooLarge, code: "invalid_request", text: "the body is larger than 64 KiB"}
)

// refusal is the one table from a reason to the wire. All reasons for which a refresh
// token or a code is refused look the same outside: one status, one body. Only what
// the client itself asked wrongly is told apart.
func refusal(why family.Reason) *oauthError {
	switch why {
	case family.InvalidScope:
		return &oauthError{status: http.StatusBadRequest, code: "invalid_scope", reason: why,
			text: "the scope is malformed or more than was granted; the refresh token is unspent"}
	case family.InvalidTarget:
		return &oauthError{status: http.StatusBadRequest, code: "invalid_target", reason: why,
			text: "the resource is malformed or not among those granted; the refresh token is unspent"}
	case family.Unavailable:
		return &oauthError{status: http.StatusServiceUnavailable, code: "temporarily_unavailable", reason: why, retry: 1,
			text: "the server can not answer now; send the same request again"}
	case family.Reused, family.Superseded, family.ExpiredIdle, family.ExpiredAbsolute,
		family.RevokedClient, family.RevokedUser, family.RevokedAdmin, family.RevokedLogout, family.RevokedPasswordChange,
		family.UserDisabled, family.ClientDisabled, family.Evicted, family.BindingMismatch, family.ForeignClient, family.Unknown,
		family.Issued, family.Rotated, family.RepeatedRetry, family.RepeatedPossession, family.RepeatedWindow,
		family.RepeatedUntilUsed, family.Recovered:
	}
	return &oauthError{status: http.StatusBadRequest, code: "invalid_grant", reason: why,
		text: "the grant is unknown, expired, revoked or not for this client"}
}

// tell turns an error into an answer and its headers.
func (s *Server) tell(h http.Header, r *http.Request, c *call, err error) answer {
	var e *oauthError
	if !errors.As(err, &e) {
		// Failures that are ours are never invalid_grant: a client would drop its session.
		e = refusal(family.Unavailable)
		if errors.Is(err, errPanic) {
			e = &oauthError{status: http.StatusInternalServerError, code: "server_error", text: "the server failed; the request may be sent again", reason: family.Unavailable}
		}
		if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
			c.err = errors.New("the caller went away")
		}
	}
	if c.reason == 0 {
		c.reason = e.reason
	}
	if e.challenge != "" {
		h.Set("WWW-Authenticate", e.challenge)
	}
	if e.retry != 0 {
		h.Set("Retry-After", strconv.Itoa(e.retry))
	}
	b, _ := json.Marshal(wire.Error{Code: e.code, Description: e.text}) // two strings always encode
	return answer{status: e.status, typ: "application/json", body: b}
}
