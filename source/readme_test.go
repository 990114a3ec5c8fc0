package source_test

import (
	"os"
	"strings"
	"testing"
)

// The code of the README is the body of the first example, line by line.
func TestREADMEIsTheExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, ok := strings.Cut(string(readme), "```go\n")
	code, _, ok2 := strings.Cut(code, "```")
	if !ok || !ok2 || strings.Count(code, "\n") > 22 {
		t.Fatal("no example of 20 lines in the README: has it moved?")
	}
	var body strings.Builder
	for line := range strings.Lines(code) {
		if line != "\n" {
			body.WriteString("\t")
		}
		body.WriteString(line)
	}
	if !strings.Contains(string(example), "func Example() {\n"+body.String()+"}\n") {
		t.Error("the README's example is not that of example_test.go")
	}
}
