package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/family"
)

// levelAlert is above slog's errors: somebody has a copy of a token, or the store lost
// data. Logs show it as ALERT when the handler is set up with AlertLevel.
const levelAlert = slog.LevelError + 4

// AlertLevel is a slog ReplaceAttr that writes the level of alerts as ALERT.
func AlertLevel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey {
		if l, ok := a.Value.Any().(slog.Level); ok && l == levelAlert {
			a.Value = slog.StringValue("ALERT")
		}
	}
	return a
}

// call is one request on its way through: who asked, and what the one log line and the
// metrics will say of it. It never holds a token or a secret.
type call struct {
	started    time.Time
	endpoint   string
	id         string
	from       family.Origin
	client     string
	user       string
	grantType  string
	family     family.ID
	generation uint32
	reason     family.Reason
	alert      bool
	err        error // the inside of a failure, for the log only
}

// answer is what an endpoint for programs says when it did not fail.
type answer struct {
	status int // 0: 200
	typ    string
	body   []byte
	cache  string // Cache-Control; "" = no-store
	etag   string
}

// jsonAnswer encodes before anything is written, so that half an answer can not be.
func jsonAnswer(status int, v any) (answer, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return answer{}, fmt.Errorf("encode answer: %v", err)
	}
	return answer{status: status, typ: "application/json", body: b}, nil
}

// endpoint is a path that programs call. It returns an answer or an error that
// errors.go knows how to tell.
type endpoint struct {
	name    string
	methods []string
	cors    bool
	serve   func(*http.Request, *call) (answer, error)
}

// bodyTimeout bounds how long a caller may take to send a form (MATRIX H20). Nothing
// is locked while it is read.
const bodyTimeout = 10 * time.Second

// api answers an endpoint: method, CORS, panic, one answer, one log line.
func (s *Server) api(e endpoint) http.HandlerFunc {
	allow := strings.Join(append(e.methods, http.MethodOptions), ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		c := s.begin(r, e.name)
		h := w.Header()
		h["X-Content-Type-Options"] = headerNosniff
		if e.cors {
			// Tokens travel in bodies and headers, never in cookies, so any origin may
			// call; credentials are never allowed. On errors too: else an app sees a
			// "network error" and drops its session (MATRIX I03).
			h["Access-Control-Allow-Origin"] = headerAny
			h["Access-Control-Expose-Headers"] = headerExposed
		}
		if r.Method == http.MethodOptions {
			h.Set("Allow", allow)
			if e.cors {
				h.Set("Access-Control-Allow-Methods", allow)
				h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, DPoP, Idempotency-Key")
				h.Set("Access-Control-Max-Age", "7200")
			}
			w.WriteHeader(http.StatusNoContent)
			return
		}
		a, err := s.guarded(w, r, c, e, allow)
		if err != nil {
			c.err = err
			a = s.tell(h, r, c, err)
		}
		if a.cache == "" {
			h["Cache-Control"], h["Pragma"] = headerNoStore, headerNoCache
		} else {
			h.Set("Cache-Control", a.cache)
		}
		if a.etag != "" {
			h.Set("ETag", a.etag)
			if strings.Contains(r.Header.Get("If-None-Match"), a.etag) {
				a.status, a.body = http.StatusNotModified, nil
			}
		}
		if a.typ != "" && a.body != nil {
			h.Set("Content-Type", a.typ)
		}
		if a.status == 0 {
			a.status = http.StatusOK
		}
		if a.status != http.StatusNotModified {
			h.Set("Content-Length", strconv.Itoa(len(a.body)))
		}
		w.WriteHeader(a.status)
		if r.Method != http.MethodHead {
			_, _ = w.Write(a.body) // the caller is gone when this fails; the state is durable
		}
		s.finish(r.Context(), c, a.status)
	}
}

var (
	headerNosniff = []string{"nosniff"}
	headerAny     = []string{"*"}
	headerExposed = []string{"DPoP-Nonce, WWW-Authenticate, Retry-After"}
	headerNoStore = []string{"no-store"}
	headerNoCache = []string{"no-cache"}
)

