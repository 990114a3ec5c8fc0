package source_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/source"
)

// expire makes the stored access token old, as if time had passed.
func expire(t *testing.T, st source.Store) source.Record {
	t.Helper()
	r, ver, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Tokens.Issued, r.Tokens.Expiry = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
	if err := st.Swap(t.Context(), ver, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func newFile(t *testing.T) *source.File {
	t.Helper()
	st, err := source.NewFile(filepath.Join(t.TempDir(), "tokens"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestSignInRefreshSignOut(t *testing.T) {
	for _, clientID := range []string{"strict", "web", "fapi"} {
		t.Run(clientID, func(t *testing.T) {
			w := newWorld(t)
			st := newFile(t)
			first := w.signIn(w.source(clientID, st, nil))
			expire(t, st)
			s := w.source(clientID, st, nil)
			second, err := s.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if second.AccessToken == first.AccessToken || clientID != "fapi" && second.RefreshToken == first.RefreshToken {
				t.Error("nothing was renewed")
			}
			w.live(first)
			if err := s.SignOut(t.Context()); err != nil {
				t.Fatal(err)
			}
			if fam := w.family(first); fam.Status != family.Revoked || fam.Reason != family.RevokedClient {
				t.Errorf("the family is %v for %v after the sign-out", fam.Status, fam.Reason)
			}
			if _, err := s.Token(t.Context()); !isRejected(err, source.SignedOut) {
				t.Errorf("Token after the sign-out: %v", err)
			}
		})
	}
}

func isRejected(err error, code string) bool {
	re, ok := errors.AsType[*source.RejectedError](err)
	return ok && re.Code == code
}

func TestAllCallersShareOneRefresh(t *testing.T) {
	for name, open := range stores(t) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := w.signIn(w.source("strict", open(), nil))
			expire(t, open())
			var asked atomic.Int64
			count := func(c *source.Config) {
				c.HTTP = &http.Client{Transport: trip(func(r *http.Request) (*http.Response, error) {
					asked.Add(1)
					time.Sleep(50 * time.Millisecond)
					return http.DefaultTransport.RoundTrip(r)
				})}
			}
			processes := 3
			if name == "memory" {
				processes = 1
			}
			var all sync.WaitGroup
			for range processes {
				s := w.source("strict", open(), count)
				for range 10 {
					all.Go(func() {
						if _, err := s.Token(context.Background()); err != nil {
							t.Error(err)
						}
					})
				}
			}
			all.Wait()
			if fam := w.live(first); fam.Head != 2 || asked.Load() != 1 {
				t.Errorf("generation %d after %d requests, want 2 after one", fam.Head, asked.Load())
			}
		})
	}
}

// A process that holds the lock and does nothing is not waited for for ever; processes that
// hold it in turn are never overtaken.
func TestALockThatIsStuckIsNotWaitedForForEver(t *testing.T) {
	w := newWorld(t)
	st := newFile(t)
	first := w.signIn(w.source("strict", st, nil))
	expire(t, st)
	hurry := func(c *source.Config) { c.Timeout, c.LockWait = 200*time.Millisecond, 400*time.Millisecond }
	unlock, err := st.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.source("strict", st, hurry).Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if fam := w.live(first); fam.Head != 2 {
		t.Errorf("generation %d, want 2", fam.Head)
	}

	unlock()

	// A lock that goes from hand to hand is a queue, and whoever jumps it may be overtaken twice.
	expire(t, st)
	if _, err := w.source("strict", queue{st}, hurry).Token(t.Context()); !errors.Is(err, source.ErrBusy) || !isTransient(err) {
		t.Errorf("Token: %v", err)
	}
	if fam := w.live(first); fam.Head != 2 {
		t.Errorf("generation %d, want 2", fam.Head)
	}
}

// queue is a store whose lock others have in turn.
type queue struct{ source.Store }

func (queue) Lock(ctx context.Context) (func(), error) {
	<-ctx.Done()
	return nil, source.ErrBusy
}

// The file tells one holder who is stuck from many who take turns.
func TestFileTellsWhenTheLockChangesHands(t *testing.T) {
	st := newFile(t)
	ctx, stop := context.WithCancel(t.Context())
	var holders sync.WaitGroup
	for range 4 {
		holders.Go(func() {
			for {
				unlock, err := st.Lock(ctx)
				if err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
				unlock()
			}
		})
	}
	busy := 0
	for until := time.Now().Add(10 * time.Second); busy < 3 && time.Now().Before(until); {
		short, cancel := context.WithTimeout(ctx, 150*time.Millisecond)
		unlock, err := st.Lock(short)
		cancel()
		switch {
		case err == nil:
			unlock()
			time.Sleep(5 * time.Millisecond)
		case errors.Is(err, source.ErrBusy):
			busy++
		default:
			t.Errorf("Lock: %v", err)
		}
	}
	stop()
	holders.Wait()
	if busy == 0 {
		t.Error("among four others the lock was always had within 150 ms: nothing was tested")
	}
}

func TestOnChangeIsToldOfSignInAndSignOut(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var told []string
	note := func(c *source.Config) {
		c.OnChange = func(_ context.Context, r source.Record) error {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, r.Ended)
			return nil
		}
	}
	st := newFile(t)
	w.signIn(w.source("strict", st, note))
	if err := w.source("strict", st, note).SignOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(told) != 2 || told[0] != "" || told[1] != source.SignedOut {
		t.Errorf("told of %q", told)
	}
}

// cut is a store that fails once, at its nth Swap: after it was written, or before.
type cut struct {
	source.Store
	mu       sync.Mutex
	n        int
	written  bool
	failures int
}

func (c *cut) Swap(ctx context.Context, old source.Version, next source.Record) error {
	c.mu.Lock()
	c.n--
	fail := c.n < 0 && c.failures > 0
	if fail {
		c.failures--
	}
	c.mu.Unlock()
	if !fail {
		return c.Store.Swap(ctx, old, next)
	}
	if c.written {
		if err := c.Store.Swap(ctx, old, next); err != nil {
			return err
		}
	}
	return errors.New("the disk is full")
}

// A crash between "received" and "stored": whatever was on disk then, the next process
// goes on with the session.
func TestRT_J15_CrashBetweenReceivedAndStored(t *testing.T) {
	for name, written := range map[string]bool{"written": true, "not written": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			st := newFile(t)
			first := w.signIn(w.source("strict", st, nil))
			expire(t, st)
			s := w.source("strict", &cut{Store: st, written: written, failures: 1000}, nil)
			if _, err := s.Token(t.Context()); err != nil {
				t.Fatalf("tokens that can not be stored are kept in memory: %v", err)
			}
			if err := s.Health(); written != (err == nil) {
				t.Errorf("Health is %v", err)
			}
			s.Close() // the crash
			for range 3 {
				expire(t, st)
				if _, err := w.source("strict", st, nil).Token(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.live(first)
			}
		})
	}
}

