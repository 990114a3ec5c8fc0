package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/heirloom-auth/heirloom/feed"
	"github.com/heirloom-auth/heirloom/wire"
)

const (
	// grace is how far the issuer's clock may go back without a new snapshot: entries are
	// kept so much longer than they are needed.
	grace = time.Minute

	firstRetry = 250 * time.Millisecond
	lastRetry  = 15 * time.Second
)

// heard is what is known of the feed at one moment. It does not change.
type heard struct {
	ever   bool    // a Ready has been heard
	live   bool    // the connection that told it stands
	at     instant // up to when everything is known
	server int64   // the issuer's clock at that instant, Unix milliseconds
	err    error   // why it is not live
}

// follower keeps a set of revocations equal to the issuer's.
type follower struct {
	conf Feed
	http *http.Client
	dir  *directory
	now  func() instant // of the Verifier, whose epoch it shares

	set   *feed.Set
	state atomic.Pointer[heard]

	// Of the goroutine in run alone:
	pos      feed.Position // of what is in set
	resume   bool          // pos means something
	live     int           // entries the issuer held at the last mark
	told     int           // entries it has told since
	token    string        // access token for the feed; "" = none
	tokenEnd time.Time
}

func newFollower(c Feed, client *http.Client, dir *directory, now func() instant) (*follower, error) {
	switch {
	case c.ClientID == "" || c.ClientSecret == "":
		return nil, errors.New("to read it, ClientID and ClientSecret are needed; verify.NoFeed() goes without")
	case c.Stale.accept == 0:
		return nil, errors.New("what happens when it is stale is not decided: set Stale to verify.Refuse() or verify.AcceptFor(a duration above 0)")
	case c.Silence < 0 || c.Silence > 0 && c.Silence < time.Second:
		return nil, fmt.Errorf("a Silence of %v is too short: set 1 s or more", c.Silence)
	case c.MaxEntries < 0:
		return nil, fmt.Errorf("MaxEntries is %d", c.MaxEntries)
	}
	if c.Silence == 0 {
		c.Silence = 15 * time.Second
	}
	if c.URL == "" {
		c.URL = strings.TrimSuffix(dir.issuer, "/") + "/oauth2/revocations"
	}
	if c.MaxEntries == 0 {
		c.MaxEntries = 1_000_000
	}
	f := &follower{conf: c, http: client, dir: dir, now: now, set: feed.NewSet(c.MaxEntries)}
	f.state.Store(&heard{err: errors.New("it has not been heard since the start: call Verifier.Run")})
	return f, nil
}

func (f *follower) staleness(now instant) time.Duration {
	h := f.state.Load()
	if !h.ever {
		return math.MaxInt64
	}
	return now.since(h.at)
}

// clock returns the issuer's time, or ErrStale when what is known is too old to judge
// by.
func (f *follower) clock(now instant) (time.Time, error) {
	h := f.state.Load()
	age := now.since(h.at)
	switch {
	case !h.ever:
		return time.Time{}, fmt.Errorf("%w: %v", ErrStale, h.err)
	case f.conf.Stale.accept > 0 && age > f.conf.Stale.accept,
		f.conf.Stale.accept < 0 && (!h.live || age > f.conf.Silence):
		why := h.err
		if why == nil {
			why = errors.New("it has gone silent")
		}
		return time.Time{}, fmt.Errorf("%w: last complete %v ago: %v", ErrStale, age.Round(time.Millisecond), why)
	}
	return time.UnixMilli(h.server).Add(age), nil
}

// run follows the feed until ctx ends.
func (f *follower) run(ctx context.Context, tell func(error)) {
	pause := firstRetry
	for {
		began, was := f.now(), f.state.Load()
		err := f.stream(ctx, func() { pause = firstRetry; tell(nil) })
		if errors.Is(err, errClosed) && f.state.Load() != was && f.now().since(began) >= time.Second {
			// It ended in good order, as it does when the access token ends: the next one is
			// there in a moment. Until that is known to fail, what was told last counts, within
			// the bound of silence.
			continue
		}
		if ctx.Err() != nil {
			err = errors.New("the verifier does not run any more")
		}
		last := *f.state.Load()
		last.live, last.err = false, err
		f.state.Store(&last)
		if ctx.Err() != nil {
			return
		}
		tell(err)
		// With jitter: the server that comes back must not meet all its readers at once.
		if !sleep(ctx, jitter(pause)) {
			return
		}
		pause = min(2*pause, lastRetry)
	}
}

