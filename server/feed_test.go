package server_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/feed"
	"github.com/heirloom-auth/heirloom/server"
)

// stream opens the feed as the resource server "web".
type stream struct {
	t      *testing.T
	frames chan feed.Frame
	stop   func()
}

func (w *world) feedToken() string {
	w.t.Helper()
	return w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials", "scope", "revocations")...).must(w.t).str("access_token")
}

// withFeed lets "web" read the feed and follows the journal.
func (w *world) withFeed() {
	w.t.Helper()
	w.updateClient("web", func(c *client.Client) { c.Scopes = append(c.Scopes, feed.Scope) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
}

func (w *world) listen(t *testing.T, token, position string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", w.issuer+"/oauth2/revocations", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	if position != "" {
		req.Header.Set("Last-Event-ID", position)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != feed.MediaType {
		b, _ := io.ReadAll(res.Body)
		t.Fatalf("feed is answered with %d %s", res.StatusCode, b)
	}
	s := &stream{t: t, frames: make(chan feed.Frame, 1000)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(s.frames)
		r := feed.NewReader(res.Body)
		for {
			f, err := r.Next()
			if err != nil {
				return
			}
			s.frames <- f
		}
	}()
	s.stop = func() {
		cancel()
		res.Body.Close()
		<-ended
	}
	t.Cleanup(s.stop)
	return s
}

// next returns the next frame that is no beat.
func (s *stream) next() feed.Frame {
	s.t.Helper()
	for {
		select {
		case f, ok := <-s.frames:
			if !ok {
				s.t.Fatal("the stream ended")
			}
			if f.Event != feed.Beat {
				return f
			}
		case <-time.After(10 * time.Second):
			s.t.Fatal("nothing came for 10 s")
		}
	}
}

// want reads a frame and checks its event.
func (s *stream) want(event string) feed.Frame {
	s.t.Helper()
	f := s.next()
	if f.Event != event {
		s.t.Fatalf("frame is %+v, want %s", f, event)
	}
	return f
}

func TestFeedTellsOfReuseAtOnce(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.withFeed()
		s := w.listen(t, w.feedToken(), "")
		s.want(feed.Reset)
		s.want(feed.Ready)
		rt, _ := w.chain("strict", 1)
		w.refresh("strict", rt[0]).refused(t)
		f := s.want(feed.Revoked)
		if f.Entry.Kind != feed.Family || f.Entry.ID != w.family(rt[0]).ID.String() || f.Entry.Reason != "reuse" {
			t.Errorf("entry is %+v", f.Entry)
		}
	})
}

func TestFeedResumesAndSnapshots(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.withFeed()
		token := w.feedToken()
		s := w.listen(t, token, "")
		s.want(feed.Reset)
		s.want(feed.Ready)
		kill := func() string {
			rt, _ := w.chain("strict", 0)
			w.post("/oauth2/revoke", nil, "client_id", "strict", "token", rt[0])
			return w.family(rt[0]).ID.String()
		}
		first := kill()
		at := s.want(feed.Revoked)
		s.stop()
		second := kill()
		s = w.listen(t, token, at.ID)
		f := s.next()
		if f.Event == feed.Ready { // the feed had not read the second end yet
			f = s.next()
		}
		if f.Event != feed.Revoked || f.Entry.ID != second {
			t.Errorf("resumed at %+v, want %s", f, second)
		}
		for _, position := range []string{"", "nonsense", "elsewhere.1", at.ID[:len(at.ID)-1] + "99999"} {
			s = w.listen(t, token, position)
			if m := s.want(feed.Reset).Mark; m.Live != 2 {
				t.Errorf("position %q: snapshot of %d, want 2", position, m.Live)
			}
			if a, b := s.want(feed.Revoked), s.want(feed.Revoked); a.Entry.ID != first || b.Entry.ID != second {
				t.Errorf("position %q: snapshot is %+v %+v", position, a, b)
			}
			s.want(feed.Ready)
		}
	})
}

func TestFeedNeedsItsScope(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.withFeed()
		ask := func(token string) reply {
			req, _ := http.NewRequest("GET", w.issuer+"/oauth2/revocations", nil)
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			return w.do(req)
		}
		if r := ask(""); r.status != 401 {
			t.Errorf("without a token: %d", r.status)
		}
		if r := ask(w.signIn("strict").access); r.status != 401 {
			t.Errorf("with a user's token: %d", r.status)
		}
		plain := w.post("/oauth2/token", nil, append(w.as("web"), "grant_type", "client_credentials", "scope", "read")...).must(t).str("access_token")
		ask(plain).errs(t, 403, "insufficient_scope")
	})
}

func TestFeedTellsOfCutOffs(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.withFeed()
		s := w.listen(t, w.feedToken(), "")
		s.want(feed.Reset)
		s.want(feed.Ready)
		b := w.browser()
		f := newFlow("strict")
		w.exchange(f, b.code(f)).must(t)
		b.post("/account/sessions", map[string][]string{"end": {"all"}})
		e := s.want(feed.Revoked).Entry
		if e.Kind != feed.User || e.ID != string(w.user(aliceName).ID) || e.Before == 0 || e.Keep != "" || e.Reason != "revoked_user" {
			t.Errorf("entry is %+v", e)
		}
		if e := s.want(feed.Revoked).Entry; e.Kind != feed.Family {
			t.Errorf("entry is %+v, want the family's", e)
		}
		at := w.signIn("strict").access
		w.post("/oauth2/revoke", nil, "client_id", "strict", "token", at)
		if e := s.want(feed.Revoked).Entry; e.Kind != feed.Token || e.ID != claimsOf(t, at)["jti"] {
			t.Errorf("entry is %+v, want the token's", e)
		}
	})
}

// The push receiver of the row is here a reader of the feed: it is away while the reuse
// happens and while the server is restarted, and hears of it once when it is back.
func TestRT_F18_ReaderThatWasAwayHearsOnceAcrossARestart(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("web", func(c *client.Client) { c.Scopes = append(c.Scopes, feed.Scope) })
		run := func() (stop func()) {
			h, err := server.New(server.Config{Issuer: w.issuer, Store: w.store, Keys: w.ring})
			if err != nil {
				t.Fatal(err)
			}
			w.door.Store(h)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- h.Run(ctx) }()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Errorf("Run: %v", err)
				}
			}
		}
		stop := run()
		token := w.feedToken()
		s := w.listen(t, token, "")
		s.want(feed.Reset)
		at := s.want(feed.Ready).ID
		s.stop()
		rt, _ := w.chain("strict", 1)
		w.refresh("strict", rt[0]).refused(t)
		stop()
		stop = run()
		defer func() { stop() }()
		s = w.listen(t, token, at)
		f := s.want(feed.Revoked)
		if f.Entry.ID != w.family(rt[0]).ID.String() || f.Entry.Reason != "reuse" {
			t.Errorf("heard %+v", f.Entry)
		}
		s.want(feed.Ready)
		s.stop()
		s = w.listen(t, token, f.ID)
		if again := s.next(); again.Event != feed.Ready {
			t.Errorf("heard again: %+v", again)
		}
	})
}