// What is not stored is never presented: a crash then would leave an old token and its old
// key in the store, and the server has moved on by two.
func TestTokensThatAreNotStoredAreNotUsedUp(t *testing.T) {
	w := newWorld(t)
	st := newFile(t)
	first := w.signIn(w.source("brief", st, nil))
	expire(t, st)
	full := &cut{Store: st, failures: 1000}
	s := w.source("brief", full, nil)
	if _, err := s.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond)
	if _, err := s.Token(t.Context()); !isTransient(err) {
		t.Errorf("the access token is over and the disk is full: %v", err)
	}
	if fam := w.live(first); fam.Head != 2 {
		t.Errorf("generation %d: a token was presented that is not stored", fam.Head)
	}
	full.mu.Lock()
	full.failures = 0
	full.mu.Unlock()
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := s.Token(t.Context()); err == nil {
			break
		} else if time.Now().After(until) {
			t.Fatal(err)
		}
	}
	if err := s.Health(); err != nil {
		t.Error(err)
	}
	w.live(first)
}

func isTransient(err error) bool {
	_, ok := errors.AsType[*source.TransientError](err)
	return ok
}

// trip is a network of the test's making.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The answer is lost, and the retry comes in another process, an hour later as far as the
// server's leeway is concerned: strict has none.
func TestRT_G02_ALostAnswerIsRetriedWithTheStoredKey(t *testing.T) {
	w := newWorld(t)
	st := newFile(t)
	first := w.signIn(w.source("strict", st, nil))
	before := expire(t, st)
	var seen []string
	lossy := w.source("strict", st, func(c *source.Config) {
		c.HTTP = &http.Client{Transport: trip(func(r *http.Request) (*http.Response, error) {
			now, _, err := st.Load(context.Background())
			if err != nil || now.RetryKey != r.Header.Get("Idempotency-Key") || now.RetryKey == "" {
				t.Errorf("the key that is sent is not the one that is stored (%v)", err)
			}
			seen = append(seen, r.Header.Get("Idempotency-Key"))
			res, err := http.DefaultTransport.RoundTrip(r)
			if err == nil {
				res.Body.Close()
			}
			return nil, errors.New("connection reset by peer")
		})}
	})
	if _, err := lossy.Token(t.Context()); !isTransient(err) {
		t.Fatalf("Token: %v", err)
	}
	if len(seen) != 2 || seen[0] != before.RetryKey || seen[1] != before.RetryKey {
		t.Errorf("%d attempts, not two with the stored key", len(seen))
	}
	if _, err := w.source("strict", st, nil).Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if fam := w.live(first); fam.Head != 2 {
		t.Errorf("generation %d, want 2", fam.Head)
	}
}