// jitter returns something between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// A breach is an answer of the feed that shows that something was missed or can not be
// trusted: only a new snapshot helps.
type breach struct{ error }

var (
	errSilent = errors.New("it has gone silent")
	errClosed = errors.New("the connection was closed")
)

// stream follows one connection until it ends, and says why it did. ready is called as
// soon as everything is known.
func (f *follower) stream(ctx context.Context, ready func()) error {
	err := f.connect(ctx, ready)
	var b breach
	if errors.As(err, &b) {
		f.resume = false
	}
	return err
}

func (f *follower) connect(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// From here on something has to be heard in time, be it the first byte or the next
	// beat: a connection whose other end vanished says nothing for ever.
	silence := time.AfterFunc(f.conf.Silence, func() { cancel(errSilent) })
	defer silence.Stop()
	fail := func(err error) error {
		if errors.Is(context.Cause(ctx), errSilent) {
			return errSilent
		}
		return err
	}

	if err := f.authorize(ctx); err != nil {
		return fail(fmt.Errorf("get an access token for it: %w", err))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.conf.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", feed.MediaType)
	req.Header.Set("Accept-Encoding", "identity") // whoever compresses on the way also holds back
	req.Header.Set("Cache-Control", "no-store")
	req.Header.Set("Authorization", "Bearer "+f.token)
	if f.resume {
		req.Header.Set("Last-Event-ID", f.pos.String())
	}
	asked := f.now()
	resp, err := f.http.Do(req)
	if err != nil {
		return fail(bare(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if err != nil {
			return fail(err)
		}
		if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
			f.token = "" // the next attempt brings a new one
		}
		return statusError{resp.StatusCode, oauthCode(body)}
	}
	if !isMediaType(resp.Header, feed.MediaType) {
		return errors.New("the answer is not " + feed.MediaType)
	}
	silence.Reset(f.conf.Silence)
	return fail(f.read(feed.NewReader(resp.Body), asked, func() { silence.Reset(f.conf.Silence) }, ready))
}

// read takes frames until something is wrong. asked is when the connection was asked
// for: no frame was written before.
func (f *follower) read(r *feed.Reader, asked instant, alive, ready func()) error {
	var (
		snapshot   []feed.Entry
		collecting bool
		complete   bool  // between Ready and the next Reset
		least      int64 // ms; the smallest gap between the issuer's clock and ours so far
		slow       int   // marks in a row that came late
	)
	resumed := f.resume
	for {
		frame, err := r.Next()
		if err == io.EOF {
			return errClosed
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("the connection was cut")
		}
		if err != nil {
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) || strings.HasPrefix(err.Error(), "feed: ") {
				// It was not understood: it may be the entry that kills a token.
				return breach{err}
			}
			return err
		}
		alive()
		switch frame.Event {
		case feed.Reset:
			snapshot, collecting, complete = nil, true, false
			f.resume = false // until the snapshot is whole there is nothing to go on from
		case feed.Revoked:
			if collecting {
				frame.Entry.Reason = "" // not needed here, and there may be a million
				snapshot = append(snapshot, frame.Entry)
				if len(snapshot) > f.conf.MaxEntries {
					return breach{fmt.Errorf("it has more than %d entries: set Feed.MaxEntries higher", f.conf.MaxEntries)}
				}
				break
			}
			if !resumed && !complete {
				return breach{errors.New("it began without a snapshot")}
			}
			if err := f.take(frame); err != nil {
				return err
			}
		case feed.Ready, feed.Beat:
			fresh := collecting && frame.Event == feed.Ready
			switch {
			case fresh:
				if err := f.swap(frame, snapshot); err != nil {
					return err
				}
				snapshot, collecting = nil, false
			case collecting || frame.Event == feed.Beat && !complete:
				continue // alive, but not yet told everything
			case !resumed && !complete:
				return breach{errors.New("it began without a snapshot")}
			}
			if err := f.whole(frame); err != nil {
				return err
			}
			if frame.Mark.Now <= 0 || frame.Mark.Now > lastDate*1000 {
				return breach{fmt.Errorf("the issuer's clock is at %d", frame.Mark.Now)}
			}
			// A frame may have lain in a buffer, ours or the network's, while this process
			// stood still: then it proves less than it seems to. The first one was written
			// after the connection was asked for; of the others the fastest is the measure.
			now := f.now()
			lag := now.since(asked)
			if gap := now.mono.Milliseconds() - frame.Mark.Now; complete {
				lag = time.Duration(min(max(gap-least, 0), time.Hour.Milliseconds())) * time.Millisecond
				least = min(least, gap)
			} else {
				least = gap
			}
			if slow++; !complete || lag < time.Second {
				slow = 0
			} else if slow == 3 {
				// Too slow a reader, or the issuer's clock was set: a new connection tells.
				return errors.New("it lags behind")
			}
			if err := f.proved(now.add(-lag), frame.Mark.Now, fresh); err != nil {
				return err
			}
			if !complete {
				complete = true
				ready()
			}
		}
	}
}

// take adds an entry that just happened.
func (f *follower) take(frame feed.Frame) error {
	pos, ok := feed.ParsePosition(frame.ID)
	if !ok {
		return breach{errors.New("an entry has no position")}
	}
	if pos.History != f.pos.History || pos.Seq <= f.pos.Seq {
		return breach{fmt.Errorf("entry %d follows entry %d", pos.Seq, f.pos.Seq)}
	}
	if err := f.set.Add(frame.Entry); err != nil {
		return breach{err}
	}
	f.pos = pos
	f.told++
	return nil
}

// whole checks by a mark that nothing was missed, and moves on to its position: much
// happens at an issuer that kills no token and is not told.
func (f *follower) whole(frame feed.Frame) error {
	m := frame.Mark
	if pos, ok := feed.ParsePosition(frame.ID); frame.ID != "" && (!ok || pos.History != f.pos.History || pos.Seq != m.Head) {
		return breach{fmt.Errorf("its position and its head, %d, differ", m.Head)}
	}
	switch {
	case m.Head < f.pos.Seq:
		return breach{fmt.Errorf("it went back from entry %d to %d", f.pos.Seq, m.Head)}
	case m.Live > f.live+f.told:
		// The issuer forgets entries that ended, but where its number grows it told them.
		return breach{fmt.Errorf("it holds %d entries, but told %d", m.Live, f.live+f.told)}
	}
	f.pos.Seq, f.live, f.told = m.Head, m.Live, 0
	return nil
}

// swap makes a snapshot what counts.
func (f *follower) swap(frame feed.Frame, snapshot []feed.Entry) error {
	pos, ok := feed.ParsePosition(frame.ID)
	if !ok {
		return breach{errors.New("a snapshot has no position")}
	}
	if len(snapshot) < frame.Mark.Live {
		return breach{fmt.Errorf("a snapshot has %d entries of %d", len(snapshot), frame.Mark.Live)}
	}
	if err := f.set.Replace(snapshot); err != nil {
		return breach{err}
	}
	f.pos, f.live, f.told = pos, len(snapshot), 0
	return nil
}

// proved notes that everything up to an instant is known, and what the issuer's clock
// was then. A clock that was set back would bring tokens back whose entries were
// forgotten, so then a new snapshot is taken; fresh says that this is one.
func (f *follower) proved(at instant, server int64, fresh bool) error {
	last := f.state.Load()
	if last.ever && !fresh {
		was := time.UnixMilli(last.server).Add(at.since(last.at))
		if was.Sub(time.UnixMilli(server)) > grace {
			return breach{errors.New("the issuer's clock was set back")}
		}
	}
	f.resume = true
	f.state.Store(&heard{ever: true, live: true, at: at, server: server})
	f.set.Forget(time.UnixMilli(server).Add(-grace).Unix())
	return nil
}

// authorize sees to an access token by the client credentials grant (RFC 6749 §4.4).
func (f *follower) authorize(ctx context.Context) error {
	if f.token != "" && time.Now().Before(f.tokenEnd) {
		return nil
	}
	f.token = ""
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	m, err := f.dir.get(ctx)
	if err != nil {
		return err
	}
	if m.Token == "" {
		return errors.New("the issuer's metadata has no token_endpoint")
	}
	req, err := post(ctx, m.Token, url.Values{"grant_type": {"client_credentials"}, "scope": {feed.Scope}})
	if err != nil {
		return err
	}
	basic(req, f.conf.ClientID, f.conf.ClientSecret)
	var got wire.TokenResponse
	if _, err := getJSON(f.http, req, &got); err != nil {
		return err
	}
	if got.AccessToken == "" || !strings.EqualFold(got.TokenType, "Bearer") || strings.ContainsAny(got.AccessToken, " \r\n") {
		return errors.New("the answer has no bearer token")
	}
	life := time.Duration(min(max(got.ExpiresIn, 0), 86400)) * time.Second
	// Used for connecting only, and renewed early, so that clocks need not agree.
	f.token, f.tokenEnd = got.AccessToken, time.Now().Add(life*3/4)
	return nil
}
