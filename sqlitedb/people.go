package sqlitedb

import (
	"bytes"
	"cmp"
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// The names under which columns are sealed or indexed: never change one.
const (
	userColumn     = "user.body"
	usernameColumn = "user.username"
	sessionColumn  = "session.body"
)

// clients is all clients in memory, written through: Client and the bars of a refresh
// cost no statement. The committer alone changes them.
type clients struct {
	mu       sync.RWMutex
	rows     map[string]clientRow // guarded by mu
	doubtful bool                 // guarded by mu: a commit failed, and nobody knows what the file says
}

type clientRow struct {
	client.Client
	deleted family.Time // 0: it is there; otherwise only its ID is left
	barring family.Bar  // what it holds against its families
}

// bar returns what the client holds against its families.
func (c clientRow) bar() family.Bar {
	switch {
	case c.deleted != 0:
		return family.Bar{Before: family.BarAll, At: c.deleted, Why: family.RevokedAdmin}
	case c.Version == 0:
		return family.Bar{Now: family.RevokedAdmin} // there is none
	}
	b := family.Bar{Before: family.At(c.NotBefore), At: family.At(c.NotBefore), Why: family.CutOffReason(c.NotBeforeReason)}
	if c.Status != client.Enabled {
		b.Now = family.ClientDisabled
	}
	return b
}

var errDoubt = errors.New("the clients are not known since a commit failed")

func (cs *clients) get(id string) (clientRow, error) {
	cs.mu.RLock()
	defer cs.mu.RUnlock()
	if cs.doubtful {
		return clientRow{}, errDoubt
	}
	return cs.rows[id], nil
}

// client returns a client's row, the zero one with its bar if there is none.
func (db *DB) client(ctx context.Context, id string) (clientRow, error) {
	c, err := db.clients.get(id)
	if err == errDoubt {
		// The committer reads them again before whatever it does next.
		if err := db.write(ctx, func(*tx) error { return nil }, nil); err != nil {
			return clientRow{}, err
		}
		c, err = db.clients.get(id)
	}
	if err == nil && c.Version == 0 && c.deleted == 0 {
		c.barring = c.bar()
	}
	return c, err
}

func (cs *clients) put(id string, c clientRow) {
	c.barring = c.bar()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.rows[id] = c
}

func (cs *clients) doubt() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.doubtful = true
}

// reloadClients ends the doubt after a failed commit.
func (db *DB) reloadClients(c *conn) error {
	db.clients.mu.RLock()
	doubtful := db.clients.doubtful
	db.clients.mu.RUnlock()
	if !doubtful {
		return nil
	}
	return db.loadClients(c)
}

// loadClients reads all clients into memory.
func (db *DB) loadClients(c *conn) error {
	rows := make(map[string]clientRow)
	err := c.query("SELECT version, deleted, body, id FROM client", func(row []driver.Value) error {
		id, ok := row[3].(string)
		if !ok {
			return errors.New("a client's id is not a text")
		}
		c, err := clientOf(row[:3])
		if err != nil {
			return fmt.Errorf("client %s: %w", id, err)
		}
		c.barring = c.bar()
		rows[id] = c
		return nil
	})
	if err != nil {
		return err
	}
	db.clients.mu.Lock()
	defer db.clients.mu.Unlock()
	db.clients.rows, db.clients.doubtful = rows, false
	return nil
}

// clientOf reads the columns version, deleted and body; no row is the zero clientRow.
func clientOf(row []driver.Value) (c clientRow, err error) {
	if row == nil {
		return c, nil
	}
	var version, deleted int64
	var body string
	if err := scan(row, &version, &deleted, &body); err != nil {
		return c, err
	}
	c.deleted = family.Time(deleted)
	if deleted != 0 {
		return c, nil
	}
	var f clientForm
	if err := unmarshal([]byte(body), &f, &f.form); err != nil {
		return c, err
	}
	c.Client = f.client()
	c.Version = uint64(version)
	return c, nil
}

