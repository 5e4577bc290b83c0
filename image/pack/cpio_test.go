package pack

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// unpack reads an initramfs as buffer-format.rst says; that kernels do likewise is tested where the image is started.
func unpack(t *testing.T, b []byte) (entries []string) {
	t.Helper()
	zr, err := zstd.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	if b, err = io.ReadAll(zr); err != nil {
		t.Fatal(err)
	}
	for at := 0; ; {
		if at%4 != 0 || string(b[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		var f [13]int
		for i := range f {
			n, err := strconv.ParseUint(string(b[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			f[i] = int(n)
		}
		mode, mtime, size, major, minor, nameSize := f[1], f[5], f[6], f[9], f[10], f[11]
		name := string(b[at+110 : at+110+nameSize-1])
		data := (at + 110 + nameSize + 3) &^ 3
		if name == "TRAILER!!!" {
			if data+size != len(b) {
				t.Errorf("%d bytes follow", len(b)-data)
			}
			return entries
		}
		entries = append(entries, fmt.Sprintf("%s %o %d,%d %d %q", name, mode, major, minor, mtime, b[data:data+size]))
		at = (data + size + 3) &^ 3
	}
}

func TestInitramfs(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	modes := map[string]os.FileMode{"bin/init": 0o700, "etc/a": 0o600, "etc/b": 0o640} // as a builder's umask may have it
	for path, text := range map[string]string{"bin/init": "program", "etc/a": "", "etc/b": "12345"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), modes[path]); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b", filepath.Join(dir, "etc/link")); err != nil {
		t.Fatal(err)
	}
	var packed [2][]byte
	for i := range packed {
		path := filepath.Join(out, "packed.gz")
		if err := Initramfs(dir, path, time.Unix(1_700_000_000, 0), map[string]string{"bin/init": "init"}); err != nil {
			t.Fatal(err)
		}
		var err error
		if packed[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(packed[0], packed[1]) {
		t.Error("twice the same differs")
	}
	want := []string{
		`bin 40755 0,0 1700000000 ""`, `init 100755 0,0 1700000000 "program"`,
		`dev 40755 0,0 1700000000 ""`, `dev/console 20600 5,1 1700000000 ""`,
		`etc 40755 0,0 1700000000 ""`, `etc/a 100644 0,0 1700000000 ""`, `etc/b 100644 0,0 1700000000 "12345"`,
		`etc/link 120777 0,0 1700000000 "b"`,
	}
	if got := unpack(t, packed[0]); !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	if err := Initramfs(filepath.Join(dir, "nothing"), filepath.Join(out, "x"), time.Unix(0, 0), nil); err == nil {
		t.Error("packed nothing")
	}
}
