package family_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/heirloom-auth/heirloom/family"
)

// designed is the list of DESIGN §9, in its order, and before it the reason that each
// life begins with.
const designed = `issued
rotated repeated_retry repeated_possession repeated_window repeated_until_used recovered reuse superseded expired_idle
expired_absolute revoked_client revoked_user revoked_admin revoked_logout revoked_password_change user_disabled
client_disabled evicted binding_mismatch foreign_client invalid_scope invalid_target unknown unavailable`

func TestReasonsAreTheDesignsList(t *testing.T) {
	var words []string
	for i, r := range family.Reasons() {
		// The numbers are stored: a word's number never changes, new ones come last.
		if int(r) != i+1 || !r.Valid() {
			t.Errorf("%v is number %d, want %d", r, r, i+1)
		}
		words = append(words, r.String())
		back, err := family.ParseReason(r.String())
		if err != nil || back != r {
			t.Errorf("ParseReason(%q) = %v, %v", r.String(), back, err)
		}
		text, err := json.Marshal(struct{ R family.Reason }{r})
		if err != nil || string(text) != `{"R":"`+r.String()+`"}` {
			t.Errorf("%v in JSON: %s, %v", r, text, err)
		}
		var v struct{ R family.Reason }
		if err := json.Unmarshal(text, &v); err != nil || v.R != r {
			t.Errorf("%s: %v, %v", text, v.R, err)
		}
	}
	if want := strings.Fields(designed); !slices.Equal(words, want) {
		t.Errorf("\n got %v\nwant %v", words, want)
	}
	for _, bad := range []family.Reason{0, family.Reason(len(words) + 1), 255} {
		if bad.Valid() || !strings.HasPrefix(bad.String(), "reason(") {
			t.Errorf("reason %d: valid %v, %q", uint8(bad), bad.Valid(), bad.String())
		}
	}
	for _, bad := range []string{"", "Reuse", "reused", "reason(3)", "reuse "} {
		if r, err := family.ParseReason(bad); err == nil || r != 0 {
			t.Errorf("ParseReason(%q) = %v, %v", bad, r, err)
		}
	}
	var none struct{ R family.Reason }
	if b, err := json.Marshal(none); err != nil || string(b) != `{"R":""}` {
		t.Errorf("no reason in JSON: %s, %v", b, err)
	}
	if err := json.Unmarshal([]byte(`{"R":""}`), &none); err != nil || none.R != 0 {
		t.Errorf("empty in JSON: %v, %v", none.R, err)
	}
	if err := json.Unmarshal([]byte(`{"R":"x"}`), &none); err == nil {
		t.Error("x in JSON: no error")
	}
}

// TestReasonsAreDocumented holds docs/reasons.md to the list: one section for each, in
// order, that says what happened and what each of the three should do, and each word
// once in the table of groups.
func TestReasonsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "\n## ")
	var sections []string
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		word, body, _ := strings.Cut(section, "\n")
		sections = append(sections, word)
		for _, part := range []string{"\nWhat happened: ", "\nUser: ", "\nClient: ", "\nOperator: "} {
			if strings.Count("\n"+body, part) != 1 {
				t.Errorf("section %s has %q %d times, want once", word, strings.TrimSpace(part), strings.Count("\n"+body, part))
			}
		}
	}
	var words, grouped []string
	for _, r := range family.Reasons() {
		words = append(words, r.String())
	}
	for row := range strings.Lines(head) {
		if !strings.HasPrefix(row, "| a ") {
			continue
		}
		for i, cell := range strings.Split(row, "`") {
			if i%2 == 1 {
				grouped = append(grouped, cell)
			}
		}
	}
	if len(words) == 0 || !slices.Equal(sections, words) {
		t.Errorf("sections\n got %v\nwant %v", sections, words)
	}
	slices.Sort(words)
	slices.Sort(grouped)
	if !slices.Equal(grouped, words) {
		t.Errorf("groups\n got %v\nwant %v", grouped, words)
	}
}