// form is the first field of every stored JSON form; F is 1. A new field needs no new
// number, a changed meaning does.
type form struct {
	F int `json:"f"`
}

// unmarshal reads a stored form into a struct that embeds f.
func unmarshal(b []byte, into any, f *form) error {
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("the row is damaged: %v", err)
	}
	if f.F != 1 {
		return fmt.Errorf("the row has form %d, which this program does not know: start the newer one that wrote it", f.F)
	}
	return nil
}

// clientForm is a client as it is stored.
type clientForm struct {
	form
	ID                     string            `json:"id"`
	Name                   string            `json:"name"`
	Status                 int               `json:"status"`
	Auth                   int               `json:"auth"`
	FirstParty             bool              `json:"first_party,omitempty"`
	Secrets                []hashForm        `json:"secrets,omitempty"`
	RedirectURIs           []string          `json:"redirect_uris,omitempty"`
	PostLogoutRedirectURIs []string          `json:"post_logout_redirect_uris,omitempty"`
	GrantTypes             []string          `json:"grant_types,omitempty"`
	Scopes                 []string          `json:"scopes,omitempty"`
	Audience               []string          `json:"audience,omitempty"`
	Resources              []string          `json:"resources,omitempty"`
	Introspects            []string          `json:"introspects,omitempty"`
	Preset                 string            `json:"preset"`
	Policy                 map[string]string `json:"policy,omitempty"`
	WithoutPKCE            bool              `json:"without_pkce,omitempty"`
	IDTokenAlg             string            `json:"id_token_alg,omitempty"`
	NoIDTokenOnRefresh     bool              `json:"no_id_token_on_refresh,omitempty"`
	NotBefore              family.Time       `json:"not_before,omitempty"`
	NotBeforeReason        string            `json:"not_before_reason,omitempty"`
	FromConfig             bool              `json:"from_config,omitempty"`
	CreatedAt              family.Time       `json:"created_at"`
}

type hashForm struct {
	Sum       []byte      `json:"sha256"`
	CreatedAt family.Time `json:"created_at"`
	Expires   family.Time `json:"expires,omitempty"`
}

func clientFormOf(c client.Client) clientForm {
	f := clientForm{
		form: form{1}, ID: c.ID, Name: c.Name, Status: int(c.Status), Auth: int(c.Auth), FirstParty: c.FirstParty,
		RedirectURIs: c.RedirectURIs, PostLogoutRedirectURIs: c.PostLogoutRedirectURIs, GrantTypes: c.GrantTypes,
		Scopes: c.Scopes, Audience: c.Audience, Resources: c.Resources, Introspects: c.Introspects,
		Preset: c.Preset, Policy: c.Policy, WithoutPKCE: c.WithoutPKCE, IDTokenAlg: c.IDTokenAlg, NoIDTokenOnRefresh: c.NoIDTokenOnRefresh,
		NotBefore: family.At(c.NotBefore), NotBeforeReason: c.NotBeforeReason, FromConfig: c.FromConfig,
		CreatedAt: family.At(c.CreatedAt),
	}
	for _, h := range c.Secrets {
		f.Secrets = append(f.Secrets, hashForm{h.Sum[:], family.At(h.CreatedAt), family.At(h.Expires)})
	}
	return f
}

func (f clientForm) client() client.Client {
	c := client.Client{
		ID: f.ID, Name: f.Name, Status: client.Status(f.Status), Auth: client.Auth(f.Auth), FirstParty: f.FirstParty,
		RedirectURIs: f.RedirectURIs, PostLogoutRedirectURIs: f.PostLogoutRedirectURIs, GrantTypes: f.GrantTypes,
		Scopes: f.Scopes, Audience: f.Audience, Resources: f.Resources, Introspects: f.Introspects,
		Preset: f.Preset, Policy: f.Policy, WithoutPKCE: f.WithoutPKCE, IDTokenAlg: f.IDTokenAlg, NoIDTokenOnRefresh: f.NoIDTokenOnRefresh,
		NotBefore: f.NotBefore.Std(), NotBeforeReason: f.NotBeforeReason, FromConfig: f.FromConfig,
		CreatedAt: f.CreatedAt.Std(),
	}
	for _, h := range f.Secrets {
		s := client.Hash{CreatedAt: h.CreatedAt.Std(), Expires: h.Expires.Std()}
		copy(s.Sum[:], h.Sum)
		c.Secrets = append(c.Secrets, s)
	}
	return c
}

