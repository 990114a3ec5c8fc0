// Package storetest is the contract of all engines, as tests. An engine passes when
// Run does; the sentences that its subtests prove are the documentation of family.Store
// and its companions, row by row. It knows no engine and uses only what they promise.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// Engine is all that an engine does.
type Engine interface {
	family.Store
	family.Index
	family.Denylist
	keys.Store
	clients
	users
	consents
	sessions
	journal
	life
}

type clients interface {
	Client(ctx context.Context, id string) (client.Client, error)
	Clients(ctx context.Context, after string, limit int) ([]client.Client, error)
	PutClient(ctx context.Context, c client.Client, events ...family.Event) error
	DeleteClient(ctx context.Context, id string, events ...family.Event) error
}

type users interface {
	User(ctx context.Context, id user.ID) (user.User, error)
	UserByName(ctx context.Context, username string) (user.User, error)
	Users(ctx context.Context, after user.ID, limit int) ([]user.User, error)
	PutUser(ctx context.Context, u user.User, events ...family.Event) error
	DeleteUser(ctx context.Context, id user.ID, events ...family.Event) error
}

type consents interface {
	Consent(ctx context.Context, u user.ID, clientID string) (user.Consent, error)
	Consents(ctx context.Context, u user.ID) ([]user.Consent, error)
	PutConsent(ctx context.Context, c user.Consent, events ...family.Event) error
	DropConsent(ctx context.Context, u user.ID, clientID string, events ...family.Event) error
}

type sessions interface {
	Session(ctx context.Context, id session.ID) (session.Session, error)
	PutSession(ctx context.Context, s session.Session, events ...family.Event) error
	Sessions(ctx context.Context, u user.ID, liveOnly bool) ([]session.Session, error)
}

type life interface {
	Now(ctx context.Context) (family.Time, error)
	Ping(ctx context.Context) error
	Close() error
}

// What engines keep by default; open must not change it.
const (
	KeepEnded  = 30 * day
	KeepEvents = 90 * day
)

const day = 24 * time.Hour

// Run holds an engine to the contract. open returns a new, empty one that reads its
// clock from now and is closed when its test ends.
func Run(t *testing.T, open func(t *testing.T, now func() time.Time) Engine) {
	for _, part := range []struct {
		name string
		of   func() []story
	}{
		{"families", families},
		{"bars", bars},
		{"sweep", sweep},
		{"people", people},
		{"keys", keyStore},
		{"journal", journals},
		{"concurrent", concurrent},
		{"faults", faults},
		{"model", model},
	} {
		t.Run(part.name, func(t *testing.T) {
			for _, s := range part.of() {
				t.Run(s.sentence, func(t *testing.T) {
					c := &clock{at: epoch}
					s.tell(bench{T: t, e: open(t, c.now), clock: c})
				})
			}
		})
	}
}

// story is one sentence of the contract and what shows it.
type story struct {
	sentence string
	tell     func(b bench)
}

// bench is what a story works at: a new engine and its clock.
type bench struct {
	*testing.T
	e     Engine
	clock *clock
}

// epoch is when every story begins: not at the begin of a day, a second or a millisecond.
var epoch = time.Date(2026, 11, 23, 9, 41, 12, 345_678_901, time.UTC)

