package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/keys"
)

func familyCommand(t *terminal) *cobra.Command {
	r := &remote{t: t}
	c := group("family", "look after refresh token families", familyList(r), familyShow(r), familyWhy(r), familyRevoke(r))
	r.flags(c)
	return c
}

// filter adds what is given to a query.
func filter(q url.Values, pairs ...string) url.Values {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

func familyList(r *remote) *cobra.Command {
	var most int
	var user, client, session string
	var live bool
	c := &cobra.Command{Use: "list", Short: "list families", Args: noArgs}
	limitFlag(c, &most)
	c.Flags().StringVar(&user, "user", "", "only those of this user, by name or id")
	c.Flags().StringVar(&client, "client", "", "only those of this client")
	c.Flags().StringVar(&session, "session", "", "only those of this session")
	c.Flags().BoolVar(&live, "live", false, "only those that live")
	c.RunE = func(c *cobra.Command, _ []string) error {
		q := filter(url.Values{}, "user", user, "client", client, "session", session)
		if live {
			q.Set("live", "true")
		}
		families, more, err := collect(c, r, path("families"), q, most,
			func(p admin.FamilyPage) ([]admin.FamilyView, string) { return p.Families, p.Next }, "after")
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, admin.FamilyPage{Families: families}, true)
		}
		out := table{head: []string{"FAMILY", "USER", "CLIENT", "STATUS", "REASON", "GENERATION", "LAST USED", "IP", "DEVICE"}}
		for _, f := range families {
			name := f.Username
			if name == "" {
				name = f.User
			}
			out.add(f.ID, name, f.Client, f.Status, f.Reason, strconv.FormatUint(uint64(f.Generation), 10), when(f.LastUsed), f.IP, f.Device)
		}
		r.shown(len(families), more)
		return out.print(r.t.out)
	}
	return c
}

func familyShow(r *remote) *cobra.Command {
	c := &cobra.Command{Use: "show ID", Short: "show a family", Args: exactly("ID")}
	c.RunE = func(c *cobra.Command, args []string) error {
		var f admin.FamilyView
		if err := r.call(c.Context(), "GET", path("families", args[0]), nil, nil, &f); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, f, true)
		}
		return printFields(r.t.out, f)
	}
	return c
}

func familyWhy(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use: "why ID", Short: "tell the life of a family", Args: exactly("ID"),
		Long: "Tell the life of a family, line by line: when which generation was used, from where, and why it ended.",
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		var life admin.FamilyLife
		if err := r.call(c.Context(), "GET", path("families", args[0], "why"), nil, nil, &life); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, life, true)
		}
		f := life.Family
		who := f.Username
		if who == "" {
			who = f.User
		}
		status := f.Status
		if f.Reason != "" {
			status += " (" + f.Reason + ")"
		}
		fmt.Fprintln(r.t.out, plain(strings.Join([]string{"family " + f.ID, "client " + f.Client, "user " + who, status}, ", ")))
		fmt.Fprintln(r.t.out)
		out := table{head: []string{"WHEN", "LEVEL", "GENERATION", "REASON", "WHAT HAPPENED", "CLIENT", "IP", "DEVICE"}}
		for _, l := range life.Lines {
			out.add(when(l.At), l.Level, strconv.FormatUint(uint64(l.Generation), 10), l.Reason, l.Text, l.Client, l.IP, l.Device)
		}
		return out.print(r.t.out)
	}
	return c
}

func familyRevoke(r *remote) *cobra.Command {
	c := &cobra.Command{Use: "revoke ID", Short: "end a family", Args: exactly("ID")}
	c.RunE = func(c *cobra.Command, args []string) error {
		var done admin.FamilyEnded
		if err := r.call(c.Context(), "POST", path("families", args[0], "revoke"), nil, nil, &done); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, done, true)
		}
		if !done.Ended {
			r.t.say("family %s had ended before: %s", done.Family.ID, done.Family.Reason)
			return nil
		}
		r.t.say("ended family %s", done.Family.ID)
		return nil
	}
	return c
}

func sessionCommand(t *terminal) *cobra.Command {
	r := &remote{t: t}
	c := group("session", "look after sign-ins in browsers", sessionList(r), sessionRevoke(r))
	r.flags(c)
	return c
}

func sessionList(r *remote) *cobra.Command {
	var live bool
	c := &cobra.Command{Use: "list USER", Short: "list a user's sessions", Args: exactly("USER")}
	c.Flags().BoolVar(&live, "live", false, "only those that live")
	c.RunE = func(c *cobra.Command, args []string) error {
		q := url.Values{"user": {args[0]}, "live": {strconv.FormatBool(live)}}
		var page admin.SessionPage
		if err := r.call(c.Context(), "GET", path("sessions"), q, nil, &page); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, page, true)
		}
		out := table{head: []string{"SESSION", "USER", "STATUS", "REASON", "SIGNED IN", "LAST SEEN", "IP", "DEVICE"}}
		for _, s := range page.Sessions {
			out.add(s.ID, s.Username, s.Status, s.Reason, when(s.AuthTime), when(s.LastSeen), s.IP, s.Device)
		}
		return out.print(r.t.out)
	}
	return c
}