// Client returns a registered client, without a statement; family.ErrNotFound if there
// is none or it was deleted. The caller must not change what its slices and maps hold.
func (db *DB) Client(ctx context.Context, id string) (client.Client, error) {
	if err := db.usable(ctx); err != nil {
		return client.Client{}, err
	}
	c, err := db.client(ctx, id)
	if err != nil {
		return client.Client{}, fmt.Errorf("load client: %w", err)
	}
	if c.Version == 0 {
		return client.Client{}, family.ErrNotFound
	}
	return c.Client, nil
}

// Clients returns clients in the order of their ids, behind after; limit as in
// family.Query.
func (db *DB) Clients(ctx context.Context, after string, limit int) ([]client.Client, error) {
	if _, err := db.Client(ctx, ""); err != nil && !errors.Is(err, family.ErrNotFound) {
		return nil, fmt.Errorf("list clients: %w", err)
	}
	db.clients.mu.RLock()
	defer db.clients.mu.RUnlock()
	var found []client.Client
	for id, c := range db.clients.rows {
		if c.deleted == 0 && id > after {
			found = append(found, c.Client)
		}
	}
	slices.SortFunc(found, func(a, b client.Client) int { return cmp.Compare(a.ID, b.ID) })
	return found[:min(len(found), int(limited(limit)))], nil
}

// fits applies the rule of versions to a row that is to be stored.
func fits(version uint64, stored int64, known, deleted bool) error {
	switch {
	case version == 0 && known:
		return family.ErrExists
	case version != 0 && (!known || deleted || uint64(stored) != version):
		return family.ErrConflict
	}
	return nil
}

// PutClient stores a client under the version it was read with and gives it the next
// one. Version 0 creates it: family.ErrExists if the id is or ever was in use.
// Otherwise family.ErrConflict if it has another version or is gone.
func (db *DB) PutClient(ctx context.Context, c client.Client, events ...family.Event) error {
	version := c.Version
	f := clientFormOf(c)
	body, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("store client: %v", err)
	}
	// As it will be read again, and nothing shared with the caller.
	var again clientForm
	if err := unmarshal(body, &again, &again.form); err != nil {
		return fmt.Errorf("store client: %w", err)
	}
	c = again.client()
	c.Version = version + 1
	return db.write(ctx, func(t *tx) error {
		row, err := t.one("SELECT version, deleted, body FROM client WHERE id = ?", c.ID)
		if err != nil {
			return err
		}
		old, err := clientOf(row)
		if err != nil {
			return fmt.Errorf("client %s: %w", c.ID, err)
		}
		if err := fits(version, int64(old.Version), row != nil, old.deleted != 0); err != nil {
			return err
		}
		_, err = t.exec("INSERT OR REPLACE INTO client (id, version, deleted, body) VALUES (?, ?, 0, ?)",
			c.ID, int64(c.Version), string(body))
		if err != nil {
			return err
		}
		if !c.NotBefore.Equal(old.NotBefore) {
			if err := t.cut(cutClient, c.ID); err != nil {
				return err
			}
		}
		return t.record(events)
	}, func() { db.clients.put(c.ID, clientRow{Client: c}) })
}

