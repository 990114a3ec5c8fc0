package family

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rotation says whether each use of a refresh token retires it. Zero is invalid.
type Rotation uint8

// The kinds of rotation.
const (
	_      Rotation = iota
	Always          // each refresh token works once
	Never           // for confidential or sender-constrained clients (FAPI 2.0 §5.3.2.1)
)

// OnReuse says what a detected reuse ends. Zero is invalid.
type OnReuse uint8

// What a reuse ends.
const (
	_             OnReuse = iota
	RevokeFamily          // the family (default)
	RevokeSession         // and all session-bound families of its session
	RevokeUser            // and everything of its user
	RejectReuse           // nothing: the request fails, an event is written
)

// Policy is the rules a client's families live under. The zero Policy is invalid;
// take a preset and change it.
type Policy struct {
	Rotation      Rotation
	Leeway        time.Duration // how long after it was retired a token is repeated at most; 0: not at all
	UntilUsed     bool          // the predecessor repeats until its successor has been used
	SamePresenter bool          // leeway and until_used only for the User-Agent that rotated
	OnReuse       OnReuse
	Idle          time.Duration // life without use; 0: never ends so
	Absolute      time.Duration // life from the authorization on; 0: never ends so
	AccessTTL     time.Duration // life of an access token, > 0
	CodeTTL       time.Duration // life of an authorization code, > 0, at most 10 minutes (RFC 6749 §4.1.2)
}

// Strict reports whether the policy forgives nothing but a proven retry.
func (p Policy) Strict() bool { return p.Rotation == Always && p.Leeway == 0 && !p.UntilUsed }

const day = 24 * time.Hour

// Preset returns a named policy: browser, native, web, strict or fapi.
func Preset(name string) (Policy, bool) {
	p := Policy{
		Rotation: Always, Leeway: 30 * time.Second, OnReuse: RevokeFamily,
		Idle: 30 * day, Absolute: 365 * day, AccessTTL: 10 * time.Minute, CodeTTL: time.Minute,
	}
	switch name {
	case "browser":
		p.SamePresenter = true
		p.Idle, p.Absolute, p.AccessTTL = day, 30*day, 5*time.Minute
	case "native":
		p.UntilUsed = true
	case "web":
	case "strict":
		p.Leeway = 0
		p.Idle, p.Absolute, p.AccessTTL = day, 30*day, 5*time.Minute
	case "fapi":
		p.Rotation, p.Leeway = Never, 0
		p.AccessTTL = 5 * time.Minute
	default:
		return Policy{}, false
	}
	return p, true
}

// Presets returns the names that Preset knows.
func Presets() []string { return []string{"browser", "native", "web", "strict", "fapi"} }

// Kind says what the policy's client can prove; it decides what may be switched off.
type Kind struct {
	Confidential bool // authenticates itself
	Constrained  bool // its refresh tokens are bound to a key
	Browser      bool // runs in a browser (RFC 10017)
}

