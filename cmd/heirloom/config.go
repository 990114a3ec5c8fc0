package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
)

// config is everything that can be configured. Each setting has one name: in the file
// as it stands in the tag, in the environment as HEIRLOOM_ and the name in capitals, as
// a flag with "-" for "_". A flag wins over the environment, that over the file, that
// over the default.
type config struct {
	// Issuer is the server's URL as clients see it, https and without a slash at the end; plain http is for loopback hosts. Empty: "http://" and addr, if that is a loopback address.
	Issuer string `json:"issuer"`
	// Addr is where the public listener listens, host:port. Empty: 127.0.0.1:8420.
	Addr string `json:"addr"`
	// AdminAddr is where the admin listener listens, a loopback address and port. Empty: 127.0.0.1:8421.
	AdminAddr string `json:"admin_addr"`
	// InsecureAdminAddr lets admin_addr be an address that other machines reach, without TLS. Zero: refused.
	InsecureAdminAddr bool `json:"insecure_admin_addr"`
	// Data is the directory of the database, the key-encryption key and the admin token; it is made with mode 0700. Empty: /var/lib/heirloom, or ./heirloom-data with --dev.
	Data string `json:"data"`
	// Store is the engine: "sqlite:PATH" (relative to data) or "memory:", which forgets everything. Empty: sqlite:heirloom.db.
	Store string `json:"store"`
	// KEK is the key-encryption key itself, "hkek_" and 43 characters. It has no flag, because others can read command lines. Empty: kek_file.
	KEK secret `json:"kek"`
	// KEKFile is the file of the key-encryption key, mode 0600; it is made when it is not there, so keep a copy. Empty: kek in data.
	KEKFile string `json:"kek_file"`
	// TLSCertFile is the certificate chain of the public listener, PEM; it is read again when it changes. Empty: plain http, for a proxy in front or for loopback.
	TLSCertFile string `json:"tls_cert_file"`
	// TLSKeyFile is the key of tls_cert_file, PEM. Empty: plain http.
	TLSKeyFile string `json:"tls_key_file"`
	// TrustedProxies are the addresses and networks ("10.0.0.0/8") whose X-Forwarded-For is believed. Empty: nobody's.
	TrustedProxies []network `json:"trusted_proxies"`
	// SessionLifetime is how long a sign-in in a browser lasts at most, from "1m" to "365d". Zero: 30d.
	SessionLifetime duration `json:"session_lifetime"`
	// MaxAccessTTL is the longest life that a client's policy may give its access tokens, up to "24h"; APIs that follow the revocation feed remember an end so long. Lower it only when no longer one is alive any more. Zero: 1h.
	MaxAccessTTL duration `json:"max_access_ttl"`
	// KeepEnded is how long families and sessions that have ended can still be asked about, from "1h" on. Zero: 30d.
	KeepEnded duration `json:"keep_ended"`
	// KeepEvents is how long events are kept, from "1h" on. Zero: 90d.
	KeepEvents duration `json:"keep_events"`
	// ShutdownGrace is how long requests may take to finish after SIGTERM, up to "5m". Zero: 10s.
	ShutdownGrace duration `json:"shutdown_grace"`
	// LogLevel is the least that is logged: debug, info, warn or error. Empty: info.
	LogLevel string `json:"log_level"`
	// LogFormat is how it is written: json or text. Empty: text on a terminal, else json.
	LogFormat string `json:"log_format"`
	// Clients are registered at start and kept in step with this list: one that leaves it is disabled, not deleted. They have no environment variable and no flag. Empty: clients are registered by command.
	Clients []clientConfig `json:"clients"`

	file   string            // the configuration file that was read, for messages; "": none
	origin map[string]string // where each setting was made, by name: "config FILE:3", "HEIRLOOM_ADDR" or "--addr"
	dev    bool              // the dev mode
}

// clientConfig is a client in the configuration file.
type clientConfig struct {
	admin.ClientSpec
	// Secrets are the client's secrets, at most two, each of at least 32 characters that nobody can guess. Empty: none, or secret_files.
	Secrets []secret `json:"secrets"`
	// SecretFiles are files with a secret each. Empty: none, or secrets.
	SecretFiles []string `json:"secret_files"`

	line int // in the file
}

// secret is a text that is not printed.
type secret struct{ p *string }

func (s *secret) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	s.p = &t
	return nil
}