// DeleteClient removes a client and its consents for good: its families are barred
// from now on and its id is never given again. family.ErrNotFound if there is none.
func (db *DB) DeleteClient(ctx context.Context, id string, events ...family.Event) error {
	var now family.Time
	return db.write(ctx, func(t *tx) error {
		now = t.now
		n, err := t.exec("UPDATE client SET deleted = ?, body = NULL WHERE id = ? AND deleted = 0", int64(now), id)
		if err != nil {
			return err
		}
		if n == 0 {
			return family.ErrNotFound
		}
		if _, err := t.exec("DELETE FROM consent WHERE client = ?", id); err != nil {
			return err
		}
		if err := t.cut(cutClient, id); err != nil {
			return err
		}
		return t.record(events)
	}, func() { db.clients.put(id, clientRow{deleted: now}) })
}

// userForm is what is sealed of a user.
type userForm struct {
	form
	Username   string      `json:"username"`
	Password   string      `json:"password,omitempty"`
	Claims     user.Claims `json:"claims"`
	CreatedAt  family.Time `json:"created_at"`
	PasswordAt family.Time `json:"password_at,omitempty"`
	Reason     string      `json:"not_before_reason,omitempty"`
}

const userColumns = `id, version, status, not_before, keep, sealed_body`

func (db *DB) user(row []driver.Value) (u user.User, err error) {
	var version, status, notBefore int64
	var id string
	var keep, sealed []byte
	if err := scan(row, &id, &version, &status, &notBefore, &keep, &sealed); err != nil {
		return u, err
	}
	plain, err := db.ring.Open(userColumn, []byte(id), sealed)
	if err != nil {
		return u, fmt.Errorf("user %s: %w", id, err)
	}
	var f userForm
	if err := unmarshal(plain, &f, &f.form); err != nil {
		return u, fmt.Errorf("user %s: %w", id, err)
	}
	u = user.User{
		ID: user.ID(id), Version: uint64(version), Status: user.Status(status), NotBefore: family.Time(notBefore).Std(),
		Username: f.Username, Password: f.Password, Claims: f.Claims,
		CreatedAt: f.CreatedAt.Std(), PasswordAt: f.PasswordAt.Std(), NotBeforeReason: f.Reason,
	}
	copy(u.Keep[:], keep)
	return u, nil
}

// oneUser reads the user whom a statement selects.
func (db *DB) oneUser(ctx context.Context, sql string, key any) (u user.User, err error) {
	var row []driver.Value
	err = db.read(ctx, func(c *conn) error {
		row, err = c.one(sql, key)
		return err
	})
	if err == nil && row == nil {
		return user.User{}, family.ErrNotFound
	}
	if err == nil {
		u, err = db.user(row)
	}
	if err != nil {
		return user.User{}, fmt.Errorf("load user: %w", err)
	}
	return u, nil
}

// User returns a user; family.ErrNotFound if there is none or they were deleted.
func (db *DB) User(ctx context.Context, id user.ID) (user.User, error) {
	return db.oneUser(ctx, "SELECT "+userColumns+" FROM user WHERE id = ? AND deleted = 0", string(id))
}

// UserByName returns the user with this username, in the spelling that
// user.ParseUsername gives; family.ErrNotFound if there is none.
func (db *DB) UserByName(ctx context.Context, username string) (user.User, error) {
	index := db.ring.Index(usernameColumn, []byte(username))
	return db.oneUser(ctx, "SELECT "+userColumns+" FROM user WHERE name_index = ?", index[:])
}

// Users returns users in the order of their ids, behind after; limit as in
// family.Query.
func (db *DB) Users(ctx context.Context, after user.ID, limit int) ([]user.User, error) {
	var found []user.User
	err := db.read(ctx, func(c *conn) error {
		return c.query("SELECT "+userColumns+" FROM user WHERE id > ? AND deleted = 0 ORDER BY id LIMIT ?",
			func(row []driver.Value) error {
				u, err := db.user(row)
				found = append(found, u)
				return err
			}, string(after), limited(limit))
	})
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return found, nil
}

