package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// The floor is what no durable Go server can undercut: net/http, a parsed form, one HMAC-SHA-256, a record of 128
// bytes that is on the disk before the answer, one ES256 JWT. It keeps no state and accepts every token.
type floor struct {
	secret  []byte
	key     *ecdsa.PrivateKey
	journal *journal
}

const recordSize = 128

func newFloor(path string) (*floor, error) {
	f := &floor{secret: make([]byte, 32)}
	rand.Read(f.secret) // never fails: the runtime ends the program instead
	var err error
	if f.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if f.journal, err = openJournal(path); err != nil {
		return nil, err
	}
	return f, nil
}

// serveFloor serves the floor until ctx ends.
func serveFloor(ctx context.Context, addr, path string) error {
	f, err := newFloor(path)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /oauth2/token", f)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	fmt.Println("ready")
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return f.journal.close()
}

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.PostForm.Get("refresh_token") == "" {
		http.Error(w, "refresh_token is missing", http.StatusBadRequest)
		return
	}
	mac := hmac.New(sha256.New, f.secret)
	mac.Write([]byte(r.PostForm.Get("refresh_token")))
	var record [recordSize]byte
	mac.Sum(record[:0])
	if err := f.journal.add(record[:]); err != nil {
		http.Error(w, "the disk", http.StatusServiceUnavailable)
		return
	}
	access, err := f.sign(time.Now())
	if err != nil {
		http.Error(w, "the signature", http.StatusInternalServerError)
		return
	}
	// As long as a refresh token of Heirloom.
	var fresh [55]byte
	rand.Read(fresh[:])
	body, err := json.Marshal(struct {
		AccessToken  string `json:"access_token"`
		TokenType    string `json:"token_type"`
		ExpiresIn    int    `json:"expires_in"`
		RefreshToken string `json:"refresh_token"`
		Scope        string `json:"scope"`
	}{access, "Bearer", 600, base64.RawURLEncoding.EncodeToString(fresh[:]), "offline_access demo.read"})
	if err != nil {
		http.Error(w, "the answer", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the caller is gone when this fails
}

// sign makes an access token with the claims of RFC 9068.
func (f *floor) sign(now time.Time) (string, error) {
	claims, err := json.Marshal(struct {
		Issuer   string `json:"iss"`
		Subject  string `json:"sub"`
		Audience string `json:"aud"`
		Expires  int64  `json:"exp"`
		IssuedAt int64  `json:"iat"`
		ID       string `json:"jti"`
		ClientID string `json:"client_id"`
		Scope    string `json:"scope"`
	}{"http://127.0.0.1", "somebody", "http://127.0.0.1/api", now.Unix() + 600, now.Unix(), rand.Text(), "floor", "offline_access demo.read"})
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	b := enc.AppendEncode(nil, []byte(`{"alg":"ES256","typ":"at+jwt","kid":"floor"}`))
	b = enc.AppendEncode(append(b, '.'), claims)
	sum := sha256.Sum256(b)
	r, s, err := ecdsa.Sign(rand.Reader, f.key, sum[:])
	if err != nil {
		return "", err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return string(enc.AppendEncode(append(b, '.'), signature[:])), nil
}

// journal is a file that grows by records. Records that come while the disk is busy share the next sync.
type journal struct {
	file *os.File
	in   chan entry
	done chan struct{}
}

type entry struct {
	record []byte
	stored chan<- error
}

func openJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{file: f, in: make(chan entry, 1024), done: make(chan struct{})}
	go j.run()
	return j, nil
}

// add returns when the record is durable.
func (j *journal) add(record []byte) error {
	stored := make(chan error, 1)
	j.in <- entry{record, stored}
	return <-stored
}

func (j *journal) run() {
	defer close(j.done)
	var bytes []byte
	var waiting []chan<- error
	for e := range j.in {
		bytes, waiting = append(bytes[:0], e.record...), append(waiting[:0], e.stored)
		for len(j.in) > 0 {
			e := <-j.in
			bytes, waiting = append(bytes, e.record...), append(waiting, e.stored)
		}
		_, err := j.file.Write(bytes)
		if err == nil {
			err = fdatasync(j.file)
		}
		for _, stored := range waiting {
			stored <- err
		}
	}
}

// close must be called after the last add.
func (j *journal) close() error {
	close(j.in)
	<-j.done
	return j.file.Close()
}
