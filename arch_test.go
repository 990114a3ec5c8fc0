package heirloom_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/heirloom-auth/heirloom"

// A row says what the files of a package, tests apart, may import.
type row struct {
	inside []string // packages of this module
	std    []string // packages of the standard library; nil: all of them
	test   bool     // serves tests and measurements only: nothing that ships may import it
}

var (
	domain  = []string{"family", "client", "user", "session", "keys", "wire", "feed"}
	engines = []string{"memdb", "sqlitedb", "pgdb"}
)

// pureStd is what a package may use that decides and never does: no I/O, no clock, no randomness, no goroutine. Package
// time is here for its types and log/slog for the LogValue of a secret; TestPurePackagesSeeNoClockAndWriteNoLog
// watches the rest of both.
var pureStd = []string{
	"bytes", "cmp", "context", "crypto", "crypto/ecdsa", "crypto/ed25519", "crypto/elliptic", "crypto/hmac", "crypto/rsa",
	"crypto/sha256", "crypto/sha512", "crypto/subtle", "encoding", "encoding/base32", "encoding/base64",
	"encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt", "hash", "iter", "log/slog", "maps", "math",
	"math/big", "math/bits", "mime", "net/netip", "net/url", "path", "slices", "sort", "strconv", "strings", "time", "unicode",
	"unicode/utf8",
}

// lattice is DESIGN.md §8. A new package needs a row; changing one is a design change with its own commit. A key that
// ends in "/..." speaks for all packages below it.
var lattice = map[string]row{
	".": {},

	"family":  {std: pureStd},
	"client":  {std: pureStd},
	"session": {std: pureStd},
	"wire":    {std: pureStd},
	"feed":    {std: append(slices.Clone(pureStd), "bufio", "io", "sync")}, // it reads a stream it is given
	"user":    {},                                                          // draws salts and measures its own cost, so not pure
	"keys":    {},                                                          // draws keys

	"memdb":    {inside: []string{"family", "client", "user", "session", "keys", "feed"}},
	"sqlitedb": {inside: []string{"family", "client", "user", "session", "keys", "feed"}},
	"pgdb":     {inside: []string{"family", "client", "user", "session", "keys", "feed"}},

	"server":      {inside: join(domain, "server/page")},
	"server/page": {}, // pages know what they show, not where it comes from
	"admin":       {inside: domain},
	"verify":      {inside: []string{"wire", "feed"}},
	"source":      {inside: []string{"wire"}},

	"cmd/heirloom":      {inside: join(domain, engines, "server", "server/page", "admin", "verify", "source", "cmd/heirloom/demo")},
	"cmd/heirloom/demo": {inside: []string{"wire"}}, // a client like any other: it speaks HTTP to the issuer

	"storetest":    {inside: []string{"family", "client", "user", "session", "keys", "feed"}, test: true},
	"model":        {inside: []string{"family"}, test: true},
	"bench":        {inside: join(domain, engines, "server", "server/page", "admin", "verify", "source"), test: true},
	"test/...":     {inside: join(domain, engines, "server", "server/page", "admin", "verify", "source", "storetest"), test: true},
	"examples/...": {inside: join(domain, engines, "server", "verify", "source"), test: true},
}

// pure lists the packages that see no clock.
var pure = []string{"family", "client", "session", "wire", "feed"}

// mayCompareSecrets lists the packages that may import crypto/subtle, each in one file: the place where it compares.
var mayCompareSecrets = []string{"client", "keys", "session", "user", "wire", "server", "admin"}

func join(parts ...any) []string {
	var all []string
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			all = append(all, p)
		case []string:
			all = append(all, p...)
		}
	}
	return all
}

func rowOf(pkg string) (row, bool) {
	if r, ok := lattice[pkg]; ok {
		return r, true
	}
	for p := pkg; p != "."; p = path.Dir(p) {
		if r, ok := lattice[p+"/..."]; ok {
			return r, true
		}
	}
	return row{}, false
}

type pkg struct {
	Rel     string // "." or "server/page"
	Name    string
	Doc     string
	GoFiles []string // none where all files are tests
	Imports []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out := run(t, "go", "list", "-e", "-json=ImportPath,Name,Doc,GoFiles,Imports", "./...")
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p struct {
			ImportPath, Name, Doc string
			GoFiles, Imports      []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, pkg{rel(p.ImportPath), p.Name, p.Doc, p.GoFiles, p.Imports})
	}
	if len(all) < 2 {
		t.Fatal("go list found no packages: have they moved?")
	}
	return all
}

