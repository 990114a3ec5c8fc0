// Package source is the library for clients: it keeps a session alive, so that nobody
// has to write refresh logic again.
//
// A Source hands out access tokens that live, renews them before they die, and shares
// one session among all goroutines and, through its Store, all processes. With Heirloom
// no crash, lost answer or restart signs the user out, even where every refresh token
// counts once and has no leeway: each is presented with an Idempotency-Key that was stored
// before. Servers that know nothing of that key work too, as safely as they can.
//
// It does not check access or ID tokens (package verify does), knows no users, and
// starts nothing in the background that its Close does not wait for. It has the
// standard library only.
package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Config is what a Source needs. Endpoints.Token, ClientID and Store are required; every
// other zero value is a good default.
type Config struct {
	// Endpoints is the authorization server: https, or http on loopback. Discover finds them.
	Endpoints Endpoints
	ClientID  string
	// ClientSecret is that of a confidential client; "": a public one. It is sent by HTTP Basic,
	// or in the body with SecretInBody. Never is one way tried after the other: that would
	// present a refresh token twice.
	ClientSecret string
	SecretInBody bool
	// Store keeps the session.
	Store Store

	// Early is the part of an access token's lifetime after which it is renewed; 0: 0.8.
	Early float64
	// Jitter is the part of its lifetime by which that moment is moved at random, either way, so
	// that processes do not renew all at once; 0: 0.05; negative: none.
	Jitter float64
	// Timeout bounds one request to the server; 0: 10 s.
	Timeout time.Duration
	// LockWait bounds how long to wait for another process that refreshes, if the Store is a
	// Locker; then it is taken to be stuck, and not waited for. 0: three times Timeout; it has to be
	// at least twice Timeout, or an honest holder could be overtaken.
	LockWait time.Duration
	// Recheck is how old the knowledge of the store may become while an access token lives:
	// how late a sign-out by another process is seen. 0: 5 s; negative: for ever.
	Recheck time.Duration

	// OnChange, when set, is told of each record that replaces another one: renewed, signed
	// in, signed out or ended, here or by another process. It is called by one goroutine at a
	// time, after the record was stored, and must not call this Source. When it fails it is
	// called again with the same or a newer record, and no refresh token that it was not told of
	// is used up.
	OnChange func(context.Context, Record) error

	// HTTP makes the requests to the server; nil: a client with Go's defaults. Redirects are not
	// followed.
	HTTP *http.Client
	// Log is told what went wrong; nil: slog.Default(). It never sees a token or key.
	Log *slog.Logger
}

// Source hands out access tokens. It is safe for many goroutines. Close it when it is no
// longer needed.
type Source struct {
	conf   Config
	log    *slog.Logger
	http   *http.Client
	life   context.Context // ends with Close
	end    context.CancelFunc
	flying sync.WaitGroup

	mu       sync.Mutex
	rec      Record        // guarded by mu; what is known
	known    bool          // guarded by mu; rec was read or written once
	due      time.Time     // guarded by mu; when rec is to be renewed; zero: not before it fails
	readAt   time.Time     // guarded by mu; when the store was last read or written
	debt     *debt         // guarded by mu; tokens that the store does not have yet; nil: none
	untold   bool          // guarded by mu; OnChange does not know rec yet
	leaving  bool          // guarded by mu; a sign-out that the store does not know yet
	epoch    uint64        // guarded by mu; counts sign-ins and sign-outs: what began before is late
	offset   time.Duration // guarded by mu; the server's clock less ours
	dated    bool          // guarded by mu; an answer had a Date, so offset counts
	flight   *flight       // guarded by mu; the one that is under way; nil: none
	notUntil time.Time     // guarded by mu; no attempt before
	backoff  time.Duration // guarded by mu
	failed   error         // guarded by mu; of the last attempt; nil: it succeeded
	told     sync.Mutex    // held while OnChange runs
}

// debt is a record that was received and could not be stored yet.
type debt struct {
	next      Record
	base      Version // the store's when presented was read from it
	presented string  // the refresh token that next came from
}

// flight is one attempt that all callers share.
type flight struct {
	done chan struct{} // closed when the rest is set
	rec  Record
	err  error
}

