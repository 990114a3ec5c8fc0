package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/heirloom-auth/heirloom/admin"
	"github.com/heirloom-auth/heirloom/family"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

// comments returns the doc comments of a struct's fields, in one line each.
func comments(t *testing.T, file, name string) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != name {
			return true
		}
		st, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range st.Fields.List {
			for _, id := range field.Names {
				all[id.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
			}
		}
		return true
	})
	if len(all) == 0 {
		t.Fatalf("%s has no struct %s: has it moved?", file, name)
	}
	return all
}

// entry is one setting for people.
type entry struct{ name, env, flag, meaning string }

// entries lists the settings of a struct. Each comment begins with the field's name,
// tells the unit where there is one, and ends with what zero means.
func entries(t *testing.T, typ reflect.Type, file string, settings map[string]setting) []entry {
	t.Helper()
	text := comments(t, file, typ.Name())
	var all []entry
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "" {
			continue
		}
		doc := text[f.Name]
		meaning, ok := strings.CutPrefix(doc, f.Name+" ")
		if !ok || !regexp.MustCompile(`(Empty: |Zero: |Required)[^.]*.*$`).MatchString(doc) {
			t.Errorf("%s.%s: the comment %q does not begin with the name, or does not say what zero means", typ.Name(), f.Name, doc)
		}
		if f.Type == reflect.TypeFor[duration]() && !regexp.MustCompile(`"\d+[hmd]"`).MatchString(doc) && !strings.Contains(doc, "Zero: 10s") {
			t.Errorf("%s.%s: the comment %q shows no duration", typ.Name(), f.Name, doc)
		}
		meaning = regexp.MustCompile(`^(is|are|says|lets|sets|names|spares|accepts|signs|leaves|refuses) `).ReplaceAllStringFunc(meaning, func(verb string) string {
			if verb == "is " || verb == "are " {
				return ""
			}
			return verb
		})
		e := entry{name: name, meaning: strings.ToUpper(meaning[:1]) + meaning[1:], env: "–", flag: "–"}
		if s, ok := settings[name]; ok {
			e.env = "`" + s.env() + "`"
			if s.hasFlag() {
				e.flag = "`--" + s.flag() + "`"
			}
		}
		all = append(all, e)
	}
	if len(all) == 0 {
		t.Fatalf("%s has no settings: have they moved?", typ)
	}
	return all
}

func settingsTable(b *strings.Builder, all []entry) {
	b.WriteString("| name | environment | flag | meaning |\n| --- | --- | --- | --- |\n")
	for _, e := range all {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", e.name, e.env, e.flag, strings.ReplaceAll(e.meaning, "|", `\|`))
	}
}

// The document is made of the comments of the code, so neither can be forgotten.
func TestEverySettingIsDocumented(t *testing.T) {
	settings := map[string]setting{}
	for _, s := range new(config).settings() {
		settings[s.name] = s
	}
	var server, client strings.Builder
	settingsTable(&server, entries(t, reflect.TypeFor[config](), "config.go", settings))
	all := entries(t, reflect.TypeFor[admin.ClientSpec](), filepath.Join("..", "..", "admin", "clients.go"), nil)
	all = append(all, entries(t, reflect.TypeFor[clientConfig](), "config.go", nil)...)
	client.WriteString("| name | meaning |\n| --- | --- |\n")
	for _, e := range all {
		fmt.Fprintf(&client, "| `%s` | %s |\n", e.name, strings.ReplaceAll(e.meaning, "|", `\|`))
	}
	path := filepath.Join("..", "..", "docs", "configuration.md")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := string(raw)
	for mark, table := range map[string]string{"settings": server.String(), "clients": client.String()} {
		begin, end := "<!-- "+mark+": made by go test ./cmd/heirloom -update -->\n", "<!-- end of "+mark+" -->\n"
		i, j := strings.Index(want, begin), strings.Index(want, end)
		if i < 0 || j < i {
			t.Fatalf("%s has no marks for %s", path, mark)
		}
		want = want[:i+len(begin)] + "\n" + table + "\n" + want[j:]
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(raw) {
		t.Errorf("%s is not what the comments say: run go test ./cmd/heirloom -run Documented -update", path)
	}
}

// The example of the document is a configuration that works, and its table of presets is
// what the code does.
func TestTheDocumentedExampleWorks(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(raw, -1)
	if len(blocks) == 0 {
		t.Fatal("no example in the document: has it moved?")
	}
	for _, b := range blocks {
		dir := t.TempDir()
		secretFile := filepath.Join(dir, "web-secret")
		if err := os.WriteFile(secretFile, []byte(strings.Repeat("s", 40)), 0o600); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "heirloom.yaml")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(b[1]), "/etc/heirloom/web-secret", secretFile)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(sources{file: file, lookEnv: nothing, flags: nothing}); err != nil {
			t.Errorf("%v in:\n%s", err, b[1])
		}
	}
	for _, name := range family.Presets() {
		p, _ := family.Preset(name)
		leeway, presenter, idle := p.Leeway.String(), "no", duration(p.Idle).String()
		if p.Rotation == family.Never {
			leeway, presenter = "–", "–"
		} else if p.Leeway == 0 {
			leeway, presenter = "0", "–"
		} else if p.SamePresenter {
			presenter = "yes"
		}
		if idle == "24h0m0s" {
			idle = "1d"
		}
		row := fmt.Sprintf("| `%s` | %s | %s | %s | %s | %s |", name, leeway, presenter, idle, duration(p.Absolute), p.AccessTTL)
		if !strings.Contains(string(raw), row) {
			t.Errorf("the document has no row %q", row)
		}
	}
}

func nothing(string) (string, bool) { return "", false }
