package server_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/heirloom-auth/heirloom/server"
)

// BenchmarkRefresh is one rotation through the whole handler, without sockets, on each
// engine.
func BenchmarkRefresh(b *testing.B) {
	for name, open := range engines {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, open, func(c *server.Config) {
				c.Log = slog.New(slog.NewJSONHandler(io.Discard, nil))
			})
			token := w.signIn("app", "scope", "read").refresh
			h := w.ts.Config.Handler
			b.ReportAllocs()
			for b.Loop() {
				body := url.Values{"grant_type": {"refresh_token"}, "client_id": {"app"}, "refresh_token": {token}}.Encode()
				r := httptest.NewRequest("POST", "/oauth2/token", strings.NewReader(body))
				r.Header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, r)
				var out struct {
					RefreshToken string `json:"refresh_token"`
				}
				if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || rec.Code != http.StatusOK {
					b.Fatalf("%d %s", rec.Code, rec.Body)
				}
				token = out.RefreshToken
			}
		})
	}
}

// BenchmarkRefreshTogether is 64 clients, each rotating its own chain.
func BenchmarkRefreshTogether(b *testing.B) {
	for name, open := range engines {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, open, func(c *server.Config) {
				c.Log = slog.New(slog.NewJSONHandler(io.Discard, nil))
			})
			person := w.browser()
			chains := make(chan string, 1000)
			for range cap(chains) {
				f := newFlow("app", "scope", "read")
				chains <- w.exchange(f, person.code(f)).must(b).tokens().refresh
			}
			h := w.ts.Config.Handler
			b.SetParallelism(32) // times GOMAXPROCS
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					body := url.Values{"grant_type": {"refresh_token"}, "client_id": {"app"}, "refresh_token": {<-chains}}.Encode()
					r := httptest.NewRequest("POST", "/oauth2/token", strings.NewReader(body))
					r.Header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
					rec := httptest.NewRecorder()
					h.ServeHTTP(rec, r)
					var out struct {
						RefreshToken string `json:"refresh_token"`
					}
					if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || rec.Code != http.StatusOK {
						b.Errorf("%d %s", rec.Code, rec.Body)
						return
					}
					chains <- out.RefreshToken
				}
			})
		})
	}
}