// rel turns an import path of this module into a path below its root.
func rel(importPath string) string {
	if importPath == module {
		return "."
	}
	return strings.TrimPrefix(importPath, module+"/")
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return out
}

// tree returns the files that are, or are about to be, part of the repository, by slash-separated path.
func tree(t *testing.T) []string {
	t.Helper()
	var files []string
	for name := range strings.SplitSeq(string(run(t, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")), "\x00") {
		if fi, err := os.Stat(name); err == nil && fi.Mode().IsRegular() {
			files = append(files, name)
		}
	}
	if len(files) == 0 {
		t.Fatal("git lists no files: is this a work tree?")
	}
	return files
}

type source struct {
	name string // slash-separated path
	pkg  string // its directory, "." for the root
	test bool   // a _test.go file
	raw  []byte
	fset *token.FileSet
	ast  *ast.File
}

func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.name, s.fset.Position(n.Pos()).Line)
}

// sources returns the Go files of this module; other modules below it keep house themselves.
func sources(t *testing.T) []source {
	t.Helper()
	files := tree(t)
	all, err := parsed(files)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no Go files: have they moved?")
	}
	return all
}

// parsed parses the files at its first call and hands out the same trees afterwards: nobody changes them.
var parsed = func() func([]string) ([]source, error) {
	var once sync.Once
	var all []source
	var err error
	return func(files []string) ([]source, error) {
		once.Do(func() { all, err = parse(files) })
		return all, err
	}
}()

func parse(files []string) ([]source, error) {
	var nested []string
	for _, name := range files {
		if dir := path.Dir(name); path.Base(name) == "go.mod" && dir != "." {
			nested = append(nested, dir+"/")
		}
	}
	var all []source
	for _, name := range files {
		if path.Ext(name) != ".go" || strings.Contains(name, "testdata/") ||
			slices.ContainsFunc(nested, func(dir string) bool { return strings.HasPrefix(name, dir) }) {
			continue
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		s := source{name: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), raw: raw, fset: token.NewFileSet()}
		// Object resolution tells a local variable from a package-level one without type checking the world.
		s.ast, err = parser.ParseFile(s.fset, name, raw, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// shipped leaves out tests and the packages that serve them.
func shipped(all []source) []source {
	return slices.DeleteFunc(slices.Clone(all), func(s source) bool {
		r, _ := rowOf(s.pkg)
		return s.test || r.test
	})
}

func TestImportsFollowTheLattice(t *testing.T) {
	for _, p := range packages(t) {
		r, ok := rowOf(p.Rel)
		if !ok {
			t.Errorf("%s: a new package needs a row in the lattice of arch_test.go (DESIGN.md §8)", p.Rel)
			continue
		}
		for _, imp := range p.Imports {
			switch {
			case imp == module || strings.HasPrefix(imp, module+"/"):
				if to := rel(imp); !slices.Contains(r.inside, to) && !strings.HasPrefix(to, "internal/") {
					t.Errorf("%s imports %s; it may import %v of this module", p.Rel, to, r.inside)
				}
			case r.std == nil:
			case strings.Contains(strings.Split(imp, "/")[0], "."):
				t.Errorf("%s imports %s; a pure package uses the standard library alone", p.Rel, imp)
			case !slices.Contains(r.std, imp):
				t.Errorf("%s imports %s; a pure package may import: %s", p.Rel, imp, strings.Join(r.std, " "))
			}
		}
	}
	for name, r := range lattice {
		for _, in := range r.inside {
			if to, ok := rowOf(in); !ok || to.test && !r.test {
				t.Errorf("the lattice lets %s import %s, which has no row or serves tests only", name, in)
			}
		}
	}
}

func TestPurePackagesSeeNoClockAndWriteNoLog(t *testing.T) {
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "NewTimer", "NewTicker", "Tick"}
	looked := 0
	for _, s := range shipped(sources(t)) {
		if !slices.Contains(pure, s.pkg) {
			continue
		}
		looked++
		ast.Inspect(s.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok || x.Obj != nil {
				return true
			}
			if x.Name == "time" && slices.Contains(clocks, sel.Sel.Name) {
				t.Errorf("%s: time.%s in a pure package: take the time as an argument", s.at(n), sel.Sel.Name)
			}
			if x.Name == "slog" && !slices.Contains([]string{"Value", "StringValue", "LogValuer"}, sel.Sel.Name) {
				t.Errorf("%s: slog.%s in a pure package: return what the caller should log", s.at(n), sel.Sel.Name)
			}
			return true
		})
	}
	if looked == 0 {
		t.Fatal("no pure package: have they moved?")
	}
}

func TestPackagesAreNounsWithAContract(t *testing.T) {
	bad := []string{"util", "utils", "common", "models", "types", "manager", "pkg", "helper", "helpers", "misc", "base", "shared"}
	for _, p := range packages(t) {
		if slices.Contains(bad, p.Name) || slices.ContainsFunc(strings.Split(p.Rel, "/"), func(dir string) bool { return slices.Contains(bad, dir) }) {
			t.Errorf("%s: a package is a noun of the domain (STYLE 7.1), not %q", p.Rel, p.Name)
		}
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s: no package comment; say what the package is and what it refuses to know (STYLE 7.31)", p.Rel)
		}
	}
}