func sessionRevoke(r *remote) *cobra.Command {
	var body admin.SessionRevocation
	c := &cobra.Command{
		Use: "revoke ID", Short: "end a session", Args: exactly("ID"),
		Long: "End a session and its families, as if the user signed out there: offline_access families stay, except those of browser clients.",
	}
	c.Flags().BoolVar(&body.Offline, "offline", false, "end its offline_access families too")
	c.RunE = func(c *cobra.Command, args []string) error {
		var done admin.SessionEnded
		if err := r.call(c.Context(), "POST", path("sessions", args[0], "revoke"), nil, body, &done); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, done, true)
		}
		r.ended(done.Ended)
		return nil
	}
	return c
}

func keysCommand(t *terminal) *cobra.Command {
	r := &remote{t: t}
	c := group("keys", "look after the server's keys", keysList(r), keysRotate(r))
	r.flags(c)
	return c
}

func keysTable(infos []keys.Info) *table {
	out := &table{head: []string{"USE", "ID", "ALG", "STATE", "CREATED", "SIGNS FROM", "RETIRES", "ENDS", "KID"}}
	for _, k := range infos {
		out.add(string(k.Use), strconv.Itoa(int(k.ID)), string(k.Alg), string(k.State),
			when(k.Created), when(k.Signs), when(k.Retires), when(k.Ends), k.Kid)
	}
	return out
}

func keysList(r *remote) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "list keys", Args: noArgs}
	c.RunE = func(c *cobra.Command, _ []string) error {
		var page admin.KeyPage
		if err := r.call(c.Context(), "GET", path("keys"), nil, nil, &page); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, page, true)
		}
		return keysTable(page.Keys).print(r.t.out)
	}
	return c
}

func keysRotate(r *remote) *cobra.Command {
	var body admin.KeyRotation
	c := &cobra.Command{
		Use: "rotate mac|seal|ES256|RS256|PS256|EdDSA", Short: "make a new key", Args: exactly("USE"),
		Long: `Make a new key that takes over from the one in use: of the MAC of refresh tokens, of the
seal of personal columns, or of the signatures of one algorithm. Nothing that was made with
the old one becomes invalid. A new key is published a day before it is used; with --now, in
an emergency, it is used at once.`,
	}
	c.Flags().BoolVar(&body.Now, "now", false, "use it at once")
	c.RunE = func(c *cobra.Command, args []string) error {
		switch args[0] {
		case "mac", "seal":
			body.Use = keys.Use(args[0])
		case "ES256", "RS256", "PS256", "EdDSA":
			body.Use, body.Alg = keys.UseSign, keys.Alg(args[0])
		default:
			return hinted(usage(fmt.Errorf("%s: %q is no kind of key", name(c), args[0])), "usage: "+c.UseLine())
		}
		var made keys.Info
		if err := r.call(c.Context(), "POST", path("keys", "rotate"), nil, body, &made); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, made, true)
		}
		return keysTable([]keys.Info{made}).print(r.t.out)
	}
	return c
}

func eventCommand(t *terminal) *cobra.Command {
	r := &remote{t: t}
	c := group("event", "look at the audit log", eventList(r))
	r.flags(c)
	return c
}

func eventList(r *remote) *cobra.Command {
	var most int
	var user, family, session string
	var alerts bool
	c := &cobra.Command{Use: "list", Short: "list events, the newest first", Args: noArgs}
	limitFlag(c, &most)
	c.Flags().StringVar(&user, "user", "", "only those of this user, by name or id")
	c.Flags().StringVar(&family, "family", "", "only those of this family")
	c.Flags().StringVar(&session, "session", "", "only those of this session")
	c.Flags().BoolVar(&alerts, "alerts", false, "only those a person should look at")
	c.RunE = func(c *cobra.Command, _ []string) error {
		q := filter(url.Values{}, "user", user, "family", family, "session", session)
		if alerts {
			q.Set("level", "alert")
		}
		events, more, err := collect(c, r, path("events"), q, most,
			func(p admin.EventPage) ([]admin.EventView, string) {
				if p.Next == 0 {
					return p.Events, ""
				}
				return p.Events, strconv.FormatUint(p.Next, 10)
			}, "before")
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, admin.EventPage{Events: events}, true)
		}
		out := table{head: []string{"WHEN", "LEVEL", "KIND", "REASON", "CLIENT", "USER", "FAMILY", "GENERATION", "IP", "DEVICE", "DETAIL"}}
		for _, e := range events {
			out.add(when(e.At), e.Level, e.Kind, e.Reason, e.Client, e.User, e.Family, strconv.FormatUint(uint64(e.Generation), 10), e.IP, e.Device, e.Detail)
		}
		r.shown(len(events), more)
		return out.print(r.t.out)
	}
	return c
}