func (s secret) text() string {
	if s.p == nil {
		return ""
	}
	return *s.p
}

func (s secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[secret]") }
func (s secret) LogValue() slog.Value       { return slog.StringValue("[secret]") }

// MarshalJSON says whether there is one.
func (s secret) MarshalJSON() ([]byte, error) {
	if s.text() == "" {
		return []byte(`""`), nil
	}
	return []byte(`"[secret]"`), nil
}

// duration is a time.Duration that people write: Go's form or whole days.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := family.PolicyOf("web", map[string]string{"idle": string(text)})
	if err != nil {
		return fmt.Errorf(`%q is no duration: write one such as "30s", "36h" or "30d"`, text)
	}
	*d = duration(v.Idle)
	return nil
}

func (d duration) String() string {
	if std := time.Duration(d); std%(24*time.Hour) != 0 || std == 0 {
		return std.String()
	}
	return fmt.Sprintf("%dd", time.Duration(d)/(24*time.Hour))
}

func (d duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// network is an address or a network of them.
type network struct{ netip.Prefix }

func (n *network) UnmarshalText(text []byte) (err error) {
	s := string(text)
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf(`%q is neither an address nor a network: write one such as "10.0.0.0/8"`, s)
		}
		n.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	if n.Prefix, err = netip.ParsePrefix(s); err != nil || n.Prefix != n.Prefix.Masked() {
		return fmt.Errorf(`%q is not a network: write one such as "10.0.0.0/8", with zeros behind its length`, s)
	}
	return nil
}

func (n network) MarshalText() ([]byte, error) { return []byte(n.Prefix.String()), nil }

// setting is one field of config by its name.
type setting struct {
	name  string
	value reflect.Value
}

// settings lists the fields that the environment and flags can set too.
func (c *config) settings() []setting {
	var all []setting
	v := reflect.ValueOf(c).Elem()
	for f, fv := range v.Fields() {
		if name := f.Tag.Get("json"); name != "" && name != "clients" {
			all = append(all, setting{name, fv})
		}
	}
	return all
}

func (s setting) env() string  { return "HEIRLOOM_" + strings.ToUpper(s.name) }
func (s setting) flag() string { return strings.ReplaceAll(s.name, "_", "-") }

// hasFlag is false for secrets: command lines can be read by everybody on the machine.
func (s setting) hasFlag() bool { return s.value.Type() != reflect.TypeFor[secret]() }

// sources is where settings come from.
type sources struct {
	file    string                           // "": none
	lookEnv func(name string) (string, bool) // os.LookupEnv
	flags   func(name string) (string, bool) // the flags that were given
	dev     bool
}

