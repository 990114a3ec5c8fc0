package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// Alg is a signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1).
type Alg string

// The algorithms that can be accepted. There is no "none" and no HMAC: with either, whoever
// can read this API's configuration could make tokens.
const (
	ES256 Alg = "ES256"
	RS256 Alg = "RS256"
	PS256 Alg = "PS256"
	EdDSA Alg = "EdDSA" // with Ed25519
)

func (a Alg) known() bool { return a == ES256 || a == RS256 || a == PS256 || a == EdDSA }

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// key is a public key of the issuer and the algorithms it may be used with.
type key struct {
	kid  string
	algs []Alg
	pub  crypto.PublicKey // *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey
}

func (k *key) may(a Alg) bool {
	for _, b := range k.algs {
		if a == b {
			return true
		}
	}
	return false
}

// same reports whether two keys are one, so that what was verified with the one is
// still verified by the other.
func (k *key) same(l *key) bool {
	if k.kid != l.kid || len(k.algs) != len(l.algs) {
		return false
	}
	for i := range k.algs {
		if k.algs[i] != l.algs[i] {
			return false
		}
	}
	eq, ok := k.pub.(interface{ Equal(crypto.PublicKey) bool })
	return ok && eq.Equal(l.pub)
}

// verify checks the signature of a JWS; digest is the SHA-256 of its signing input.
func (k *key) verify(alg Alg, input []byte, digest *[sha256.Size]byte, sig []byte) bool {
	if !k.may(alg) {
		return false
	}
	switch pub := k.pub.(type) {
	case *ecdsa.PublicKey:
		if len(sig) != 64 {
			return false
		}
		var der [72]byte
		return ecdsa.VerifyASN1(pub, digest[:], appendDER(der[:0], sig))
	case *rsa.PublicKey:
		switch alg {
		case RS256:
			return rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) == nil
		case PS256:
			// RFC 7518 §3.5: the salt is as long as the digest.
			return rsa.VerifyPSS(pub, crypto.SHA256, digest[:], sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	case ed25519.PublicKey:
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(pub, input, sig)
	}
	return false
}

// appendDER writes r and s of RFC 7518 §3.4 as the SEQUENCE of two INTEGERs that
// crypto/ecdsa takes.
func appendDER(b, sig []byte) []byte {
	b = append(b, 0x30, 0)
	for _, n := range [2][]byte{sig[:32], sig[32:]} {
		for len(n) > 1 && n[0] == 0 {
			n = n[1:]
		}
		if n[0] >= 0x80 {
			b = append(b, 2, byte(len(n)+1), 0)
		} else {
			b = append(b, 2, byte(len(n)))
		}
		b = append(b, n...)
	}
	b[1] = byte(len(b) - 2)
	return b
}

// jws is a compact JWS (RFC 7515 §7.1), cut into its parts, with its header read.
type jws struct {
	input   int // length of the signing input
	payload string
	sig     string
	alg     Alg
	kid     string
	typ     string
}

// base64url has one spelling for each value: no padding, no stray bits at the end.
var base64url = base64.RawURLEncoding.Strict()

// decode reads base64url, into dst if it is large enough. It returns nil for what is
// empty or not base64url.
func decode(dst []byte, s string) []byte {
	n := base64url.DecodedLen(len(s))
	if n == 0 {
		return nil
	}
	if n > cap(dst) {
		dst = make([]byte, n)
	}
	var src [2048]byte
	got, err := base64url.Decode(dst[:n], append(src[:0], s...))
	// The decoder skips line breaks; whoever sends them wants two spellings of one token.
	if err != nil || got != n {
		return nil
	}
	return dst[:n]
}

// parse cuts a token and reads its header. why is "" when it could be an access token.
func parse(token string) (j jws, why string) {
	if len(token) > maxToken {
		return j, "it is longer than 16 KiB"
	}
	if strings.HasPrefix(token, "hrt_") || strings.HasPrefix(token, "hac_") {
		return j, "it is a refresh token or a code: these are for the authorization server alone"
	}
	head, rest, ok := strings.Cut(token, ".")
	payload, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.IndexByte(sig, '.') >= 0 {
		return j, "it is not a signed JWT"
	}
	var buf [512]byte
	raw := decode(buf[:0], head)
	if raw == nil {
		return j, "its header is not base64url"
	}
	j = jws{input: len(head) + 1 + len(payload), payload: payload, sig: sig}
	p := scan(string(raw))
	var m members
	for name, ok := p.next(&m); ok; name, ok = p.next(&m) {
		switch name {
		case "alg":
			j.alg = Alg(p.str())
		case "kid":
			j.kid = p.str()
		case "typ":
			j.typ = p.str()
		case "crit", "b64":
			// RFC 7515 §4.1.11: what must be understood and is not makes it invalid.
			p.fail("its header has extensions that must be understood")
		default:
			p.skip(1)
		}
	}
	p.end()
	if p.bad != "" {
		return j, p.bad
	}
	if !isAccessToken(j.typ) {
		return j, "its type is not at+jwt: it is not an access token"
	}
	return j, ""
}

// isAccessToken compares a typ as RFC 9068 §4 and RFC 7515 §4.1.9 say.
func isAccessToken(typ string) bool {
	const prefix = "application/"
	if len(typ) > len(prefix) && strings.EqualFold(typ[:len(prefix)], prefix) {
		typ = typ[len(prefix):]
	}
	return strings.EqualFold(typ, "at+jwt")
}
