package server

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/heirloom-auth/heirloom/family"
)

// metrics counts by endpoint, status class and reason: closed lists, so the number of
// series is bounded whatever strangers send.
type metrics struct {
	byReason []prometheus.Counter // index: reason; what became of presented tokens
	alerts   *prometheus.CounterVec
	ended    *prometheus.CounterVec
	signIns  *prometheus.CounterVec
	requests *prometheus.CounterVec
	took     map[string]prometheus.Observer
}

// timed are the endpoints whose times are measured.
var timed = [...]string{"token", "revoke", "introspect", "userinfo"}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	decided := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "heirloom_token_decisions_total", Help: "Presented refresh tokens and codes by what was decided, and why.",
	}, []string{"reason"})
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "heirloom_request_seconds", Help: "Time from the first byte read to the last byte written.",
		Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, 1, 5},
	}, []string{"endpoint"})
	m := &metrics{
		byReason: make([]prometheus.Counter, 0, 32),
		alerts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "heirloom_alerts_total", Help: "Events a person should look at, by reason.",
		}, []string{"reason"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "heirloom_families_ended_total", Help: "Families ended before their time by this server, by reason.",
		}, []string{"reason"}),
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "heirloom_sign_ins_total", Help: "Sign-ins by outcome: ok, refused, throttled.",
		}, []string{"outcome"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "heirloom_requests_total", Help: "Requests to endpoints for programs, by status class.",
		}, []string{"endpoint", "class"}),
		took: map[string]prometheus.Observer{},
	}
	all := family.Reasons()
	m.byReason = make([]prometheus.Counter, all[len(all)-1]+1)
	for _, r := range all {
		m.byReason[r] = decided.WithLabelValues(r.String())
	}
	for _, e := range timed {
		m.took[e] = took.WithLabelValues(e)
	}
	for _, r := range []family.Reason{family.Reused, family.Recovered, family.ForeignClient, family.BindingMismatch} {
		m.alerts.WithLabelValues(r.String())
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{decided, took, m.alerts, m.ended, m.signIns, m.requests} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %v", err)
		}
	}
	return m, nil
}

// decided counts what became of a presented token.
func (m *metrics) decided(why family.Reason) {
	if why.Valid() {
		m.byReason[why].Inc()
	}
}

var classes = [...]string{"1xx", "2xx", "3xx", "4xx", "5xx"}

func (m *metrics) answered(c *call, status int, took time.Duration) {
	class := min(max(status/100, 1), 5)
	m.requests.WithLabelValues(c.endpoint, classes[class-1]).Inc()
	if o, ok := m.took[c.endpoint]; ok {
		o.Observe(took.Seconds())
	}
	if c.alert {
		m.alerts.WithLabelValues(c.reason.String()).Inc()
	}
}
