package main

import (
	"fmt"
	"net/url"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heirloom-auth/heirloom/admin"
)

func clientCommand(t *terminal) *cobra.Command {
	r := &remote{t: t}
	c := group("client", "look after the registered clients",
		clientList(r), clientAdd(r), clientShow(r), clientUpdate(r), clientRemove(r), clientRevoke(r),
		group("secret", "add and remove client secrets", secretAdd(r), secretRemove(r)))
	r.flags(c)
	return c
}

// specFlags gives a command a flag for each field of a client but its id.
func specFlags(c *cobra.Command) {
	for f := range reflect.TypeFor[admin.ClientSpec]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		flag := strings.ReplaceAll(name, "_", "-")
		help := "see docs/configuration.md"
		switch f.Type.Kind() {
		case reflect.Bool:
			c.Flags().Bool(flag, false, help)
		case reflect.Slice:
			c.Flags().StringArray(flag, nil, help+"; may be repeated")
			if one := singular(flag); one != "" {
				c.Flags().StringArray(one, nil, "the same")
			}
		case reflect.Map:
			c.Flags().StringArray(flag, nil, "a field as name=value, such as leeway=10s; may be repeated")
		default:
			if name != "client_id" {
				c.Flags().String(flag, "", help)
			}
		}
	}
}

// singular is how a list's flag is called for one item; "" where nobody would say it.
func singular(flag string) string {
	switch flag {
	case "redirect-uris", "post-logout-redirect-uris", "grant-types", "scopes", "resources":
		return strings.TrimSuffix(flag, "s")
	}
	return ""
}

// specBody turns the flags that were given into the members of a request.
func specBody(c *cobra.Command) (map[string]any, error) {
	body := map[string]any{}
	for f := range reflect.TypeFor[admin.ClientSpec]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		flag := strings.ReplaceAll(name, "_", "-")
		if one := singular(flag); !c.Flags().Changed(flag) && (one == "" || !c.Flags().Changed(one)) {
			continue
		}
		var v any
		var err error
		switch f.Type.Kind() {
		case reflect.Bool:
			v, err = c.Flags().GetBool(flag)
		case reflect.Slice:
			var list []string
			list, err = c.Flags().GetStringArray(flag)
			if one := singular(flag); err == nil && one != "" {
				var more []string
				more, err = c.Flags().GetStringArray(one)
				list = append(list, more...)
			}
			// One empty item empties the list.
			if len(list) == 1 && list[0] == "" {
				list = []string{}
			}
			v = list
		case reflect.Map:
			var pairs []string
			pairs, err = c.Flags().GetStringArray(flag)
			set := map[string]string{}
			for _, p := range pairs {
				key, value, ok := strings.Cut(p, "=")
				if !ok {
					return nil, hinted(usage(fmt.Errorf("--%s %q has no =", flag, p)), "write name=value; nothing behind the = goes back to the preset")
				}
				set[key] = value
			}
			v = set
		default:
			v, err = c.Flags().GetString(flag)
		}
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
		body[name] = v
	}
	return body, nil
}

func clientList(r *remote) *cobra.Command {
	var most int
	c := &cobra.Command{Use: "list", Short: "list clients", Args: noArgs}
	limitFlag(c, &most)
	c.RunE = func(c *cobra.Command, _ []string) error {
		clients, more, err := collect(c, r, path("clients"), url.Values{}, most,
			func(p admin.ClientPage) ([]admin.ClientView, string) { return p.Clients, p.Next }, "after")
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, admin.ClientPage{Clients: clients}, true)
		}
		out := table{head: []string{"CLIENT", "NAME", "STATUS", "AUTH", "PRESET", "KEPT BY"}}
		for _, cl := range clients {
			status, by := "enabled", "command"
			if cl.Disabled {
				status = "disabled"
			}
			if cl.FromConfig {
				by = "configuration"
			}
			out.add(cl.ClientID, cl.Name, status, cl.Auth, cl.Preset, by)
		}
		r.shown(len(clients), more)
		return out.print(r.t.out)
	}
	return c
}

// showClient prints a client and the secret that was made for it, if one was.
func (r *remote) showClient(made admin.ClientSecret, what string) error {
	if r.json {
		return printJSON(r.t.out, made, true)
	}
	r.t.say("%s %s", what, made.Client.ClientID)
	if made.Secret != "" {
		r.t.say("its secret, which is shown this once:")
		fmt.Fprintln(r.t.out, made.Secret)
	}
	return nil
}