func TestNoInitAndNoChangingPackageVariables(t *testing.T) {
	all := shipped(sources(t))
	vars := map[string]map[string]bool{} // package → names of its variables
	for _, s := range all {
		if vars[s.pkg] == nil {
			vars[s.pkg] = map[string]bool{}
		}
		for _, d := range s.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.Name == "init" && d.Recv == nil {
					t.Errorf("%s: func init (STYLE §6 rule 6)", s.at(d))
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				for _, sp := range d.Specs {
					v := sp.(*ast.ValueSpec)
					for _, n := range v.Names {
						vars[s.pkg][n.Name] = true
					}
					// A lock, pool or atomic at package level is there to guard something that changes.
					if x, ok := unparen(v.Type).(*ast.SelectorExpr); ok {
						if p, ok := x.X.(*ast.Ident); ok && (p.Name == "sync" || p.Name == "atomic") {
							t.Errorf("%s: package-level %s.%s: keep state in a value (STYLE §6 rule 6)", s.at(v), p.Name, x.Sel.Name)
						}
					}
				}
			}
		}
	}
	for _, s := range all {
		check := func(n ast.Node, lhs ast.Expr) {
			id := rootOf(lhs)
			if id == nil || id.Name == "_" || !vars[s.pkg][id.Name] {
				return
			}
			if id.Obj != nil && id.Obj != s.ast.Scope.Lookup(id.Name) {
				return // a local of the same name
			}
			t.Errorf("%s: %s is a package-level variable and changes here (STYLE §6 rule 6)", s.at(n), id.Name)
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, l := range n.Lhs {
						check(n, l)
					}
				}
			case *ast.IncDecStmt:
				check(n, n.X)
			case *ast.RangeStmt:
				if n.Tok == token.ASSIGN {
					check(n, n.Key)
					check(n, n.Value)
				}
			}
			return true
		})
	}
}

func unparen(e ast.Expr) ast.Expr {
	if e == nil {
		return nil
	}
	if s, ok := e.(*ast.StarExpr); ok {
		return unparen(s.X)
	}
	return ast.Unparen(e)
}

// rootOf returns x for x, x.f, x[i], *x and mixtures, and nil for anything else.
func rootOf(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

func TestInterfacesAreFewAndSmall(t *testing.T) {
	lines, found := 0, []string{}
	for _, s := range shipped(sources(t)) {
		lines += bytes.Count(s.raw, []byte("\n"))
		ast.Inspect(s.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			i, ok := spec.Type.(*ast.InterfaceType)
			if !ok {
				return true
			}
			methods := 0
			for _, f := range i.Methods.List {
				if _, ok := f.Type.(*ast.FuncType); ok {
					methods += len(f.Names)
				} else if id, ok := f.Type.(*ast.Ident); ok && id.Obj == nil {
					methods++ // an interface of another file; at least one method
				}
			}
			if methods == 0 {
				return true // a constraint, not a seam
			}
			found = append(found, s.at(n)+" "+spec.Name.Name)
			if methods > 5 {
				t.Errorf("%s: %s has %d methods; 5 are the limit (STYLE §6 rule 3)", s.at(n), spec.Name.Name, methods)
			}
			return true
		})
	}
	if budget := 2 + 2*lines/1000; len(found) > budget {
		t.Errorf("%d interfaces in %d lines; the budget is %d (STYLE §6 rule 3):\n%s", len(found), lines, budget, strings.Join(found, "\n"))
	}
}

func TestNoOptionFunctions(t *testing.T) {
	for _, s := range shipped(sources(t)) {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && strings.HasSuffix(strings.ToLower(spec.Name.Name), "option") {
				if _, ok := spec.Type.(*ast.FuncType); ok {
					t.Errorf("%s: %s: settings are a struct, not functions (STYLE 7.29)", s.at(n), spec.Name.Name)
				}
			}
			return true
		})
	}
}

