package keys

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// attempts bounds how often a decision is taken anew because another node was faster.
const attempts = 50

// Config is what Open needs.
type Config struct {
	Store  Store
	KEK    KEK    // wraps new keys, and opens those that it wrapped
	Former []KEK  // open keys that were wrapped before KEK took over; nil: none
	Issuer string // the issuer URL: part of every MAC, so that no other installation's tokens pass (required)

	Wait    time.Duration // a key is published so long before it signs; 0: 24 h
	Roll    time.Duration // a new key follows the last one after so long; 0: 90 days; negative: only by command
	Keep    time.Duration // a retired signing key stays published so long: at least as long as any JWT lives; 0: 48 h
	KeepMAC time.Duration // a retired MAC key is kept so long: at least as long as any token lives unused; 0: for ever
	Spread  time.Duration // a key made in an emergency signs after so long; 0: at once. Several nodes: twice Poll, so that all know it
	Poll    time.Duration // Run looks at the store so often; 0: 1 min

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // what Run did and could not do; nil: slog.Default()
}

// Ring is all keys of an installation, ready to use. It is safe for many goroutines; what does not take a context does no
// I/O and takes no lock. It cannot be printed.
type Ring struct {
	store   Store
	kek     KEK
	former  []KEK
	issuer  string
	rules   rules        // but for keepMAC
	keepMAC atomic.Int64 // a time.Duration
	spread  time.Duration
	poll    time.Duration
	now     func() time.Time
	log     *slog.Logger

	snap atomic.Pointer[snapshot] // never nil after Open, never changed in place
	turn chan struct{}            // held while a new snapshot is made, so that an old one never replaces a newer one
}

// snapshot is what the readers see.
type snapshot struct {
	recs    []Record
	made    map[slot]material // of all records but the gone
	list    []Info
	mac     map[uint16]*macKey
	macNow  uint16
	seal    map[uint16]*macKey // they only derive keys
	sealNow uint16
	index   *macKey
	signers map[Alg]*signKey
	kids    map[string]*signKey
	jwks    []byte
	etag    string
}

type slot struct {
	use Use
	id  uint16
}

// material is an unwrapped key: sign for the use sign, mac for the others.
type material struct {
	rec  Record
	mac  *macKey
	sign *signKey
}