// rival is a store to which somebody else writes a key first, at the first Swap.
type rival struct {
	source.Store
	once sync.Once
}

func (c *rival) Swap(ctx context.Context, old source.Version, next source.Record) error {
	c.once.Do(func() {
		next := next
		next.RetryKey = "of the rival"
		_ = c.Store.Swap(ctx, old, next)
	})
	return c.Store.Swap(ctx, old, next)
}

// A record of another program has no key: one is stored before anything is sent, and of two
// processes that draw one at the same time both send the one that is stored.
func TestAKeyIsStoredBeforeItIsSent(t *testing.T) {
	for _, alone := range []bool{true, false} {
		w := newWorld(t)
		st := newFile(t)
		first := w.signIn(w.source("strict", st, nil))
		r := expire(t, st)
		_, ver, err := st.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r.RetryKey = ""
		if err := st.Swap(t.Context(), ver, r); err != nil {
			t.Fatal(err)
		}
		var mine source.Store = st
		if !alone {
			mine = &rival{Store: st}
		}
		sent := 0
		s := w.source("strict", mine, func(c *source.Config) {
			c.HTTP = &http.Client{Transport: trip(func(r *http.Request) (*http.Response, error) {
				sent++
				now, _, err := st.Load(context.Background())
				if key := r.Header.Get("Idempotency-Key"); err != nil || key == "" || now.RetryKey != key || !alone && key != "of the rival" {
					t.Errorf("key %q is sent, %q is stored (%v)", key, now.RetryKey, err)
				}
				return http.DefaultTransport.RoundTrip(r)
			})}
		})
		if _, err := s.Token(t.Context()); err != nil || sent != 1 {
			t.Fatal(sent, err)
		}
		w.live(first)
	}
}

// Sign-out wins over a renewal that is under way: here, and in another process.
func TestTokensThatArriveAfterTheSignOutAreRevoked(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		w := newWorld(t)
		st := newFile(t)
		first := w.signIn(w.source("strict", st, nil))
		expire(t, st)
		answered, goOn := make(chan bool), make(chan bool)
		var mu sync.Mutex
		revoked := 0
		slow := w.source("strict", st, func(c *source.Config) {
			c.HTTP = &http.Client{Transport: trip(func(r *http.Request) (*http.Response, error) {
				res, err := http.DefaultTransport.RoundTrip(r)
				if r.URL.Path == "/oauth2/token" {
					answered <- true
					<-goOn
				} else {
					mu.Lock()
					revoked++
					mu.Unlock()
				}
				return res, err
			})}
		})
		got := make(chan error, 1)
		go func() {
			_, err := slow.Token(context.Background())
			got <- err
		}()
		<-answered
		by, want := slow, 2
		if elsewhere {
			by, want = w.source("strict", st, nil), 1
		}
		if err := by.SignOut(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		if err := <-got; !isRejected(err, source.SignedOut) {
			t.Errorf("elsewhere=%v: Token: %v", elsewhere, err)
		}
		slow.Close()
		if r, _, err := st.Load(t.Context()); err != nil || r.Ended != source.SignedOut || r.Tokens.RefreshToken != "" {
			t.Errorf("elsewhere=%v: the store holds %v, %v", elsewhere, r, err)
		}
		if w.family(first).Status != family.Revoked || revoked != want {
			t.Errorf("elsewhere=%v: %d revocations, want %d", elsewhere, revoked, want)
		}
	}
}

