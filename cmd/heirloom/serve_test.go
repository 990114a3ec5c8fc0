package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// process is a started server.
type process struct {
	cmd    *exec.Cmd
	stdout io.Reader
	log    *lockedBuffer
	issuer string
	admin  string
	token  string
	demo   string // password of the demo user
}

// lockedBuffer is written by the process's pipe while the test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs `heirloom serve --dev --json` with more flags until the test ends.
func start(t *testing.T, dir string, flags ...string) *process {
	t.Helper()
	p := &process{log: new(lockedBuffer)}
	p.cmd = exec.Command("heirloom", append([]string{"serve", "--dev", "--json", "--data", dir,
		"--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"}, flags...)...)
	p.cmd.Stderr = p.log
	var err error
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	line, err := firstLineOf(p.stdout)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.log)
	}
	var said struct {
		Issuer     string
		AdminURL   string `json:"admin_url"`
		AdminToken string `json:"admin_token"`
		Users      []struct{ Password string }
	}
	if err := json.Unmarshal([]byte(line), &said); err != nil {
		t.Fatal(err)
	}
	p.issuer, p.admin, p.token, p.demo = said.Issuer, said.AdminURL, said.AdminToken, said.Users[0].Password
	return p
}

// stop sends a signal and waits for the end.
func (p *process) stop(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(30 * time.Second); err != nil {
		t.Fatalf("%v\n%s", err, p.log)
	}
}

func (p *process) wait(most time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(most):
		p.cmd.Process.Kill()
		return fmt.Errorf("it did not end within %v", most)
	}
}

// Under load, SIGTERM lets every request that was let in finish: each answer is a 200 or
// a 503 in words, none is cut off, and no token that was answered is lost.
func TestRT_G19_SIGTERMUnderLoadFinishesWhatIsUnderWay(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	type holder struct {
		app   *app
		token string
	}
	var holders []*holder
	for range 8 {
		a := &app{issuer: p.issuer, client: "demo-strict"}
		tok, err := a.signIn(t.Context(), demoUser, p.demo)
		if err != nil {
			t.Fatal(err)
		}
		holders = append(holders, &holder{a, tok.Refresh})
	}
	var served, later, gone atomic.Int64
	var wg sync.WaitGroup
	for _, h := range holders {
		wg.Go(func() {
			for {
				tok, err := h.app.refresh(t.Context(), h.token)
				switch {
				case err == nil:
					h.token = tok.Refresh
					served.Add(1)
				case strings.HasPrefix(err.Error(), `503 {"error":"temporarily_unavailable"`):
					later.Add(1)
					return
				case isRefused(err):
					gone.Add(1)
					return
				default:
					t.Errorf("a refresh was cut off: %v", err)
					return
				}
			}
		})
	}
	for served.Load() < 200 {
		time.Sleep(time.Millisecond)
	}
	p.stop(t, syscall.SIGTERM)
	wg.Wait()
	t.Logf("%d served, %d told to come later, %d found the door closed", served.Load(), later.Load(), gone.Load())
	log := p.log.String()
	if !strings.Contains(log, `"msg":"stopped"`) || strings.Contains(log, `"level":"WARN"`) || strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("the log is not one of a clean end:\n%.3000s", log[max(0, len(log)-3000):])
	}
	if info, err := os.Stat(filepath.Join(dir, "heirloom.db-wal")); err == nil && info.Size() > 0 {
		t.Errorf("%d bytes were left out of the last checkpoint", info.Size())
	}
	for _, secret := range append([]string{p.token, p.demo}, func() (all []string) {
		for _, h := range holders {
			all = append(all, h.token)
		}
		return all
	}()...) {
		if strings.Contains(log, secret) {
			t.Errorf("the log has a secret: %.4s…", secret)
		}
	}

	// Strict clients: had one acknowledged rotation been lost, this were a reuse. The port
	// is part of the issuer here, and the issuer of every token.
	again := exec.Command("heirloom", "serve", "--dev", "--json", "--data", dir,
		"--addr", strings.TrimPrefix(p.issuer, "http://"), "--admin-addr", "127.0.0.1:0")
	out, err := again.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	q := &process{cmd: again, stdout: out, log: new(lockedBuffer)}
	t.Cleanup(func() { again.Process.Kill() })
	if _, err := firstLineOf(out); err != nil {
		t.Fatal(err)
	}
	for i, h := range holders {
		if _, err := h.app.refresh(t.Context(), h.token); err != nil {
			t.Errorf("holder %d after the restart: %v", i, err)
		}
	}
	q.stop(t, os.Interrupt)
}

// isRefused says that there was no connection, as opposed to one that broke.
func isRefused(err error) bool {
	return err != nil && (strings.Contains(err.Error(), syscall.ECONNREFUSED.Error()))
}

