package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
)

// ClientSpec is a client as people write it, in the API, on the command line and in the
// configuration file.
type ClientSpec struct {
	// ClientID names the client, 1 to 128 printable characters; it does not begin with "u_". Required.
	ClientID string `json:"client_id"`
	// Name is shown to users on the pages. Empty: the client_id.
	Name string `json:"name,omitempty"`
	// Disabled refuses the client everything until it is enabled again. Zero: enabled.
	Disabled bool `json:"disabled,omitempty"`
	// Auth is "none" for a public client or "secret" for a confidential one. Empty: "secret" if there is a secret or the preset is web, else "none".
	Auth string `json:"auth,omitempty"`
	// FirstParty spares the users the question whether the client may act for them. Zero: they are asked.
	FirstParty bool `json:"first_party,omitempty"`
	// RedirectURIs are where codes may be sent, compared exactly, but for the port of loopback hosts. Empty: only for clients without authorization_code.
	RedirectURIs []string `json:"redirect_uris,omitempty"`
	// PostLogoutRedirectURIs are where the browser may go after signing out, compared exactly, ports of loopback hosts too. Empty: nowhere.
	PostLogoutRedirectURIs []string `json:"post_logout_redirect_uris,omitempty"`
	// GrantTypes are authorization_code, refresh_token and client_credentials. Empty: authorization_code and refresh_token.
	GrantTypes []string `json:"grant_types,omitempty"`
	// Scopes are what the client may ask for. Empty: openid.
	Scopes []string `json:"scopes,omitempty"`
	// Audience is the `aud` of access tokens when the client asks for no resource, absolute URIs. Empty: the issuer.
	Audience []string `json:"audience,omitempty"`
	// Resources are what the client may ask for as `resource` besides audience (RFC 8707), absolute URIs. Empty: nothing.
	Resources []string `json:"resources,omitempty"`
	// Introspects are the audiences whose tokens the client may introspect as their resource server. Empty: only its own tokens.
	Introspects []string `json:"introspects,omitempty"`
	// Preset is the policy of the client's families: browser, native, web, strict or fapi. Required.
	Preset string `json:"preset"`
	// Policy sets fields on top of the preset: rotation, leeway, until_used, same_presenter, on_reuse, idle, absolute, access_ttl, code_ttl; durations as "30s", "36h" or "30d", and 0 for idle and absolute means never. Empty: the preset as it is.
	Policy map[string]string `json:"policy,omitempty"`
	// IDTokenAlg signs ID tokens: ES256, RS256, PS256 or EdDSA. Empty: ES256.
	IDTokenAlg string `json:"id_token_alg,omitempty"`
	// NoIDTokenOnRefresh leaves the ID token out of answers to refreshes. Zero: it is there when openid was granted.
	NoIDTokenOnRefresh bool `json:"no_id_token_on_refresh,omitempty"`
	// WithoutPKCE accepts authorization requests without a code_challenge, for confidential clients that do not know PKCE yet. Zero: PKCE is required.
	WithoutPKCE bool `json:"without_pkce,omitempty"`
}

// Apply returns c with everything that the spec says, and checks nothing. Secrets and
// cut-off stay.
func (s ClientSpec) Apply(c client.Client) client.Client {
	c.ID, c.Name, c.FirstParty = s.ClientID, s.Name, s.FirstParty
	c.Status = client.Enabled
	if s.Disabled {
		c.Status = client.Disabled
	}
	switch s.Auth {
	case "none":
		c.Auth = client.None
	case "secret":
		c.Auth = client.Secret
	case "":
		c.Auth = client.None
		if len(c.Secrets) > 0 || s.Preset == "web" {
			c.Auth = client.Secret
		}
	default:
		c.Auth = 0
	}
	c.RedirectURIs, c.PostLogoutRedirectURIs = s.RedirectURIs, s.PostLogoutRedirectURIs
	c.GrantTypes = s.GrantTypes
	if len(c.GrantTypes) == 0 {
		c.GrantTypes = []string{client.AuthorizationCode, client.RefreshToken}
	}
	c.Scopes = s.Scopes
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"openid"}
	}
	c.Audience, c.Resources, c.Introspects = s.Audience, s.Resources, s.Introspects
	c.Preset, c.Policy = s.Preset, s.Policy
	c.IDTokenAlg, c.NoIDTokenOnRefresh, c.WithoutPKCE = s.IDTokenAlg, s.NoIDTokenOnRefresh, s.WithoutPKCE
	return c
}