// Open loads the keys of a store, makes those that are missing (all of them at the first start; that takes some 100 ms, for
// the two RSA keys) and those that are due. New keys are durable before Open returns. It fails when a key cannot be
// unwrapped, and says which and why. The ring changes with time only while Run runs.
func Open(ctx context.Context, c Config) (*Ring, error) {
	switch {
	case c.Store == nil:
		return nil, errors.New("open keys: Config.Store is nil")
	case c.KEK.ID() == "":
		return nil, errors.New("open keys: Config.KEK is not set: use FileKEK or ParseKEK")
	case c.Issuer == "":
		return nil, errors.New("open keys: Config.Issuer is empty")
	}
	r := &Ring{
		store: c.Store, kek: c.KEK, former: slices.Clone(c.Former), issuer: c.Issuer,
		rules: rules{
			wait:     cmp.Or(c.Wait, 24*time.Hour),
			roll:     cmp.Or(c.Roll, 90*24*time.Hour),
			keepSign: cmp.Or(c.Keep, 48*time.Hour),
		},
		spread: c.Spread,
		poll:   cmp.Or(c.Poll, time.Minute),
		now:    c.Now,
		log:    cmp.Or(c.Log, slog.Default()),
		turn:   make(chan struct{}, 1),
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.keepMAC.Store(int64(c.KeepMAC))
	for name, d := range map[string]time.Duration{
		"Wait": c.Wait, "Keep": c.Keep, "KeepMAC": c.KeepMAC, "Spread": c.Spread, "Poll": c.Poll,
	} {
		if d < 0 {
			return nil, fmt.Errorf("open keys: Config.%s is %v: it cannot be negative", name, d)
		}
	}
	if r.rules.roll > 0 && r.rules.roll <= r.rules.wait {
		return nil, fmt.Errorf("open keys: Config.Roll is %v: it must be longer than Wait, %v", r.rules.roll, r.rules.wait)
	}
	if err := r.step(ctx); err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	return r, nil
}

// Run keeps the ring in step with time and with the other nodes: every Config.Poll it reads the store, makes keys that are
// due, drops those that nothing can need. A store that fails is logged and tried again; meanwhile the known keys go on
// with their lives. Run returns nil when ctx ends.
func (r *Ring) Run(ctx context.Context) error {
	tick := time.NewTicker(r.poll)
	defer tick.Stop()
	for {
		// A store that hangs must not hold up the known keys' lives.
		limited, cancel := context.WithTimeout(ctx, max(r.poll, 30*time.Second))
		if err := r.step(limited); err != nil && ctx.Err() == nil {
			r.log.Error("keys: the ring works on with the keys it has", "err", err)
		}
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// SetKeepMAC changes Config.KeepMAC: how long a retired MAC key is kept; 0: for ever. It counts from the next look at the
// store.
func (r *Ring) SetKeepMAC(d time.Duration) { r.keepMAC.Store(int64(max(d, 0))) }

// Reload reads the store, so that keys of other nodes are known at once. On an error the ring stays as it was.
func (r *Ring) Reload(ctx context.Context) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.leave()
	recs, err := r.load(ctx)
	if err != nil {
		return err
	}
	return r.show(recs)
}

// step is one look at the store: make what is due, drop what is gone, show the rest.
func (r *Ring) step(ctx context.Context) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.leave()
	err := r.settle(ctx)
	if old := r.snap.Load(); err != nil && old != nil {
		return errors.Join(err, r.show(old.recs)) // time has passed all the same
	}
	return err
}

func (r *Ring) settle(ctx context.Context) error {
again:
	for range attempts {
		recs, err := r.load(ctx)
		if err != nil {
			return err
		}
		births, deaths, err := r.policy().due(recs, r.now())
		if err != nil {
			return err
		}
		// Before anything is made: with the wrong KEK, nothing shall be added to a store that this node cannot read.
		if _, err := r.unwrapAll(recs, r.now()); err != nil {
			return err
		}
		for _, rec := range births {
			rec, err := r.create(ctx, rec)
			if errors.Is(err, ErrExists) {
				continue again // another node was faster: look what it did
			}
			if err != nil {
				return err
			}
			recs = append(recs, rec)
			r.log.Info("keys: made", "key", rec.name(), "alg", rec.Alg, "signs", rec.Signs)
		}
		if err := r.show(recs); err != nil {
			return err
		}
		for _, rec := range deaths {
			if err := r.store.DropKey(ctx, rec.Use, rec.ID); err != nil {
				return fmt.Errorf("drop key %s: %w", rec.name(), err)
			}
			r.log.Info("keys: dropped", "key", rec.name(), "alg", rec.Alg)
		}
		return nil
	}
	return fmt.Errorf("make keys: other nodes were faster %d times", attempts)
}

// Rotate makes a new key of a use; sign needs an algorithm, mac and seal take "". It is published at once, durably, and
// takes over from the signing one after Config.Wait; with now, for emergencies, after Config.Spread, and ahead of any key
// that is only published. What was made with the old key stays valid: Drop ends that. After an error other than for a use
// or algorithm that does not exist the outcome is unknown: look at List after a Reload.
func (r *Ring) Rotate(ctx context.Context, use Use, alg Alg, now bool) (Info, error) {
	ln, err := lineOf(use, alg)
	if err != nil {
		return Info{}, fmt.Errorf("rotate: %v", err)
	}
	if use == UseIndex {
		return Info{}, errors.New("rotate: the index key never rotates: every look-up of a sealed value would miss")
	}
	if err := r.enter(ctx); err != nil {
		return Info{}, err
	}
	defer r.leave()
	wait := r.rules.wait
	if now {
		wait = r.spread
	}
	for range attempts {
		recs, err := r.load(ctx)
		if err != nil {
			return Info{}, err
		}
		at := r.now()
		rec, err := next(recs, ln, at, at.Add(wait))
		if err != nil {
			return Info{}, err
		}
		rec, err = r.create(ctx, rec)
		if errors.Is(err, ErrExists) {
			continue
		}
		if err != nil {
			return Info{}, err
		}
		if err := r.show(append(recs, rec)); err != nil {
			return Info{}, err
		}
		for _, in := range r.snap.Load().list {
			if in.Use == rec.Use && in.ID == rec.ID {
				return in, nil
			}
		}
		return Info{}, fmt.Errorf("rotate: key %s was made and is gone already: is the clock right?", rec.name())
	}
	return Info{}, fmt.Errorf("rotate: other nodes were faster %d times", attempts)
}

// Drop ends a MAC or signing key for good, before its time: all tokens made with it are refused here at once and on other
// nodes after Config.Poll; verifiers elsewhere follow when they fetch the JWKS. The key that signs cannot be dropped:
// Rotate first. Seal and index keys cannot be dropped: rows need them.
func (r *Ring) Drop(ctx context.Context, use Use, id uint16) error {
	if use != UseMAC && use != UseSign {
		return fmt.Errorf("drop key %s/%d: only mac and sign keys can be dropped: stored rows need the others", use, id)
	}
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.leave()
	recs, err := r.load(ctx)
	if err != nil {
		return err
	}
	for _, l := range r.policy().lives(recs) {
		if l.Use != use || l.ID != id {
			continue
		}
		if l.state(r.now()) == Signing {
			return fmt.Errorf("drop key %s: it is the one that signs: rotate %s first", l.name(), use)
		}
		if err := r.store.DropKey(ctx, use, id); err != nil {
			return fmt.Errorf("drop key %s: %w", l.name(), err)
		}
		return r.show(slices.DeleteFunc(recs, func(rec Record) bool { return rec.Use == use && rec.ID == id }))
	}
	return fmt.Errorf("drop key %s/%d: there is no such key", use, id)
}

// List describes all keys, by use and id.
func (r *Ring) List() []Info { return slices.Clone(r.snap.Load().list) }

// Format keeps the keys out of every verb.
func (r *Ring) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[key ring]") }

// enter waits for the turn to make a snapshot. Unlike a mutex it gives up when ctx ends: the turn is held during I/O.
func (r *Ring) enter(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the key ring: %w", ctx.Err())
	}
}

