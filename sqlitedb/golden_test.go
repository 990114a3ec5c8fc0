package sqlitedb

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

var goldenID = family.ID{0x60, 0x1d}

var goldenTime = time.Date(2026, 11, 23, 1, 2, 3, 4_000_000, time.UTC)

func goldenUser() user.User {
	return user.User{
		ID: user.NewID([16]byte{0x60}), Username: "ada", Status: user.Enabled, Password: "$argon2id$v=19$golden",
		Claims: user.Claims{Name: "Ada", Email: "ada@example.org", EmailVerified: true}, CreatedAt: goldenTime, PasswordAt: goldenTime,
		NotBefore: goldenTime.Add(-time.Hour), NotBeforeReason: user.ReasonUser, Keep: [16]byte{9},
	}
}

func goldenSession(version uint64) session.Session {
	return session.Session{
		ID: session.ID{1}, Version: version, User: string(goldenUser().ID), Status: session.Live, CreatedAt: goldenTime, AuthTime: goldenTime,
		LastSeen: goldenTime, Ends: goldenTime.Add(12 * time.Hour), ACR: "x", AMR: []string{"pwd"}, SecretHash: [32]byte{7},
		UserAgent: "B", IP: "192.0.2.1",
	}
}

func writeGolden(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heirloom.db")
	db, err := openOwn(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(db.PutClient(ctx, client.Client{
		ID: "app", Name: "Golden", Status: client.Enabled, Auth: client.Secret, Secrets: []client.Hash{{Sum: [32]byte{1}, CreatedAt: goldenTime}},
		Preset: "web", CreatedAt: goldenTime,
	}))
	must(db.PutUser(ctx, goldenUser()))
	must(db.PutSession(ctx, goldenSession(0)))
	must(db.PutConsent(ctx, user.Consent{User: goldenUser().ID, Client: "app", Scope: "a b", Resources: []string{"r1"}, GrantedAt: goldenTime}))
	must(db.Deny(ctx, "jti", family.At(goldenTime), family.Event{Kind: family.TokenRevoked}))
	g := sampleGrant()
	g.Client, g.User = "app", string(goldenUser().ID)
	p := typicalPolicy(t)
	s := family.New(goldenID, p, family.At(goldenTime), g, 1, 0, samplePlaces()[0])
	must(db.Create(ctx, s, s.EventFor(family.FamilyIssued, family.Issued, family.Token{}, samplePlaces()[0])))
	for i := range uint32(2) {
		s, _, err := db.Load(ctx, goldenID)
		must(err)
		s, _ = family.Present(s, p, family.At(goldenTime)+1, family.Token{Generation: i}, family.Proof{Origin: samplePlaces()[i], Key: 1})
		must(db.Commit(ctx, s))
	}
	must(db.Close())
	b, err := os.ReadFile(path)
	must(err)
	must(os.MkdirAll(filepath.Dir(golden), 0o755))
	must(os.WriteFile(golden, b, 0o644))
}
