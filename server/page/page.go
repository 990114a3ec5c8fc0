// Package page is what people see: the HTML pages of the server, their style
// sheet and their one script. It turns a view into bytes. It knows the names of
// form fields and the paths that forms are sent to; it does not know requests,
// handlers, cookies, stores, tokens or families, and it reads no clock.
//
// Every page works without script, has no inline script or style and loads
// nothing from elsewhere, so that the policy of Policy holds. The ids and names
// of its controls are a contract with scripted browsers:
// testdata/controls.txt lists them.
package page

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"strings"
	"time"
)

//go:embed templates/*.html
var templates embed.FS

// Config says where and for whom the pages are.
type Config struct {
	// Name of the service, shown on every page; empty means "Heirloom".
	Name string
	// Base is the path under which the server is mounted, such as "/auth"; empty
	// means the root. It begins with a slash and does not end with one.
	Base string
}

// Pages renders views. It is safe for many goroutines.
type Pages struct {
	config Config
	tmpl   *template.Template
	assets assets
}

// New parses the templates and names the assets. Its errors are mistakes in the
// configuration or in this package; a server does not start with them.
func New(c Config) (*Pages, error) {
	if c.Name == "" {
		c.Name = "Heirloom"
	}
	if c.Base != "" {
		if u, err := url.Parse(c.Base); err != nil || u.Path != c.Base || u.Host != "" || !strings.HasPrefix(c.Base, "/") || strings.HasSuffix(c.Base, "/") {
			return nil, fmt.Errorf("pages: base path %q: want one like /auth", c.Base)
		}
	}
	a, err := loadAssets()
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	p := &Pages{config: c, assets: a}
	p.tmpl, err = template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"path":   func(path string) string { return c.Base + path },
		"asset":  p.AssetURL,
		"notice": noticeText,
		"words":  scopeWords,
		"id":     func(s string) string { return strings.Join(strings.Fields(s), "_") }, // an id has no spaces, a client's may
		"basic":  func() Scope { return Scope{Name: "openid"} },
		"local":  local,
		"at":     func(now, at time.Time) moment { return moment{now, at} },
		"ago":    ago,
		"date":   func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
		"stamp":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	}).ParseFS(templates, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	return p, nil
}

// Field is a hidden form field that comes back as it is.
type Field struct{ Name, Value string }

// SignIn asks for username and password. It is sent to /login with the fields
// continue, username and password.
type SignIn struct {
	Client   string // the name of the client that asked; "" for the account's own pages
	Continue string // comes back as it is: where to go afterwards
	Username string // filled in already, such as a login_hint
	Notice   Notice
	Reason   string // why the session ended, a word of DESIGN §9, with SessionEnded
	Error    string // a sentence; the same one for a wrong password and an unknown user
}

// Scope is one thing that a client may do.
type Scope struct {
	Name string
	// Description in human words that follow "asks to"; empty means the words
	// of this package for the standard scopes, and the bare name for others.
	Description string
	// Required scopes can not be withdrawn on their own (openid).
	Required bool
}

// Consent asks whether a client may have what it asked for. It is sent to
// /consent with the hidden fields and decision, which is "allow" or "deny".
type Consent struct {
	Username     string
	Client       string
	RedirectHost string // host[:port] of the redirect URI, or the scheme of a native app
	Scopes       []Scope
	Resources    []string // resource servers (RFC 8707)
	Continue     string
	Hidden       []Field
	SwitchURL    string // path of a sign-in as somebody else; "" for none
}

// SignOut asks whether to sign out. It is sent to /oauth2/end_session with the
// hidden fields and decision, which is "sign_out" or "stay".
type SignOut struct {
	Username string
	Client   string // who asks; "" for nobody
	Hidden   []Field
}

// SignedOut says that this browser's session has ended.
type SignedOut struct {
	Client    string
	ReturnURL string // http or https; "" for none
}

// Error says what went wrong and what to do. failures.go has the usual ones.
type Error struct {
	Title     string // a few words; no full stop
	Sentence  string // what happened, for a person
	Next      string // what to do next
	Code      string // the protocol's error code, if there is one
	RequestID string
	RetryURL  string // path of a link "Try again"; "" for none
}

// FormPost sends an authorization response by the form_post response mode. Its
// script is an external file; see Policy. Action has to be http or https: no
// other scheme can receive a form.
type FormPost struct {
	Client string
	Action string
	Fields []Field
}

// Device is one line of "Sessions and devices": a browser's session or an
// installed app.
type Device struct {
	ID       string // comes back in the field end; letters, digits, - and _ only
	Label    string // such as "Firefox on Linux"
	App      string // name of the client, for an installed app or an app in a browser
	Address  string // last seen
	Created  time.Time
	LastUsed time.Time
	Current  bool // this browser
}