func clientAdd(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use: "add ID --preset PRESET [--redirect-uri URI]…", Short: "register a client", Args: exactly("ID"),
		Long: `Register a client. With --auth secret it gets a secret, which is printed once.

  heirloom client add my-spa --preset browser --redirect-uri https://app.example.com/
  heirloom client add my-cli --preset native --redirect-uri http://127.0.0.1/callback
  heirloom client add my-app --preset web --auth secret --redirect-uri https://app.example.com/callback`,
		DisableFlagsInUseLine: true,
	}
	specFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		body, err := specBody(c)
		if err != nil {
			return err
		}
		body["client_id"] = args[0]
		var made admin.ClientSecret
		if err := r.call(c.Context(), "POST", path("clients"), nil, body, &made); err != nil {
			return err
		}
		return r.showClient(made, "added client")
	}
	return c
}

func clientShow(r *remote) *cobra.Command {
	c := &cobra.Command{Use: "show ID", Short: "show a client", Args: exactly("ID")}
	c.RunE = func(c *cobra.Command, args []string) error {
		var cl admin.ClientView
		if err := r.call(c.Context(), "GET", path("clients", args[0]), nil, nil, &cl); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, cl, true)
		}
		return printFields(r.t.out, cl)
	}
	return c
}

func clientUpdate(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use: "update ID --FIELD VALUE…", Short: "change a client", Args: exactly("ID"),
		Long: `Change the fields that are given; lists are replaced, policy fields set one by one.

  heirloom client update my-cli --policy leeway=10s --policy idle=90d
  heirloom client update my-cli --policy leeway=      (back to the preset)
  heirloom client update my-cli --disabled`,
		DisableFlagsInUseLine: true,
	}
	specFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		body, err := specBody(c)
		if err != nil {
			return err
		}
		if len(body) == 0 {
			return hinted(usage(fmt.Errorf("%s: nothing to change", name(c))), "usage: "+c.UseLine())
		}
		var cl admin.ClientView
		if err := r.call(c.Context(), "PATCH", path("clients", args[0]), nil, body, &cl); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, cl, true)
		}
		r.t.say("changed client %s", cl.ClientID)
		return nil
	}
	return c
}

// clientStep is a command that does one thing to a client and prints what became of it.
func clientStep(r *remote, use, short, long, method, done string, segments ...string) *cobra.Command {
	c := &cobra.Command{Use: use + " ID", Short: short, Long: long, Args: exactly("ID")}
	c.RunE = func(c *cobra.Command, args []string) error {
		var cl admin.ClientView
		if err := r.call(c.Context(), method, path(append([]string{"clients", args[0]}, segments...)...), nil, nil, &cl); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, cl, true)
		}
		r.t.say("%s %s", done, cl.ClientID)
		return nil
	}
	return c
}

func clientRemove(r *remote) *cobra.Command {
	return clientStep(r, "remove", "remove a client for good",
		"Remove a client for good. Its families end at once, and its id is never given again.",
		"DELETE", "removed client")
}

func clientRevoke(r *remote) *cobra.Command {
	return clientStep(r, "revoke", "end all families of a client",
		"End all families of a client that exist now. It is in force at once, however many there are.",
		"POST", "ended all families of client", "revoke")
}

func secretAdd(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use: "add ID", Short: "make another secret for a client", Args: exactly("ID"),
		Long: "Make another secret for a client and print it. Two are valid at a time: deploy the new one, then remove the old one.",
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		var made admin.ClientSecret
		if err := r.call(c.Context(), "POST", path("clients", args[0], "secrets"), nil, nil, &made); err != nil {
			return err
		}
		return r.showClient(made, "added a secret to client")
	}
	return c
}

func secretRemove(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use: "remove ID SECRET-ID", Short: "remove a secret of a client", Args: exactly("ID", "SECRET-ID"),
		Long: `Remove a secret of a client; "heirloom client show" lists the ids of its secrets.`,
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		var cl admin.ClientView
		if err := r.call(c.Context(), "DELETE", path("clients", args[0], "secrets", args[1]), nil, nil, &cl); err != nil {
			return err
		}
		if r.json {
			return printJSON(r.t.out, cl, true)
		}
		r.t.say("removed a secret of client %s", cl.ClientID)
		return nil
	}
	return c
}
