package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
)

// exchangeKey is exchange with an Idempotency-Key.
func (w *world) exchangeKey(f *flow, code, key string) reply {
	w.t.Helper()
	return w.post("/oauth2/token", http.Header{"Idempotency-Key": {key}}, append(w.as(f.clientID), "grant_type", "authorization_code", "code", code,
		"redirect_uri", f.redirect, "code_verifier", f.verifier)...)
}

// guess is the same flow with another verifier, "" for none.
func (f *flow) guess(verifier string) *flow {
	g := *f
	g.verifier = verifier
	return &g
}

var wrongVerifier = strings.Repeat("wrong", 10)

func TestRT_K01_SecondUseOfACodeKillsTheFamily(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		// Also where a refresh token would be repeated: native apps and clients that
		// prove themselves.
		for _, id := range []string{"strict", "spa", "app", "web", "norotate", "leeway"} {
			f := newFlow(id)
			code := b.code(f)
			tok := w.exchange(f, code).must(t).tokens()
			if r := w.exchange(f, code).refused(t); r.raw != w.exchange(f, forged(code)).raw {
				t.Errorf("%s: the answer is %s", id, r.raw)
			}
			w.dead(id, family.Reused, []string{tok.refresh}, []string{tok.access})
			w.exchange(f, code).refused(t)
		}
		if !strings.Contains(w.logs.String(), `"level":"ALERT"`) {
			t.Error("no ALERT in the log")
		}
	})
}

func TestRT_K02_CodeAgainAfterRotations(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, wait := range []time.Duration{0, 50 * time.Minute} {
			f := newFlow("app")
			code := b.code(f)
			tok := w.exchange(f, code).must(t).tokens()
			rt, at := []string{tok.refresh}, []string{tok.access}
			for range 2 {
				w.clock.Advance(wait)
				tok = w.refresh("app", tok.refresh).must(t).tokens()
				rt, at = append(rt, tok.refresh), append(at, tok.access)
			}
			w.exchange(f, code).refused(t)
			w.dead("app", family.Reused, rt, at)
		}
	})
}

func TestRT_K03_ParallelExchangesOfOneCode(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, n := range []int{2, 20} {
			f := newFlow("web")
			code := b.code(f)
			var won []tokens
			for _, r := range together(n, func(int) reply { return w.exchange(f, code) }) {
				if r.status == 200 {
					won = append(won, r.tokens())
				} else {
					r.refused(t)
				}
			}
			if len(won) > 1 {
				t.Fatalf("%d of %d exchanges succeeded", len(won), n)
			}
			for _, tok := range won {
				w.dead("web", family.Reused, []string{tok.refresh}, []string{tok.access})
			}
			if st := w.family(code); st.Status != family.Revoked || st.Reason != family.Reused {
				t.Errorf("the family is %d for %v", st.Status, st.Reason)
			}
		}
	})
}

func TestRT_K04_CodeAtAnotherClient(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for mine, others := range map[string][]string{"web": {"web2", "app"}, "app": {"app2", "web2"}} {
			f := newFlow(mine)
			code := b.code(f)
			steal := func() {
				t.Helper()
				w.unspent(code, func() {
					for _, other := range others {
						g := *f
						g.clientID = other
						w.exchange(&g, code).refused(t)
						w.exchange(g.guess(wrongVerifier), code).refused(t)
					}
				})
				w.newest(code, family.FamilyAlarm, family.ForeignClient, family.Alert)
			}
			steal()
			tok := w.exchange(f, code).must(t).tokens()
			steal()
			w.lives(mine, tok.refresh)
		}
	})
}

func TestRT_K05_HolderOfTheCodeAloneSignsNobodyOut(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, id := range []string{"app", "web"} {
			f := newFlow(id)
			code := b.code(f)
			tok := w.exchange(f, code).must(t).tokens()
			w.unspent(code, func() {
				w.exchange(f.guess(wrongVerifier), code).refused(t)
				w.exchange(f.guess(""), code).refused(t)
			})
			w.lives(id, tok.refresh)
		}
	})
}

