package server_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/sqlitedb"
)

// outside is all of an answer that a caller can see, but for the clock.
func (r reply) outside() string {
	h := maps.Clone(map[string][]string(r.header))
	delete(h, "Date")
	var b strings.Builder
	fmt.Fprintln(&b, r.status)
	for _, name := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(&b, "%s: %q\n", name, h[name])
	}
	b.WriteString(r.raw)
	return b.String()
}

// refusedTokens makes a refresh token of the client for each way in which one can be
// refused. The families of the others stay as they are.
func (w *world) refusedTokens(clientID string) map[string]string {
	w.t.Helper()
	out := map[string]string{"garbage": "x", "another prefix": "at_" + strings.Repeat("A", 74), "empty payload": family.RefreshPrefix}

	w.updateClient(clientID, func(c *client.Client) { c.Policy = map[string]string{"absolute": "2d"} })
	old := w.newFamily(clientID)
	w.clock.Advance(49 * time.Hour)
	out["past the absolute end"] = old
	out["idle"] = w.newFamily(clientID)
	w.clock.Advance(25 * time.Hour)

	forged := []byte(w.newFamily(clientID))
	forged[len(forged)-3] ^= 1
	out["forged"] = string(forged)

	rt, _ := w.chain(clientID, 2)
	w.refresh(clientID, rt[0])
	out["replayed"], out["killed by a replay"] = rt[0], rt[2]

	revoked := w.newFamily(clientID)
	w.post("/oauth2/revoke", nil, append(w.as(clientID), "token", revoked)...)
	out["revoked"] = revoked
	out["another client's"] = w.newFamily("web2")

	f := newFlow(clientID)
	out["a code"] = w.browser().code(f)

	// The user of the following is bob.
	f = newFlow(clientID)
	b := w.browser()
	v := b.walk(f, bobName, bobPassword)
	bobs := w.exchange(f, v.Get("code")).must(w.t).tokens()
	bob := w.user(bobName)
	if err := w.store.PutUser(context.Background(), bob.Disable(w.clock.Now())); err != nil {
		w.t.Fatal(err)
	}
	out["a disabled user's"] = bobs.refresh
	return out
}

// TestRT_J01_AllRefusalsLookAlike is also J14 and DEC11.
func TestRT_J01_AllRefusalsLookAlike(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, clientID := range []string{"strict", "strictweb"} {
			tokens := w.refusedTokens(clientID)
			if len(tokens) < 10 {
				t.Fatalf("%d kinds of tokens", len(tokens))
			}
			want := w.refresh(clientID, "unknown").refused(t).outside()
			for name, token := range tokens {
				for range 2 {
					if got := w.refresh(clientID, token).refused(t).outside(); got != want {
						t.Errorf("%s: %s is answered with\n%s\nwant\n%s", clientID, name, got, want)
					}
				}
			}
			// Enable bob again for the next client.
			if err := w.store.PutUser(t.Context(), w.user(bobName).Enable()); err != nil {
				t.Fatal(err)
			}
			w.clock.Advance(time.Minute)
		}
		if err := w.store.DeleteUser(t.Context(), w.user(bobName).ID); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRT_J01_AllRefusedCodesLookAlike(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		expired := newFlow("strict")
		expiredCode := b.code(expired)
		w.clock.Advance(11 * time.Minute)
		used := newFlow("strict")
		usedCode := b.code(used)
		w.exchange(used, usedCode).must(t)
		wrong := newFlow("strict")
		wrongCode := b.code(wrong)
		foreign := newFlow("app2")
		foreignCode := b.code(foreign)
		foreign.clientID = "strict"
		elsewhere := newFlow("strict")
		elsewhereCode := b.code(elsewhere)
		elsewhere.redirect = "http://127.0.0.1/another"
		other := newFlow("strict")
		wrong.verifier = other.verifier
		want := w.exchange(used, "unknown").refused(t).outside()
		for name, got := range map[string]reply{
			"expired": w.exchange(expired, expiredCode), "used": w.exchange(used, usedCode), "used twice": w.exchange(used, usedCode),
			"wrong verifier": w.exchange(wrong, wrongCode), "another client's": w.exchange(foreign, foreignCode),
			"another redirect URI": w.exchange(elsewhere, elsewhereCode), "a refresh token": w.exchange(used, w.newFamily("strict")),
		} {
			if got.outside() != want {
				t.Errorf("%s is answered with\n%s\nwant\n%s", name, got.outside(), want)
			}
		}
	})
}

