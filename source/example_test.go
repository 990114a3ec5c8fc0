package source_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/heirloom-auth/heirloom/source"
)

// A command-line program that keeps its session in a file.
func Example() {
	ctx := context.Background()
	at, err := source.Discover(ctx, "https://login.example", nil)
	check(err)
	file, err := source.NewFile("tokens", nil)
	check(err)
	session, err := source.New(source.Config{Endpoints: at, ClientID: "notes-cli", Store: file})
	check(err)
	defer session.Close()

	over := new(source.RejectedError)
	if _, err := session.Token(ctx); errors.Is(err, source.ErrSignedOut) || errors.As(err, &over) {
		check(session.SignIn(ctx, source.SignIn{Scopes: []string{"openid", "offline_access", "notes.read"}}))
	}
	transport, err := source.NewTransport(session, nil, "https://api.example")
	check(err)
	res, err := (&http.Client{Transport: transport}).Get("https://api.example/notes")
	check(err)
	defer res.Body.Close()
	_, _ = io.Copy(os.Stdout, res.Body)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Token is what golang.org/x/oauth2 calls a token, as far as this goes.
type Token struct{ AccessToken, TokenType string }

// TokenSource has the method of oauth2.TokenSource. Use it without oauth2.ReuseTokenSource:
// the Source knows better when a token is old. The refresh token stays where it is.
type TokenSource struct{ *source.Source }

func (s TokenSource) Token() (*Token, error) { // with oauth2: (*oauth2.Token, error)
	t, err := s.Source.Token(context.Background())
	if err != nil {
		return nil, err
	}
	return &Token{AccessToken: t.AccessToken, TokenType: "Bearer"}, nil
}

// Programs that speak golang.org/x/oauth2 take a Source by an adapter of eight lines.
func ExampleSource_Token() {
	s, err := source.New(source.Config{
		Endpoints: source.Endpoints{Token: "https://login.example/oauth2/token"}, ClientID: "c", Store: new(source.Memory),
	})
	check(err)
	defer s.Close()
	_, err = TokenSource{s}.Token()
	fmt.Println(err)
	// Output: nobody is signed in
}