// Sessions is /account. It is sent to /account/sessions with the field end: a
// device's ID, "this", "others" or "all".
type Sessions struct {
	Username string
	Now      time.Time
	Devices  []Device
	Notice   Notice
	Error    string
}

// Others says whether there is anything besides the current device.
func (s Sessions) Others() bool {
	for _, d := range s.Devices {
		if !d.Current {
			return true
		}
	}
	return false
}

// App is a client that the user has allowed something.
type App struct {
	ClientID string // comes back in client, and in remove
	Name     string
	Since    time.Time // zero: not known
	LastUsed time.Time // zero: not known
	Scopes   []Scope
}

// Apps is /account/apps. It is sent to /account/apps with client and either
// withdraw, a scope, or remove, the client's id again.
type Apps struct {
	Username string
	Now      time.Time
	Apps     []App
	Notice   Notice
	Error    string
}

// ChangePassword is /account/password. It is sent there with current_password,
// new_password and keep, which is "1" to stay signed in here and absent otherwise.
type ChangePassword struct {
	Username string
	Notice   Notice
	Error    string
	Field    string // whose fault the error is: "current_password", "new_password" or ""
}

// view is what a template sees.
type view struct {
	Name    string // of the service
	Title   string // of the document; says first that something went wrong
	Heading string // the h1
	Here    string // which of the account's pages
	View    any
}

// Render writes the page of a view. The error is one of the view's type or
// content and nothing has been written then, or one of w.
func (p *Pages) Render(w io.Writer, v any) error {
	name, data, err := p.choose(v)
	if err != nil {
		return fmt.Errorf("render %T: %w", v, err)
	}
	var b bytes.Buffer
	if err := p.tmpl.ExecuteTemplate(&b, name, data); err != nil {
		return fmt.Errorf("render %T: %w", v, err)
	}
	_, err = w.Write(b.Bytes())
	return err
}

func (p *Pages) choose(v any) (name string, data view, err error) {
	d := view{Name: p.config.Name, View: v}
	failed := false
	switch v := v.(type) {
	case SignIn:
		name, d.Heading, failed = "sign-in", "Sign in", v.Error != ""
	case Consent:
		name, d.Heading = "consent", "Allow access?"
	case SignOut:
		name, d.Heading = "sign-out", "Sign out?"
	case SignedOut:
		name, d.Heading = "signed-out", "You are signed out"
		if v.ReturnURL != "" && !web(v.ReturnURL) {
			return "", view{}, fmt.Errorf("the return address is not http or https")
		}
	case Error:
		name, d.Heading = "error", v.Title
		if v.Title == "" || v.Sentence == "" {
			return "", view{}, fmt.Errorf("an error page needs a title and a sentence")
		}
	case FormPost:
		name, d.Heading = "form-post", "One moment"
		if !web(v.Action) {
			return "", view{}, fmt.Errorf("the form's target is not http or https")
		}
	case Sessions:
		name, d.Heading, d.Here, failed = "sessions", "Sessions and devices", "sessions", v.Error != ""
		for _, dev := range v.Devices {
			if !plain(dev.ID) {
				return "", view{}, fmt.Errorf("a device's id is empty or has characters besides letters, digits, - and _")
			}
		}
	case Apps:
		name, d.Heading, d.Here, failed = "apps", "Connected apps", "apps", v.Error != ""
	case ChangePassword:
		name, d.Heading, d.Here, failed = "password", "Change password", "password", v.Error != ""
	default:
		return "", view{}, fmt.Errorf("there is no page for it")
	}
	d.Title = d.Heading
	if failed {
		d.Title = "Error: " + d.Title
	}
	return name, d, nil
}

func web(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
}

func plain(id string) bool {
	for _, r := range id {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
			return false
		}
	}
	return id != ""
}

// Policy is the Content-Security-Policy for a page. targets are the redirect
// URIs to which the answer of its form may lead, because browsers apply
// form-action to the redirect that follows a form, too: the client's redirect
// URI for SignIn and Consent, the return address for SignOut, the action for
// FormPost. Nothing else on the page may be reached, framed or run.
func Policy(targets ...string) string {
	form := []string{"'self'"}
	for _, t := range targets {
		if s := source(t); s != "" {
			form = append(form, s)
		}
	}
	return "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action " +
		strings.Join(form, " ") + "; base-uri 'none'; frame-ancestors 'none'"
}

// source writes the CSP source expression for a URI: its origin, or its scheme
// alone where the grammar has no word for the host (IPv6) or there is none.
func source(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return ""
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return u.Scheme + ":"
	}
	// url.Parse lets ; and , into a host: they would begin another directive.
	for _, r := range u.Host {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == ':') {
			return u.Scheme + ":"
		}
	}
	if u.Host == "" {
		return u.Scheme + ":"
	}
	return u.Scheme + "://" + u.Host
}
