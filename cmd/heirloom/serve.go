package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/user"
)

func serveCommand(t *terminal) *cobra.Command {
	var file string
	var asJSON bool
	var dev devFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "run the server",
		Long: `Run the server. Settings come from flags, the environment, a file and defaults, in this
order; docs/configuration.md lists them all.

With --dev no configuration is needed: data in ./heirloom-data, a demo user, demo clients,
and a demo at http://127.0.0.1:8420/demo/.`,
		Args: noArgs,
	}
	addConfigFlags(c, &file)
	c.Flags().BoolVar(&dev.on, "dev", false, "try it: demo user, demo clients and a demo app; never for real users")
	c.Flags().StringVar(&dev.accessTTL, "access-ttl", "", "with --dev: life of access tokens, such as 10s")
	c.Flags().StringVar(&dev.leeway, "leeway", "", "with --dev: leeway of all demo clients but demo-strict, such as 5s")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object when ready")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if !dev.on && (dev.accessTTL != "" || dev.leeway != "") {
			return hinted(usage(errors.New("--access-ttl and --leeway are for --dev")), "set access_ttl and leeway in the policy of a client")
		}
		conf, err := loadFor(c, file, dev.on)
		if err != nil {
			return err
		}
		return serve(c.Context(), t, conf, dev, asJSON)
	}
	return c
}

// noArgs refuses arguments in our words.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return hinted(usage(fmt.Errorf("%s takes no arguments, and got %q", name(c), args[0])), fmt.Sprintf("see %s --help", c.CommandPath()))
	}
	return nil
}

// addConfigFlags gives a command a flag for each setting that may have one.
func addConfigFlags(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "config", "", "configuration file, YAML (HEIRLOOM_CONFIG)")
	for _, s := range new(config).settings() {
		if !s.hasFlag() {
			continue
		}
		help := "see docs/configuration.md (" + s.env() + ")"
		if _, isBool := s.value.Interface().(bool); isBool {
			c.Flags().Bool(s.flag(), false, help)
		} else {
			c.Flags().String(s.flag(), "", help)
		}
	}
}

// loadFor reads the configuration with a command's flags.
func loadFor(c *cobra.Command, file string, dev bool) (*config, error) {
	if file == "" {
		file = os.Getenv("HEIRLOOM_CONFIG")
	}
	return load(sources{
		file: file, lookEnv: os.LookupEnv, dev: dev,
		flags: func(name string) (string, bool) {
			f := c.Flags().Lookup(name)
			if f == nil || !f.Changed {
				return "", false
			}
			return f.Value.String(), true
		},
	})
}

// serve runs until ctx ends, and then lets what is under way finish.
func serve(ctx context.Context, t *terminal, c *config, dev devFlags, asJSON bool) error {
	log, err := c.logger(t)
	if err != nil {
		return err
	}
	if err := openData(c.Data); err != nil {
		return err
	}
	token, err := adminToken(c.Data)
	if err != nil {
		return err
	}
	public, err := listen("addr", c.Addr)
	if err != nil {
		return err
	}
	defer public.Close()
	private, err := listen("admin_addr", c.AdminAddr)
	if err != nil {
		return err
	}
	defer private.Close()
	issuer := c.Issuer
	if issuer == "" {
		issuer = "http://" + boundAddr(c.Addr, public)
	}
	adminURL := "http://" + boundAddr(c.AdminAddr, private)

	kek, err := c.openKEK(log)
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	st, ring, err := openStore(ctx, c, func(ctx context.Context, st keys.Store) (*keys.Ring, error) {
		return keys.Open(ctx, keys.Config{Store: st, KEK: kek, Issuer: issuer, Log: log})
	}, reg)
	if err != nil {
		return err
	}
	err = serveStore(ctx, t, log, running{
		config: c, dev: dev, json: asJSON, issuer: issuer, adminURL: adminURL, token: token,
		public: public, private: private, store: st, ring: ring, reg: reg,
	})
	// After everything that uses it: this is the checkpoint that leaves one whole file.
	return errors.Join(err, st.Close())
}

// running is what a server is made of once its doors and its store are open.
type running struct {
	*config
	dev             devFlags
	json            bool
	issuer          string
	adminURL        string
	token           admin.Token
	public, private net.Listener
	store           store
	ring            *keys.Ring
	reg             *prometheus.Registry
}

