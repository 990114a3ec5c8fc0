package verify_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/feed"
	"github.com/heirloom-auth/heirloom/verify"
)

// loaded is a verifier that follows a feed of n families, which are not those of its tokens.
func loaded(b testing.TB, n, cached int) (*verify.Verifier, *issuer) {
	b.Helper()
	is := newIssuer(b)
	until := time.Now().Unix() + 3600
	is.feed.with(func() {
		for i := range n {
			is.feed.put(feed.Entry{Kind: feed.Family, ID: fmt.Sprintf("fam_%022d", i), Reason: "reuse", Until: until})
		}
	})
	c := is.feedConfig(verify.AcceptFor(time.Hour))
	c.Cached = cached
	v := newVerifier(b, c)
	b.Cleanup(start(b, v))
	untilReady(b, v)
	return v, is
}

func untilReady(t testing.TB, v *verify.Verifier) {
	t.Helper()
	for range 2000 {
		if v.Health() == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not ready in 20 s: %v", v.Health())
}

// BenchmarkSignatureOnly is the floor: SHA-256 and ES256 by the standard library, on a
// token that has been cut and decoded already.
func BenchmarkSignatureOnly(b *testing.B) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	input := []byte(strings.Repeat("x", 620))
	digest := sha256.Sum256(input)
	sig, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		digest := sha256.Sum256(input)
		if !ecdsa.VerifyASN1(&k.PublicKey, digest[:], sig) {
			b.Fatal("refused")
		}
	}
}

// BenchmarkCheckMiss checks a token that was never seen, with 100,000 revocations in
// the set.
func BenchmarkCheckMiss(b *testing.B) {
	v, is := loaded(b, 100_000, -1)
	token := is.good(b, map[string]any{"exp": time.Now().Unix() + 3600})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Check(ctx, token); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheckHit checks tokens that were seen before, with 100,000 revocations in
// the set.
func BenchmarkCheckHit(b *testing.B) {
	v, is := loaded(b, 100_000, 0)
	tokens := make([]string, 1000)
	ctx := context.Background()
	for i := range tokens {
		tokens[i] = is.good(b, map[string]any{"exp": time.Now().Unix() + 3600})
		if _, err := v.Check(ctx, tokens[i]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := v.Check(ctx, tokens[i%len(tokens)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkRequire is a request that was seen before, with the middleware around it.
func BenchmarkRequire(b *testing.B) {
	v, is := loaded(b, 100_000, 0)
	token := is.good(b, map[string]any{"exp": time.Now().Unix() + 3600})
	h := v.Require(verify.Need{Scopes: []string{"notes.read"}})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r, err := http.NewRequest(http.MethodGet, "http://api.example/", nil)
	if err != nil {
		b.Fatal(err)
	}
	with(token)(r)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(nil, r)
	}
}

// Beside what crypto/ecdsa allocates for a signature, which nobody can save.
func TestCheckAllocatesLittle(t *testing.T) {
	if raceDetector {
		return // it allocates by itself
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	sig, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	floor := testing.AllocsPerRun(200, func() { ecdsa.VerifyASN1(&k.PublicKey, digest[:], sig) })
	v, is := loaded(t, 10, 0)
	tokens := make([]string, 0, 300)
	for range cap(tokens) {
		tokens = append(tokens, is.good(t, map[string]any{"exp": time.Now().Unix() + 3600}))
	}
	i := 0
	check := func() {
		if _, err := v.Check(context.Background(), tokens[i]); err != nil {
			t.Fatal(err)
		}
		i++
	}
	miss := testing.AllocsPerRun(len(tokens)-1, check)
	hit := testing.AllocsPerRun(100, func() { i = 7; check() })
	t.Logf("allocations: %v for a token never seen, %v of them by crypto/ecdsa; %v for one seen before", miss, floor, hit)
	if miss-floor > 5 || hit > 1 {
		t.Errorf("%v-%v allocations for a miss and %v for a hit; 5 and 1 are the limits", miss, floor, hit)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A hundred thousand revocations, told as a snapshot and again as a second one, while
// the first still counts.
func TestHundredThousandRevocationsIn32MiB(t *testing.T) {
	const n, limit = 100_000, 32 << 20
	// The server's own memory is the same before and after.
	is := newIssuer(t)
	fill := func() {
		is.feed.with(func() {
			until := time.Now().Unix() + 3600
			for i := range n {
				is.feed.put(feed.Entry{Kind: feed.Family, ID: fmt.Sprintf("fam_%022d", i), Reason: "reuse", Until: until})
			}
		})
	}
	fill()
	before := heap()
	v := newVerifier(t, is.feedConfig(verify.Refuse()))
	stop := start(t, v)
	defer stop()
	untilReady(t, v)
	want(t, v, is.good(t, map[string]any{"fam": fmt.Sprintf("fam_%022d", n-1)}), verify.ErrToken)
	first := heap() - before
	is.feed.with(func() { is.feed.history = "h2" })
	is.feed.cut()
	most := first
	until(t, "a second snapshot", func() bool {
		at := is.feed.connections()
		if h := heap(); h > before {
			most = max(most, h-before)
		}
		return len(at) >= 2 && v.Health() == nil
	})
	second := heap() - before
	t.Logf("%d revocations: %.1f MiB, %.1f MiB at most during a second snapshot, %.1f MiB after", n, mib(first), mib(most), mib(second))
	if first > limit || second > limit {
		t.Errorf("%d revocations take %.1f and %.1f MiB; %d are the limit", n, mib(first), mib(second), limit>>20)
	}
	runtime.KeepAlive(v)
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }
