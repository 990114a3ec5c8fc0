package family_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/heirloom-auth/heirloom/family"
)

// vectors is testdata/vectors/token.json, which other languages read, too.
type vectors struct {
	About  []string       `json:"about"`
	Valid  []tokenVector  `json:"valid"`
	Broken []brokenVector `json:"broken"` // all of them are refused, whatever is expected
}

type tokenVector struct {
	Name       string `json:"name"`
	KeyID      uint16 `json:"key_id"`
	Key        string `json:"key"` // hex
	Issuer     string `json:"issuer"`
	Purpose    string `json:"purpose"`
	Family     string `json:"family"` // hex
	Generation uint32 `json:"generation"`
	Body       string `json:"body"`      // hex
	MACInput   string `json:"mac_input"` // hex
	Tag        string `json:"tag"`       // hex
	Token      string `json:"token"`
}

type brokenVector struct {
	Why   string `json:"why"`
	Token string `json:"token"`
}

const vectorsPath = "../testdata/vectors/token.json"

// testKeys are the keys of the vectors.
var testKeys = map[uint16][]byte{
	1:     bytes.Repeat([]byte{0x0b}, 32),
	2:     []byte("0123456789abcdef0123456789abcdef"),
	65535: bytes.Repeat([]byte{0xff}, 32),
}

// macInput is what a tag is computed over: purpose, issuer and body, each with its
// length in four bytes, big-endian, before it.
func macInput(purpose, issuer string, body []byte) []byte {
	var b []byte
	for _, part := range [][]byte{[]byte(purpose), []byte(issuer), body} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}

func mac(key, msg []byte) [32]byte {
	h := hmac.New(sha256.New, key)
	h.Write(msg)
	return [32]byte(h.Sum(nil))
}

// tagger and checker are a ring of the test keys.
func tagger(issuer string) family.Tagger {
	return func(key uint16, purpose string, msg []byte) ([32]byte, bool) {
		k, ok := testKeys[key]
		if !ok {
			return [32]byte{}, false
		}
		return mac(k, macInput(purpose, issuer, msg)), true
	}
}

func checker(issuer string) family.Checker {
	tag := tagger(issuer)
	return func(key uint16, purpose string, msg []byte, got *[32]byte) bool {
		want, ok := tag(key, purpose, msg)
		return ok && hmac.Equal(got[:], want[:])
	}
}

const issuer = "https://auth.example"

// mint is Mint under the test keys.
func mint(t testing.TB, key uint16, tok family.Token) string {
	t.Helper()
	s, ok := family.Mint(key, tok, tagger(issuer))
	if !ok {
		t.Fatalf("Mint: no key %d", key)
	}
	return s
}

// forge builds a token byte by byte, without the package.
func forge(prefix string, version byte, key uint16, id family.ID, generation uint32, purpose string) string {
	body := append([]byte{version, byte(key >> 8), byte(key)}, id[:]...)
	body = append(body, byte(generation>>24), byte(generation>>16), byte(generation>>8), byte(generation))
	tag := mac(testKeys[key], macInput(purpose, issuer, body))
	return prefix + base64.RawURLEncoding.EncodeToString(append(body, tag[:]...))
}