// load reads the configuration. All that is wrong is reported at once; each error
// names its setting and where it was made.
func load(from sources) (*config, error) {
	c := &config{dev: from.dev, origin: map[string]string{}}
	var errs []error
	if from.file != "" {
		c.file = from.file
		raw, err := os.ReadFile(from.file)
		if err != nil {
			return nil, hinted(fmt.Errorf("read config %s: %w", from.file, bare(err)), "give an existing file to --config, or leave it out")
		}
		errs = append(errs, decodeYAML(from.file, raw, reflect.ValueOf(c).Elem(), c.origin)...)
	}
	for _, s := range c.settings() {
		if text, ok := from.lookEnv(s.env()); ok && text != "" {
			c.origin[s.name] = s.env()
			if err := setText(s.value, text); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s.env(), err))
			}
		}
		if text, ok := from.flags(s.flag()); ok {
			c.origin[s.name] = "--" + s.flag()
			if err := setText(s.value, text); err != nil {
				errs = append(errs, usage(fmt.Errorf("--%s: %w", s.flag(), err)))
			}
		}
	}
	for _, s := range c.settings() {
		// Zero stands for the default; who writes it means something else.
		if d, ok := s.value.Interface().(duration); ok && d == 0 && c.origin[s.name] != "" && len(errs) == 0 {
			errs = append(errs, c.place(fmt.Errorf("%s: it is 0: write a duration, or leave it out for the default", s.name)))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	c.setDefaults()
	if errs := c.check(); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return c, nil
}

func (c *config) setDefaults() {
	c.Addr = cmp.Or(c.Addr, "127.0.0.1:8420")
	c.AdminAddr = cmp.Or(c.AdminAddr, "127.0.0.1:8421")
	if c.Data == "" {
		c.Data = "/var/lib/heirloom"
		if c.dev {
			c.Data = "heirloom-data"
		}
	}
	c.Store = cmp.Or(c.Store, "sqlite:heirloom.db")
	if c.KEK.text() == "" {
		c.KEKFile = cmp.Or(c.KEKFile, filepath.Join(c.Data, "kek"))
	}
	c.SessionLifetime = cmp.Or(c.SessionLifetime, duration(30*24*time.Hour))
	c.MaxAccessTTL = cmp.Or(c.MaxAccessTTL, duration(time.Hour))
	c.KeepEnded = cmp.Or(c.KeepEnded, duration(30*24*time.Hour))
	c.KeepEvents = cmp.Or(c.KeepEvents, duration(90*24*time.Hour))
	c.ShutdownGrace = cmp.Or(c.ShutdownGrace, duration(10*time.Second))
	c.LogLevel = cmp.Or(c.LogLevel, "info")
}

// check refuses what makes no sense. Every error begins with the setting's name.
func (c *config) check() []error {
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, c.place(err))
		}
	}
	host, port, err := net.SplitHostPort(c.Addr)
	if err != nil || port == "" {
		add(fmt.Errorf(`addr: %q is not an address to listen on: write host:port, such as "127.0.0.1:8420"`, c.Addr))
	}
	adminHost, adminPort, adminErr := net.SplitHostPort(c.AdminAddr)
	switch {
	case adminErr != nil || adminPort == "":
		add(fmt.Errorf(`admin_addr: %q is not an address to listen on: write host:port, such as "127.0.0.1:8421"`, c.AdminAddr))
	case !isLoopback(adminHost) && !c.InsecureAdminAddr:
		add(fmt.Errorf("admin_addr: %q can be reached from other machines: write a loopback address, or set insecure_admin_addr", c.AdminAddr))
	case err == nil && c.Addr == c.AdminAddr && port != "0":
		add(fmt.Errorf("admin_addr: %q is addr as well: the admin API has a listener of its own", c.AdminAddr))
	}
	switch {
	case c.Issuer != "":
		add(checkIssuer(c.Issuer))
		if u, err := url.Parse(c.Issuer); err == nil && c.dev && !isLoopback(u.Hostname()) {
			// It would leave a demo user with a printed password in a real database.
			add(fmt.Errorf("issuer: %q is not this machine's, and --dev is for trying things out: leave one of them away", c.Issuer))
		}
	case err == nil && !isLoopback(host):
		add(fmt.Errorf(`issuer: it is not set, and addr %q is not a loopback address: write the URL that clients see, such as "https://id.example.com"`, c.Addr))
	}
	if _, err := c.engine(); err != nil {
		add(fmt.Errorf("store: %w", err))
	}
	if c.KEK.text() != "" {
		if c.KEKFile != "" {
			add(errors.New("kek: kek_file is set too: write one of the two"))
		}
		if _, err := keys.ParseKEK(c.KEK.text()); err != nil {
			add(errors.New(`kek: it is not a key-encryption key: want "hkek_" and 43 characters of base64url (32 random bytes)`))
		}
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		add(errors.New("tls_cert_file: it and tls_key_file belong together: set both, or neither"))
	}
	for _, b := range []struct {
		name     string
		d        duration
		min, max time.Duration
	}{
		{"session_lifetime", c.SessionLifetime, time.Minute, 365 * 24 * time.Hour},
		{"max_access_ttl", c.MaxAccessTTL, time.Second, 24 * time.Hour},
		{"keep_ended", c.KeepEnded, time.Hour, 10 * 365 * 24 * time.Hour},
		{"keep_events", c.KeepEvents, time.Hour, 10 * 365 * 24 * time.Hour},
		{"shutdown_grace", c.ShutdownGrace, time.Millisecond, 5 * time.Minute},
	} {
		if d := time.Duration(b.d); d < b.min || d > b.max {
			add(fmt.Errorf("%s: %v is out of bounds: write a duration from %v to %v", b.name, b.d, duration(b.min), duration(b.max)))
		}
	}
	if _, err := c.level(); err != nil {
		add(fmt.Errorf("log_level: %w", err))
	}
	if c.LogFormat != "" && c.LogFormat != "json" && c.LogFormat != "text" {
		add(fmt.Errorf(`log_format: %q is not known: write "json" or "text"`, c.LogFormat))
	}
	seen := map[string]bool{}
	for i, cc := range c.Clients {
		name := fmt.Sprintf("clients[%d]", i)
		if cc.ClientID != "" {
			name = fmt.Sprintf("client %q", cc.ClientID)
		}
		if _, err := cc.client(client.Client{}, time.Duration(c.MaxAccessTTL), time.Now()); err != nil {
			errs = append(errs, fmt.Errorf("config %s:%d: %s: %w", c.file, cc.line, name, err))
		}
		if seen[cc.ClientID] {
			errs = append(errs, fmt.Errorf("config %s:%d: %s: client_id is there twice", c.file, cc.line, name))
		}
		seen[cc.ClientID] = true
	}
	return errs
}

