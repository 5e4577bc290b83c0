package state

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// TestCopyWhenAsked sees that changes that matter are followed by a copy, once, and that nothing is written otherwise.
func TestCopyWhenAsked(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), dir, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		var last os.FileInfo
		copied := func() bool {
			t.Helper()
			synctest.Wait()
			fi, err := os.Stat(filepath.Join(dir, goodName))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { last = fi }()
			return last != nil && !os.SameFile(fi, last)
		}
		copied() // made by Open
		write(t, d, 0, 1)
		time.Sleep(firstCopy + time.Second)
		if !copied() {
			t.Error("no copy soon after the start")
		}
		write(t, d, 1, 2)
		time.Sleep(24 * time.Hour)
		if copied() {
			t.Error("a copy that nobody asked for")
		}
		for range 10 {
			d.Changed()
		}
		time.Sleep(changedCopy - time.Second)
		if copied() {
			t.Error("a copy at once")
		}
		time.Sleep(2 * time.Second)
		if !copied() {
			t.Error("no copy after a change")
		}
		d.Changed()
		time.Sleep(time.Hour)
		if copied() {
			t.Error("a copy of what has not changed")
		}
	})
}
