// Package clock keeps the box's clock from starting in the past or far in the future: it never starts before the time of
// the build or the last time that was known to be right, and a battery-backed clock that is far ahead is not believed.
// PID 1 calls [SetFloor] at boot; the package discipline asks time servers afterwards.
//
// Limits: a clock that is wrong but plausible is believed until time servers are reached.
package clock

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

const (
	year = 365 * 24 * time.Hour
	// maxAhead is how far ahead of the build any time is believed.
	maxAhead = 20 * year
	// maxKeptAhead is how far ahead of the floor a battery-backed clock is believed.
	maxKeptAhead = 10 * year
	// maxStateSize bounds the file of the last known time, in bytes.
	maxStateSize = 4096
)

// Plausible reports whether t can be a time at which software of that build runs.
func Plausible(build, t time.Time) bool { return !t.Before(build) && t.Before(build.Add(maxAhead)) }

// Reason says why [Floor] chose a time.
type Reason int

// Reasons.
const (
	Running Reason = iota // the clock as it runs is plausible
	Build                 // it was before the time of the build
	Last                  // it was before the last known time
	Ahead                 // it was too far ahead to be right
)

// Floor returns what the clock should be set to, given the time of the build, the last known time (zero if unknown)
// and what the clock says now. A last known time that is itself too far ahead counts as unknown.
func Floor(build, last, now time.Time) (time.Time, Reason) {
	low, why := build, Build
	if last.After(low) && Plausible(build, last) {
		low, why = last, Last
	}
	switch {
	case now.Before(low):
		return low, why
	case now.After(low.Add(maxKeptAhead)):
		return low, Ahead
	}
	return now, Running
}

// SetFloor sets the machine's clock to [Floor] and says in words what it did; "" means nothing. It needs
// CAP_SYS_TIME.
func SetFloor(build, last time.Time) (string, error) {
	now := time.Now()
	t, why := Floor(build, last, now)
	if why == Running {
		return "", nil
	}
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return "", fmt.Errorf("set the clock to %s: %w", t.UTC().Format(time.RFC3339), err)
	}
	switch why {
	case Build:
		return "set to the time of the build", nil
	case Last:
		return "set to the last known time", nil
	}
	return fmt.Sprintf("said %s, which can't be right; set to %s", now.UTC().Format(time.DateOnly), t.UTC().Format(time.DateOnly)), nil
}

// state is the content of clock.json.
type state struct {
	Last time.Time `json:"last"`
}

// LoadLast returns the last known time that was saved at path, or the zero time if there is none. It is also zero
// with an error, when the file can't be used. PID 1 calls it on a file that a less privileged process owns, so
// nothing but a regular file is opened.
func LoadLast(path string) (time.Time, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read the last known time: %w", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return time.Time{}, fmt.Errorf("read the last known time: %s is not a regular file", path)
	}
	b := make([]byte, maxStateSize)
	n, _ := f.Read(b)
	t, err := parseLast(b[:n])
	if err != nil {
		return time.Time{}, fmt.Errorf("read the last known time from %s: %w", path, err)
	}
	return t, nil
}

func parseLast(b []byte) (time.Time, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return time.Time{}, err
	}
	if y := s.Last.Year(); y < 2000 || y > 2200 {
		return time.Time{}, fmt.Errorf("year %d is out of range", y)
	}
	return s.Last, nil
}

// SaveLast saves the last known time so that a power cut leaves the old or the new one.
func SaveLast(path string, t time.Time) error {
	b, err := json.Marshal(state{t.UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := renameio.WriteFile(path, append(b, '\n'), 0o644, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o644)); err != nil {
		return fmt.Errorf("save the last known time: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("save the last known time: %w", err)
	}
	defer d.Close()
	return d.Sync()
}
