package core

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestFullDisk starts on a disk without a free byte. The disk is a small tmpfs in a mount namespace of a process of
// its own.
func TestFullDisk(t *testing.T) {
	dir := os.Getenv("CROFT_TEST_FULL")
	if dir == "" {
		if os.Getuid() != 0 {
			t.Skip("needs root")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), "CROFT_TEST_FULL="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	st := openTest(t, dir)
	s, err := openSessions(t.Context(), st, quiet, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	before := s.create(t.Context())
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk takes more than it has: %v", err)
	}

	st = openTest(t, dir)
	if len(st.notices) != 1 || st.notices[0].Name != "state-full" {
		t.Errorf("notices %+v", st.notices)
	}
	if err := st.check(t.Context()); err != nil {
		t.Error(err)
	}
	s, err = openSessions(t.Context(), st, quiet, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.get(t.Context(), before); !ok {
		t.Error("who was signed in is not any more")
	}
	during := s.create(t.Context())
	if _, ok := s.get(t.Context(), during); !ok {
		t.Error("nobody can sign in")
	}
	// With room again, things are kept again without a restart.
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	after := s.create(t.Context())
	st.close()
	st = openTest(t, dir)
	defer st.close()
	if len(st.notices) != 0 {
		t.Errorf("notices %+v", st.notices)
	}
	s, err = openSessions(t.Context(), st, quiet, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"before": before, "after": after} {
		if _, ok := s.get(t.Context(), token); !ok {
			t.Errorf("the session made %s the disk was full is gone", name)
		}
	}
}
