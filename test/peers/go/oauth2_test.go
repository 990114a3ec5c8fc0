package peers

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const generations = 20

// An app is x/oauth2 and go-oidc set up for one registered client from nothing but the issuer's address.
type app struct {
	provider *oidc.Provider
	config   oauth2.Config
	verifier *oidc.IDTokenVerifier
}

func newApp(t *testing.T, s *server, id string) *app {
	t.Helper()
	c := s.client(t, id)
	provider, err := oidc.NewProvider(t.Context(), s.Issuer)
	if err != nil {
		t.Fatalf("discovery: %v", err)
	}
	return &app{
		provider: provider,
		verifier: provider.Verifier(&oidc.Config{ClientID: id}),
		config: oauth2.Config{
			ClientID: id, ClientSecret: c.Secret, Endpoint: provider.Endpoint(),
			// A native program takes whatever loopback port is free (RFC 8252 §7.3).
			RedirectURL: "http://127.0.0.1:49321/callback",
			Scopes:      []string{oidc.ScopeOpenID, "profile", "email", oidc.ScopeOfflineAccess},
		},
	}
}

// signIn walks the code flow and checks what a careful client checks.
func (a *app) signIn(t *testing.T, s *server) *oauth2.Token {
	t.Helper()
	state, nonce, pkce := oauth2.GenerateVerifier(), oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	u := a.config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(pkce))
	got := newBrowser(t, s.Users[0]).authorize(t, u, a.config.RedirectURL)
	if got.Get("error") != "" || got.Get("code") == "" {
		t.Fatalf("authorization response: %v", got)
	}
	if got.Get("state") != state {
		t.Errorf("state = %q, want %q", got.Get("state"), state)
	}
	if got.Get("iss") != s.Issuer {
		t.Errorf("iss = %q, want %q (RFC 9207)", got.Get("iss"), s.Issuer)
	}
	tok, err := a.config.Exchange(t.Context(), got.Get("code"), oauth2.VerifierOption(pkce))
	if err != nil {
		t.Fatalf("exchange: %v", err)
	}
	id := a.idToken(t, tok)
	if id.Nonce != nonce {
		t.Errorf("nonce = %q, want %q", id.Nonce, nonce)
	}
	if tok.RefreshToken == "" || tok.TokenType != "Bearer" || tok.Expiry.IsZero() {
		t.Fatalf("token response: type %q, expiry %v, refresh token: %t", tok.TokenType, tok.Expiry, tok.RefreshToken != "")
	}
	return tok
}

func (a *app) idToken(t *testing.T, tok *oauth2.Token) *oidc.IDToken {
	t.Helper()
	raw, ok := tok.Extra("id_token").(string)
	if !ok {
		t.Fatal("no id_token in the token response")
	}
	id, err := a.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatalf("id_token: %v", err)
	}
	if id.AccessTokenHash == "" {
		t.Error("id_token has no at_hash")
	} else if err := id.VerifyAccessToken(tok.AccessToken); err != nil {
		t.Errorf("at_hash: %v", err)
	}
	return id
}

// refresh makes x/oauth2 use a refresh token now, as it does by itself when the access token has expired.
func (a *app) refresh(ctx context.Context, refreshToken string) (*oauth2.Token, error) {
	return a.config.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
}

func wantInvalidGrant(t *testing.T, what string, err error) {
	t.Helper()
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok || refused.ErrorCode != "invalid_grant" || refused.Response.StatusCode != 400 {
		t.Errorf("%s: %v, want 400 invalid_grant", what, err)
	}
}