// SpecOf is the reverse of Apply. It shares nothing with c.
func SpecOf(c client.Client) ClientSpec {
	auth := "none"
	if c.Auth == client.Secret {
		auth = "secret"
	}
	return ClientSpec{
		ClientID: c.ID, Name: c.Name, Disabled: c.Status == client.Disabled, Auth: auth, FirstParty: c.FirstParty,
		RedirectURIs:           slices.Clone(c.RedirectURIs),
		PostLogoutRedirectURIs: slices.Clone(c.PostLogoutRedirectURIs),
		GrantTypes:             slices.Clone(c.GrantTypes), Scopes: slices.Clone(c.Scopes),
		Audience: slices.Clone(c.Audience), Resources: slices.Clone(c.Resources), Introspects: slices.Clone(c.Introspects),
		Preset: c.Preset, Policy: maps.Clone(c.Policy),
		IDTokenAlg: c.IDTokenAlg, NoIDTokenOnRefresh: c.NoIDTokenOnRefresh, WithoutPKCE: c.WithoutPKCE,
	}
}

// PolicyOf returns the policy of the client's families.
func PolicyOf(c client.Client) (family.Policy, error) { return family.PolicyOf(c.Preset, c.Policy) }

// CheckClient refuses a client, or a policy for it, that makes no sense or that a
// standard forbids, or whose access tokens live longer than the server's may. The error
// names the field.
func CheckClient(c client.Client, maxAccessTTL time.Duration) error {
	if c.Auth == 0 {
		return errors.New(`auth is not known: write "none" for a public client or "secret"`)
	}
	if err := c.Check(); err != nil {
		return err
	}
	if c.Preset == "" {
		return errors.New("preset is not set: write browser (for single-page apps), native, web, strict or fapi")
	}
	for _, word := range c.Scopes {
		if s, err := family.ParseScope(word); err != nil || len(s.Words()) != 1 {
			return fmt.Errorf("scopes: %q is not one scope word", word)
		}
		if strings.Contains(word, ",") {
			// RFC 6749 allows it, and nobody means it.
			return fmt.Errorf("scopes: %q has a comma: write each scope by itself", word)
		}
	}
	p, err := PolicyOf(c)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if err := p.Check(family.Kind{Confidential: c.Confidential(), Browser: c.Preset == "browser"}); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if p.AccessTTL > maxAccessTTL {
		return fmt.Errorf("policy: access_ttl is %v, longer than the server's max_access_ttl %v: make it shorter, or configure the other", p.AccessTTL, maxAccessTTL)
	}
	return nil
}

// ClientView is a client as the API shows it.
type ClientView struct {
	ClientSpec
	Confidential bool         `json:"confidential"`
	Secrets      []SecretView `json:"secrets,omitempty"`
	FromConfig   bool         `json:"from_config"` // kept by the configuration file
	CreatedAt    time.Time    `json:"created_at"`
	CutOff       *CutOffView  `json:"cut_off,omitempty"`
	Effective    PolicyView   `json:"effective_policy"`
}

// SecretView tells secrets apart without telling them.
type SecretView struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	Expires   time.Time `json:"expires_at,omitzero"`
}

