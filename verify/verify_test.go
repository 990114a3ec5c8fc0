package verify_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heirloom-auth/heirloom/verify"
)

func TestNewRefusesWhatIsUnsafe(t *testing.T) {
	good := verify.Config{Issuer: "https://as.example", Audience: "api", Algs: []verify.Alg{verify.ES256}, Feed: verify.NoFeed()}
	if _, err := verify.New(good); err != nil {
		t.Fatalf("a good configuration is refused: %v", err)
	}
	ask := &verify.Introspect{ClientID: "a", ClientSecret: "b"}
	fed := func(f verify.Feed) func(*verify.Config) { return func(c *verify.Config) { c.Feed = f } }
	for name, change := range map[string]func(*verify.Config){
		"Issuer: it is empty":         func(c *verify.Config) { c.Issuer = "" },
		"is not https":                func(c *verify.Config) { c.Issuer = "http://as.example" },
		"has a query":                 func(c *verify.Config) { c.Issuer = "https://as.example?x" },
		"without user and fragment":   func(c *verify.Config) { c.Issuer = "https://me@as.example" },
		"not an absolute URL":         func(c *verify.Config) { c.Issuer = "as.example" },
		"Audience is empty":           func(c *verify.Config) { c.Audience = "" },
		"no header can carry":         func(c *verify.Config) { c.Audience = "a\nb" },
		"Algs is empty":               func(c *verify.Config) { c.Algs = nil },
		`Algs has "none"`:             func(c *verify.Config) { c.Algs = []verify.Alg{"none"} },
		`Algs has "HS256"`:            func(c *verify.Config) { c.Algs = []verify.Alg{verify.ES256, "HS256"} },
		"ES256 twice":                 func(c *verify.Config) { c.Algs = []verify.Alg{verify.ES256, verify.ES256} },
		"Skew is 6m0s":                func(c *verify.Config) { c.Skew = 6 * time.Minute },
		"Skew is -1ns":                func(c *verify.Config) { c.Skew = -1 },
		"JWKS: ":                      func(c *verify.Config) { c.JWKS = "http://10.0.0.1/keys" },
		"to read it, ClientID":        fed(verify.Feed{}),
		"stale is not decided":        fed(verify.Feed{ClientID: "a", ClientSecret: "b"}),
		"above 0":                     fed(verify.Feed{ClientID: "a", ClientSecret: "b", Stale: verify.AcceptFor(-time.Second)}),
		"Silence of 1ms":              fed(verify.Feed{ClientID: "a", ClientSecret: "b", Stale: verify.Refuse(), Silence: time.Millisecond}),
		"MaxEntries is -1":            fed(verify.Feed{ClientID: "a", ClientSecret: "b", Stale: verify.Refuse(), MaxEntries: -1}),
		"Feed.URL: ":                  fed(verify.Feed{ClientID: "a", ClientSecret: "b", Stale: verify.Refuse(), URL: "http://as.example/x"}),
		"ResourceMetadata: ":          func(c *verify.Config) { c.ResourceMetadata = "http://api.example/x" },
		"Algs and Introspect":         func(c *verify.Config) { c.Introspect = ask },
		"set Feed to verify.NoFeed()": func(c *verify.Config) { c.Introspect, c.Algs, c.Feed = ask, nil, verify.Feed{} },
		"JWKS is not used":            func(c *verify.Config) { c.Introspect, c.Algs, c.JWKS = ask, nil, "https://as.example/keys" },
		"Introspect: ClientID":        func(c *verify.Config) { c.Introspect, c.Algs = &verify.Introspect{}, nil },
		"Introspect: TTL is 6m0s":     func(c *verify.Config) { a := *ask; a.TTL = 6 * time.Minute; c.Introspect, c.Algs = &a, nil },
		"Introspect: URL":             func(c *verify.Config) { a := *ask; a.URL = "http://as.example"; c.Introspect, c.Algs = &a, nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			change(&c)
			v, err := verify.New(c)
			if err == nil || v != nil || !strings.Contains(err.Error(), name) {
				t.Errorf("New: %v, %v; want an error with %q", v, err, name)
			}
		})
	}
}