func TestRT_K06_RFC7636_04_WrongVerifierBurnsTheCode(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, wrong := range []string{wrongVerifier, ""} {
			f := newFlow("app")
			code := b.code(f)
			w.exchange(f.guess(wrong), code).refused(t)
			w.exchange(f, code).refused(t)
			st := w.family(code)
			if st.Status != family.Revoked || st.Reason != family.BindingMismatch || st.Head != 0 {
				t.Errorf("the family is %d for %v at %d", st.Status, st.Reason, st.Head)
			}
			w.newest(code, family.FamilyRevoked, family.BindingMismatch, family.Info)
		}
	})
}

func TestRT_K07_RetryOfAnExchange(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("strict")
		code := b.code(f)
		lost := w.exchangeKey(f, code, "k").must(t).tokens()
		w.unspent(code, func() {
			if got := w.exchangeKey(f, code, "k").must(t).tokens(); got.refresh != lost.refresh || got.id == "" || claimsOf(t, got.id)["nonce"] != "n-1" {
				t.Errorf("the retry gives %+v", got)
			}
			w.exchangeKey(f.guess(wrongVerifier), code, "k").refused(t)
		})
		next := w.lives("strict", lost.refresh)
		w.exchangeKey(f, code, "k").refused(t)
		w.dead("strict", family.Reused, []string{lost.refresh, next}, []string{lost.access})

		for _, key := range []string{"another", ""} {
			f := newFlow("strict")
			code := b.code(f)
			lost := w.exchangeKey(f, code, "k").must(t).tokens()
			if key == "" {
				w.exchange(f, code).refused(t)
			} else {
				w.exchangeKey(f, code, key).refused(t)
			}
			w.dead("strict", family.Reused, []string{lost.refresh}, []string{lost.access})
		}
	})
}

func TestRT_K08_CodeEndsToTheMillisecond(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		b := w.browser()
		for set, life := range map[string]time.Duration{"": time.Minute, "60s": time.Minute, "10m": 10 * time.Minute} {
			if set != "" {
				w.policy("app", "code_ttl", set)
			}
			for _, at := range edges {
				f := newFlow("app")
				code := b.code(f)
				w.clock.Advance(life + at.off)
				if at.in {
					w.exchange(f, code).must(t)
					continue
				}
				w.unspent(code, func() { w.exchange(f, code).refused(t) })
			}
			w.updateClient("app", func(c *client.Client) { c.Policy = nil })
		}
	})
}

func TestRT_K10_CodeOfAFamilyThatIsGone(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		f := newFlow("strict")
		code := b.code(f)
		id := w.family(code).ID
		w.exchange(f, code).must(t)
		w.clock.Advance(31 * oneDay)
		refusedQuietly := func() {
			t.Helper()
			before, err := w.store.Events(context.Background(), family.EventQuery{Family: id})
			if err != nil {
				t.Fatal(err)
			}
			w.exchange(f, code).refused(t)
			after, err := w.store.Events(context.Background(), family.EventQuery{Family: id})
			if err != nil || len(after) != len(before) {
				t.Errorf("%d events, then %d, %v", len(before), len(after), err)
			}
		}
		refusedQuietly()
		w.clock.Advance(400 * oneDay)
		w.sweep()
		refusedQuietly()
	})
}

func TestRFC6749_12_CodeIsShortLivedAndUsedOnce(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		// No policy may make it longer than ten minutes.
		f := newFlow("app")
		code := w.browser().code(f)
		w.policy("app", "code_ttl", "11m")
		w.unspent(code, func() {
			if r := w.exchange(f, code); r.status != 503 {
				t.Errorf("the answer is %d %s", r.status, r.raw)
			}
		})
		w.updateClient("app", func(c *client.Client) { c.Policy = nil })
		w.exchange(f, code).must(t)
		w.exchange(f, code).refused(t)
	})
}