func TestSecretsAreComparedInOnePlace(t *testing.T) {
	places := map[string][]string{}
	for _, s := range shipped(sources(t)) {
		for _, imp := range s.ast.Imports {
			if imp.Path.Value == `"crypto/subtle"` {
				places[s.pkg] = append(places[s.pkg], s.name)
			}
		}
	}
	for p, files := range places {
		if !slices.Contains(mayCompareSecrets, p) {
			t.Errorf("%s imports crypto/subtle in %v; secrets are compared in %v (STYLE 7.27)", p, files, mayCompareSecrets)
		}
		if len(files) > 1 {
			t.Errorf("%s imports crypto/subtle in %v; one function of one file compares (STYLE 7.27)", p, files)
		}
	}
	if len(places) == 0 {
		t.Error("nobody compares secrets in constant time: has the import moved?")
	}
}

// A skipped test looks like a passed one: what cannot run fails and says why.
func TestNoTestIsSkipped(t *testing.T) {
	looked := 0
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		looked++
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
				t.Errorf("%s: %s: what cannot run must fail with the reason", s.at(n), sel.Sel.Name)
			}
			return true
		})
	}
	jsTest := regexp.MustCompile(`\.test\.m?[jt]s$`)
	for _, name := range tree(t) {
		if !jsTest.MatchString(name) {
			continue
		}
		looked++
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(`\b(test|it|describe|t)\.(skip|only|todo)\b|\b(skip|todo|only):\s*(true|['"])`).Find(raw); m != nil {
			t.Errorf("%s: %s: what cannot run must fail with the reason", name, m)
		}
	}
	if looked == 0 {
		t.Fatal("no test files: have they moved?")
	}
}

func TestEveryGoFileIsFormatted(t *testing.T) {
	args := []string{"-l"}
	for _, name := range tree(t) {
		if path.Ext(name) == ".go" {
			args = append(args, name)
		}
	}
	if len(args) == 1 {
		t.Fatal("no Go files: have they moved?")
	}
	if out := run(t, "gofmt", args...); len(out) > 0 {
		t.Errorf("run gofmt -w on:\n%s", out)
	}
}

