package admin_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/client"
	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/user"
)

func random48() (b [48]byte) {
	rand.Read(b[:])
	return b
}

func TestNobodyGetsInWithoutTheToken(t *testing.T) {
	w := newWorld(t, "memdb")
	token := w.token.Text()
	for name, auth := range map[string][]string{
		"none":         nil,
		"empty":        {""},
		"scheme only":  {"Bearer "},
		"wrong":        {"Bearer " + admin.NewToken().Text()},
		"cut":          {"Bearer " + token[:len(token)-1]},
		"longer":       {"Bearer " + token + "x"},
		"upper case":   {"Bearer " + strings.ToUpper(token)},
		"basic":        {"Basic " + token},
		"twice":        {"Bearer " + token, "Bearer " + token},
		"two in one":   {"Bearer " + token + ", Bearer " + token},
		"bare":         {token},
		"space behind": {"Bearer  " + token},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/admin/v1/users", "/admin/v1/nothing", "/admin/v1/clients/x/secrets"} {
				req, err := http.NewRequestWithContext(t.Context(), "GET", w.http.URL+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header["Authorization"] = auth
				if status, raw := w.send(req); status != 401 {
					t.Errorf("%s: status %d, want 401: %s", path, status, raw)
				}
			}
		})
	}
	w.do("GET", "/admin/v1/users", nil, nil, 200)
	if strings.Contains(w.log.String(), token) {
		t.Error("the log has the admin token")
	}
	if s := fmt.Sprintf("%v %+v %#v %s", w.token, w.token, w.token, struct{ t admin.Token }{w.token}); strings.Contains(s, token) {
		t.Errorf("the token prints as %s", s)
	}
}

