package keys

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
)

// macKey is an HMAC-SHA-256 key. Its states are pooled: crypto/hmac keeps the two key blocks hashed in them, and with the
// message copied into a pooled buffer nothing is allocated per tag.
type macKey struct{ pool sync.Pool }

type macState struct {
	h   hash.Hash
	buf []byte
}

func newMACKey(secret []byte) *macKey {
	return &macKey{pool: sync.Pool{New: func() any { return &macState{h: hmac.New(sha256.New, secret)} }}}
}

// sum is the tag over domain, name and msg. Each has its length before it, so that no two different inputs are the same
// bytes.
func (k *macKey) sum(domain, name string, msg []byte) (tag [sha256.Size]byte) {
	st := k.pool.Get().(*macState)
	b := st.buf[:0]
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(domain))), domain...)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(name))), name...)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(msg))), msg...)
	st.h.Reset()
	st.h.Write(b)
	b = st.h.Sum(b[:0])
	copy(tag[:], b)
	if cap(b) <= 4096 {
		st.buf = b
	}
	k.pool.Put(st)
	return tag
}

// MACKey is the id of the key that new tokens are made with. No I/O, no lock.
func (r *Ring) MACKey() uint16 { return r.snap.Load().macNow }

// MAC is the HMAC-SHA-256 under a key over purpose, the ring's issuer and msg, each with its length before it. ok is false
// when there is no such key: it was dropped, or never existed. No I/O, no lock, no allocation.
func (r *Ring) MAC(key uint16, purpose string, msg []byte) (tag [32]byte, ok bool) {
	k := r.snap.Load().mac[key]
	if k == nil {
		return tag, false
	}
	return k.sum(purpose, r.issuer, msg), true
}

// CheckMAC reports, in constant time, whether tag is what MAC returns. It is false when there is no such key.
func (r *Ring) CheckMAC(key uint16, purpose string, msg []byte, tag *[32]byte) bool {
	want, ok := r.MAC(key, purpose, msg)
	return ok && hmac.Equal(tag[:], want[:])
}