func TestGoodTokenIsReadWhole(t *testing.T) {
	is := newIssuer(t)
	v := newVerifier(t, is.config())
	at := time.Now().Truncate(time.Second)
	got, err := v.Check(t.Context(), is.good(t, map[string]any{
		"aud": []string{"other", audience}, "jti": "j", "iat": at.Unix(), "exp": at.Unix() + 300, "auth_time": at.Unix() - 60,
		"https://example/roles": []string{"a", "b"}, "sub": "us\u00e9r \"1\"",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := verify.Token{
		Issuer: is.url, Subject: `usér "1"`, ClientID: "web", ID: "j", Scope: "notes.read notes.write", Family: "fam-1", Session: "sid-1", ACR: "pwd",
	}
	if got.Issuer != want.Issuer || got.Subject != want.Subject || got.ClientID != want.ClientID || got.ID != want.ID || got.Scope != want.Scope ||
		got.Family != want.Family || got.Session != want.Session || got.ACR != want.ACR || fmt.Sprint(got.Audience, got.AMR) != "[other "+audience+"] [pwd]" ||
		!got.Expires.Equal(at.Add(300*time.Second)) || !got.IssuedAt.Equal(at) || !got.AuthTime.Equal(at.Add(-time.Minute)) {
		t.Errorf("Check: got %+v", got)
	}
	if !got.HasScope("notes.read") || got.HasScope("notes") || got.HasScope("") {
		t.Error("HasScope is wrong")
	}
	var own struct {
		Roles []string `json:"https://example/roles"`
	}
	if err := got.Claims(&own); err != nil || fmt.Sprint(own.Roles) != "[a b]" {
		t.Errorf("Claims: %v, %v", own, err)
	}
}

func TestCallersCannotChangeEachOthersTokens(t *testing.T) {
	is := newIssuer(t)
	v := newVerifier(t, is.config())
	token := is.good(t, nil)
	for range 3 {
		got, err := v.Check(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		if got.Scope != "notes.read notes.write" || got.Audience[0] != audience || got.AMR[0] != "pwd" {
			t.Fatalf("an earlier caller's change is seen: %+v", got)
		}
		got.Scope, got.Audience[0], got.AMR[0] = "admin", "x", "x"
	}
}

// RFC 9068 §4, each row once.
func TestRFC9068_06_ClaimsThatAreRefused(t *testing.T) {
	is := newIssuer(t)
	v := newVerifier(t, is.config())
	now := time.Now().Unix()
	for name, change := range map[string]map[string]any{
		"another issuer":          {"iss": "https://as.example"},
		"issuer with a slash":     {"iss": is.url + "/"},
		"no issuer":               {"iss": nil},
		"another audience":        {"aud": "https://api.example/x"},
		"other audiences":         {"aud": []string{"a", "b"}},
		"no audience":             {"aud": nil},
		"empty audiences":         {"aud": []string{}},
		"audience of a number":    {"aud": 7},
		"audiences with a number": {"aud": []any{audience, 7}},
		"no sub":                  {"sub": nil},
		"empty sub":               {"sub": ""},
		"sub of a number":         {"sub": 7},
		"no client":               {"client_id": nil},
		"no jti":                  {"jti": nil},
		"no exp":                  {"exp": nil},
		"no iat":                  {"iat": nil},
		"exp is text":             {"exp": fmt.Sprint(now + 300)},
		"exp is negative":         {"exp": -1},
		"exp is endless":          {"exp": 1e300},
		"exp is after all time":   {"exp": int64(1) << 60},
		"expired":                 {"exp": now - 20},
		"issued tomorrow":         {"iat": now + 86400, "exp": now + 90000},
		"not yet":                 {"nbf": now + 60},
		"bound by DPoP":           {"cnf": map[string]any{"jkt": "x"}},
		"bound to a certificate":  {"cnf": map[string]any{"x5t#S256": "x"}},
		"scope is a list":         {"scope": []string{"a"}},
		"amr is text":             {"amr": "pwd"},
		"nested too deep":         {"x": nest(40)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := v.Check(t.Context(), is.good(t, change))
			if got != nil || !errors.Is(err, verify.ErrToken) || errors.Is(err, verify.ErrUnavailable) {
				t.Errorf("Check: %+v, %v; want ErrToken", got, err)
			}
		})
	}
	for name, change := range map[string]map[string]any{
		"skew of exp":   {"exp": now - 5},
		"skew of iat":   {"iat": now + 5},
		"skew of nbf":   {"nbf": now + 5},
		"fraction":      {"exp": float64(now) + 300.5, "iat": float64(now) - 0.5},
		"no extras":     {"scope": nil, "fam": nil, "sid": nil, "auth_time": nil, "acr": nil, "amr": nil},
		"anything else": {"x": map[string]any{"y": []any{1.5e3, true, nil, "\u2028\\\"", map[string]any{}}}, "z": []any{}},
		"many members":  many(100),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := v.Check(t.Context(), is.good(t, change)); err != nil {
				t.Errorf("Check: %v; want nil", err)
			}
		})
	}
}

func nest(n int) any {
	var v any = 1
	for range n {
		v = []any{v}
	}
	return v
}

func many(n int) map[string]any {
	m := map[string]any{}
	for i := range n {
		m[fmt.Sprintf("x%d", i)] = i
	}
	return m
}

// Expiry to the second: at exp plus skew it is over, a nanosecond before it is not.
func TestExpiryBoundary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		c := is.config()
		c.Skew = 10 * time.Second
		v := newVerifier(t, c)
		now := time.Now()
		token := is.good(t, map[string]any{"iat": now.Unix(), "exp": now.Unix() + 60})
		check := func(want bool) {
			t.Helper()
			if _, err := v.Check(context.Background(), token); (err == nil) != want {
				t.Errorf("after %v: %v; want accepted: %t", time.Since(now), err, want)
			}
		}
		check(true)
		time.Sleep(70*time.Second - time.Nanosecond)
		check(true)
		time.Sleep(time.Nanosecond)
		check(false)
		check(false)
	})
}

