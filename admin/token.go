package admin

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// TokenPrefix lets secret scanners find leaked admin tokens.
const TokenPrefix = "hat_"

// Token is the secret that opens the admin API. It prints as "[admin token]"; only Text
// shows it.
type Token struct{ p *string }

// NewToken draws a token of 256 random bits.
func NewToken() Token {
	var random [32]byte
	rand.Read(random[:])
	text := TokenPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	return Token{&text}
}

// ParseToken accepts what NewToken makes, with white space around it. The error does
// not repeat it.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, TokenPrefix)
	if raw, err := base64.RawURLEncoding.Strict().DecodeString(body); !ok || err != nil || len(raw) != 32 {
		return Token{}, errors.New(`not an admin token: want "hat_" and 43 characters`)
	}
	return Token{&text}, nil
}

// Text is the token itself, for its file and for the Authorization header.
func (t Token) Text() string {
	if t.p == nil {
		return ""
	}
	return *t.p
}

// Is compares in constant time. The empty Token is nobody's.
func (t Token) Is(text string) bool {
	return t.p != nil && subtle.ConstantTimeCompare([]byte(*t.p), []byte(text)) == 1
}

func (Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[admin token]") }

// LogValue implements slog.LogValuer.
func (Token) LogValue() slog.Value { return slog.StringValue("[admin token]") }

// MarshalJSON refuses.
func (Token) MarshalJSON() ([]byte, error) { return nil, errors.New("an admin token is not encoded") }