// New returns a Source. It reads nothing and asks nobody yet.
func New(c Config) (*Source, error) {
	if _, err := secureURL(c.Endpoints.Token); err != nil {
		return nil, fmt.Errorf("source: Endpoints.Token: %w", err)
	}
	for name, raw := range map[string]string{"Authorize": c.Endpoints.Authorize, "Revoke": c.Endpoints.Revoke} {
		if raw != "" {
			if _, err := secureURL(raw); err != nil {
				return nil, fmt.Errorf("source: Endpoints.%s: %w", name, err)
			}
		}
	}
	if c.ClientID == "" {
		return nil, errors.New("source: ClientID is empty: it is the name under which the client is registered")
	}
	if c.Store == nil {
		return nil, errors.New("source: Store is nil: use NewFile, or new(Memory) to forget the session at exit")
	}
	if c.Early == 0 {
		c.Early = 0.8
	}
	if c.Jitter == 0 {
		c.Jitter = 0.05
	}
	c.Jitter = max(c.Jitter, 0)
	if !(c.Early > 0 && c.Early-c.Jitter > 0 && c.Early+c.Jitter <= 1) {
		return nil, errors.New("source: Early and Jitter: the moment of renewal must lie within the token's life, as 0.8 and 0.05 do")
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.LockWait == 0 {
		c.LockWait = 3 * c.Timeout
	}
	if c.Timeout < 0 || c.LockWait < 2*c.Timeout {
		return nil, fmt.Errorf("source: LockWait is %v with a Timeout of %v: it has to be at least twice as long", c.LockWait, c.Timeout)
	}
	if c.Recheck == 0 {
		c.Recheck = 5 * time.Second
	}
	s := &Source{conf: c, log: c.Log, http: straight(c.HTTP)}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// ErrClosed is returned after Close.
var ErrClosed = errors.New("the token source is closed")

// Close ends an attempt that is under way and waits for it. The session goes on: the
// store has it.
func (s *Source) Close() {
	s.mu.Lock()
	s.end() // under the lock: no attempt starts afterwards
	s.mu.Unlock()
	s.flying.Wait()
}

// Token returns tokens whose access token lives. While it does, Token returns at once,
// whatever happens to the server; a renewal that is due goes on behind the scenes. When it
// does not, Token waits for the renewal that all callers share, or until ctx ends, which
// does not end the renewal.
//
// The error is ErrSignedOut, ErrClosed, ctx's, a *RejectedError or a *TransientError.
func (s *Source) Token(ctx context.Context) (Tokens, error) { return s.token(ctx, "") }

// token is Token, where the access token bad does not count as alive.
func (s *Source) token(ctx context.Context, bad string) (Tokens, error) {
	for range 3 {
		if err := ctx.Err(); err != nil {
			return Tokens{}, err
		}
		now := time.Now()
		s.mu.Lock()
		t, live := s.rec.Tokens, s.alive(s.rec, now) && s.rec.Tokens.AccessToken != bad
		if live && !s.isDue(now) && !s.stale(now) && s.debt == nil && !s.untold {
			s.mu.Unlock()
			return t, nil
		}
		f := s.flight
		if f == nil {
			if err := s.failed; err != nil && now.Before(s.notUntil) {
				s.mu.Unlock()
				if live {
					return t, nil
				}
				return Tokens{}, err
			}
			if s.life.Err() != nil {
				s.mu.Unlock()
				if live {
					return t, nil
				}
				return Tokens{}, ErrClosed
			}
			f = s.fly(bad)
		}
		s.mu.Unlock()
		if live {
			return t, nil
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return Tokens{}, ctx.Err()
		}
		if errors.Is(f.err, errLate) {
			continue
		}
		if f.err != nil {
			return Tokens{}, f.err
		}
		// A flight that began before this caller met the 401 may have found nothing to do.
		if f.rec.Tokens.AccessToken != bad {
			return f.rec.Tokens, nil
		}
	}
	return Tokens{}, &TransientError{Err: errors.New("the session keeps changing, or the server keeps handing out an access token that an API refuses")}
}

// alive tells whether the access token of a record can be used. Two clocks have to agree:
// the wall's, which goes on while the machine sleeps, and the monotonic one, which nobody
// sets back.
func (s *Source) alive(r Record, now time.Time) bool {
	switch t := r.Tokens; {
	case t.AccessToken == "":
		return false
	case t.Expiry.IsZero():
		return true
	default:
		end := t.Expiry.Add(s.shift(r))
		return now.Before(end) && now.Round(0).Before(end.Round(0))
	}
}

// shift is what has to be added to the times of a record that was received by a machine
// whose clock differs from ours. The server's Date told both how wrong they are; to the
// second only, so that small differences say nothing.
func (s *Source) shift(r Record) time.Duration {
	d := r.Offset - s.offset
	if !r.Dated || !s.dated || abs(int64(d)) < int64(5*time.Second) {
		return 0
	}
	return d
}

// isDue tells whether the held record should be renewed, though it may be alive. mu is held.
func (s *Source) isDue(now time.Time) bool {
	if !s.due.IsZero() && (!now.Before(s.due) || !now.Round(0).Before(s.due.Round(0))) {
		return true
	}
	// The clock was set back since: what it says about the expiry is worth nothing.
	return !s.due.IsZero() && now.Round(0).Before(s.rec.Tokens.Issued.Round(0).Add(s.shift(s.rec)-time.Minute))
}

// stale tells whether the store should be looked at again. mu is held.
func (s *Source) stale(now time.Time) bool {
	return s.conf.Recheck > 0 && now.Sub(s.readAt) >= s.conf.Recheck
}

// dueOf draws the moment at which a record is to be renewed.
func (s *Source) dueOf(r Record) time.Time {
	t := r.Tokens
	if t.Expiry.IsZero() || t.RefreshToken == "" {
		return time.Time{}
	}
	part := s.conf.Early + s.conf.Jitter*(2*rand.Float64()-1)
	return t.Issued.Add(s.shift(r)).Add(time.Duration(float64(t.Expiry.Sub(t.Issued)) * part))
}

// adopt takes a record over as what is known, and tells whether it is another one. mu is held.
func (s *Source) adopt(r Record, now time.Time) {
	s.readAt = now
	if s.known && same(s.rec, r) {
		return // ours has the monotonic clock
	}
	if s.known {
		s.untold = true
	}
	s.rec, s.known = r, true
	s.due = s.dueOf(r)
}

func same(a, b Record) bool {
	return a.RetryKey == b.RetryKey && a.Ended == b.Ended && a.Tokens.AccessToken == b.Tokens.AccessToken &&
		a.Tokens.RefreshToken == b.Tokens.RefreshToken
}

// fly starts an attempt. mu is held.
func (s *Source) fly(bad string) *flight {
	f := &flight{done: make(chan struct{})}
	s.flight = f
	epoch := s.epoch
	s.flying.Add(1)
	go func() {
		defer s.flying.Done()
		defer close(f.done)
		ctx, cancel := context.WithTimeout(s.life, 2*s.conf.LockWait+4*s.conf.Timeout)
		defer cancel()
		f.rec, f.err = s.renew(ctx, bad, epoch)
		if err := s.tell(ctx); err != nil && f.err == nil && !s.usable(f.rec) {
			f.rec, f.err = Record{}, err
		} else if err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "tokens are renewed, but OnChange failed", slog.Any("err", err))
			s.fail(err)
		}
		s.landed(ctx, f)
	}()
	return f
}

