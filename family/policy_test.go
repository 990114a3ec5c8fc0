package family_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/family"
)

// TestPresetsAreTheDesignsTable is the table of DESIGN §3, literally.
func TestPresetsAreTheDesignsTable(t *testing.T) {
	const table = `
preset  | rotation | leeway | until_used | same presenter | on_reuse | idle | absolute | access token
browser | always   | 30 s   | no         | yes            | revoke   | 24 h | 30 d     | 5 min
native  | always   | 30 s   | yes        | no             | revoke   | 30 d | 1 y      | 10 min
web     | always   | 30 s   | no         | no             | revoke   | 30 d | 1 y      | 10 min
strict  | always   | 0      | no         | –              | revoke   | 24 h | 30 d     | 5 min
fapi    | never    | –      | –          | –              | –        | 30 d | 1 y      | 5 min
`
	rotations := map[string]family.Rotation{"always": family.Always, "never": family.Never}
	spans := map[string]time.Duration{
		"–": 0, "0": 0, "30 s": 30 * time.Second, "24 h": 24 * time.Hour, "30 d": 30 * 24 * time.Hour,
		"1 y": 365 * 24 * time.Hour, "5 min": 5 * time.Minute, "10 min": 10 * time.Minute,
	}
	yes := map[string]bool{"yes": true, "no": false, "–": false}
	names := []string{}
	for row := range strings.Lines(strings.TrimSpace(table)) {
		cell := strings.Split(strings.TrimSpace(row), "|")
		for i := range cell {
			cell[i] = strings.TrimSpace(cell[i])
		}
		if cell[0] == "preset" {
			continue
		}
		names = append(names, cell[0])
		for _, c := range []string{cell[2], cell[6], cell[7], cell[8]} {
			if _, ok := spans[c]; !ok {
				t.Fatalf("%s: %q is not in the list of spans", cell[0], c)
			}
		}
		want := family.Policy{
			Rotation: rotations[cell[1]], Leeway: spans[cell[2]], UntilUsed: yes[cell[3]], SamePresenter: yes[cell[4]],
			OnReuse: family.RevokeFamily, Idle: spans[cell[6]], Absolute: spans[cell[7]], AccessTTL: spans[cell[8]],
			CodeTTL: time.Minute, // FAPI-05: 60 s
		}
		got, ok := family.Preset(cell[0])
		if !ok || got != want {
			t.Errorf("Preset(%q) = %v\n got %+v\nwant %+v", cell[0], ok, got, want)
		}
		if strict := cell[0] == "strict"; got.Strict() != strict {
			t.Errorf("%s: Strict() = %v", cell[0], got.Strict())
		}
	}
	if !slices.Equal(names, family.Presets()) {
		t.Errorf("Presets() = %v, the table has %v", family.Presets(), names)
	}
	for _, name := range []string{"", "Browser", "default"} {
		if p, ok := family.Preset(name); ok || p != (family.Policy{}) {
			t.Errorf("Preset(%q) = %+v, %v", name, p, ok)
		}
	}
}

// The kinds of clients that the presets are for.
var (
	spa          = family.Kind{Browser: true}
	app          = family.Kind{}
	service      = family.Kind{Confidential: true}
	bound        = family.Kind{Constrained: true}
	boundSPA     = family.Kind{Constrained: true, Browser: true}
	boundService = family.Kind{Confidential: true, Constrained: true}
)

func TestPresetsPassTheirCheck(t *testing.T) {
	for name, kinds := range map[string][]family.Kind{
		"browser": {spa, boundSPA, service},
		"native":  {app, bound},
		"web":     {service, boundService},
		"strict":  {app, spa, service, bound, boundSPA, boundService},
		"fapi":    {service, bound, boundService},
	} {
		p, _ := family.Preset(name)
		for _, k := range kinds {
			if err := p.Check(k); err != nil {
				t.Errorf("%s for %+v: %v", name, k, err)
			}
		}
	}
}

