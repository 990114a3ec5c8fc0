package server_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/memdb"
	"github.com/heirloom-auth/heirloom/server"
)

const formType = "application/x-www-form-urlencoded"

// sendRaw sends a body as it is. An empty content type sends none.
func (w *world) sendRaw(method, path, contentType, body string, header http.Header) reply {
	w.t.Helper()
	req, err := http.NewRequest(method, w.issuer+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for k, vs := range header {
		req.Header[k] = vs
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return w.do(req)
}

// untouched runs f and fails the test if the family of the token is another one
// afterwards, or has another event.
func (w *world) untouched(token string, f func()) {
	w.t.Helper()
	before, events := w.family(token), len(w.events(token))
	f()
	if after := w.family(token); after != before {
		w.t.Errorf("the family moved from %+v to %+v", before, after)
	}
	if n := len(w.events(token)); n != events {
		w.t.Errorf("the family has %d events, had %d", n, events)
	}
}

func refreshBody(clientID, token string) string {
	return "grant_type=refresh_token&client_id=" + clientID + "&refresh_token=" + token
}

var cleanDescription = regexp.MustCompile(`^[\x20-\x21\x23-\x5B\x5D-\x7E]*$`)

// errorShape fails the test unless the answer is a JSON error as RFC 6749 §5.2 has it.
func (r reply) errorShape(t testing.TB) {
	t.Helper()
	if r.status < 400 || r.header.Get("Content-Type") != "application/json" || r.str("error") == "" {
		t.Errorf("answer is %d %s %q, want a JSON error", r.status, r.header.Get("Content-Type"), r.raw)
	}
	if !cleanDescription.MatchString(r.str("error_description")) {
		t.Errorf("error_description %q has a character outside RFC 6749 §5.2", r.str("error_description"))
	}
	if r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("Cache-Control is %q, want no-store", r.header.Get("Cache-Control"))
	}
}

func TestRT_H01_EveryPrefixIsRefused(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		w.untouched(rt, func() {
			w.refresh("strict", "").errs(t, 400, "invalid_request")
			for n := 1; n < len(rt); n++ {
				w.refresh("strict", rt[:n]).refused(t)
			}
		})
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_H02_RFC6749_22_EveryChangedCharacterIsRefused(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		rt := w.signIn("strict").refresh
		w.untouched(rt, func() {
			for i := range len(rt) {
				for _, c := range []byte{rt[i] ^ 1, alphabet[(strings.IndexByte(alphabet, rt[i])+1)%64]} {
					w.refresh("strict", rt[:i]+string(rune(c))+rt[i+1:]).refused(t)
				}
			}
			// The last character has spare bits: its aliases decode to the same bytes.
			raw, err := base64.RawURLEncoding.DecodeString(rt[4:])
			if err != nil {
				t.Fatal(err)
			}
			aliases := 0
			for _, c := range []byte(alphabet) {
				alias := rt[:len(rt)-1] + string(rune(c))
				if got, err := base64.RawURLEncoding.DecodeString(alias[4:]); err == nil && bytes.Equal(got, raw) && alias != rt {
					aliases++
					w.refresh("strict", alias).refused(t)
				}
			}
			if aliases == 0 && len(rt[4:])%4 != 0 {
				t.Error("no alias was tried")
			}
		})
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_H03_NothingIsTrimmed(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		w.untouched(rt, func() {
			for _, more := range []string{"+", "%20", "%0A", "%0D%0A", "%09", "%3D", "%3D%3D", "%20" + rt, "%2C" + rt, rt, "%2F", "."} {
				w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", rt+more), nil).refused(t)
				w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", more+rt), nil).refused(t)
			}
			w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", rt+"%00"), nil).errs(t, 400, "invalid_request")
		})
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_H04_HugeTokensCostNothing(t *testing.T) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			var spy *faulty
			w := newWorld(t, open, func(c *server.Config) { spy = &faulty{Store: c.Store}; c.Store = spy })
			w.signIn("strict")
			spy.reset()
			w.refresh("strict", family.RefreshPrefix+strings.Repeat("A", 8<<10)).refused(t)
			if n := spy.count("Load"); n != 0 {
				t.Errorf("%d families were loaded", n)
			}
			spy.reset()
			w.refresh("strict", strings.Repeat("A", 1<<20)).errs(t, 413, "invalid_request")
			// 100 MB that are not announced: the server stops reading at its bound.
			sent := &counted{r: io.MultiReader(strings.NewReader(refreshBody("strict", "")), io.LimitReader(filler{}, 100<<20))}
			req, err := http.NewRequest("POST", w.issuer+"/oauth2/token", sent)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", formType)
			res, err := http.DefaultTransport.RoundTrip(req)
			if err == nil { // else the server hung up while we were writing
				res.Body.Close()
				if res.StatusCode != 413 {
					t.Errorf("100 MB are answered with %d", res.StatusCode)
				}
			}
			if n := sent.n.Load(); n > 16<<20 {
				t.Errorf("the server took %d bytes", n)
			}
			if n := spy.total(); n != 0 {
				t.Errorf("the store was asked %d times", n)
			}
		})
	}
}

