package page

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"html"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/controls.txt anew")

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// A string that would show in any context that does not escape it.
const evil = `"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;{{.}}` + "`\u2028"

func pages(t *testing.T, c Config) *Pages {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func render(t *testing.T, p *Pages, v any) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Render(&b, v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

type named struct {
	name string
	view any
}

// views are all pages with all their parts showing, s being everything that
// comes from outside, and each page in its barest form.
func views(s string) []named {
	scopes := []Scope{{Name: "openid", Required: true}, {Name: "email"}, {Name: s, Description: s}, {Name: s + "2"}}
	hidden := []Field{{"state", s}}
	return []named{
		{"sign-in", SignIn{Client: s, Continue: s, Username: s, Notice: SessionEnded, Reason: s, Error: s}},
		{"sign-in, bare", SignIn{}},
		{"consent", Consent{Username: s, Client: s, RedirectHost: s, Scopes: scopes, Resources: []string{s}, Continue: s, Hidden: hidden, SwitchURL: s}},
		{"consent, local", Consent{Username: "ada", Client: "cli", RedirectHost: "127.0.0.1:1"}},
		{"sign-out", SignOut{Username: s, Client: s, Hidden: hidden}},
		{"sign-out, bare", SignOut{Username: "ada"}},
		{"signed-out", SignedOut{Client: s, ReturnURL: "https://rp.example/?x=" + s}},
		{"signed-out, bare", SignedOut{}},
		{"error", Error{Title: s, Sentence: s, Next: s, Code: s, RequestID: s, RetryURL: s}},
		{"error, bare", Error{Title: "x", Sentence: "y"}},
		{"form-post", FormPost{Client: s, Action: "https://rp.example/?x=" + s, Fields: hidden}},
		{"form-post, bare", FormPost{Action: "https://rp.example/"}},
		{"sessions", Sessions{Username: s, Now: noon, Notice: DeviceSignedOut, Error: s, Devices: []Device{
			{ID: "0a", Label: s, App: s, Address: s, Created: noon, LastUsed: noon, Current: true},
			{ID: "0b", Label: s, Created: noon, LastUsed: noon},
		}}},
		{"sessions, bare", Sessions{Username: "ada", Now: noon}},
		{"apps", Apps{Username: s, Now: noon, Notice: ScopeWithdrawn, Error: s, Apps: []App{{ClientID: s, Name: s, Since: noon, LastUsed: noon, Scopes: scopes}}}},
		{"apps, bare", Apps{Username: "ada", Now: noon, Apps: []App{{ClientID: "a"}}}},
		{"apps, none", Apps{Username: "ada", Now: noon}},
		{"password", ChangePassword{Username: s, Notice: PasswordChanged, Error: s, Field: "new_password"}},
		{"password, current", ChangePassword{Username: "ada", Error: "x", Field: "current_password"}},
		{"password, bare", ChangePassword{Username: "ada"}},
	}
}

// tag is one start tag of a page.
type tag struct {
	name  string
	attrs map[string]string
	has   []string // the attributes' names in order
}

var (
	tagRE  = regexp.MustCompile(`<(/?)([a-zA-Z][a-zA-Z0-9-]*)((?:\s+[^\s"'<>/=]+(?:="[^"]*")?)*)\s*(/?)>`)
	attrRE = regexp.MustCompile(`([^\s"'<>/=]+)(?:="([^"]*)")?`)
	void   = []string{"meta", "link", "input", "br", "img"}
)

// parse reads our own, deliberately plain HTML: every attribute value is in
// double quotes, every element that is not void is closed in order, and < is
// nothing but the beginning of a tag. Anything else fails the test: it is either
// a mistake in a template or something that broke out of its place.
func parse(t *testing.T, page string) []tag {
	t.Helper()
	rest, ok := strings.CutPrefix(page, "<!doctype html>\n")
	if !ok {
		t.Fatalf("does not begin with a doctype: %.60q", page)
	}
	var tags []tag
	var open []string
	for {
		i := strings.IndexByte(rest, '<')
		if i < 0 {
			break
		}
		rest = rest[i:]
		m := tagRE.FindStringSubmatch(rest)
		if m == nil || !strings.HasPrefix(rest, m[0]) {
			t.Fatalf("not a tag: %.80q", rest)
		}
		rest = rest[len(m[0]):]
		name := m[2]
		if m[1] == "/" {
			if len(open) == 0 || open[len(open)-1] != name {
				t.Fatalf("</%s> closes %v", name, open)
			}
			open = open[:len(open)-1]
			continue
		}
		g := tag{name: name, attrs: map[string]string{}}
		for _, a := range attrRE.FindAllStringSubmatch(m[3], -1) {
			if slices.Contains(g.has, a[1]) {
				t.Errorf("<%s> has %s twice", name, a[1])
			}
			g.has = append(g.has, a[1])
			g.attrs[a[1]] = html.UnescapeString(a[2])
		}
		tags = append(tags, g)
		if m[4] != "/" && !slices.Contains(void, name) {
			open = append(open, name)
		}
	}
	if len(open) > 0 {
		t.Fatalf("never closed: %v", open)
	}
	if len(tags) < 10 {
		t.Fatalf("only %d tags: does the parser still work?", len(tags))
	}
	return tags
}

func TestHostileValuesStayText(t *testing.T) {
	p := pages(t, Config{Name: evil})
	for i, v := range views(evil) {
		harmless := views("x")[i]
		t.Run(v.name, func(t *testing.T) {
			page := render(t, p, v.view)
			if strings.Contains(page, "<script>alert") || strings.Contains(page, "<img") || strings.Contains(page, "ZgotmplZ") {
				t.Errorf("a value became markup:\n%s", page)
			}
			// The same elements with the same attributes as without hostility.
			var got, want []string
			for _, g := range parse(t, page) {
				got = append(got, g.name+" "+strings.Join(g.has, " "))
			}
			for _, g := range parse(t, render(t, p, harmless.view)) {
				want = append(want, g.name+" "+strings.Join(g.has, " "))
			}
			if !slices.Equal(got, want) {
				t.Errorf("hostile values changed the page's structure\n got %v\nwant %v", got, want)
			}
		})
	}
}

func Test6749_27_LinksLeadNowhereUnexpected(t *testing.T) {
	p := pages(t, Config{})
	for _, bad := range []string{"javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", " javascript:alert(1)", "vbscript:x", "com.example.app:/cb", "//evil.example", "/path", "https:", "%zz"} {
		for _, v := range []any{FormPost{Action: bad}, SignedOut{ReturnURL: bad}} {
			var b bytes.Buffer
			if err := p.Render(&b, v); err == nil || b.Len() > 0 {
				t.Errorf("%T with %q: %v, %d bytes written", v, bad, err, b.Len())
			}
		}
	}
	for _, v := range []any{Error{Title: "x", Sentence: "y", RetryURL: "javascript:alert(1)"}, Consent{SwitchURL: "javascript:alert(1)"}} {
		if page := render(t, p, v); strings.Contains(page, "javascript:") {
			t.Errorf("%T links to javascript:\n%s", v, page)
		}
	}
}

func TestPagesObeyTheirPolicy(t *testing.T) {
	p := pages(t, Config{Base: "/auth"})
	for _, v := range views("x") {
		t.Run(v.name, func(t *testing.T) {
			page := render(t, p, v.view)
			scripts := 0
			for _, g := range parse(t, page) {
				for _, a := range g.has {
					if strings.HasPrefix(a, "on") || a == "style" || a == "srcdoc" || a == "formaction" {
						t.Errorf("<%s %s>: not under our policy", g.name, a)
					}
				}
				switch g.name {
				case "style", "iframe", "object", "embed", "base":
					t.Errorf("<%s>: not under our policy", g.name)
				case "script":
					scripts++
					if !strings.HasPrefix(g.attrs["src"], "/auth/assets/form-post.") {
						t.Errorf("script from %q", g.attrs["src"])
					}
				case "link", "img":
					if u := g.attrs["href"] + g.attrs["src"]; !strings.HasPrefix(u, "/auth/assets/") {
						t.Errorf("<%s> from %q", g.name, u)
					}
				case "form":
					if u := g.attrs["action"]; !strings.HasPrefix(u, "/auth/") && v.name[:4] != "form" {
						t.Errorf("a form goes to %q", u)
					}
					if g.attrs["method"] != "post" {
						t.Errorf("a form uses %q: what it carries would be in the address", g.attrs["method"])
					}
				case "meta":
					// With no-referrer, browsers send our own forms with "Origin: null".
					if g.attrs["name"] == "referrer" && g.attrs["content"] != "same-origin" {
						t.Errorf("referrer policy %q: want same-origin", g.attrs["content"])
					}
					if _, ok := g.attrs["http-equiv"]; ok {
						t.Error("a meta element stands in for a header")
					}
				}
			}
			if _, ok := v.view.(FormPost); scripts > 0 && !ok {
				t.Errorf("%d scripts", scripts)
			} else if ok && scripts != 1 {
				t.Errorf("%d scripts on the form_post page, want 1", scripts)
			}
			for _, m := range regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+`).FindAllString(page, -1) {
				if m != "https://rp.example" {
					t.Errorf("an external address: %q", m)
				}
			}
		})
	}
	for name, a := range p.assets.byName {
		if m := regexp.MustCompile(`(?i)url\(|@import|https?://[a-z0-9./-]*`).FindString(string(a.Body)); m != "" && m != "http://www.w3.org/2000/svg" {
			t.Errorf("%s loads something: %q", name, m)
		}
	}
}

func TestPagesAreAccessible(t *testing.T) {
	p := pages(t, Config{})
	titles := map[string]string{}
	for _, v := range views("x") {
		t.Run(v.name, func(t *testing.T) {
			page := render(t, p, v.view)
			tags := parse(t, page)
			ids := map[string]int{}
			labelled := map[string]bool{}
			count := map[string]int{}
			autofocus := 0
			for _, g := range tags {
				count[g.name]++
				if id, ok := g.attrs["id"]; ok {
					ids[id]++
					if ids[id] > 1 || id == "" || strings.ContainsAny(id, " \t\n") {
						t.Errorf("id %q: empty, with spaces or used twice", id)
					}
				}
				if g.name == "label" {
					labelled[g.attrs["for"]] = true
				}
				if slices.Contains(g.has, "autofocus") {
					autofocus++
				}
				if tab := g.attrs["tabindex"]; tab != "" && tab != "-1" {
					t.Errorf("<%s tabindex=%s> changes the order of focus", g.name, tab)
				}
			}
			for _, g := range tags {
				if g.name == "input" && g.attrs["type"] != "hidden" && !slices.Contains(g.has, "hidden") {
					if !labelled[g.attrs["id"]] {
						t.Errorf("input %q has no label", g.attrs["id"])
					}
					if g.attrs["type"] == "" {
						t.Errorf("input %q has no type", g.attrs["id"])
					}
					if g.attrs["type"] != "checkbox" && g.attrs["autocomplete"] == "" {
						t.Errorf("input %q has no autocomplete", g.attrs["id"])
					}
				}
				if g.name == "button" && g.attrs["id"] == "" {
					t.Errorf("a button %v has no id", g.attrs)
				}
				for _, ref := range []string{"for", "aria-describedby", "aria-labelledby"} {
					for _, id := range strings.Fields(g.attrs[ref]) {
						if ids[id] == 0 {
							t.Errorf("<%s %s=%q>: nothing has this id", g.name, ref, id)
						}
					}
				}
				if href := g.attrs["href"]; strings.HasPrefix(href, "#") && ids[href[1:]] == 0 {
					t.Errorf("a link to %q leads nowhere", href)
				}
				if g.name == "img" && !slices.Contains(g.has, "alt") {
					t.Error("an image has no alt")
				}
			}
			if count["h1"] != 1 || count["main"] != 1 || count["title"] != 1 {
				t.Errorf("%d h1, %d main, %d title, want 1 of each", count["h1"], count["main"], count["title"])
			}
			if !slices.ContainsFunc(tags, func(g tag) bool { return g.name == "html" && g.attrs["lang"] == "en" }) {
				t.Error("no language")
			}
			if autofocus > 1 {
				t.Errorf("%d elements want the focus", autofocus)
			}
			// The first thing to tab to is the way past the rest.
			if i := slices.IndexFunc(tags, func(g tag) bool { return g.name == "a" || g.name == "button" || g.name == "input" }); tags[i].attrs["class"] != "skip" {
				t.Errorf("the first control is %v, not the skip link", tags[i])
			}
			// What went wrong is said before the field that has to be corrected.
			if i := strings.Index(page, `role="alert"`); i >= 0 {
				if j := strings.Index(page, "aria-invalid"); j >= 0 && j < i {
					t.Error("the error comes after its field")
				}
			}
			title := regexp.MustCompile(`<title>(.*)</title>`).FindStringSubmatch(page)[1]
			kind := fmt.Sprintf("%T %t", v.view, strings.HasPrefix(title, "Error"))
			if other, ok := titles[title]; ok && other != kind {
				t.Errorf("title %q is also that of %s", title, other)
			}
			titles[title] = kind
		})
	}
}

func TestErrorsAreInTheTitleAndAnnounced(t *testing.T) {
	p := pages(t, Config{Name: "Example"})
	page := render(t, p, SignIn{Username: "ada", Error: "Wrong."})
	for _, want := range []string{
		"<title>Error: Sign in – Example</title>",
		`<div class="problem" id="error" role="alert"><p>Wrong.</p></div>`,
		`aria-describedby="error"`,
		`value="ada"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the sign-in page with an error lacks %s", want)
		}
	}
	if page := render(t, p, SignIn{}); strings.Contains(page, "aria-invalid") || strings.Contains(page, `role="alert"`) || strings.Contains(page, `role="status"`) {
		t.Error("the sign-in page announces something although nothing happened")
	}
	for _, v := range views("x") {
		if page := render(t, p, v.view); strings.Contains(page, "<title>Error: ") != strings.Contains(page, `class="problem"`) {
			t.Errorf("%s: the title and the page do not agree that there is an error", v.name)
		}
	}
}

// Scripted browsers find their way by these. A change here breaks them.
func TestControlsAreStable(t *testing.T) {
	p := pages(t, Config{})
	var b strings.Builder
	for _, v := range views("x") {
		fmt.Fprintf(&b, "%s\n", v.name)
		for _, g := range parse(t, render(t, p, v.view)) {
			switch g.name {
			case "form", "input", "button", "a":
			default:
				if g.attrs["id"] == "" {
					continue
				}
			}
			fmt.Fprintf(&b, "\t%s", g.name)
			for _, a := range []string{"id", "name", "type", "hidden", "value", "action", "href", "autocomplete"} {
				if val, ok := g.attrs[a]; ok {
					fmt.Fprintf(&b, " %s=%s", a, val)
				}
			}
			b.WriteByte('\n')
		}
	}
	const golden = "testdata/controls.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		got := strings.Split(b.String(), "\n")
		for i, w := range strings.Split(string(want), "\n") {
			if i >= len(got) || got[i] != w {
				t.Fatalf("%s:%d\n got %q\nwant %q\nrun the test with -update if scripted browsers may break", golden, i+1, got[min(i, len(got)-1)], w)
			}
		}
		t.Fatalf("%s: %d lines more than before", golden, len(got)-strings.Count(string(want), "\n"))
	}
}

func TestHiddenFieldsComeBackAsTheyWere(t *testing.T) {
	p := pages(t, Config{})
	fields := []Field{{"code", "hac_" + evil}, {"state", "a b&c=d\r\n\t+é"}, {"empty", ""}}
	for _, v := range []any{
		FormPost{Action: "https://rp.example/cb?a=1&b=2", Fields: fields},
		Consent{Hidden: fields},
		SignOut{Hidden: fields},
	} {
		var got []Field
		for _, g := range parse(t, render(t, p, v)) {
			if g.attrs["type"] == "hidden" && g.attrs["name"] != "continue" {
				got = append(got, Field{g.attrs["name"], g.attrs["value"]})
			}
			if _, ok := v.(FormPost); ok && g.name == "form" && g.attrs["action"] != "https://rp.example/cb?a=1&b=2" {
				t.Errorf("the form goes to %q", g.attrs["action"])
			}
		}
		if !slices.Equal(got, fields) {
			t.Errorf("%T: hidden fields %q, want %q", v, got, fields)
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	p := pages(t, Config{})
	for _, v := range []any{
		nil, "x", 1, &SignIn{}, Error{}, Error{Title: "x"}, SignIn{Notice: 200},
		Sessions{Devices: []Device{{ID: ""}}}, Sessions{Devices: []Device{{ID: "a b"}}},
		Sessions{Devices: []Device{{ID: `"`}}},
	} {
		var b bytes.Buffer
		if err := p.Render(&b, v); err == nil || b.Len() > 0 {
			t.Errorf("Render(%#v) = %v and wrote %d bytes, want an error and none", v, err, b.Len())
		}
	}
	if err := p.Render(brokenWriter{}, SignIn{}); !errors.Is(err, errBroken) {
		t.Errorf("Render to a broken connection = %v", err)
	}
	for _, base := range []string{"/", "auth", "/auth/", "https://x.example", "//x", "/a?b", "/a#b", "/a b%"} {
		if _, err := New(Config{Base: base}); err == nil {
			t.Errorf("New accepts the base %q", base)
		}
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestAssets(t *testing.T) {
	p := pages(t, Config{Base: "/auth"})
	for _, name := range []string{"page.css", "demo.css", "form-post.js", "logo.svg"} {
		u, err := p.AssetURL(name)
		if err != nil {
			t.Fatal(err)
		}
		hashed, ok := strings.CutPrefix(u, "/auth/assets/")
		if !ok || !regexp.MustCompile(`^[a-z-]+\.[0-9a-f]{12}\.[a-z]+$`).MatchString(hashed) {
			t.Errorf("AssetURL(%s) = %s", name, u)
		}
		a, ok := p.Asset(hashed)
		if !ok || !a.Immutable || len(a.Body) == 0 || a.ContentType == "" || a.Name != hashed {
			t.Errorf("Asset(%s) = %s, immutable %t, %d bytes", hashed, a.Name, a.Immutable, len(a.Body))
		}
		b, ok := p.Asset(name)
		if !ok || b.Immutable || !bytes.Equal(a.Body, b.Body) {
			t.Errorf("Asset(%s): found %t, immutable %t", name, ok, b.Immutable)
		}
	}
	for _, name := range []string{"", "page.000000000000.css", "../page.css", "assets/page.css", "layout.html"} {
		if _, ok := p.Asset(name); ok {
			t.Errorf("Asset(%q) exists", name)
		}
	}
	if _, err := p.AssetURL("page.js"); err == nil {
		t.Error("AssetURL of nothing is no error")
	}
}

// The rules for inputs say display: block, which beats the attribute: without
// this rule the password page shows the field that is there for password managers.
func TestHiddenStaysHidden(t *testing.T) {
	css, err := files.ReadFile("assets/page.css")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(css, []byte("[hidden] { display: none !important; }")) {
		t.Error("page.css lets hidden elements show")
	}
}

func TestPolicy(t *testing.T) {
	form := func(targets ...string) string {
		t.Helper()
		policy := Policy(targets...)
		for _, want := range []string{"default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "script-src 'self'", "style-src 'self'"} {
			if !slices.Contains(strings.Split(policy, "; "), want) {
				t.Errorf("Policy(%q) lacks %q", targets, want)
			}
		}
		if n := strings.Count(policy, ";"); n != 6 || strings.ContainsAny(policy, ",\r\n") || strings.Contains(policy, "unsafe") {
			t.Errorf("Policy(%q) = %q", targets, policy)
		}
		i := strings.Index(policy, "form-action ")
		s, _, _ := strings.Cut(policy[i+len("form-action "):], ";")
		return s
	}
	for _, c := range []struct{ target, want string }{
		{"https://rp.example/cb?x=1", "'self' https://rp.example"},
		{"http://127.0.0.1:4711/callback", "'self' http://127.0.0.1:4711"},
		{"http://[::1]:4711/callback", "'self' http:"},
		{"com.example.app:/cb", "'self' com.example.app:"},
		{"https://a;script-src%20x/", "'self'"},
		{"https://a;b,c/", "'self' https:"},
		{"https://a'b/", "'self' https:"},
		{"https://*/", "'self' https:"},
		{"https://user:pw@rp.example/", "'self' https://rp.example"},
		{"relative", "'self'"},
		{"", "'self'"},
		{"%zz", "'self'"},
	} {
		if got := form(c.target); got != c.want {
			t.Errorf("form-action for %q is %q, want %q", c.target, got, c.want)
		}
	}
	if got := form(); got != "'self'" {
		t.Errorf("form-action is %q", got)
	}
}

func TestAgo(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Hour, "just now"},
		{0, "just now"},
		{59 * time.Second, "just now"},
		{time.Minute, "1 minute ago"},
		{59 * time.Minute, "59 minutes ago"},
		{time.Hour, "1 hour ago"},
		{47 * time.Hour, "1 day ago"},
		{13 * 24 * time.Hour, "13 days ago"},
		{14 * 24 * time.Hour, "9 November 2026"},
	} {
		if got := ago(noon, noon.Add(-c.d)); got != c.want {
			t.Errorf("ago(%v) = %q, want %q", c.d, got, c.want)
		}
	}
}

func TestMCP03_ConsentTellsALocalAppFromASite(t *testing.T) {
	p := pages(t, Config{})
	for _, c := range []struct {
		host  string
		local bool
	}{
		{"127.0.0.1:4711", true}, {"127.0.0.1", true}, {"[::1]:80", true}, {"[::1]", true}, {"localhost:1", true}, {"localhost", true},
		{"rp.example", false}, {"rp.example:8443", false}, {"192.0.2.1:1", false}, {"127.0.0.1.evil.example", false}, {"localhost.evil.example:1", false},
	} {
		page := render(t, p, Consent{Username: "ada", Client: "App", RedirectHost: c.host})
		if strings.Contains(page, "an app on this device") != c.local {
			t.Errorf("%s: local %t", c.host, !c.local)
		}
		if !strings.Contains(page, `<strong id="redirect-host">`+c.host+`</strong>`) {
			t.Errorf("%s is not shown", c.host)
		}
	}
}

func TestEveryReasonHasWords(t *testing.T) {
	other := whyEnded("")
	for _, r := range []string{"expired_idle", "expired_absolute", "revoked_logout", "revoked_user", "revoked_password_change", "revoked_admin", "user_disabled", "reuse", "evicted"} {
		if whyEnded(r) == other {
			t.Errorf("reason %s has no words of its own", r)
		}
	}
	for n := SignedOutHere; n <= AccessRemoved; n++ {
		if s, err := noticeText(n, ""); s == "" || err != nil {
			t.Errorf("notice %d: %q, %v", n, s, err)
		}
	}
}

func TestFailuresAreDistinct(t *testing.T) {
	p := pages(t, Config{})
	all := []Error{
		UnknownClient("r1"), BadRedirect("r1"), BadRequest("scope is repeated", "r1"), RequestExpired("r1"),
		CrossOrigin("r1"), Unavailable("r1"),
	}
	seen := map[string]bool{}
	for _, e := range all {
		if seen[e.Title] || seen[e.Sentence] || e.Next == "" || e.RequestID != "r1" {
			t.Errorf("%+v: not distinct, without advice or without its request", e)
		}
		seen[e.Title], seen[e.Sentence] = true, true
		if page := render(t, p, e); !strings.Contains(page, `id="request-id">r1<`) {
			t.Errorf("%s does not show the request", e.Title)
		}
	}
}

// The pairs of colours that page.css puts on each other, and the contrast that
// WCAG 2.2 asks of them: 4.5 for text (1.4.3), 3 for the edges of controls and
// the ring of focus (1.4.11).
func TestContrast(t *testing.T) {
	css, err := files.ReadFile("assets/page.css")
	if err != nil {
		t.Fatal(err)
	}
	roots := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(string(css), -1)
	if len(roots) != 2 {
		t.Fatalf("%d sets of colours, want light and dark", len(roots))
	}
	for i, theme := range []string{"light", "dark"} {
		colour := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`).FindAllStringSubmatch(roots[i][1], -1) {
			colour[m[1]] = luminance(t, m[2])
		}
		for _, c := range []struct {
			on   string
			want float64
			of   []string
		}{
			{"paper", 4.5, []string{"ink", "soft", "accent", "accent-deep"}},
			{"sheet", 4.5, []string{"ink", "soft", "accent", "accent-deep", "bad"}},
			{"wash", 4.5, []string{"ink", "accent", "accent-deep"}},
			{"bad-wash", 4.5, []string{"bad", "ink"}},
			{"accent", 4.5, []string{"on-accent"}},
			{"accent-deep", 4.5, []string{"on-accent"}},
			{"sheet", 3, []string{"edge", "focus", "bad"}},
			{"paper", 3, []string{"edge", "focus"}},
		} {
			for _, name := range c.of {
				a, okA := colour[name]
				b, okB := colour[c.on]
				if !okA || !okB {
					t.Fatalf("%s: no colour %s or %s", theme, name, c.on)
				}
				if got := (max(a, b) + 0.05) / (min(a, b) + 0.05); got < c.want {
					t.Errorf("%s: %s on %s has contrast %.2f, want %.1f", theme, name, c.on, got, c.want)
				}
			}
		}
	}
}

func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	l := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		v, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(v) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}