// policyChecks are the rows of Check: what is refused, for whom, with which words.
var policyChecks = []struct {
	name   string // of the subtest; 9700-05 and 10017-02 are rows of STANDARDS, E13 of the matrix
	preset string
	set    map[string]string
	change func(*family.Policy) // what no configuration can write
	kind   family.Kind
	want   string // "" = passes
}{
	{"E13 no policy", "web", nil, func(p *family.Policy) { *p = family.Policy{} }, service,
		`rotation is not set: write "always" or "never"`},
	{"E13 rotation beyond the list", "web", nil, func(p *family.Policy) { p.Rotation = 3 }, service,
		`rotation is not set: write "always" or "never"`},
	{"9700-05 public without rotation", "fapi", nil, nil, app,
		`rotation "never" is for clients that authenticate or bind their tokens to a key (RFC 9700 §4.14.2): write "always"`},
	{"9700-05 10017-01 browser without rotation", "fapi", nil, nil, spa,
		`rotation "never" is for clients that authenticate or bind their tokens to a key (RFC 9700 §4.14.2): write "always"`},
	{"9700-05 public, bound, without rotation", "fapi", nil, nil, bound, ""},
	{"9700-05 confidential without rotation", "fapi", nil, nil, service, ""},
	{"9700-05 public that rejects only", "native", map[string]string{"on_reuse": "reject"}, nil, app,
		`on_reuse "reject" lets a thief of a public client's token stay (RFC 9700 §4.14.2): write "revoke"`},
	{"confidential that rejects only", "web", map[string]string{"on_reuse": "reject"}, nil, service, ""},
	{"on_reuse not set", "web", nil, func(p *family.Policy) { p.OnReuse = 0 }, service,
		`on_reuse is not set: write "revoke", "revoke_session", "revoke_user" or "reject"`},
	{"on_reuse beyond the list", "web", nil, func(p *family.Policy) { p.OnReuse = family.RejectReuse + 1 }, service,
		`on_reuse is not set: write "revoke", "revoke_session", "revoke_user" or "reject"`},
	{"E13 leeway of 60 s", "web", map[string]string{"leeway": "60s"}, nil, service, ""},
	{"E13 leeway over 60 s", "web", map[string]string{"leeway": "60.001s"}, nil, service,
		`leeway is 1m0.001s: write a duration from "0s" to "60s"`},
	{"E13 negative leeway", "web", map[string]string{"leeway": "-1ms"}, nil, service,
		`leeway is -1ms: write a duration from "0s" to "60s"`},
	{"leeway below a millisecond", "web", map[string]string{"leeway": "1.5ms"}, nil, service,
		"leeway is 1.5ms: the smallest step is 1ms"},
	{"leeway without rotation", "fapi", map[string]string{"leeway": "1s"}, nil, service,
		`leeway, until_used and same_presenter have no meaning with rotation "never": remove them`},
	{"until_used without rotation", "fapi", map[string]string{"until_used": "true"}, nil, service,
		`leeway, until_used and same_presenter have no meaning with rotation "never": remove them`},
	{"same_presenter without rotation", "fapi", map[string]string{"same_presenter": "true"}, nil, service,
		`leeway, until_used and same_presenter have no meaning with rotation "never": remove them`},
	{"E13 negative idle", "web", map[string]string{"idle": "-1h"}, nil, service,
		`idle is -1h0m0s: write how long a family may rest ("720h"), or "0" for ever`},
	{"E13 idle below a second", "web", map[string]string{"idle": "999ms"}, nil, service,
		`idle is 999ms: write how long a family may rest ("720h"), or "0" for ever`},
	{"E13 negative absolute", "web", map[string]string{"absolute": "-1h"}, nil, service,
		`absolute is -1h0m0s: write how long an authorization lasts ("8760h"), or "0" for ever`},
	{"E13 absolute below a second", "web", map[string]string{"absolute": "1ms", "idle": "0"}, nil, service,
		`absolute is 1ms: write how long an authorization lasts ("8760h"), or "0" for ever`},
	{"E13 idle over absolute", "web", map[string]string{"absolute": "29d"}, nil, service,
		"idle is 720h0m0s, longer than absolute 696h0m0s: make it shorter"},
	{"idle equal to absolute", "web", map[string]string{"absolute": "30d"}, nil, service, ""},
	{"idle without absolute", "web", map[string]string{"absolute": "0"}, nil, service, ""},
	{"absolute without idle", "browser", map[string]string{"idle": "0"}, nil, spa, ""},
	{"for ever, confidential", "web", map[string]string{"idle": "0", "absolute": "0"}, nil, service, ""},
	{"10017-02 for ever in a browser", "browser", map[string]string{"idle": "0", "absolute": "0"}, nil, spa,
		"idle and absolute are both 0: a browser app's refresh token must end (RFC 10017 §6.3.2.3); set one of them"},
	{"10017-02 for ever in a browser, bound", "browser", map[string]string{"idle": "0", "absolute": "0"}, nil, boundSPA,
		"idle and absolute are both 0: a browser app's refresh token must end (RFC 10017 §6.3.2.3); set one of them"},
	{"E13 access_ttl 0", "web", map[string]string{"access_ttl": "0"}, nil, service,
		`access_ttl is 0s: write a duration from "1s" to "24h"`},
	{"E13 negative access_ttl", "web", map[string]string{"access_ttl": "-5m"}, nil, service,
		`access_ttl is -5m0s: write a duration from "1s" to "24h"`},
	{"access_ttl of 1 s", "web", map[string]string{"access_ttl": "1s"}, nil, service, ""},
	{"access_ttl of 24 h", "web", map[string]string{"access_ttl": "1d"}, nil, service, ""},
	{"access_ttl over 24 h", "web", map[string]string{"access_ttl": "24h1s"}, nil, service,
		`access_ttl is 24h0m1s: write a duration from "1s" to "24h"`},
	{"E13 code_ttl 0", "web", map[string]string{"code_ttl": "0"}, nil, service,
		`code_ttl is 0s: write a duration from "1s" to "10m" (RFC 6749 §4.1.2)`},
	{"code_ttl of 10 min", "web", map[string]string{"code_ttl": "10m"}, nil, service, ""},
	{"code_ttl over 10 min", "web", map[string]string{"code_ttl": "10m1ms"}, nil, service,
		`code_ttl is 10m0.001s: write a duration from "1s" to "10m" (RFC 6749 §4.1.2)`},
	{"E12 a hundred years", "web", map[string]string{"absolute": "36500d", "idle": "36500d"}, nil, service, ""},
	{"E12 as long as can be written", "web", map[string]string{"absolute": "106751d", "idle": "106751d"}, nil, service, ""},
}

