package verify_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heirloom-auth/heirloom/verify"
)

// ask sends a request through a middleware to a handler that tells who it is.
func ask(v *verify.Verifier, n verify.Need, change func(*http.Request)) *http.Response {
	h := v.Require(n)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, ok := verify.FromContext(r.Context())
		if !ok {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		_, _ = io.WriteString(w, "hello "+t.Subject)
	}))
	r := httptest.NewRequest(http.MethodGet, "/notes", nil)
	change(r)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func with(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

// 6750-01 to 6750-06, 9470-01: each answer, byte for byte.
func TestRFC6750_05_AnswersByteForByte(t *testing.T) {
	is := newIssuer(t)
	c := is.config()
	c.ResourceMetadata = "https://api.example/.well-known/oauth-protected-resource"
	v := newVerifier(t, c)
	now := time.Now().Unix()
	good := is.good(t, nil)
	const (
		realm = `Bearer realm="https://api.example"`
		meta  = `, resource_metadata="https://api.example/.well-known/oauth-protected-resource"`
		wrong = `, error="invalid_token", error_description="the access token is not valid here"`
		step  = `, error="insufficient_user_authentication", error_description="a more recent or a stronger sign-in is needed"`
	)
	admin := verify.Need{Scopes: []string{"notes.read", "admin"}}
	for _, row := range []struct {
		name      string
		need      verify.Need
		change    func(*http.Request)
		status    int
		challenge string
	}{
		{"a good token", verify.Need{}, with(good), 200, ""},
		{"the scheme in small", verify.Need{}, func(r *http.Request) { r.Header.Set("Authorization", "bearer "+good) }, 200, ""},
		{"the scheme in capitals", verify.Need{}, func(r *http.Request) { r.Header.Set("Authorization", "BEARER "+good) }, 200, ""},
		{"all scopes", verify.Need{Scopes: []string{"notes.read", "notes.write"}}, with(good), 200, ""},
		{"recent", verify.Need{MaxAge: time.Hour}, with(good), 200, ""},
		{"strong", verify.Need{ACR: []string{"mfa", "pwd"}}, with(good), 200, ""},
		{"nothing", verify.Need{}, func(*http.Request) {}, 401, realm + meta},
		{"nothing, with scopes", admin, func(*http.Request) {}, 401, realm + `, scope="notes.read admin"` + meta},
		{"another scheme", verify.Need{}, func(r *http.Request) { r.SetBasicAuth("a", "b") }, 401, realm + meta},
		{"DPoP", verify.Need{}, func(r *http.Request) { r.Header.Set("Authorization", "DPoP "+good) }, 401, realm + meta},
		{"in the URL", verify.Need{}, func(r *http.Request) { r.URL.RawQuery = "access_token=" + good }, 401,
			realm + `, error="invalid_request", error_description="an access token in the URL is not accepted"` + meta},
		{"in the URL and the header", verify.Need{}, func(r *http.Request) { with(good)(r); r.URL.RawQuery = "access_token=" + good }, 400,
			realm + `, error="invalid_request", error_description="the request has credentials in several places"` + meta},
		{"twice", verify.Need{}, func(r *http.Request) { r.Header["Authorization"] = []string{"Bearer " + good, "Bearer " + good} }, 400,
			realm + `, error="invalid_request", error_description="the request has credentials in several places"` + meta},
		{"empty", verify.Need{}, func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") }, 400,
			realm + `, error="invalid_request", error_description="the Authorization header is malformed"` + meta},
		{"two words", verify.Need{}, with(good + " " + good), 400,
			realm + `, error="invalid_request", error_description="the Authorization header is malformed"` + meta},
		{"garbage", verify.Need{}, with("x"), 401, realm + wrong + meta},
		{"expired", verify.Need{}, with(is.good(t, map[string]any{"exp": now - 60})), 401, realm + wrong + meta},
		{"too little", admin, with(good), 403,
			realm + `, error="insufficient_scope", error_description="the access token does not have the scope that is needed", scope="notes.read admin"` + meta},
		{"no scope", admin, with(is.good(t, map[string]any{"scope": nil})), 403,
			realm + `, error="insufficient_scope", error_description="the access token does not have the scope that is needed", scope="notes.read admin"` + meta},
		{"too long ago", verify.Need{MaxAge: 30 * time.Second}, with(good), 401, realm + step + `, max_age="30"` + meta},
		{"nobody knows when", verify.Need{MaxAge: time.Hour}, with(is.good(t, map[string]any{"auth_time": nil})), 401, realm + step + `, max_age="3600"` + meta},
		{"in the future", verify.Need{MaxAge: time.Hour}, with(is.good(t, map[string]any{"auth_time": now + 600})), 401, realm + step + `, max_age="3600"` + meta},
		{"too weak", verify.Need{ACR: []string{"phr", "mfa"}, MaxAge: time.Hour}, with(good), 401, realm + step + `, acr_values="phr mfa", max_age="3600"` + meta},
		{"nobody knows how", verify.Need{ACR: []string{"mfa"}}, with(is.good(t, map[string]any{"acr": nil})), 401, realm + step + `, acr_values="mfa"` + meta},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := ask(v, row.need, row.change)
			body, _ := io.ReadAll(got.Body)
			if got.StatusCode != row.status || got.Header.Get("WWW-Authenticate") != row.challenge {
				t.Errorf("answer: %d %s\nwant:   %d %s", got.StatusCode, got.Header.Get("WWW-Authenticate"), row.status, row.challenge)
			}
			if row.status == 200 {
				if string(body) != "hello usr_1" {
					t.Errorf("body: %s", body)
				}
				return
			}
			if got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("Content-Type") != "application/json" || !strings.Contains(string(body), "error_description") {
				t.Errorf("answer: %v %s", got.Header, body)
			}
			if strings.Contains(string(body)+got.Header.Get("WWW-Authenticate"), good[:20]) {
				t.Error("the answer has a part of the token")
			}
		})
	}
}

func TestStaleIsOurFaultAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, done := bubble(t)
		defer done()
		v := newVerifier(t, is.feedConfig(verify.Refuse()))
		got := ask(v, verify.Need{}, with(is.good(t, nil)))
		if got.StatusCode != 503 || got.Header.Get("Retry-After") == "" || got.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("answer: %d %v", got.StatusCode, got.Header)
		}
	})
}

// The issuer's clock, not ours, says how long ago a sign-in was.
func TestMaxAgeByTheIssuersClock(t *testing.T) {
	story(t, verify.Refuse(), func(t *testing.T, is *issuer, v *verify.Verifier) {
		is.feed.with(func() { is.feed.step = 10 * time.Minute }) // ours is slow
		time.Sleep(5 * time.Second)
		at := time.Now().Unix() + 600
		token := is.good(t, map[string]any{"auth_time": at, "iat": at, "exp": at + 600})
		for _, row := range []struct {
			after  time.Duration
			status int
		}{{60 * time.Second, 200}, {time.Second, 401}} {
			time.Sleep(row.after)
			if got := ask(v, verify.Need{MaxAge: time.Minute}, with(token)); got.StatusCode != row.status {
				t.Errorf("%v later: %d; want %d", row.after, got.StatusCode, row.status)
			}
		}
	})
}

func TestRequireRefusesNonsenseAtStart(t *testing.T) {
	v := newVerifier(t, verify.Config{Issuer: "https://as.example", Audience: "api", Algs: []verify.Alg{verify.ES256}, Feed: verify.NoFeed()})
	for name, n := range map[string]verify.Need{
		"empty scope":   {Scopes: []string{""}},
		"two scopes":    {Scopes: []string{"a b"}},
		"quote":         {Scopes: []string{`a"`}},
		"empty class":   {ACR: []string{""}},
		"negative age":  {MaxAge: -time.Second},
		"half a second": {MaxAge: 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Errorf("Require(%+v) did not panic", n)
				}
			}()
			v.Require(n)
		})
	}
}

func TestNoTokenInTheContextWithoutRequire(t *testing.T) {
	if got, ok := verify.FromContext(t.Context()); ok || got != nil {
		t.Errorf("FromContext: %v, %t", got, ok)
	}
}
