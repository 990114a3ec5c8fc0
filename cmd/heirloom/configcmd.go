package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

func configCommand(t *terminal) *cobra.Command {
	return group("config", "look at the configuration", configCheck(t))
}

func configCheck(t *terminal) *cobra.Command {
	var file string
	var dev, asJSON bool
	c := &cobra.Command{
		Use:   "check",
		Short: "say what is wrong with the configuration, or print what is in force",
		Long:  "Say what is wrong with the configuration, or print what is in force, defaults too and secrets not.",
		Args:  noArgs,
	}
	addConfigFlags(c, &file)
	c.Flags().BoolVar(&dev, "dev", false, "as for serve --dev")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		conf, err := loadFor(c, file, dev)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(t.out, conf, true)
		}
		text, err := conf.yaml()
		if err != nil {
			return err
		}
		if _, err := t.out.Write(text); err != nil {
			return err
		}
		t.say("the configuration is good")
		return nil
	}
	return c
}

// yaml writes the configuration as a file would have it, without secrets, in the order
// of the struct.
func (c *config) yaml() ([]byte, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	var out bytes.Buffer
	err = printMembers(&out, raw)
	return out.Bytes(), err
}

// block turns JSON's style into that of a file for people; short lists stay on a line.
func block(n *yaml.Node) {
	if n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.MappingNode {
		n.Style = 0
	}
	if n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		block(c)
	}
}
