package server

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/user"
)

// claimsRequest is the `claims` parameter (OpenID Connect Core §5.5): for each place,
// names and how much they are wanted.
type claimsRequest struct {
	UserInfo map[string]*claimWanted `json:"userinfo"`
	IDToken  map[string]*claimWanted `json:"id_token"`
}

type claimWanted struct {
	Essential bool              `json:"essential"`
	Value     json.RawMessage   `json:"value"`
	Values    []json.RawMessage `json:"values"`
}

// maxClaims bounds the claims parameter, in bytes.
const maxClaims = 8 << 10

// parseClaims reads the claims parameter. Unknown members are ignored, as §5.5 says.
func parseClaims(text string) (claimsRequest, error) {
	var c claimsRequest
	if text == "" {
		return c, nil
	}
	if len(text) > maxClaims {
		return c, errors.New("claims is longer than 8 KiB")
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return c, errors.New("claims is not the JSON object of OpenID Connect Core section 5.5")
	}
	return c, nil
}

// requestedClaims returns the names that a family's claims parameter asks for at a place
// and that may be released there, in order: the client must be allowed a scope that
// releases the claim, and unless it is first-party the person must have agreed to that
// scope. The parameter is on no consent page, so it can not ask for more than that page.
func requestedClaims(g *family.Grant, k *known, place string) []string {
	c, err := parseClaims(g.Claims)
	if err != nil {
		return nil // what was stored has been parsed before
	}
	wanted, scope := c.UserInfo, g.Scope.And(k.scope)
	if place == "id_token" {
		wanted = c.IDToken
	}
	if k.FirstParty {
		scope = k.scope
	}
	var names []string
	for _, word := range scope.Words() {
		names = append(names, user.ScopeClaims(word)...)
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(wanted)), func(name string) bool { return !slices.Contains(names, name) })
}

// essentialACR returns the acr values without which the client wants no answer.
func (c claimsRequest) essentialACR() []string {
	w := c.IDToken["acr"]
	if w == nil || !w.Essential {
		return nil
	}
	var values []string
	for _, raw := range append(w.Values, w.Value) {
		var v string
		if json.Unmarshal(raw, &v) == nil && v != "" {
			values = append(values, v)
		}
	}
	return values
}

// wantedSub returns the sub that the request insists on, "" if none.
func (c claimsRequest) wantedSub() string {
	w := c.IDToken["sub"]
	if w == nil {
		return ""
	}
	var v string
	_ = json.Unmarshal(w.Value, &v) // not a string: it matches nobody, like none
	return strings.TrimSpace(v)
}