// 9068-06, SSF-12: six kinds of JWT under six types. One of 36 is an access token.
func TestRFC9068_06_ConfusionTable(t *testing.T) {
	is := newIssuer(t)
	v := newVerifier(t, is.config())
	is.mu.Lock()
	k := is.keys[0]
	is.mu.Unlock()
	now := time.Now().Unix()
	base := map[string]any{"iss": is.url, "aud": audience, "iat": now, "exp": now + 300, "jti": "j"}
	with := func(more map[string]any) map[string]any {
		c := maps.Clone(base)
		maps.Copy(c, more)
		return c
	}
	kinds := []struct {
		typ    string
		claims map[string]any
	}{
		{"at+jwt", is.claims(nil)},
		{"JWT", with(map[string]any{"sub": "usr_1", "nonce": "n", "at_hash": "h", "auth_time": now, "azp": "web"})},
		{"logout+jwt", with(map[string]any{"sub": "usr_1", "sid": "s", "events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}})},
		// Worst case: a security event of an issuer that writes all the claims of an access token.
		{"secevent+jwt", with(map[string]any{"sub": "usr_1", "client_id": "web", "events": map[string]any{"urn:x": map[string]any{}}})},
		{"token-introspection+jwt", with(map[string]any{"sub": "usr_1", "client_id": "web", "token_introspection": map[string]any{"active": true}})},
		{"dpop+jwt", map[string]any{"jti": "j", "htm": "GET", "htu": audience, "iat": now}},
	}
	accepted := 0
	for i, head := range kinds {
		for j, body := range kinds {
			token := k.sign(t, fmt.Sprintf(`{"alg":"ES256","kid":"k1","typ":%q}`, head.typ), toJSON(t, body.claims))
			_, err := v.Check(t.Context(), token)
			if err == nil {
				accepted++
			} else if !errors.Is(err, verify.ErrToken) {
				t.Errorf("%s in a %s: %v; want ErrToken", body.typ, head.typ, err)
			}
			if (err == nil) != (i == 0 && j == 0) {
				t.Errorf("%s in a %s: accepted is %t", body.typ, head.typ, err == nil)
			}
		}
	}
	if accepted != 1 {
		t.Errorf("%d of 36 are accepted", accepted)
	}
}

func TestHeadersThatAreRefused(t *testing.T) {
	is := newIssuer(t)
	v := newVerifier(t, is.config())
	is.mu.Lock()
	k := is.keys[0]
	is.mu.Unlock()
	claims := toJSON(t, is.claims(nil))
	if _, err := v.Check(t.Context(), k.sign(t, `{"typ":"application/AT+JWT","alg":"ES256","kid":"k1","x":[1]}`, claims)); err != nil {
		t.Errorf("the long form of the type: %v", err)
	}
	if _, err := v.Check(t.Context(), k.sign(t, `{"typ":"at+jwt","alg":"ES256"}`, claims)); err != nil {
		t.Errorf("no kid and no choice: %v", err)
	}
	for name, head := range map[string]string{
		"none":               `{"alg":"none","kid":"k1","typ":"at+jwt"}`,
		"no alg":             `{"kid":"k1","typ":"at+jwt"}`,
		"HMAC":               `{"alg":"HS256","kid":"k1","typ":"at+jwt"}`,
		"another alg":        `{"alg":"RS256","kid":"k1","typ":"at+jwt"}`,
		"alg in small":       `{"alg":"es256","kid":"k1","typ":"at+jwt"}`,
		"crit":               `{"alg":"ES256","kid":"k1","typ":"at+jwt","crit":["exp"],"exp":1}`,
		"empty crit":         `{"alg":"ES256","kid":"k1","typ":"at+jwt","crit":[]}`,
		"b64":                `{"alg":"ES256","kid":"k1","typ":"at+jwt","b64":true}`,
		"no type":            `{"alg":"ES256","kid":"k1"}`,
		"type twice":         `{"alg":"ES256","kid":"k1","typ":"at+jwt","typ":"at+jwt"}`,
		"type twice, hidden": `{"alg":"ES256","kid":"k1","typ":"at+jwt","t\u0079p":"JWT"}`,
		"kid of a number":    `{"alg":"ES256","kid":1,"typ":"at+jwt"}`,
		"more behind":        `{"alg":"ES256","kid":"k1","typ":"at+jwt"}{}`,
		"list":               `["ES256"]`,
		"broken":             `{"alg":"ES256","kid":"k1","typ":"at+jwt"`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := v.Check(t.Context(), k.sign(t, head, claims)); !errors.Is(err, verify.ErrToken) {
				t.Errorf("Check: %v; want ErrToken", err)
			}
		})
	}
	for name, payload := range map[string]string{
		"sub twice":          strings.TrimSuffix(claims, "}") + `,"sub":"root"}`,
		"sub twice, hidden":  strings.TrimSuffix(claims, "}") + `,"\u0073ub":"root"}`,
		"inner member twice": strings.TrimSuffix(claims, "}") + `,"x":{"y":1,"y":2}}`,
		"not UTF-8":          strings.TrimSuffix(claims, "}") + ",\"x\":\"\xff\"}",
		"a bare line break":  strings.TrimSuffix(claims, "}") + ",\"x\":\"\n\"}",
		"leading zero":       strings.TrimSuffix(claims, "}") + `,"x":01}`,
		"not a word":         strings.TrimSuffix(claims, "}") + `,"x":nil}`,
		"more behind":        claims + "{}",
		"list":               "[" + claims + "]",
		"nothing":            "{}",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := v.Check(t.Context(), k.sign(t, `{"alg":"ES256","kid":"k1","typ":"at+jwt"}`, payload)); !errors.Is(err, verify.ErrToken) {
				t.Errorf("Check: %v; want ErrToken", err)
			}
		})
	}
}

