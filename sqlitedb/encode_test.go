package sqlitedb

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/heirloom-auth/heirloom/family"
)

func sampleGrant() *family.Grant {
	return &family.Grant{
		Offline: true, SentURI: true, Scope: "a b", Resources: []string{"r1", "r2"}, AuthTime: 1_795_397_087_069, ACR: "x",
		AMR: []string{"pwd"}, Nonce: "n", Claims: "{}", RedirectURI: "u", Challenge: "c",
	}
}

func samplePlaces() *family.Places {
	p := &family.Places{}
	p[0] = family.Origin{IP: netip.MustParseAddr("192.0.2.1"), UserAgent: "A"}
	p[1] = family.Origin{IP: netip.MustParseAddr("2001:db8::1%eth0"), UserAgent: "B"}
	p[15] = family.Origin{IP: netip.MustParseAddr("::ffff:192.0.2.1"), UserAgent: "A"}
	return p
}

// The forms of version 1, byte by byte: rows in the files of our users have them.
func TestTheFormsOfVersion1StayAsTheyAre(t *testing.T) {
	const (
		grant  = "01050361206202027231027232ddde85b0a03401780103707764016e027b7d01750163"
		places = "0103014101420000" + "04c0000201"
		origin = "0104c00002010141"
	)
	if got := hex.EncodeToString(appendGrant(nil, sampleGrant())); got != grant {
		t.Errorf("grant:\n got %s\nwant %s", got, grant)
	}
	if got := hex.EncodeToString(appendPlaces(nil, samplePlaces())); !strings.HasPrefix(got, places) || len(got) != 2*placesStep {
		t.Errorf("places:\n got %s\nwant %s…", got, places)
	}
	if got := hex.EncodeToString(appendOrigin(nil, samplePlaces()[0])); got != origin {
		t.Errorf("origin:\n got %s\nwant %s", got, origin)
	}
}

func TestWhatIsCutOffOrOfAnotherVersionIsRefused(t *testing.T) {
	read := map[string]func([]byte) (any, error){
		"grant": func(b []byte) (any, error) {
			g := new(family.Grant)
			err := parseGrant(b, g)
			return g, err
		},
		"places": func(b []byte) (any, error) { return parsePlaces(b) },
		"origin": func(b []byte) (any, error) { return parseOrigin(b) },
	}
	whole := map[string][]byte{
		"grant":  appendGrant(nil, sampleGrant()),
		"places": bytes.TrimRight(appendPlaces(nil, samplePlaces()), "\x00"),
		"origin": appendOrigin(nil, samplePlaces()[1]),
	}
	want := map[string]any{"grant": sampleGrant(), "places": samplePlaces(), "origin": samplePlaces()[1]}
	for name, b := range whole {
		got, err := read[name](b)
		if err != nil || !reflect.DeepEqual(got, want[name]) {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, want[name])
		}
		for n := range b {
			if got, err := read[name](b[:n]); err == nil {
				t.Errorf("%s cut off after %d bytes of %d: got %+v", name, n, len(b), got)
			}
		}
		// A length that is longer than memory, at each place: no panic, nothing taken.
		for n := range b {
			bad := append(bytes.Clone(b[:n]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)
			_, _ = read[name](bad)
		}
		newer := bytes.Clone(b)
		newer[0] = 99
		if _, err := read[name](newer); err == nil || !strings.Contains(err.Error(), "does not know") {
			t.Errorf("%s of another version: %v", name, err)
		}
	}
}

func TestWidthIsSQLites(t *testing.T) {
	c := raw(t, filepath.Join(t.TempDir(), "x.db"))
	mustExec(t, c, "CREATE TABLE t (n INTEGER)")
	for _, n := range []int64{
		0, 1, 2, -1, 127, 128, -128, -129, 32767, 32768, 8388607, 8388608, 1<<31 - 1, 1 << 31, 1<<47 - 1, 1 << 47, 1<<63 - 1, -1 << 63,
	} {
		mustExec(t, c, "DELETE FROM t")
		mustExec(t, c, "INSERT INTO t (n) VALUES (?)", n)
		payload, err := c.number("SELECT payload FROM dbstat WHERE name = 't'")
		// Beside the integer a row has two bytes: the header's length and the type.
		if err != nil || int(payload)-2 != width(n) {
			t.Errorf("width(%d) = %d, but SQLite takes %d, %v", n, width(n), payload-2, err)
		}
	}
}

const golden = "testdata/version-1.db"

// TestAFileOfVersion1IsOpened reads a file that the first version wrote. It is never
// written anew: HEIRLOOM_GOLDEN=1 makes it if it is missing, for a new version's.
func TestAFileOfVersion1IsOpened(t *testing.T) {
	if _, err := os.Stat(golden); err != nil && os.Getenv("HEIRLOOM_GOLDEN") != "" {
		writeGolden(t)
	}
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "heirloom.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := openOwn(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	s, at, err := db.Load(ctx, goldenID)
	if err != nil {
		t.Fatal(err)
	}
	want := *sampleGrant()
	want.Client, want.User = "app", string(goldenUser().ID)
	if !reflect.DeepEqual(*s.Grant, want) || s.Head != 2 || s.Version != 3 || at.Barred != 0 || s.History()[2].Origin != samplePlaces()[1] {
		t.Errorf("family: %+v %+v, barred %v", s, s.Grant, at.Barred)
	}
	u, err := db.UserByName(ctx, "ada")
	wantUser := goldenUser()
	wantUser.Version = 1
	if err != nil || u != wantUser {
		t.Errorf("user: %+v, %v", u, err)
	}
	c, err := db.Client(ctx, "app")
	if err != nil || c.Name != "Golden" || len(c.Secrets) != 1 || c.Secrets[0].Sum != [32]byte{1} {
		t.Errorf("client: %+v, %v", c, err)
	}
	sessions, err := db.Sessions(ctx, wantUser.ID, false)
	if err != nil || len(sessions) != 1 || !reflect.DeepEqual(sessions[0], goldenSession(1)) {
		t.Errorf("sessions: %+v, %v", sessions, err)
	}
	consent, err := db.Consent(ctx, wantUser.ID, "app")
	if err != nil || consent.Scope != "a b" || len(consent.Resources) != 1 {
		t.Errorf("consent: %+v, %v", consent, err)
	}
	events, err := db.Events(ctx, family.EventQuery{Family: goldenID})
	if err != nil || len(events) != 1 || events[0].Origin != samplePlaces()[0] || events[0].Kind != family.FamilyIssued {
		t.Errorf("events: %+v, %v", events, err)
	}
	if denied, err := db.Denied(ctx, "jti"); err != nil || !denied {
		t.Errorf("denied: %v, %v", denied, err)
	}
}
