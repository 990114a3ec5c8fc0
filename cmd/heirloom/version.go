package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand(t *terminal) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "version", Short: "print the version of this program", Args: noArgs}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(*cobra.Command, []string) error {
		v := struct {
			Version  string `json:"version"`
			Revision string `json:"revision,omitempty"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		}{"(unknown)", "", runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		if info, ok := debug.ReadBuildInfo(); ok {
			v.Version = info.Main.Version
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" {
					v.Revision = s.Value
				}
			}
		}
		if asJSON {
			return printJSON(t.out, v, false)
		}
		_, err := fmt.Fprintf(t.out, "heirloom %s %s %s\n", v.Version, v.Go, v.Platform)
		return err
	}
	return c
}
