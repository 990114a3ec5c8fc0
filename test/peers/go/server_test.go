package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A server is a started `heirloom serve --dev` and what its first line said.
type server struct {
	Issuer     string   `json:"issuer"`
	AdminURL   string   `json:"admin_url"`
	AdminToken string   `json:"admin_token"`
	APIURL     string   `json:"api_url"`
	Users      []user   `json:"users"`
	Clients    []client `json:"clients"`
}

type user struct{ Username, Password string }

type client struct {
	ID           string   `json:"client_id"`
	Secret       string   `json:"client_secret"`
	RedirectURIs []string `json:"redirect_uris"`
	Preset       string   `json:"preset"`
}

func (s *server) client(t *testing.T, id string) client {
	t.Helper()
	i := slices.IndexFunc(s.Clients, func(c client) bool { return c.ID == id })
	if i < 0 {
		t.Fatalf("the server has no client %s: %+v", id, s.Clients)
	}
	return s.Clients[i]
}

// binary is built once for all tests, unless HEIRLOOM_BIN names one.
var binary = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("HEIRLOOM_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "bin", "heirloom-peers")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/heirloom")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/heirloom: %v\n%s", err, out)
	}
	return bin, nil
})

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs the server until the test ends. It fails the test when the server then does not stop cleanly, raced,
// panicked, or wrote anything that looks like a token.
func start(t *testing.T, flags ...string) *server {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, append([]string{"serve", "--dev", "--json", "--data", t.TempDir(),
		"--addr", freePort(t), "--admin-addr", freePort(t), "--access-ttl", "10s"}, flags...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", bin, err)
	}
	ready := make(chan string, 1)
	rest := make(chan string, 1)
	go func() {
		r := bufio.NewReader(stdout)
		line, _ := r.ReadString('\n')
		ready <- line
		more, _ := io.ReadAll(r)
		rest <- string(more)
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("stop the server: %v", err)
		}
		kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		said := <-rest // the pipe has to be drained before Wait
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended badly: %v\n%s", err, &stderr)
		}
		said += stderr.String()
		if m := regexp.MustCompile(`(?s)(DATA RACE|panic:|goroutine \d+ \[).*`).FindString(said); m != "" {
			t.Errorf("the server wrote:\n%.4000s", m)
		}
		if m := regexp.MustCompile(`h(rt|ac)_[A-Za-z0-9_-]{20,}|eyJ[A-Za-z0-9_-]{20,}\.`).FindString(said); m != "" {
			t.Errorf("the server wrote a token to its log: %s", m)
		}
	})
	var line string
	select {
	case line = <-ready:
	case <-time.After(60 * time.Second):
		t.Fatalf("the server printed nothing for a minute\n%s", &stderr)
	}
	s := new(server)
	if err := json.Unmarshal([]byte(line), s); err != nil {
		t.Fatalf("first line of the server: %v: %q\n%s", err, line, &stderr)
	}
	if len(s.Users) == 0 || s.Issuer == "" {
		t.Fatalf("first line of the server names no issuer or user: %s", line)
	}
	return s
}

// A browser signs a person in through the server's pages: it keeps cookies and submits forms, and runs no script.
type browser struct {
	http *http.Client
	user user
}

func newBrowser(t *testing.T, u user) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{user: u, http: &http.Client{
		Jar:           jar,
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// authorize opens an authorization URL, answers the pages that come, and returns the parameters that the client gets
// at its redirect URI.
func (b *browser) authorize(t *testing.T, authURL, redirectURI string) url.Values {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", authURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	signedIn := false
	for range 12 {
		seen = append(seen, req.Method+" "+req.URL.Path)
		req.Header.Set("User-Agent", "Mozilla/5.0 (peer test)")
		resp, err := b.http.Do(req)
		if err != nil {
			t.Fatalf("%v: %v", seen, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode >= 300 && resp.StatusCode < 400 {
			to, err := req.URL.Parse(resp.Header.Get("Location"))
			if err != nil {
				t.Fatalf("%v: Location: %v", seen, err)
			}
			if strings.HasPrefix(to.String(), redirectURI+"?") {
				return to.Query()
			}
			if req, err = http.NewRequestWithContext(t.Context(), "GET", to.String(), nil); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if resp.StatusCode != 200 {
			t.Fatalf("%v: %s\n%s", seen, resp.Status, body)
		}
		action, fields := form(string(body))
		switch {
		case fields.Has("username"):
			if signedIn {
				t.Fatalf("%v: signed in and asked again\n%s", seen, body)
			}
			signedIn = true
			fields.Set("username", b.user.Username)
			fields.Set("password", b.user.Password)
		case fields.Has("decision"):
			fields.Set("decision", "allow")
		default:
			t.Fatalf("%v: a page with neither a sign-in nor a consent form\n%s", seen, body)
		}
		to, err := req.URL.Parse(action)
		if err != nil {
			t.Fatal(err)
		}
		if req, err = http.NewRequestWithContext(t.Context(), "POST", to.String(), strings.NewReader(fields.Encode())); err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", to.Scheme+"://"+to.Host)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	t.Fatalf("never came back to %s: %v", redirectURI, seen)
	return nil
}

var (
	formTag   = regexp.MustCompile(`(?is)<form\b[^>]*>.*?</form>`)
	fieldTag  = regexp.MustCompile(`(?is)<(?:input|button)\b[^>]*>`)
	attribute = regexp.MustCompile(`(?is)([a-z-]+)\s*=\s*"([^"]*)"`)
)

// form returns the first form of a page that a person would fill in.
func form(page string) (action string, fields url.Values) {
	for _, f := range formTag.FindAllString(page, -1) {
		head, _, _ := strings.Cut(f, ">")
		fields = url.Values{}
		for _, m := range fieldTag.FindAllString(f, -1) {
			a := attributes(m)
			if a["name"] != "" {
				fields.Set(a["name"], a["value"])
			}
		}
		if fields.Has("username") || fields.Has("decision") {
			return attributes(head)["action"], fields
		}
	}
	return "", url.Values{}
}

func attributes(tag string) map[string]string {
	all := map[string]string{}
	for _, m := range attribute.FindAllStringSubmatch(tag, -1) {
		all[strings.ToLower(m[1])] = html.UnescapeString(m[2])
	}
	return all
}

// introspect asks as the confidential demo client whether a token is alive.
func (s *server) introspect(t *testing.T, tok string) map[string]any {
	t.Helper()
	web := s.client(t, "demo-web")
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, "POST", s.metadata(t)["introspection_endpoint"].(string),
		strings.NewReader(url.Values{"token": {tok}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(web.ID), url.QueryEscape(web.Secret))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != 200 {
		t.Fatalf("introspection: %s, %v, %v", resp.Status, answer, err)
	}
	return answer
}

func (s *server) metadata(t *testing.T) map[string]any {
	t.Helper()
	resp, err := http.Get(s.Issuer + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var m map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil || resp.StatusCode != 200 {
		t.Fatalf("metadata: %s, %v", resp.Status, err)
	}
	return m
}