// guarded turns a panic into a failure that is ours: the state is whatever the store
// has, nothing was answered.
func (s *Server) guarded(w http.ResponseWriter, r *http.Request, c *call, e endpoint, allow string) (a answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.LogAttrs(r.Context(), slog.LevelError, "panic", slog.String("endpoint", e.name),
				slog.String("request", c.id), slog.String("panic", fmt.Sprintf("%T", p)), slog.String("stack", string(debug.Stack())))
			err = errPanic
		}
	}()
	for _, m := range e.methods {
		if m == r.Method {
			if r.Body != nil && r.Body != http.NoBody {
				// Errors only say that the connection has no deadlines, as in some tests.
				_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
				r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			}
			return e.serve(r, c)
		}
	}
	w.Header().Set("Allow", allow)
	return answer{}, &oauthError{status: http.StatusMethodNotAllowed, code: "invalid_request", text: "this method is not allowed here; see the Allow header"}
}

// begin notes who is asking.
func (s *Server) begin(r *http.Request, name string) *call {
	return &call{started: time.Now(), endpoint: name, id: strconv.FormatUint(rand.Uint64(), 36), from: s.origin(r)}
}

// origin tells where a request comes from. Forwarding headers count only when the
// connection itself comes from a declared proxy (RFC 9700 §4.13), and only the last
// address that is not a declared proxy's is believed.
func (s *Server) origin(r *http.Request) family.Origin {
	from := family.Origin{UserAgent: r.UserAgent()}
	if len(from.UserAgent) > family.MaxUserAgent {
		from.UserAgent = from.UserAgent[:family.MaxUserAgent]
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return from
	}
	from.IP = peer.Addr().Unmap()
	if !s.proxied(from.IP) {
		return from
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			return from
		}
		from.IP = hop.Unmap()
		if !s.proxied(from.IP) {
			return from
		}
	}
	return from
}

func (s *Server) proxied(ip netip.Addr) bool {
	for _, p := range s.conf.TrustedProxies {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// finish writes the request's one log line and counts it.
func (s *Server) finish(ctx context.Context, c *call, status int) {
	s.metrics.answered(c, status, time.Since(c.started))
	level := slog.LevelInfo
	switch {
	case c.alert:
		level = levelAlert
	case status >= 500:
		level = slog.LevelError
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	var buf [14]slog.Attr
	attrs := append(buf[:0], slog.String("endpoint", c.endpoint), slog.Int("status", status))
	if c.reason != 0 {
		attrs = append(attrs, slog.String("reason", c.reason.String()))
	}
	if c.client != "" {
		attrs = append(attrs, slog.String("client", c.client))
	}
	if c.grantType != "" {
		attrs = append(attrs, slog.String("grant_type", c.grantType))
	}
	if c.family != (family.ID{}) {
		attrs = append(attrs, slog.String("family", c.family.String()), slog.Uint64("generation", uint64(c.generation)))
	}
	if c.user != "" {
		attrs = append(attrs, slog.String("user", c.user))
	}
	attrs = append(attrs, slog.String("ip", c.from.IP.String()), slog.String("request", c.id),
		slog.Float64("took_ms", float64(time.Since(c.started).Microseconds())/1000))
	if c.err != nil && status >= 500 {
		attrs = append(attrs, slog.String("err", c.err.Error()))
	}
	s.log.LogAttrs(ctx, level, "request", attrs...)
}

// record stores events that tell of no change. It is best effort: what they tell of
// has been decided and answered without them.
func (s *Server) record(ctx context.Context, c *call, events ...family.Event) {
	for i := range events {
		events[i].Request = c.id
		if events[i].Origin == (family.Origin{}) {
			events[i].Origin = c.from
		}
	}
	if err := s.conf.Store.Record(ctx, events...); err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "record event", slog.String("request", c.id), slog.String("err", err.Error()))
	}
}

// maxBody bounds every form that programs send, in bytes.
const maxBody = 64 << 10

// readBody reads a bounded body.
func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, errTooLarge
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := io.Copy(&buf, r.Body); err != nil {
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			return nil, errTooLarge
		}
		return nil, &oauthError{status: http.StatusBadRequest, code: "invalid_request", text: "the body could not be read"}
	}
	return buf.Bytes(), nil
}