// Check refuses what makes no sense or what a standard forbids. The error names the
// field and what to write instead.
func (p Policy) Check(k Kind) error {
	switch {
	case p.Rotation != Always && p.Rotation != Never:
		return errors.New(`rotation is not set: write "always" or "never"`)
	case p.Rotation == Never && !k.Confidential && !k.Constrained:
		return errors.New(`rotation "never" is for clients that authenticate or bind their tokens to a key (RFC 9700 §4.14.2): write "always"`)
	case p.OnReuse == 0 || p.OnReuse > RejectReuse:
		return errors.New(`on_reuse is not set: write "revoke", "revoke_session", "revoke_user" or "reject"`)
	case p.OnReuse == RejectReuse && !k.Confidential && !k.Constrained:
		return errors.New(`on_reuse "reject" lets a thief of a public client's token stay (RFC 9700 §4.14.2): write "revoke"`)
	case p.Leeway < 0 || p.Leeway > time.Minute:
		return fmt.Errorf(`leeway is %v: write a duration from "0s" to "60s"`, p.Leeway)
	case p.Leeway%time.Millisecond != 0:
		return fmt.Errorf("leeway is %v: the smallest step is 1ms", p.Leeway)
	case p.Rotation == Never && (p.Leeway != 0 || p.UntilUsed || p.SamePresenter):
		return errors.New(`leeway, until_used and same_presenter have no meaning with rotation "never": remove them`)
	case p.Idle < 0 || p.Idle > 0 && p.Idle < time.Second:
		return fmt.Errorf(`idle is %v: write how long a family may rest ("720h"), or "0" for ever`, p.Idle)
	case p.Absolute < 0 || p.Absolute > 0 && p.Absolute < time.Second:
		return fmt.Errorf(`absolute is %v: write how long an authorization lasts ("8760h"), or "0" for ever`, p.Absolute)
	case p.Absolute > 0 && p.Idle > p.Absolute:
		return fmt.Errorf("idle is %v, longer than absolute %v: make it shorter", p.Idle, p.Absolute)
	case k.Browser && p.Idle == 0 && p.Absolute == 0:
		return errors.New("idle and absolute are both 0: a browser app's refresh token must end (RFC 10017 §6.3.2.3); set one of them")
	case p.AccessTTL < time.Second || p.AccessTTL > 24*time.Hour:
		return fmt.Errorf(`access_ttl is %v: write a duration from "1s" to "24h"`, p.AccessTTL)
	case p.CodeTTL < time.Second || p.CodeTTL > 10*time.Minute:
		return fmt.Errorf(`code_ttl is %v: write a duration from "1s" to "10m" (RFC 6749 §4.1.2)`, p.CodeTTL)
	}
	return nil
}

// PolicyOf takes a preset and sets fields by name on it, as configuration files and
// the command line write them: rotation, leeway, until_used, same_presenter,
// on_reuse, idle, absolute, access_ttl, code_ttl. Durations are Go's ("720h") or
// whole days ("30d"). It does not Check.
func PolicyOf(preset string, set map[string]string) (Policy, error) {
	p, ok := Preset(preset)
	if !ok {
		return Policy{}, fmt.Errorf("preset %q is not known: write one of %s", preset, strings.Join(Presets(), ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if err := p.set(name, set[name]); err != nil {
			return Policy{}, err
		}
	}
	return p, nil
}

func (p *Policy) set(name, value string) (err error) {
	switch name {
	case "rotation":
		p.Rotation, err = word(name, value, map[string]Rotation{"always": Always, "never": Never})
	case "on_reuse":
		p.OnReuse, err = word(name, value, map[string]OnReuse{
			"revoke": RevokeFamily, "revoke_session": RevokeSession, "revoke_user": RevokeUser, "reject": RejectReuse,
		})
	case "until_used":
		p.UntilUsed, err = word(name, value, map[string]bool{"true": true, "false": false})
	case "same_presenter":
		p.SamePresenter, err = word(name, value, map[string]bool{"true": true, "false": false})
	case "leeway":
		p.Leeway, err = span(name, value)
	case "idle":
		p.Idle, err = span(name, value)
	case "absolute":
		p.Absolute, err = span(name, value)
	case "access_ttl":
		p.AccessTTL, err = span(name, value)
	case "code_ttl":
		p.CodeTTL, err = span(name, value)
	default:
		return fmt.Errorf("policy field %q is not known: write one of rotation, leeway, until_used, same_presenter, on_reuse, idle, absolute, access_ttl, code_ttl", name)
	}
	return err
}

func word[T any](name, value string, of map[string]T) (T, error) {
	v, ok := of[value]
	if !ok {
		return v, fmt.Errorf("%s is %q: write one of %s", name, value, strings.Join(slices.Sorted(maps.Keys(of)), ", "))
	}
	return v, nil
}

// span reads a duration: Go's form, or whole days with the suffix "d".
func span(name, value string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(value, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		// 106,751 days are the most a time.Duration holds.
		if err != nil || n > 106_751 {
			return 0, fmt.Errorf(`%s is %q: write whole days up to "106751d", or a duration such as "36h"`, name, value)
		}
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		return 0, fmt.Errorf(`%s is %q: write a duration such as "30s", "36h" or "30d"`, name, value)
	}
	return d, nil
}
