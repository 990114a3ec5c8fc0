package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/feed"
	"github.com/heirloom-auth/heirloom/session"
)

// Journal is the part of an engine that tells, in the order of commits, what killed
// access tokens. What it returns is durable.
type Journal interface {
	// Killed returns up to limit events behind a position that end access tokens, oldest
	// first, and the position up to which it looked. An event is never added behind a
	// position that was returned.
	Killed(ctx context.Context, after uint64, limit int) (events []family.Event, head uint64, err error)
	// Await returns when there may be something behind a position, or when ctx ends.
	Await(ctx context.Context, after uint64) error
}

// hub holds the live entries of the feed and wakes its readers. One goroutine follows
// the journal; readers take from the one list at their own pace, so that a slow one
// costs nobody anything.
type hub struct {
	history string

	mu      sync.Mutex
	entries []numbered    // guarded by mu; in the order of the journal
	head    uint64        // guarded by mu; the journal has been read up to here
	ready   bool          // guarded by mu; the journal has been read to its end once
	stuck   bool          // guarded by mu; the journal can not be read at the moment
	changed chan struct{} // guarded by mu; closed at the next change
	readers int           // guarded by mu
}

type numbered struct {
	seq   uint64
	entry feed.Entry
	place uint64 // of the family in the status lists; 0: none
}

// maxReaders bounds the open streams.
const maxReaders = 10_000

// beatEvery is how often a reader hears that there is nothing to hear.
const beatEvery = 5 * time.Second

// page of the journal that is read at once.
const journalPage = 1000

// Run follows the engine's journal for the revocation feed until ctx ends. Without it
// the feed answers 503.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.closing) // open streams end, so that the listener can
	for {
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.hub.stop() // readers hear no beats meanwhile, and so know that they know nothing
		s.log.LogAttrs(ctx, slog.LevelError, "revocation feed", slog.String("err", err.Error()))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (s *Server) follow(ctx context.Context) error {
	h := s.hub
	after, err := s.journalStart(ctx)
	if err != nil {
		return err
	}
	for {
		events, head, err := s.conf.Store.Killed(ctx, after, journalPage)
		if err != nil {
			return fmt.Errorf("read journal: %w", err)
		}
		now, err := s.conf.Store.Now(ctx)
		if err != nil {
			return err
		}
		fresh := make([]numbered, 0, len(events))
		for _, e := range events {
			entry, ok := s.entryOf(e)
			if !ok || entry.Until <= int64(now)/1000 {
				continue
			}
			place, err := s.placeOf(ctx, e)
			if err != nil {
				return err
			}
			fresh = append(fresh, numbered{e.Seq, entry, place})
		}
		more := len(events) == journalPage
		h.add(fresh, head, int64(now)/1000, !more)
		after = head
		if more {
			continue
		}
		if err := s.conf.Store.Await(ctx, head); err != nil {
			return err
		}
	}
}

// journalStart returns the position behind which the feed has to read: where it
// stopped, or, at first, where the oldest event stands that may still matter.
func (s *Server) journalStart(ctx context.Context) (uint64, error) {
	s.hub.mu.Lock()
	head := s.hub.head
	s.hub.mu.Unlock()
	if head > 0 {
		return head, nil
	}
	now, err := s.conf.Store.Now(ctx)
	if err != nil {
		return 0, err
	}
	since := now.Add(-time.Duration(s.longest.Load()))
	q := family.EventQuery{Limit: 1000}
	for {
		page, err := s.conf.Store.Events(ctx, q)
		if err != nil {
			return 0, fmt.Errorf("read journal: %w", err)
		}
		for _, e := range page {
			// A day of grace: times are those of the clock, which may have been set back.
			if e.At < since.Add(-24*time.Hour) {
				return e.Seq, nil
			}
		}
		if len(page) < q.Limit {
			return 0, nil
		}
		q.Before = page[len(page)-1].Seq
	}
}

// stop notes that the journal can not be read.
func (h *hub) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stuck = true
}

