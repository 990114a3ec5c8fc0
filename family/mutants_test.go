package family_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var runMutants = flag.Bool("mutants", false, "plant each bug of the list and see that the tests named beside it find it (minutes)")

// mutants are bugs, each a change to one line of family or client, with tests that
// find it. They are why the tests are believed: without -mutants only their places
// are checked, with it each is compiled in by an overlay and the tests are run.
var mutants = []struct {
	what, file, old, new string
	by                   []string // tests that must fail; others may, too
}{
	// The rule table of DESIGN §2, row by row.
	{"dead families are judged", "present.go", "if why, refused := s.Refuses(p, now, t); refused {", "if why, refused := s.Refuses(p, now, t); refused && p.Leeway == 77 {", []string{"TestTranscripts", "TestStatesOfNoStatusAreDead", "TestPresentAgreesWithTheModel"}},
	{"the last generation wraps", "present.go", "case g == lastGeneration &&", "case p.Leeway == 77 &&", []string{"TestTranscripts"}},
	{"newer than the head is reuse", "present.go", "case g > h:", "case g > h && p.Leeway == 77:", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a code never rotates under never", "present.go", "p.Rotation == Never && g > 0:", "p.Rotation == Never:", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"never rotates all the same", "present.go", "case g == h && p.Rotation == Never", "case g == h && p.Rotation == Never && p.Leeway == 77", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a proven retry of any generation repeats", "present.go", "case g == h-1 && proof.Retry != (RetryHash{}) &&", "case proof.Retry != (RetryHash{}) &&", []string{"TestPresentAgreesWithTheModel"}},
	{"no key proves a retry of no key", "present.go", "proof.Retry != (RetryHash{}) && proof.Retry == s.RetryHash", "proof.Retry == s.RetryHash", []string{"TestTranscripts", "TestUnpromisedClientsAreSignedOut", "TestPresentAgreesWithTheModel"}},
	{"any key proves a retry", "present.go", "proof.Retry == s.RetryHash:", "s.RetryHash != (RetryHash{}):", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a retry is never proven", "present.go", "proof.Retry == s.RetryHash:", "proof.Retry == s.RetryHash && p.Leeway == 77:", []string{"TestTranscripts", "TestHonestClientsStaySignedIn", "TestPresentAgreesWithTheModel"}},
	{"possession forgives a code", "present.go", "case g > 0 && proof.Possession", "case proof.Possession", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"possession forgives under strict", "present.go", "proof.Possession && !p.Strict():", "proof.Possession:", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"possession is not asked for", "present.go", "proof.Possession && !p.Strict():", "!p.Strict():", []string{"TestTranscripts", "TestUnpromisedClientsAreSignedOut", "TestPresentAgreesWithTheModel"}},
	{"possession is no excuse", "present.go", "proof.Possession && !p.Strict():", "proof.Possession && p.Leeway == 77:", []string{"TestTranscripts", "TestHonestClientsStaySignedIn", "TestPresentAgreesWithTheModel"}},
	{"the window has no floor", "present.go", "g >= s.Floor && leeway > 0", "leeway > 0", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"the floor itself is outside", "present.go", "g >= s.Floor && leeway > 0", "g > s.Floor && leeway > 0", []string{"TestTranscripts", "TestHonestClientsStaySignedIn", "TestPresentAgreesWithTheModel"}},
	{"the window is 1 ms too long", "present.go", "now < s.WindowStart.Add(leeway) && presenter", "now <= s.WindowStart.Add(leeway) && presenter", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"the window is 1 ms too short", "present.go", "now < s.WindowStart.Add(leeway) && presenter", "now+1 < s.WindowStart.Add(leeway) && presenter", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"the window asks for no presenter", "present.go", "now < s.WindowStart.Add(leeway) && presenter:", "now < s.WindowStart.Add(leeway):", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"strict has a window before its start", "present.go", "g >= s.Floor && leeway > 0 &&", "g >= s.Floor &&", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a predecessor has no leeway of its own", "present.go", "g == h-1 && s.WindowStart != 0 &&", "g == h-1 && p.Leeway == 77 &&", []string{"TestTranscripts", "TestHonestClientsStaySignedIn", "TestPresentAgreesWithTheModel"}},
	{"every old token has the last one's leeway", "present.go", "case g > 0 && g == h-1 && s.WindowStart != 0 &&", "case g > 0 && s.WindowStart != 0 &&", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a predecessor's leeway is 1 ms too long", "present.go", "now < s.LastUsed.Add(leeway) && presenter", "now <= s.LastUsed.Add(leeway) && leeway > 0 && presenter", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a predecessor's leeway is 1 ms too short", "present.go", "now < s.LastUsed.Add(leeway) && presenter", "now+1 < s.LastUsed.Add(leeway) && presenter", []string{"TestTranscripts"}},
	{"a predecessor's leeway asks for no presenter", "present.go", "now < s.LastUsed.Add(leeway) && presenter:", "now < s.LastUsed.Add(leeway):", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a predecessor's leeway is open before it begins", "present.go", "s.LastUsed <= now && now < s.LastUsed", "now < s.LastUsed", []string{"TestPresentAgreesWithTheModel"}},
	{"a predecessor's leeway slides", "present.go", "return s, Verdict{Repeat, RepeatedWindow}\n	case g > 0 && g == h-1 && p.UntilUsed", "s.LastUsed = now\n		return s, Verdict{Repeat, RepeatedWindow}\n	case g > 0 && g == h-1 && p.UntilUsed", []string{"TestTranscripts"}},
	{"a use that retired nothing is a retirement", "present.go", "	s.WindowStart, s.Floor = 0, 0\n	s.LastUsed = now", "	s.LastUsed = now", []string{"TestTranscripts"}},
	{"never asks for no possession", "present.go", "g > 0 && !proof.Possession:", "g > 0 && !proof.Possession && p.Leeway == 77:", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"never asks a code for possession", "present.go", "p.Rotation == Never && g > 0 && !proof.Possession:", "p.Rotation == Never && !proof.Possession:", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"until_used forgives a code", "present.go", "case g > 0 && g == h-1 && p.UntilUsed", "case g == h-1 && p.UntilUsed", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"until_used forgives any generation", "present.go", "g == h-1 && p.UntilUsed && presenter", "p.UntilUsed && presenter", []string{"TestTranscripts", "TestHonestClientsStaySignedIn", "TestPresentAgreesWithTheModel"}},
	{"until_used asks for no presenter", "present.go", "p.UntilUsed && presenter:", "p.UntilUsed:", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"until_used is the rule", "present.go", "g == h-1 && p.UntilUsed && presenter", "g == h-1 && presenter", []string{"TestTranscripts", "TestUnpromisedClientsAreSignedOut", "TestPresentAgreesWithTheModel"}},
	{"a presenter is always asked for", "present.go", "presenter := !p.SamePresenter || ", "presenter := ", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"reject forgives a code", "present.go", "case p.OnReuse == RejectReuse && g > 0:", "case p.OnReuse == RejectReuse:", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"reject revokes", "present.go", "case p.OnReuse == RejectReuse && g > 0:", "case p.OnReuse == RejectReuse && g == 0:", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"reuse leaves the family alive", "present.go", "next.Status, next.Reason = Revoked, Reused", "next.Reason = Reused", []string{"TestTranscripts", "TestUnpromisedClientsAreSignedOut", "TestPresentAgreesWithTheModel"}},
	{"reuse has another reason", "present.go", "next.Status, next.Reason = Revoked, Reused", "next.Status, next.Reason = Revoked, RevokedAdmin", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	// What a rotation leaves behind.
	{"a code opens a window", "present.go", "	case g == 0:\n		// A code opens", "	case g == 0 && p.Leeway == 77:\n		// A code opens", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"the window slides", "present.go", "leeway == 0, now >= s.WindowStart.Add(leeway):", "leeway == 0, now >= s.WindowStart:", []string{"TestTranscripts", "TestHonestClientsStaySignedIn", "TestPresentAgreesWithTheModel"}},
	{"a burst is 1 ms too long", "present.go", "leeway == 0, now >= s.WindowStart.Add(leeway):", "leeway == 0, now > s.WindowStart.Add(leeway):", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"strict keeps an old burst", "present.go", "s.WindowStart == 0, leeway == 0, now", "s.WindowStart == 0, now", []string{"TestTranscripts"}},
	{"a recovery keeps the old burst", "present.go", "case why == Recovered, s.WindowStart == 0", "case s.WindowStart == 0", []string{"TestPresentAgreesWithTheModel"}},
	{"the floor stays for ever", "present.go", "s.WindowStart, s.Floor = now, g", "s.WindowStart = now", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a recovery rotates the store's head", "present.go", "s.Head, s.HeadKey = g+1, proof.Key", "s.Head, s.HeadKey = s.Head+1, proof.Key", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"the successor keeps the old MAC key", "present.go", "s.Head, s.HeadKey = g+1, proof.Key", "s.Head = g+1", []string{"TestPresentAgreesWithTheModel"}},
	{"the retry key of before stays", "present.go", "s.RetryHash, s.Presenter = proof.Retry, proof.Presenter", "s.Presenter = proof.Presenter", []string{"TestTranscripts", "TestHonestClientsStaySignedIn", "TestPresentAgreesWithTheModel"}},
	{"the presenter of before stays", "present.go", "s.RetryHash, s.Presenter = proof.Retry, proof.Presenter", "s.RetryHash = proof.Retry", []string{"TestTranscripts", "TestHonestClientsStaySignedIn", "TestPresentAgreesWithTheModel"}},
	{"the last use goes back with the clock", "present.go", "s.LastUsed = max(now, s.LastUsed)", "s.LastUsed = now", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a rotation does not renew idle", "present.go", "		s.IdleEnds = s.LastUsed.Add(p.Idle)", "		s.IdleEnds = s.IssuedAt.Add(p.Idle)", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"never writes each time", "present.go", "if now.Sub(s.LastUsed) < step {", "if now < s.LastUsed {", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"never forgets short idle times", "present.go", "step = min(step, p.Idle/10)", "step = max(step, p.Idle/10)", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"never does not renew idle", "present.go", "		s.IdleEnds = now.Add(p.Idle)", "		s.IdleEnds = s.IssuedAt.Add(p.Idle)", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	// Ends.
	{"ends are 1 ms late", "family.go", "s.Deadline(p); end != 0 && now >= end {\n		return why", "s.Deadline(p); end != 0 && now > end {\n		return why", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a shortened idle waits", "family.go", "idle = earliest(idle, s.LastUsed.Add(p.Idle))", "idle = earliest(idle, s.LastUsed.Add(365*24*time.Hour))", []string{"TestTranscripts", "TestRT_E12_NothingOverflows", "TestPresentAgreesWithTheModel"}},
	{"a lengthened idle is in force at once", "family.go", "	idle := s.IdleEnds\n", "	idle := Time(0)\n", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a shortened absolute waits", "family.go", "	if p.Absolute > 0 {\n		return earliest(s.Ends, s.IssuedAt.Add(p.Absolute))\n	}\n	return s.Ends", "	return s.Ends", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a code lives as long as a token", "family.go", "idle = earliest(idle, s.IssuedAt.Add(p.CodeTTL))", "idle = earliest(0, s.IssuedAt.Add(p.Idle))", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a shortened code life waits", "family.go", "idle = earliest(idle, s.IssuedAt.Add(p.CodeTTL))", "idle = earliest(idle, s.IssuedAt.Add(10*time.Minute))", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"of two ends the wrong one is named", "family.go", "abs <= idle) {", "abs < idle) {", []string{"TestTranscripts"}},
	{"the session's end is forgotten", "family.go", "s.Ends = earliest(s.Ends, until)", "s.Ends = earliest(s.Ends, 0)", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"never is the earliest end", "family.go", "if a == 0 || (b != 0 && b < a) {", "if a == 0 || b < a {", []string{"TestTranscripts", "TestRT_E12_NothingOverflows", "TestPresentAgreesWithTheModel"}},
	{"expired comes before revoked", "family.go", "	if s.Status != Live {\n		return s.Reason, true\n	}\n	if end, why", "	if end, why := s.Deadline(p); end != 0 && now >= end {\n		return why, true\n	}\n	if s.Status != Live {\n		return s.Reason, true\n	}\n	if end, why", []string{"TestTranscripts", "TestRevokeKeepsTheFirstReason", "TestPresentAgreesWithTheModel"}},
	{"a stale idle end refuses a recovery", "family.go", "if t.Generation <= s.Head || s.Status != Live {", "if t.Generation < 1<<31 {", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a recovery outlives the absolute end", "family.go", "s.absolute(p); end != 0 && now >= end {", "s.absolute(p); end != 0 && now >= end && p.Leeway == 77 {", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a recovery's end is 1 ms late", "family.go", "s.absolute(p); end != 0 && now >= end {", "s.absolute(p); end != 0 && now > end {", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a dead family recovers", "family.go", "if t.Generation <= s.Head || s.Status != Live {", "if t.Generation <= s.Head {", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	{"a second revocation wins", "family.go", "	if s.Status != Live {\n		return s\n	}\n	s = s.note(now, s.Head, why, from)", "	s = s.note(now, s.Head, why, from)", []string{"TestTranscripts", "TestRevokeKeepsTheFirstReason", "TestPresentAgreesWithTheModel"}},
	{"narrow widens", "family.go", "narrowed := s.Grant.Scope.And(keep)", "narrowed := keep", []string{"TestTranscripts", "TestNarrowMakesANewGrant", "TestPresentAgreesWithTheModel"}},
	{"narrow changes the grant in place", "family.go", "	g := *s.Grant\n	g.Scope = narrowed\n	s.Grant = &g\n", "	s.Grant.Scope = narrowed\n", []string{"TestTranscripts", "TestNarrowMakesANewGrant"}},
	{"the client is told too long a life", "family.go", "		refresh = max(0, end.Sub(now))", "		refresh = max(0, end.Sub(s.LastUsed))", []string{"TestTranscripts", "TestPresentAgreesWithTheModel"}},
	// The token.
	{"a code verifies as a refresh token", "token.go", "if code != (t.Generation == 0) {", "if code && t.Generation != 0 {", []string{"TestVectors", "TestReadAsksNoKeyForWhatIsMisshapen"}},
	{"both kinds have one purpose", "token.go", "return CodePrefix, CodePurpose", "return CodePrefix, RefreshPurpose", []string{"TestVectors"}},
	{"spare bits are ignored", "token.go", "base64.RawURLEncoding.Strict()", "base64.RawURLEncoding", []string{"TestVectors", "TestRT_H02_EveryOtherSpellingIsUnknown"}},
	{"a token may be longer", "token.go", "!has || len(s) != TokenSize {", "!has || len(s) < TokenSize {", []string{"TestVectors"}},
	{"any version is ours", "token.go", "if raw[0] != tokenVersion {", "if raw[0] == 255 {", []string{"TestVectors", "TestRT_H17_WrongPrefixVersionOrTagIsUnknown"}},
	{"the tag is not checked", "token.go", "if !check(key, purpose, raw[:bodyLen], (*[32]byte)(raw[bodyLen:])) {", "if ok := check(key, purpose, raw[:bodyLen], (*[32]byte)(raw[bodyLen:])); !ok && check == nil {", []string{"TestVectors", "TestRT_H02_EveryOtherSpellingIsUnknown"}},
	{"the generation is not tagged", "token.go", "check(key, purpose, raw[:bodyLen],", "check(key, purpose, raw[:bodyLen-4],", []string{"TestVectors"}},
	// The trail.
	{"the slot to be written counts as used", "trail.go", "	s.Trail.Uses[slot] = Use{}\n", "", []string{"TestTrailRemembersTheLastUses"}},
	{"a place in use is overwritten", "trail.go", "			used[u.place%trailLen] = true", "			used[u.place%trailLen] = u.place%3 > 0", []string{"TestKnownPlacesAreKept", "TestTrailFormat", "TestTrailRemembersTheLastUses"}},
	{"places are changed in place", "trail.go", "		places := Places{}\n		if s.Places != nil {\n			places = *s.Places\n		}\n		places[place] = from\n		s.Places = &places", "		if s.Places == nil {\n			s.Places = &Places{}\n		}\n		s.Places[place] = from", []string{"TestTrailRemembersTheLastUses"}},
	{"a place beyond the list is read", "trail.go", "u[10] >= byte(reasons) || u[11] >= trailLen", "u[10] >= byte(reasons)", []string{"TestParseTrailRefuses"}},
	// The steps.
	{"a conflict is an error", "keeper.go", "if !errors.Is(err, ErrConflict) {", "if err != nil {", []string{"TestParallelRefreshesRotateOnce", "TestStaleDecisionsAreJudgedAgain"}},
	{"a conflict is success", "keeper.go", "		if err == nil {\n			next.Version++", "		if err == nil || errors.Is(err, ErrConflict) {\n			next.Version++", []string{"TestParallelRefreshesRotateOnce", "TestStaleDecisionsAreJudgedAgain"}},
	{"an unknown outcome is handed out", "keeper.go", "return State{}, Verdict{}, Standing{}, fmt.Errorf(\"commit family: %w\", err)", "return next, v, standing, fmt.Errorf(\"commit family: %w\", err)", []string{"TestUnknownOutcomesHandOutNothing"}},
	{"a step's state has the version of before", "keeper.go", "			next.Version++\n", "", []string{"TestStepReturnsWhatIsStored"}},
	{"what did not change is written", "keeper.go", "		if next == s {", "		if next == s && v.Act == Refuse {", []string{"TestParallelRefreshesRotateOnce"}},
	{"an unknown end is told", "keeper.go", "	case err != nil:\n		return false, err", "	case err != nil:\n		return ended, err", []string{"TestUnknownOutcomesHandOutNothing"}},
	{"only the first page ends", "keeper.go", "if len(page) < q.Limit {", "if len(page) <= q.Limit {", []string{"TestEndAllEndsThemAll"}},
	// Policies and scopes.
	{"until_used counts as strict", "policy.go", "p.Leeway == 0 && !p.UntilUsed", "p.Leeway == 0", []string{"TestPresentAgreesWithTheModel"}},
	{"browsers ask for no presenter", "policy.go", "		p.SamePresenter = true\n", "", []string{"TestTranscripts", "TestPresetsAreTheDesignsTable"}},
	{"a public client need not rotate", "policy.go", "p.Rotation == Never && !k.Confidential && !k.Constrained", "p.Rotation == Never && k.Browser", []string{"TestRT_E13_NonsenseIsRefusedByName", "TestRFC9700_05_PublicClientsRotateOrAreBound"}},
	{"a browser's token may live for ever", "policy.go", "k.Browser && p.Idle == 0 && p.Absolute == 0", "k.Browser && p.Idle == 0 && p.Absolute < 0", []string{"TestRT_E13_NonsenseIsRefusedByName", "TestRFC10017_02_BrowserTokensEnd"}},
	{"a scope within another by prefix", "scope.go", "if w == word && w != \"\" {", "if strings.HasPrefix(w, word) {", []string{"TestScopeAgreesWithSets"}},
	// Clients.
	{"any path matches on loopback", "../client/redirect.go", "return ok && rest == other", "return ok && rest != \"\" && other != \"\"", []string{"TestRFC6749_06_NearMissesDoNotMatch"}},
	{"the name may go on on loopback", "../client/redirect.go", "err != nil || port == \":0\"", "err != nil && port[0] == ':' || port == \":0\"", []string{"TestRFC6749_06_NearMissesDoNotMatch"}},
	{"user info may be registered", "../client/redirect.go", "case u.User != nil:", "case u.User != nil && u.Host == \"\":", []string{"TestRFC9700_20_RFC8252_02_RegisteredRedirects"}},
	{"plain http may be registered", "../client/redirect.go", "if !loopback(u.Hostname()) {", "if u.Hostname() == \"\" {", []string{"TestCheckRefusesByName", "TestRFC9700_20_RFC8252_02_RegisteredRedirects"}},
	{"a secret is valid at its end", "../client/client.go", "!now.Before(h.Expires)", "now.After(h.Expires)", []string{"TestRT_C05_SecretsOverlap"}},
	{"an empty slot proves", "../client/client.go", "if h.CreatedAt.IsZero() || (", "if (", []string{"TestNothingProvesAClientWithoutSecrets"}},
	{"a shipped secret gets tokens for itself", "../client/client.go", "case c.May(ClientCredentials) && !c.Confidential():", "case c.May(ClientCredentials) && c.Auth == None:", []string{"TestCheckRefusesByName"}},
	{"any port is a way back from sign-out", "../client/client.go", "return slices.Contains(c.PostLogoutRedirectURIs, uri)", "return slices.ContainsFunc(c.PostLogoutRedirectURIs, func(reg string) bool { return matches(reg, uri) })", []string{"TestOIDCRPInitiatedLogout_WayBackIsExact"}},
	{"a shipped secret counts", "../client/client.go", " && c.Preset != \"native\" && c.Preset != \"browser\"", " && c.Preset != \"browser\"", []string{"TestRFC8252_05_ShippedSecretsProveNothing"}},
}

// failed finds the top-level tests that failed in the output of go test.
var failed = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)

func TestMutantsAreFound(t *testing.T) {
	for _, m := range mutants {
		text, err := os.ReadFile(m.file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), m.old); n != 1 {
			t.Errorf("%s: %q is in %s %d times: the list is out of date", m.what, m.old, m.file, n)
			continue
		}
		if len(m.by) == 0 {
			t.Errorf("%s: no test is named", m.what)
		}
		if !*runMutants {
			continue
		}
		t.Run(m.what, func(t *testing.T) {
			dir := t.TempDir()
			changed := filepath.Join(dir, "mutant.go")
			original, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
			if err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string]string{changed: strings.Replace(string(text), m.old, m.new, 1), filepath.Join(dir, "overlay"): string(overlay)} {
				if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := []string{"test", "-count=1", "-vet=off", "-timeout=60s", "-overlay", filepath.Join(dir, "overlay"), "-skip=^TestMutantsAreFound$"}
			if strings.HasPrefix(m.file, "..") {
				args = append(args, filepath.Dir(original))
			} else {
				args = append(args, ".", "-rapid.nofailfile")
			}
			out, err := exec.Command("go", args...).CombinedOutput()
			if err == nil {
				t.Fatal("no test fails")
			}
			var names []string
			for _, match := range failed.FindAllStringSubmatch(string(out), -1) {
				names = append(names, match[1])
			}
			if len(names) == 0 {
				t.Fatalf("the tests did not run: %v\n%s", err, out)
			}
			t.Logf("found by %s", strings.Join(names, " "))
			for _, name := range m.by {
				if !slices.Contains(names, name) {
					t.Errorf("%s does not fail", name)
				}
			}
		})
	}
}