func TestPagesOfOtherOriginsAreRefused(t *testing.T) {
	w := newWorld(t, "memdb")
	for _, site := range []string{"cross-site", "same-site"} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.http.URL+"/admin/v1/users", strings.NewReader(`{"username":"eve"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+w.token.Text())
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Sec-Fetch-Site", site)
		if status, raw := w.send(req); status != 403 {
			t.Errorf("%s: status %d, want 403: %s", site, status, raw)
		}
	}
	var page admin.UserPage
	w.do("GET", "/admin/v1/users", nil, &page, 200)
	if len(page.Users) != 0 {
		t.Errorf("a page of another origin added %v", page.Users)
	}
}

func TestHealthNeedsNoTokenAndTellsTheTruth(t *testing.T) {
	onEachEngine(t, func(w *world) {
		get := func(path string) (int, string) {
			req, err := http.NewRequestWithContext(w.Context(), "GET", w.http.URL+path, nil)
			if err != nil {
				w.Fatal(err)
			}
			status, raw := w.send(req)
			return status, string(raw)
		}
		for path, want := range map[string]string{"/healthz": `"ok"`, "/readyz": `"ready"`, "/metrics": "heirloom_up 1"} {
			if status, raw := get(path); status != 200 || !strings.Contains(raw, want) {
				w.Errorf("%s: %d %s", path, status, raw)
			}
		}
		w.mu.Lock()
		w.draining = "shutting down"
		w.mu.Unlock()
		if status, raw := get("/readyz"); status != 503 || !strings.Contains(raw, "shutting down") {
			w.Errorf("readyz while draining: %d %s", status, raw)
		}
		if status, _ := get("/healthz"); status != 200 {
			w.Errorf("healthz while draining: %d", status)
		}
		w.mu.Lock()
		w.draining = ""
		w.mu.Unlock()
		if err := w.store.Close(); err != nil {
			w.Fatal(err)
		}
		if status, raw := get("/readyz"); status != 503 || !strings.Contains(raw, "store") {
			w.Errorf("readyz without a store: %d %s", status, raw)
		}
		// What is ours is a 503, never "not found", and its cause stays in the log.
		var f failure
		w.do("GET", "/admin/v1/users/alice", nil, &f, 503)
		if f.Error != "unavailable" || strings.Contains(f.Message, "closed") {
			w.Errorf("without a store: %+v", f)
		}
	})
}

func TestBodiesAreReadStrictly(t *testing.T) {
	w := newWorld(t, "memdb")
	const canary = "canary-password-7f3a"
	for name, c := range map[string]struct {
		body string
		want int
		says string
	}{
		"unknown member":  {`{"username":"a","pasword":"` + canary + `"}`, 400, "pasword"},
		"wrong case":      {`{"username":"a","x":{"y":1}}`, 400, `"x"`},
		"twice":           {`{"username":"a","username":"b"}`, 400, "twice"},
		"twice below":     {`{"username":"a","claims":{"email":"a@b","email":"c@d"}}`, 400, "twice"},
		"something after": {`{"username":"a"} {"username":"b"}`, 400, "behind"},
		"not an object":   {`["a"]`, 400, ""},
		"null":            {`null`, 400, ""},
		"number for text": {`{"username":7}`, 400, "username"},
		"not JSON":        {`username=a&password=` + canary, 400, "not"},
		"empty":           {``, 400, "empty"},
		"half":            {`{"username":"a"`, 400, ""},
		"bad password":    {`{"username":"a","password":"short"}`, 400, "short"},
		"bad name":        {`{"username":"a b"}`, 400, "space"},
		"bad claim":       {`{"username":"a","claims":{"picture":"javascript:1"}}`, 400, "picture"},
		"too large":       {`{"username":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "1 MB"},
	} {
		t.Run(name, func(t *testing.T) {
			var f failure
			w.do("POST", "/admin/v1/users", c.body, &f, c.want)
			if !strings.Contains(f.Message, c.says) || strings.Contains(f.Message+f.Hint, canary) {
				t.Errorf("message %q, want %q and no value", f.Message, c.says)
			}
		})
	}
	for _, ct := range []string{"", "text/plain", "application/x-www-form-urlencoded"} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.http.URL+"/admin/v1/users", strings.NewReader(`{"username":"a"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+w.token.Text())
		req.Header.Set("Content-Type", ct)
		if status, _ := w.send(req); status != 415 {
			t.Errorf("content type %q: status %d, want 415", ct, status)
		}
	}
	for _, path := range []string{
		"/admin/v1/users?limit=0", "/admin/v1/users?limit=1001", "/admin/v1/users?limit=x", "/admin/v1/users?nothing=1",
		"/admin/v1/users?limit=1&limit=2", "/admin/v1/families?live=yes", "/admin/v1/families?after=x", "/admin/v1/families?session=x",
		"/admin/v1/families/x", "/admin/v1/events?level=loud", "/admin/v1/events?before=-1", "/admin/v1/sessions", "/admin/v1/keys?x=1",
	} {
		w.do("GET", path, nil, nil, 400)
	}
	w.do("GET", "/admin/v1/nothing", nil, nil, 404)
	w.do("GET", "/admin/v1/users/nobody", nil, nil, 404)
	w.do("GET", "/admin/v1/clients/none", nil, nil, 404)
	w.do("GET", "/admin/v1/families/"+strings.Repeat("0", 32), nil, nil, 404)
	w.do("POST", "/admin/v1/sessions/"+strings.Repeat("0", 32)+"/revoke", nil, nil, 404)
	var page admin.UserPage
	w.do("GET", "/admin/v1/users", nil, &page, 200)
	if len(page.Users) != 0 {
		t.Errorf("a refused request added %v", page.Users)
	}
	if bytes.Contains(w.log.Bytes(), []byte(canary)) {
		t.Error("the log has a password")
	}
}

func TestListsComeInPagesThatFitTogether(t *testing.T) {
	onEachEngine(t, func(w *world) {
		want := map[string]bool{}
		for i := range 7 {
			name := fmt.Sprintf("user%d", i)
			w.addUser(name)
			want[name] = true
		}
		after, pages := "", 0
		for {
			var page admin.UserPage
			w.do("GET", "/admin/v1/users?limit=3&after="+after, nil, &page, 200)
			pages++
			for _, u := range page.Users {
				if !want[u.Username] {
					w.Errorf("%s came twice or from nowhere", u.Username)
				}
				delete(want, u.Username)
			}
			if after = page.Next; after == "" {
				break
			}
		}
		if len(want) != 0 || pages != 3 {
			w.Errorf("%d pages, and missing: %v", pages, want)
		}
		var seqs []uint64
		before := ""
		for {
			var page admin.EventPage
			w.do("GET", "/admin/v1/events?limit=2"+before, nil, &page, 200)
			for _, e := range page.Events {
				seqs = append(seqs, e.Seq)
			}
			if page.Next == 0 {
				break
			}
			before = fmt.Sprintf("&before=%d", page.Next)
		}
		for i := 1; i < len(seqs); i++ {
			if seqs[i] >= seqs[i-1] {
				w.Fatalf("events are not newest first: %v", seqs)
			}
		}
		if len(seqs) != 7 {
			w.Errorf("%d events, want 7", len(seqs))
		}
	})
}

func TestLivingFamiliesFillTheirPages(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "strict")
		gone, here := w.addUser("gone"), w.addUser("here")
		for range 6 {
			w.issue(gone, "app", w.signIn(gone), false)
			w.issue(here, "app", w.signIn(here), false)
		}
		w.do("POST", "/admin/v1/users/gone/disable", nil, nil, 200)
		seen := map[string]bool{}
		after := ""
		for {
			var page admin.FamilyPage
			w.do("GET", "/admin/v1/families?live=true&client=app&limit=2"+after, nil, &page, 200)
			for _, f := range page.Families {
				if f.Username != "here" || f.Status != "live" || seen[f.ID] {
					w.Errorf("%+v", f)
				}
				seen[f.ID] = true
			}
			if page.Next == "" {
				break
			}
			after = "&after=" + page.Next
		}
		if len(seen) != 6 {
			w.Errorf("%d living families, want 6", len(seen))
		}
	})
}

func TestUsersAreFoundByNameAndID(t *testing.T) {
	onEachEngine(t, func(w *world) {
		id := w.addUser("Alice@Example.com")
		for _, name := range []string{"alice@example.com", "ALICE@example.com", string(id)} {
			var u admin.UserView
			w.do("GET", "/admin/v1/users/"+name, nil, &u, 200)
			if u.ID != id || u.Username != "alice@example.com" || u.Status != "enabled" || !u.HasPassword {
				w.Errorf("%s: %+v", name, u)
			}
		}
		w.wantEvent(family.UserCreated, 0, "by an operator")
		w.do("POST", "/admin/v1/users", admin.NewUser{Username: "alice@EXAMPLE.com"}, nil, 409)
		for _, odd := range []string{"..", "a/b", "ä", "a?b=c", "%2f"} {
			esc := strings.NewReplacer("%", "%25", "/", "%2F", "?", "%3F", ".", "%2E").Replace(odd)
			w.addUser(odd)
			var u admin.UserView
			w.do("GET", "/admin/v1/users/"+esc, nil, &u, 200)
			if u.Username != odd {
				w.Errorf("%q: got %q", odd, u.Username)
			}
		}
		// A name that is another's id shows the other.
		w.addUser(string(id))
		var u admin.UserView
		w.do("GET", "/admin/v1/users/"+string(id), nil, &u, 200)
		if u.Username != "alice@example.com" {
			w.Errorf("the id of alice shows %q", u.Username)
		}
	})
}

func TestRT_F05_PasswordSetByAnOperatorEndsEverything(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		id := w.addUser("alice")
		other := w.addUser("bob")
		var families []family.ID
		for range 3 {
			families = append(families, w.issue(id, "app", w.signIn(id), true))
		}
		spared := w.issue(other, "app", w.signIn(other), true)
		w.pass(time.Minute)
		var done admin.UserChange
		w.do("PUT", "/admin/v1/users/alice/password", map[string]string{"password": "another good one"}, &done, 200)
		if done.Ended != (admin.Ended{Sessions: 3, Families: 3}) {
			w.Errorf("ended %+v, want 3 and 3", done.Ended)
		}
		for _, f := range families {
			w.wantEnded(f, family.RevokedPasswordChange)
			w.wantRefused(f, family.RevokedPasswordChange)
		}
		w.wantRotates(spared)
		u, err := w.store.User(w.Context(), id)
		if err != nil {
			w.Fatal(err)
		}
		if ok, _, err := user.VerifyPassword(u.Password, "another good one"); !ok || err != nil {
			w.Errorf("the new password does not open: %v", err)
		}
		if !u.NotBefore.Equal(w.clock()) || u.NotBeforeReason != user.ReasonPasswordChange {
			w.Errorf("cut-off %v %q", u.NotBefore, u.NotBeforeReason)
		}
		live, err := w.store.Sessions(w.Context(), id, true)
		if err != nil || len(live) != 0 {
			w.Errorf("live sessions: %v, %v", live, err)
		}
		// INV7: one event for each family, one for each session.
		n := map[family.EventKind]int{}
		events, err := w.store.Events(w.Context(), family.EventQuery{User: string(id), Limit: 1000})
		if err != nil {
			w.Fatal(err)
		}
		for _, e := range events {
			n[e.Kind]++
		}
		if n[family.FamilyRevoked] != 3 || n[family.SessionEnded] != 3 || n[family.UserChanged] != 1 || n[family.UserRevoked] != 1 {
			w.Errorf("events: %v", n)
		}
	})
}

func TestRT_F07_DisabledUserIsRefusedAndLivesAgainWhenEnabled(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		w.pass(time.Minute)
		var done admin.UserChange
		w.do("POST", "/admin/v1/users/alice/disable", nil, &done, 200)
		if done.User.Status != "disabled" || done.Ended.Sessions != 1 {
			w.Errorf("%+v", done)
		}
		// The feed tells APIs by this event that the access tokens are dead.
		w.wantEvent(family.SessionEnded, family.UserDisabled, "")
		cut := 0
		events, err := w.store.Events(w.Context(), family.EventQuery{User: string(id)})
		if err != nil {
			w.Fatal(err)
		}
		for _, e := range events {
			if e.Kind == family.UserRevoked && e.Reason == family.UserDisabled {
				cut++
			}
		}
		if cut != 1 {
			w.Errorf("%d cut-offs in the events, want 1", cut)
		}
		w.wantRefused(f, family.UserDisabled)
		w.wantEnded(f, family.UserDisabled)
		if s, _, err := w.store.Load(w.Context(), f); err != nil || s.Status != family.Live {
			w.Errorf("the row says %v, %v; want live, barred only", s.Status, err)
		}
		w.do("POST", "/admin/v1/users/alice/enable", nil, &done, 200)
		w.wantEvent(family.UserChanged, 0, "enabled")
		w.wantLive(f)
		w.wantRotates(f)
	})
}

func TestRT_F07_EnablingCanEndWhatWasSuspended(t *testing.T) {
	for _, at := range []string{"disable", "enable"} {
		t.Run(at, func(t *testing.T) {
			onEachEngine(t, func(w *world) {
				w.addClient("app", "native")
				id := w.addUser("alice")
				f := w.issue(id, "app", w.signIn(id), true)
				w.pass(time.Minute)
				for _, step := range []string{"disable", "enable"} {
					var body any
					if step == at {
						body = admin.SignOut{SignOut: true}
					}
					w.do("POST", "/admin/v1/users/alice/"+step, body, nil, 200)
				}
				w.wantEnded(f, family.UserDisabled)
				w.wantRefused(f, family.UserDisabled)
				w.pass(time.Minute)
				w.wantRotates(w.issue(id, "app", w.signIn(id), true))
			})
		})
	}
}

func TestSigningOutAtEnablingSparesTheEnabled(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		w.pass(time.Minute)
		w.do("POST", "/admin/v1/users/alice/enable", admin.SignOut{SignOut: true}, nil, 200)
		w.wantRotates(f)
	})
}

func TestRT_F08_DeletedUserIsRefusedForGood(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		id := w.addUser("alice@example.com")
		f := w.issue(id, "app", w.signIn(id), true)
		w.do("DELETE", "/admin/v1/users/alice@example.com", nil, nil, 200)
		w.wantEvent(family.UserDeleted, family.UserDisabled, "by an operator")
		w.do("GET", "/admin/v1/users/alice@example.com", nil, nil, 404)
		w.wantRefused(f, family.UserDisabled)
		w.pass(time.Hour)
		if again := w.addUser("alice@example.com"); again == id {
			w.Error("the new user has the old one's id")
		}
		w.wantRefused(f, family.UserDisabled)
	})
}

func TestRevokingAUserEndsAllOfIt(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		w.pass(time.Second)
		w.do("POST", "/admin/v1/users/alice/revoke", nil, nil, 200)
		w.wantEnded(f, family.RevokedAdmin)
		w.wantRefused(f, family.RevokedAdmin)
		w.pass(time.Second)
		w.wantRotates(w.issue(id, "app", w.signIn(id), true))
	})
}

func TestRT_F10_CutOffOfAClientIsOneWriteAndInForceAtOnce(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		w.addClient("other", "native")
		id := w.addUser("alice")
		var dead []family.ID
		for range 20 {
			dead = append(dead, w.issue(id, "app", w.signIn(id), true))
		}
		spared := w.issue(id, "other", w.signIn(id), true)
		w.pass(time.Second)
		before := w.lastEvent().Seq
		w.do("POST", "/admin/v1/clients/app/revoke", nil, nil, 200)
		w.wantEvent(family.ClientRevoked, family.RevokedAdmin, "")
		if n := w.lastEvent().Seq - before; n != 1 {
			w.Errorf("%d events, want 1: the rows are swept later", n)
		}
		for _, f := range dead {
			w.wantEnded(f, family.RevokedAdmin)
			w.wantRefused(f, family.RevokedAdmin)
		}
		w.wantRotates(spared)
		w.pass(time.Second)
		w.wantRotates(w.issue(id, "app", w.signIn(id), true))
		if n, err := w.store.Sweep(w.Context(), 1000); err != nil || n != 20 {
			w.Errorf("swept %d, %v; want 20", n, err)
		}
		w.wantEnded(dead[0], family.RevokedAdmin)
	})
}

func TestRT_F11_RemovedClientIsRefusedAndItsIDNeverGivenAgain(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		w.do("DELETE", "/admin/v1/clients/app", nil, nil, 200)
		w.wantEvent(family.ClientRevoked, family.RevokedAdmin, "removed")
		w.do("GET", "/admin/v1/clients/app", nil, nil, 404)
		w.wantEnded(f, family.RevokedAdmin)
		var fl failure
		w.do("POST", "/admin/v1/clients", admin.ClientSpec{ClientID: "app", Preset: "native", RedirectURIs: []string{"http://127.0.0.1/cb"}}, &fl, 409)
		if !strings.Contains(fl.Message, "is or was in use") {
			w.Errorf("%+v", fl)
		}
	})
}

func TestRT_C24_ClientIsDisabledAndEnabled(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		w.do("PATCH", "/admin/v1/clients/app", `{"disabled":true}`, nil, 200)
		w.wantEvent(family.ClientRevoked, family.ClientDisabled, "")
		w.wantRefused(f, family.ClientDisabled)
		w.wantEnded(f, family.ClientDisabled)
		w.do("PATCH", "/admin/v1/clients/app", `{"disabled":false}`, nil, 200)
		w.wantEvent(family.ClientChanged, 0, "changed")
		w.wantRotates(f)
	})
}

// 9700-05 and 10017-02: what must not be configured is refused here too, by the field's name.
func TestRFC9700_05_ClientsThatMakeNoSenseAreRefused(t *testing.T) {
	w := newWorld(t, "memdb")
	const cb = `"redirect_uris":["http://127.0.0.1/cb"]`
	for name, c := range map[string]struct{ body, says string }{
		"public without rotation":          {`{"client_id":"a","preset":"native","policy":{"rotation":"never","leeway":"0","until_used":"false"},` + cb + `}`, "rotation"},
		"fapi for a public client":         {`{"client_id":"a","preset":"fapi",` + cb + `}`, "rotation"},
		"public that rejects":              {`{"client_id":"a","preset":"native","policy":{"on_reuse":"reject"},` + cb + `}`, "on_reuse"},
		"browser without an end":           {`{"client_id":"a","preset":"browser","policy":{"idle":"0","absolute":"0"},` + cb + `}`, "idle"},
		"browser with a secret":            {`{"client_id":"a","preset":"browser","auth":"secret",` + cb + `}`, "auth"},
		"idle beyond absolute":             {`{"client_id":"a","preset":"native","policy":{"idle":"2d","absolute":"1d"},` + cb + `}`, "idle"},
		"leeway beyond a minute":           {`{"client_id":"a","preset":"native","policy":{"leeway":"61s"},` + cb + `}`, "leeway"},
		"negative leeway":                  {`{"client_id":"a","preset":"native","policy":{"leeway":"-1s"},` + cb + `}`, "leeway"},
		"access token beyond the server's": {`{"client_id":"a","preset":"native","policy":{"access_ttl":"61m"},` + cb + `}`, "max_access_ttl"},
		"zero access token":                {`{"client_id":"a","preset":"native","policy":{"access_ttl":"0"},` + cb + `}`, "access_ttl"},
		"unknown policy field":             {`{"client_id":"a","preset":"native","policy":{"leway":"1s"},` + cb + `}`, "leway"},
		"no preset":                        {`{"client_id":"a",` + cb + `}`, "preset"},
		"unknown preset":                   {`{"client_id":"a","preset":"mobile",` + cb + `}`, "mobile"},
		"no redirect":                      {`{"client_id":"a","preset":"native"}`, "redirect_uris"},
		"http redirect":                    {`{"client_id":"a","preset":"native","redirect_uris":["http://app.example/cb"]}`, "http"},
		"public client_credentials":        {`{"client_id":"a","preset":"native","grant_types":["client_credentials"]}`, "client_credentials"},
		"unknown grant type":               {`{"client_id":"a","preset":"native","grant_types":["password"],` + cb + `}`, "password"},
		"id of a user":                     {`{"client_id":"u_a","preset":"native",` + cb + `}`, "u_"},
		"no id":                            {`{"preset":"native",` + cb + `}`, "client_id"},
		"unknown auth":                     {`{"client_id":"a","auth":"basic","preset":"native",` + cb + `}`, "auth"},
		"public without PKCE":              {`{"client_id":"a","without_pkce":true,"preset":"native",` + cb + `}`, "pkce"},
		"two words in a scope":             {`{"client_id":"a","scopes":["a b"],"preset":"native",` + cb + `}`, "a b"},
		"algorithm none":                   {`{"client_id":"a","id_token_alg":"none","preset":"native",` + cb + `}`, "id_token_alg"},
		"relative resource":                {`{"client_id":"a","resources":["api"],"preset":"native",` + cb + `}`, "resource"},
		"unknown member":                   {`{"client_id":"a","redirect_uri":"http://127.0.0.1/","preset":"native"}`, "redirect_uri"},
		"a list that is a text":            {`{"client_id":"a","preset":"native","redirect_uris":"http://127.0.0.1/"}`, "redirect_uris"},
		"a policy value that is a bool":    {`{"client_id":"a","preset":"native","policy":{"until_used":true},` + cb + `}`, "policy"},
	} {
		t.Run(name, func(t *testing.T) {
			var f failure
			w.do("POST", "/admin/v1/clients", c.body, &f, 400)
			if !strings.Contains(f.Message, c.says) {
				t.Errorf("message %q, want it to name %q", f.Message, c.says)
			}
		})
	}
	w.addClient("good", "native")
	for _, c := range []struct{ body, says string }{
		{`{"policy":{"rotation":"never"}}`, "rotation"},
		{`{"redirect_uris":[]}`, "redirect_uris"},
		{`{"client_id":"better"}`, "client_id"},
		{`{"auth":"secret"}`, "secret"},
		{`{"secrets":[]}`, "secrets"},
		{`[]`, ""},
		{``, ""},
	} {
		var f failure
		w.do("PATCH", "/admin/v1/clients/good", c.body, &f, 400)
		if !strings.Contains(f.Message, c.says) {
			t.Errorf("%s: message %q, want it to name %q", c.body, f.Message, c.says)
		}
	}
	if c := w.clientRow("good"); c.Version != 1 {
		t.Errorf("a refused change was stored: version %d", c.Version)
	}
}

func TestClientsAreChangedFieldByField(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		var v admin.ClientView
		w.do("PATCH", "/admin/v1/clients/app", `{"policy":{"leeway":"5s","idle":"7d"},"scopes":["openid","email"]}`, &v, 200)
		w.do("PATCH", "/admin/v1/clients/app", `{"policy":{"idle":""},"name":"My app"}`, &v, 200)
		if v.Effective.Leeway != "5s" || v.Effective.Idle != "30d" || v.Effective.Absolute != "365d" || v.Name != "My app" ||
			strings.Join(v.Scopes, " ") != "openid email" || strings.Join(v.RedirectURIs, " ") != "http://127.0.0.1/callback" {
			w.Errorf("%+v", v)
		}
		if p := w.policy("app"); p.Leeway != 5*time.Second || p.Idle != 30*day || !p.UntilUsed {
			w.Errorf("stored policy %+v", p)
		}
	})
}

func TestRT_C05_TwoSecretsOverlap(t *testing.T) {
	onEachEngine(t, func(w *world) {
		var first, second admin.ClientSecret
		w.do("POST", "/admin/v1/clients", admin.ClientSpec{
			ClientID: "app", Preset: "web", Auth: "secret", RedirectURIs: []string{"https://app.example/cb"},
		}, &first, 201)
		w.do("POST", "/admin/v1/clients/app/secrets", nil, &second, 201)
		w.wantEvent(family.ClientChanged, 0, "secret added")
		if !strings.HasPrefix(first.Secret, client.SecretPrefix) || first.Secret == second.Secret {
			w.Fatalf("secrets: %d and %d characters", len(first.Secret), len(second.Secret))
		}
		c := w.clientRow("app")
		if !c.Proves(first.Secret, w.clock()) || !c.Proves(second.Secret, w.clock()) {
			w.Error("one of two secrets does not prove the client")
		}
		w.do("POST", "/admin/v1/clients/app/secrets", nil, nil, 409)
		old := first.Client.Secrets[0].ID
		w.do("DELETE", "/admin/v1/clients/app/secrets/"+old, nil, nil, 200)
		w.do("DELETE", "/admin/v1/clients/app/secrets/"+old, nil, nil, 404)
		c = w.clientRow("app")
		if c.Proves(first.Secret, w.clock()) || !c.Proves(second.Secret, w.clock()) {
			w.Error("the wrong secret was removed")
		}
		w.do("DELETE", "/admin/v1/clients/app/secrets/"+second.Client.Secrets[1].ID, nil, nil, 409)
		var v admin.ClientView
		w.do("GET", "/admin/v1/clients/app", nil, &v, 200)
		if len(v.Secrets) != 1 || strings.Contains(fmt.Sprint(v), second.Secret) || strings.Contains(w.log.String(), second.Secret) {
			w.Errorf("%+v", v)
		}
		// A public client becomes confidential by a secret, and public again by saying so.
		w.addClient("cli", "native")
		w.do("POST", "/admin/v1/clients/cli/secrets", nil, nil, 201)
		w.do("PATCH", "/admin/v1/clients/cli", `{"auth":"none"}`, nil, 200)
		if c := w.clientRow("cli"); c.Auth != client.None || len(c.Secrets) != 0 {
			w.Errorf("%v, %d secrets", c.Auth, len(c.Secrets))
		}
		w.addClient("spa", "browser")
		w.do("POST", "/admin/v1/clients/spa/secrets", nil, nil, 400)
	})
}

func TestClientsOfTheConfigurationAreLeftToIt(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		c := w.clientRow("app")
		c.FromConfig = true
		if err := w.store.PutClient(w.Context(), c); err != nil {
			w.Fatal(err)
		}
		w.do("PATCH", "/admin/v1/clients/app", `{"name":"x"}`, nil, 409)
		w.do("POST", "/admin/v1/clients/app/secrets", nil, nil, 409)
		w.do("DELETE", "/admin/v1/clients/app", nil, nil, 409)
		w.do("POST", "/admin/v1/clients/app/revoke", nil, nil, 200)
		c = w.clientRow("app")
		if c.Name != "" || c.NotBefore.IsZero() {
			w.Errorf("%+v", c)
		}
		c.Status = client.Disabled
		if err := w.store.PutClient(w.Context(), c); err != nil {
			w.Fatal(err)
		}
		w.do("DELETE", "/admin/v1/clients/app", nil, nil, 200)
	})
}

func TestRT_F01_RevokingASessionSparesOfflineFamilies(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "native")
		w.addClient("spa", "browser")
		id := w.addUser("alice")
		sid, elsewhere := w.signIn(id), w.signIn(id)
		bound, offline := w.issue(id, "app", sid, false), w.issue(id, "app", sid, true)
		browser := w.issue(id, "spa", sid, true)
		other := w.issue(id, "app", elsewhere, false)
		w.pass(time.Second)
		var done admin.SessionEnded
		w.do("POST", "/admin/v1/sessions/"+sid.String()+"/revoke", nil, &done, 200)
		if done.Ended != (admin.Ended{Sessions: 1, Families: 2}) || done.Session.Status != "ended" || done.Session.Reason != "revoked_admin" {
			w.Errorf("%+v", done)
		}
		w.wantEnded(bound, family.RevokedAdmin)
		w.wantEnded(browser, family.RevokedAdmin)
		w.wantLive(offline)
		w.wantLive(other)
		w.do("POST", "/admin/v1/sessions/"+sid.String()+"/revoke", admin.SessionRevocation{Offline: true}, &done, 200)
		if done.Ended != (admin.Ended{Families: 1}) {
			w.Errorf("%+v", done)
		}
		w.wantEnded(offline, family.RevokedAdmin)
		var page admin.SessionPage
		w.do("GET", "/admin/v1/sessions?user=alice", nil, &page, 200)
		if len(page.Sessions) != 2 || page.Sessions[0].Device != "Firefox on Linux" || page.Sessions[0].Username != "alice" {
			w.Errorf("%+v", page)
		}
		w.do("GET", "/admin/v1/sessions?user=alice&live=true", nil, &page, 200)
		if len(page.Sessions) != 1 || page.Sessions[0].ID != elsewhere.String() {
			w.Errorf("%+v", page)
		}
	})
}

func TestRevokingAFamilyTwiceHasOneReasonAndOneEvent(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addClient("app", "strict")
		id := w.addUser("alice")
		f := w.issue(id, "app", w.signIn(id), true)
		var done admin.FamilyEnded
		w.do("POST", "/admin/v1/families/"+f.String()+"/revoke", nil, &done, 200)
		if !done.Ended || done.Family.Reason != "revoked_admin" {
			w.Errorf("%+v", done)
		}
		seq := w.lastEvent().Seq
		w.do("POST", "/admin/v1/families/"+f.String()+"/revoke", nil, &done, 200)
		if done.Ended || w.lastEvent().Seq != seq {
			w.Errorf("the second revocation: %+v, %+v", done, w.lastEvent())
		}
	})
}

func TestKeysAreListedAndRotated(t *testing.T) {
	onEachEngine(t, func(w *world) {
		var page admin.KeyPage
		w.do("GET", "/admin/v1/keys", nil, &page, 200)
		n := len(page.Keys)
		if n != 7 {
			w.Errorf("%d keys, want 7", n)
		}
		w.do("POST", "/admin/v1/keys/rotate", `{"use":"mac"}`, nil, 201)
		w.wantEvent(family.KeyChanged, 0, "mac key 2 made by an operator")
		w.do("POST", "/admin/v1/keys/rotate", `{"use":"sign","alg":"ES256","now":true}`, nil, 201)
		w.do("GET", "/admin/v1/keys", nil, &page, 200)
		if len(page.Keys) != n+2 {
			w.Errorf("%d keys, want %d", len(page.Keys), n+2)
		}
		for _, bad := range []string{`{"use":"index"}`, `{"use":"sign"}`, `{"use":"sign","alg":"HS256"}`, `{"use":"mac","alg":"ES256"}`, `{}`, `{"use":"mac","nwo":true}`} {
			w.do("POST", "/admin/v1/keys/rotate", bad, nil, 400)
		}
	})
}

func TestConcurrentChangesAllCount(t *testing.T) {
	onEachEngine(t, func(w *world) {
		w.addUser("alice")
		done := make(chan int)
		for i := range 8 {
			go func() {
				req, err := http.NewRequest("POST", w.http.URL+"/admin/v1/users/alice/"+[]string{"disable", "enable"}[i%2], nil)
				if err != nil {
					done <- 0
					return
				}
				req.Header.Set("Authorization", "Bearer "+w.token.Text())
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					done <- 0
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				done <- resp.StatusCode
			}()
		}
		for range 8 {
			if status := <-done; status != 200 {
				w.Errorf("status %d, want 200", status)
			}
		}
	})
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	if _, err := admin.New(admin.Config{}); err == nil || !strings.Contains(err.Error(), "Store") {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"", "hat_", "hat_abc", admin.NewToken().Text()[4:], admin.NewToken().Text() + "=", "hcs_" + admin.NewToken().Text()[4:]} {
		if _, err := admin.ParseToken(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) && len(bad) > 8 {
			t.Errorf("ParseToken(%q): %v", bad, err)
		}
	}
	if (admin.Token{}).Is("") {
		t.Error("the empty token lets in who has none")
	}
}
