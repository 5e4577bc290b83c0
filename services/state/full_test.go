package state

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// smallDisk runs the test that calls it in a process of its own, with a tmpfs of 512 KiB in a mount namespace, and returns
// where that is; in the process that started it, it returns "".
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CROFT_TEST_FULL")
	if dir == "" {
		if os.Getuid() != 0 {
			t.Skip("needs root")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "CROFT_TEST_FULL="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return ""
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fill takes all room of the disk, and returns what does.
func fill(t *testing.T, dir string) string {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk takes more than it has: %v", err)
	}
	return ballast
}

func TestFullDisk(t *testing.T) {
	dir := smallDisk(t)
	if dir == "" {
		return
	}
	d := open(t, dir)
	write(t, d, 0, 3)
	d.Close()
	ballast := fill(t, dir)
	d = open(t, dir)
	wantNotices(t, d, "state-full")
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if n := rowsIn(t, d); n != 3 {
		t.Errorf("%d rows", n)
	}
	if err := writeRow(t.Context(), d, 3); err == nil {
		t.Error("a full disk took a change")
	}
	if n := rowsIn(t, d); n != 3 {
		t.Errorf("%d rows after a change that was refused", n)
	}
	// With room again, things are kept again without a restart.
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	write(t, d, 3, 4)
	d.Close()
	d = open(t, dir)
	wantNotices(t, d)
	if n := rowsIn(t, d); n != 4 {
		t.Errorf("%d rows", n)
	}
}

// TestFullAndDamaged sees that a box whose disk is full and whose database is damaged is not an empty one.
func TestFullAndDamaged(t *testing.T) {
	dir := smallDisk(t)
	if dir == "" {
		return
	}
	d := open(t, dir)
	write(t, d, 0, 3)
	d.Close()
	damage(t, filepath.Join(dir, fileName), damages["garbage"])
	ballast := fill(t, dir)
	d = open(t, dir)
	wantNotices(t, d, "state-in-memory")
	if n := rowsIn(t, d); n != 3 {
		t.Errorf("%d rows", n)
	}
	write(t, d, 3, 4)
	d.Close()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	wantNotices(t, d, "state-restored")
	if n := rowsIn(t, d); n != 3 {
		t.Errorf("%d rows", n)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	dir := smallDisk(t)
	if dir == "" {
		return
	}
	d := open(t, dir)
	write(t, d, 0, 3)
	d.Close()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=512k"); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	if len(d.Notices()) != 1 {
		t.Errorf("notices %+v", d.Notices())
	}
	t.Log(d.Notices()[0].Name)
	if n := rowsIn(t, d); n != 3 {
		t.Errorf("%d rows", n)
	}
}
