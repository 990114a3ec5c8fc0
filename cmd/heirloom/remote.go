package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/heirloom-auth/heirloom/admin"
)

// remote is a running server's admin API.
type remote struct {
	t        *terminal
	adminURL string
	data     string
	json     bool
}

// flags gives a command what it needs to find the server.
func (r *remote) flags(c *cobra.Command) {
	c.PersistentFlags().StringVar(&r.adminURL, "admin-url", "", "address of the admin API (HEIRLOOM_ADMIN_URL; else as the data directory says, else http://127.0.0.1:8421)")
	c.PersistentFlags().StringVar(&r.data, "data", "", "the server's data directory, with its admin token (HEIRLOOM_DATA; else /var/lib/heirloom or ./heirloom-data)")
	c.PersistentFlags().BoolVar(&r.json, "json", false, "print JSON")
}

// dataDir is the data directory of the server that is meant.
func (r *remote) dataDir() string {
	if r.data != "" {
		return r.data
	}
	if dir := os.Getenv("HEIRLOOM_DATA"); dir != "" {
		return dir
	}
	for _, dir := range []string{"/var/lib/heirloom", "heirloom-data"} {
		if _, err := os.Stat(filepath.Join(dir, "admin-token")); err == nil {
			return dir
		}
	}
	return "/var/lib/heirloom"
}

func (r *remote) token() (admin.Token, error) {
	if text := os.Getenv("HEIRLOOM_ADMIN_TOKEN"); text != "" {
		token, err := admin.ParseToken(strings.TrimSpace(text))
		if err != nil {
			return admin.Token{}, hinted(fmt.Errorf("HEIRLOOM_ADMIN_TOKEN: %w", err), "it is in the file admin-token of the server's data directory")
		}
		return token, nil
	}
	path := os.Getenv("HEIRLOOM_ADMIN_TOKEN_FILE")
	if path == "" {
		path = filepath.Join(r.dataDir(), "admin-token")
	}
	raw, err := readSecret(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return admin.Token{}, hinted(fmt.Errorf("admin token: %w", err), "name the server's data directory with --data, or put the token into HEIRLOOM_ADMIN_TOKEN")
		}
		return admin.Token{}, fmt.Errorf("admin token: %w", err)
	}
	return parseToken(path, raw)
}

func (r *remote) base() (*url.URL, error) {
	raw := r.adminURL
	if raw == "" {
		raw = os.Getenv("HEIRLOOM_ADMIN_URL")
	}
	if raw == "" {
		if text, err := os.ReadFile(filepath.Join(r.dataDir(), "admin-url")); err == nil {
			raw = strings.TrimSpace(string(text))
		}
	}
	if raw == "" {
		raw = "http://127.0.0.1:8421"
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, hinted(usage(fmt.Errorf("admin address %q is not a URL", raw)), `write one such as "http://127.0.0.1:8421"`)
	}
	return u, nil
}

// path joins escaped segments. Dots are escaped too: a user may be called "..".
func path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/admin/v1")
	for _, s := range segments {
		b.WriteString("/" + strings.ReplaceAll(url.PathEscape(s), ".", "%2E"))
	}
	return b.String()
}

// call sends a request and decodes its answer into answer, which may be nil. body nil
// sends none.
func (r *remote) call(ctx context.Context, method, path string, query url.Values, body, answer any) error {
	base, err := r.base()
	if err != nil {
		return err
	}
	token, err := r.token()
	if err != nil {
		return err
	}
	target, err := base.Parse(path)
	if err != nil {
		return fmt.Errorf("admin address: %w", err)
	}
	target.RawQuery = query.Encode()
	var send io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		send = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), send)
	if err != nil {
		return fmt.Errorf("admin address: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Text())
	req.Header.Set("User-Agent", "heirloom-cli")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := &http.Client{
		Timeout: 10 * time.Minute,
		// The token is for the address that was named and for no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return r.unreachable(base, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", base.Host, err)
	}
	if resp.StatusCode >= 300 {
		return refusal(base, resp.StatusCode, raw)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("the answer of %s is not an admin API's: %w", base.Host, err)
	}
	return nil
}

func (r *remote) unreachable(base *url.URL, err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return hinted(fmt.Errorf("no server answers at %s", base.Host), "start it with: heirloom serve; or name its admin address with --admin-url")
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return fmt.Errorf("the server at %s did not answer in time", base.Host)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	return fmt.Errorf("ask the server at %s: %w", base.Host, err)
}

// refusal is the server's error in its own words.
func refusal(base *url.URL, status int, raw []byte) error {
	var e struct{ Error, Message, Hint string }
	if err := json.Unmarshal(raw, &e); err != nil || e.Message == "" {
		return fmt.Errorf("%s answered with status %d, and not as an admin API: is --admin-url right?", base.Host, status)
	}
	err := errors.New(e.Message)
	if e.Hint != "" {
		return hinted(err, e.Hint)
	}
	return err
}