// clock is the engine's; it moves only when a story moves it.
type clock struct {
	mu sync.Mutex
	at time.Time // guarded by mu
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

func (c *clock) move(d time.Duration) { c.set(c.now().Add(d)) }

// time is the engine's now.
func (b bench) time() family.Time { return family.At(b.clock.now()) }

// must ends the story when something that has to work does not.
func (b bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// want compares an error with the one that the contract names; nil is none.
func (b bench) want(what string, err, want error) {
	b.Helper()
	if !errors.Is(err, want) {
		b.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// same compares what came back with what was stored.
func (b bench) same(what string, got, want any) {
	b.Helper()
	if !reflect.DeepEqual(got, want) {
		b.Errorf("%s:\n got %s\nwant %s", what, show(got), show(want))
	}
}

// show follows the pointers of a State.
func show(v any) string {
	if s, ok := v.(family.State); ok {
		g, p := s.Grant, s.Places
		s.Grant, s.Places = nil, nil
		return fmt.Sprintf("%+v grant %+v places %+v", s, g, p)
	}
	return fmt.Sprintf("%+v", v)
}

// The people and programs of most stories.
const app = "app"

var (
	ada   = user.NewID([16]byte{0xad, 0xa})
	bob   = user.NewID([16]byte{0xb0, 0xb})
	phone = family.Origin{IP: netip.MustParseAddr("2001:db8::17"), UserAgent: "Phone/1.0 (pocket)"}
)

func appClient(id string) client.Client {
	return client.Client{
		ID: id, Name: "The app " + id, Status: client.Enabled, Auth: client.None, Preset: "native",
		GrantTypes:   []string{client.AuthorizationCode, client.RefreshToken},
		RedirectURIs: []string{"http://127.0.0.1/callback"}, Scopes: []string{"openid", "offline_access"},
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC),
	}
}

func person(id user.ID, name string) user.User {
	return user.User{
		ID: id, Username: name, Status: user.Enabled,
		Claims:    user.Claims{Name: name + " the person", Email: name + "@example.org", EmailVerified: true},
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC),
	}
}

// settle stores the app, ada and bob.
func (b bench) settle() {
	b.Helper()
	b.must(b.e.PutClient(b.Context(), appClient(app)))
	b.must(b.e.PutUser(b.Context(), person(ada, "ada")))
	b.must(b.e.PutUser(b.Context(), person(bob, "bob")))
}

func policy(preset string) family.Policy {
	p, ok := family.Preset(preset)
	if !ok {
		panic("no preset " + preset)
	}
	return p
}

// id makes the n-th id; their order is that of n.
func id(n int) family.ID { return family.ID{byte(n >> 16), byte(n >> 8), byte(n), 0xfa} }

// newFamily is ada's family at the app, authorized now.
func (b bench) newFamily(n int) family.State {
	g := &family.Grant{Client: app, User: string(ada), Session: [16]byte{0x5e}, Scope: "offline_access openid"}
	return family.New(id(n), policy("native"), b.time(), g, 1, 0, phone)
}

// create stores a family and returns it as it was loaded again.
func (b bench) create(s family.State) family.State {
	b.Helper()
	b.must(b.e.Create(b.Context(), s, s.EventFor(family.FamilyIssued, family.Issued, family.Token{}, phone)))
	return b.load(s.ID)
}

func (b bench) load(id family.ID) family.State {
	b.Helper()
	s, _, err := b.e.Load(b.Context(), id)
	b.must(err)
	return s
}

// barred returns what Load says against a family.
func (b bench) barred(id family.ID) family.Reason {
	b.Helper()
	_, at, err := b.e.Load(b.Context(), id)
	b.must(err)
	return at.Barred
}

// events returns all events, oldest first.
func (b bench) events() []family.Event {
	b.Helper()
	var all []family.Event
	q := family.EventQuery{Limit: 1000}
	for {
		page, err := b.e.Events(b.Context(), q)
		b.must(err)
		for _, e := range page {
			all = append([]family.Event{e}, all...)
			q.Before = e.Seq
		}
		if len(page) < q.Limit {
			return all
		}
	}
}

// count returns how many events of a family have the kind.
func (b bench) count(id family.ID, kind family.EventKind) (n int) {
	b.Helper()
	for _, e := range b.events() {
		if e.Family == id && e.Kind == kind {
			n++
		}
	}
	return n
}

// fill gives every field of a struct a value that is not zero and unlike the others,
// so that a field which an engine forgets is missed, also one that is added later.
func fill(v reflect.Value, next *int) {
	*next++
	n := *next
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(epoch.Truncate(time.Millisecond).Add(time.Duration(n) * time.Second)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), next)
		}
	case reflect.String:
		v.SetString(fmt.Sprint("text-", n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(n % 250))
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), next)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), next)
		fill(v.Index(1), next)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, next)
		fill(value, next)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	default:
		panic("fill: no value for a " + v.Kind().String())
	}
}

// filled is a T whose every field is set.
func filled[T any]() (t T) {
	n := 0
	fill(reflect.ValueOf(&t).Elem(), &n)
	return t
}
