// Package fattest makes exFAT volumes for tests, with programs that are not ours: exfatprogs formats and judges, exfat-fuse writes.
// Mounting needs root and loop devices: without root, tests are skipped.
package fattest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// ExFAT makes a volume of size bytes, formatted with the arguments of mkfs.exfat, and has fill write to it where it is mounted. It
// returns the path of the image.
func ExFAT(t testing.TB, size int64, args []string, fill func(dir string)) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount an exFAT volume")
	}
	dir := t.TempDir()
	img, at := filepath.Join(dir, "volume"), filepath.Join(dir, "mounted")
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.exfat", append(args, img)...)
	loop := string(bytes.TrimSpace(run(t, "losetup", "--find", "--show", img)))
	defer run(t, "losetup", "-d", loop)
	run(t, "mount.exfat-fuse", loop, at)
	func() {
		defer run(t, "umount", at)
		fill(at)
	}()
	run(t, "sync", "-f", img)
	run(t, "fsck.exfat", "-n", loop)
	return img
}

// Files makes a volume of 64 MiB with files, by their paths.
func Files(t testing.TB, label string, files map[string][]byte) string {
	t.Helper()
	return ExFAT(t, 64<<20, []string{"-L", label}, func(dir string) {
		for name, content := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
	}
	var stderr bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, &stderr)
	}
	return out
}
