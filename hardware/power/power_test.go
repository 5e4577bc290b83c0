package power

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHasKey(t *testing.T) {
	for _, tc := range []struct {
		bitmap string
		key    int
		want   bool
	}{
		{"10000000000000 0\n", 116, true}, // as ACPI's power button has it
		{"10000000000000 0\n", 115, false},
		{"1", 116, false},
		{"", 116, false},
		{"xyz 0", 116, false},
		{"ffffffffffffffff", 63, true},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(tc.bitmap), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := hasKey(path, tc.key); got != tc.want {
			t.Errorf("key %d in %q: %v", tc.key, tc.bitmap, got)
		}
	}
}

func TestWatch(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, 24)
		binary.NativeEndian.PutUint16(b[16:], kind)
		binary.NativeEndian.PutUint16(b[18:], code)
		binary.NativeEndian.PutUint32(b[20:], value)
		return b
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range [][]byte{
		event(evKey, keyPower, 1), event(0, 0, 0), // pressed
		event(evKey, keyPower, 0), // let go
		event(evKey, 30, 1),       // another key
		event(2, keyPower, 1),     // no key at all
		event(evKey, keyPower, 1),
	} {
		w.Write(e)
	}
	w.Close()
	n := 0
	watch(r, func() { n++ })
	if n != 2 {
		t.Errorf("%d presses, want 2", n)
	}
}

// TestRestartTry looks at what the kernel would be given; it can't be given it here.
func TestRestartTry(t *testing.T) {
	var got string
	err := restartWith(tryArgument, func(arg *byte) error {
		got = unix.BytePtrToString(arg)
		return unix.EPERM
	})
	if got != "0 tryboot" || !errors.Is(err, unix.EPERM) {
		t.Errorf("argument %q, error %v", got, err)
	}
	if err := restartWith("a\x00b", func(*byte) error { return nil }); err == nil {
		t.Error("an argument with NUL was taken")
	}
}
