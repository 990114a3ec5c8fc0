// Package peers holds stories told to a real server by clients that we did not write: golang.org/x/oauth2 and
// github.com/coreos/go-oidc. It talks HTTP to the binary and imports nothing of the server's module.
package peers