func (s *Source) usable(r Record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alive(r, time.Now())
}

// landed notes how an attempt ended.
func (s *Source) landed(ctx context.Context, f *flight) {
	if f.err != nil && s.life.Err() != nil {
		f.err = ErrClosed
	}
	s.mu.Lock()
	s.flight = nil
	s.mu.Unlock()
	te, transient := errors.AsType[*TransientError](f.err)
	re, rejected := errors.AsType[*RejectedError](f.err)
	switch {
	case transient:
		s.log.LogAttrs(ctx, slog.LevelWarn, "tokens can not be renewed for now", slog.Any("err", te.Err))
		s.fail(f.err)
	case rejected && !re.Ended:
		s.log.LogAttrs(ctx, slog.LevelError, "the authorization server refuses this client", slog.Any("err", f.err))
		s.fail(f.err)
	default:
		s.mu.Lock()
		if s.debt == nil && !s.untold {
			s.failed, s.backoff, s.notUntil = nil, 0, time.Time{}
		}
		s.mu.Unlock()
	}
}

const (
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = 30 * time.Second
)

// fail notes a failure: the next attempt waits, longer each time, and never less than the
// server asked for.
func (s *Source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
	s.backoff = min(max(2*s.backoff, firstBackoff), lastBackoff)
	wait := s.backoff/2 + rand.N(s.backoff/2)
	if te, ok := errors.AsType[*TransientError](err); ok {
		wait = max(wait, te.RetryAfter+rand.N(firstBackoff/2))
	}
	s.notUntil = time.Now().Add(wait)
}