func TestBytesThatAreNoToken(t *testing.T) {
	is := newIssuer(t)
	v := newVerifier(t, is.config())
	good := is.good(t, nil)
	if _, err := v.Check(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	last := good[len(good)-1]
	// The last character of 64 bytes carries two bits; others of the same two bits decode alike.
	twin := string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", last)|1])
	for name, token := range map[string]string{
		"empty":              "",
		"dots":               "..",
		"two parts":          parts[0] + "." + parts[1],
		"four parts":         good + ".x",
		"no signature":       parts[0] + "." + parts[1] + ".",
		"refresh token":      "hrt_" + good,
		"code":               "hac_" + good,
		"padding":            good + "=",
		"line break":         parts[0] + "." + parts[1][:8] + "\n" + parts[1][8:] + "." + parts[2],
		"break in signature": good[:len(good)-4] + "\r\n" + good[len(good)-4:],
		"break at the end":   good + "\n",
		"second spelling":    good[:len(good)-1] + twin,
		"cut signature":      good[:len(good)-2],
		"huge":               parts[0] + "." + strings.Repeat("A", 16<<10) + "." + parts[2],
		"another's claims":   parts[0] + "." + b64([]byte(toJSON(t, is.claims(map[string]any{"sub": "root"})))) + "." + parts[2],
		"zero signature":     parts[0] + "." + parts[1] + "." + b64(make([]byte, 64)),
		"space":              " " + good,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := v.Check(t.Context(), token); !errors.Is(err, verify.ErrToken) {
				t.Errorf("Check: %v; want ErrToken", err)
			}
		})
	}
}

func TestEveryAlgorithmAndNoOther(t *testing.T) {
	is := newIssuer(t)
	algs := []verify.Alg{verify.ES256, verify.RS256, verify.PS256, verify.EdDSA}
	var keys []signer
	for _, a := range algs {
		keys = append(keys, newSigner(t, "key-"+string(a), a))
	}
	is.with(func() { is.keys = keys })
	for _, only := range algs {
		c := is.config()
		c.Algs = []verify.Alg{only}
		v := newVerifier(t, c)
		for _, k := range keys {
			_, err := v.Check(t.Context(), k.token(t, is.claims(nil)))
			if (err == nil) != (k.alg == only) {
				t.Errorf("%s where %s is accepted: %v", k.alg, only, err)
			}
		}
	}
	// Each key under the name of each algorithm: the key decides, not the header.
	c := is.config()
	c.Algs = algs
	v := newVerifier(t, c)
	for _, k := range keys {
		for _, a := range algs {
			token := k.sign(t, fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"at+jwt"}`, a, k.kid), toJSON(t, is.claims(map[string]any{"iat": time.Now().Unix() - 60})))
			if _, err := v.Check(t.Context(), token); (err == nil) != (k.alg == a) {
				t.Errorf("key of %s under %s: %v", k.alg, a, err)
			}
		}
	}
}