func TestRT_E13_NonsenseIsRefusedByName(t *testing.T) {
	for _, c := range policyChecks {
		t.Run(c.name, func(t *testing.T) {
			p, err := family.PolicyOf(c.preset, c.set)
			if err != nil {
				t.Fatal(err)
			}
			if c.change != nil {
				c.change(&p)
			}
			got := ""
			if err := p.Check(c.kind); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("Check(%+v) of %+v\n got %s\nwant %s", c.kind, p, got, c.want)
			}
		})
	}
}

// TestRFC9700_05_PublicClientsRotateOrAreBound tries every kind of client: without a
// secret and without a key there is no refresh token that lives on after its use.
func TestRFC9700_05_PublicClientsRotateOrAreBound(t *testing.T) {
	p, _ := family.Preset("fapi")
	for _, k := range []family.Kind{spa, app, service, bound, boundSPA, boundService} {
		if allowed := p.Check(k) == nil; allowed != (k.Confidential || k.Constrained) {
			t.Errorf("rotation never for %+v: allowed %v", k, allowed)
		}
	}
}

// TestRFC10017_02_BrowserTokensEnd: one of the two bounds is enough.
func TestRFC10017_02_BrowserTokensEnd(t *testing.T) {
	for _, idle := range []string{"0", "1d"} {
		for _, absolute := range []string{"0", "30d"} {
			p, err := family.PolicyOf("browser", map[string]string{"idle": idle, "absolute": absolute})
			if err != nil {
				t.Fatal(err)
			}
			if allowed := p.Check(spa) == nil; allowed != (idle != "0" || absolute != "0") {
				t.Errorf("idle %s, absolute %s: allowed %v", idle, absolute, allowed)
			}
		}
	}
}

// TestRT_E12_NothingOverflows: the largest policy at the last second of the year 9999.
func TestRT_E12_NothingOverflows(t *testing.T) {
	p, err := family.PolicyOf("web", map[string]string{"idle": "106751d", "absolute": "106751d"})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{
		time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		now := family.At(at)
		s := family.New(family.ID{1}, p, now, &family.Grant{}, 1, 0, family.Origin{})
		s, v := family.Present(s, p, now, family.Token{}, family.Proof{})
		if v.Act != family.Rotate || s.IdleEnds <= now || s.Ends <= now {
			t.Errorf("at %v: %v, idle ends %v, ends %v", at, v, s.IdleEnds.Std(), s.Ends.Std())
		}
		refresh, authorization := s.Left(p, now)
		if refresh != 106751*24*time.Hour || authorization != refresh {
			t.Errorf("at %v: left %v and %v, want 106751 days", at, refresh, authorization)
		}
		if got := s.Trail.Uses[1].At; got != now {
			t.Errorf("at %v: the trail has %v", at, got.Std())
		}
		back, ok := family.ParseTrail(s.Trail.AppendTrail(nil))
		if !ok || back != s.Trail {
			t.Errorf("at %v: the trail comes back as %+v", at, back)
		}
	}
}