// PutUser stores a user by the rules of PutClient; family.ErrExists also if another
// user has the username.
func (db *DB) PutUser(ctx context.Context, u user.User, events ...family.Event) error {
	body, err := json.Marshal(userForm{
		form: form{1}, Username: u.Username, Password: u.Password, Claims: u.Claims,
		CreatedAt: family.At(u.CreatedAt), PasswordAt: family.At(u.PasswordAt), Reason: u.NotBeforeReason,
	})
	if err != nil {
		return fmt.Errorf("store user: %v", err)
	}
	sealed, err := db.ring.Seal(userColumn, []byte(u.ID), body)
	if err != nil {
		return fmt.Errorf("store user: %w", err)
	}
	index := db.ring.Index(usernameColumn, []byte(u.Username))
	return db.write(ctx, func(t *tx) error {
		row, err := t.one("SELECT version, deleted, not_before, keep FROM user WHERE id = ?", string(u.ID))
		if err != nil {
			return err
		}
		var version, deleted, notBefore int64
		var keep []byte
		if row != nil {
			if err := scan(row, &version, &deleted, &notBefore, &keep); err != nil {
				return err
			}
		}
		if err := fits(u.Version, version, row != nil, deleted != 0); err != nil {
			return err
		}
		taken, err := t.one("SELECT 1 FROM user WHERE name_index = ? AND id <> ?", index[:], string(u.ID))
		if err != nil {
			return err
		}
		if taken != nil {
			return family.ErrExists
		}
		_, err = t.exec(`INSERT INTO user (id, version, status, deleted, not_before, reason, keep, name_index, sealed_body)
			VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET version = excluded.version, status = excluded.status, not_before = excluded.not_before,
				reason = excluded.reason, keep = excluded.keep, name_index = excluded.name_index, sealed_body = excluded.sealed_body`,
			string(u.ID), int64(u.Version)+1, int64(u.Status), int64(family.At(u.NotBefore)), int64(family.CutOffReason(u.NotBeforeReason)),
			u.Keep[:], index[:], sealed)
		if err != nil {
			return err
		}
		// A cut-off of the same moment that keeps another session covers other families.
		if int64(family.At(u.NotBefore)) != notBefore || !bytes.Equal(u.Keep[:], keep) {
			if err := t.cut(cutUser, string(u.ID)); err != nil {
				return err
			}
		}
		return t.record(events)
	}, func() { db.users.Add(1) })
}

// DeleteUser removes a user with their consents and sessions for good: their families
// are barred from now on. Somebody else may take the username, nobody the id.
// family.ErrNotFound if there is none.
func (db *DB) DeleteUser(ctx context.Context, id user.ID, events ...family.Event) error {
	return db.write(ctx, func(t *tx) error {
		n, err := t.exec("UPDATE user SET deleted = ?, name_index = NULL, sealed_body = NULL WHERE id = ? AND deleted = 0",
			int64(t.now), string(id))
		if err != nil {
			return err
		}
		if n == 0 {
			return family.ErrNotFound
		}
		for _, sql := range []string{"DELETE FROM consent WHERE user = ?", "DELETE FROM session WHERE user = ?"} {
			if _, err := t.exec(sql, string(id)); err != nil {
				return err
			}
		}
		if err := t.cut(cutUser, string(id)); err != nil {
			return err
		}
		return t.record(events)
	}, func() { db.users.Add(1) })
}

// hasUser refuses with family.ErrNotFound what belongs to a user who is not there.
func (t *tx) hasUser(id string) error {
	row, err := t.one("SELECT 1 FROM user WHERE id = ? AND deleted = 0", id)
	if err == nil && row == nil {
		return family.ErrNotFound
	}
	return err
}

const consentColumns = `user, client, scope, resources, granted_at`

func consentOf(row []driver.Value) (c user.Consent, err error) {
	var id, resources string
	var grantedAt int64
	if err := scan(row, &id, &c.Client, &c.Scope, &resources, &grantedAt); err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(resources), &c.Resources); err != nil {
		return c, fmt.Errorf("the row is damaged: %v", err)
	}
	c.User, c.GrantedAt = user.ID(id), family.Time(grantedAt).Std()
	return c, nil
}

