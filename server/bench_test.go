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
			t := &testing.T{}
			w := newWorld(t, open, func(c *server.Config) {
				c.Log = slog.New(slog.NewJSONHandler(io.Discard, nil))
			})
			defer w.ts.Close()
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
