package source_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/source"
)

// child is a process that uses a session again and again, and prints "ok" for each access
// token, "gone" when the session is over, and "wait" when it has to wait.
func child() {
	st, err := source.NewFile(os.Getenv("HEIRLOOM_SOURCE_FILE"), nil)
	if err != nil {
		fmt.Println("gone", err)
		return
	}
	at := os.Getenv("HEIRLOOM_SOURCE_CHILD")
	s, err := source.New(source.Config{
		Endpoints: source.Endpoints{Token: at + "/oauth2/token", Revoke: at + "/oauth2/revoke"}, ClientID: "brief", Store: st, Log: quiet,
		Timeout: 3 * time.Second,
	})
	if err != nil {
		fmt.Println("gone", err)
		return
	}
	defer s.Close()
	go func() { // a parent that is gone closes it
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		_, err := s.Token(context.Background())
		if re, ok := errors.AsType[*source.RejectedError](err); ok || errors.Is(err, source.ErrSignedOut) {
			fmt.Println("gone", err, re)
			return
		}
		if err != nil {
			fmt.Println("wait", err)
		} else {
			fmt.Println("ok")
		}
		time.Sleep(time.Duration(20+rand.IntN(60)) * time.Millisecond)
	}
}

// proxy is a network between clients and server that loses some requests and some
// answers: it cuts the connection before the first byte of either.
type proxy struct {
	l        net.Listener
	to       string
	requests atomic.Int64 // of 1000, lost
	answers  atomic.Int64 // of 1000, lost
	asked    atomic.Int64 // sum of requests over all that came
	answered atomic.Int64 // sum of answers over all that came
	lost     atomic.Int64
	running  sync.WaitGroup
}

func newProxy(t testing.TB, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, to: to}
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.carry(c) })
		}
	})
	t.Cleanup(func() { l.Close(); p.running.Wait() })
	return p
}

func (p *proxy) url() string { return "http://" + p.l.Addr().String() }

// due says whether the next of a thousandfold rate is lost: evenly, not by chance, so that
// a short test loses some, too.
func due(sum *atomic.Int64, rate int64) bool {
	now := sum.Add(rate)
	return now/1000 > (now-rate)/1000
}

// carry carries one request and its answer.
func (p *proxy) carry(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	if due(&p.asked, p.requests.Load()) {
		p.lost.Add(1)
		return
	}
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer up.Close()
	_ = up.SetDeadline(time.Now().Add(20 * time.Second))
	req.Close = true
	if err := req.Write(up); err != nil {
		return
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(up, first); err != nil {
		return
	}
	if due(&p.answered, p.answers.Load()) {
		p.lost.Add(1)
		return
	}
	_, _ = c.Write(first)
	_, _ = io.Copy(c, up)
}

// Eight processes share one file, the access token lives two seconds, answers get lost, processes are
// killed at any moment and the server is killed and started again: nobody is signed out, though
// every refresh token counts once and has no leeway.
func TestRT_J16_ProcessesThatShareAFileStaySignedIn(t *testing.T) {
	w := newWorld(t)
	p := newProxy(t, w.addr)
	path := filepath.Join(t.TempDir(), "tokens")
	st, err := source.NewFile(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := w.signIn(w.source("brief", st, nil))
	p.requests.Store(150)
	p.answers.Store(300)

	var oks, waits, kills atomic.Int64
	end := time.Now().Add(15 * time.Second)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for time.Now().Before(end) {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "HEIRLOOM_SOURCE_CHILD="+p.url(), "HEIRLOOM_SOURCE_FILE="+path)
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Error(err)
					return
				}
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Error(err)
					return
				}
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				death := min(time.Duration(500+rand.IntN(4000))*time.Millisecond, time.Until(end))
				timer := time.AfterFunc(max(death, 0), func() { kills.Add(1); _ = cmd.Process.Kill() })
				for lines := bufio.NewScanner(out); lines.Scan(); {
					switch word, _, _ := strings.Cut(lines.Text(), " "); word {
					case "ok":
						oks.Add(1)
					case "wait":
						waits.Add(1)
					default:
						t.Errorf("a process says %q", lines.Text())
					}
				}
				timer.Stop()
				_ = cmd.Process.Kill()
				_ = in.Close()
				_ = cmd.Wait()
			}
		})
	}
	all.Go(func() {
		for time.Until(end) > 4*time.Second {
			time.Sleep(3 * time.Second)
			w.kill()
			time.Sleep(300 * time.Millisecond)
			w.restart()
		}
	})
	all.Wait()
	fam := w.live(first)
	t.Logf("%d tokens handed out, %d waits, %d refreshes, %d messages lost, %d processes killed", oks.Load(), waits.Load(), fam.Head, p.lost.Load(), kills.Load())
	if oks.Load() < 200 || fam.Head < 5 || p.lost.Load() == 0 || kills.Load() < 16 {
		t.Error("too little happened for a proof")
	}
}