// filler reads as the letter A for ever.
type filler struct{}

func (filler) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'A'
	}
	return len(p), nil
}

// counted counts what is read of it.
type counted struct {
	r io.Reader
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func TestRT_H05_StrangeTextIsRefusedAndNotRepeated(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		w.untouched(rt, func() {
			for _, bad := range []string{"%FF", "%C0%AF", "%ED%A0%80", "%00", "%F5%80%80%80", "%", "%G1", "%1"} {
				r := w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", rt+bad), nil).errs(t, 400, "invalid_request")
				r.errorShape(t)
				w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", rt)+"&"+bad+"=1", nil).errs(t, 400, "invalid_request")
			}
			for _, odd := range []string{"\u202e", "\u200b", "hrt\uff3f", "\u0430", "\ufeff", "\"\\\r\n", "<script>", "\x1b[31m"} {
				r := w.refresh("strict", odd+rt).refused(t)
				r.errorShape(t)
				for _, where := range []string{"client_id", "grant_type", "scope", "resource", "code"} {
					pairs := map[string]string{"client_id": "strict", "grant_type": "refresh_token", "refresh_token": rt + "x", where: odd}
					var list []string
					for k, v := range pairs {
						list = append(list, k, v)
					}
					r := w.post("/oauth2/token", nil, list...)
					r.errorShape(t)
					if strings.Contains(r.raw, odd) {
						t.Errorf("%s: the answer repeats %q: %s", where, odd, r.raw)
					}
				}
			}
		})
		lines := strings.Split(strings.TrimSpace(w.logs.String()), "\n")
		for _, line := range lines {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("log line is not one JSON object: %q", line)
			}
			if strings.ContainsAny(line, "\x1b\x00\r") || strings.Contains(line, "script>") {
				t.Errorf("log line is not escaped: %q", line)
			}
		}
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_H06_NoTokenPassesForAnother(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("strict")
		tok := w.exchange(f, b.code(f)).must(t).tokens()
		unused := newFlow("strict")
		code := b.code(unused)
		w.untouched(tok.refresh, func() {
			w.untouched(code, func() {
				for _, wrong := range []string{tok.access, tok.id, code, f.verifier, family.RefreshPrefix + code[4:]} {
					w.refresh("strict", wrong).refused(t)
				}
				for _, wrong := range []string{tok.access, tok.id, tok.refresh, family.CodePrefix + tok.refresh[4:]} {
					w.exchange(unused, wrong).refused(t)
				}
				for _, wrong := range []string{tok.refresh, tok.id, code} {
					req, _ := http.NewRequest("GET", w.issuer+"/oauth2/userinfo", nil)
					req.Header.Set("Authorization", "Bearer "+wrong)
					if r := w.do(req); r.status != 401 {
						t.Errorf("userinfo answers %d to a token that is no access token", r.status)
					}
					if r := w.post("/oauth2/introspect", nil, append(w.as("web"), "token", wrong)...).must(t); r.raw != `{"active":false}` {
						t.Errorf("introspection as a resource server says %s", r.raw)
					}
				}
				for _, wrong := range []string{tok.refresh, tok.access, code} {
					g := newFlow("strict", "prompt", "none", "id_token_hint", wrong)
					if p := b.get(g.url()); !strings.Contains(p.location, "error=invalid_request") {
						t.Errorf("id_token_hint is answered with %d %s", p.status, p.location)
					}
				}
				w.post("/oauth2/token", nil, "client_id", "strict", "grant_type", "refresh_token", "refresh_token", tok.refresh,
					"client_assertion", tok.refresh, "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer").errs(t, 401, "invalid_client")
				w.post("/oauth2/token", nil, "client_id", "strict", "grant_type", "urn:ietf:params:oauth:grant-type:token-exchange",
					"subject_token", tok.refresh, "subject_token_type", "urn:ietf:params:oauth:token-type:refresh_token").errs(t, 400, "unsupported_grant_type")
			})
		})
		w.refresh("strict", tok.refresh).must(t)
		w.exchange(unused, code).must(t)
	})
}

