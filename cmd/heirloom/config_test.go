package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
)

// loadText reads a configuration from text, without environment and flags.
func loadText(t *testing.T, text string) (*config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "h.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return load(sources{file: file, lookEnv: nothing, flags: nothing})
}

// One case for each field at least: TestEveryFieldIsRefusedSomewhere counts them.
var nonsense = map[string]string{
	"issuer: https://id.example.com/":    `issuer: "https://id.example.com/" ends in a slash: remove it`,
	"issuer: http://id.example.com":      `issuer: "http://id.example.com" is plain http`,
	"issuer: id.example.com":             `issuer: "id.example.com" is not an absolute URL`,
	"issuer: https://id.example.com?x=1": "issuer: ",
	"issuer: https://a:b@id.example.com": "issuer: ",
	"addr: 0.0.0.0:80":                   "issuer: it is not set",
	"addr: here":                         `addr: "here" is not an address to listen on`,
	"addr: 127.0.0.1:8421":               "is addr as well",
	"admin_addr: 8421":                   `admin_addr: "8421" is not an address to listen on`,
	"admin_addr: 192.0.2.1:8421":         "admin_addr: ",
	"insecure_admin_addr: maybe":         "insecure_admin_addr: want true or false",
	"data: [a]":                          "data: want one value",
	"data:":                              "data: it has no value",
	"store: postgres://x":                `store: "postgres://x" is not known: write "sqlite:PATH" or "memory:"`,
	"store: memory:x":                    "store: ",
	"store: 'sqlite:'":                   "store: ",
	"kek: abc":                           "kek: it is not a key-encryption key",
	"kek: hkek_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nkek_file: x": "kek: kek_file is set too",
	"kek_file: {a: b}":               "kek_file: want one value",
	"tls_cert_file: cert.pem":        "tls_cert_file: it and tls_key_file belong together",
	"tls_key_file: key.pem":          "tls_cert_file: it and tls_key_file belong together",
	"tls_key_file: []":               "tls_key_file: want one value",
	"trusted_proxies: 10.0.0.0/8":    "trusted_proxies: want a list",
	"trusted_proxies: [10.0.0.0/33]": `trusted_proxies[0]: "10.0.0.0/33" is not a network`,
	"trusted_proxies: [proxy]":       `trusted_proxies[0]: "proxy" is neither an address nor a network`,
	"session_lifetime: 0":            "session_lifetime: it is 0",
	"session_lifetime: -1h":          "session_lifetime: -1h0m0s is out of bounds: write a duration from 1m0s to 365d",
	"session_lifetime: 366d":         "session_lifetime: 366d is out of bounds",
	"session_lifetime: 30":           `session_lifetime: "30" is no duration`,
	"max_access_ttl: 25h":            "max_access_ttl: 25h0m0s is out of bounds",
	"max_access_ttl: 10m\nclients: [{client_id: a, preset: native, redirect_uris: ['http://127.0.0.1/'], policy: {access_ttl: 11m}}]": "access_ttl is 11m0s, longer than the server's max_access_ttl 10m0s",
	"keep_ended: 1m":                          "keep_ended: 1m0s is out of bounds",
	"keep_ended: 0s":                          "keep_ended: it is 0",
	"keep_events: -5d":                        `keep_events: "-5d" is no duration`,
	"keep_events: 30m":                        "keep_events: 30m0s is out of bounds",
	"shutdown_grace: 1h":                      "shutdown_grace: 1h0m0s is out of bounds: write a duration from 1ms to 5m0s",
	"log_level: loud":                         `log_level: "loud" is not known: write debug, info, warn or error`,
	"log_format: xml":                         `log_format: "xml" is not known`,
	"clients: spa":                            "clients: want a list",
	"clients: [spa]":                          "clients[0]: want keys and values",
	"[a]":                                     "the file: want keys and values",
	"a: 1\n---\nb: 2":                         "second document",
	"loglevel: info":                          `loglevel is not a known key: did you mean "log_level"?`,
	"Issuer: https://id.example.com":          `did you mean "issuer"?`,
	"log_level: info\nlog_level: warn":        "log_level is there twice",
	"log_level: *nothing":                     "unknown anchor",
	"<<: {log_level: info}":                   "<< is not a known key",
	"log_level: info\n\tx: 1":                 "tab character",
	"HEIRLOOM_ISSUER: https://id.example.com": "is not a known key",
}

