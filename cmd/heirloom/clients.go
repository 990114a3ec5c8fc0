package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
)

// keepClients makes the store's clients those of the configuration: new ones are
// registered, changed ones stored, and those that have left it are disabled. Clients
// that were registered by command are left alone.
func keepClients(ctx context.Context, st admin.Clients, configured []clientConfig, maxAccessTTL time.Duration, now time.Time, log *slog.Logger) error {
	here := map[string]bool{}
	for _, cc := range configured {
		here[cc.ClientID] = true
		old, err := st.Client(ctx, cc.ClientID)
		if err != nil && !errors.Is(err, family.ErrNotFound) {
			return fmt.Errorf("load client %q: %w", cc.ClientID, err)
		}
		next, err := cc.client(old, maxAccessTTL, now)
		if err != nil {
			return fmt.Errorf("client %q: %w", cc.ClientID, err)
		}
		if same(old, next) {
			continue
		}
		e := family.Event{Kind: family.ClientChanged, Client: next.ID, Detail: "set by the configuration"}
		err = st.PutClient(ctx, next, admin.WithDisabling(old, next, e)...)
		if errors.Is(err, family.ErrExists) {
			return hinted(fmt.Errorf("client %q was removed once, and an id is never given twice", cc.ClientID), "take another client_id")
		}
		if err != nil {
			return fmt.Errorf("store client %q: %w", cc.ClientID, err)
		}
		log.Info("client set by the configuration", "client", next.ID)
	}
	for after := ""; ; {
		page, err := st.Clients(ctx, after, 100)
		if err != nil {
			return fmt.Errorf("list clients: %w", err)
		}
		for _, c := range page {
			after = c.ID
			// Its tokens would outlive what APIs remember of ends.
			if p, err := admin.PolicyOf(c); err == nil && c.Status == client.Enabled && p.AccessTTL > maxAccessTTL && (!c.FromConfig || here[c.ID]) {
				return hinted(fmt.Errorf("client %q: policy: access_ttl is %v, longer than max_access_ttl %v", c.ID, p.AccessTTL, maxAccessTTL),
					"raise max_access_ttl; to lower it, change the client first")
			}
			if !c.FromConfig || here[c.ID] || c.Status == client.Disabled {
				continue
			}
			old := c
			c.Status = client.Disabled
			e := family.Event{Kind: family.ClientChanged, Client: c.ID, Reason: family.ClientDisabled, Detail: "left the configuration"}
			if err := st.PutClient(ctx, c, admin.WithDisabling(old, c, e)...); err != nil {
				return fmt.Errorf("disable client %q: %w", c.ID, err)
			}
			log.Warn("client left the configuration and is disabled", "client", c.ID)
		}
		if len(page) < 100 {
			return nil
		}
	}
}

// same reports whether storing next would change anything.
func same(old, next client.Client) bool {
	a, errA := json.Marshal(admin.SpecOf(old))
	b, errB := json.Marshal(admin.SpecOf(next))
	return errA == nil && errB == nil && bytes.Equal(a, b) &&
		old.Version != 0 && old.FromConfig == next.FromConfig && slices.Equal(old.Secrets, next.Secrets)
}
