package admin

import (
	"context"
	"net/http"
	"time"
)

// pingTimeout bounds how long /readyz waits for the store.
const pingTimeout = 2 * time.Second

type health struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

// healthz says that the process answers. It asks nobody else: a slow store is no
// reason to kill the process.
func (a *API) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, health{Status: "ok"})
}

// readyz says whether requests should be sent here.
func (a *API) readyz(w http.ResponseWriter, r *http.Request) {
	if why := a.Draining(); why != "" {
		writeJSON(w, http.StatusServiceUnavailable, health{"not ready", why})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), pingTimeout)
	defer cancel()
	if err := a.Store.Ping(ctx); err != nil {
		a.Log.Error("not ready", "err", err)
		writeJSON(w, http.StatusServiceUnavailable, health{"not ready", "the store does not answer"})
		return
	}
	writeJSON(w, http.StatusOK, health{Status: "ready"})
}