func TestRT_J01_AllInactiveTokensLookAlike(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		tokens := w.refusedTokens("strictweb")
		want := w.post("/oauth2/introspect", nil, append(w.as("strictweb"), "token", "unknown")...).must(t).outside()
		for name, token := range tokens {
			if got := w.post("/oauth2/introspect", nil, append(w.as("strictweb"), "token", token)...).must(t).outside(); got != want {
				t.Errorf("%s is answered with\n%s\nwant\n%s", name, got, want)
			}
		}
	})
}

// BenchmarkRT_J02_Timing measures how well refusals can be told apart by the clock.
// Each round sends one refresh token of each kind, interleaved; run it with
// -benchtime=10000x. It reports the mean of each kind and Welch's t of each against
// "revoked", of samples without the slowest twentieth. Forged tokens are answered
// without I/O and so are faster than all others: that tells only that a token was
// once issued, which who has one knows.
func BenchmarkRT_J02_Timing(b *testing.B) {
	for name, open := range engines {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, open, func(c *server.Config) { c.Log = nil })
			tokens := w.refusedTokens("strictweb")
			kinds := slices.Sorted(maps.Keys(tokens))
			samples := map[string][]float64{}
			h, n := w.ts.Config.Handler, 0
			for b.Loop() {
				for _, kind := range kinds {
					n++
					body := url.Values{"grant_type": {"refresh_token"}, "client_id": {"strictweb"}, "client_secret": {w.secret["strictweb"]}, "refresh_token": {tokens[kind]}}.Encode()
					r := httptest.NewRequest("POST", "/oauth2/token", strings.NewReader(body))
					r.Header.Set("Content-Type", formType)
					r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", n>>16&255, n>>8&255, n&255) // so that no limit is met
					rec := httptest.NewRecorder()
					start := time.Now()
					h.ServeHTTP(rec, r)
					samples[kind] = append(samples[kind], float64(time.Since(start)))
					if rec.Code != 400 {
						b.Fatalf("%s is answered with %d", kind, rec.Code)
					}
				}
			}
			mean := func(kind string) (m, variance, n float64) {
				s := slices.Sorted(slices.Values(samples[kind]))
				s = s[:len(s)-len(s)/20]
				for _, x := range s {
					m += x / float64(len(s))
				}
				for _, x := range s {
					variance += (x - m) * (x - m) / float64(max(len(s)-1, 1))
				}
				return m, variance, float64(len(s))
			}
			m0, v0, n0 := mean("revoked")
			for _, kind := range kinds {
				m, v, n := mean(kind)
				unit := strings.ReplaceAll(kind, " ", "-")
				b.ReportMetric(m, unit+"-ns")
				if se := math.Sqrt(v/n + v0/n0); se > 0 && kind != "revoked" {
					b.ReportMetric((m-m0)/se, unit+"-t")
				}
			}
		})
	}
}

func TestRT_J03_ClientFailureHidesTheToken(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("web").refresh
		w.untouched(rt, func() {
			send := func(secret, token string) string {
				return w.post("/oauth2/token", nil, "client_id", "web", "client_secret", secret, "grant_type", "refresh_token", "refresh_token", token).errs(t, 401, "invalid_client").outside()
			}
			want := send("wrong", "garbage")
			for _, token := range []string{rt, w.newFamily("web2"), w.newFamily("web"), strings.Repeat("A", 78)} {
				if got := send("wrong", token); got != want {
					t.Errorf("answers differ:\n%s\n%s", got, want)
				}
			}
		})
	})
}

func TestRT_J04_UnknownAndWrongClientsLookAlike(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("web2", func(c *client.Client) { c.Status = client.Disabled })
		for _, asBasic := range []bool{false, true} {
			send := func(id, secret string) string {
				if asBasic {
					h := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))}}
					return w.post("/oauth2/token", h, "grant_type", "refresh_token", "refresh_token", "x").errs(t, 401, "invalid_client").outside()
				}
				return w.post("/oauth2/token", nil, "client_id", id, "client_secret", secret, "grant_type", "refresh_token", "refresh_token", "x").errs(t, 401, "invalid_client").outside()
			}
			want := send("nobody", "wrong")
			for name, got := range map[string]string{
				"wrong secret": send("web", "wrong"), "disabled": send("web2", w.secret["web2"]), "disabled, wrong": send("web2", "wrong"),
				"a public client with a secret": send("strict", "any"), "no secret": send("web", ""),
			} {
				if got != want {
					t.Errorf("%s (Basic %v) is answered with\n%s\nwant\n%s", name, asBasic, got, want)
				}
			}
		}
	})
}

