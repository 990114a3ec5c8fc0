package server

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
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

// requestedClaims returns the names that a stored claims parameter asks for at a place,
// in order. What was stored has been parsed before.
func requestedClaims(text, place string) []string {
	c, err := parseClaims(text)
	if err != nil {
		return nil
	}
	if place == "id_token" {
		return slices.Sorted(maps.Keys(c.IDToken))
	}
	return slices.Sorted(maps.Keys(c.UserInfo))
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