// clientNonsense are lines of a client that is fine without them.
var clientNonsense = map[string]string{
	"client_id: u_me":                         "client_id: begins with",
	"client_id: 'a b'":                        "client_id: has a character",
	"client_id: ''":                           "client_id: has 0 bytes",
	"name: [a]":                               "name: want one value",
	"disabled: perhaps":                       "disabled: want true or false",
	"auth: basic":                             "auth is not known",
	"auth: secret":                            `auth: "secret" needs one: name a file in secret_files`,
	"first_party: 1.5":                        "first_party: want true or false",
	"redirect_uris: []":                       "redirect_uris is empty",
	"redirect_uris: ['http://a.example/']":    "redirect_uris: ",
	"redirect_uris: ['https://a.example/#x']": "redirect_uris: ",
	"redirect_uris: ['https://*.a.example/']": "redirect_uris: ",
	"post_logout_redirect_uris: ['/x']":       "post_logout_redirect_uris: ",
	"grant_types: [password]":                 "grant_types: ",
	"grant_types: [client_credentials]":       "grant_types: ",
	"grant_types: [refresh_token]":            "grant_types: ",
	"scopes: ['a b']":                         "scopes: ",
	"audience: [api]":                         "resource \"api\": ",
	"resources: ['https://api.example/#x']":   "has a fragment",
	"introspects: ['x y']":                    "resource \"x y\": ",
	"preset: mobile":                          `preset "mobile" is not known`,
	"preset: ''":                              "preset is not set",
	"preset: fapi":                            "rotation",
	"policy: strict":                          "policy: want keys and values",
	"policy: {leway: 1s}":                     `policy field "leway" is not known`,
	"policy: {leeway: 61s}":                   "leeway is 1m1s",
	"policy: {leeway: -1s}":                   "leeway is -1s",
	"policy: {idle: 31d, absolute: 30d}":      "idle is 744h0m0s, longer than absolute 720h0m0s",
	"policy: {idle: -1h}":                     "idle is -1h0m0s",
	"policy: {idle: 1ms}":                     "idle is 1ms",
	"policy: {absolute: -1h}":                 "absolute is -1h0m0s",
	"policy: {access_ttl: 0}":                 "access_ttl is 0s",
	"policy: {access_ttl: 25h}":               "access_ttl is 25h0m0s",
	"policy: {code_ttl: 11m}":                 "code_ttl is 11m0s",
	"policy: {code_ttl: 0}":                   "code_ttl is 0s",
	"policy: {rotation: sometimes}":           `rotation is "sometimes"`,
	"policy: {rotation: never, leeway: 0, until_used: false}": "RFC 9700",
	"policy: {on_reuse: reject}":                              "RFC 9700",
	"policy: {on_reuse: ignore}":                              `on_reuse is "ignore"`,
	"policy: {until_used: maybe}":                             `until_used is "maybe"`,
	"policy: {same_presenter: [a]}":                           "policy.same_presenter: want one value",
	"policy: {leeway: 1s, leeway: 2s}":                        "policy.leeway is there twice",
	"id_token_alg: none":                                      "id_token_alg is",
	"no_id_token_on_refresh: nope":                            "no_id_token_on_refresh: want true or false",
	"without_pkce: true":                                      "without_pkce: a public client must use PKCE",
	"secrets: [short-secret]":                                 "secrets: one has 12 characters",
	"secrets: short":                                          "secrets: want a list",
	"secret_files: [/nowhere/at/all]":                         "secret_files: /nowhere/at/all: no such file or directory",
	"secret: abc":                                             `clients[0].secret is not a known key: did you mean "secrets"?`,
}

