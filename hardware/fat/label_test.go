package fat

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestLabel reads the labels that dosfstools writes.
func TestLabel(t *testing.T) {
	if _, err := exec.LookPath("mkfs.fat"); err != nil {
		t.Skip("no mkfs.fat")
	}
	for _, tt := range []struct {
		bits, label, want string
		size              int64
	}{
		{"12", "CROFT", "CROFT", 1 << 20},
		{"16", "My stick", "My stick", 16 << 20},
		{"32", "UPDATES", "UPDATES", 64 << 20},
		{"32", "", "", 64 << 20},
	} {
		path := filepath.Join(t.TempDir(), "fat")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, tt.size); err != nil {
			t.Fatal(err)
		}
		args := []string{"-F", tt.bits, path}
		if tt.label != "" {
			args = append([]string{"-n", tt.label}, args...)
		}
		if out, err := exec.Command("mkfs.fat", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Label(f); err != nil || got != tt.want {
			t.Errorf("FAT%s %q: %q, %v", tt.bits, tt.label, got, err)
		}
		f.Close()
	}
	f, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Label(f); !errors.Is(err, ErrNotFAT) {
		t.Errorf("%v", err)
	}
}

// FuzzLabel reads labels of whatever may be plugged in.
func FuzzLabel(f *testing.F) {
	f.Add(make([]byte, 512))
	boot := make([]byte, 512)
	copy(boot, "\xeb\x3c\x90mkfs.fat\x00\x02\x04\x01\x00\x02\x00\x02\x00\x20\xf8\x08\x00")
	copy(boot[43:], "MY STICK   ")
	boot[510], boot[511] = 0x55, 0xaa
	f.Add(boot)
	f.Fuzz(func(t *testing.T, b []byte) {
		label, err := Label(bytes.NewReader(b))
		if err != nil && label != "" || len(label) > 11 {
			t.Errorf("%q, %v", label, err)
		}
		for _, c := range label {
			if c < ' ' || c > '~' {
				t.Errorf("%q", label)
			}
		}
	})
}