// Consent returns what the user allowed the client; family.ErrNotFound if nothing.
func (db *DB) Consent(ctx context.Context, u user.ID, clientID string) (user.Consent, error) {
	var row []driver.Value
	var c user.Consent
	err := db.read(ctx, func(conn *conn) (err error) {
		row, err = conn.one("SELECT "+consentColumns+" FROM consent WHERE user = ? AND client = ?", string(u), clientID)
		return err
	})
	if err == nil && row == nil {
		return user.Consent{}, family.ErrNotFound
	}
	if err == nil {
		c, err = consentOf(row)
	}
	if err != nil {
		return user.Consent{}, fmt.Errorf("load consent: %w", err)
	}
	return c, nil
}

// Consents returns all of the user's consents in the order of the client ids.
func (db *DB) Consents(ctx context.Context, u user.ID) ([]user.Consent, error) {
	var found []user.Consent
	err := db.read(ctx, func(c *conn) error {
		return c.query("SELECT "+consentColumns+" FROM consent WHERE user = ? ORDER BY client", func(row []driver.Value) error {
			c, err := consentOf(row)
			found = append(found, c)
			return err
		}, string(u))
	})
	if err != nil {
		return nil, fmt.Errorf("list consents: %w", err)
	}
	return found, nil
}

// PutConsent stores a consent in the place of an earlier one; family.ErrNotFound if
// there is no such user or client.
func (db *DB) PutConsent(ctx context.Context, c user.Consent, events ...family.Event) error {
	resources, err := json.Marshal(c.Resources)
	if err != nil {
		return fmt.Errorf("store consent: %v", err)
	}
	return db.write(ctx, func(t *tx) error {
		if err := t.hasUser(string(c.User)); err != nil {
			return err
		}
		row, err := t.one("SELECT 1 FROM client WHERE id = ? AND deleted = 0", c.Client)
		if err != nil {
			return err
		}
		if row == nil {
			return family.ErrNotFound
		}
		_, err = t.exec("INSERT OR REPLACE INTO consent (user, client, scope, resources, granted_at) VALUES (?, ?, ?, ?, ?)",
			string(c.User), c.Client, c.Scope, string(resources), int64(family.At(c.GrantedAt)))
		if err != nil {
			return err
		}
		return t.record(events)
	}, nil)
}

// DropConsent takes a consent back; family.ErrNotFound if there is none.
func (db *DB) DropConsent(ctx context.Context, u user.ID, clientID string, events ...family.Event) error {
	return db.write(ctx, func(t *tx) error {
		n, err := t.exec("DELETE FROM consent WHERE user = ? AND client = ?", string(u), clientID)
		if err != nil {
			return err
		}
		if n == 0 {
			return family.ErrNotFound
		}
		return t.record(events)
	}, nil)
}

// sessionForm is what is sealed of a session.
type sessionForm struct {
	form
	Reason     string      `json:"reason,omitempty"`
	CreatedAt  family.Time `json:"created_at"`
	AuthTime   family.Time `json:"auth_time"`
	LastSeen   family.Time `json:"last_seen"`
	Ends       family.Time `json:"ends"`
	EndedAt    family.Time `json:"ended_at,omitempty"`
	ACR        string      `json:"acr,omitempty"`
	AMR        []string    `json:"amr,omitempty"`
	SecretHash []byte      `json:"secret_sha256"`
	UserAgent  string      `json:"user_agent,omitempty"`
	IP         string      `json:"ip,omitempty"`
}

const sessionColumns = `id, version, user, status, sealed_body`