// The whole life of a family at a public client under the strict policy: sign-in, twenty generations, theft, death.
func TestRT_A02_StrictFamilyLivesTwentyGenerationsAndDiesOfAReplay(t *testing.T) {
	s := start(t)
	a := newApp(t, s, "demo-strict")
	tok := a.signIn(t, s)
	first := a.idToken(t, tok)
	var firstClaims, claims struct {
		AuthTime int64 `json:"auth_time"`
	}
	if err := first.Claims(&firstClaims); err != nil {
		t.Fatal(err)
	}
	all := []*oauth2.Token{tok}
	for g := range generations {
		next, err := a.refresh(t.Context(), tok.RefreshToken)
		if err != nil {
			t.Fatalf("refresh %d: %v", g+1, err)
		}
		if slices.ContainsFunc(all, func(o *oauth2.Token) bool { return o.RefreshToken == next.RefreshToken }) {
			t.Fatalf("refresh %d: an old refresh token came back", g+1)
		}
		id := a.idToken(t, next)
		if err := id.Claims(&claims); err != nil {
			t.Fatal(err)
		}
		if id.Subject != first.Subject || id.Issuer != first.Issuer || !slices.Equal(id.Audience, first.Audience) ||
			claims != firstClaims || id.Nonce != "" || id.IssuedAt.Before(first.IssuedAt) {
			t.Fatalf("refresh %d: id_token %+v %+v, first was %+v %+v", g+1, id, claims, first, firstClaims)
		}
		tok = next
		all = append(all, tok)
	}
	info, err := a.provider.UserInfo(t.Context(), oauth2.StaticTokenSource(tok))
	if err != nil {
		t.Fatalf("userinfo: %v", err)
	}
	if info.Subject != first.Subject {
		t.Errorf("userinfo sub = %q, want %q", info.Subject, first.Subject)
	}
	if answer := s.introspect(t, tok.AccessToken); answer["active"] != true || answer["client_id"] != "demo-strict" {
		t.Fatalf("introspection of the newest access token: %v", answer)
	}

	_, err = a.refresh(t.Context(), all[4].RefreshToken)
	wantInvalidGrant(t, "replay of generation 5", err)
	_, err = a.refresh(t.Context(), tok.RefreshToken)
	wantInvalidGrant(t, "the newest refresh token after the replay", err)
	for _, old := range []*oauth2.Token{tok, all[len(all)-2]} {
		if answer := s.introspect(t, old.AccessToken); answer["active"] != false || len(answer) != 1 {
			t.Errorf("introspection of an access token of the dead family: %v", answer)
		}
	}
	if _, err := a.provider.UserInfo(t.Context(), oauth2.StaticTokenSource(tok)); err == nil {
		t.Error("userinfo still answers to an access token of the dead family")
	}

	again := a.signIn(t, s)
	if _, err := a.refresh(t.Context(), again.RefreshToken); err != nil {
		t.Errorf("a new sign-in after the family's death: %v", err)
	}
}

// A confidential client proves itself with every request, so a lost answer never costs it the family.
func TestRT_B10_ConfidentialClientRepeatsALostRefresh(t *testing.T) {
	s := start(t)
	for name, style := range map[string]oauth2.AuthStyle{
		"basic": oauth2.AuthStyleInHeader, "post": oauth2.AuthStyleInParams, "found out": oauth2.AuthStyleAutoDetect,
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, s, "demo-web")
			a.config.Endpoint.AuthStyle = style
			tok := a.signIn(t, s)
			for g := range generations {
				next, err := a.refresh(t.Context(), tok.RefreshToken)
				if err != nil {
					t.Fatalf("refresh %d: %v", g+1, err)
				}
				if g%5 == 0 {
					again, err := a.refresh(t.Context(), tok.RefreshToken)
					if err != nil {
						t.Fatalf("retry of refresh %d: %v", g+1, err)
					}
					if again.RefreshToken != next.RefreshToken {
						t.Fatalf("retry of refresh %d: another successor", g+1)
					}
				}
				tok = next
			}
		})
	}
}