// PolicyView is a policy with every field, as PolicyOf would read it.
type PolicyView struct {
	Rotation      string `json:"rotation"`
	Leeway        string `json:"leeway"`
	UntilUsed     bool   `json:"until_used"`
	SamePresenter bool   `json:"same_presenter"`
	OnReuse       string `json:"on_reuse"`
	Idle          string `json:"idle"`
	Absolute      string `json:"absolute"`
	AccessTTL     string `json:"access_ttl"`
	CodeTTL       string `json:"code_ttl"`
}

func viewPolicy(p family.Policy) PolicyView {
	v := PolicyView{
		Leeway: p.Leeway.String(), UntilUsed: p.UntilUsed, SamePresenter: p.SamePresenter,
		Idle: span(p.Idle), Absolute: span(p.Absolute), AccessTTL: p.AccessTTL.String(), CodeTTL: p.CodeTTL.String(),
	}
	switch p.Rotation {
	case family.Always:
		v.Rotation = "always"
	case family.Never:
		v.Rotation = "never"
	}
	switch p.OnReuse {
	case family.RevokeFamily:
		v.OnReuse = "revoke"
	case family.RevokeSession:
		v.OnReuse = "revoke_session"
	case family.RevokeUser:
		v.OnReuse = "revoke_user"
	case family.RejectReuse:
		v.OnReuse = "reject"
	}
	return v
}

// span writes whole days as people write them in a policy.
func span(d time.Duration) string {
	if d > 0 && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	if d == 0 {
		return "0"
	}
	return d.String()
}

// secretID names a secret by a digest of its digest: enough to tell two apart, nothing
// to guess with.
func secretID(h client.Hash) string {
	sum := sha256.Sum256(append([]byte("heirloom client secret id\x00"), h.Sum[:]...))
	return hex.EncodeToString(sum[:4])
}

func viewClient(c client.Client) ClientView {
	v := ClientView{ClientSpec: SpecOf(c), Confidential: c.Confidential(), FromConfig: c.FromConfig, CreatedAt: c.CreatedAt}
	for _, h := range c.Secrets {
		v.Secrets = append(v.Secrets, SecretView{secretID(h), h.CreatedAt, h.Expires})
	}
	if !c.NotBefore.IsZero() {
		v.CutOff = &CutOffView{c.NotBefore, c.NotBeforeReason}
	}
	// A client that was stored has been checked; were it not, the view shows an empty policy.
	if p, err := PolicyOf(c); err == nil {
		v.Effective = viewPolicy(p)
	}
	return v
}

// ClientPage is one page of clients.
type ClientPage struct {
	Clients []ClientView `json:"clients"`
	Next    string       `json:"next,omitempty"`
}

func (a *API) listClients(c *call) (any, error) {
	q, err := c.params("after", "limit")
	if err != nil {
		return nil, err
	}
	n, err := limit(q)
	if err != nil {
		return nil, err
	}
	clients, err := a.Store.Clients(c.Context(), q.Get("after"), n)
	if err != nil {
		return nil, fmt.Errorf("list clients: %w", err)
	}
	page := ClientPage{Clients: []ClientView{}}
	for _, cl := range clients {
		page.Clients = append(page.Clients, viewClient(cl))
	}
	if len(clients) == n {
		page.Next = clients[n-1].ID
	}
	return page, nil
}

func (a *API) findClient(ctx context.Context, id string) (client.Client, error) {
	cl, err := a.Store.Client(ctx, id)
	if errors.Is(err, family.ErrNotFound) {
		return client.Client{}, &apiError{http.StatusNotFound, "not_found", fmt.Sprintf("there is no client %q", id), `"heirloom client list" shows which there are`}
	}
	if err != nil {
		return client.Client{}, fmt.Errorf("load client: %w", err)
	}
	return cl, nil
}

// ClientSecret is the answer to the calls that make a secret: the only time it is shown.
type ClientSecret struct {
	Client ClientView `json:"client"`
	Secret string     `json:"client_secret,omitempty"`
}

func newSecret(now time.Time) (string, client.Hash) {
	var random [32]byte
	rand.Read(random[:])
	return client.NewSecret(random, now)
}