// Health returns nil, or what went wrong last and has not been made good since: a renewal, a
// write to the store, OnChange. Token may well work meanwhile.
func (s *Source) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// tell calls OnChange until it knows the newest record. Its error is a *TransientError.
func (s *Source) tell(ctx context.Context) error {
	s.told.Lock()
	defer s.told.Unlock()
	for {
		s.mu.Lock()
		r, todo := s.rec, s.untold
		if s.conf.OnChange == nil {
			s.untold, todo = false, false
		}
		todo = todo && s.debt == nil // it is told of what is stored
		s.mu.Unlock()
		if !todo {
			return nil
		}
		if err := s.conf.OnChange(ctx, r); err != nil {
			return &TransientError{Err: fmt.Errorf("tell of new tokens: %w", err)}
		}
		s.mu.Lock()
		if same(s.rec, r) {
			s.untold = false
		}
		s.mu.Unlock()
	}
}

// hold adopts a record that was read, unless the user signed in or out since epoch.
func (s *Source) hold(r Record, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == epoch {
		s.adopt(r, time.Now())
	}
}

// good tells whether a stored record needs nothing now.
func (s *Source) good(r Record, bad string, epoch uint64) bool {
	s.hold(r, epoch)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	return s.epoch == epoch && same(s.rec, r) && r.Tokens.AccessToken != bad && s.alive(r, now) && !s.isDue(now)
}

// over returns the error of a record without a session; nil if it has one.
func over(r Record) error {
	switch {
	case r.Ended != "":
		return &RejectedError{Code: r.Ended, Ended: true}
	case r.Tokens.AccessToken == "" && r.Tokens.RefreshToken == "":
		return ErrSignedOut
	}
	return nil
}

func (s *Source) load(ctx context.Context) (Record, Version, error) {
	r, ver, err := s.conf.Store.Load(ctx)
	if err != nil {
		return Record{}, "", &TransientError{Err: fmt.Errorf("load tokens: %w", err)}
	}
	return r, ver, nil
}

// rounds bounds how often an attempt begins again because others wrote to the store.
const rounds = 10

// renew makes the session usable: from the store if somebody else has renewed it, from the
// server otherwise. Tokens whose epoch has passed are revoked and never stored.
func (s *Source) renew(ctx context.Context, bad string, epoch uint64) (Record, error) {
	if err := s.settle(ctx); err != nil {
		return Record{}, err
	}
	r, _, err := s.load(ctx)
	if err != nil {
		return Record{}, err
	}
	if s.good(r, bad, epoch) {
		return r, nil
	}
	if err := over(r); err != nil {
		return Record{}, err
	}

	unlock, err := s.lock(ctx)
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	hot := true
	for range rounds {
		r, ver, err := s.load(ctx)
		if err != nil {
			return Record{}, err
		}
		if s.good(r, bad, epoch) {
			return r, nil
		}
		if err := over(r); err != nil {
			return Record{}, err
		}
		if s.late(epoch) {
			return Record{}, errLate
		}
		if r.Tokens.RefreshToken == "" {
			if s.usable(r) && r.Tokens.AccessToken != bad {
				return r, nil
			}
			return Record{}, &RejectedError{Code: "no_refresh_token", Description: "the access token is over and nothing can renew it", Ended: true}
		}
		if err := s.tell(ctx); err != nil {
			return Record{}, err // what OnChange has to keep is not used up before it has it
		}
		if r.RetryKey == "" {
			r.RetryKey = draw()
			if err := s.conf.Store.Swap(ctx, ver, r); err != nil && !errors.Is(err, ErrChanged) {
				return Record{}, &TransientError{Err: fmt.Errorf("store the retry key: %w", err)}
			}
			continue // what is sent is what was read from the store
		}

		next, err := s.refresh(ctx, r)
		if err == nil {
			return s.keep(ctx, debt{next: next, base: ver, presented: r.Tokens.RefreshToken}, epoch)
		}
		if te, ok := errors.AsType[*TransientError](err); ok {
			// One retry at once: an answer got lost. With the same key it is safe; more of them would
			// only add to the load of a server in trouble.
			if hot && te.RetryAfter == 0 && te.Status != http.StatusTooManyRequests && !isTimeout(te.Err) {
				hot = false
				if sleep(ctx, firstBackoff/10+rand.N(firstBackoff/5)) == nil {
					continue
				}
			}
			return Record{}, err
		}
		if re, ok := errors.AsType[*RejectedError](err); !ok || !re.Ended {
			return Record{}, err
		}
		if done, err := s.bury(ctx, r, err, epoch); done {
			return Record{}, err
		}
		// Somebody else renewed: the next round takes what is stored now.
	}
	return Record{}, &TransientError{Err: errors.New("the stored tokens keep changing")}
}