func TestRT_H07_RFC6749_09_RepeatedParametersAreRefused(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		body := refreshBody("strict", rt)
		w.untouched(rt, func() {
			for _, more := range []string{
				"refresh_token=" + rt, "refresh_token=x", "refresh_token=", "grant_type=refresh_token", "grant_type=x",
				"client_id=strict", "client_id=app", "scope=read&scope=read", "scope=read&scope=write", "x=1&x=1", "x=&x=",
			} {
				w.sendRaw("POST", "/oauth2/token", formType, body+"&"+more, nil).errs(t, 400, "invalid_request")
				w.sendRaw("POST", "/oauth2/token", formType, more+"&"+body, nil).errs(t, 400, "invalid_request")
			}
		})
		r := w.refresh("strict", rt, "resource", apiURL, "resource", otherURL)
		// Neither was asked for at the authorization: only the client's own audience is granted.
		r.errs(t, 400, "invalid_target")
		w.refresh("strict", rt, "resource", apiURL, "resource", apiURL).must(t)
	})
}

func TestRT_H08_RFC6749_03_NothingIsReadFromTheURL(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		secret := w.secret["web"]
		w.untouched(rt, func() {
			for _, path := range []string{"/oauth2/token", "/oauth2/revoke", "/oauth2/introspect"} {
				w.sendRaw("POST", path+"?token="+rt+"&"+refreshBody("strict", rt), formType, "", nil).errs(t, 400, "invalid_request")
				w.sendRaw("POST", path+"?token="+rt+"&refresh_token="+rt, formType, "grant_type=refresh_token&client_id=strict", nil).errs(t, 400, "invalid_request")
				w.sendRaw("POST", path+"?client_id=web&client_secret="+secret, formType, "grant_type=client_credentials", nil).errs(t, 400, "invalid_request")
			}
		})
		for _, s := range []string{rt, secret} {
			if strings.Contains(w.logs.String(), s) {
				t.Error("a secret from the URL is in the log")
			}
		}
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_H09_OnlyForms(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		body := refreshBody("strict", rt)
		asJSON := `{"grant_type":"refresh_token","client_id":"strict","refresh_token":"` + rt + `"}`
		w.untouched(rt, func() {
			for typ, b := range map[string]string{
				"application/json": asJSON, "text/plain": body, "": body, "multipart/form-data; boundary=x": "--x\r\nContent-Disposition: form-data; name=\"refresh_token\"\r\n\r\n" + rt + "\r\n--x--\r\n",
				formType + ";charset=utf-16": body, formType + "; charset=\"": body, "application/x-www-form-urlencoded-x": body, "application/x-www-form-urlencoded, text/plain": body,
			} {
				r := w.sendRaw("POST", "/oauth2/token", typ, b, nil)
				r.errs(t, 415, "invalid_request").errorShape(t)
			}
			w.sendRaw("POST", "/oauth2/token", "", body, http.Header{"Content-Type": {formType, formType}}).errs(t, 415, "invalid_request")
		})
		for _, typ := range []string{formType + ";charset=UTF-8", "Application/X-WWW-Form-Urlencoded", formType + "; charset=utf-8"} {
			rt = w.sendRaw("POST", "/oauth2/token", typ, refreshBody("strict", rt), nil).must(t).str("refresh_token")
		}
	})
}