func (a *API) addClient(c *call) (any, error) {
	var in ClientSpec
	if err := c.read(&in, false); err != nil {
		return nil, err
	}
	now, err := a.now(c.Context())
	if err != nil {
		return nil, err
	}
	cl := client.Client{CreatedAt: now}
	var text string
	if in.Auth == "secret" {
		var h client.Hash
		text, h = newSecret(now)
		cl.Secrets = []client.Hash{h}
	}
	cl = in.Apply(cl)
	if err := CheckClient(cl, a.MaxAccessTTL); err != nil {
		return nil, invalid(err.Error(), "")
	}
	e := c.event(family.ClientChanged, "added")
	e.Client = cl.ID
	err = a.Store.PutClient(c.Context(), cl, e)
	if errors.Is(err, family.ErrExists) {
		return nil, &apiError{http.StatusConflict, "exists", fmt.Sprintf("the client id %q is or was in use", cl.ID), "take another: an id is never given twice"}
	}
	if err != nil {
		return nil, fmt.Errorf("store client: %w", err)
	}
	return created{ClientSecret{viewClient(cl), text}}, nil
}

func (a *API) showClient(c *call) (any, error) {
	cl, err := a.findClient(c.Context(), c.PathValue("client"))
	if err != nil {
		return nil, err
	}
	return viewClient(cl), nil
}

// changeClient stores what change makes of the client of the path, as changeUser does.
func (a *API) changeClient(c *call, change func(cl client.Client, now time.Time) (client.Client, family.Event, error)) (client.Client, error) {
	for range rewrite {
		cl, err := a.findClient(c.Context(), c.PathValue("client"))
		if err != nil {
			return client.Client{}, err
		}
		now, err := a.now(c.Context())
		if err != nil {
			return client.Client{}, err
		}
		next, e, err := change(cl, now)
		if err != nil {
			return client.Client{}, err
		}
		e.Client = cl.ID
		err = a.Store.PutClient(c.Context(), next, WithDisabling(cl, next, e)...)
		if errors.Is(err, family.ErrConflict) {
			continue
		}
		if err != nil {
			return client.Client{}, fmt.Errorf("store client: %w", err)
		}
		return next, nil
	}
	return client.Client{}, family.ErrConflict
}

// WithDisabling returns the events of a client's change: when it disables the client, a
// second one by which APIs hear that the access tokens of until now are dead.
func WithDisabling(old, next client.Client, e family.Event) []family.Event {
	if next.Status != client.Disabled || old.Status == client.Disabled || old.Status == 0 {
		return []family.Event{e}
	}
	cut := e
	cut.Kind, cut.Reason, cut.Detail = family.ClientRevoked, family.ClientDisabled, ""
	return []family.Event{e, cut}
}

// ours refuses to change what the next start would change back.
func ours(cl client.Client) error {
	if cl.FromConfig {
		return notAllowed(fmt.Sprintf("the client %q is kept by the configuration", cl.ID), "change it there (dev mode keeps the demo clients) and restart the server")
	}
	return nil
}

func (a *API) updateClient(c *call) (any, error) {
	raw := map[string]any{}
	body, err := c.bytes()
	if err != nil {
		return nil, err
	}
	if err := Strict(body, &raw); err != nil {
		return nil, err
	}
	cl, err := a.changeClient(c, func(cl client.Client, _ time.Time) (client.Client, family.Event, error) {
		e := c.event(family.ClientChanged, "changed")
		if err := ours(cl); err != nil {
			return cl, e, err
		}
		spec := SpecOf(cl)
		if err := Strict(body, &spec); err != nil {
			return cl, e, err
		}
		if spec.ClientID != cl.ID {
			return cl, e, invalid("client_id can not be changed", "add a new client and remove this one")
		}
		// A policy field that is set to null or "" goes back to the preset's.
		maps.DeleteFunc(spec.Policy, func(_, v string) bool { return v == "" })
		next := spec.Apply(cl)
		if next.Auth == client.None {
			next.Secrets = nil
		}
		if next.Auth == client.Secret && len(next.Secrets) == 0 {
			return cl, e, invalid("auth: the client has no secret yet", "add a secret first: that makes it confidential")
		}
		if err := CheckClient(next, a.MaxAccessTTL); err != nil {
			return cl, e, invalid(err.Error(), "")
		}
		return next, e, nil
	})
	if err != nil {
		return nil, err
	}
	return viewClient(cl), nil
}

