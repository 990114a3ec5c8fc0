package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

const (
	rsaBits = 2048
	maxJWS  = 1 << 16 // bytes; nothing that we sign comes near it
)

// signKey is a signing key; the one of ec, rsa and ed that belongs to alg is set.
type signKey struct {
	alg  Alg
	kid  string
	jwk  jwk
	head string // the JOSE header up to the value of typ
	ec   *ecdsa.PrivateKey
	rsa  *rsa.PrivateKey
	ed   ed25519.PrivateKey
}

// generateSigner makes the PKCS #8 form of a new key.
func generateSigner(alg Alg) ([]byte, error) {
	var key any
	var err error
	switch alg {
	case ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RS256, PS256:
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
	case EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("no signing keys of algorithm %q", alg)
	}
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

func parseSigner(alg Alg, der []byte) (*signKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("not a PKCS #8 private key")
	}
	k := &signKey{alg: alg}
	ok := false
	switch alg {
	case ES256:
		k.ec, ok = parsed.(*ecdsa.PrivateKey)
		ok = ok && k.ec.Curve == elliptic.P256()
	case RS256, PS256:
		k.rsa, ok = parsed.(*rsa.PrivateKey)
		ok = ok && k.rsa.N.BitLen() >= rsaBits
	case EdDSA:
		k.ed, ok = parsed.(ed25519.PrivateKey)
	}
	if !ok {
		return nil, fmt.Errorf("not a key of algorithm %s", alg)
	}
	if k.jwk, err = publicJWK(parsed.(crypto.Signer).Public()); err != nil {
		return nil, err
	}
	k.kid = k.jwk.thumbprint()
	k.jwk.Use, k.jwk.Alg, k.jwk.Kid = "sig", alg, k.kid
	k.head = `{"alg":"` + string(alg) + `","kid":"` + k.kid + `","typ":"`
	return k, nil
}

// sign returns the JWS signature of RFC 7518 §3 and RFC 8037 §3.1 over input.
func (k *signKey) sign(input []byte) ([]byte, error) {
	digest := sha256.Sum256(input)
	switch k.alg {
	case ES256:
		r, s, err := ecdsa.Sign(rand.Reader, k.ec, digest[:])
		if err != nil {
			return nil, err
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
		return sig, nil
	case RS256:
		return rsa.SignPKCS1v15(nil, k.rsa, crypto.SHA256, digest[:])
	case PS256:
		return rsa.SignPSS(rand.Reader, k.rsa, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: sha256.Size})
	case EdDSA:
		return ed25519.Sign(k.ed, input), nil
	}
	return nil, fmt.Errorf("no algorithm %q", k.alg)
}

func (k *signKey) verify(input, sig []byte) bool {
	digest := sha256.Sum256(input)
	switch k.alg {
	case ES256:
		return len(sig) == 64 && ecdsa.Verify(&k.ec.PublicKey, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	case RS256:
		return rsa.VerifyPKCS1v15(&k.rsa.PublicKey, crypto.SHA256, digest[:], sig) == nil
	case PS256:
		return rsa.VerifyPSS(&k.rsa.PublicKey, crypto.SHA256, digest[:], sig, &rsa.PSSOptions{SaltLength: sha256.Size}) == nil
	case EdDSA:
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(k.ed.Public().(ed25519.PublicKey), input, sig)
	}
	return false
}

// Sign makes a compact JWS (RFC 7515 §7.1) over claims, the encoded JSON payload, with the signing key of an algorithm. Its
// header is alg, kid and typ; typ is required: "at+jwt", "JWT" and so on. No I/O, no lock.
func (r *Ring) Sign(alg Alg, typ string, claims []byte) (string, error) {
	k := r.snap.Load().signers[alg]
	if k == nil {
		return "", fmt.Errorf("sign %s: no key of algorithm %q: choose one of %v", typ, alg, r.Algs())
	}
	if !validTyp(typ) {
		return "", fmt.Errorf("sign: %q is no JWS typ", typ)
	}
	head := make([]byte, 0, 128)
	head = append(head, k.head...)
	head = append(head, typ...)
	head = append(head, `"}`...)
	enc := base64.RawURLEncoding
	out := make([]byte, 0, enc.EncodedLen(len(head))+enc.EncodedLen(len(claims))+enc.EncodedLen(rsaBits/8)+2)
	out = enc.AppendEncode(out, head)
	out = append(out, '.')
	out = enc.AppendEncode(out, claims)
	sig, err := k.sign(out)
	if err != nil {
		return "", fmt.Errorf("sign %s: %v", typ, err)
	}
	out = append(out, '.')
	out = enc.AppendEncode(out, sig)
	return string(out), nil
}

// validTyp reports whether typ is a media type, or the end of one, that needs no escape in JSON.
func validTyp(typ string) bool {
	for i := range len(typ) {
		c := typ[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '+', c == '-', c == '.', c == '_', c == '/':
		default:
			return false
		}
	}
	return typ != ""
}

// Verify returns the payload of a compact JWS that was signed by a key of this ring which is published, signing or
// retired, and whose typ is the wanted one (compared without regard to case and to "application/", RFC 7515 §4.1.9). The
// algorithm is that of our key; the header can only agree. Times, issuer and audience in the claims are the caller's to
// judge. Any error means: not such a token of ours. No I/O, no lock.
func (r *Ring) Verify(jws string, typ string) (claims []byte, err error) {
	if !validTyp(typ) {
		return nil, fmt.Errorf("verify: %q is no JWS typ", typ)
	}
	if len(jws) > maxJWS {
		return nil, errors.New("verify: longer than any token of ours")
	}
	head, rest, ok := strings.Cut(jws, ".")
	payload, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 {
		return nil, errors.New("verify: not a compact JWS")
	}
	rawHead, err1 := decode(head)
	rawPayload, err2 := decode(payload)
	rawSig, err3 := decode(sig)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, errors.New("verify: not a compact JWS")
	}
	var h struct {
		Alg  Alg             `json:"alg"`
		Kid  string          `json:"kid"`
		Typ  string          `json:"typ"`
		Crit json.RawMessage `json:"crit"`
		B64  json.RawMessage `json:"b64"`
	}
	if json.Unmarshal(rawHead, &h) != nil {
		return nil, errors.New("verify: the header is not a JSON object")
	}
	if h.Crit != nil || h.B64 != nil {
		// RFC 7515 §4.1.11: extensions that we do not know make it invalid. We never set any.
		return nil, errors.New("verify: the header has extensions")
	}
	k := r.snap.Load().kids[h.Kid]
	if k == nil {
		return nil, errors.New("verify: no key of ours has this kid")
	}
	// Otherwise "none", or HS256 keyed with our public key, would be the sender's choice (RFC 8725 §3.1).
	if h.Alg != k.alg {
		return nil, errors.New("verify: alg is not that of the key")
	}
	if !sameTyp(h.Typ, typ) {
		return nil, errors.New("verify: another typ")
	}
	if !k.verify([]byte(jws[:len(head)+1+len(payload)]), rawSig) {
		return nil, errors.New("verify: wrong signature")
	}
	return rawPayload, nil
}

