package peers

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"
)

// The check of package verify, as far as these libraries do it: ES256, issuer, audience, expiry and issue of one
// RFC 9068 access token, with the key at hand. None of them looks at its type, refuses a member that is there twice, or
// knows of a revocation. `go test -run xxx -bench Peer`; ours is BenchmarkCheckMiss in package verify.

const (
	benchIssuer   = "https://login.example"
	benchAudience = "https://api.example"
)

func benchToken(b *testing.B) (token string, key *ecdsa.PrivateKey) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{
		"iss": benchIssuer, "sub": "usr_1", "aud": benchAudience, "client_id": "web", "jti": "jti-1", "iat": now, "exp": now + 3600,
		"scope": "notes.read notes.write", "fam": "fam-1", "sid": "sid-1", "auth_time": now - 60, "acr": "pwd", "amr": []string{"pwd"},
	})
	if err != nil {
		b.Fatal(err)
	}
	enc := base64.RawURLEncoding
	input := enc.EncodeToString([]byte(`{"alg":"ES256","kid":"k1","typ":"at+jwt"}`)) + "." + enc.EncodeToString(claims)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return input + "." + enc.EncodeToString(sig), key
}

// run measures a check, and makes sure that it is one.
func run(b *testing.B, token string, check func(string) error) {
	b.Helper()
	if err := check(token); err != nil {
		b.Fatalf("a good token is refused: %v", err)
	}
	head, rest, _ := strings.Cut(token, ".")
	if check(head+"."+strings.Replace(rest, "e", "f", 1)) == nil {
		b.Fatal("a forged token is accepted")
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := check(token); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPeerGoOIDC(b *testing.B) {
	token, key := benchToken(b)
	v := oidc.NewVerifier(benchIssuer, &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key.Public()}}, &oidc.Config{
		ClientID: benchAudience, SupportedSigningAlgs: []string{oidc.ES256},
	})
	run(b, token, func(token string) error {
		t, err := v.Verify(context.Background(), token)
		if err != nil {
			return err
		}
		var c struct {
			Scope    string `json:"scope"`
			ClientID string `json:"client_id"`
		}
		return t.Claims(&c)
	})
}

func BenchmarkPeerJWX(b *testing.B) {
	token, priv := benchToken(b)
	key, err := jwk.Import(priv.Public())
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(key.Set(jwk.KeyIDKey, "k1"), key.Set(jwk.AlgorithmKey, jwa.ES256())); err != nil {
		b.Fatal(err)
	}
	set := jwk.NewSet()
	if err := set.AddKey(key); err != nil {
		b.Fatal(err)
	}
	run(b, token, func(token string) error {
		_, err := jwxjwt.ParseString(token, jwxjwt.WithKeySet(set), jwxjwt.WithIssuer(benchIssuer), jwxjwt.WithAudience(benchAudience),
			jwxjwt.WithRequiredClaim("exp"))
		return err
	})
}

func BenchmarkPeerGolangJWT(b *testing.B) {
	token, key := benchToken(b)
	type claims struct {
		jwt.RegisteredClaims
		Scope    string `json:"scope"`
		ClientID string `json:"client_id"`
	}
	p := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(benchIssuer), jwt.WithAudience(benchAudience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt())
	pub := map[string]*ecdsa.PublicKey{"k1": &key.PublicKey}
	run(b, token, func(token string) error {
		var c claims
		_, err := p.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
			kid, _ := t.Header["kid"].(string)
			k, ok := pub[kid]
			if !ok || !slices.Contains([]string{"at+jwt", "application/at+jwt"}, strings.ToLower(t.Header["typ"].(string))) {
				return nil, errors.New("not our token")
			}
			return k, nil
		})
		return err
	})
}

// BenchmarkPeerFloor is the signature alone, by the standard library.
func BenchmarkPeerFloor(b *testing.B) {
	token, key := benchToken(b)
	input := []byte(token[:strings.LastIndexByte(token, '.')])
	digest := sha256.Sum256(input)
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		digest := sha256.Sum256(input)
		if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
			b.Fatal("refused")
		}
	}
}
