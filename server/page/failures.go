package page

// The failures that a person can meet at the server, each with its own title,
// sentence and advice. None repeats anything that was sent.

// UnknownClient is for a client_id that is not registered, or was removed.
func UnknownClient(requestID string) Error {
	return Error{
		Title:     "Unknown app",
		Sentence:  "The app that sent you here is not registered with this service.",
		Next:      "Go back to the app and try again. If it happens again, tell its makers.",
		Code:      "invalid_client",
		RequestID: requestID,
	}
}

// BadRedirect is for a redirect_uri that is not registered exactly so. The
// browser stays here: sending it there is what an attacker would want.
func BadRedirect(requestID string) Error {
	return Error{
		Title:     "Unknown return address",
		Sentence:  "The app asked to send you to an address that is not registered for it, so you were not sent there.",
		Next:      "Close this page. If you are the app’s developer, compare its redirect URI with the registered ones, letter by letter.",
		Code:      "invalid_request",
		RequestID: requestID,
	}
}

// BadRequest is for everything else that is wrong with what an app sent. detail
// is for developers; "" for none.
func BadRequest(detail, requestID string) Error {
	e := Error{
		Title:     "The request is not valid",
		Sentence:  "The app that sent you here asked for something this service does not understand.",
		Next:      "Go back to the app and try again. If it happens again, tell its makers.",
		Code:      "invalid_request",
		RequestID: requestID,
	}
	if detail != "" {
		e.Sentence += " Detail for its developers: " + detail + "."
	}
	return e
}

// RequestExpired is for a sign-in or a consent that was left open too long.
func RequestExpired(requestID string) Error {
	return Error{
		Title:     "This page is too old",
		Sentence:  "The sign-in that this page belongs to has ended or was finished in another tab.",
		Next:      "Go back to the app and sign in from there.",
		RequestID: requestID,
	}
}

// CrossOrigin is for a form that another site sent here.
func CrossOrigin(requestID string) Error {
	return Error{
		Title:     "Not sent from this service",
		Sentence:  "A form was sent here by another site, and nothing was done.",
		Next:      "If you did not expect this page, close it. Otherwise open the service’s own page and try there.",
		RequestID: requestID,
	}
}

// Unavailable is for a failure that is the server's.
func Unavailable(requestID string) Error {
	return Error{
		Title:     "Not available right now",
		Sentence:  "Something is wrong on our side. Nothing was lost and you are still signed in wherever you were.",
		Next:      "Wait a minute and try again.",
		Code:      "temporarily_unavailable",
		RequestID: requestID,
	}
}