func TestRT_H10_RFC6749_08_OnlyPOST(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		w.untouched(rt, func() {
			for _, path := range []string{"/oauth2/token", "/oauth2/revoke", "/oauth2/introspect"} {
				for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH"} {
					r := w.sendRaw(method, path, formType, refreshBody("strict", rt)+"&token="+rt, nil)
					if r.status != 405 || r.header.Get("Allow") != "POST, OPTIONS" {
						t.Errorf("%s %s is answered with %d, Allow %q", method, path, r.status, r.header.Get("Allow"))
					}
				}
				if r := w.sendRaw("OPTIONS", path, "", "", nil); r.status != 204 || r.header.Get("Allow") != "POST, OPTIONS" {
					t.Errorf("OPTIONS %s is answered with %d, Allow %q", path, r.status, r.header.Get("Allow"))
				}
			}
		})
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_H11_LargeRequestsAreRefused(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	rt := w.signIn("strict").refresh
	w.untouched(rt, func() {
		var many strings.Builder
		for i := range 10_000 {
			fmt.Fprintf(&many, "&p%d=", i)
		}
		w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", rt)+many.String(), nil).errs(t, 413, "invalid_request")
		w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", rt)+many.String()[:1000], nil).errs(t, 400, "invalid_request")
		w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", rt)+"&x="+strings.Repeat("A", 1<<20), nil).errs(t, 413, "invalid_request")
		if r := w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", rt), http.Header{"X-Huge": {strings.Repeat("A", 2<<20)}}); r.status != 431 {
			t.Errorf("a 2 MB header is answered with %d, want 431", r.status)
		}
	})
	w.refresh("strict", rt).must(t)
}

func TestRT_H12_RFC6749_18_GrantTypeIsExact(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		w.untouched(rt, func() {
			w.sendRaw("POST", "/oauth2/token", formType, "client_id=strict&refresh_token="+rt, nil).errs(t, 400, "invalid_request")
			w.sendRaw("POST", "/oauth2/token", formType, "grant_type=&client_id=strict&refresh_token="+rt, nil).errs(t, 400, "invalid_request")
			for _, typ := range []string{"Refresh_Token", "refresh_token%20", "+refresh_token", "password", "implicit", "refresh-token", "urn:ietf:params:oauth:grant-type:device_code"} {
				w.sendRaw("POST", "/oauth2/token", formType, "grant_type="+typ+"&client_id=strict&refresh_token="+rt, nil).errs(t, 400, "unsupported_grant_type")
			}
		})
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_H13_CompressedBodiesAreNotInflated(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	rt := w.signIn("strict").refresh
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	_, _ = io.WriteString(g, refreshBody("strict", rt)+"&x=")
	_, _ = io.CopyN(g, filler{}, 20<<20)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	w.untouched(rt, func() {
		for _, enc := range []string{"gzip", "deflate", "br", "identity, gzip"} {
			w.sendRaw("POST", "/oauth2/token", formType, z.String(), http.Header{"Content-Encoding": {enc}}).errs(t, 415, "invalid_request")
		}
	})
	w.refresh("strict", rt).must(t)
}

func TestRT_H14_AmbiguousFramingIsRefused(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	rt := w.signIn("strict").refresh
	body := refreshBody("strict", rt)
	head := "POST /oauth2/token HTTP/1.1\r\nHost: " + w.ts.Listener.Addr().String() + "\r\nContent-Type: " + formType + "\r\n"
	w.untouched(rt, func() {
		for name, raw := range map[string]string{
			"two lengths":      head + fmt.Sprintf("Content-Length: %d\r\nContent-Length: 3\r\n\r\n%s", len(body), body),
			"negative length":  head + "Content-Length: -1\r\n\r\n" + body,
			"two encodings":    head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + body,
			"unknown encoding": head + fmt.Sprintf("Transfer-Encoding: xchunked\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
			"bad chunk":        head + "Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + body + "\r\n0\r\n\r\n",
			"space in header":  head + fmt.Sprintf("Content-Length : %d\r\n\r\n%s", len(body), body),
		} {
			conn, err := net.Dial("tcp", w.ts.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(conn, raw)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("%s: no answer: %v", name, err)
			} else if res.StatusCode < 400 || res.StatusCode >= 500 && res.StatusCode != 501 {
				t.Errorf("%s is answered with %d", name, res.StatusCode)
			}
			conn.Close()
		}
	})
	w.refresh("strict", rt).must(t)
}

func TestRT_H15_MalformedCredentials(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("web").refresh
		basic := func(id, secret string) string {
			return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
		}
		body := "grant_type=refresh_token&refresh_token=" + rt
		right := basic("web", w.secret["web"])
		w.untouched(rt, func() {
			w.sendRaw("POST", "/oauth2/token", formType, body, http.Header{"Authorization": {right, right}}).errs(t, 400, "invalid_request")
			w.sendRaw("POST", "/oauth2/token", formType, body+"&client_id=web&client_secret="+w.secret["web"], http.Header{"Authorization": {right}}).errs(t, 400, "invalid_request")
			w.sendRaw("POST", "/oauth2/token", formType, body+"&client_id=web2", http.Header{"Authorization": {right}}).errs(t, 400, "invalid_request")
			for _, auth := range []string{"Basic", "Basic ", "Basic !!!", "Basic d2Vi", basic("web", ""), basic("", w.secret["web"]), basic("web", "%zz"),
				"Bearer x", "Bearer " + rt, "Digest username=web", basic("web", w.secret["web"]+"x"), "Negotiate AAAA", basic("web", w.secret["web2"])} {
				r := w.sendRaw("POST", "/oauth2/token", formType, body, http.Header{"Authorization": {auth}}).errs(t, 401, "invalid_client")
				if !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Basic ") {
					t.Errorf("%.10q: WWW-Authenticate is %q", auth, r.header.Get("WWW-Authenticate"))
				}
			}
			w.sendRaw("POST", "/oauth2/token", formType, body+"&client_id=web&client_secret=", nil).errs(t, 401, "invalid_client")
		})
		w.sendRaw("POST", "/oauth2/token", formType, body, http.Header{"Authorization": {right}}).must(t)
	})
}