func referenceVectors() vectors {
	v := vectors{About: []string{
		"A token is a prefix and 55 bytes in base64url without padding (RFC 4648 section 5), 78 characters, exactly one spelling.",
		"body = version (1 byte: 1), key_id (2 bytes), family (16 bytes), generation (4 bytes); numbers are big-endian.",
		"prefix and purpose: generation 0 is a code, \"hac_\"; any other is a refresh token, \"hrt_\".",
		"mac_input = len(purpose), purpose, len(issuer), issuer, len(body), body; each length 4 bytes, big-endian; text in UTF-8.",
		"tag = HMAC-SHA-256(key, mac_input), 32 bytes; token = prefix + base64url(body + tag).",
	}}
	id := family.ID{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	add := func(name string, key uint16, issuer, prefix, purpose string, id family.ID, generation uint32) {
		body := append([]byte{1, byte(key >> 8), byte(key)}, id[:]...)
		body = append(body, byte(generation>>24), byte(generation>>16), byte(generation>>8), byte(generation))
		input := macInput(purpose, issuer, body)
		tag := mac(testKeys[key], input)
		v.Valid = append(v.Valid, tokenVector{
			Name: name, KeyID: key, Key: hex.EncodeToString(testKeys[key]), Issuer: issuer, Purpose: purpose,
			Family: hex.EncodeToString(id[:]), Generation: generation,
			Body: hex.EncodeToString(body), MACInput: hex.EncodeToString(input), Tag: hex.EncodeToString(tag[:]),
			Token: prefix + base64.RawURLEncoding.EncodeToString(append(body, tag[:]...)),
		})
	}
	const refresh, code = "heirloom refresh token v1", "heirloom authorization code v1"
	add("first refresh token", 1, issuer, "hrt_", refresh, id, 1)
	add("code", 1, issuer, "hac_", code, id, 0)
	add("another key", 2, issuer, "hrt_", refresh, id, 1)
	add("another issuer", 1, "http://127.0.0.1:8420", "hrt_", refresh, id, 1)
	add("generation 10,000", 2, issuer, "hrt_", refresh, id, 10_000)
	add("everything as large as it can be", 65535, issuer, "hrt_", refresh, family.ID(bytes.Repeat([]byte{0xff}, 16)), 1<<32-1)
	add("a family of zeros", 1, issuer, "hrt_", refresh, family.ID{}, 256)
	add("an issuer that is not ASCII", 1, "https://könig.example", "hrt_", refresh, id, 1)

	good := v.Valid[0].Token
	spare := good[:len(good)-1] + string(rune(good[len(good)-1])+1)
	v.Broken = []brokenVector{
		{"empty", ""},
		{"prefix alone", "hrt_"},
		{"one character short", good[:len(good)-1]},
		{"one character long", good + "A"},
		{"padded", good + "="},
		{"newline behind", good + "\n"},
		{"newline inside", good[:40] + "\n" + good[41:]},
		{"space before", " " + good},
		{"NUL behind", good + "\x00"},
		{"spare bits set in the last character", spare},
		{"prefix of a code", "hac_" + good[4:]},
		{"prefix in capitals", "HRT_" + good[4:]},
		{"standard alphabet", good[:4] + strings.NewReplacer("-", "+", "_", "/").Replace(v.Valid[5].Token[4:])},
		{"version 2 with a right tag", forge("hrt_", 2, 1, id, 1, refresh)},
		{"version 0 with a right tag", forge("hrt_", 0, 1, id, 1, refresh)},
		{"generation 0 as a refresh token with a right tag", forge("hrt_", 1, 1, id, 0, refresh)},
		{"generation 1 as a code with a right tag", forge("hac_", 1, 1, id, 1, code)},
		{"tag of the other purpose", forge("hrt_", 1, 1, id, 1, code)},
		{"key that does not exist", forge("hrt_", 1, 77, id, 1, refresh)},
		{"a JWT", "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZGEifQ.AAAA"},
	}
	return v
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	text, err := os.ReadFile(vectorsPath)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", vectorsPath, err)
	}
	if len(v.Valid) == 0 || len(v.Broken) == 0 {
		t.Fatalf("%s has %d valid and %d broken tokens: want some of each", vectorsPath, len(v.Valid), len(v.Broken))
	}
	return v
}