// Many goroutines of one program, each with its own token source, as programs without a shared cache have.
func TestRT_B03_ParallelRefreshesConvergeOnOneSuccessor(t *testing.T) {
	s := start(t)
	a := newApp(t, s, "demo-native")
	tok := a.signIn(t, s)
	for round := range 5 {
		const callers = 20
		got := make([]*oauth2.Token, callers)
		errs := make([]error, callers)
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() { got[i], errs[i] = a.refresh(t.Context(), tok.RefreshToken) })
		}
		wg.Wait()
		for i := range callers {
			if errs[i] != nil {
				t.Fatalf("round %d, caller %d: %v", round, i, errs[i])
			}
			if got[i].RefreshToken != got[0].RefreshToken {
				t.Fatalf("round %d: two successors of one token", round)
			}
		}
		tok = got[0]
	}
}

// The access token runs out and x/oauth2 renews it behind the program's back.
func TestAccessTokenIsRenewedWhenItExpires(t *testing.T) {
	s := start(t, "--access-ttl", "3s")
	a := newApp(t, s, "demo-native")
	tok := a.signIn(t, s)
	if left := time.Until(tok.Expiry); left <= 0 || left > 3*time.Second {
		t.Fatalf("the access token expires in %v, want at most 3s", left)
	}
	src := oauth2.ReuseTokenSourceWithExpiry(tok, a.config.TokenSource(t.Context(), tok), time.Second)
	if _, err := a.provider.UserInfo(t.Context(), src); err != nil {
		t.Fatalf("userinfo with the first token: %v", err)
	}
	time.Sleep(time.Until(tok.Expiry) + 100*time.Millisecond)
	if answer := s.introspect(t, tok.AccessToken); answer["active"] != false {
		t.Errorf("introspection of an expired access token: %v", answer)
	}
	if _, err := a.provider.UserInfo(t.Context(), src); err != nil {
		t.Fatalf("userinfo after the first token expired: %v", err)
	}
	now, err := src.Token()
	if err != nil {
		t.Fatal(err)
	}
	if now.AccessToken == tok.AccessToken || now.RefreshToken == tok.RefreshToken {
		t.Error("nothing was renewed")
	}
}

func TestRT_C02_ForeignPublicClientIsRefusedAndTheTokenUnspent(t *testing.T) {
	s := start(t)
	owner, stranger := newApp(t, s, "demo-strict"), newApp(t, s, "demo-native")
	tok := owner.signIn(t, s)
	_, err := stranger.refresh(t.Context(), tok.RefreshToken)
	wantInvalidGrant(t, "another client's refresh token", err)
	if _, err := owner.refresh(t.Context(), tok.RefreshToken); err != nil {
		t.Errorf("the owner after the stranger: %v", err)
	}
}

func TestRT_K01_CodeExchangedTwiceKillsTheFamily(t *testing.T) {
	s := start(t)
	a := newApp(t, s, "demo-strict")
	pkce := oauth2.GenerateVerifier()
	got := newBrowser(t, s.Users[0]).authorize(t, a.config.AuthCodeURL("s", oauth2.S256ChallengeOption(pkce)), a.config.RedirectURL)
	tok, err := a.config.Exchange(t.Context(), got.Get("code"), oauth2.VerifierOption(pkce))
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.config.Exchange(t.Context(), got.Get("code"), oauth2.VerifierOption(pkce))
	wantInvalidGrant(t, "the code again", err)
	_, err = a.refresh(t.Context(), tok.RefreshToken)
	wantInvalidGrant(t, "the refresh token of a code used twice", err)
}

func TestCodeWithoutPKCEIsRefused(t *testing.T) {
	s := start(t)
	a := newApp(t, s, "demo-native")
	got := newBrowser(t, s.Users[0]).authorize(t, a.config.AuthCodeURL("s"), a.config.RedirectURL)
	want := url.Values{"error": {"invalid_request"}, "state": {"s"}, "iss": {s.Issuer}}
	for k := range want {
		if got.Get(k) != want.Get(k) {
			t.Errorf("%s = %q, want %q", k, got.Get(k), want.Get(k))
		}
	}
}
