package server_test

import (
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/wire"
)

// statusOf reads the status of an access token as a verifier does: the reference from
// the token, the list from its URI.
func (w *world) statusOf(t *testing.T, access string) (status byte, header http.Header) {
	t.Helper()
	var at wire.AccessToken
	b, _ := json.Marshal(claimsOf(t, access))
	if err := json.Unmarshal(b, &at); err != nil || at.Status == nil {
		t.Fatalf("the access token has no status: %v", err)
	}
	req, _ := http.NewRequest("GET", at.Status.List.URI, nil)
	r := w.do(req)
	if r.status != 200 || r.header.Get("Content-Type") != "application/statuslist+jwt" {
		t.Fatalf("the list is answered with %d %s", r.status, r.header.Get("Content-Type"))
	}
	claims, err := w.ring.Verify(r.raw, "statuslist+jwt")
	if err != nil {
		t.Fatal(err)
	}
	var list wire.StatusListToken
	if err := json.Unmarshal(claims, &list); err != nil {
		t.Fatal(err)
	}
	if list.Subject != at.Status.List.URI || list.List.Bits != 2 || list.TTL <= 0 || list.Expires <= list.IssuedAt {
		t.Fatalf("the list says %+v", list)
	}
	raw, err := base64.RawURLEncoding.DecodeString(list.List.List)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zlib.NewReader(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	bits, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	i := at.Status.List.Index * 2
	if i/8 >= uint64(len(bits)) {
		t.Fatalf("place %d is outside of the list", at.Status.List.Index)
	}
	return bits[i/8] >> (i % 8) & 3, r.header
}

func TestTSL_03_04_StatusFollowsTheFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.withFeed()
		rt, at := w.chain("strict", 1)
		other := w.signIn("strict").access
		for _, a := range append(at, other) {
			if got, _ := w.statusOf(t, a); got != wire.StatusValid {
				t.Fatalf("status of a living token is %d", got)
			}
		}
		w.refresh("strict", rt[0]).refused(t)
		for until := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			got, _ := w.statusOf(t, at[1])
			if got == wire.StatusInvalid {
				break
			}
			if time.Now().After(until) {
				t.Fatalf("status after a reuse is %d", got)
			}
		}
		if got, _ := w.statusOf(t, at[0]); got != wire.StatusInvalid {
			t.Errorf("status of the first token is %d", got)
		}
		if got, _ := w.statusOf(t, other); got != wire.StatusValid {
			t.Errorf("status of another family is %d", got)
		}
	})
}

func TestTSL_05_08_09_ListsAreCacheableAndListed(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.withFeed()
		at := w.signIn("strict").access
		for until := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			req, _ := http.NewRequest("GET", w.issuer+"/oauth2/status/0", nil)
			if w.do(req).status == 200 {
				break
			}
			if time.Now().After(until) {
				t.Fatal("no list after 5 s")
			}
		}
		_, h := w.statusOf(t, at)
		if !strings.HasPrefix(h.Get("Cache-Control"), "public, max-age=30") || h.Get("ETag") == "" || h.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("headers are %v", h)
		}
		req, _ := http.NewRequest("GET", w.issuer+"/oauth2/status/0", nil)
		req.Header.Set("If-None-Match", h.Get("ETag"))
		if r := w.do(req); r.status != 304 {
			t.Errorf("an unchanged list is answered with %d", r.status)
		}
		req, _ = http.NewRequest("GET", w.issuer+"/oauth2/status", nil)
		if r := w.do(req); r.raw != `{"status_lists":["`+w.issuer+`/oauth2/status/0"]}` {
			t.Errorf("the lists are %s", r.raw)
		}
		for _, n := range []string{"x", "-1", "00", "1e3"} {
			req, _ = http.NewRequest("GET", w.issuer+"/oauth2/status/"+n, nil)
			if r := w.do(req); r.status != 404 {
				t.Errorf("list %s is answered with %d", n, r.status)
			}
		}
	})
}

func TestTSL_07_NoPlaceIsGivenTwice(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		seen, last, falls := map[uint64]bool{}, uint64(0), 0
		var wg sync.WaitGroup
		for range 10 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range 1000 {
					first, err := w.store.Reserve(t.Context(), 10)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for i := range uint64(10) {
						if seen[first+i] {
							t.Errorf("place %d was given twice", first+i)
						}
						seen[first+i] = true
					}
					mu.Unlock()
				}
			}()
		}
		wg.Wait()
		for range 20 {
			status := claimsOf(t, w.signIn("strict").access)["status"].(map[string]any)["status_list"].(map[string]any)
			idx := uint64(status["idx"].(float64))
			if idx < last {
				falls++
			}
			last = idx
		}
		if falls == 0 {
			t.Error("places come in order: they tell who signed in when")
		}
	})
}