func serveStore(ctx context.Context, t *terminal, log *slog.Logger, r running) error {
	now, err := r.store.Now(ctx)
	if err != nil {
		return fmt.Errorf("read the store's clock: %w", err)
	}
	clients := r.Clients
	var demo *demoWorld
	if r.dev.on {
		if demo, err = openDemo(ctx, r, now.Std()); err != nil {
			return fmt.Errorf("dev mode: %w", err)
		}
		clients = append(demo.clients(), clients...)
	}
	if err := keepClients(ctx, r.store, clients, time.Duration(r.MaxAccessTTL), now.Std(), log); err != nil {
		return err
	}
	var proxies []netip.Prefix
	for _, n := range r.TrustedProxies {
		proxies = append(proxies, n.Prefix)
	}
	handler, err := server.New(server.Config{
		Issuer: r.issuer, Store: r.store, Keys: r.ring,
		SessionLifetime: time.Duration(r.SessionLifetime), TrustedProxies: proxies,
		MaxAccessTTL: time.Duration(r.MaxAccessTTL),
		Log:          log, Metrics: r.reg,
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", handler)
	if demo != nil {
		if err := demo.mount(mux, log); err != nil {
			return fmt.Errorf("dev mode: %w", err)
		}
	}
	door := newGate(mux)
	hasher, err := user.NewHasher(user.HasherConfig{})
	if err != nil {
		return err
	}
	api, err := admin.New(admin.Config{
		Store: r.store, Keys: r.ring, Hasher: hasher, Token: r.token, Draining: door.draining, Log: log,
		MaxAccessTTL: time.Duration(r.MaxAccessTTL),
		Metrics:      promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)}),
	})
	if err != nil {
		return err
	}
	// For the command line: it finds a server by its data directory alone.
	if err := os.WriteFile(filepath.Join(r.Data, "admin-url"), []byte(r.adminURL+"\n"), 0o600); err != nil {
		return fmt.Errorf("remember the admin address: %w", bare(err))
	}

	public, private := httpServer(door, log), httpServer(localNames(r.AdminAddr, api), log)
	// A revocation of very many families takes its time.
	private.WriteTimeout = 10 * time.Minute
	listener := r.public
	if r.TLSCertFile != "" {
		certs, err := openCertificates(r.TLSCertFile, r.TLSKeyFile)
		if err != nil {
			return err
		}
		listener = tls.NewListener(listener, &tls.Config{
			GetCertificate: certs.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		})
	}

	failed := make(chan error, 2)
	var doors, work sync.WaitGroup
	doors.Go(func() { failed <- public.Serve(listener) })
	doors.Go(func() { failed <- private.Serve(r.private) })
	// Not ctx: keys and sweeper go on while requests finish.
	background, stop := context.WithCancel(context.Background())
	defer stop()
	work.Go(func() {
		if err := r.ring.Run(background); err != nil {
			log.Error("keys", "err", err)
		}
	})
	work.Go(func() { sweep(background, r.store, log) })
	work.Go(func() { giveBack(background) })
	// The streams of the revocation feed never finish by themselves, so they end first.
	feeding, endStreams := context.WithCancel(background)
	defer endStreams()
	work.Go(func() {
		if err := handler.Run(feeding); err != nil {
			log.Error("revocation feed", "err", err)
		}
	})
	// What was needed only to begin, such as for hashing the demo user's password, goes
	// back to the system.
	debug.FreeOSMemory()
	if os.Getenv("GOGC") == "" {
		// What lives is a few megabytes: collecting half as often costs as many more and
		// saves a tenth of a refresh's processor time.
		debug.SetGCPercent(200)
	}

	if strings.HasPrefix(r.issuer, "https://") && r.TLSCertFile == "" && len(r.TrustedProxies) == 0 {
		log.Warn("the issuer is https, and this listener is plain http: put a proxy with TLS in front and name it in trusted_proxies, or set tls_cert_file")
	}
	log.Info("ready", "issuer", r.issuer, "addr", r.public.Addr().String(), "admin", r.adminURL, "store", r.Store, "data", r.Data)
	if err := announce(t, r, demo); err != nil {
		return err
	}

	var cause error
	select {
	case <-ctx.Done():
		log.Info("stopping: requests may finish", "grace", time.Duration(r.ShutdownGrace))
	case cause = <-failed:
	}
	grace, cancel := context.WithTimeout(context.Background(), time.Duration(r.ShutdownGrace))
	defer cancel()
	// The door says 503 to newcomers before it closes, so a load balancer and a client
	// with an open connection hear "later" rather than a broken connection: a closed one
	// tells nobody whether the token was used.
	endStreams()
	if left := door.drain(grace); left > 0 {
		log.Warn("stopped before all requests had finished", "left", left)
	}
	for _, s := range []*http.Server{public, private} {
		if err := s.Shutdown(grace); err != nil {
			s.Close()
		}
	}
	doors.Wait()
	stop()
	work.Wait()
	log.Info("stopped")
	return cause
}

