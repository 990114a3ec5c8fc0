package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Neither clock alone can make what is known look younger than it is: not one that is
// set back, and not one that stood still while the machine slept.
func TestAgeIsOfTheClockThatSaysLonger(t *testing.T) {
	wall := time.Unix(1_800_000_000, 0)
	at := instant{wall, time.Hour}
	for name, row := range map[string]struct {
		now  instant
		want time.Duration
	}{
		"both":             {instant{wall.Add(5 * time.Second), time.Hour + 5*time.Second}, 5 * time.Second},
		"wall set back":    {instant{wall.Add(-time.Hour), time.Hour + 5*time.Second}, 5 * time.Second},
		"wall set forward": {instant{wall.Add(time.Hour), time.Hour + 5*time.Second}, time.Hour},
		"slept":            {instant{wall.Add(time.Hour), time.Hour}, time.Hour},
		"earlier":          {instant{wall.Add(-time.Second), time.Hour - time.Second}, 0},
	} {
		if got := row.now.since(at); got != row.want {
			t.Errorf("%s: %v; want %v", name, got, row.want)
		}
	}
}

// A verifier that slept, or whose clock was set, is stale by that much, for both
// policies; one whose clock was set back is as stale as it is.
func TestClockJumpsAreNeverWrongSilently(t *testing.T) {
	wall := time.Unix(1_800_000_000, 0)
	for _, policy := range []Stale{Refuse(), AcceptFor(30 * time.Second)} {
		f := &follower{conf: Feed{Stale: policy, Silence: 15 * time.Second}}
		f.state.Store(&heard{ever: true, live: true, at: instant{wall, time.Hour}, server: wall.UnixMilli()})
		for name, row := range map[string]struct {
			now   instant
			fresh bool
		}{
			"a beat later":           {instant{wall.Add(5 * time.Second), time.Hour + 5*time.Second}, true},
			"woken after an hour":    {instant{wall.Add(time.Hour), time.Hour + time.Second}, false},
			"set forward":            {instant{wall.Add(24 * time.Hour), time.Hour + time.Second}, false},
			"set back":               {instant{wall.Add(-24 * time.Hour), time.Hour + 5*time.Second}, true},
			"set back, and no beats": {instant{wall.Add(-24 * time.Hour), time.Hour + time.Minute}, false},
		} {
			clock, err := f.clock(row.now)
			if (err == nil) != row.fresh {
				t.Errorf("%+v, %s: %v; want fresh: %t", policy, name, err, row.fresh)
			}
			if row.fresh && !clock.Equal(wall.Add(5*time.Second)) {
				t.Errorf("%+v, %s: the issuer's clock is taken for %v", policy, name, clock)
			}
		}
	}
}

// A key does what it was published for, whoever asks it and whatever for.
func TestKeyRefusesOtherAlgorithms(t *testing.T) {
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := scratch{digest: sha256.Sum256([]byte("x"))}
	sig, err := rsa.SignPKCS1v15(nil, priv, crypto.SHA256, s.digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if k := (&key{algs: []Alg{RS256, PS256}, pub: &priv.PublicKey}); !k.verify(RS256, []byte("x"), sig, &s) || k.verify(PS256, []byte("x"), sig, &s) {
		t.Error("an RSA key for both takes the one for the other")
	}
	if k := (&key{algs: []Alg{PS256}, pub: &priv.PublicKey}); k.verify(RS256, []byte("x"), sig, &s) {
		t.Error("a key for PS256 accepts RS256")
	}
}

// Keys that were read again are the same keys: what was verified with them stays so.
func TestKeysThatStayAreTheSame(t *testing.T) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := priv.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
			"kty": "EC", "crv": "P-256", "kid": "k", "x": base64url.EncodeToString(raw[1:33]), "y": base64url.EncodeToString(raw[33:]),
		}}})
	}))
	defer srv.Close()
	r := &keyring{http: srv.Client(), uri: srv.URL, algs: []Alg{ES256}}
	var sets [2]*keySet
	for i := range sets {
		if sets[i], err = r.fetch(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		r.set.Store(sets[i])
	}
	if a, b := sets[0].find("k", ES256), sets[1].find("k", ES256); a == nil || a != b {
		t.Errorf("%p became %p", a, b)
	}
}

func TestDERIsWhatTheStandardLibraryWrites(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	short := 0
	for range 2000 {
		r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if r.BitLen() <= 248 || s.BitLen() <= 248 {
			short++
		}
		sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		if !ecdsa.VerifyASN1(&k.PublicKey, digest[:], appendDER(nil, sig)) {
			t.Fatalf("signature %x is refused", sig)
		}
	}
	if short == 0 {
		t.Error("no short integer in 2000 signatures: nothing was tried")
	}
	if ecdsa.VerifyASN1(&k.PublicKey, digest[:], appendDER(nil, append(big.NewInt(1).FillBytes(make([]byte, 32)), make([]byte, 32)...))) {
		t.Error("a signature with s = 0 is accepted")
	}
}

