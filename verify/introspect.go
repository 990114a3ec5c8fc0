package verify

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Introspect is how to ask the issuer about tokens (RFC 7662), for those that this API
// can not read, or for whoever wants an answer that is right at once, always.
type Introspect struct {
	// ClientID and ClientSecret are this API's own, which has to be allowed to ask.
	ClientID, ClientSecret string
	// TTL is how long an answer is remembered, and so how long a revocation may go
	// unnoticed; 0: it is never remembered; at most 5 minutes.
	TTL time.Duration
	// URL is the endpoint; "": from the issuer's metadata.
	URL string
}

// asker asks the issuer about tokens. It is safe for many goroutines.
type asker struct {
	conf    Introspect
	http    *http.Client
	dir     *directory
	flight  shared[[sha256.Size]byte, answer]
	answers *cache[answer]
}

// answer is what the issuer said: a token, or why it does not count.
type answer struct {
	t     *Token
	why   string // "" = it counts
	asked instant
}

func newAsker(c Introspect, client *http.Client, dir *directory, cached int) (*asker, error) {
	switch {
	case c.ClientID == "" || c.ClientSecret == "":
		return nil, errors.New("ClientID and ClientSecret are needed")
	case c.TTL < 0 || c.TTL > 5*time.Minute:
		return nil, fmt.Errorf("TTL is %v: 0 to 5 minutes are allowed", c.TTL)
	}
	if c.URL != "" {
		if err := checkURL(c.URL); err != nil {
			return nil, fmt.Errorf("URL: %v", err)
		}
	}
	if c.TTL == 0 {
		cached = 0
	}
	return &asker{conf: c, http: client, dir: dir, answers: newCache[answer](max(cached, 0))}, nil
}

func (v *Verifier) checkOpaque(ctx context.Context, token string, now instant) (*Token, error) {
	switch {
	case token == "" || len(token) > maxToken:
		return nil, refuse("it is empty or longer than 16 KiB")
	case strings.HasPrefix(token, "hrt_") || strings.HasPrefix(token, "hac_"):
		// Not sent on, although the issuer would know: an API must not take them.
		return nil, refuse("it is a refresh token or a code: these are for the authorization server alone")
	}
	k := sha256.Sum256([]byte(token))
	a, ok := v.ask.answers.get(k)
	if !ok || now.since(a.asked) >= v.ask.conf.TTL {
		var err error
		// Without a cache every request asks for itself: joining one that began earlier would
		// be a cache of the time it takes.
		if v.ask.conf.TTL == 0 {
			ctx, cancel := context.WithTimeout(ctx, fetchTime)
			defer cancel()
			a, err = v.introspect(ctx, token, now)
		} else {
			a, err = v.ask.flight.do(ctx, k, func(ctx context.Context) (answer, error) {
				a, err := v.introspect(ctx, token, now)
				if err == nil {
					v.ask.answers.put(k, a)
				}
				return a, err
			})
		}
		if err != nil {
			return nil, fmt.Errorf("%w: introspection: %v", ErrUnavailable, err)
		}
	}
	if a.why != "" {
		return nil, refuse(a.why)
	}
	if !a.t.Expires.IsZero() && !now.wall.Before(a.t.Expires.Add(v.conf.Skew)) {
		return nil, refuse("it has expired")
	}
	return a.t.clone(), nil
}

// introspect asks the issuer.
func (v *Verifier) introspect(ctx context.Context, token string, now instant) (answer, error) {
	to := v.ask.conf.URL
	if to == "" {
		m, err := v.ask.dir.get(ctx)
		if err != nil {
			return answer{}, err
		}
		if to = m.Introspection; to == "" {
			return answer{}, errors.New("the issuer's metadata has no introspection_endpoint: set Introspect.URL")
		}
	}
	req, err := post(ctx, to, url.Values{"token": {token}, "token_type_hint": {"access_token"}})
	if err != nil {
		return answer{}, err
	}
	basic(req, v.ask.conf.ClientID, v.ask.conf.ClientSecret)
	var raw json.RawMessage
	if _, err := getJSON(v.ask.http, req, &raw); err != nil {
		return answer{}, err
	}
	var told struct {
		Active    *bool  `json:"active"`
		TokenType string `json:"token_type"`
	}
	if json.Unmarshal(raw, &told) != nil || told.Active == nil {
		return answer{}, errors.New("the answer does not say whether the token is active")
	}
	if !*told.Active {
		return answer{why: "the issuer says that it does not count", asked: now}, nil
	}
	t, notBefore, why := readClaims(string(raw))
	latest := now.wall.Add(v.conf.Skew).Unix()
	switch {
	case why != "":
	case told.TokenType != "" && !strings.EqualFold(told.TokenType, "Bearer") && !isAccessToken(told.TokenType):
		why = "the issuer says that it is no bearer token"
	case t.Issuer != "" && t.Issuer != v.conf.Issuer:
		why = "it is of another issuer"
	case !slices.Contains(t.Audience, v.conf.Audience):
		// RFC 7662 §2.2 lets an issuer leave it out; then nobody says that it is for us.
		why = "it is for another audience, or the issuer does not tell for which"
	case notBefore > latest:
		why = "it does not count yet"
	}
	if why != "" {
		return answer{why: why, asked: now}, nil
	}
	return answer{t: t, asked: now}, nil
}