func TestRT_J05_ChallengeOnlyForHeaders(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		for _, path := range []string{"/oauth2/token", "/oauth2/revoke", "/oauth2/introspect"} {
			pairs := []string{"grant_type", "refresh_token", "refresh_token", "x", "token", "x"}
			h := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("web:wrong"))}}
			r := w.post(path, h, pairs...).errs(t, 401, "invalid_client")
			if got := r.header.Get("WWW-Authenticate"); got != `Basic realm="heirloom", charset="UTF-8"` {
				t.Errorf("%s: WWW-Authenticate is %q", path, got)
			}
			r = w.post(path, nil, append(pairs, "client_id", "web", "client_secret", "wrong")...).errs(t, 401, "invalid_client")
			if got := r.header.Get("WWW-Authenticate"); got != "" {
				t.Errorf("%s: WWW-Authenticate is %q for a secret in the body", path, got)
			}
		}
	})
}

// errorGolden is every error of the token endpoint, as it is on the wire.
var errorGolden = map[string]string{
	"invalid_request":        `{"error":"invalid_request","error_description":"grant_type is missing"}`,
	"invalid_client":         `{"error":"invalid_client","error_description":"the client is unknown, disabled or did not authenticate"}`,
	"invalid_grant":          `{"error":"invalid_grant","error_description":"the grant is unknown, expired, revoked or not for this client"}`,
	"unauthorized_client":    `{"error":"unauthorized_client","error_description":"the client is not registered for this grant_type"}`,
	"unsupported_grant_type": `{"error":"unsupported_grant_type","error_description":"this grant_type is not supported; see the server's metadata"}`,
	"invalid_scope":          `{"error":"invalid_scope","error_description":"the scope is malformed or more than was granted; the refresh token is unspent"}`,
	"invalid_target":         `{"error":"invalid_target","error_description":"the resource is malformed or not among those granted; the refresh token is unspent"}`,
	"unavailable":            `{"error":"temporarily_unavailable","error_description":"the server can not answer now; send the same request again"}`,
	"panic":                  `{"error":"server_error","error_description":"the server failed; the request may be sent again"}`,
	"too large":              `{"error":"invalid_request","error_description":"the body is larger than 64 KiB"}`,
	"method":                 `{"error":"invalid_request","error_description":"this method is not allowed here; see the Allow header"}`,
}