// TestVectors holds the package to the golden file and the golden file to a reference
// of a few lines. A published token format is never changed: -update is for new rows.
func TestVectors(t *testing.T) {
	want, err := json.MarshalIndent(referenceVectors(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(vectorsPath, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(vectorsPath); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the reference in this file makes (%v)", vectorsPath, err)
	}
	v := readVectors(t)
	for _, c := range v.Valid {
		t.Run(c.Name, func(t *testing.T) {
			id, err := family.ParseID(c.Family)
			if err != nil {
				t.Fatal(err)
			}
			want := family.Token{Family: id, Generation: c.Generation}
			if got, ok := family.Mint(c.KeyID, want, tagger(c.Issuer)); !ok || got != c.Token {
				t.Errorf("Mint: got %q, %v\nwant %q", got, ok, c.Token)
			}
			code := c.Generation == 0
			if got, ok := family.Read(c.Token, code, checker(c.Issuer)); !ok || got != want {
				t.Errorf("Read: got %+v, %v, want %+v", got, ok, want)
			}
			if got, ok := family.Read(c.Token, !code, checker(c.Issuer)); ok || got != (family.Token{}) {
				t.Errorf("Read as the other kind: got %+v, %v", got, ok)
			}
			if _, ok := family.Read(c.Token, code, checker(c.Issuer+"/")); ok {
				t.Error("Read under another issuer: accepted")
			}
			if len(c.Token) != family.TokenSize {
				t.Errorf("%d characters, want TokenSize = %d", len(c.Token), family.TokenSize)
			}
		})
	}
	for _, c := range v.Broken {
		t.Run(c.Why, func(t *testing.T) {
			for _, code := range []bool{false, true} {
				if got, ok := family.Read(c.Token, code, checker(issuer)); ok || got != (family.Token{}) {
					t.Errorf("Read(%q, code %v): got %+v, %v", c.Token, code, got, ok)
				}
			}
		})
	}
}

// refuse fails if s is accepted as a refresh token or as a code.
func refuse(t *testing.T, what, s string) {
	t.Helper()
	for _, code := range []bool{false, true} {
		if tok, ok := family.Read(s, code, checker(issuer)); ok {
			t.Errorf("%s: Read(%q, code %v) accepted %+v", what, s, code, tok)
		}
	}
}

var live2 = family.Token{Family: family.ID{0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, Generation: 7}

func TestRT_H01_EveryPrefixIsUnknown(t *testing.T) {
	s := mint(t, 1, live2)
	for n := range len(s) {
		refuse(t, "prefix", s[:n])
		refuse(t, "suffix", s[n+1:])
	}
}

func TestRT_H02_EveryOtherSpellingIsUnknown(t *testing.T) {
	for _, g := range []uint32{0, 1, 7, 1 << 31} {
		s := mint(t, 2, family.Token{Family: live2.Family, Generation: g})
		for i := range len(s) {
			for c := range 256 {
				if byte(c) != s[i] {
					refuse(t, "changed", s[:i]+string([]byte{byte(c)})+s[i+1:])
				}
			}
			refuse(t, "left out", s[:i]+s[i+1:])
			refuse(t, "doubled", s[:i]+s[i:i+1]+s[i:])
		}
	}
}

// The last character carries four bits and two spare ones: 55 bytes are 440 bits in 74
// characters. A decoder that ignores them would accept four spellings of one token.
func TestRT_H02_SpareBitsAreNotIgnored(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	s := mint(t, 1, live2)
	last := strings.IndexByte(alphabet, s[len(s)-1])
	if last%4 != 0 {
		t.Fatalf("last character %q has spare bits", s[len(s)-1])
	}
	for spare := 1; spare < 4; spare++ {
		alias := s[:len(s)-1] + alphabet[last+spare:last+spare+1]
		a, errA := base64.RawURLEncoding.DecodeString(s[4:])
		b, errB := base64.RawURLEncoding.DecodeString(alias[4:])
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Fatalf("%q is no alias: %v %v", alias, errA, errB)
		}
		refuse(t, "alias", alias)
	}
}

func TestRT_H03_NothingIsTrimmed(t *testing.T) {
	s := mint(t, 1, live2)
	for _, extra := range []string{" ", "\n", "\r\n", "\t", "\x00", "=", "==", "%00", ",", "\u00a0", "\ufeff", s, " " + s, "." + s, "&refresh_token=" + s} {
		refuse(t, "behind", s+extra)
		refuse(t, "before", extra+s)
		for i := range len(s) {
			refuse(t, "inside", s[:i]+extra+s[i:])
			if len(extra) < len(s)-i {
				refuse(t, "in place", s[:i]+extra+s[i+len(extra):])
			}
		}
	}
}

func TestRT_H17_WrongPrefixVersionOrTagIsUnknown(t *testing.T) {
	s := mint(t, 1, live2)
	for _, prefix := range []string{"", "hat_", "hac_", "hcs_", "hrt-", "hrt", "_hrt", "Bearer hrt_"} {
		refuse(t, "prefix", prefix+s[4:])
	}
	// Whatever has a right tag but another version is not
	// ours, and no family may be asked for it.
	for version := range 256 {
		if version != 1 {
			refuse(t, "version", forge("hrt_", byte(version), 1, live2.Family, live2.Generation, family.RefreshPurpose))
			refuse(t, "version", forge("hac_", byte(version), 1, live2.Family, 0, family.CodePurpose))
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(s[4:])
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(raw) {
		flipped := bytes.Clone(raw)
		flipped[bit/8] ^= 1 << (bit % 8)
		refuse(t, "one bit", "hrt_"+base64.RawURLEncoding.EncodeToString(flipped))
	}
}

func TestRT_H18_LetterCaseCounts(t *testing.T) {
	s := mint(t, 1, live2)
	refuse(t, "upper", strings.ToUpper(s))
	refuse(t, "lower", strings.ToLower(s))
	for i := range len(s) {
		for _, c := range []string{strings.ToUpper(s[i : i+1]), strings.ToLower(s[i : i+1])} {
			if c != s[i:i+1] {
				refuse(t, "one letter", s[:i]+c+s[i+1:])
			}
		}
	}
}

// TestReadAsksNoKeyForWhatIsMisshapen: what has not exactly the shape of a token costs
// not even a MAC.
func TestReadAsksNoKeyForWhatIsMisshapen(t *testing.T) {
	for _, c := range readVectors(t).Broken {
		switch c.Why {
		case "tag of the other purpose", "key that does not exist":
			continue
		}
		for _, code := range []bool{false, true} {
			family.Read(c.Token, code, func(uint16, string, []byte, *[32]byte) bool {
				t.Errorf("%s: the tag of %q was asked for (code %v)", c.Why, c.Token, code)
				return false
			})
		}
	}
}

// TestTokensOfOneGenerationAreOneToken: a repeat returns the same bytes, and different
// generations, families and keys never do.
func TestTokensOfOneGenerationAreOneToken(t *testing.T) {
	seen := map[string]bool{}
	for _, key := range []uint16{1, 2} {
		for g := range uint32(100) {
			for _, id := range []family.ID{{1}, {2}} {
				tok := family.Token{Family: id, Generation: g}
				s := mint(t, key, tok)
				if again := mint(t, key, tok); again != s {
					t.Errorf("Mint(%d, %+v): %q, then %q", key, tok, s, again)
				}
				if seen[s] {
					t.Errorf("Mint(%d, %+v): %q is another's", key, tok, s)
				}
				seen[s] = true
			}
		}
	}
	if s, ok := family.Mint(3, live2, tagger(issuer)); ok || s != "" {
		t.Errorf("Mint with a key that is gone: %q, %v", s, ok)
	}
}

// FuzzRead lets every tag pass, so that nothing but the shape keeps a string out: what
// is accepted must be the one spelling that Mint would have made.
func FuzzRead(f *testing.F) {
	v := readVectors(f)
	for _, c := range v.Valid {
		f.Add(c.Token)
	}
	for _, c := range v.Broken {
		f.Add(c.Token)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, code := range []bool{false, true} {
			var key uint16
			var tag [32]byte
			tok, ok := family.Read(s, code, func(k uint16, _ string, _ []byte, got *[32]byte) bool {
				key, tag = k, *got
				return true
			})
			if !ok {
				if tok != (family.Token{}) {
					t.Errorf("Read(%q): refused with %+v", s, tok)
				}
				continue
			}
			again, _ := family.Mint(key, tok, func(uint16, string, []byte) ([32]byte, bool) { return tag, true })
			if again != s || code != (tok.Generation == 0) {
				t.Errorf("Read(%q, code %v) = %+v, whose spelling is %q", s, code, tok, again)
			}
		}
	})
}