func (a *API) removeClient(c *call) (any, error) {
	cl, err := a.findClient(c.Context(), c.PathValue("client"))
	if err != nil {
		return nil, err
	}
	// One that left the file is disabled and may go; its id can not come back.
	if cl.FromConfig && cl.Status != client.Disabled {
		return nil, ours(cl)
	}
	e := c.event(family.ClientRevoked, "removed")
	e.Client, e.Reason = cl.ID, family.RevokedAdmin
	if err := a.Store.DeleteClient(c.Context(), cl.ID, e); err != nil {
		return nil, fmt.Errorf("remove client: %w", err)
	}
	return viewClient(cl), nil
}

func (a *API) addSecret(c *call) (any, error) {
	if err := c.read(&struct{}{}, true); err != nil {
		return nil, err
	}
	var text string
	cl, err := a.changeClient(c, func(cl client.Client, now time.Time) (client.Client, family.Event, error) {
		e := c.event(family.ClientChanged, "secret added")
		if err := ours(cl); err != nil {
			return cl, e, err
		}
		if len(cl.Secrets) >= 2 {
			return cl, e, notAllowed(fmt.Sprintf("the client %q has two secrets already", cl.ID), "remove the one that is no longer used first")
		}
		var h client.Hash
		text, h = newSecret(now)
		cl.Auth = client.Secret
		cl.Secrets = append(slices.Clone(cl.Secrets), h)
		if err := CheckClient(cl, a.MaxAccessTTL); err != nil {
			return cl, e, invalid(err.Error(), "")
		}
		return cl, e, nil
	})
	if err != nil {
		return nil, err
	}
	return created{ClientSecret{viewClient(cl), text}}, nil
}

func (a *API) removeSecret(c *call) (any, error) {
	id := c.PathValue("id")
	cl, err := a.changeClient(c, func(cl client.Client, _ time.Time) (client.Client, family.Event, error) {
		e := c.event(family.ClientChanged, "secret removed")
		if err := ours(cl); err != nil {
			return cl, e, err
		}
		left := slices.DeleteFunc(slices.Clone(cl.Secrets), func(h client.Hash) bool { return secretID(h) == id })
		switch {
		case len(left) == len(cl.Secrets):
			return cl, e, &apiError{http.StatusNotFound, "not_found", fmt.Sprintf("the client %q has no secret %q", cl.ID, id), `"heirloom client show" lists the ids of its secrets`}
		case len(left) == 0:
			return cl, e, notAllowed(fmt.Sprintf("it is the only secret of the client %q", cl.ID), "add a new one first")
		}
		cl.Secrets = left
		return cl, e, nil
	})
	if err != nil {
		return nil, err
	}
	return viewClient(cl), nil
}

// revokeClient ends everything of a client by one write. The rows of its families are
// swept later; the cut-off is in force before this answers.
func (a *API) revokeClient(c *call) (any, error) {
	if err := c.read(&struct{}{}, true); err != nil {
		return nil, err
	}
	cl, err := a.changeClient(c, func(cl client.Client, now time.Time) (client.Client, family.Event, error) {
		e := c.event(family.ClientRevoked, "")
		e.Reason = family.RevokedAdmin
		// The cut-off never moves back when the clock does.
		if now.After(cl.NotBefore) {
			cl.NotBefore = now
		}
		cl.NotBeforeReason = family.RevokedAdmin.String()
		return cl, e, nil
	})
	if err != nil {
		return nil, err
	}
	return viewClient(cl), nil
}
