package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func unb64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// The RSA key of RFC 7638 §3.1; RFC 7515 A.2 has another.
const rfc7638N = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"

const (
	rfc7515RSA = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
	rfc7515Pay = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
)

func TestRFC7638_RFC8037_Thumbprints(t *testing.T) {
	ed := ed25519.PublicKey(unb64(t, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"))
	for _, c := range []struct {
		name string
		pub  crypto.PublicKey
		want string
	}{
		{"RFC 7638 §3.1", &rsa.PublicKey{N: new(big.Int).SetBytes(unb64(t, rfc7638N)), E: 65537}, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
		{"RFC 8037 A.3", ed, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
	} {
		j, err := publicJWK(c.pub)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := j.thumbprint(); got != c.want {
			t.Errorf("%s: thumbprint %s, want %s", c.name, got, c.want)
		}
	}
}

func TestRFC7515_RFC8037_Signatures(t *testing.T) {
	seed := unb64(t, "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A") // RFC 8037 A.1
	ecPub := pointOf(t, unb64(t, "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"), unb64(t, "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"))
	ec := &ecdsa.PrivateKey{PublicKey: *ecPub}
	rs := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).SetBytes(unb64(t, rfc7515RSA)), E: 65537}}
	for _, c := range []struct {
		name string
		key  *signKey
		jws  string
	}{
		{"RFC 8037 A.4", &signKey{alg: EdDSA, ed: ed25519.NewKeyFromSeed(seed)},
			"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"},
		{"RFC 7515 A.3", &signKey{alg: ES256, ec: ec},
			"eyJhbGciOiJFUzI1NiJ9." + rfc7515Pay + ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"},
		{"RFC 7515 A.2", &signKey{alg: RS256, rsa: rs},
			"eyJhbGciOiJSUzI1NiJ9." + rfc7515Pay + ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"},
	} {
		cut := strings.LastIndexByte(c.jws, '.')
		input, sig := []byte(c.jws[:cut]), unb64(t, c.jws[cut+1:])
		if !c.key.verify(input, sig) {
			t.Errorf("%s: the signature is refused", c.name)
		}
		if c.key.verify(append(input, 'A'), sig) || c.key.verify(input, flip(sig, 5)) {
			t.Errorf("%s: another input or signature is accepted", c.name)
		}
	}
	got, err := (&signKey{alg: EdDSA, ed: ed25519.NewKeyFromSeed(seed)}).sign([]byte("eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"))
	if want := "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"; err != nil || b64(got) != want {
		t.Errorf("RFC 8037 A.4: signed %s (%v), want %s", b64(got), err, want)
	}
}

// member is a key of a JWKS as a stranger reads it.
type member struct{ Kty, Use, Alg, Kid, Crv, X, Y, N, E string }

func jwksOf(t testing.TB, r *Ring) []member {
	t.Helper()
	body, _ := r.JWKS()
	var set struct{ Keys []member }
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	return set.Keys
}

// check verifies a JWS with the standard library and what the JWKS says, and nothing of this package.
func check(t testing.TB, keys []member, jws string) bool {
	t.Helper()
	parts := strings.Split(jws, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts in %s", len(parts), jws)
	}
	var h struct{ Alg, Kid, Typ string }
	if err := json.Unmarshal(unb64(t, parts[0]), &h); err != nil {
		t.Fatal(err)
	}
	sig := unb64(t, parts[2])
	input := []byte(parts[0] + "." + parts[1])
	digest := sha256.Sum256(input)
	for _, k := range keys {
		if k.Kid != h.Kid {
			continue
		}
		if k.Alg != h.Alg || k.Use != "sig" {
			t.Errorf("key %+v for a token of %s", k, h.Alg)
		}
		switch k.Kty {
		case "EC":
			x, y := unb64(t, k.X), unb64(t, k.Y)
			if len(x) != 32 || len(y) != 32 || k.Crv != "P-256" || len(sig) != 64 {
				t.Errorf("EC key %+v, signature of %d bytes", k, len(sig))
			}
			return ecdsa.Verify(pointOf(t, x, y), digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
		case "RSA":
			pub := &rsa.PublicKey{N: new(big.Int).SetBytes(unb64(t, k.N)), E: int(new(big.Int).SetBytes(unb64(t, k.E)).Int64())}
			if k.Alg == "PS256" {
				return rsa.VerifyPSS(pub, crypto.SHA256, digest[:], sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
			}
			return rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) == nil
		case "OKP":
			return k.Crv == "Ed25519" && ed25519.Verify(unb64(t, k.X), input, sig)
		}
	}
	return false
}

func TestDEC10_AllAlgorithmsSignAndVerifyByTheJWKS(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	if got := fmt.Sprint(r.Algs()); got != "[ES256 RS256 PS256 EdDSA]" {
		t.Errorf("Algs: %s", got)
	}
	for _, alg := range r.Algs() {
		for i := range 50 { // signatures with leading zeros among them
			claims := fmt.Sprintf(`{"i":%d}`, i)
			jws := mustSign(t, r, alg, "at+jwt", claims)
			if !check(t, jwksOf(t, r), jws) {
				t.Fatalf("%s: the standard library refuses %s", alg, jws)
			}
			got, err := r.Verify(jws, "at+jwt")
			if err != nil || string(got) != claims {
				t.Fatalf("%s: Verify: %s, %v", alg, got, err)
			}
			if i > 3 && (alg == RS256 || alg == PS256) {
				break
			}
		}
	}
}

func TestOIDCD02_JWKSHasPublicKeysOnly(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	for _, alg := range r.Algs() {
		mustRotate(t, r, UseSign, alg, false)
		mustRotate(t, r, UseSign, alg, true)
	}
	body, etag := r.JWKS()
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 12 {
		t.Errorf("%d keys, want 12", len(set.Keys))
	}
	kids := map[any]bool{}
	for i, k := range set.Keys {
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k", "oth"} {
			if _, ok := k[private]; ok {
				t.Errorf("key %v has the private member %s", k["kid"], private)
			}
		}
		if k["use"] != "sig" || k["alg"] == "" || k["kty"] == "oct" || kids[k["kid"]] {
			t.Errorf("key %d: %v: want use sig, an alg, no oct and a kid of its own", i, k)
		}
		kids[k["kid"]] = true
	}
	// Those that sign are first, the default leads.
	if first := kidOf(t, mustSign(t, r, ES256, "JWT", "{}")); set.Keys[0]["kid"] != first {
		t.Errorf("first key %v, want the one that signs ES256, %s", set.Keys[0], first)
	}
	if len(etag) < 10 || etag[0] != '"' || etag[len(etag)-1] != '"' {
		t.Errorf("ETag %s", etag)
	}
	mustRotate(t, r, UseSign, ES256, false)
	if _, after := r.JWKS(); after == etag {
		t.Error("the ETag did not change with the set")
	}
}

const b64Chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func TestVerifyRefusesEveryChangedByte(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	for _, alg := range r.Algs() {
		jws := mustSign(t, r, alg, "JWT", `{"sub":"ann"}`)
		for i := range len(jws) {
			bad := []byte(jws)
			// The lowest bit of the character: at the end of a part that is a bit that decodes to nothing.
			if j := strings.IndexByte(b64Chars, bad[i]); j >= 0 {
				bad[i] = b64Chars[j^1]
			} else {
				bad[i] = 'A'
			}
			if _, err := r.Verify(string(bad), "JWT"); err == nil {
				t.Errorf("%s: accepted with byte %d changed: %s", alg, i, bad)
			}
			if _, err := r.Verify(jws[:i], "JWT"); err == nil {
				t.Errorf("%s: accepted when cut at %d", alg, i)
			}
		}
		for _, more := range []string{"A", "=", "\n", "\r\n", " ", ".", ".A"} {
			if _, err := r.Verify(jws+more, "JWT"); err == nil {
				t.Errorf("%s: accepted with %q behind", alg, more)
			}
			if _, err := r.Verify(more+jws, "JWT"); err == nil {
				t.Errorf("%s: accepted with %q in front", alg, more)
			}
			if _, err := r.Verify(strings.Replace(jws, ".", more+".", 1), "JWT"); err == nil {
				t.Errorf("%s: accepted with %q before the first dot", alg, more)
			}
		}
	}
}

func TestVerifyTakesTheAlgorithmFromTheKey(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	s := r.snap.Load()
	payload := b64([]byte(`{"sub":"ann"}`))
	es, rs, ps := s.signers[ES256], s.signers[RS256], s.signers[PS256]
	by := func(k *signKey, head string) string {
		input := b64([]byte(head)) + "." + payload
		sig, err := k.sign([]byte(input))
		if err != nil {
			t.Fatal(err)
		}
		return input + "." + b64(sig)
	}
	good := by(es, `{"alg":"ES256","kid":"`+es.kid+`","typ":"JWT"}`)
	if _, err := r.Verify(good, "JWT"); err != nil {
		t.Fatalf("the token that the others are made from is refused: %v", err)
	}
	none := func(alg string) string {
		return b64([]byte(`{"alg":"`+alg+`","kid":"`+rs.kid+`","typ":"JWT"}`)) + "." + payload + "."
	}
	hs := b64([]byte(`{"alg":"HS256","kid":"`+rs.kid+`","typ":"JWT"}`)) + "." + payload
	mac := hmac.New(sha256.New, unb64(t, rs.jwk.N))
	mac.Write([]byte(hs))
	psByRS := &signKey{alg: PS256, rsa: rs.rsa}
	stranger := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	for name, jws := range map[string]string{
		"none":                         none("none"),
		"None":                         none("None"),
		"no alg":                       none(""),
		"HS256 by the public key":      hs + "." + b64(mac.Sum(nil)),
		"PS256 by the RS256 key":       by(psByRS, `{"alg":"PS256","kid":"`+rs.kid+`","typ":"JWT"}`),
		"RS256 said, PS256 made":       by(psByRS, `{"alg":"RS256","kid":"`+rs.kid+`","typ":"JWT"}`),
		"RS256 made, PS256 said":       by(rs, `{"alg":"PS256","kid":"`+rs.kid+`","typ":"JWT"}`),
		"ES256 made, none said":        by(es, `{"alg":"none","kid":"`+es.kid+`","typ":"JWT"}`),
		"another key's kid":            by(rs, `{"alg":"PS256","kid":"`+ps.kid+`","typ":"JWT"}`),
		"no kid":                       by(es, `{"alg":"ES256","typ":"JWT"}`),
		"crit":                         by(es, `{"alg":"ES256","kid":"`+es.kid+`","typ":"JWT","crit":["x"],"x":1}`),
		"b64":                          by(es, `{"alg":"ES256","kid":"`+es.kid+`","typ":"JWT","b64":false}`),
		"no typ":                       by(es, `{"alg":"ES256","kid":"`+es.kid+`"}`),
		"another typ":                  by(es, `{"alg":"ES256","kid":"`+es.kid+`","typ":"at+jwt"}`),
		"header no object":             by(es, `"JWT"`),
		"header and more":              by(es, `{"alg":"ES256","kid":"`+es.kid+`","typ":"JWT"}{}`),
		"a jwk of the sender":          mustSign(t, stranger, ES256, "JWT", "{}"),
		"empty":                        "",
		"dots":                         "..",
		"too long":                     good[:len(good)-1] + strings.Repeat("A", maxJWS),
		"ASN.1 instead of 64 bytes":    good[:strings.LastIndexByte(good, '.')+1] + b64(bytes.Repeat([]byte{0x30}, 70)),
		"zeros for an ECDSA signature": good[:strings.LastIndexByte(good, '.')+1] + b64(make([]byte, 64)),
	} {
		if claims, err := r.Verify(jws, "JWT"); err == nil {
			t.Errorf("%s: accepted: %s", name, claims)
		} else if len(jws) > 20 && strings.Contains(err.Error(), jws[:20]) {
			t.Errorf("%s: the message quotes the token: %v", name, err)
		}
	}
}

func TestTypIsComparedAsRFC7515Asks(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	for _, c := range []struct {
		made, want string
		ok         bool
	}{
		{"at+jwt", "at+jwt", true},
		{"at+jwt", "AT+JWT", true},
		{"at+jwt", "application/at+jwt", true},
		{"Application/at+JWT", "at+jwt", true},
		{"at+jwt", "JWT", false},
		{"JWT", "at+jwt", false},
		{"secevent+jwt", "at+jwt", false},
		{"at+jwt", "", false},
	} {
		_, err := r.Verify(mustSign(t, r, EdDSA, c.made, "{}"), c.want)
		if (err == nil) != c.ok {
			t.Errorf("made as %q, wanted as %q: %v", c.made, c.want, err)
		}
	}
	for _, typ := range []string{"", `a"b`, "a b", "jwt\n", "é"} {
		if jws, err := r.Sign(ES256, typ, []byte("{}")); err == nil {
			t.Errorf("typ %q: signed %s", typ, jws)
		}
	}
	for _, alg := range []Alg{"", "none", HS256, A256GCM, "es256"} {
		if jws, err := r.Sign(alg, "JWT", []byte("{}")); err == nil {
			t.Errorf("alg %q: signed %s", alg, jws)
		}
	}
}

func TestDroppedSigningKeyIsRefused(t *testing.T) {
	r := mustOpen(t, testConfig(t, newMemory(), &clock{t: t0}))
	jws := mustSign(t, r, ES256, "JWT", "{}")
	mustRotate(t, r, UseSign, ES256, true)
	if _, err := r.Verify(jws, "JWT"); err != nil {
		t.Fatalf("refused after a rotation: %v", err)
	}
	if err := r.Drop(context.Background(), UseSign, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Verify(jws, "JWT"); err == nil || check(t, jwksOf(t, r), jws) {
		t.Error("accepted after its key was dropped")
	}
}

func FuzzVerify(f *testing.F) {
	r := mustOpen(f, testConfig(f, newMemory(), &clock{t: t0}))
	good := mustSign(f, r, ES256, "JWT", `{"sub":"ann"}`)
	f.Add(good)
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, jws string) {
		if _, err := r.Verify(jws, "JWT"); err == nil && jws != good {
			t.Errorf("accepted: %q", jws)
		}
	})
}

func BenchmarkSignES256(b *testing.B) { benchmarkSign(b, ES256) }
func BenchmarkSignEdDSA(b *testing.B) { benchmarkSign(b, EdDSA) }
func BenchmarkSignRS256(b *testing.B) { benchmarkSign(b, RS256) }

var benchClaims = []byte(`{"iss":"https://auth.example","sub":"0b5bbf1c","aud":"api","exp":1790000600,"iat":1790000000,"jti":"k3J2n1","client_id":"demo-browser","scope":"openid profile","sid":"Jk2","fam":"9Zq"}`)

func benchmarkSign(b *testing.B, alg Alg) {
	r := mustOpen(b, testConfig(b, newMemory(), &clock{t: t0}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Sign(alg, "at+jwt", benchClaims); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyES256(b *testing.B) {
	r := mustOpen(b, testConfig(b, newMemory(), &clock{t: t0}))
	jws := mustSign(b, r, ES256, "at+jwt", string(benchClaims))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Verify(jws, "at+jwt"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCurveES256(b *testing.B) { // the floor of BenchmarkSignES256
	r := mustOpen(b, testConfig(b, newMemory(), &clock{t: t0}))
	k := r.snap.Load().signers[ES256].ec
	digest := sha256.Sum256(benchClaims)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ecdsa.SignASN1(nil, k, digest[:]); err != nil {
			b.Fatal(err)
		}
	}
}

// pointOf makes a P-256 key of its coordinates.
func pointOf(t testing.TB, x, y []byte) *ecdsa.PublicKey {
	t.Helper()
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		t.Fatal(err)
	}
	return pub
}