// A sibling's newer token is adopted when the server refuses the one that was presented.
func TestARefusedTokenEndsNothingIfTheStoreHasANewerOne(t *testing.T) {
	w := newWorld(t)
	st := new(source.Memory) // has no lock
	first := w.signIn(w.source("strict", st, nil))
	expire(t, st)
	sibling := w.source("strict", st, nil)
	once := false
	s := w.source("strict", st, func(c *source.Config) {
		c.HTTP = &http.Client{Transport: trip(func(r *http.Request) (*http.Response, error) {
			if !once { // the sibling is faster
				once = true
				if _, err := sibling.Token(context.Background()); err != nil {
					t.Error(err)
				}
				return answer(400, "application/json", `{"error":"invalid_grant"}`), nil
			}
			return http.DefaultTransport.RoundTrip(r)
		})}
	})
	mine, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err := sibling.Token(t.Context()); err != nil || theirs.AccessToken != mine.AccessToken {
		t.Error("the newer token was not adopted", err)
	}
	w.live(first)
}

// Two processes without a lock: the second to store finds the store changed and takes what is there.
func TestTheSlowerOfTwoAdoptsWhatIsStored(t *testing.T) {
	w := newWorld(t)
	st := new(source.Memory)
	first := w.signIn(w.source("strict", st, nil))
	expire(t, st)
	fast := w.source("strict", st, nil)
	slow := w.source("strict", st, func(c *source.Config) {
		c.HTTP = &http.Client{Transport: trip(func(r *http.Request) (*http.Response, error) {
			res, err := http.DefaultTransport.RoundTrip(r)
			for range 2 { // it is overtaken by two refreshes after it was answered
				if _, err := fast.Token(context.Background()); err != nil {
					t.Error(err)
				}
				expire(t, st)
				fast.Close()
				fast = w.source("strict", st, nil)
			}
			if _, err := fast.Token(context.Background()); err != nil {
				t.Error(err)
			}
			return res, err
		})}
	})
	if _, err := slow.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		expire(t, st)
		if _, err := w.source("strict", st, nil).Token(t.Context()); err != nil {
			t.Fatalf("the store lost the newest token: %v", err)
		}
	}
	w.live(first)
}

func TestOnChangeThatFailsIsCalledAgain(t *testing.T) {
	w := newWorld(t)
	st := newFile(t)
	w.signIn(w.source("strict", st, nil))
	expire(t, st)
	var mu sync.Mutex
	calls, fails := 0, 1
	s := w.source("strict", st, func(c *source.Config) {
		c.OnChange = func(_ context.Context, r source.Record) error {
			mu.Lock()
			defer mu.Unlock()
			calls++
			if stored, _, err := st.Load(context.Background()); err != nil || stored.RetryKey != r.RetryKey {
				t.Error("told of a record that is not stored", err)
			}
			if fails > 0 {
				fails--
				return errors.New("not now")
			}
			return nil
		}
	})
	if _, err := s.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(10 * time.Second); s.Health() != nil || calls < 2; time.Sleep(50 * time.Millisecond) {
		if _, err := s.Token(t.Context()); err != nil || time.Now().After(until) {
			t.Fatal(err, s.Health())
		}
	}
	s.Close()
	if calls != 2 {
		t.Errorf("called %d times, want 2", calls)
	}
}
