package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/layout"
)

func TestOutdated(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "out", "croft-pc.img")
	old, young := time.Unix(1_000_000, 0), time.Unix(2_000_000, 0)
	write := func(path string, at time.Time) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	want := func(want bool, when string) {
		t.Helper()
		if got, err := outdated(image, dir); err != nil || got != want {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	write(filepath.Join(dir, "a", "a.go"), old)
	want(true, "without an image")
	write(image, young.Add(-time.Second))
	want(false, "with a newer image")
	write(filepath.Join(dir, ".git", "index"), young)
	write(filepath.Join(dir, "a", "a_test.go"), young)
	want(false, "after changes that don't count")
	write(filepath.Join(dir, "a", "page.html"), young)
	want(true, "after a change")
}

// TestPrepareDisk checks that a new image replaces the system on the disk and nothing else.
func TestPrepareDisk(t *testing.T) {
	dir := t.TempDir()
	image, disk := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	l := layout.UEFI()
	mark := map[string]int64{"esp": l.Partition(1).Start + 512, "root": l.Partition(2).Start, "data": l.Partition(4).Start, "table": 512}
	build := func(version string) {
		t.Helper()
		os.Remove(image)
		f, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(l.Size); err != nil {
			t.Fatal(err)
		}
		for name, off := range mark {
			if version == "3" && name == "root" {
				continue // a hole where data was
			}
			if _, err := f.WriteAt([]byte(name+version), off); err != nil {
				t.Fatal(err)
			}
		}
	}
	prepare := func(fresh bool, word string) map[string]string {
		t.Helper()
		did, err := prepareDisk(image, disk, fresh)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(did, word) {
			t.Errorf("did %q, want %q", did, word)
		}
		f, err := os.Open(disk)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if st, err := f.Stat(); err != nil || st.Size() != diskSize {
			t.Errorf("disk of %v bytes, %v", st, err)
		}
		got := map[string]string{}
		for name, off := range mark {
			b := make([]byte, 8)
			if _, err := f.ReadAt(b, off); err != nil {
				t.Fatal(err)
			}
			got[name] = string(bytes.TrimRight(b, "\x00"))
		}
		return got
	}
	equal := func(got map[string]string, esp, root, data string) {
		t.Helper()
		if got["esp"] != esp || got["root"] != root || got["data"] != data {
			t.Errorf("got %v", got)
		}
	}
	build("1")
	equal(prepare(false, "new box"), "esp1", "root1", "data1")
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("mine"), mark["data"]); err != nil {
		t.Fatal(err)
	}
	f.Close()
	equal(prepare(false, "as it was"), "esp1", "root1", "mine1")
	build("2")
	equal(prepare(false, "replaced"), "esp2", "root2", "mine1")
	build("3")
	equal(prepare(false, "replaced"), "esp3", "", "mine1")
	equal(prepare(false, "as it was"), "esp3", "", "mine1")
	equal(prepare(true, "new box"), "esp3", "", "data3")
}

func TestChoosePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	if p, err := choosePort("", taken); p != 0 || err != nil {
		t.Errorf("a taken port: %d, %v", p, err)
	}
	l.Close()
	if p, err := choosePort(strconv.Itoa(taken), 1); p != taken || err != nil {
		t.Errorf("a free port: %d, %v", p, err)
	}
	for _, bad := range []string{"x", "0", "65536", "80;"} {
		if _, err := choosePort(bad, 1); err == nil {
			t.Errorf("took %q for a port", bad)
		}
	}
}

func TestText(t *testing.T) {
	got := address{http: 8080, https: 8443, code: "7QHM-2ZKX"}.text()
	if !strings.Contains(got, "\nCroft is up: http://127.0.0.1:8080/ · claim code 7QHM-2ZKX\n") {
		t.Errorf("got %q", got)
	}
	if !strings.Contains(got, "█▀") {
		t.Error("no QR code")
	}
	if got := (address{http: 80}).text(); !strings.Contains(got, "has an owner") {
		t.Errorf("got %q", got)
	}
}
