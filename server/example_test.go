package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"

	"github.com/heirloom-auth/heirloom/keys"
	"github.com/heirloom-auth/heirloom/memdb"
	"github.com/heirloom-auth/heirloom/server"
	"github.com/heirloom-auth/heirloom/user"
)

// Mounting Heirloom in a program's own mux, with its password pages.
func ExampleNew() {
	store := memdb.New(memdb.Config{})
	kek, _ := keys.ParseKEK("hkek_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	const issuer = "http://127.0.0.1:8420"
	ring, err := keys.Open(context.Background(), keys.Config{Store: store, KEK: kek, Issuer: issuer})
	if err != nil {
		fmt.Println(err)
		return
	}
	heirloom, err := server.New(server.Config{Issuer: issuer, Store: store, Keys: ring})
	if err != nil {
		fmt.Println(err)
		return
	}
	// A program that serves for real also runs ring.Run (keys roll by themselves),
	// heirloom.Run (the revocation feed) and store.Sweep now and then; with package sqlitedb
	// in place of memdb everything survives a restart.
	mux := http.NewServeMux()
	mux.Handle("/", heirloom)
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the program's own page") })

	res := httptest.NewRecorder()
	mux.ServeHTTP(res, httptest.NewRequest("GET", "/.well-known/openid-configuration", nil))
	fmt.Println(res.Code, res.Header().Get("Content-Type"))
	// Output: 200 application/json
}

// Bringing one's own sign-in: Heirloom asks who is at the browser and does the rest.
func ExampleSignIn() {
	store := memdb.New(memdb.Config{})
	kek, _ := keys.ParseKEK("hkek_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	const issuer = "http://127.0.0.1:8420"
	ring, err := keys.Open(context.Background(), keys.Config{Store: store, KEK: kek, Issuer: issuer})
	if err != nil {
		fmt.Println(err)
		return
	}
	heirloom, err := server.New(server.Config{
		Issuer: issuer, Store: store, Keys: ring,
		SignIn: func(w http.ResponseWriter, r *http.Request) *server.SignedIn {
			if c, err := r.Cookie("our-session"); err == nil && c.Value == "checked by us" {
				return &server.SignedIn{Username: "alice", Claims: user.Claims{Name: "Alice"}, AMR: []string{"hwk"}}
			}
			// The program's own page sends the browser back here afterwards.
			http.Redirect(w, r, "/our/sign-in?back="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	res := httptest.NewRecorder()
	heirloom.ServeHTTP(res, httptest.NewRequest("GET", "/login?continue=/account", nil))
	fmt.Println(res.Code, res.Header().Get("Location"))

	r := httptest.NewRequest("GET", "/login?continue=/account", nil)
	r.AddCookie(&http.Cookie{Name: "our-session", Value: "checked by us"})
	res = httptest.NewRecorder()
	heirloom.ServeHTTP(res, r)
	fmt.Println(res.Code, res.Header().Get("Location"))
	// Output:
	// 303 /our/sign-in?back=%2Flogin%3Fcontinue%3D%2Faccount
	// 303 /account
}