// giveBack returns memory to the system that a burst has left behind. A password's hash
// takes 19 MiB for a twentieth of a second, and the runtime would keep that much, times
// those that ran together, for minutes.
func giveBack(ctx context.Context) {
	const enough = 40 << 20 // bytes; a busy server without sign-ins stays below
	mapped := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(mapped)
		if mapped[0].Value.Uint64()-mapped[1].Value.Uint64() > enough {
			debug.FreeOSMemory()
		}
	}
}

// localNames refuses requests to a loopback admin listener that call it by another
// name: a page whose name was made to point at this machine (DNS rebinding) could read
// what needs no token, such as the metrics.
func localNames(addr string, h http.Handler) http.Handler {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || !isLoopback(host) {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			name = r.Host
		}
		if !isLoopback(strings.Trim(name, "[]")) {
			http.Error(w, "the admin API is asked by a name that is not this machine's: use 127.0.0.1 or localhost", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func httpServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// announce tells whoever started the server that it is ready.
func announce(t *terminal, r running, demo *demoWorld) error {
	switch {
	case r.json && demo != nil:
		return printJSON(t.out, demo.announcement(r), false)
	case r.json:
		return printJSON(t.out, struct {
			Issuer   string `json:"issuer"`
			AdminURL string `json:"admin_url"`
		}{r.issuer, r.adminURL}, false)
	case demo != nil:
		demo.banner(t, r)
	}
	return nil
}

// sweep cleans up in small batches for as long as ctx lives.
func sweep(ctx context.Context, st store, log *slog.Logger) {
	const batch, pause, rest = 200, 20 * time.Millisecond, 30 * time.Second
	wait := rest
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		n, err := st.Sweep(ctx, batch)
		wait = rest
		switch {
		case err != nil && ctx.Err() == nil:
			log.Error("sweep: it will be tried again", "err", err)
		case n >= batch:
			wait = pause
		}
	}
}

// listen opens a listener, or says why not.
func listen(setting, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, hinted(fmt.Errorf("%s %s is in use by another program", setting, addr),
			fmt.Sprintf("stop that one, or choose another address with --%s", strings.ReplaceAll(setting, "_", "-")))
	case errors.Is(err, syscall.EACCES):
		return nil, hinted(fmt.Errorf("%s %s: this user may not listen there", setting, addr), "ports below 1024 are for root: choose another one")
	case err != nil:
		if oe, ok := errors.AsType[*net.OpError](err); ok {
			err = oe.Err
		}
		return nil, fmt.Errorf("%s %s: %w", setting, addr, err)
	}
	return l, nil
}

// boundAddr is the configured address with the port that was found for port 0.
func boundAddr(addr string, l net.Listener) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return l.Addr().String()
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	return net.JoinHostPort(host, port)
}

func (c *config) openKEK(log *slog.Logger) (keys.KEK, error) {
	if text := c.KEK.text(); text != "" {
		return keys.ParseKEK(text)
	}
	e, err := c.engine()
	if err != nil {
		return keys.KEK{}, err
	}
	if _, err := os.Stat(c.KEKFile); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(e.path); e.path != "" && err == nil {
			// A new one would open nothing, and might be taken for the right one in a backup.
			return keys.KEK{}, hinted(fmt.Errorf("the key-encryption key %s is not there, but the database %s is", c.KEKFile, e.path),
				"give back the copy of the key file; without it nobody can open this database, and a new one begins with an empty data directory")
		}
		log.Info("making the key-encryption key: keep a copy apart from backups of the database", "file", c.KEKFile)
	}
	return keys.FileKEK(c.KEKFile)
}