// What is committed is finished, and is the same on every machine.
func TestNothingUnfinishedOrLocalIsCommitted(t *testing.T) {
	// Spelled in halves, so that this file passes too. The words are looked for first: a regular expression over every
	// byte of the tree takes seconds.
	type finding struct {
		what  string
		words []string
		re    *regexp.Regexp
	}
	findings := []finding{
		{"unfinished work", []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"}, regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)},
		{
			"a path of one machine", []string{"/root/", "/home/", "/Users/", "/tmp/"},
			regexp.MustCompile(`(?:^|[\s"'=(:\x60])/(work|farm|root|home/[a-z]+|Users)/|/tmp/(hl|bash_jobs)\b`),
		},
		{
			"a registry host", []string{"registry.", "proxy.", "debian.org", `"resolved":`},
			regexp.MustCompile(`"resolved":|registry\.` + `(npmjs|yarnpkg)|proxy\.` + `golang\.org|deb\.` + `debian\.org`),
		},
	}
	looked := 0
	for _, name := range tree(t) {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "arch_test.go" || bytes.IndexByte(raw[:min(len(raw), 8000)], 0) >= 0 {
			continue
		}
		looked++
		for _, f := range findings {
			if !slices.ContainsFunc(f.words, func(w string) bool { return bytes.Contains(raw, []byte(w)) }) {
				continue
			}
			for i, line := range bytes.Split(raw, []byte("\n")) {
				if m := f.re.Find(line); m != nil {
					t.Errorf("%s:%d: %s: %q", name, i+1, f.what, m)
				}
			}
		}
	}
	if looked < 5 {
		t.Fatalf("looked at %d text files: have they moved?", looked)
	}
}

// directOf returns the direct dependencies that a go.mod names.
func directOf(t *testing.T, file string) []string {
	t.Helper()
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(run(t, "go", "mod", "edit", "-json", file), &mod); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	return direct
}

func TestDependenciesAreFewAndExplained(t *testing.T) {
	raw, err := os.ReadFile("DEPENDENCIES.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]string{} // module → section
	section := ""
	for line := range strings.SplitSeq(string(raw), "\n") {
		if h, ok := strings.CutPrefix(line, "## "); ok {
			section = h
		}
		if m := regexp.MustCompile("^- `([^`]+)` — .{20,}").FindStringSubmatch(line); m != nil {
			if explained[m[1]] != "" {
				t.Errorf("DEPENDENCIES.md: %s has two lines", m[1])
			}
			explained[m[1]] = section
		} else if strings.HasPrefix(line, "- ") {
			t.Errorf("DEPENDENCIES.md: %q is not of the form: - `module` — what for; who keeps it and licence; what we would do without it", line)
		}
	}

	const inServer, inTests = "In the server", "In tests only"
	used := map[string]bool{}
	mods := directOf(t, "go.mod")
	for _, m := range mods {
		used[m] = true
		if explained[m] == "" {
			t.Errorf("DEPENDENCIES.md has no line for %s, which go.mod requires", m)
		}
		if regexp.MustCompile(`testify|gomock|/mock|mockery|gorm|/ent$|/bun$|xorm|sqlboiler|/fx$|/dig$|google/wire|logrus|/zap$`).MatchString(m) {
			t.Errorf("%s: no mocks, no assertion library, no ORM, no container (STYLE §6 rule 10)", m)
		}
	}

	// A module that shipped code imports is in the server, whatever its line claims.
	ships := map[string]string{}
	for _, s := range shipped(sources(t)) {
		for _, imp := range s.ast.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			best := ""
			for _, m := range mods {
				if (p == m || strings.HasPrefix(p, m+"/")) && len(m) > len(best) {
					best = m
				}
			}
			if best != "" {
				ships[best] = s.name
			}
		}
	}
	for m, where := range ships {
		if explained[m] != inServer {
			t.Errorf("DEPENDENCIES.md: %s belongs under %q: %s imports it", m, inServer, where)
		}
	}
	if len(ships) > 8 {
		t.Errorf("%d direct dependencies in the server; 8 are the limit (STYLE §6 rule 11): %v", len(ships), slices.Sorted(maps.Keys(ships)))
	}

	// Other modules and npm packages of the tree serve tests.
	for _, name := range tree(t) {
		var direct []string
		switch {
		case path.Base(name) == "go.mod" && name != "go.mod":
			direct = directOf(t, name)
		case path.Base(name) == "package.json":
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var p struct{ Dependencies, DevDependencies map[string]string }
			if err := json.Unmarshal(raw, &p); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(p.Dependencies) > 0 {
				t.Errorf("%s: dependencies %v: what we ship to browsers has none", name, p.Dependencies)
			}
			direct = slices.Collect(maps.Keys(p.DevDependencies))
			for m, v := range p.DevDependencies {
				if !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(v) {
					t.Errorf("%s: %s %s: pin one version", name, m, v)
				}
			}
		}
		for _, m := range direct {
			used[m] = true
			if explained[m] == "" {
				t.Errorf("DEPENDENCIES.md has no line for %s, which %s requires", m, name)
			}
		}
	}
	for m, section := range explained {
		if !used[m] {
			t.Errorf("DEPENDENCIES.md has a line for %s, which nothing requires", m)
		}
		if section == inTests && ships[m] != "" || section != inServer && section != inTests {
			t.Errorf("DEPENDENCIES.md: %s stands under %q", m, section)
		}
	}
}

func TestMakefileKnowsEveryModule(t *testing.T) {
	raw, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^MODULES = (.*)$`).FindSubmatch(raw)
	if m == nil {
		t.Fatal("Makefile: no line MODULES = …")
	}
	var want []string
	for _, name := range tree(t) {
		if path.Base(name) == "go.mod" {
			want = append(want, path.Dir(name))
		}
	}
	got := strings.Fields(string(m[1]))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("Makefile: MODULES = %v, but the tree has %v", got, want)
	}
}

// The list of matrix rows is data for scripts/matrix; tests name the rows they prove.
func TestMatrixIDs(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "matrix-ids.txt"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, line := range strings.Split(strings.TrimRight(string(raw), "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 3 || !regexp.MustCompile(`^[A-K]\d\d[a-z]?$`).MatchString(f[0]) || f[1] == "" {
			t.Errorf("matrix-ids.txt:%d: %q: want id, group and reason, tab-separated", i+1, line)
		}
		if seen[f[0]] {
			t.Errorf("matrix-ids.txt:%d: %s stands twice", i+1, f[0])
		}
		seen[f[0]] = true
	}
	if len(seen) != 118 {
		t.Errorf("%d rows; the matrix has 118 for a first release", len(seen))
	}
	// A misspelt id proves nothing and is counted nowhere.
	names := regexp.MustCompile(`func Test\w*?(RT_\w*)`)
	for _, s := range sources(t) {
		if !s.test || s.name == "arch_test.go" {
			continue
		}
		for _, m := range names.FindAllSubmatch(s.raw, -1) {
			if !regexp.MustCompile(`^RT_[A-K]\d\d[a-z]?(_|$)`).Match(m[1]) {
				t.Errorf("%s: %s: want RT_<id>_Sentence", s.name, m[1])
			}
		}
	}
}
