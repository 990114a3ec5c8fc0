package verify_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/heirloom-auth/heirloom/verify"
)

// An API of Heirloom: it learns of a revocation within milliseconds, and when the feed
// is out of reach it goes on for 30 seconds.
func Example() {
	v, err := verify.New(verify.Config{
		Issuer:   "https://login.example",
		Audience: "https://api.example",
		Algs:     []verify.Alg{verify.ES256},
		Feed:     verify.Feed{ClientID: "api", ClientSecret: "…", Stale: verify.AcceptFor(30 * time.Second)},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_ = v.Run(ctx) // ends with ctx
	}()
	notes := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, _ := verify.FromContext(r.Context())
		fmt.Fprintln(w, "the notes of", t.Subject)
	})
	http.Handle("GET /notes", v.Require(verify.Need{Scopes: []string{"notes.read"}})(notes))
	log.Fatal(http.ListenAndServe(":8080", nil))
}

// An API of another issuer of RFC 9068 tokens: they count until they expire.
func ExampleNoFeed() {
	v, err := verify.New(verify.Config{
		Issuer:   "https://login.example",
		Audience: "https://api.example",
		Algs:     []verify.Alg{verify.RS256},
		Feed:     verify.NoFeed(),
	})
	fmt.Println(v.Staleness(), err)
	// Output: 0s <nil>
}

// Tokens that this API can not read, or that have to be right at once, always.
func ExampleIntrospect() {
	v, err := verify.New(verify.Config{
		Issuer:     "https://login.example",
		Audience:   "https://api.example",
		Feed:       verify.NoFeed(),
		Introspect: &verify.Introspect{ClientID: "api", ClientSecret: "…", TTL: 5 * time.Second},
	})
	fmt.Println(v.Health(), err)
	// Output: <nil> <nil>
}

// A transfer needs a strong sign-in that is not older than five minutes; the client is
// told what to ask the user for (RFC 9470).
func ExampleVerifier_Require() {
	var v *verify.Verifier // of verify.New
	var transfer http.Handler
	stepUp := verify.Need{Scopes: []string{"pay"}, MaxAge: 5 * time.Minute, ACR: []string{"mfa"}}
	if v != nil {
		http.Handle("POST /transfers", v.Require(stepUp)(transfer))
	}
}