func TestRT_H16_StrangeClientIDs(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		w.untouched(rt, func() {
			for _, id := range []string{"' or 1=1 --", "*)(uid=*", "${jndi:ldap://x/a}", "../../strict", "strict/", "Strict", "strict ", " strict",
				"str\u0456ct", strings.Repeat("a", 60_000), "%", "strict\n"} {
				r := w.post("/oauth2/token", nil, "client_id", id, "grant_type", "refresh_token", "refresh_token", rt)
				r.errs(t, 401, "invalid_client").errorShape(t)
			}
			w.post("/oauth2/token", nil, "client_id", "strict\x00", "grant_type", "refresh_token", "refresh_token", rt).errs(t, 400, "invalid_request")
			w.post("/oauth2/token", nil, "client_id", strings.Repeat("a", 1<<20), "grant_type", "refresh_token", "refresh_token", rt).errs(t, 413, "invalid_request")
		})
		for line := range strings.SplitSeq(w.logs.String(), "\n") {
			if len(line) > 2000 {
				t.Errorf("a log line has %d bytes", len(line))
			}
		}
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_H17_ForgedTokensCostNoIO(t *testing.T) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			var spy *faulty
			w := newWorld(t, open, func(c *server.Config) { spy = &faulty{Store: c.Store}; c.Store = spy })
			rt := w.signIn("strict").refresh
			raw, err := base64.RawURLEncoding.DecodeString(rt[4:])
			if err != nil {
				t.Fatal(err)
			}
			spy.reset()
			w.untouched(rt, func() {
				for i := range raw { // version, key, family, generation, tag
					bad := bytes.Clone(raw)
					bad[i] ^= 0x40
					w.refresh("strict", family.RefreshPrefix+base64.RawURLEncoding.EncodeToString(bad)).refused(t)
				}
				for _, prefix := range []string{"", "hac_", "HRT_", "hrt-", "xrt_", "hrt_hrt_"} {
					w.refresh("strict", prefix+rt[4:]).refused(t)
				}
			})
			if n := spy.count("Load") + spy.count("Commit") + spy.count("Record"); n != 0 {
				t.Errorf("the store was asked %d times for forged tokens", n)
			}
			w.refresh("strict", rt).must(t)
			if spy.count("Load") == 0 {
				t.Error("nothing is counted")
			}
		})
	}
}

func TestRT_H18_CaseMatters(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		w.untouched(rt, func() {
			w.refresh("strict", strings.ToUpper(rt)).refused(t)
			w.refresh("strict", strings.ToLower(rt)).refused(t)
			w.refresh("strict", "HRT_"+rt[4:]).refused(t)
		})
		w.refresh("strict", rt).must(t)
	})
}

func TestRT_H19_UnknownParametersAreIgnored(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		next := w.refresh("strict", rt, "foo", "bar", "audience", "x", "state", "", "redirect_uri", "https://evil.example.com", "code", "x").must(t)
		// RFC 6749 §3.2: a parameter without a value counts as omitted.
		w.refresh("strict", next.str("refresh_token"), "scope", "", "resource", "").must(t)
	})
}

