package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/feed"
)

// Token is what a checked access token says. It is the caller's own: changing it
// changes nothing for others.
type Token struct {
	Issuer   string
	Subject  string // sub: the user, or the client itself where no user takes part
	ClientID string
	ID       string // jti
	Audience []string
	Scope    string // words separated by spaces; see HasScope
	Expires  time.Time
	IssuedAt time.Time

	Family  string // fam: the refresh-token family it dies with; "" = not told
	Session string // sid: the sign-in it came from; "" = not told

	AuthTime time.Time // when the user last proved who they are; zero = not told
	ACR      string    // how well; "" = not told
	AMR      []string  // by which means (RFC 8176)

	payload string // the claims as they were signed
	// room holds Audience and AMR where they fit, which saves the memory allocator two
	// visits for each check.
	room [4]string
}

// HasScope reports whether the token was given one scope word.
func (t *Token) HasScope(word string) bool {
	if word == "" {
		return false
	}
	for w := range strings.SplitSeq(t.Scope, " ") {
		if w == word {
			return true
		}
	}
	return false
}

// Claims decodes all claims, those of this package and the issuer's own, into a value
// as encoding/json does. With introspection it is the answer of the endpoint.
func (t *Token) Claims(into any) error {
	if err := json.Unmarshal([]byte(t.payload), into); err != nil {
		return fmt.Errorf("read claims: %v", err)
	}
	return nil
}

func (t *Token) clone() *Token {
	c := *t
	c.Audience = append(c.room[0:0:2], t.Audience...)
	c.AMR = append(c.room[2:2:4], t.AMR...)
	return &c
}

func (t *Token) subject() feed.Subject {
	return feed.Subject{
		Family: t.Family, Token: t.ID, User: t.Subject, Client: t.ClientID, Session: t.Session, IssuedAt: t.IssuedAt.Unix(),
	}
}

// readClaims reads the claims of an access token (RFC 9068 §2.2). What has to be there
// is judged by the caller; notBefore is 0 when there is none.
func readClaims(payload string) (t *Token, notBefore int64, why string) {
	t = &Token{payload: payload}
	p := scan(payload)
	var m members
	for name, ok := p.next(&m); ok; name, ok = p.next(&m) {
		switch name {
		case "iss":
			t.Issuer = p.str()
		case "sub":
			t.Subject = p.str()
		case "client_id":
			t.ClientID = p.str()
		case "jti":
			t.ID = p.str()
		case "aud":
			if p.peek() == '"' {
				t.Audience = append(t.room[0:0:2], p.str())
			} else {
				t.Audience = p.strs(t.room[0:0:2])
			}
		case "scope":
			t.Scope = p.str()
		case "exp":
			t.Expires = time.Unix(p.date(), 0)
		case "iat":
			t.IssuedAt = time.Unix(p.date(), 0)
		case "nbf":
			notBefore = p.date()
		case "auth_time":
			t.AuthTime = time.Unix(p.date(), 0)
		case "fam":
			t.Family = p.str()
		case "sid":
			t.Session = p.str()
		case "acr":
			t.ACR = p.str()
		case "amr":
			t.AMR = p.strs(t.room[2:2:4])
		case "cnf":
			// Bound to a key whose proof nobody checks here: accepting it as a bearer token would
			// give a thief what the binding was to prevent (RFC 9449 §7.1, RFC 8705 §3).
			p.fail("it is bound to a key: this API takes bearer tokens only")
		case "events", "token_introspection":
			// The mark of a security event or logout token (RFC 8417 §2.2) and of an introspection
			// answer (RFC 9701 §5), whatever their typ says.
			p.fail("it is not an access token")
		default:
			p.skip(1)
		}
	}
	p.end()
	return t, notBefore, p.bad
}

type contextKey struct{}

// FromContext returns the token that Require checked for the request of this context.
// ok is false where Require did not run.
func FromContext(ctx context.Context) (t *Token, ok bool) {
	t, ok = ctx.Value(contextKey{}).(*Token)
	return t, ok
}
