package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/heirloom-auth/heirloom/admin"
)

// exactly takes so many arguments, which are named in the error.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		hint := "usage: " + c.UseLine()
		if len(args) < len(names) {
			return hinted(usage(fmt.Errorf("%s: %s is missing", name(c), names[len(args)])), hint)
		}
		return hinted(usage(fmt.Errorf("%s: %q is one argument too many", name(c), args[len(names)])), hint)
	}
}

// collect reads pages until most items are there (0: all). more says that there are
// others behind them.
func collect[P, I any](c *cobra.Command, r *remote, path string, q url.Values, most int, open func(P) ([]I, string), after string) (items []I, more bool, err error) {
	if most < 0 {
		return nil, false, usage(fmt.Errorf("--limit is %d: write how many, or 0 for all", most))
	}
	items = []I{}
	for {
		want := 1000
		if most > 0 {
			want = min(want, most-len(items))
		}
		q.Set("limit", strconv.Itoa(want))
		var page P
		if err := r.call(c.Context(), "GET", path, q, nil, &page); err != nil {
			return nil, false, err
		}
		found, next := open(page)
		items = append(items, found...)
		if next == "" {
			return items, false, nil
		}
		if most > 0 && len(items) >= most {
			return items, true, nil
		}
		q.Set(after, next)
	}
}

func limitFlag(c *cobra.Command, most *int) {
	c.Flags().IntVar(most, "limit", 100, "most rows to show, 0 for all")
}

// shown tells a person that a list was cut.
func (r *remote) shown(n int, more bool) {
	if more && !r.json {
		r.t.say("only the first %d are shown; --limit 0 shows all", n)
	}
}

func userCommand(t *terminal) *cobra.Command {
	r := &remote{t: t}
	c := group("user", "look after the people who sign in",
		userList(r), userAdd(r), userShow(r), userPassword(r), userDisable(r), userEnable(r), userRevoke(r), userRemove(r), userWhy(r))
	r.flags(c)
	return c
}

func userList(r *remote) *cobra.Command {
	var most int
	c := &cobra.Command{Use: "list", Short: "list users", Args: noArgs}
	limitFlag(c, &most)
	c.RunE = func(c *cobra.Command, _ []string) error {
		users, more, err := collect(c, r, path("users"), url.Values{}, most,
			func(p admin.UserPage) ([]admin.UserView, string) { return p.Users, p.Next }, "after")
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, admin.UserPage{Users: users}, true)
		}
		out := table{head: []string{"USERNAME", "STATUS", "PASSWORD", "CREATED", "ID"}}
		for _, u := range users {
			out.add(u.Username, u.Status, yesNo(u.HasPassword), when(u.CreatedAt), string(u.ID))
		}
		r.shown(len(users), more)
		return out.print(r.t.out)
	}
	return c
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func userAdd(r *remote) *cobra.Command {
	var from passwordFlags
	var name, email, claims string
	c := &cobra.Command{
		Use: "add NAME", Short: "add a user", Args: exactly("NAME"),
		Long: "Add a user. The password is asked for, read from standard input, or generated and printed.",
	}
	from.add(c)
	c.Flags().BoolVar(&from.none, "no-password", false, "no password opens the account")
	c.Flags().StringVar(&name, "name", "", "the claim name")
	c.Flags().StringVar(&email, "email", "", "the claim email")
	c.Flags().StringVar(&claims, "claims", "", `standard claims as JSON, such as '{"locale":"en"}'`)
	c.RunE = func(c *cobra.Command, args []string) error {
		in := admin.NewUser{Username: args[0]}
		if claims != "" {
			if err := admin.Strict([]byte(claims), &in.Claims); err != nil {
				return usage(fmt.Errorf("--claims: %w", err))
			}
		}
		if name != "" {
			in.Claims.Name = name
		}
		if email != "" {
			in.Claims.Email = email
		}
		password, generated, err := from.read(c.Context(), r.t)
		if err != nil {
			return err
		}
		in.Password = password
		var u admin.UserView
		if err := r.call(c.Context(), "POST", path("users"), nil, in, &u); err != nil {
			return err
		}
		return r.showPassword(u, password, generated, "added")
	}
	return c
}

// showPassword prints the user, with the password if nobody knows it yet.
func (r *remote) showPassword(u admin.UserView, password string, generated bool, what string) error {
	if !generated {
		password = ""
	}
	if r.json {
		return printJSON(r.t.out, struct {
			admin.UserView
			Password string `json:"password,omitempty"`
		}{u, password}, true)
	}
	r.t.say("%s user %s (%s)", what, plain(u.Username), u.ID)
	if generated {
		fmt.Fprintln(r.t.out, password)
	}
	return nil
}