// logger writes to standard error: words for a person, JSON for a machine.
func (c *config) logger(t *terminal) (*slog.Logger, error) {
	level, err := c.level()
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: server.AlertLevel}
	format := c.LogFormat
	if f, ok := t.err.(*os.File); format == "" && ok && isTerminal(f) {
		format = "text"
	}
	if format == "text" {
		return slog.New(slog.NewTextHandler(t.err, opts)), nil
	}
	return slog.New(slog.NewJSONHandler(t.err, opts)), nil
}

// gate lets requests in until it drains.
type gate struct {
	next http.Handler

	mu     sync.Mutex
	inside int           // guarded by mu
	empty  chan struct{} // guarded by mu; nil: not draining; closed when nobody is inside
}

func newGate(next http.Handler) *gate { return &gate{next: next} }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	if g.empty != nil {
		g.mu.Unlock()
		refuse(w, r)
		return
	}
	g.inside++
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.inside--; g.inside == 0 && g.empty != nil {
			close(g.empty)
		}
	}()
	g.next.ServeHTTP(w, r)
}

// draining is the reason why nobody is let in any more, "" before.
func (g *gate) draining() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.empty != nil {
		return "shutting down"
	}
	return ""
}

// linger is how long newcomers are answered at least once the server stops. Busy
// clients come back within it, hear "later" and that their connection ends.
const linger = 300 * time.Millisecond

// drain lets nobody in any more, and waits until nobody is inside and newcomers have
// been told for a while, or ctx ends. It returns how many are left.
func (g *gate) drain(ctx context.Context) int {
	g.mu.Lock()
	empty := make(chan struct{})
	g.empty = empty
	if g.inside == 0 {
		close(empty)
	}
	g.mu.Unlock()
	told := time.After(linger)
	for range 2 {
		select {
		case <-empty:
			empty = nil
		case <-told:
			told = nil
		case <-ctx.Done():
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

// refuse answers a request that came while the server stops. A browser app must be able
// to read it where it reads the endpoint's own answers: without the CORS header it
// would see a broken network and might drop its tokens.
func refuse(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for _, end := range []string{"/oauth2/token", "/oauth2/revoke", "/oauth2/userinfo", "/oauth2/jwks", "/openid-configuration"} {
		if strings.HasSuffix(r.URL.Path, end) {
			h.Set("Access-Control-Allow-Origin", "*")
			h.Set("Access-Control-Expose-Headers", "Retry-After")
		}
	}
	h.Set("Retry-After", "1")
	h.Set("Connection", "close")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	json.NewEncoder(w).Encode(map[string]string{"error": "temporarily_unavailable", "error_description": "the server is restarting"})
}

// certificates is the public listener's certificate, read again when its file changes.
type certificates struct {
	certFile, keyFile string

	mu      sync.Mutex
	looked  time.Time        // guarded by mu
	changed time.Time        // guarded by mu; of certFile
	cert    *tls.Certificate // guarded by mu
}

func openCertificates(certFile, keyFile string) (*certificates, error) {
	c := &certificates{certFile: certFile, keyFile: keyFile}
	_, err := c.get(nil)
	return c, err
}

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	const often = 10 * time.Second
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert != nil && time.Since(c.looked) < often {
		return c.cert, nil
	}
	c.looked = time.Now()
	info, err := os.Stat(c.certFile)
	if err == nil && c.cert != nil && info.ModTime().Equal(c.changed) {
		return c.cert, nil
	}
	var cert tls.Certificate
	if err == nil {
		cert, err = tls.LoadX509KeyPair(c.certFile, c.keyFile)
	}
	if err != nil {
		// A file that is being replaced must not stop a server that has a good one.
		if c.cert != nil {
			return c.cert, nil
		}
		return nil, fmt.Errorf("tls_cert_file: %w", bare(err))
	}
	c.cert, c.changed = &cert, info.ModTime()
	return c.cert, nil
}
