package verify

import (
	"bytes"
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

// scratch is the memory of one check; none of it outlives the check.
type scratch struct {
	token   [2048]byte
	payload [2048]byte
	sig     [1024]byte
	digest  [sha256.Size]byte // of the signing input
	der     [72]byte
}

// verify checks the signature of a JWS; s.digest is that of its signing input.
func (k *key) verify(alg Alg, input, sig []byte, s *scratch) bool {
	if !k.may(alg) {
		return false
	}
	switch pub := k.pub.(type) {
	case *ecdsa.PublicKey:
		return len(sig) == 64 && ecdsa.VerifyASN1(pub, s.digest[:], appendDER(s.der[:0], sig))
	case *rsa.PublicKey:
		switch alg {
		case RS256:
			return rsa.VerifyPKCS1v15(pub, crypto.SHA256, s.digest[:], sig) == nil
		case PS256:
			// RFC 7518 §3.5: the salt is as long as the digest.
			return rsa.VerifyPSS(pub, crypto.SHA256, s.digest[:], sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
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

// head is what a JWS header says.
type head struct {
	text string // as it is in the token
	alg  Alg
	kid  string
}

// base64url has one spelling for each value: no padding, no stray bits at the end.
var base64url = base64.RawURLEncoding.Strict()

// decode reads base64url, into dst if it is large enough. It returns nil for what is
// empty or not base64url.
func decode(dst, src []byte) []byte {
	// The decoder skips line breaks; whoever sends them wants two spellings of one token.
	n := base64url.DecodedLen(len(src))
	if n == 0 || bytes.IndexByte(src, '\n') >= 0 || bytes.IndexByte(src, '\r') >= 0 {
		return nil
	}
	if n > cap(dst) {
		dst = make([]byte, n)
	}
	if _, err := base64url.Decode(dst[:n], src); err != nil {
		return nil
	}
	return dst[:n]
}

// cut finds the parts of a compact JWS (RFC 7515 §7.1): the header ends at payload-1,
// and what is signed at sig-1. why is "" when it could be one.
func cut(token string) (payload, sig int, why string) {
	if len(token) > maxToken {
		return 0, 0, "it is longer than 16 KiB"
	}
	if strings.HasPrefix(token, "hrt_") || strings.HasPrefix(token, "hac_") {
		return 0, 0, "it is a refresh token or a code: these are for the authorization server alone"
	}
	payload = strings.IndexByte(token, '.') + 1
	sig = strings.LastIndexByte(token, '.') + 1
	if payload == 0 || sig == payload || strings.IndexByte(token[payload:sig-1], '.') >= 0 {
		return 0, 0, "it is not a signed JWT"
	}
	return payload, sig, ""
}

// readHead reads a header. why is "" when it is that of an access token.
func readHead(text string) (h head, why string) {
	raw := decode(nil, []byte(text))
	if raw == nil {
		return h, "its header is not base64url"
	}
	h.text = strings.Clone(text)
	typ := ""
	p := scan(string(raw))
	var m members
	for name, ok := p.next(&m); ok; name, ok = p.next(&m) {
		switch name {
		case "alg":
			h.alg = Alg(p.str())
		case "kid":
			h.kid = p.str()
		case "typ":
			typ = p.str()
		case "crit", "b64":
			// RFC 7515 §4.1.11: what must be understood and is not makes it invalid.
			p.fail("its header has extensions that must be understood")
		default:
			p.skip(1)
		}
	}
	p.end()
	if p.bad != "" {
		return h, p.bad
	}
	if !isAccessToken(typ) {
		return h, "its type is not at+jwt: it is not an access token"
	}
	return h, ""
}

// isAccessToken compares a typ as RFC 9068 §4 and RFC 7515 §4.1.9 say.
func isAccessToken(typ string) bool {
	const prefix = "application/"
	if len(typ) > len(prefix) && strings.EqualFold(typ[:len(prefix)], prefix) {
		typ = typ[len(prefix):]
	}
	return strings.EqualFold(typ, "at+jwt")
}
