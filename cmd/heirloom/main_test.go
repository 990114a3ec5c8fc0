package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run this very program, built with whatever flags the test was.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"heirloom": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			public, err := freePort()
			if err != nil {
				return err
			}
			private, err := freePort()
			if err != nil {
				return err
			}
			env.Vars = append(env.Vars,
				"ADDR="+public, "ISSUER=http://"+public, "ADMIN_ADDR="+private, "ADMIN=http://"+private,
				"DATA="+filepath.Join(env.WorkDir, "data"),
				// Every command of a script is about its own server.
				"HEIRLOOM_DATA="+filepath.Join(env.WorkDir, "data"),
				"HEIRLOOM_ADDR="+public, "HEIRLOOM_ADMIN_ADDR="+private,
			)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ready":   cmdReady,
			"get":     cmdGet,
			"code":    cmdCode,
			"members": cmdMembers,
			"pick":    cmdPick,
			"mode":    cmdMode,
			"signin":  cmdSignIn,
			"refresh": cmdRefresh,
			"newer":   cmdNewer,
		},
	})
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// ready waits until the script's server says that it is.
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, err := http.Get(ts.Getenv("ADMIN") + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the server is not ready: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// get URL STATUS PATTERN wants an answer, and follows no redirect.
func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("usage: get URL STATUS PATTERN")
	}
	c := &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := c.Get(args[0])
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if strconv.Itoa(resp.StatusCode) != args[1] || !regexp.MustCompile(args[2]).Match(append(body, '\n')) {
		ts.Fatalf("GET %s: %s, want %s and %q:\n%.2000s", args[0], resp.Status, args[1], args[2], body)
	}
}

// code N program args… runs a program and wants this exit code.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: code N program args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		var exit interface{ ExitCode() int }
		exit, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// read decodes a JSON file, or stdout.
func read(ts *testscript.TestScript, file string) any {
	var v any
	line, _, _ := strings.Cut(ts.ReadFile(file), "\n{")
	ts.Check(json.Unmarshal([]byte(line), &v))
	return v
}

// at finds a value by a path such as users.0.password.
func at(ts *testscript.TestScript, v any, path string) any {
	if path == "." {
		return v
	}
	for step := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			found, ok := x[step]
			if !ok {
				ts.Fatalf("no %q in %v", step, x)
			}
			v = found
		case []any:
			i, err := strconv.Atoi(step)
			ts.Check(err)
			if i >= len(x) {
				ts.Fatalf("no item %d of %d", i, len(x))
			}
			v = x[i]
		default:
			ts.Fatalf("%v has no %q", v, step)
		}
	}
	return v
}

// members FILE PATH names… wants an object with exactly these members.
func cmdMembers(ts *testscript.TestScript, neg bool, args []string) {
	o, ok := at(ts, read(ts, args[0]), args[1]).(map[string]any)
	if !ok {
		ts.Fatalf("%s of %s is no object", args[1], args[0])
	}
	var got []string
	for name := range o {
		got = append(got, name)
	}
	want := slices.Sorted(slices.Values(args[2:]))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		ts.Fatalf("members of %s: %v, want %v", args[1], got, want)
	}
}

// pick FILE PATH VAR sets an environment variable to a value of a JSON file.
func cmdPick(ts *testscript.TestScript, neg bool, args []string) {
	v := at(ts, read(ts, args[0]), args[1])
	s := fmt.Sprint(v)
	if f, ok := v.(float64); ok {
		s = strconv.FormatFloat(f, 'f', -1, 64)
	}
	ts.Setenv(args[2], s)
}

// mode FILE OCTAL wants a file's permissions.
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// newer FILE makes a database look as if a much newer version had written it.
func cmdNewer(ts *testscript.TestScript, neg bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	// The user version of an SQLite file is at byte 60, big-endian.
	_, err = f.WriteAt([]byte{0, 0, 3, 231}, 60)
	ts.Check(err)
	ts.Check(f.Close())
}

// signin CLIENT VAR [USER PASSWORD] signs in with a new browser and sets VAR to the
// refresh token and VAR_FAMILY to the family.
func cmdSignIn(ts *testscript.TestScript, neg bool, args []string) {
	var secrets demoSecrets
	raw, err := os.ReadFile(filepath.Join(ts.Getenv("DATA"), "demo-secrets"))
	ts.Check(err)
	ts.Check(json.Unmarshal(raw, &secrets))
	name, password := demoUser, secrets.Password
	if len(args) > 2 {
		name, password = args[2], args[3]
	}
	a := &app{issuer: ts.Getenv("ISSUER"), client: args[0]}
	tok, err := a.signIn(context.Background(), name, password)
	if neg {
		if err == nil {
			ts.Fatalf("signed in")
		}
		ts.Logf("%v", err)
		return
	}
	ts.Check(err)
	ts.Setenv(args[1], tok.Refresh)
	ts.Setenv(args[1]+"_FAMILY", tok.family())
}

