package clock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func date(y int) time.Time { return time.Date(y, 3, 1, 0, 0, 0, 0, time.UTC) }

func TestFloor(t *testing.T) {
	build, none := date(2026), time.Time{}
	tests := []struct {
		name      string
		last, now time.Time
		want      time.Time
		why       Reason
	}{
		{"no battery clock", none, time.Unix(0, 0), build, Build},
		{"no battery clock, known time", date(2027), time.Unix(5, 0), date(2027), Last},
		{"known time before the build", date(2025), time.Unix(5, 0), build, Build},
		{"battery clock", date(2027), date(2028), date(2028), Running},
		{"battery clock behind", date(2028), date(2027), date(2028), Last},
		{"battery clock in 2040", date(2027), date(2040), date(2027), Ahead},
		{"battery clock in 2040, nothing known", none, date(2040), build, Ahead},
		{"2040 when it is nearly 2040", date(2039), date(2040), date(2040), Running},
		{"known time absurd", date(2099), date(2027), date(2027), Running},
		{"known time absurd, no battery clock", date(2099), time.Unix(5, 0), build, Build},
		{"1901", none, date(1901), build, Build},
	}
	for _, tt := range tests {
		got, why := Floor(build, tt.last, tt.now)
		if !got.Equal(tt.want) || why != tt.why {
			t.Errorf("%s: %v (%v), want %v (%v)", tt.name, got, why, tt.want, tt.why)
		}
	}
}

func TestLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock.json")
	if got, err := LoadLast(path); err != nil || !got.IsZero() {
		t.Errorf("without a file: %v, %v", got, err)
	}
	for _, want := range []time.Time{date(2027), date(2028)} {
		if err := SaveLast(path, want.Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadLast(path); err != nil || !got.Equal(want) {
			t.Errorf("saved %v, loaded %v, %v", want, got, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	for _, bad := range []string{"", "{", "null", "{}", `{"last":7}`, `{"last":"1970-01-01T00:00:00Z"}`, `{"last":"9999-01-01T00:00:00Z"}`, strings.Repeat(" ", 1<<20)} {
		if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadLast(path); err == nil || !got.IsZero() {
			t.Errorf("%.40q: %v, %v", bad, got, err)
		}
	}
}

func TestLastIsNoTrap(t *testing.T) {
	dir := t.TempDir()
	pipe, link, target := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "target")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := SaveLast(target, date(2027)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link, dir} {
		if got, err := LoadLast(path); err == nil || !got.IsZero() {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
}

func FuzzParseLast(f *testing.F) {
	f.Add([]byte(`{"last":"2027-03-01T00:00:00Z"}`))
	f.Add([]byte(`{"last":"2027-03-01T00:00:00.123456789+14:00","more":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := parseLast(b); err != nil != got.IsZero() {
			t.Errorf("%v, %v", got, err)
		}
	})
}
