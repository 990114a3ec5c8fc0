package admin

import (
	"fmt"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
)

// KeyPage is all keys. There is one page only.
type KeyPage struct {
	Keys []keys.Info `json:"keys"`
}

func (a *API) listKeys(c *call) (any, error) {
	if _, err := c.params(); err != nil {
		return nil, err
	}
	return KeyPage{a.Keys.List()}, nil
}

// KeyRotation is the body of POST /admin/v1/keys/rotate.
type KeyRotation struct {
	Use keys.Use `json:"use"`           // mac, seal or sign
	Alg keys.Alg `json:"alg,omitempty"` // of sign: ES256, RS256, PS256 or EdDSA
	Now bool     `json:"now,omitempty"` // in an emergency: sign with it without waiting until verifiers know it
}

func (a *API) rotateKeys(c *call) (any, error) {
	var in KeyRotation
	if err := c.read(&in, false); err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	info, err := a.Keys.Rotate(c.Context(), in.Use, in.Alg, in.Now)
	if err != nil {
		return nil, fmt.Errorf("rotate key: %w", err)
	}
	// The key is a row of its own that the ring has stored; the event follows it.
	e := c.event(family.KeyChanged, fmt.Sprintf("%s key %d made by an operator", info.Use, info.ID))
	if err := a.Store.Record(c.Context(), e); err != nil {
		return nil, fmt.Errorf("record event: %w", err)
	}
	return created{info}, nil
}

func (in KeyRotation) check() error {
	switch in.Use {
	case keys.UseMAC, keys.UseSeal:
		if in.Alg != "" {
			return invalid("alg is for keys of use sign", "leave it out")
		}
		return nil
	case keys.UseSign:
		switch in.Alg {
		case keys.ES256, keys.RS256, keys.PS256, keys.EdDSA:
			return nil
		}
		return invalid(fmt.Sprintf("alg is %q", in.Alg), "write ES256, RS256, PS256 or EdDSA")
	}
	return invalid(fmt.Sprintf("use is %q", in.Use), "write mac, seal or sign; the index key never rotates")
}