func (r *Ring) leave() { <-r.turn }

func (r *Ring) policy() rules {
	p := r.rules
	p.keepMAC = time.Duration(r.keepMAC.Load())
	return p
}

func (r *Ring) load(ctx context.Context) ([]Record, error) {
	recs, err := r.store.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("load keys: %w", err)
	}
	seen := make(map[slot]bool, len(recs))
	for _, rec := range recs {
		if !rec.line().known() || rec.ID == 0 {
			return nil, fmt.Errorf("load keys: key %s has algorithm %q, which this version does not know: was it made by a newer one?", rec.name(), rec.Alg)
		}
		if seen[slot{rec.Use, rec.ID}] {
			return nil, fmt.Errorf("load keys: the store returned key %s twice", rec.name())
		}
		seen[slot{rec.Use, rec.ID}] = true
	}
	return slices.Clone(recs), nil
}

// create draws the key of a record, wraps it and stores it.
func (r *Ring) create(ctx context.Context, rec Record) (Record, error) {
	var plain []byte
	if rec.Use == UseSign {
		der, err := generateSigner(rec.Alg)
		if err != nil {
			return Record{}, fmt.Errorf("make key %s: %v", rec.name(), err)
		}
		plain = der
	} else {
		plain = make([]byte, 32)
		rand.Read(plain)
	}
	defer clear(plain)
	rec.KEK = r.kek.ID()
	rec.Wrapped = r.kek.wrap(plain, rec.aad())
	if err := r.store.PutKey(ctx, rec); err != nil {
		return Record{}, fmt.Errorf("store key %s: %w", rec.name(), err)
	}
	return rec, nil
}

// aad is what Wrapped authenticates besides the key: nobody who can write to the database can make an old key sign again,
// or give a key another use.
func (rec Record) aad() []byte {
	b := []byte("heirloom key v1")
	for _, s := range []string{string(rec.Use), string(rec.Alg), rec.KEK} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	b = binary.BigEndian.AppendUint16(b, rec.ID)
	b = binary.BigEndian.AppendUint64(b, uint64(rec.Created.Unix()))
	return binary.BigEndian.AppendUint64(b, uint64(rec.Signs.Unix()))
}

// unwrapAll opens all records but the gone; those that the ring has open already are taken over.
func (r *Ring) unwrapAll(recs []Record, now time.Time) (map[slot]material, error) {
	var have map[slot]material
	if old := r.snap.Load(); old != nil {
		have = old.made
	}
	out := make(map[slot]material, len(recs))
	for _, l := range r.policy().lives(recs) {
		if l.state(now) == Gone {
			continue
		}
		at := slot{l.Use, l.ID}
		if m, ok := have[at]; ok && bytes.Equal(m.rec.Wrapped, l.Wrapped) && bytes.Equal(m.rec.aad(), l.aad()) {
			out[at] = m
			continue
		}
		m, err := r.unwrap(l.Record)
		if err != nil {
			return nil, err
		}
		out[at] = m
	}
	return out, nil
}

