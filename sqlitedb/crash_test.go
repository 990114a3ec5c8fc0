package sqlitedb

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
)

const crashEnv = "HEIRLOOM_TEST_CRASH"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		if err := crashChild(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// openOwn opens a store that keeps its own keys.
func openOwn(path string) (*DB, error) {
	return Open(context.Background(), Config{
		Path: path,
		Keys: func(ctx context.Context, st keys.Store) (*keys.Ring, error) {
			kek, err := keys.ParseKEK("hkek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
			if err != nil {
				return nil, err
			}
			return keys.Open(ctx, keys.Config{Store: st, KEK: kek, Issuer: "https://issuer.example", Log: slog.New(slog.DiscardHandler)})
		},
	})
}

func crashID(n uint64) (id family.ID) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

const crashWorkers = 8

// crashChild works on the store until it is killed. Each worker has families of its
// own, so that at most one operation on each is under way, and says a line when one
// was acknowledged: "create N", "head N H", "dead N", "client V", "deny J".
func crashChild(path string) error {
	db, err := openOwn(path)
	if err != nil {
		return err
	}
	ctx := context.Background()
	p, _ := family.Preset("native")
	p.Idle, p.Absolute, p.CodeTTL = 0, 0, time.Hour
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...) // one write: a line is whole or missing
	}
	base := rand.Uint64() >> 8 << 8
	failed := make(chan error, crashWorkers+2)
	for w := range uint64(crashWorkers) {
		go func() {
			// A worker goes on with one family for a while, ends it, and begins another.
			for n := base + w<<32; ; n++ {
				g := &family.Grant{Client: "app", User: "", Scope: "openid"}
				s := family.New(crashID(n), p, family.At(time.Now()), g, 1, 0, typical(int(w)))
				s.IdleEnds = 0
				if err := db.Create(ctx, s, s.EventFor(family.FamilyIssued, family.Issued, family.Token{}, typical(1))); err != nil {
					failed <- err
					return
				}
				say("create %d", n)
				for range 20 + rand.IntN(60) {
					next, _, _, err := family.Step(ctx, db, s.ID, func(s family.State, at family.Standing) (family.State, family.Verdict, []family.Event) {
						next, v := family.Present(s, p, at.Now, family.Token{Generation: s.Head}, family.Proof{Origin: typical(rand.IntN(3)), Key: 1})
						return next, v, nil
					})
					if err != nil {
						failed <- err
						return
					}
					say("head %d %d", n, next.Head)
				}
				if _, err := family.End(ctx, db, s.ID, family.RevokedUser, typical(2), ""); err != nil {
					failed <- err
					return
				}
				say("dead %d", n)
			}
		}()
	}
	go func() {
		for {
			c, err := db.Client(ctx, "app")
			if errors.Is(err, family.ErrNotFound) {
				c, err = client.Client{ID: "app", Status: client.Enabled, Auth: client.None}, nil
			}
			if err == nil {
				c.Name = fmt.Sprint("name ", c.Version+1)
				err = db.PutClient(ctx, c, family.Event{Kind: family.ClientChanged, Client: "app", Detail: c.Name})
			}
			if err != nil {
				failed <- err
				return
			}
			say("client %d", c.Version+1)
		}
	}()
	go func() {
		for n := base; ; n++ {
			if err := db.Deny(ctx, fmt.Sprint(n), family.At(time.Now().Add(day)), family.Event{Kind: family.TokenRevoked}); err != nil {
				failed <- err
				return
			}
			say("deny %d", n)
		}
	}()
	return <-failed
}

// acknowledged is what the child said before it was killed.
type acknowledged struct {
	head    map[uint64]uint32 // of every family created
	dead    map[uint64]bool
	client  uint64
	denied  []string
	answers int
}

func (a *acknowledged) line(t *testing.T, line string) {
	var n uint64
	var h uint32
	var err error
	word, _, _ := strings.Cut(line, " ")
	switch word {
	case "create":
		_, err = fmt.Sscanf(line, "create %d", &n)
		a.head[n] = 0
	case "head":
		_, err = fmt.Sscanf(line, "head %d %d", &n, &h)
		a.head[n] = h
	case "dead":
		_, err = fmt.Sscanf(line, "dead %d", &n)
		a.dead[n] = true
	case "client":
		_, err = fmt.Sscanf(line, "client %d", &a.client)
	case "deny":
		a.denied = append(a.denied, strings.TrimPrefix(line, "deny "))
	default:
		t.Fatalf("the child said %q", line)
	}
	if err != nil {
		t.Fatalf("the child said %q: %v", line, err)
	}
	a.answers++
}