func (db *DB) session(row []driver.Value) (s session.Session, err error) {
	var version, status int64
	var id, sealed []byte
	if err := scan(row, &id, &version, &s.User, &status, &sealed); err != nil {
		return s, err
	}
	copy(s.ID[:], id)
	plain, err := db.ring.Open(sessionColumn, id, sealed)
	if err != nil {
		return s, fmt.Errorf("session %s: %w", s.ID, err)
	}
	var f sessionForm
	if err := unmarshal(plain, &f, &f.form); err != nil {
		return s, fmt.Errorf("session %s: %w", s.ID, err)
	}
	s.Version, s.Status, s.Reason = uint64(version), session.Status(status), f.Reason
	s.CreatedAt, s.AuthTime, s.LastSeen = f.CreatedAt.Std(), f.AuthTime.Std(), f.LastSeen.Std()
	s.Ends, s.EndedAt = f.Ends.Std(), f.EndedAt.Std()
	s.ACR, s.AMR, s.UserAgent, s.IP = f.ACR, f.AMR, f.UserAgent, f.IP
	copy(s.SecretHash[:], f.SecretHash)
	return s, nil
}

// Session returns a session, ended ones too; family.ErrNotFound if there is none or
// it was swept.
func (db *DB) Session(ctx context.Context, id session.ID) (session.Session, error) {
	var row []driver.Value
	var s session.Session
	err := db.read(ctx, func(c *conn) (err error) {
		row, err = c.one("SELECT "+sessionColumns+" FROM session WHERE id = ?", id[:])
		return err
	})
	if err == nil && row == nil {
		return session.Session{}, family.ErrNotFound
	}
	if err == nil {
		s, err = db.session(row)
	}
	if err != nil {
		return session.Session{}, fmt.Errorf("load session: %w", err)
	}
	return s, nil
}

// PutSession stores a session by the rules of PutClient; creating one for a user who
// is not there is family.ErrNotFound.
func (db *DB) PutSession(ctx context.Context, s session.Session, events ...family.Event) error {
	body, err := json.Marshal(sessionForm{
		form: form{1}, Reason: s.Reason,
		CreatedAt: family.At(s.CreatedAt), AuthTime: family.At(s.AuthTime), LastSeen: family.At(s.LastSeen),
		Ends: family.At(s.Ends), EndedAt: family.At(s.EndedAt),
		ACR: s.ACR, AMR: s.AMR, SecretHash: s.SecretHash[:], UserAgent: s.UserAgent, IP: s.IP,
	})
	if err != nil {
		return fmt.Errorf("store session: %v", err)
	}
	sealed, err := db.ring.Seal(sessionColumn, s.ID[:], body)
	if err != nil {
		return fmt.Errorf("store session: %w", err)
	}
	over := family.At(s.Ends)
	if s.Status != session.Live {
		over = family.At(s.EndedAt)
	}
	return db.write(ctx, func(t *tx) error {
		row, err := t.one("SELECT version FROM session WHERE id = ?", s.ID[:])
		if err != nil {
			return err
		}
		var version int64
		if row != nil {
			if err := scan(row, &version); err != nil {
				return err
			}
		}
		if err := fits(s.Version, version, row != nil, false); err != nil {
			return err
		}
		if row == nil {
			if err := t.hasUser(s.User); err != nil {
				return err
			}
		}
		_, err = t.exec(`INSERT INTO session (id, version, user, status, over, sealed_body) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET version = excluded.version, status = excluded.status, over = excluded.over,
				sealed_body = excluded.sealed_body`,
			s.ID[:], int64(s.Version)+1, s.User, int64(s.Status), int64(over), sealed)
		if err != nil {
			return err
		}
		return t.record(events)
	}, nil)
}

// Sessions returns the user's sessions in the order of their ids; with liveOnly only
// those that have not ended, in one way or the other.
func (db *DB) Sessions(ctx context.Context, u user.ID, liveOnly bool) ([]session.Session, error) {
	now := family.At(db.now()).Std()
	var found []session.Session
	err := db.read(ctx, func(c *conn) error {
		return c.query("SELECT "+sessionColumns+" FROM session WHERE user = ? ORDER BY id", func(row []driver.Value) error {
			s, err := db.session(row)
			if err == nil && (!liveOnly || s.Alive(now)) {
				found = append(found, s)
			}
			return err
		}, string(u))
	})
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return found, nil
}
