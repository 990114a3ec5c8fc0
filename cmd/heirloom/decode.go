package main

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decodeYAML sets the fields of a struct from a YAML document. Unlike the library's own
// decoder it knows the line of everything that is wrong, reports all of it, and never
// quotes a value that it could not read, which may be a secret. Where each key of the
// file itself stood goes into origin.
func decodeYAML(file string, raw []byte, into reflect.Value, origin map[string]string) []error {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil // an empty file sets nothing
	case err != nil:
		return []error{fmt.Errorf("config %s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	d := decoder{file: file, origin: origin}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		d.fail(&second, "there is a second document, or something that is not YAML, behind the first: write one")
	}
	d.decode(doc.Content[0], "", into)
	return d.errs
}

type decoder struct {
	file   string
	origin map[string]string
	errs   []error
}

func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf("config %s:%d: %s", d.file, n.Line, fmt.Sprintf(format, args...)))
}

// decode sets one value; path is how people call it.
func (d *decoder) decode(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" && path != "" {
		d.fail(n, "%s: it has no value: write one, or remove the line", path)
		return
	}
	if _, ok := into.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.scalar(n, path, into)
		return
	}
	switch into.Kind() {
	case reflect.Struct:
		d.object(n, path, into)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.fail(n, "%s: want a list: write [one, two], or one item a line behind \"- \"", path)
			return
		}
		for i, item := range n.Content {
			v := reflect.New(into.Type().Elem()).Elem()
			d.decode(item, fmt.Sprintf("%s[%d]", path, i), v)
			into.Set(reflect.Append(into, v))
		}
	case reflect.Map:
		d.texts(n, path, into)
	default:
		d.scalar(n, path, into)
	}
}

func (d *decoder) scalar(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, "%s: want one value, not a list or a block of keys", path)
		return
	}
	if err := setScalar(into, n.Value); err != nil {
		d.fail(n, "%s: %v", path, err)
	}
}

// object sets the fields of a struct by their names.
func (d *decoder) object(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.MappingNode {
		if path == "" {
			path = "the file"
		}
		d.fail(n, "%s: want keys and values: write \"key: value\" lines", path)
		return
	}
	fields := map[string]reflect.Value{}
	fieldsOf(into, fields)
	if cc, ok := into.Addr().Interface().(*clientConfig); ok {
		cc.line = n.Line
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := join(path, key.Value)
		field, ok := fields[key.Value]
		switch {
		case !ok:
			d.fail(key, "%s is not a known key%s", name, didYouMean(key.Value, fields))
		case seen[key.Value]:
			d.fail(key, "%s is there twice: remove one", name)
		default:
			d.decode(value, name, field)
		}
		seen[key.Value] = true
		if path == "" {
			d.origin[key.Value] = fmt.Sprintf("config %s:%d", d.file, key.Line)
		}
	}
}

// texts sets a map of scalars.
func (d *decoder) texts(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, "%s: want keys and values: write \"key: value\" lines", path)
		return
	}
	m := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := join(path, key.Value)
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		switch _, twice := m[key.Value]; {
		case twice:
			d.fail(key, "%s is there twice: remove one", name)
		case value.Kind != yaml.ScalarNode || value.Tag == "!!null":
			d.fail(value, "%s: want one value", name)
		}
		m[key.Value] = value.Value
	}
	into.Set(reflect.ValueOf(m))
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fieldsOf collects the fields that a file can set, those of embedded structs too.
func fieldsOf(v reflect.Value, into map[string]reflect.Value) {
	for f, fv := range v.Fields() {
		if f.Anonymous {
			fieldsOf(fv, into)
			continue
		}
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			into[name] = fv
		}
	}
}

// setText sets a field from the environment or a flag; a list has commas.
func setText(into reflect.Value, text string) error {
	if into.Kind() != reflect.Slice {
		return setScalar(into, text)
	}
	into.SetZero()
	for part := range strings.SplitSeq(text, ",") {
		v := reflect.New(into.Type().Elem()).Elem()
		if err := setScalar(v, strings.TrimSpace(part)); err != nil {
			return err
		}
		into.Set(reflect.Append(into, v))
	}
	return nil
}

func setScalar(into reflect.Value, text string) error {
	if u, ok := into.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch into.Kind() {
	case reflect.String:
		into.SetString(text)
		return nil
	case reflect.Bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("want true or false")
		}
		into.SetBool(v)
		return nil
	}
	return fmt.Errorf("a %s can not be configured", into.Type())
}

// didYouMean finds the name that was probably meant.
func didYouMean(wrong string, known map[string]reflect.Value) string {
	best, least := "", len(wrong)/3+2
	for name := range known {
		if d := distance(wrong, name); d < least || d == least && best != "" && name < best {
			best, least = name, d
		}
	}
	if best == "" {
		return ": docs/configuration.md lists them all"
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// distance is how many characters must be changed, added or removed to make a of b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(prev[j]+cost, prev[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