// refresh CLIENT FROM TO uses the refresh token in the variable FROM and sets TO to its
// successor. Negated, it wants invalid_grant.
func cmdRefresh(ts *testscript.TestScript, neg bool, args []string) {
	a := &app{issuer: ts.Getenv("ISSUER"), client: args[0]}
	tok, err := a.refresh(context.Background(), ts.Getenv(args[1]))
	switch {
	case neg && (err == nil || !strings.Contains(err.Error(), `400 {"error":"invalid_grant"`)):
		ts.Fatalf("refresh: %v, want 400 invalid_grant", err)
	case neg:
		return
	}
	ts.Check(err)
	ts.Setenv(args[2], tok.Refresh)
}

// app is a public client with a person in front of it.
type app struct{ issuer, client string }

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// family reads the fam claim of the access token.
func (t tokens) family() string {
	parts := strings.Split(t.Access, ".")
	if len(parts) != 3 {
		return ""
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var c struct{ Fam string }
	if json.Unmarshal(raw, &c) != nil {
		return ""
	}
	return c.Fam
}

const browserAgent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

func (a *app) signIn(ctx context.Context, name, password string) (tokens, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return tokens{}, err
	}
	browser := &http.Client{
		Jar: jar, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	const callback = "http://127.0.0.1:49321/callback"
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"response_type": {"code"}, "client_id": {a.client}, "redirect_uri": {callback}, "scope": {"openid offline_access"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}, "state": {"s"},
	}
	req, err := http.NewRequestWithContext(ctx, "GET", a.issuer+"/oauth2/authorize?"+q.Encode(), nil)
	if err != nil {
		return tokens{}, err
	}
	tried := false
	for range 10 {
		req.Header.Set("User-Agent", browserAgent)
		resp, err := browser.Do(req)
		if err != nil {
			return tokens{}, err
		}
		page, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return tokens{}, err
		}
		if to := resp.Header.Get("Location"); resp.StatusCode >= 300 && resp.StatusCode < 400 {
			next, err := req.URL.Parse(to)
			if err != nil {
				return tokens{}, err
			}
			if strings.HasPrefix(next.String(), callback+"?") {
				if code := next.Query().Get("code"); code != "" {
					return a.token(ctx, url.Values{
						"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback},
						"code_verifier": {verifier}, "client_id": {a.client},
					})
				}
				return tokens{}, fmt.Errorf("authorization response: %s", next.RawQuery)
			}
			if req, err = http.NewRequestWithContext(ctx, "GET", next.String(), nil); err != nil {
				return tokens{}, err
			}
			continue
		}
		if resp.StatusCode != 200 || tried {
			return tokens{}, fmt.Errorf("%s %s: %s", req.Method, req.URL.Path, resp.Status)
		}
		tried = true
		action, fields := loginForm(string(page))
		fields.Set("username", name)
		fields.Set("password", password)
		to, err := req.URL.Parse(action)
		if err != nil {
			return tokens{}, err
		}
		if req, err = http.NewRequestWithContext(ctx, "POST", to.String(), strings.NewReader(fields.Encode())); err != nil {
			return tokens{}, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	return tokens{}, fmt.Errorf("the sign-in never came back to the client")
}

var (
	formTag  = regexp.MustCompile(`(?is)<form\b[^>]*>.*?</form>`)
	inputTag = regexp.MustCompile(`(?is)<(?:input|button)\b[^>]*>`)
	attr     = regexp.MustCompile(`(?is)([a-z-]+)\s*=\s*"([^"]*)"`)
)

// loginForm finds the form with a username on a page.
func loginForm(page string) (action string, fields url.Values) {
	attrs := func(tag string) map[string]string {
		all := map[string]string{}
		for _, m := range attr.FindAllStringSubmatch(tag, -1) {
			all[strings.ToLower(m[1])] = html.UnescapeString(m[2])
		}
		return all
	}
	for _, f := range formTag.FindAllString(page, -1) {
		fields = url.Values{}
		for _, m := range inputTag.FindAllString(f, -1) {
			if a := attrs(m); a["name"] != "" {
				fields.Set(a["name"], a["value"])
			}
		}
		if fields.Has("username") {
			head, _, _ := strings.Cut(f, ">")
			return attrs(head)["action"], fields
		}
	}
	return "", url.Values{}
}

func (a *app) refresh(ctx context.Context, token string) (tokens, error) {
	return a.token(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {a.client}})
}

func (a *app) token(ctx context.Context, form url.Values) (tokens, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", a.issuer+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		return tokens{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("User-Agent", browserAgent)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return tokens{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return tokens{}, err
	}
	if resp.StatusCode != 200 {
		return tokens{}, fmt.Errorf("%d %s", resp.StatusCode, raw)
	}
	var t tokens
	return t, json.Unmarshal(raw, &t)
}

// firstLineOf reads the line that a started server prints when it is ready.
func firstLineOf(r io.Reader) (string, error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	if !s.Scan() {
		return "", fmt.Errorf("no line: %v", s.Err())
	}
	return s.Text(), nil
}