// add appends entries, forgets those that no token needs any more, and wakes readers.
func (h *hub) add(fresh []numbered, head uint64, now int64, whole bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = append(h.entries, fresh...)
	if n := len(h.entries); n > 0 && h.entries[0].entry.Until <= now {
		// Readers copy what they need under the lock, so the list may move.
		kept := h.entries[:0]
		for _, e := range h.entries {
			if e.entry.Until > now {
				kept = append(kept, e)
			}
		}
		clear(h.entries[len(kept):])
		h.entries = kept
	}
	// Events that kill nothing are told with the next beat.
	woken := len(fresh) > 0 || whole && (!h.ready || h.stuck)
	h.head = max(h.head, head)
	h.ready = h.ready || whole
	h.stuck = false
	if woken {
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// entryOf turns an event into what verifiers have to know. An entry counts until the
// longest-lived access token that it could kill has expired.
func (s *Server) entryOf(e family.Event) (feed.Entry, bool) {
	entry := feed.Entry{Reason: e.Reason.String(), Until: int64(e.At.Add(time.Duration(s.longest.Load())))/1000 + 1}
	switch e.Kind {
	case family.FamilyRevoked:
		entry.Kind, entry.ID = feed.Family, e.Family.String()
	case family.FamilyNarrowed:
		entry.Kind, entry.ID, entry.Before = feed.Narrowed, e.Family.String(), int64(e.At)
		entry.Reason = family.RevokedUser.String()
	case family.TokenRevoked:
		entry.Kind, entry.ID = feed.Token, e.Detail
	case family.UserRevoked, family.UserDeleted:
		entry.Kind, entry.ID, entry.Before = feed.User, e.User, int64(e.At)
		if e.Session != ([16]byte{}) {
			entry.Keep = session.ID(e.Session).String()
		}
	case family.ClientRevoked:
		entry.Kind, entry.ID, entry.Before = feed.Client, e.Client, int64(e.At)
	default:
		return entry, false
	}
	if e.Reason == 0 {
		entry.Reason = family.RevokedAdmin.String()
	}
	return entry, entry.Check() == nil
}

// since returns what a reader at a position has to hear: entries to send, whether they
// are a whole snapshot, and the channel that closes at the next change.
func (h *hub) since(pos feed.Position, fresh bool) (entries []numbered, snapshot bool, mark feed.Mark, changed <-chan struct{}, ready bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	snapshot = fresh || pos.History != h.history || pos.Seq > h.head
	if snapshot {
		entries = slices.Clone(h.entries)
	} else {
		i, _ := slices.BinarySearchFunc(h.entries, pos.Seq+1, func(n numbered, seq uint64) int {
			switch {
			case n.seq < seq:
				return -1
			case n.seq > seq:
				return 1
			}
			return 0
		})
		entries = slices.Clone(h.entries[i:])
	}
	return entries, snapshot, feed.Mark{Head: h.head, Live: len(h.entries)}, h.changed, h.ready && !h.stuck
}

func (h *hub) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readers >= maxReaders {
		return false
	}
	h.readers++
	return true
}

func (h *hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readers--
}

// writeTimeout bounds how long a reader may take to accept what is sent to it: a dead
// one must not hold a goroutine for ever.
const writeTimeout = 10 * time.Second

// revocations streams the feed. It needs an access token of a client itself, with the
// scope "revocations", and ends with it.
func (s *Server) revocations(w http.ResponseWriter, r *http.Request) {
	c := s.begin(r, "revocations")
	status := http.StatusOK
	defer func() { s.finish(r.Context(), c, status) }()
	ends, err := s.feedReader(r, c)
	if err == nil && !s.hub.enter() {
		err = refusal(family.Unavailable)
	}
	if err != nil {
		c.err = err
		a := s.tell(w.Header(), r, c, err)
		w.Header()["Cache-Control"] = headerNoStore
		w.Header().Set("Content-Type", a.typ)
		status = a.status
		w.WriteHeader(status)
		_, _ = w.Write(a.body)
		return
	}
	defer s.hub.leave()
	pos, known := feed.ParsePosition(r.Header.Get("Last-Event-ID"))
	if err := s.stream(w, r, pos, !known, ends); err != nil && r.Context().Err() == nil {
		c.err = err
	}
}

// feedReader checks who reads, and returns when it has to come back with a new token.
func (s *Server) feedReader(r *http.Request, c *call) (time.Time, error) {
	if r.Method != http.MethodGet {
		return time.Time{}, &oauthError{status: http.StatusMethodNotAllowed, code: "invalid_request", text: "the feed is read with GET"}
	}
	token, err := bearer(r)
	if err != nil {
		return time.Time{}, err
	}
	now, err := s.conf.Store.Now(r.Context())
	if err != nil {
		return time.Time{}, err
	}
	at, ok := s.readAccess(token, now)
	if ok {
		_, ok, err = s.alive(r.Context(), at)
		if err != nil {
			return time.Time{}, err
		}
	}
	if !ok || at.Family != "" {
		return time.Time{}, errBearer(http.StatusUnauthorized, "invalid_token", "the access token is not valid here", "")
	}
	c.client = at.ClientID
	if !family.Scope(at.Scope).Has(feed.Scope) {
		return time.Time{}, errBearer(http.StatusForbidden, "insufficient_scope", "the access token was not given the scope revocations", feed.Scope)
	}
	return time.Now().Add(time.Duration(at.Expires*1000-int64(now)) * time.Millisecond), nil
}

// stream writes frames until the reader, the token or the server goes.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, pos feed.Position, fresh bool, ends time.Time) error {
	h := w.Header()
	h.Set("Content-Type", feed.MediaType)
	h["Cache-Control"] = headerNoStore
	h.Set("X-Accel-Buffering", "no") // nginx would hold the frames back
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})
	var buf []byte
	began := false
	flush := func() error {
		if len(buf) == 0 {
			return nil
		}
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(buf); err != nil {
			return err
		}
		buf = buf[:0]
		return rc.Flush()
	}
	frame := func(f feed.Frame) (err error) {
		if buf, err = feed.AppendFrame(buf, f); err == nil && len(buf) > 32<<10 {
			err = flush()
		}
		return err
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	expired := time.NewTimer(time.Until(ends))
	defer expired.Stop()
	for {
		entries, snapshot, mark, changed, ready := s.hub.since(pos, fresh)
		if ready {
			now, err := s.conf.Store.Now(r.Context())
			if err != nil {
				return err
			}
			mark.Now = int64(now)
			at := feed.Position{History: s.hub.history, Seq: mark.Head}.String()
			if snapshot {
				if err := frame(feed.Frame{Event: feed.Reset, Mark: mark}); err != nil {
					return err
				}
			}
			for _, e := range entries {
				// No id inside a snapshot: a reader that loses the connection half-way has
				// to begin again.
				f := feed.Frame{Event: feed.Revoked, Entry: e.entry}
				if !snapshot {
					f.ID = feed.Position{History: s.hub.history, Seq: e.seq}.String()
				}
				if err := frame(f); err != nil {
					return err
				}
			}
			event := feed.Beat
			if snapshot || !began {
				event = feed.Ready
			}
			if err := frame(feed.Frame{Event: event, ID: at, Mark: mark}); err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
			pos, fresh, began = feed.Position{History: s.hub.history, Seq: mark.Head}, false, true
		}
		select {
		case <-changed:
		case <-beat.C:
		case <-expired.C:
			return nil
		case <-s.closing:
			return nil
		case <-r.Context().Done():
			return r.Context().Err()
		}
	}
}

// historyOf names the history that positions refer to: that of this installation's keys.
func historyOf(index func(column string, value []byte) [32]byte) string {
	sum := index("feed.history", []byte("v1"))
	return strings.ToLower(hex.EncodeToString(sum[:8]))
}