func TestRT_E13_NonsenseDoesNotStartAndNamesItsField(t *testing.T) {
	for text, want := range nonsense {
		t.Run(text, func(t *testing.T) {
			_, err := loadText(t, text)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	for line, want := range clientNonsense {
		t.Run(line, func(t *testing.T) {
			_, err := loadText(t, clientWith(line))
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "h.yaml:") {
				t.Errorf("got %v, want %q with its line", err, want)
			}
		})
	}
	// 10017-02: a browser app's tokens must end.
	_, err := loadText(t, strings.ReplaceAll(clientWith("policy: {idle: 0, absolute: 0}"), "native", "browser"))
	if err == nil || !strings.Contains(err.Error(), "idle and absolute are both 0") {
		t.Errorf("a browser app without an end: %v", err)
	}
	if _, err := loadText(t, clientWith("policy: {idle: 0, absolute: 0}")); err != nil {
		t.Errorf("a native app without an end, written out: %v", err)
	}
	if _, err := loadText(t, clientWith("name: fine")); err != nil {
		t.Errorf("the client without nonsense: %v", err)
	}
}

// clientWith is a good client with one line in the place of its own of that name.
func clientWith(line string) string {
	lines := map[string]string{
		"client_id": "client_id: app", "preset": "preset: native", "redirect_uris": "redirect_uris: ['http://127.0.0.1/cb']",
	}
	name, _, _ := strings.Cut(line, ":")
	lines[name] = line
	var b strings.Builder
	b.WriteString("clients:\n  -")
	for _, l := range maps.All(lines) {
		b.WriteString(" " + l + "\n   ")
	}
	return b.String() + "\n"
}

func TestEveryFieldIsRefusedSomewhere(t *testing.T) {
	named := func(cases map[string]string, name string) bool {
		for text := range cases {
			if strings.HasPrefix(text, name+":") {
				return true
			}
		}
		return false
	}
	fields := map[string]reflect.Value{}
	fieldsOf(reflect.ValueOf(new(config)).Elem(), fields)
	for name := range fields {
		if !named(nonsense, name) {
			t.Errorf("no case refuses %s", name)
		}
	}
	n := len(fields)
	clear(fields)
	fieldsOf(reflect.ValueOf(new(clientConfig)).Elem(), fields)
	for name := range fields {
		if !named(clientNonsense, name) {
			t.Errorf("no case refuses clients.%s", name)
		}
	}
	if n < 10 || len(fields) < 10 {
		t.Errorf("%d settings and %d fields of clients: have they moved?", n, len(fields))
	}
}

func TestSecretsOfTheConfigurationAreNotPrinted(t *testing.T) {
	const canary = "canary-secret-of-more-than-32-characters"
	const kek = "hkek_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	c, err := loadText(t, "kek: "+kek+"\n"+clientWith("secrets: ["+canary+"]"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.yaml()
	if err != nil {
		t.Fatal(err)
	}
	all := string(text)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		all += fmt.Sprintf(verb, c) + fmt.Sprintf(verb, *c) + fmt.Sprintf(verb, c.Clients)
	}
	for _, s := range []string{canary, kek, kek[5:], fmt.Sprintf("%x", canary)} {
		if strings.Contains(all, s) {
			t.Errorf("%s is printed", s)
		}
	}
	if !strings.Contains(string(text), "[secret]") {
		t.Errorf("the effective configuration does not tell that there is a secret:\n%s", text)
	}
	// An error about a secret does not repeat it either.
	for _, bad := range []string{"kek: hkek_canary", "kek: [hkek_canary]", clientWith("secrets: [hkek_canary]"), clientWith("secrets: {hkek_canary: hkek_canary}")} {
		if _, err := loadText(t, bad); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestTheEffectiveConfigurationIsOneThatLoads(t *testing.T) {
	c, err := loadText(t, "trusted_proxies: [10.0.0.0/8, 192.0.2.1, '2001:db8::/32']\nsession_lifetime: 36h\n"+clientWith("policy: {leeway: 5s}"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.yaml()
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadText(t, dropEmpty(string(text)))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	second, err := again.yaml()
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != string(second) {
		t.Errorf("got:\n%s\nwant:\n%s", second, text)
	}
}

// dropEmpty leaves out what is not set: the file has no word for that but absence.
func dropEmpty(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(strings.TrimSpace(line), `: ""`) && !strings.HasSuffix(strings.TrimSpace(line), ": null") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestKnownSecretsKeepTheirDates(t *testing.T) {
	c, err := loadText(t, clientWith("secrets: [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb]"))
	if err != nil {
		t.Fatal(err)
	}
	first, second := time.Unix(1000, 0), time.Unix(2000, 0)
	old, err := c.Clients[0].client(client.Client{}, time.Hour, first)
	if err != nil {
		t.Fatal(err)
	}
	old.NotBefore, old.NotBeforeReason, old.Version = first, "revoked_admin", 7
	c.Clients[0].Secrets = c.Clients[0].Secrets[1:]
	next, err := c.Clients[0].client(old, time.Hour, second)
	if err != nil {
		t.Fatal(err)
	}
	if len(next.Secrets) != 1 || !next.Secrets[0].CreatedAt.Equal(first) || !next.CreatedAt.Equal(first) || next.Version != 7 || !next.NotBefore.Equal(first) {
		t.Errorf("%+v", next)
	}
	if same(old, next) || !same(next, next) {
		t.Error("same does not see that a secret has gone")
	}
}

func TestFlagsWinOverEnvironmentOverFileOverDefault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "h.yaml")
	if err := os.WriteFile(file, []byte("log_level: warn\nsession_lifetime: 1h\nkeep_ended: 2h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"HEIRLOOM_SESSION_LIFETIME": "3h", "HEIRLOOM_KEEP_ENDED": "", "HEIRLOOM_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.1", "HEIRLOOM_LOG_LEVEL": "error"}
	flags := map[string]string{"log-level": "debug"}
	look := func(m map[string]string) func(string) (string, bool) {
		return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
	}
	c, err := load(sources{file: file, lookEnv: look(env), flags: look(flags)})
	if err != nil {
		t.Fatal(err)
	}
	if c.LogLevel != "debug" || time.Duration(c.SessionLifetime) != 3*time.Hour || time.Duration(c.KeepEnded) != 2*time.Hour ||
		time.Duration(c.KeepEvents) != 90*24*time.Hour || len(c.TrustedProxies) != 2 {
		t.Errorf("%+v", c)
	}
	for where, from := range map[string]sources{
		"HEIRLOOM_SESSION_LIFETIME: ": {file: file, lookEnv: look(map[string]string{"HEIRLOOM_SESSION_LIFETIME": "400d"}), flags: nothing},
		"--session-lifetime: ":        {file: file, lookEnv: nothing, flags: look(map[string]string{"session-lifetime": "400d"})},
	} {
		if _, err := load(from); err == nil || !strings.HasPrefix(err.Error(), where+"400d is out of bounds") {
			t.Errorf("got %v, want it to begin with %q", err, where)
		}
	}
}

func TestClosedDoorAnswersInWordsThatBrowsersMayRead(t *testing.T) {
	g := newGate(http.NotFoundHandler())
	if n := g.drain(t.Context()); n != 0 || g.draining() != "shutting down" {
		t.Fatalf("%d inside, %q", n, g.draining())
	}
	for path, cors := range map[string]string{"/oauth2/token": "*", "/tenant/oauth2/token": "*", "/.well-known/openid-configuration": "*", "/oauth2/authorize": "", "/login": "", "/account": ""} {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest("POST", path, nil))
		h := w.Result().Header
		if w.Code != 503 || h.Get("Retry-After") == "" || h.Get("Cache-Control") != "no-store" || h.Get("Access-Control-Allow-Origin") != cors {
			t.Errorf("%s: %d %v", path, w.Code, h)
		}
	}
}
