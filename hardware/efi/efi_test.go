package efi

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const guid = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// vars is a folder with one variable of the firmware's own, as efivarfs has it.
func vars(t *testing.T) (Vars, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Boot0000-8be4df61-93ca-11d2-aa0d-00e098032b8c"), []byte{7, 0, 0, 0, 1}, 0o644); err != nil {
		t.Fatal(err)
	}
	return New(dir), dir
}

func TestOneShot(t *testing.T) {
	v, dir := vars(t)
	if got, err := v.OneShot(); got != "" || err != nil {
		t.Errorf("none is set: %q, %v", got, err)
	}
	for _, entry := range []string{"croft-b.conf", "croft-a.conf"} {
		if err := v.SetOneShot(entry); err != nil {
			t.Fatal(err)
		}
		if got, err := v.OneShot(); got != entry || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	// Byte for byte what "bootctl set-oneshot" writes.
	want := []byte("\x07\x00\x00\x00c\x00r\x00o\x00f\x00t\x00-\x00a\x00.\x00c\x00o\x00n\x00f\x00\x00\x00")
	if b, err := os.ReadFile(filepath.Join(dir, "LoaderEntryOneShot"+guid)); err != nil || !bytes.Equal(b, want) {
		t.Errorf("the file holds %q, %v", b, err)
	}
	for range 2 { // and where there is none
		if err := v.ClearOneShot(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := v.OneShot(); got != "" || err != nil {
		t.Errorf("after clearing: %q, %v", got, err)
	}
	if ents, _ := os.ReadDir(dir); len(ents) != 1 {
		t.Errorf("files are left: %v", ents)
	}
}

func TestRead(t *testing.T) {
	v, dir := vars(t)
	for name, get := range map[string]func() (string, error){
		"LoaderEntrySelected": v.Selected, "LoaderInfo": v.Loader, "LoaderEntryDefault": v.Default,
	} {
		for _, tc := range []struct {
			content, want string
			bad           bool
		}{
			{"\x06\x00\x00\x00a\x00b\x00\x00\x00", "ab", false},
			{"\x06\x00\x00\x00a\x00b\x00", "ab", false}, // no NUL
			{"\x06\x00\x00\x00a\x00\x00\x00b\x00", "a", false},
			{"\x06\x00\x00\x00", "", false},
			{"", "", false},
			{"\x06\x00", "", true},
			{"\x06\x00\x00\x00a", "", true},
			{strings.Repeat("a", 1<<20), "", true},
		} {
			if err := os.WriteFile(filepath.Join(dir, name+guid), []byte(tc.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if got, err := get(); got != tc.want || (err != nil) != tc.bad {
				t.Errorf("%s: %.20q: %q, %v", name, tc.content, got, err)
			}
		}
	}
	if err := v.ClearDefault(); err != nil {
		t.Fatal(err)
	}
	if got, err := v.Default(); got != "" || err != nil {
		t.Errorf("after clearing: %q, %v", got, err)
	}
}

func TestNone(t *testing.T) {
	for name, dir := range map[string]string{"missing": filepath.Join(t.TempDir(), "efivars"), "empty": t.TempDir()} {
		v := New(dir)
		_, err := v.OneShot()
		for _, err := range []error{err, v.SetOneShot("x"), v.ClearOneShot()} {
			if !errors.Is(err, ErrNone) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestValues(t *testing.T) {
	v, _ := vars(t)
	for _, bad := range []string{"", "a\x00b", strings.Repeat("x", maxUnits)} {
		if err := v.SetOneShot(bad); err == nil {
			t.Errorf("%.20q was taken", bad)
		}
	}
	long := strings.Repeat("ä", maxUnits-1)
	if err := v.SetOneShot(long); err != nil {
		t.Error(err)
	}
	if got, err := v.OneShot(); got != long || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestFull: the firmware's memory is full. /dev/full says so as efivarfs does.
func TestFull(t *testing.T) {
	v, dir := vars(t)
	if err := os.Symlink("/dev/full", filepath.Join(dir, "LoaderEntryOneShot"+guid)); err != nil {
		t.Fatal(err)
	}
	if err := v.SetOneShot("croft-b.conf"); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	if got, err := v.OneShot(); got != "" || err != nil {
		t.Errorf("something is left: %q, %v", got, err)
	}
}

// TestNotKept: firmware that forgets what is written to it. /dev/null does.
func TestNotKept(t *testing.T) {
	v, dir := vars(t)
	if err := os.Symlink("/dev/null", filepath.Join(dir, "LoaderEntryOneShot"+guid)); err != nil {
		t.Fatal(err)
	}
	if err := v.SetOneShot("croft-b.conf"); !errors.Is(err, ErrKept) {
		t.Errorf("got %v", err)
	}
}

// TestImmutable: variables carry a flag against accidents.
func TestImmutable(t *testing.T) {
	v, dir := vars(t)
	if err := v.SetOneShot("croft-b.conf"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "LoaderEntryOneShot"+guid)
	if out, err := exec.Command("chattr", "+i", path).CombinedOutput(); err != nil {
		t.Skipf("this folder's file system has no such flag: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("chattr", "-i", path).Run() })
	if f, err := os.OpenFile(path, os.O_WRONLY, 0); !errors.Is(err, unix.EPERM) {
		f.Close()
		t.Skip("the flag does not keep this user from writing")
	}
	if err := v.SetOneShot("croft-a.conf"); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("chattr", "+i", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := v.ClearOneShot(); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x07\x00\x00\x00c\x00r\x00\x00\x00"))
	f.Add([]byte("\x07\x00\x00\x00\x00\xd8\x00\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parse(b)
		if err != nil || s == "" {
			return
		}
		again, err := format(s)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if got, err := parse(again); got != s || err != nil {
			t.Errorf("%q became %q, %v", s, got, err)
		}
	})
}