func (r *Ring) unwrap(rec Record) (material, error) {
	kek, ok := r.kek, rec.KEK == r.kek.ID()
	for _, f := range r.former {
		if !ok && rec.KEK == f.ID() {
			kek, ok = f, true
		}
	}
	if !ok {
		return material{}, fmt.Errorf("unwrap key %s: it was wrapped by key-encryption key %s, but the one in %s is %s: "+
			"give the server back the key file or variable that it was set up with", rec.name(), rec.KEK, r.kek.k.from, r.kek.ID())
	}
	plain, err := kek.unwrap(rec.Wrapped, rec.aad())
	if err != nil {
		return material{}, fmt.Errorf("unwrap key %s: its record is damaged or was altered (%v), though the key-encryption key in %s is the right one: "+
			"restore table or file of keys from a backup", rec.name(), err, kek.k.from)
	}
	m := material{rec: rec}
	if rec.Use == UseSign {
		defer clear(plain)
		if m.sign, err = parseSigner(rec.Alg, plain); err != nil {
			return material{}, fmt.Errorf("unwrap key %s: %v", rec.name(), err)
		}
		return m, nil
	}
	if len(plain) != 32 {
		return material{}, fmt.Errorf("unwrap key %s: %d bytes, want 32", rec.name(), len(plain))
	}
	m.mac = newMACKey(plain)
	return m, nil
}

// show makes records what the readers see from now on.
func (r *Ring) show(recs []Record) error {
	now := r.now()
	made, err := r.unwrapAll(recs, now)
	if err != nil {
		return err
	}
	s := &snapshot{
		recs: recs, made: made,
		mac: map[uint16]*macKey{}, seal: map[uint16]*macKey{},
		signers: map[Alg]*signKey{}, kids: map[string]*signKey{},
	}
	has := map[line]bool{}
	for _, l := range r.policy().lives(recs) {
		state := l.state(now)
		if state == Gone {
			continue
		}
		m := made[slot{l.Use, l.ID}]
		in := Info{Use: l.Use, ID: l.ID, Alg: l.Alg, State: state, Created: l.Created, Signs: l.Signs, Retires: l.retires, Ends: l.ends}
		signs := state == Signing
		has[l.line()] = has[l.line()] || signs
		switch l.Use {
		case UseMAC:
			s.mac[l.ID] = m.mac
			if signs {
				s.macNow = l.ID
			}
		case UseSeal:
			s.seal[l.ID] = m.mac
			if signs {
				s.sealNow = l.ID
			}
		case UseIndex:
			if signs {
				s.index = m.mac
			}
		case UseSign:
			in.Kid = m.sign.kid
			s.kids[m.sign.kid] = m.sign
			if signs {
				s.signers[l.Alg] = m.sign
			}
		}
		s.list = append(s.list, in)
	}
	for _, ln := range lines() {
		if !has[ln] {
			return fmt.Errorf("load keys: the store has no %s key of algorithm %s to sign with: was it emptied?", ln.use, ln.alg)
		}
	}
	s.jwks, s.etag = s.keySet()
	r.snap.Store(s)
	return nil
}

// keySet encodes the public keys: those that sign first, for clients that take the first that fits, then by algorithm.
func (s *snapshot) keySet() (body []byte, etag string) {
	order := map[State]int{Signing: 1, Published: 2, Retired: 3}
	var infos []Info
	for _, in := range s.list {
		if in.Use == UseSign {
			infos = append(infos, in)
		}
	}
	slices.SortFunc(infos, func(a, b Info) int {
		return cmp.Or(order[a.State]-order[b.State],
			slices.Index(lines(), line{UseSign, a.Alg})-slices.Index(lines(), line{UseSign, b.Alg}),
			int(b.ID)-int(a.ID))
	})
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	for _, in := range infos {
		set.Keys = append(set.Keys, s.kids[in.Kid].jwk)
	}
	body, err := json.Marshal(set)
	if err != nil {
		panic(err) // strings only
	}
	sum := sha256.Sum256(body)
	return body, `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}