func sameTyp(a, b string) bool {
	return strings.EqualFold(strings.TrimPrefix(strings.ToLower(a), "application/"), strings.TrimPrefix(strings.ToLower(b), "application/"))
}

// decode accepts the one canonical encoding. The standard decoder skips line ends, which would give a token many spellings.
func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line end in base64url")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// Algs lists the signing algorithms, the default first.
func (r *Ring) Algs() []Alg {
	var out []Alg
	for _, l := range lines() {
		if l.use == UseSign {
			out = append(out, l.alg)
		}
	}
	return out
}

// JWKS is the JWK Set (RFC 7517 §5) of all public keys that a verifier may meet: published, signing and retired ones, and
// its strong HTTP entity tag, with quotes. The caller must not change body. No I/O, no lock.
func (r *Ring) JWKS() (body []byte, etag string) {
	s := r.snap.Load()
	return s.jwks, s.etag
}

// jwk is a public key (RFC 7517, RFC 7518 §6, RFC 8037 §2). It has no field that could hold a private part.
type jwk struct {
	Kty string `json:"kty"`
	Use string `json:"use,omitempty"`
	Alg Alg    `json:"alg,omitempty"`
	Kid string `json:"kid,omitempty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
}

func publicJWK(pub crypto.PublicKey) (jwk, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // 4, X, Y
		if err != nil || pub.Curve != elliptic.P256() || len(point) != 65 {
			return jwk{}, errors.New("not a P-256 key")
		}
		return jwk{Kty: "EC", Crv: "P-256", X: b64(point[1:33]), Y: b64(point[33:])}, nil
	case *rsa.PublicKey:
		return jwk{Kty: "RSA", N: b64(pub.N.Bytes()), E: b64(big.NewInt(int64(pub.E)).Bytes())}, nil
	case ed25519.PublicKey:
		return jwk{Kty: "OKP", Crv: "Ed25519", X: b64(pub)}, nil
	}
	return jwk{}, fmt.Errorf("no JWK for a %T", pub)
}

// thumbprint is the SHA-256 thumbprint of RFC 7638 and RFC 8037 §2: over the required members in the order of their names.
func (j jwk) thumbprint() string {
	var b bytes.Buffer
	switch j.Kty {
	case "EC":
		fmt.Fprintf(&b, `{"crv":%q,"kty":"EC","x":%q,"y":%q}`, j.Crv, j.X, j.Y)
	case "RSA":
		fmt.Fprintf(&b, `{"e":%q,"kty":"RSA","n":%q}`, j.E, j.N)
	case "OKP":
		fmt.Fprintf(&b, `{"crv":%q,"kty":"OKP","x":%q}`, j.Crv, j.X)
	}
	sum := sha256.Sum256(b.Bytes())
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