// TestRFC6749_17_EveryErrorIsAsWritten is also MATRIX J06.
func TestRFC6749_17_EveryErrorIsAsWritten(t *testing.T) {
	onFaulty(t, func(t *testing.T, w *world, cut *faulty) {
		rt := w.newFamily("strict")
		got := map[string]reply{
			"invalid_request":        w.post("/oauth2/token", nil, "client_id", "strict"),
			"invalid_client":         w.refresh("nobody", rt),
			"invalid_grant":          w.refresh("strict", "x"),
			"unauthorized_client":    w.refresh("norefresh", rt),
			"unsupported_grant_type": w.post("/oauth2/token", nil, "client_id", "strict", "grant_type", "password"),
			"invalid_scope":          w.refresh("strict", rt, "scope", "admin"),
			"invalid_target":         w.refresh("strict", rt, "resource", "https://x.example.com"),
			"too large":              w.refresh("strict", strings.Repeat("A", 70_000)),
			"method":                 w.sendRaw("GET", "/oauth2/token", "", "", nil),
		}
		cut.set(func(string) broken { return broken{err: errCut} })
		got["unavailable"] = w.refresh("strict", rt)
		cut.set(func(string) broken { return broken{panics: true} })
		got["panic"] = w.refresh("strict", rt)
		cut.set(nil)
		status := map[string]int{"invalid_client": 401, "unavailable": 503, "panic": 500, "too large": 413, "method": 405}
		for name, want := range errorGolden {
			r, code := got[name], 400
			if s := status[name]; s != 0 {
				code = s
			}
			r.errorShape(t)
			if r.status != code || r.raw != want {
				t.Errorf("%s is %d %s, want %d %s", name, r.status, r.raw, code, want)
			}
		}
		if len(got) != len(errorGolden) {
			t.Errorf("%d errors were made, want %d", len(got), len(errorGolden))
		}
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_J06_ErrorsRepeatNothing(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	const mark = "Zx9marker\"\\\r\n<b>"
	names := []string{"grant_type", "client_id", "client_secret", "refresh_token", "code", "code_verifier", "redirect_uri", "scope", "resource", "token", "token_type_hint", mark}
	n := 0
	for _, path := range []string{"/oauth2/token", "/oauth2/revoke", "/oauth2/introspect", "/oauth2/userinfo"} {
		for _, grant := range []string{"refresh_token", "authorization_code", "client_credentials", "x"} {
			for _, name := range names {
				v := map[string]string{"grant_type": grant, "client_id": "strict", "refresh_token": "x", "code": "x", "code_verifier": strings.Repeat("v", 43), "token": "x", "access_token": "x"}
				v[name] = mark
				var pairs []string
				for k, val := range v {
					pairs = append(pairs, k, val)
				}
				r := w.post(path, http.Header{"Idempotency-Key": {"Zx9marker"}, "User-Agent": {"Zx9marker"}}, pairs...)
				if r.status == 200 && path == "/oauth2/revoke" {
					continue
				}
				n++
				r.errorShape(t)
				if strings.Contains(r.outside(), "Zx9marker") {
					t.Errorf("%s %s: the answer repeats what was sent: %s", path, name, r.outside())
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("%d errors were looked at", n)
	}
}

// canaries are texts that must be nowhere, by what they are.
type canaries map[string]string

// forms lists how a secret could be written: as it is, encoded, and for our own tokens
// also the part that makes them valid.
func forms(secret string) [][]byte {
	raw := [][]byte{[]byte(secret)}
	body := secret
	if i := strings.IndexByte(secret, '_'); i >= 0 && i < 5 {
		body = secret[i+1:]
	}
	if i := strings.LastIndexByte(secret, '.'); i >= 0 {
		body = secret[i+1:] // a JWT's signature, a cookie's tag
	}
	if b, err := base64.RawURLEncoding.DecodeString(body); err == nil && len(b) >= 16 {
		raw = append(raw, b, b[len(b)-16:])
	}
	var out [][]byte
	for _, r := range raw {
		out = append(out, r, []byte(hex.EncodeToString(r)), []byte(strings.ToUpper(hex.EncodeToString(r))), []byte(url.QueryEscape(string(r))))
		for _, enc := range []*base64.Encoding{base64.RawURLEncoding, base64.RawStdEncoding} {
			out = append(out, []byte(enc.EncodeToString(r)))
		}
		quoted, _ := json.Marshal(string(r))
		out = append(out, bytes.Trim(quoted, `"`))
	}
	return out
}

// found names the canaries that are in a text, in any form.
func (c canaries) found(text []byte) []string {
	var names []string
	for name, secret := range c {
		if slices.ContainsFunc(forms(secret), func(f []byte) bool { return bytes.Contains(text, f) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestRT_J07_NoSecretIsEverWritten(t *testing.T) {
	dir := t.TempDir()
	cut := &faulty{}
	var failures bytes.Buffer // everything that was answered with 400 or more
	w := newWorld(t, func(t testing.TB, issuer string, now func() time.Time) (engine, *keys.Ring) {
		var ring *keys.Ring
		db, err := sqlitedb.Open(context.Background(), sqlitedb.Config{Path: filepath.Join(dir, "heirloom.db"), Now: now,
			Keys: func(ctx context.Context, st keys.Store) (_ *keys.Ring, err error) {
				ring, err = openRing(ctx, st, issuer)
				return ring, err
			}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db, ring
	}, func(c *server.Config) { cut.Store = c.Store; c.Store = cut })

	secrets := canaries{"key encryption key": "hkek_" + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)),
		"alice's password": alicePassword, "bob's password": bobPassword, "panic value": "hrt_canary-in-a-panic"}
	for id, s := range w.secret {
		secrets["secret of "+id] = s
	}
	keep := func(what, text string) string {
		t.Helper()
		if len(text) < 8 {
			t.Fatalf("%s is %q", what, text)
		}
		secrets[fmt.Sprintf("%s %d", what, len(secrets))] = text
		return text
	}
	saw := func(r reply) reply {
		if r.status >= 400 {
			failures.WriteString(r.outside())
		}
		for _, name := range []string{"access_token", "refresh_token", "id_token"} {
			if s := r.str(name); s != "" {
				keep(name, s)
			}
		}
		return r
	}
	b := w.browser()
	shown := func(p shownPage) shownPage {
		if p.status >= 400 {
			failures.WriteString(p.body)
			_ = p.header.Write(&failures)
		}
		return p
	}
	api := func(method, path, body string, h http.Header) reply {
		return saw(w.sendRaw(method, path, formType, body, h))
	}

	// Sign-ins: wrong, as nobody, with the password for a name, right.
	wrong := keep("wrong password", "a password that is wrong")
	for _, name := range []string{aliceName, "nobody", alicePassword} {
		p := b.post("/login", url.Values{"username": {name}, "password": {wrong}, "continue": {"/account"}})
		if name != alicePassword { // what was typed as a name stands in its field again
			shown(p)
		}
	}
	var last tokens
	for i, id := range []string{"strict", "leeway", "app", "web", "spa", "third", "norotate"} {
		f := newFlow(id)
		if id == "third" {
			f = newFlow(id, "response_mode", "query", "claims", `{"id_token":{"email":null}}`)
		}
		keep("verifier", f.verifier)
		code := keep("code", b.code(f))
		key := keep("idempotency key", fmt.Sprintf("retry-key-number-%d", i))
		saw(w.exchange(f, code, "scope", "\""))
		got := saw(w.post("/oauth2/token", http.Header{"Idempotency-Key": {key}}, append(w.as(id), "grant_type", "authorization_code", "code", code, "redirect_uri", f.redirect, "code_verifier", f.verifier)...)).must(t).tokens()
		one := saw(w.refreshKey(id, got.refresh, key)).must(t).tokens()
		saw(w.refreshKey(id, got.refresh, key)).must(t)
		two := saw(w.refresh(id, one.refresh)).must(t).tokens()
		last = two
		for _, token := range []string{got.refresh, two.refresh, two.access, two.id, code} {
			for _, path := range []string{"/oauth2/introspect", "/oauth2/revoke", "/oauth2/userinfo", "/oauth2/token"} {
				// Where they do not belong: in other parameters, headers and the URL.
				if path != "/oauth2/revoke" {
					saw(w.post(path, nil, append(w.as("web"), "token", token)...))
				}
				api("POST", path, "grant_type="+token+"&client_id="+token+"&scope="+token+"&resource="+token+"&code_verifier="+token, http.Header{"User-Agent": {token}, "Idempotency-Key": {token}, "X-Request-Id": {token}})
				api("POST", path+"?access_token="+token+"&refresh_token="+token, "", nil)
				api("GET", path+"/"+token, "", nil)
				api("POST", path, "grant_type=refresh_token&client_id="+id+"&refresh_token="+token, http.Header{"Authorization": {"Bearer " + token}})
				api("POST", path, `{"refresh_token":"`+token+`"}`, http.Header{"Content-Type": {"application/json"}})
			}
			shown(b.get("/oauth2/authorize?client_id=" + token + "&redirect_uri=" + token + "&state=" + token))
			shown(b.get("/login?continue=/" + token))
			shown(b.get("/oauth2/end_session?id_token_hint=" + token + "&post_logout_redirect_uri=https://x.example.com/" + token))
			shown(b.post("/account/sessions", url.Values{"end": {token}}))
			shown(b.post("/consent", url.Values{"decision": {token}, "continue": {"/oauth2/authorize?client_id=" + token}}))
		}
		saw(w.exchange(f, code)) // a replay of the code
	}
	f := newFlow("strict", "response_mode", "form_post")
	p := b.get(f.url())
	code := keep("form_post code", p.fields().Get("code"))
	saw(w.exchange(f, code)).must(t)
	if p := shown(b.get("/account")); p.status != 200 {
		t.Fatal("the account page is not shown")
	}
	u, _ := url.Parse(w.issuer)
	for _, c := range b.http.Jar.Cookies(u) {
		keep("cookie "+c.Name, c.Value)
	}

	// Failures of ours, with everything a request can carry.
	fresh := keep("refresh token under failure", w.newFamily("web"))
	for _, how := range []broken{{err: errCut}, {err: errCut, persist: true}, {panics: true}} {
		for _, op := range []string{"Client", "Load", "Commit", "Now", "Session", "User", "UserByName", "Record", "Denied", "Deny", "PutSession", "Create", "PutUser"} {
			cut.set(func(got string) broken {
				if got == op {
					return how
				}
				return broken{}
			})
			saw(w.refresh("web", fresh))
			saw(w.post("/oauth2/token", nil, "client_id", fresh, "client_secret", w.secret["web"], "grant_type", "refresh_token", "refresh_token", fresh))
			api("POST", "/oauth2/token", "grant_type=client_credentials", http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("web:"+w.secret["web"]))}})
			saw(w.post("/oauth2/introspect", nil, append(w.as("web"), "token", last.access)...))
			saw(w.post("/oauth2/revoke", nil, append(w.as("norotate"), "token", last.access)...))
			api("GET", "/oauth2/userinfo", "", http.Header{"Authorization": {"Bearer " + last.access}})
			shown(b.get(newFlow("strict").url()))
			shown(b.get("/oauth2/authorize?client_id=" + fresh))
			shown(b.post("/login", url.Values{"username": {bobName}, "password": {bobPassword}, "continue": {"/account"}}))
			b.post("/login", url.Values{"username": {alicePassword}, "password": {alicePassword}, "continue": {"/account"}})
		}
	}
	cut.set(nil)

	// A new password, and the end.
	b = w.browser()
	b.code(newFlow("strict"))
	fine := keep("new password", "another long password of alice")
	shown(b.post("/account/password", url.Values{"current_password": {wrong}, "new_password": {fine}, "keep": {"1"}}))
	if p := shown(b.post("/account/password", url.Values{"current_password": {alicePassword}, "new_password": {fine}, "keep": {"1"}})); p.status != 303 {
		t.Fatalf("the change of the password is answered with %d %s", p.status, p.body)
	}
	shown(b.post("/oauth2/end_session", url.Values{"decision": {"sign_out"}}))

	rec := httptest.NewRecorder()
	promhttp.HandlerFor(w.reg, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	surfaces := map[string][]byte{"log": []byte(w.logs.String()), "metrics": rec.Body.Bytes(), "answers": failures.Bytes()}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		surfaces[f.Name()] = b
	}
	if len(secrets) < 60 || len(surfaces["heirloom.db"])+len(surfaces["heirloom.db-wal"]) < 100_000 || len(surfaces["log"]) < 100_000 || len(surfaces["metrics"]) < 1000 || failures.Len() < 100_000 {
		t.Fatalf("%d secrets, %d bytes of log, %d of metrics, %d of answers, files %v: too little was driven", len(secrets), len(surfaces["log"]), len(surfaces["metrics"]), failures.Len(), files)
	}
	for name, text := range surfaces {
		if hits := secrets.found(text); len(hits) > 0 {
			t.Errorf("%s has %v", name, hits)
		}
	}
	// What is personal is sealed in the files.
	for name, text := range surfaces {
		if !strings.HasPrefix(name, "heirloom.db") {
			continue
		}
		for _, personal := range []string{"Alice Liddell", "alice@example.com", "+441632960000", "Firefox/140.0"} {
			if bytes.Contains(text, []byte(personal)) {
				t.Errorf("%s has %q in clear", name, personal)
			}
		}
	}
	// The search itself can find: each secret, in each form, on each surface.
	for name, secret := range secrets {
		for _, form := range forms(secret) {
			if hits := (canaries{name: secret}).found(slices.Concat(surfaces["metrics"][:100], form, surfaces["metrics"][100:200])); len(hits) != 1 {
				t.Fatalf("a planted %s is not found as %q", name, form)
			}
		}
	}
}

// TestRT_J08_NothingInTheDatabaseIsAToken is also B22.
func TestRT_J08_NothingInTheDatabaseIsAToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heirloom.db")
	w := newWorld(t, func(t testing.TB, issuer string, now func() time.Time) (engine, *keys.Ring) {
		var ring *keys.Ring
		db, err := sqlitedb.Open(context.Background(), sqlitedb.Config{Path: path, Now: now,
			Keys: func(ctx context.Context, st keys.Store) (_ *keys.Ring, err error) {
				ring, err = openRing(ctx, st, issuer)
				return ring, err
			}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db, ring
	}, nil)
	rt, _ := w.chain("strict", 2)
	dump, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer dump.Close()
	names, err := dump.Query(`select name from sqlite_master where type = 'table'`)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for names.Next() {
		var n string
		if err := names.Scan(&n); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, n)
	}
	values := 0
	w.untouched(rt[2], func() {
		for _, table := range tables {
			rows, err := dump.Query(`select * from "` + table + `"`)
			if err != nil {
				t.Fatal(err)
			}
			cols, err := rows.Columns()
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				vals := make([]any, len(cols))
				ptrs := make([]any, len(cols))
				for i := range vals {
					ptrs[i] = &vals[i]
				}
				if err := rows.Scan(ptrs...); err != nil {
					t.Fatal(err)
				}
				for i, v := range vals {
					var b []byte
					switch v := v.(type) {
					case []byte:
						b = v
					case string:
						b = []byte(v)
					default:
						continue
					}
					if len(b) == 0 || len(b) > 4096 {
						continue
					}
					values++
					for _, text := range []string{string(b), family.RefreshPrefix + string(b), base64.RawURLEncoding.EncodeToString(b), family.RefreshPrefix + base64.RawURLEncoding.EncodeToString(b), hex.EncodeToString(b)} {
						r := w.post("/oauth2/token", nil, "client_id", "strict", "grant_type", "refresh_token", "refresh_token", text)
						if r.status != 400 {
							t.Fatalf("%s.%s presented as a refresh token is answered with %d %s", table, cols[i], r.status, r.raw)
						}
					}
				}
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
		}
	})
	if values < 50 {
		t.Errorf("%d values were tried", values)
	}
	w.refresh("strict", rt[2]).must(t)
}

func TestRT_J12_EveryOutcomeIsOnRecord(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt, _ := w.chain("strict", 1)
		revoked := w.signIn("strict")
		w.post("/oauth2/revoke", nil, "client_id", "strict", "token", revoked.refresh)
		w.refresh("web", rt[1]).refused(t) // another client's
		w.refresh("strict", rt[0]).refused(t)
		w.refresh("strict", rt[1]).refused(t)
		want := map[string][]family.EventKind{
			rt[0]:           {family.FamilyIssued, family.FamilyAlarm, family.FamilyRevoked},
			revoked.refresh: {family.FamilyIssued, family.FamilyRevoked},
		}
		for token, kinds := range want {
			var got []family.EventKind
			for _, e := range w.events(token) {
				got = append(got, e.Kind)
				if e.At == 0 || e.Client != "strict" || e.User == "" || e.Family != w.family(token).ID || e.Reason == 0 || !e.Origin.IP.IsValid() || e.Request == "" || e.Level == 0 {
					t.Errorf("event %+v is not complete", e)
				}
				if s := fmt.Sprintf("%+v", e); strings.Contains(s, "hrt_") || strings.Contains(s, token[4:40]) {
					t.Errorf("an event has a token: %s", s)
				}
			}
			slices.Reverse(got)
			if !slices.Equal(got, kinds) {
				t.Errorf("events are %v, want %v", got, kinds)
			}
		}
		// The request log has one line for each, with the reason that the caller is not told.
		seen := map[string]bool{}
		for line := range strings.SplitSeq(strings.TrimSpace(w.logs.String()), "\n") {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			if m["endpoint"] != "token" {
				continue
			}
			for _, name := range []string{"time", "level", "status", "reason", "client", "grant_type", "family", "generation", "ip", "request", "took_ms"} {
				if m[name] == nil {
					t.Errorf("a line has no %s: %s", name, line)
				}
			}
			seen[fmt.Sprint(m["reason"], " ", m["level"])] = true
		}
		for _, s := range []string{"rotated INFO", "reuse ALERT", "foreign_client ALERT"} {
			if !seen[s] {
				t.Errorf("no line says %q: %v", s, slices.Sorted(maps.Keys(seen)))
			}
		}
	})
}