func (s *Source) late(epoch uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch != epoch
}

// lock takes the store's lock, if it has one. When it can not be had in time because one
// holder is stuck, waiting on would be worse: the retry key keeps two refreshes of one token
// from hurting each other. Where holders come and go, going on would overtake them, and an
// answer that is overtaken by two others is one that a thief could have asked for.
func (s *Source) lock(ctx context.Context) (unlock func(), err error) {
	l, ok := s.conf.Store.(Locker)
	if !ok {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.conf.LockWait)
	defer cancel()
	unlock, err = l.Lock(ctx)
	switch {
	case err == nil:
		return unlock, nil
	case errors.Is(err, ErrBusy) || s.life.Err() != nil:
		return nil, &TransientError{Err: err}
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, "renewing tokens without the lock", slog.Any("err", err))
	return func() {}, nil
}

// refresh presents the refresh token of a stored record.
func (s *Source) refresh(ctx context.Context, r Record) (Record, error) {
	next, err := s.ask(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {r.Tokens.RefreshToken}}, r.RetryKey)
	if err != nil {
		return Record{}, err
	}
	if next.Tokens.RefreshToken == "" { // RFC 6749 §6: it is optional, and the old one goes on
		next.Tokens.RefreshToken = r.Tokens.RefreshToken
		if next.Tokens.SessionExpiry.IsZero() {
			next.Tokens.SessionExpiry = r.Tokens.SessionExpiry
		}
	}
	if next.Tokens.SessionEnds.IsZero() {
		next.Tokens.SessionEnds = r.Tokens.SessionEnds
	}
	if next.Tokens.IDToken == "" {
		next.Tokens.IDToken = r.Tokens.IDToken
	}
	if next.Tokens.Scope == "" {
		next.Tokens.Scope = r.Tokens.Scope
	}
	// Drawn anew for each answer, also where the refresh token stays: a server may answer a key
	// that it has seen with the answer that it gave then. Stored together with the token, it is
	// there before anybody can send it.
	next.RetryKey = draw()
	if next.Dated {
		s.mu.Lock()
		if d := next.Offset - s.offset; abs(int64(d)) > int64(time.Minute) {
			s.log.LogAttrs(ctx, slog.LevelWarn, "this clock and the authorization server's differ", slog.Duration("by", next.Offset.Round(time.Second)))
		}
		s.offset, s.dated = next.Offset, true
		s.mu.Unlock()
	}
	return next, nil
}