func TestBase64HasOneSpelling(t *testing.T) {
	if got := decode(nil, []byte("QUJD")); string(got) != "ABC" {
		t.Errorf("decode: %q", got)
	}
	for _, s := range []string{"", "QUJD\n", "Q\rUJD", "QUI=", "QUJ", "Q", "QU JD", "QU+D"} {
		if got := decode(nil, []byte(s)); got != nil {
			t.Errorf("decode(%q) = %q", s, got)
		}
	}
}

func TestCacheIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	c := newCache[int](1000)
	id := func(i int) (k [32]byte) { k[0], k[1], k[2] = byte(i), byte(i>>8), byte(i>>16); return k }
	for i := range 100_000 {
		c.put(id(i), i)
		if i%100 == 0 {
			if _, ok := c.get(id(0)); !ok {
				t.Fatalf("what is asked for all the time is gone after %d others", i)
			}
		}
		if n := c.len(); n > 1000 {
			t.Fatalf("%d entries", n)
		}
	}
	if v, ok := c.get(id(99_999)); !ok || v != 99_999 {
		t.Errorf("the newest: %d, %t", v, ok)
	}
	if _, ok := c.get(id(50_000)); ok {
		t.Error("what nobody asks for is kept")
	}
	c.drop(id(0))
	if _, ok := c.get(id(0)); ok {
		t.Error("what was dropped is kept")
	}
	off := newCache[int](0)
	off.put(id(1), 1)
	if off.len() != 0 {
		t.Error("a cache of size 0 keeps something")
	}
}

// read is the scanner as a reader of any JSON object.
func readAny(s string) bool {
	p := scan(s)
	if p.peek() != '{' {
		return false
	}
	p.skip(0)
	p.end()
	return p.bad == ""
}

// What the scanner accepts, encoding/json accepts; and what encoding/json wrote, the
// scanner accepts and understands alike.
func TestScannerAgreesWithEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := map[string]any{
			"iss": rapid.String().Draw(t, "iss"), "sub": rapid.String().Draw(t, "sub"), "scope": rapid.String().Draw(t, "scope"),
			"aud": rapid.SliceOfN(rapid.String(), 1, 5).Draw(t, "aud"), "exp": rapid.Int64Range(0, lastDate).Draw(t, "exp"),
			"x": rapid.Float64Range(-1e18, 1e18).Draw(t, "x"), "y": map[string]any{"z": rapid.SliceOf(rapid.Bool()).Draw(t, "z")},
		}
		for k, v := range rapid.MapOfN(rapid.StringMatching(`[^a-z]{1,3}`), rapid.String(), 0, 40).Draw(t, "more") {
			in[k] = v
		}
		raw, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		got, _, why := readClaims(string(raw))
		if why != "" {
			t.Fatalf("%s: %s", raw, why)
		}
		var want struct {
			Iss, Sub, Scope string
			Aud             []string
			Exp             int64
		}
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if got.Issuer != want.Iss || got.Subject != want.Sub || got.Scope != want.Scope || !reflect.DeepEqual(got.Audience, want.Aud) || got.Expires.Unix() != want.Exp {
			t.Fatalf("%s: got %+v, want %+v", raw, got, want)
		}
	})
}

func FuzzScanner(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a":1,"a":2}`, `{"a":[1,2.5e-3,{"b":null}]}`, `{"\u0061":1,"a":1}`, `{"exp":1e3,"aud":["x"]}`, `{"a":"\ud800"}`, `{"a":01}`, "{\"a\":\"\xff\"}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if readAny(s) && !json.Valid([]byte(s)) {
			t.Errorf("%q is accepted, but is not JSON", s)
		}
		if got, _, why := readClaims(s); why == "" {
			var m map[string]json.RawMessage
			if err := json.Unmarshal([]byte(s), &m); err != nil {
				t.Errorf("%q is read as claims: %v", s, err)
			}
			var sub string
			if raw, ok := m["sub"]; ok && json.Unmarshal(raw, &sub) == nil && sub != got.Subject {
				t.Errorf("%q: sub is %q here and %q there", s, got.Subject, sub)
			}
		}
	})
}

func FuzzCut(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.e30.AA")
	f.Add("hrt_x.y.z")
	f.Add("..")
	f.Add(".")
	f.Add("a..b")
	f.Fuzz(func(t *testing.T, token string) {
		payload, sig, why := cut(token)
		if why != "" {
			return
		}
		parts := strings.Split(token, ".")
		if len(parts) != 3 || token[:payload-1] != parts[0] || token[payload:sig-1] != parts[1] || token[sig:] != parts[2] {
			t.Fatalf("%q was cut at %d and %d", token, payload, sig)
		}
		if h, why := readHead(parts[0]); why == "" && h.text != parts[0] {
			t.Errorf("the header %q was read as %+v", parts[0], h)
		}
	})
}
