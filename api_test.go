package heirloom_test

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/api anew")

// libraries are the packages that other programs import.
var libraries = []string{"family", "client", "user", "session", "keys", "memdb", "sqlitedb", "server", "verify", "source"}

// TestTheAPIIsListed makes a change of what others can call visible in review: run
// `go test . -run API -update` and look at the difference.
func TestTheAPIIsListed(t *testing.T) {
	for _, pkg := range libraries {
		t.Run(pkg, func(t *testing.T) {
			out, err := exec.Command("go", "doc", "-short", "./"+pkg).Output()
			if err != nil {
				t.Fatalf("go doc ./%s: %v", pkg, err)
			}
			all, err := exec.Command("go", "doc", "-all", "./"+pkg).Output()
			if err != nil {
				t.Fatalf("go doc -all ./%s: %v", pkg, err)
			}
			got := append(out, methods(all)...)
			file := filepath.Join("testdata", "api", pkg+".txt")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v: run go test . -run API -update", err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the API of %s is not the listed one: run go test . -run API -update and review the difference", pkg)
			}
		})
	}
}

// methods returns the lines of a full documentation that declare methods.
func methods(all []byte) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(all)) {
		if strings.HasPrefix(line, "func (") {
			b.WriteString(line)
		}
	}
	return b.Bytes()
}