// place says where a setting that is wrong was made.
func (c *config) place(err error) error {
	name, rest, _ := strings.Cut(err.Error(), ": ")
	switch from := c.origin[name]; {
	case from == "":
		return fmt.Errorf("config: %w", err)
	case strings.HasPrefix(from, "config "):
		return fmt.Errorf("%s: %w", from, err)
	default:
		return fmt.Errorf("%s: %s", from, rest)
	}
}

// checkIssuer refuses early what the server would refuse, so that "config check" sees it.
func checkIssuer(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf(`issuer: %q is not an absolute URL: write one such as "https://id.example.com"`, raw)
	case strings.ContainsAny(raw, "?#") || u.User != nil:
		return fmt.Errorf("issuer: %q has a query, a fragment or user info: remove it", raw)
	case strings.HasSuffix(raw, "/"):
		return fmt.Errorf("issuer: %q ends in a slash: remove it", raw)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return fmt.Errorf("issuer: %q is plain http, which is for loopback hosts only: write https", raw)
	}
	return nil
}

// isLoopback reports whether only this machine reaches the host.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

func (c *config) level() (slog.Level, error) {
	var l slog.Level
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		return 0, fmt.Errorf("%q is not known: write debug, info, warn or error", c.LogLevel)
	}
	return l, l.UnmarshalText([]byte(c.LogLevel))
}

// engine is where and how things are kept.
type engine struct {
	scheme string // "sqlite" or "memory"
	path   string // of the database, sqlite only
}

func (c *config) engine() (engine, error) {
	scheme, path, ok := strings.Cut(c.Store, ":")
	switch {
	case ok && scheme == "memory" && path == "":
		return engine{scheme: scheme}, nil
	case ok && scheme == "sqlite" && path != "":
		if !filepath.IsAbs(path) {
			path = filepath.Join(c.Data, path)
		}
		return engine{scheme, path}, nil
	}
	return engine{}, fmt.Errorf(`%q is not known: write "sqlite:PATH" or "memory:"`, c.Store)
}

// secretTexts returns the client's secrets from the file and from files of their own.
func (cc clientConfig) secretTexts() ([]string, error) {
	var all []string
	for _, s := range cc.Secrets {
		all = append(all, s.text())
	}
	for _, name := range cc.SecretFiles {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("secret_files: %w", bare(err))
		}
		all = append(all, strings.TrimSpace(string(raw)))
	}
	for _, text := range all {
		if len(text) < client.MinSecret {
			return nil, fmt.Errorf("secrets: one has %d characters: want at least %d that nobody can guess", len(text), client.MinSecret)
		}
	}
	return all, nil
}

// client returns what the client is to become, given what is stored of it (the zero
// Client: nothing). Cut-off and known secrets stay as they are.
func (cc clientConfig) client(old client.Client, maxAccessTTL time.Duration, now time.Time) (client.Client, error) {
	texts, err := cc.secretTexts()
	if err != nil {
		return client.Client{}, err
	}
	if len(texts) == 0 && cc.Auth == "secret" {
		return client.Client{}, errors.New(`auth: "secret" needs one: name a file in secret_files, such as "openssl rand -base64 32" makes`)
	}
	next := old
	if next.CreatedAt.IsZero() {
		next.CreatedAt = now
	}
	next.FromConfig = true
	next.Secrets = nil
	for _, text := range texts {
		h := client.HashSecret(text, now)
		if i := slices.IndexFunc(old.Secrets, func(o client.Hash) bool { return o.Sum == h.Sum }); i >= 0 {
			h = old.Secrets[i]
		}
		next.Secrets = append(next.Secrets, h)
	}
	next = cc.Apply(next)
	return next, admin.CheckClient(next, maxAccessTTL)
}