// While requests are under way the server says that it is not ready, takes no new ones,
// and waits; a request that takes longer than the grace is left behind and said so.
func TestRT_G19_DrainingIsSeenAndBounded(t *testing.T) {
	p := start(t, t.TempDir(), "--shutdown-grace", "1500ms")
	addr := strings.TrimPrefix(p.issuer, "http://")
	slow, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	// A body that never comes: the handler is inside and waits for it.
	fmt.Fprintf(slow, "POST /oauth2/token HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ngrant_type=", addr)
	time.Sleep(200 * time.Millisecond)
	begun := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Second)
	for {
		resp, err := http.Get(p.admin + "/readyz")
		if err != nil {
			t.Fatalf("readyz while draining: %v", err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == 503 && strings.Contains(string(body), "shutting down") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("readyz while draining: %s %s", resp.Status, body)
		}
	}
	_, err = (&app{issuer: p.issuer, client: "demo-strict"}).refresh(t.Context(), "hrt_x")
	if err == nil || !strings.HasPrefix(err.Error(), `503 {"error":"temporarily_unavailable"`) {
		t.Errorf("a new request while draining: %v, want 503", err)
	}
	if err := p.wait(10 * time.Second); err != nil {
		t.Errorf("%v\n%s", err, p.log)
	}
	if took := time.Since(begun); took < time.Second || took > 6*time.Second {
		t.Errorf("it took %v, want about the grace of 1.5 s", took)
	}
	if !strings.Contains(p.log.String(), `"msg":"stopped before all requests had finished","left":1`) {
		t.Errorf("the log does not say what was left:\n%s", p.log)
	}
}

// A second signal does not wait for the grace.
func TestTheSecondSignalEndsAtOnce(t *testing.T) {
	p := start(t, t.TempDir(), "--shutdown-grace", "5m")
	addr := strings.TrimPrefix(p.issuer, "http://")
	slow, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprintf(slow, "POST /oauth2/token HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ngrant_type=", addr)
	time.Sleep(200 * time.Millisecond)
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(p.log.String(), `"msg":"stopping`) && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	// The first signal is given back to the system a moment after it is heard.
	time.Sleep(200 * time.Millisecond)
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(5 * time.Second); err == nil || !strings.Contains(err.Error(), "interrupt") {
		t.Errorf("got %v, want an end by the signal", err)
	}
}

func TestLargeHeadersAreRefused(t *testing.T) {
	p := start(t, t.TempDir(), "--store", "memory:")
	for _, base := range []string{p.issuer, p.admin} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Large", strings.Repeat("a", 100<<10))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 431 {
			t.Errorf("%s: %s, want 431", base, resp.Status)
		}
	}
	p.stop(t, os.Interrupt)
}

// nobody is a user who may write nowhere. Root may write anywhere, so as root the
// program is run as that user.
func nobody(cmd *exec.Cmd) {
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}

func TestRT_G05_UnwritableDataDirectoryIsSaidAtStart(t *testing.T) {
	// Below /tmp itself: the directories of t.TempDir are closed to nobody.
	dir, err := os.MkdirTemp("", "heirloom-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o755); os.RemoveAll(dir) })
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	self, err := exec.LookPath("heirloom")
	if err != nil {
		t.Fatal(err)
	}
	// A copy that the other user can run, under the name that makes the test binary the program.
	bin, err := os.MkdirTemp("", "heirloom-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(bin) })
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	self = filepath.Join(bin, "heirloom")
	if err := os.WriteFile(self, program, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		data:                      "data directory " + data + " can not be written: permission denied\n",
		filepath.Join(dir, "new"): "data directory: " + filepath.Join(dir, "new") + ": permission denied\n",
	} {
		cmd := exec.Command(self, "serve", "--dev", "--data", path, "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0")
		cmd.Dir = "/"
		nobody(cmd)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), want) || !strings.Contains(string(out), "hint: let the user that runs heirloom write it") {
			t.Errorf("%s: exit %d: %s", path, cmd.ProcessState.ExitCode(), out)
		}
	}
}

// writeCertificate makes a self-signed certificate for 127.0.0.1 with a serial number.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTLSIsServedAndRenewedWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if _, err := openCertificates(certFile, keyFile); err == nil || !strings.Contains(err.Error(), "tls_cert_file: "+certFile) {
		t.Errorf("without a file: %v", err)
	}
	writeCertificate(t, certFile, keyFile, 1)
	p := start(t, filepath.Join(dir, "data"), "--store", "memory:", "--tls-cert-file", certFile, "--tls-key-file", keyFile)
	addr := strings.TrimPrefix(p.issuer, "http://")
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState(); got.PeerCertificates[0].SerialNumber.Int64() != 1 || got.NegotiatedProtocol != "h2" {
		t.Errorf("serial %v, protocol %q", got.PeerCertificates[0].SerialNumber, got.NegotiatedProtocol)
	}
	conn.Close()
	p.stop(t, os.Interrupt)

	certs, err := openCertificates(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		certs.mu.Lock()
		certs.looked = time.Time{} // it looks at most every ten seconds
		certs.mu.Unlock()
		c, err := certs.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	writeCertificate(t, certFile, keyFile, 2)
	if err := os.Chtimes(certFile, time.Now(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("after the renewal: serial %d, want 2", got)
	}
	// Half a renewal must not stop a server that has a good certificate.
	if err := os.WriteFile(certFile, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(certFile, time.Now(), time.Now().Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("with half a file: serial %d, want 2", got)
	}
}