func TestRFC6749_13_CodeIsBoundToItsRedirectURI(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("web", func(c *client.Client) {
			c.WithoutPKCE, c.RedirectURIs = true, []string{callback, "https://web.example.com/cb"}
		})
		b := w.browser()
		without := []string{"code_challenge", "", "code_challenge_method", ""}
		f := newFlow("web", without...).guess("")
		code := b.code(f)
		w.unspent(code, func() {
			for _, wrong := range []string{"https://web.example.com/cb", callback + "/", callback + "?x", "http://127.0.0.1:1/callback", ""} {
				g := *f
				g.redirect = wrong
				w.exchange(&g, code).refused(t)
			}
		})
		w.exchange(f, code).must(t)

		// It was not sent, because there is only one: then it need not be sent again.
		w.updateClient("web", func(c *client.Client) { c.RedirectURIs = []string{callback} })
		f = newFlow("web", append(without, "redirect_uri", "")...).guess("")
		code = b.code(f)
		f.redirect = ""
		w.exchange(f, code).must(t)
	})
}

func TestOAuth21_01_VerifierIfAndOnlyIfChallenge(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.updateClient("web", func(c *client.Client) { c.WithoutPKCE = true })
		b := w.browser()
		for _, c := range []struct{ challenge, verifier, ok bool }{
			{true, true, true}, {true, false, false}, {false, true, false}, {false, false, true},
		} {
			f := newFlow("web")
			if !c.challenge {
				f.params.Del("code_challenge")
				f.params.Del("code_challenge_method")
			}
			if !c.verifier {
				f.verifier = ""
			}
			if r := w.exchange(f, b.code(f)); c.ok {
				r.must(t)
			} else {
				r.refused(t)
			}
		}
		// Only confidential clients can be excused from the challenge.
		for id, pairs := range map[string][]string{
			"web2": {"code_challenge", "", "code_challenge_method", ""}, "app": {"code_challenge", "", "code_challenge_method", ""},
			"web": {"code_challenge_method", "plain"}, "strict": {"code_challenge_method", ""},
		} {
			if p := b.get(newFlow(id, pairs...).url()); !strings.Contains(p.location, "error=invalid_request") {
				t.Errorf("%s with %q is answered with %d %s", id, pairs, p.status, p.location)
			}
		}
	})
}

func TestOAuth21_02_SecondUseRevokesWhatTheCodeGave(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		// A client without refresh tokens: what the code gave is one access token.
		f := newFlow("norefresh")
		code := w.browser().code(f)
		tok := w.exchange(f, code).must(t).tokens()
		if !w.active(tok.access) {
			t.Fatal("the access token is not active")
		}
		w.exchange(f, code).refused(t)
		if w.active(tok.access) || w.userinfo(tok.access).status != 401 {
			t.Error("the access token is active")
		}
	})
}

func TestOAuth21_04_ReplayAtAPublicClientEndsTheGrant(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, id := range []string{"spa", "app", "strict"} {
			f := newFlow(id)
			code := b.code(f)
			tok := w.exchange(f, code).must(t).tokens()
			next := w.lives(id, w.lives(id, tok.refresh))
			w.clock.Advance(31 * time.Second)
			w.refresh(id, tok.refresh).refused(t)
			w.exchange(f, code).refused(t)
			w.dead(id, family.Reused, []string{tok.refresh, next}, []string{tok.access})
		}
	})
}

func TestOAuth21_07_RedirectURIMayBeLeftOutWithPKCE(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		for _, id := range []string{"app", "web"} {
			f := newFlow(id)
			code := b.code(f)
			w.unspent(code, func() {
				g := *f
				g.redirect = "https://elsewhere.example.com/cb"
				w.exchange(&g, code).refused(t)
			})
			f.redirect = ""
			w.exchange(f, code).must(t)
		}
	})
}