func userShow(r *remote) *cobra.Command {
	c := &cobra.Command{Use: "show NAME", Short: "show a user", Args: exactly("NAME")}
	c.RunE = func(c *cobra.Command, args []string) error {
		var u admin.UserView
		if err := r.call(c.Context(), "GET", path("users", args[0]), nil, nil, &u); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, u, true)
		}
		return printFields(r.t.out, u)
	}
	return c
}

func userPassword(r *remote) *cobra.Command {
	var from passwordFlags
	c := &cobra.Command{
		Use: "password NAME", Short: "set a user's password", Args: exactly("NAME"),
		Long: "Set a user's password. Everything the old one opened ends: all sessions, all families.",
	}
	from.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		password, generated, err := from.read(c.Context(), r.t)
		if err != nil {
			return err
		}
		var done admin.UserChange
		body := map[string]string{"password": password}
		if err := r.call(c.Context(), "PUT", path("users", args[0], "password"), nil, body, &done); err != nil {
			return err
		}
		if !r.json {
			r.ended(done.Ended)
		}
		return r.showPassword(done.User, password, generated, "set the password of")
	}
	return c
}

func (r *remote) ended(n admin.Ended) {
	r.t.say("ended %s and %s", count(n.Sessions, "session", "sessions"), count(n.Families, "family", "families"))
}

// userChange is a command that changes a user by a POST.
func userChange(r *remote, use, short, long, done string, signOut string) *cobra.Command {
	var body admin.SignOut
	c := &cobra.Command{Use: use + " NAME", Short: short, Long: long, Args: exactly("NAME")}
	if signOut != "" {
		c.Flags().BoolVar(&body.SignOut, "sign-out", false, signOut)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		var send any
		if body.SignOut {
			send = body
		}
		var change admin.UserChange
		if err := r.call(c.Context(), "POST", path("users", args[0], use), nil, send, &change); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, change, true)
		}
		r.t.say("%s %s", plain(change.User.Username), done)
		r.ended(change.Ended)
		return nil
	}
	return c
}

func userDisable(r *remote) *cobra.Command {
	return userChange(r, "disable", "refuse a user everything",
		"Refuse a user everything: sessions end, families are suspended until the user is enabled again.",
		"is disabled", "end the user's families for good")
}

func userEnable(r *remote) *cobra.Command {
	return userChange(r, "enable", "let a disabled user sign in again",
		"Let a disabled user sign in again. Families that were suspended live again unless --sign-out is given.",
		"is enabled", "end what was suspended for good")
}

func userRevoke(r *remote) *cobra.Command {
	return userChange(r, "revoke", "sign a user out everywhere", "", "is signed out everywhere", "")
}

func userRemove(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use: "remove NAME", Short: "delete a user for good", Args: exactly("NAME"),
		Long: "Delete a user for good, with sessions and consents; families end. The name can be taken again, by somebody else to all clients.",
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		var u admin.UserView
		if err := r.call(c.Context(), "DELETE", path("users", args[0]), nil, nil, &u); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, u, true)
		}
		r.t.say("removed user %s (%s)", plain(u.Username), u.ID)
		return nil
	}
	return c
}

func userWhy(r *remote) *cobra.Command {
	var most int
	c := &cobra.Command{
		Use: "why NAME", Short: "say why a user was logged out", Args: exactly("NAME"),
		Long: "Say why a user was logged out: everything of the user's that ended, the newest first, each with its reason.",
	}
	c.Flags().IntVar(&most, "limit", 20, "most rows to show, up to 1000")
	c.RunE = func(c *cobra.Command, args []string) error {
		var life admin.UserLife
		q := url.Values{"limit": {strconv.Itoa(most)}}
		if err := r.call(c.Context(), "GET", path("users", args[0], "why"), q, nil, &life); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, life, true)
		}
		fmt.Fprintln(r.t.out, plain(life.Answer))
		fmt.Fprintf(r.t.out, "now: %s, %s live\n", count(life.LiveSessions, "session", "sessions"), count(life.LiveFamilies, "family", "families"))
		if len(life.Ends) == 0 {
			return nil
		}
		fmt.Fprintln(r.t.out)
		out := table{head: []string{"WHEN", "LEVEL", "REASON", "WHAT HAPPENED", "CLIENT", "IP", "DEVICE", "ID"}}
		for _, e := range life.Ends {
			out.add(when(e.At), e.Level, e.Reason, e.Text, e.Client, e.IP, e.Device, e.ID)
		}
		return out.print(r.t.out)
	}
	return c
}

// printFields prints the members of a value, one a line.
func printFields(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return printMembers(w, raw)
}