// keep stores new tokens and takes them over. What can not be stored is kept in memory as
// a debt: its access token can be used, its refresh token not before it is stored.
func (s *Source) keep(ctx context.Context, d debt, epoch uint64) (Record, error) {
	var r Record
	var err error
	for i := range 3 {
		if s.late(epoch) {
			return s.drop(d, Record{}, epoch)
		}
		if r, err = s.store(ctx, d); err == nil || sleep(ctx, (20<<i)*time.Millisecond) != nil {
			break
		}
	}
	if err != nil {
		s.mu.Lock()
		if s.epoch != epoch {
			s.mu.Unlock()
			return s.drop(d, Record{}, epoch)
		}
		s.adopt(d.next, time.Now())
		s.debt = &d
		s.mu.Unlock()
		s.log.LogAttrs(ctx, slog.LevelError, "new tokens are in memory only", slog.Any("err", err))
		s.fail(err)
		return d.next, nil
	}
	if !same(r, d.next) {
		if over(r) != nil {
			return s.drop(d, r, epoch)
		}
		s.hold(r, epoch)
		return r, nil
	}
	s.hold(d.next, epoch)
	if s.late(epoch) {
		// The sign-out found the new tokens in the store and revoked them, or still will.
		return Record{}, errLate
	}
	return d.next, nil
}

// store writes a debt into the store if that still holds the refresh token which was
// presented, and returns what the store holds then: the debt's record, or a newer one of
// somebody else's. An error leaves the outcome unknown.
func (s *Source) store(ctx context.Context, d debt) (Record, error) {
	ver := d.base
	for range rounds {
		err := s.conf.Store.Swap(ctx, ver, d.next)
		if err == nil {
			return d.next, nil
		}
		cur, at, lerr := s.load(ctx)
		switch {
		case lerr != nil:
			return Record{}, lerr
		case same(cur, d.next):
			return d.next, nil // it was written in spite of the error
		case over(cur) != nil || cur.Tokens.RefreshToken != d.presented:
			return cur, nil
		case !errors.Is(err, ErrChanged):
			return Record{}, &TransientError{Err: fmt.Errorf("store tokens: %w", err)}
		}
		ver = at
	}
	return Record{}, &TransientError{Err: errors.New("store tokens: they keep changing")}
}

// errLate says that somebody signed in or out here while an attempt was under way: what
// it found belongs to a session that is no longer this Source's.
var errLate = errors.New("somebody signed in or out meanwhile")

// drop throws tokens away that came too late; cur is what the store holds instead, if it
// was that which told. After a sign-out they are revoked. After a new sign-in they are not:
// the user may have signed in with a newer token of the same family, which would die too.
func (s *Source) drop(d debt, cur Record, epoch uint64) (Record, error) {
	s.mu.Lock()
	out := s.rec.Ended != "" || cur.Ended != ""
	if s.epoch == epoch {
		s.adopt(cur, time.Now())
	}
	s.mu.Unlock()
	if out {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.life), s.conf.Timeout)
		defer cancel()
		if err := s.revoke(ctx, d.next.Tokens.RefreshToken); err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "tokens that came after the sign-out are not revoked", slog.Any("err", err))
		}
	}
	if err := over(cur); err != nil && cur.Ended != "" {
		return Record{}, err
	}
	return Record{}, errLate
}

// settle pays what is owed to the store before anything else is done. Its error is a
// *TransientError, or a *RejectedError once a sign-out is settled.
func (s *Source) settle(ctx context.Context) error {
	s.mu.Lock()
	d, leaving, epoch := s.debt, s.leaving, s.epoch
	s.mu.Unlock()
	if leaving {
		_, err := s.wipe(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		if s.epoch == epoch {
			s.leaving = false
		}
		s.mu.Unlock()
		return &RejectedError{Code: SignedOut, Ended: true}
	}
	if d == nil {
		return nil
	}
	r, err := s.store(ctx, *d)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.debt == d {
		s.debt = nil
	}
	s.mu.Unlock()
	if over(r) != nil {
		_, err := s.drop(*d, r, epoch)
		return err
	}
	return nil
}

// bury marks a session as ended, if the store still holds the refresh token that was
// refused. done is false if it holds another one.
func (s *Source) bury(ctx context.Context, r Record, why error, epoch uint64) (done bool, err error) {
	re, _ := errors.AsType[*RejectedError](why)
	dead := Record{Ended: re.Code}
	for range rounds {
		cur, ver, err := s.load(ctx)
		if err != nil {
			return true, err
		}
		if over(cur) == nil && cur.Tokens.RefreshToken != r.Tokens.RefreshToken {
			return false, nil
		}
		if err := over(cur); err != nil {
			s.hold(cur, epoch)
			return true, err
		}
		err = s.conf.Store.Swap(ctx, ver, dead)
		if errors.Is(err, ErrChanged) {
			continue
		}
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "the end of the session is not stored", slog.Any("err", err))
		}
		s.hold(dead, epoch)
		return true, why
	}
	return true, &TransientError{Err: errors.New("the stored tokens keep changing")}
}

