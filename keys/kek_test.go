package keys

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestFileKEKMakesAPrivateFileOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kek")
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			k, err := FileKEK(path)
			if err != nil {
				t.Error(err)
			}
			ids[i] = k.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || len(id) != 16 {
			t.Fatalf("processes that start together have different keys: %v", ids)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want mode 0600", info.Mode(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) != len(kekPrefix)+43+1 || !strings.HasPrefix(string(text), kekPrefix) || text[len(text)-1] != '\n' {
		t.Errorf("the file has %d bytes, %v; want one line", len(text), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	env, err := ParseKEK("  " + string(text) + "\n")
	if err != nil || env.ID() != ids[0] {
		t.Errorf("the same text from the environment: %s, %v; want %s", env.ID(), err, ids[0])
	}
	plain, err := env.unwrap(env.wrap([]byte("k"), []byte("aad")), []byte("aad"))
	if err != nil || string(plain) != "k" {
		t.Errorf("unwrapped %q, %v", plain, err)
	}
	if _, err := env.unwrap(env.wrap([]byte("k"), []byte("aad")), []byte("other")); err == nil {
		t.Error("unwrapped with other associated data")
	}
}

func TestFileKEKThatOthersCanReadIsRefused(t *testing.T) {
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o644, 0o620, 0o601} {
		path := filepath.Join(t.TempDir(), "kek")
		if _, err := FileKEK(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := FileKEK(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: %v, want a refusal that says chmod 600", mode, err)
		}
		for _, ok := range []fs.FileMode{0o600, 0o400} {
			if err := os.Chmod(path, ok); err != nil {
				t.Fatal(err)
			}
			if _, err := FileKEK(path); err != nil {
				t.Errorf("mode %04o: %v", ok, err)
			}
		}
	}
}

func TestKEKThatIsNoneIsRefusedWithoutQuotingIt(t *testing.T) {
	good := kekPrefix + "p6enp6enp6enp6enp6enp6enp6enp6enp6enp6enp6c"
	if _, err := ParseKEK(good); err != nil {
		t.Fatal(err)
	}
	body := good[len(kekPrefix):]
	for _, text := range []string{"", "hkek_", body, "HKEK_" + body, good + "A", good[:len(good)-1], good[:len(good)-1] + "d", // bits that mean nothing
		good + "=", good[:20] + "\n" + good[21:], good[:20] + "+" + good[21:], good + "\n" + good} {
		k, err := ParseKEK(text)
		if err == nil {
			t.Errorf("%q: accepted as %v", text, k)
			continue
		}
		if strings.Contains(err.Error(), "6en") || !strings.Contains(err.Error(), "hkek_") || k.ID() != "" {
			t.Errorf("%q: message %q, want one that says the form and not the text", text, err)
		}
		path := filepath.Join(t.TempDir(), "kek")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := FileKEK(path); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "6en") {
			t.Errorf("file with %q: %v", text, err)
		}
		if after, _ := os.ReadFile(path); string(after) != text {
			t.Errorf("file with %q was overwritten", text)
		}
	}
	if _, err := FileKEK(filepath.Join(t.TempDir(), "missing", "kek")); err == nil {
		t.Error("a file in a missing directory: no error")
	}
	if _, err := FileKEK(t.TempDir()); err == nil {
		t.Error("a directory: no error")
	}
}