// Planted: answering before COMMIT ends the first child at once (it does not find what
// it created); a COMMIT in the middle of a step, between its row and its event, is found
// in two of three runs.
func TestRT_G17_NothingAcknowledgedIsLostByAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heirloom.db")
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	a := acknowledged{head: map[uint64]uint32{}, dead: map[uint64]bool{}}
	for round := range rounds {
		kill(t, path, &a)
		inspect(t, path, &a)
		if t.Failed() {
			t.Fatalf("after round %d and %d answers", round, a.answers)
		}
	}
	t.Logf("%d answers in %d rounds, %d families", a.answers, rounds, len(a.head))
	if a.answers < 10*rounds {
		t.Errorf("only %d answers in %d rounds: the test shows nothing", a.answers, rounds)
	}
}

// kill runs the child and kills it at a random moment.
func kill(t *testing.T, path string, a *acknowledged) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	// A data race in the child ends it, and so the test.
	cmd.Env = append(os.Environ(), crashEnv+"="+path, "GORACE=halt_on_error=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	armed := false
	for lines.Scan() {
		if !armed {
			armed = true
			after := time.Duration(rand.IntN(150)) * time.Millisecond
			go func() {
				time.Sleep(after)
				_ = cmd.Process.Kill() // it is a child of this test alone
			}()
		}
		a.line(t, lines.Text())
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the child ended by itself: %v", err)
	}
}

// inspect opens what the child left and compares it with what it had acknowledged.
func inspect(t *testing.T, path string, a *acknowledged) {
	t.Helper()
	db, err := openOwn(path)
	if err != nil {
		t.Fatalf("open after a kill: %v", err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := t.Context()
	err = db.read(ctx, func(c *conn) error {
		row, err := c.one("PRAGMA integrity_check")
		if err == nil && row[0] != "ok" {
			t.Errorf("integrity check: %v", row)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, head := range a.head {
		s, _, err := db.Load(ctx, crashID(n))
		if err != nil {
			t.Errorf("acknowledged family %d: %v", n, err)
			continue
		}
		// INV1, INV6: nothing acknowledged is missing, and besides it at most the one
		// step that was under way.
		if s.Head != head && s.Head != head+1 {
			t.Errorf("family %d: head is %d, acknowledged was %d", n, s.Head, head)
		}
		a.head[n] = s.Head
		// INV2: what was acknowledged as dead is dead.
		if a.dead[n] && s.Status != family.Revoked {
			t.Errorf("family %d: revoked and alive again", n)
		}
		a.dead[n] = s.Status == family.Revoked
		// A version for the creation, each rotation and the end: no half step.
		want := 1 + uint64(s.Head)
		if s.Status == family.Revoked {
			want++
		}
		if s.Version != want {
			t.Errorf("family %d: version is %d, want %d with head %d, status %d", n, s.Version, want, s.Head, s.Status)
		}
		if h := s.History(); h[len(h)-1].Generation+1 != s.Head && s.Head != 0 && s.Status == family.Live {
			t.Errorf("family %d: head is %d, but the trail ends with %+v", n, s.Head, h[len(h)-1])
		}
		events, err := db.Events(ctx, family.EventQuery{Family: s.ID})
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[family.EventKind]int{}
		for _, e := range events {
			kinds[e.Kind]++
		}
		ended := map[bool]int{true: 1}[s.Status == family.Revoked]
		if kinds[family.FamilyIssued] != 1 || kinds[family.FamilyRevoked] != ended {
			t.Errorf("family %d, status %d: events %v", n, s.Status, kinds)
		}
	}
	if a.client > 0 {
		c, err := db.Client(ctx, "app")
		if err != nil || c.Version != a.client && c.Version != a.client+1 || c.Name != fmt.Sprint("name ", c.Version) {
			t.Errorf("client: version %d, name %q, %v; acknowledged was %d", c.Version, c.Name, err, a.client)
		}
		a.client = c.Version
	}
	for _, jti := range a.denied {
		if ok, err := db.Denied(ctx, jti); err != nil || !ok {
			t.Errorf("denied %s: %v, %v", jti, ok, err)
		}
	}
	a.denied = nil
	// Numbers of events go on without a gap: a gap is a commit that lost its events.
	err = db.read(ctx, func(c *conn) error {
		row, err := c.one("SELECT count(*), max(seq) FROM event")
		if err == nil && row[0] != row[1] {
			t.Errorf("%v events, the newest is number %v", row[0], row[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// The rows of earlier rounds have been looked at often enough.
	if len(a.head) > 300 {
		clear(a.head)
		clear(a.dead)
	}
}