// Put begins a session with tokens that were obtained in another way than SignIn. They
// are durable when it returns nil. Whatever the store held before is replaced, not revoked.
// A zero Issued means now.
func (s *Source) Put(ctx context.Context, t Tokens) error {
	if t.AccessToken == "" && t.RefreshToken == "" {
		return errors.New("put tokens: there are none")
	}
	if t.Issued.IsZero() {
		t.Issued = time.Now()
	}
	return s.begin(ctx, Record{Tokens: t})
}

// begin replaces the session.
func (s *Source) begin(ctx context.Context, r Record) error {
	r.RetryKey = draw()
	for range rounds {
		_, ver, err := s.load(ctx)
		if err != nil {
			return err
		}
		err = s.conf.Store.Swap(ctx, ver, r)
		if errors.Is(err, ErrChanged) {
			continue
		}
		if err != nil {
			return &TransientError{Err: fmt.Errorf("store tokens: %w", err)}
		}
		s.mu.Lock()
		s.epoch++
		s.debt, s.leaving = nil, false
		s.failed, s.backoff, s.notUntil = nil, 0, time.Time{}
		s.known = true // OnChange is told, also if nothing was read before
		s.adopt(r, time.Now())
		s.mu.Unlock()
		return s.tell(ctx)
	}
	return &TransientError{Err: errors.New("the stored tokens keep changing")}
}

// SignOut ends the session: here at once, in the store, and at the server, in this order.
// It wins over a renewal that is under way anywhere: tokens that arrive later are thrown
// away and revoked. An error means that the store or the server does not know yet; the
// store is told again at the next Token, and this Source uses the session no more.
func (s *Source) SignOut(ctx context.Context) error {
	s.mu.Lock()
	s.epoch++
	last := s.rec.Tokens.RefreshToken
	owed := s.debt != nil
	s.debt, s.leaving = nil, true
	s.known = true
	s.adopt(Record{Ended: SignedOut}, time.Now())
	epoch := s.epoch
	s.mu.Unlock()

	found, err := s.wipe(ctx)
	if err == nil {
		s.mu.Lock()
		if s.epoch == epoch {
			s.leaving = false
		}
		s.mu.Unlock()
	}
	if found != "" && !owed {
		last = found
	}
	return errors.Join(err, s.revoke(ctx, last), s.tell(ctx))
}

// wipe marks the session as signed out in the store and returns the refresh token that was
// there.
func (s *Source) wipe(ctx context.Context) (refresh string, err error) {
	for range rounds {
		cur, ver, err := s.load(ctx)
		if err != nil {
			return "", err
		}
		if over(cur) != nil {
			return "", nil
		}
		err = s.conf.Store.Swap(ctx, ver, Record{Ended: SignedOut})
		if err == nil {
			return cur.Tokens.RefreshToken, nil
		}
		if !errors.Is(err, ErrChanged) {
			return cur.Tokens.RefreshToken, &TransientError{Err: fmt.Errorf("store the sign-out: %w", err)}
		}
	}
	return "", &TransientError{Err: errors.New("the stored tokens keep changing")}
}

// longestNap bounds how long Run sleeps: the wall's clock may move, and the store change,
// meanwhile.
const longestNap = 15 * time.Second

// Run keeps the session renewed until ctx ends, and then returns nil. Without a session, or
// after its end, it waits for the next one. It is not needed: Token renews by itself when it is
// called often enough.
func (s *Source) Run(ctx context.Context) error {
	for {
		if _, err := s.Token(ctx); errors.Is(err, ErrClosed) {
			return err
		}
		now := time.Now()
		nap := longestNap
		s.mu.Lock()
		if !s.due.IsZero() {
			nap = min(nap, s.due.Round(0).Sub(now.Round(0)))
		}
		if s.failed != nil {
			nap = max(min(nap, longestNap), s.notUntil.Sub(now))
		}
		s.mu.Unlock()
		if sleep(ctx, max(nap, 50*time.Millisecond)) != nil {
			return nil
		}
	}
}
