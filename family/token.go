package family

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
)

// The prefixes let secret scanners find leaked tokens.
const (
	RefreshPrefix = "hrt_"
	CodePrefix    = "hac_"
)

// The purposes that go into a token's tag: a code never verifies as a refresh token.
const (
	RefreshPurpose = "heirloom refresh token v1"
	CodePurpose    = "heirloom authorization code v1"
)

const (
	tokenVersion = 1
	bodyLen      = 1 + 2 + 16 + 4
	tagLen       = 32
	tokenLen     = bodyLen + tagLen // 55
)

// TokenSize is the length of an encoded token, prefix included.
const TokenSize = len(RefreshPrefix) + (tokenLen*8+5)/6

// strict64 refuses spare bits and line breaks: a token has one spelling.
var strict64 = base64.RawURLEncoding.Strict()

// Tagger computes the tag of a message with a numbered key, for a purpose and under
// this server's issuer; ok is false when there is no such key.
type Tagger func(key uint16, purpose string, msg []byte) (tag [32]byte, ok bool)

// Checker compares a tag in constant time; false also when there is no such key.
type Checker func(key uint16, purpose string, msg []byte, tag *[32]byte) bool

// purposeOf returns the prefix and purpose of a generation's token.
func purposeOf(generation uint32) (prefix, purpose string) {
	if generation == 0 {
		return CodePrefix, CodePurpose
	}
	return RefreshPrefix, RefreshPurpose
}

// Mint returns the one token of a generation: a function of key, family and
// generation. ok is false when the key is gone.
func Mint(key uint16, t Token, tag Tagger) (token string, ok bool) {
	prefix, purpose := purposeOf(t.Generation)
	var raw [tokenLen]byte
	body := appendBody(raw[:0], key, t)
	sum, ok := tag(key, purpose, body)
	if !ok {
		return "", false
	}
	copy(raw[bodyLen:], sum[:])
	var out [TokenSize]byte
	copy(out[:], prefix)
	base64.RawURLEncoding.Encode(out[len(prefix):], raw[:])
	return string(out[:]), true
}

// Read returns what a token says, after checking its only spelling and its tag; no
// I/O is done. code says whether a code or a refresh token is expected. Everything
// that is not exactly a token of ours is ok = false.
func Read(s string, code bool, check Checker) (t Token, ok bool) {
	prefix, purpose := RefreshPrefix, RefreshPurpose
	if code {
		prefix, purpose = CodePrefix, CodePurpose
	}
	body, has := strings.CutPrefix(s, prefix)
	if !has || len(s) != TokenSize {
		return Token{}, false
	}
	// base64 skips line breaks even when strict; the fixed length does not stop a
	// token that has one inside.
	if strings.ContainsAny(body, "\r\n") {
		return Token{}, false
	}
	var raw [tokenLen]byte
	if n, err := strict64.Decode(raw[:], []byte(body)); err != nil || n != tokenLen {
		return Token{}, false
	}
	if raw[0] != tokenVersion {
		return Token{}, false
	}
	key := binary.BigEndian.Uint16(raw[1:])
	copy(t.Family[:], raw[3:])
	t.Generation = binary.BigEndian.Uint32(raw[19:])
	if code != (t.Generation == 0) {
		return Token{}, false
	}
	if !check(key, purpose, raw[:bodyLen], (*[32]byte)(raw[bodyLen:])) {
		return Token{}, false
	}
	return t, true
}

func appendBody(b []byte, key uint16, t Token) []byte {
	b = append(b, tokenVersion)
	b = binary.BigEndian.AppendUint16(b, key)
	b = append(b, t.Family[:]...)
	return binary.BigEndian.AppendUint32(b, t.Generation)
}
