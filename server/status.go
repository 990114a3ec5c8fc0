package server

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/wire"
)

// Places gives out places in the status lists.
type Places interface {
	// Reserve takes n places for the caller and returns the first. No place is ever given
	// twice, by any node.
	Reserve(ctx context.Context, n int) (first uint64, err error)
}

// A family has one place for all its access tokens: they carry the family's id anyway,
// so that a place of their own would hide nothing, and one place is one write. A single
// access token that was revoked is told by the feed and by introspection only.
const (
	listSize   = 1 << 17 // places in one list
	listBits   = 2       // of one place
	listTTL    = 60      // seconds a verifier may keep a list
	blockSize  = 4096    // places taken from the engine at once
	statusList = "application/statuslist+jwt"
)

// places hands out the places of a block in random order, so that neighbours in a list
// say nothing about who signed in when.
type places struct {
	mu   sync.Mutex
	left []uint64 // guarded by mu
}

// take returns a place plus one.
func (p *places) take(ctx context.Context, st Places) (uint64, error) {
	if place, ok := p.pop(); ok {
		return place, nil
	}
	// Not under the lock: two that come together reserve two blocks.
	first, err := st.Reserve(ctx, blockSize)
	if err != nil {
		return 0, fmt.Errorf("take a status place: %w", err)
	}
	block := make([]uint64, blockSize)
	for i := range block {
		block[i] = first + uint64(i) + 1
	}
	rand.Shuffle(len(block), func(i, j int) { block[i], block[j] = block[j], block[i] })
	p.mu.Lock()
	p.left = append(p.left, block[1:]...)
	p.mu.Unlock()
	return block[0], nil
}

func (p *places) pop() (uint64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.left) == 0 {
		return 0, false
	}
	place := p.left[len(p.left)-1]
	p.left = p.left[:len(p.left)-1]
	return place, true
}

// statusOf returns the reference that tokens of a family carry.
func (s *Server) statusOf(place uint64) wire.StatusReference {
	return wire.StatusReference{Index: (place - 1) % listSize, URI: s.listURI((place - 1) / listSize)}
}

func (s *Server) listURI(n uint64) string {
	return s.conf.Issuer + "/oauth2/status/" + strconv.FormatUint(n, 10)
}

// placeOf finds the place of the family that an event ended; 0: it has none.
func (s *Server) placeOf(ctx context.Context, e family.Event) (uint64, error) {
	if e.Kind != family.FamilyRevoked {
		return 0, nil
	}
	st, _, err := s.conf.Store.Load(ctx, e.Family)
	if errors.Is(err, family.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return st.Grant.Place, nil
}

// lists keeps the lists that were asked for last, signed.
type lists struct {
	mu   sync.Mutex
	made map[uint64]madeList // guarded by mu
}

type madeList struct {
	at   family.Time
	head uint64 // of the journal
	jwt  string
}

// maxLists bounds how many signed lists are kept.
const maxLists = 64

// statusList answers one status list as a JWT. What it says is as old as its iat, at
// most listTTL; changes of the journal make a new one at once.
func (s *Server) statusList(r *http.Request, _ *call) (answer, error) {
	n, err := strconv.ParseUint(r.PathValue("n"), 10, 40)
	if err != nil || strconv.FormatUint(n, 10) != r.PathValue("n") {
		return answer{}, &oauthError{status: http.StatusNotFound, code: "invalid_request", text: "there is no such status list"}
	}
	now, err := s.conf.Store.Now(r.Context())
	if err != nil {
		return answer{}, err
	}
	jwt, err := s.list(n, now)
	if err != nil {
		return answer{}, err
	}
	return answer{typ: statusList, body: []byte(jwt), cache: "public, max-age=" + strconv.Itoa(listTTL/2), etag: bodyTag([]byte(jwt))}, nil
}

// list returns list n, signed.
func (s *Server) list(n uint64, now family.Time) (string, error) {
	bits, head, err := s.hub.statuses(n)
	if err != nil {
		return "", err
	}
	s.lists.mu.Lock()
	made, ok := s.lists.made[n]
	s.lists.mu.Unlock()
	if ok && made.head == head && now >= made.at && now < made.at.Add(listTTL/2*time.Second) {
		return made.jwt, nil
	}
	var b bytes.Buffer
	z, err := zlib.NewWriterLevel(&b, zlib.BestCompression)
	if err != nil {
		return "", fmt.Errorf("compress status list: %v", err)
	}
	if _, err := z.Write(bits); err != nil {
		return "", fmt.Errorf("compress status list: %v", err)
	}
	if err := z.Close(); err != nil {
		return "", fmt.Errorf("compress status list: %v", err)
	}
	iat := int64(now) / 1000
	jwt, err := s.sign(keys.ES256, wire.TypeStatusList, wire.StatusListToken{
		Subject: s.listURI(n), IssuedAt: iat, Expires: iat + 2*listTTL, TTL: listTTL,
		List: wire.StatusList{Bits: listBits, List: base64.RawURLEncoding.EncodeToString(b.Bytes())},
	})
	if err != nil {
		return "", err
	}
	s.lists.mu.Lock()
	defer s.lists.mu.Unlock()
	if s.lists.made == nil || len(s.lists.made) >= maxLists {
		s.lists.made = map[uint64]madeList{}
	}
	s.lists.made[n] = madeList{at: now, head: head, jwt: jwt}
	return jwt, nil
}

// statuses packs the statuses of list n, least significant bit first, and says up to
// where the journal was read for it.
func (h *hub) statuses(n uint64) ([]byte, uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ready || h.stuck {
		return nil, 0, errors.New("the journal can not be read")
	}
	bits := make([]byte, listSize*listBits/8)
	head := uint64(0)
	for _, e := range h.entries {
		if e.place == 0 || (e.place-1)/listSize != n {
			continue
		}
		head = e.seq
		i := (e.place - 1) % listSize * listBits
		status := byte(wire.StatusInvalid)
		if e.entry.Reason == family.UserDisabled.String() || e.entry.Reason == family.ClientDisabled.String() {
			status = wire.StatusSuspended
		}
		bits[i/8] = bits[i/8]&^(3<<(i%8)) | status<<(i%8)
	}
	return bits, head, nil
}

// statusLists is the aggregation endpoint (§9): every list in which a living token can
// have a place.
func (s *Server) statusLists(r *http.Request, _ *call) (answer, error) {
	next, err := s.conf.Store.Reserve(r.Context(), 0)
	if err != nil {
		return answer{}, err
	}
	uris := []string{}
	for n := uint64(0); n*listSize < next; n++ {
		uris = append(uris, s.listURI(n))
	}
	a, err := jsonAnswer(0, map[string]any{"status_lists": uris})
	a.cache = "public, max-age=60"
	return a, err
}