func TestRFC9700_06_RefreshTokenOnlyWhereWanted(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.clock.Freeze()
		f := newFlow("norefresh")
		code := w.browser().code(f)
		r := w.exchange(f, code).must(t)
		if r.str("refresh_token") != "" || r.secondsOf("refresh_token_timeout") != -1 || r.secondsOf("expires_in") != 600 {
			t.Errorf("the answer is %s", r.raw)
		}
		// Nobody can make one: not by its grant type, not by the right shape.
		w.refresh("norefresh", r.str("access_token")).errs(t, 400, "unauthorized_client")
		w.clock.Advance(10*time.Minute - time.Second)
		if !w.active(r.str("access_token")) {
			t.Error("the access token is over before its time")
		}
	})
}

func TestRFC9700_07_ReuseRevokesTheActiveToken(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		w.policy("strictweb", "on_reuse", "reject")
		rt, _ := w.chain("strictweb", 2)
		w.unspent(rt[2], func() { w.refresh("strictweb", rt[0]).refused(t) })
		w.newest(rt[2], family.FamilyAlarm, family.Superseded, family.Info)
		w.lives("strictweb", rt[2])

		w.policy("strictweb", "on_reuse", "revoke_session")
		b := w.browser()
		one, two := b.tokens("strictweb"), b.tokens("web", "scope", "openid")
		elsewhere := w.signIn("web", "scope", "openid")
		next := w.lives("strictweb", one.refresh)
		w.refresh("strictweb", one.refresh).refused(t)
		w.dead("strictweb", family.Reused, []string{one.refresh, next}, nil)
		w.dead("web", family.Reused, []string{two.refresh}, []string{two.access})
		w.lives("web", elsewhere.refresh)
	})
}

func TestRFC7636_06_VerifiersOfTwoFlowsDoNotSwap(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		one, two := newFlow("app"), newFlow("app")
		c1, c2 := b.code(one), b.code(two)
		w.exchange(two, c1).refused(t)
		w.exchange(one, c2).refused(t)
	})
}

func TestRFC7636_01_VerifierGrammar(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		f := newFlow("app")
		code := w.browser().code(f)
		w.unspent(code, func() {
			for _, bad := range []string{strings.Repeat("a", 42), strings.Repeat("a", 129), f.verifier + "=", f.verifier + "é", f.verifier + " "} {
				w.exchange(f.guess(bad), code).errs(t, 400, "invalid_request")
			}
		})
		w.exchange(f, code).must(t)
	})
}

// The result goes to the client and nowhere else, whatever the code is asked with.
func TestRFC9207_01_IssuerInEveryAnswer(t *testing.T) {
	onEngines(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.tokens("web")
		for want, pairs := range map[string][]string{
			"": {}, "invalid_scope": {"scope", "nothing-of-it"}, "unsupported_response_type": {"response_type", "token"}, "request_not_supported": {"request", "x.y.z"},
			"request_uri_not_supported": {"request_uri", "https://x.example"}, "registration_not_supported": {"registration", "{}"}, "invalid_target": {"resource", "relative"},
			"invalid_request": {"code_challenge", ""}, "unmet_authentication_requirements": {"claims", `{"id_token":{"acr":{"essential":true,"value":"gold"}}}`},
		} {
			p := b.get(newFlow("web", append(pairs, "prompt", "none")...).url())
			u, err := url.Parse(p.location)
			if err != nil || p.status != 303 {
				t.Fatalf("%d %q %v", p.status, p.location, err)
			}
			if q := u.Query(); q.Get("error") != want || q.Get("iss") != w.issuer || q.Get("state") != "st-web" {
				t.Errorf("want %q, got %s", want, p.location)
			}
			p = b.get(newFlow("web", append(pairs, "prompt", "none", "response_mode", "form_post")...).url())
			if v := p.fields(); p.status != 200 || v.Get("error") != want || v.Get("iss") != w.issuer || v.Get("state") != "st-web" || !strings.Contains(p.body, fmt.Sprintf(`action="%s"`, callback)) {
				t.Errorf("want %q, got %d %s", want, p.status, p.body)
			}
		}
	})
}