func TestPolicyOfReadsEveryField(t *testing.T) {
	got, err := family.PolicyOf("strict", map[string]string{
		"rotation": "never", "leeway": "1m", "until_used": "true", "same_presenter": "true", "on_reuse": "revoke_user",
		"idle": "36h", "absolute": "7d", "access_ttl": "90s", "code_ttl": "30s",
	})
	want := family.Policy{
		Rotation: family.Never, Leeway: time.Minute, UntilUsed: true, SamePresenter: true, OnReuse: family.RevokeUser,
		Idle: 36 * time.Hour, Absolute: 7 * 24 * time.Hour, AccessTTL: 90 * time.Second, CodeTTL: 30 * time.Second,
	}
	if err != nil || got != want {
		t.Errorf("PolicyOf: %v\n got %+v\nwant %+v", err, got, want)
	}
	for word, want := range map[string]family.OnReuse{
		"revoke": family.RevokeFamily, "revoke_session": family.RevokeSession, "revoke_user": family.RevokeUser, "reject": family.RejectReuse,
	} {
		if p, err := family.PolicyOf("web", map[string]string{"on_reuse": word}); err != nil || p.OnReuse != want {
			t.Errorf("on_reuse %q: %v, %v", word, p.OnReuse, err)
		}
	}
	for value, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "0d": 0, "1d": 24 * time.Hour, "30d": 720 * time.Hour, "1h30m": 90 * time.Minute, "1500ms": 1500 * time.Millisecond,
	} {
		if p, err := family.PolicyOf("web", map[string]string{"idle": value}); err != nil || p.Idle != want {
			t.Errorf("idle %q: %v, %v; want %v", value, p.Idle, err, want)
		}
	}
}

func TestPolicyOfRefusesByName(t *testing.T) {
	const fields = "rotation, leeway, until_used, same_presenter, on_reuse, idle, absolute, access_ttl, code_ttl"
	for _, c := range []struct{ preset, field, value, want string }{
		{"", "", "", `preset "" is not known: write one of browser, native, web, strict, fapi`},
		{"Web", "", "", `preset "Web" is not known: write one of browser, native, web, strict, fapi`},
		{"web", "idel", "1d", `policy field "idel" is not known: write one of ` + fields},
		{"web", "", "1d", `policy field "" is not known: write one of ` + fields},
		{"web", "rotation", "sometimes", `rotation is "sometimes": write one of always, never`},
		{"web", "until_used", "yes", `until_used is "yes": write one of false, true`},
		{"web", "same_presenter", "1", `same_presenter is "1": write one of false, true`},
		{"web", "on_reuse", "", `on_reuse is "": write one of reject, revoke, revoke_session, revoke_user`},
		{"web", "leeway", "30", `leeway is "30": write a duration such as "30s", "36h" or "30d"`},
		{"web", "idle", "", `idle is "": write a duration such as "30s", "36h" or "30d"`},
		{"web", "idle", "forever", `idle is "forever": write a duration such as "30s", "36h" or "30d"`},
		{"web", "idle", "1d12h", `idle is "1d12h": write a duration such as "30s", "36h" or "30d"`},
		{"web", "idle", "1.5d", `idle is "1.5d": write whole days up to "106751d", or a duration such as "36h"`},
		{"web", "idle", "-1d", `idle is "-1d": write whole days up to "106751d", or a duration such as "36h"`},
		{"web", "idle", "d", `idle is "d": write whole days up to "106751d", or a duration such as "36h"`},
		{"web", "absolute", "106752d", `absolute is "106752d": write whole days up to "106751d", or a duration such as "36h"`},
		{"web", "access_ttl", "5 min", `access_ttl is "5 min": write a duration such as "30s", "36h" or "30d"`},
		{"web", "code_ttl", "x", `code_ttl is "x": write a duration such as "30s", "36h" or "30d"`},
	} {
		set := map[string]string{c.field: c.value}
		if c.preset != "web" {
			set = nil
		}
		p, err := family.PolicyOf(c.preset, set)
		if err == nil || err.Error() != c.want || p != (family.Policy{}) {
			t.Errorf("PolicyOf(%q, %v)\n got %+v, %v\nwant %s", c.preset, set, p, err, c.want)
		}
	}
	// Of several mistakes the first by name is told, whatever the map's order.
	many := map[string]string{"leeway": "x", "absolute": "x", "idle": "x"}
	for range 20 {
		if _, err := family.PolicyOf("web", many); err == nil || !strings.HasPrefix(err.Error(), slices.Min(slices.Collect(maps.Keys(many)))) {
			t.Fatalf("PolicyOf: %v", err)
		}
	}
}