// pipes is a listener whose connections are pipes, so that time can be the test's.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestRT_H20_SlowBodyTimesOut(t *testing.T) {
	if _, err := testKeys(); err != nil { // made before the clock is the test's
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		db := memdb.New(memdb.Config{})
		var spy = &faulty{Store: db}
		const issuer = "http://127.0.0.1:1"
		ring, err := openRing(context.Background(), db, issuer)
		if err != nil {
			t.Fatal(err)
		}
		h, err := server.New(server.Config{Issuer: issuer, Store: spy, Keys: ring})
		if err != nil {
			t.Fatal(err)
		}
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		srv := &http.Server{Handler: h}
		go func() { _ = srv.Serve(l) }()
		defer srv.Close()
		// The bubble's clock stops with this function, so nobody may be left asleep in it.
		var sender sync.WaitGroup
		defer sender.Wait()
		ours, theirs := net.Pipe()
		defer ours.Close()
		l.conns <- theirs
		started := time.Now()
		sender.Go(func() {
			_, _ = io.WriteString(ours, "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Type: "+formType+"\r\nContent-Length: 1000\r\n\r\n")
			for {
				if _, err := io.WriteString(ours, "a"); err != nil {
					return // the server has hung up
				}
				time.Sleep(time.Second)
			}
		})
		res, err := http.ReadResponse(bufio.NewReader(ours), nil)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		if took := time.Since(started); res.StatusCode != 400 || took > 11*time.Second {
			t.Errorf("a slow body is answered with %d after %v, want 400 within 11 s", res.StatusCode, took)
		}
		if n := spy.total(); n != 0 {
			t.Errorf("the store was asked %d times while the body was read", n)
		}
	})
}

func TestRT_H20_NothingIsHeldWhileABodyComes(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("leeway").refresh
		body := refreshBody("leeway", rt)
		conn, err := net.Dial("tcp", w.ts.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", formType, len(body), body[:len(body)-1])
		next := w.refresh("leeway", rt).must(t).str("refresh_token")
		fmt.Fprint(conn, body[len(body)-1:])
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var out struct {
			RefreshToken string `json:"refresh_token"`
		}
		if err := json.NewDecoder(res.Body).Decode(&out); err != nil || res.StatusCode != 200 || out.RefreshToken != next {
			t.Errorf("the slow one is answered with %d, %v", res.StatusCode, err)
		}
	})
}

func TestRT_H21_ClientBugsAreRefused(t *testing.T) {
	w := newWorld(t, engines["memory"], nil)
	rt := w.signIn("strict").refresh
	w.untouched(rt, func() {
		for _, bug := range []string{"null", "undefined", "[object Object]", "Bearer " + rt, `"` + rt + `"`, "None", "<nil>", "{}"} {
			w.refresh("strict", bug).refused(t)
		}
	})
	if n := counter(t, w, "heirloom_token_decisions_total", "reason", "unknown"); n != 8 {
		t.Errorf("the counter for unknown tokens is %v, want 8", n)
	}
	w.refresh("strict", rt).must(t)
}

// counter reads one series of the metrics.
func counter(t testing.TB, w *world, name, label, value string) float64 {
	t.Helper()
	all, err := w.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	t.Fatalf("there is no series %s{%s=%q}", name, label, value)
	return 0
}

func TestRT_H22_EscapedTokensAreDecoded(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		rt := w.signIn("strict").refresh
		var all strings.Builder
		for _, c := range []byte(rt) {
			fmt.Fprintf(&all, "%%%02X", c)
		}
		if strings.Contains(rt, "+") {
			t.Fatal("a token has a +")
		}
		next := w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", all.String()), nil).must(t).str("refresh_token")
		w.sendRaw("POST", "/oauth2/token", formType, refreshBody("strict", strings.NewReplacer("-", "%2D", "_", "%5f").Replace(next)), nil).must(t)
	})
}

