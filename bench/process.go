package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that we started.
type process struct {
	cmd  *exec.Cmd
	said *bufio.Reader
	out  io.Closer
}

// launch starts a program and waits for its first line, which both servers print when they are ready. The program is
// killed when ctx ends.
func launch(ctx context.Context, stderr io.Writer, name string, args ...string) (*process, string, error) {
	p := &process{cmd: exec.CommandContext(ctx, name, args...)}
	p.cmd.Stderr = stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	p.out, p.said = out, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("start %s: %w", name, err)
	}
	line, err := p.said.ReadString('\n')
	if err != nil {
		err = fmt.Errorf("start %s: it ended before it was ready: %v", name, p.cmd.Wait())
		return nil, "", err
	}
	return p, line, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the process to end and waits for it.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.cmd.Wait()
}

// kill ends the process as a power cut would end it, but for what the kernel still holds.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it has ended by itself otherwise, and Wait says so
	_ = p.cmd.Wait()         // "killed" is what we want
}

// server is a running heirloom in dev mode, and what its first line said.
type server struct {
	*process
	Issuer     string `json:"issuer"`
	AdminURL   string `json:"admin_url"`
	AdminToken string `json:"admin_token"`
	Users      []struct{ Username, Password string }
	Clients    []clientLine
	host       string // of the issuer, with port
}

type clientLine struct {
	ID     string `json:"client_id"`
	Secret string `json:"client_secret"`
	Preset string `json:"preset"`
}

func (s *server) client(id string) (clientLine, error) {
	for _, c := range s.Clients {
		if c.ID == id {
			return c, nil
		}
	}
	return clientLine{}, fmt.Errorf("the server names no client %s", id)
}

// caller returns what refreshes of a client need.
func (s *server) caller(id, agent string) (*caller, error) {
	c, err := s.client(id)
	if err != nil {
		return nil, err
	}
	k := &caller{host: s.host, path: "/oauth2/token", agent: agent, clientID: id}
	if c.Secret != "" {
		k.basic = base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id) + ":" + url.QueryEscape(c.Secret)))
	}
	return k, nil
}

// site is where a server runs, again and again: program, data and addresses.
type site struct {
	binary, data, addr, admin string
	flags                     []string
}

func newSite(binary, data string, flags ...string) (site, error) {
	s := site{binary: binary, data: data, flags: flags}
	var err error
	if s.addr, err = freeAddr(); err != nil {
		return s, err
	}
	s.admin, err = freeAddr()
	return s, err
}

// freeAddr finds a port below those that systems give to outgoing connections: a server that is killed and started
// again must find its port free, however many clients knock meanwhile.
func freeAddr() (string, error) {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12_000+rand.IntN(16_000)))
		if err != nil {
			continue // somebody else's
		}
		return l.Addr().String(), l.Close()
	}
	return "", errors.New("found no free port between 12000 and 28000")
}

func (s site) start(ctx context.Context, stderr io.Writer) (*server, error) {
	args := append([]string{"serve", "--dev", "--json", "--data", s.data, "--addr", s.addr, "--admin-addr", s.admin}, s.flags...)
	p, line, err := launch(ctx, stderr, s.binary, args...)
	if err != nil {
		return nil, err
	}
	sv := &server{process: p, host: s.addr}
	if err := json.Unmarshal([]byte(line), sv); err != nil || len(sv.Users) == 0 {
		p.kill()
		return nil, fmt.Errorf("the server's first line names no users: %v", err)
	}
	return sv, nil
}

// metrics reads the server's counters.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.AdminURL+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.AdminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", resp.Status)
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(raw)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || name == "#" {
			continue
		}
		if all[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("metrics: %s: %v", name, err)
		}
	}
	if _, ok := all[statements]; !ok {
		return nil, fmt.Errorf("metrics: no %s: was it renamed?", statements)
	}
	return all, nil
}

const statements = "heirloom_store_statements_total"

// ticks is what /proc counts in a second (USER_HZ on all architectures that Go knows).
const ticks = 100

// cpu returns the processor seconds of a process so far.
func cpu(pid int) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("%w: the bench needs Linux", err)
	}
	// The name in parentheses may hold anything; utime and stime are fields 14 and 15.
	f := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	user, err1 := strconv.ParseFloat(string(f[11]), 64)
	system, err2 := strconv.ParseFloat(string(f[12]), 64)
	return (user + system) / ticks, errors.Join(err1, err2)
}

// resident returns the resident memory of a process in bytes: now, and at most so far.
func resident(pid int) (now, peak int64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("%w: the bench needs Linux", err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		switch kib, _ := strconv.ParseInt(f[1], 10, 64); f[0] {
		case "VmRSS:":
			now = kib << 10
		case "VmHWM:":
			peak = kib << 10
		}
	}
	if now == 0 || peak == 0 {
		return 0, 0, fmt.Errorf("/proc/%d/status: no VmRSS or VmHWM", pid)
	}
	return now, peak, nil
}

// goRun runs the go command in the module's root.
func goRun(ctx context.Context, args ...string) ([]byte, error) {
	dir, err := root(ctx)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %v\n%s%s", args[0], err, out, &stderr)
	}
	return out, nil
}

// root is the directory of the module.
func root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("run it in the work tree of the module")
	}
	return filepath.Dir(mod), nil
}

// build makes the server's binary in dir, unless one is given.
func build(ctx context.Context, given, dir string, flags ...string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	bin := filepath.Join(dir, "heirloom")
	args := append([]string{"build"}, flags...)
	_, err := goRun(ctx, append(args, "-o", bin, "./cmd/heirloom")...)
	return bin, err
}

// room makes a directory for data on the disk that holds the work tree: where temporary files go, a sync may cost
// nothing.
func room(ctx context.Context) (string, error) {
	dir, err := root(ctx)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(bin, "bench-"+time.Now().Format("0102-150405-"))
}