// FuzzTokenEndpoint sends arbitrary bodies and credentials to the token endpoint. {RT},
// {CODE}, {VERIFIER} and {SECRET} stand for what is right at the moment. There is never
// a 5xx, and a 200 only for whoever had it all.
func FuzzTokenEndpoint(f *testing.F) {
	seeds := [][2]string{
		{"grant_type=refresh_token&client_id=leeway&refresh_token={RT}", ""},
		{"grant_type=refresh_token&client_id=leeway&refresh_token={RT}&scope=read+write&resource=https%3A%2F%2Fapi.example.com", ""},
		{"grant_type=refresh_token&refresh_token={RT}&client_id=app", ""},
		{"grant_type=refresh_token&client_id=leeway&refresh_token=%68rt_AQAA", ""},
		{"grant_type=authorization_code&client_id=leeway&code={CODE}&code_verifier={VERIFIER}&redirect_uri=http%3A%2F%2F127.0.0.1%2Fcallback", ""},
		{"grant_type=authorization_code&client_id=leeway&code={CODE}&code_verifier=x", ""},
		{"grant_type=client_credentials&client_id=web&client_secret={SECRET}&scope=read", ""},
		{"grant_type=client_credentials", "Basic d2ViOng="},
		{"grant_type=client_credentials&scope=read", "Basic {BASIC}"},
		{"a=b&a=b&%ff=%00&;;&&==&%", "Bearer x"},
		{"grant_type=refresh_token&client_id=leeway&refresh_token={RT}\x00", "Basic"},
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds: the fuzzer would start blind")
	}
	for _, s := range seeds {
		f.Add(s[0], s[1])
	}
	w := newWorld(f, engines["memory"], func(c *server.Config) { c.Log = nil })
	person := w.browser()
	h := w.ts.Config.Handler
	live := w.signIn("leeway").refresh
	flow := newFlow("leeway")
	code := person.code(flow)
	known := map[string]bool{live: true, code: true}
	basic := base64.StdEncoding.EncodeToString([]byte("web:" + w.secret["web"]))
	n := 0
	f.Fuzz(func(t *testing.T, body, auth string) {
		w.t = t // an F must not be used in here
		body = strings.NewReplacer("{RT}", live, "{CODE}", code, "{VERIFIER}", flow.verifier, "{SECRET}", w.secret["web"]).Replace(body)
		auth = strings.ReplaceAll(auth, "{BASIC}", basic)
		r := httptest.NewRequest("POST", "/oauth2/token", strings.NewReader(body))
		r.Header.Set("Content-Type", formType)
		n++ // each request comes from elsewhere, so that no limit ends the search
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", n>>16&255, n>>8&255, n&255)
		if auth != "" {
			r.Header["Authorization"] = []string{auth}
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code >= 500 || rec.Code < 200 || rec.Code >= 300 && rec.Code < 400 {
			t.Fatalf("%q with %q is answered with %d %s", body, auth, rec.Code, rec.Body)
		}
		if rec.Header().Get("Cache-Control") != "no-store" || !json.Valid(rec.Body.Bytes()) {
			t.Fatalf("%q: %v %s", body, rec.Header(), rec.Body)
		}
		if rec.Code != 200 {
			var e struct {
				Error       string `json:"error"`
				Description string `json:"error_description"`
			}
			if err := json.Unmarshal(rec.Body.Bytes(), &e); err != nil || e.Error == "" || !cleanDescription.MatchString(e.Description) {
				t.Fatalf("%q is answered with %s", body, rec.Body)
			}
			if st := w.family(live); st.Status != family.Live {
				live = w.signIn("leeway").refresh
				known[live] = true
			}
			if st := w.family(code); st.Status != family.Live { // a wrong verifier burns it
				flow = newFlow("leeway")
				code = person.code(flow)
				known[code] = true
			}
			return
		}
		v, err := url.ParseQuery(strings.ReplaceAll(body, ";", "%3B"))
		if err != nil {
			t.Fatalf("200 for %q, which is not a form", body)
		}
		proven := strings.HasSuffix(auth, basic) || v.Get("client_id") == "web" && v.Get("client_secret") == w.secret["web"]
		switch v.Get("grant_type") {
		case client.ClientCredentials:
			if !proven {
				t.Fatalf("200 for %q with %q: nobody proved to be web", body, auth)
			}
		case client.RefreshToken:
			if !known[v.Get("refresh_token")] || v.Get("client_id") != "leeway" {
				t.Fatalf("200 for %q: that was never issued to this client", body)
			}
		case client.AuthorizationCode:
			if v.Get("code") != code || v.Get("code_verifier") != flow.verifier {
				t.Fatalf("200 for %q: the code or the verifier is not right", body)
			}
		default:
			t.Fatalf("200 for %q", body)
		}
		var out struct {
			RefreshToken string `json:"refresh_token"`
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
		if out.RefreshToken != "" {
			known[out.RefreshToken] = true
			if v.Get("grant_type") == client.RefreshToken {
				live = out.RefreshToken
			} else {
				flow = newFlow("leeway")
				code = person.code(flow)
				known[code] = true
			}
		}
	})
}
