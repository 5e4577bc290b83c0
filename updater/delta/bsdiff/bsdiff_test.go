package bsdiff_test

import (
	"bytes"
	"testing"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/delta/bsdiff"
)

// FuzzDiff makes patches of anything, and applies them.
func FuzzDiff(f *testing.F) {
	f.Add([]byte("some bytes, and then some more"), []byte("some more bytes, and then some"))
	f.Add([]byte{}, []byte("x"))
	f.Add([]byte("x"), []byte{})
	f.Add(bytes.Repeat([]byte("abc"), 100), bytes.Repeat([]byte("abd"), 110))
	f.Fuzz(func(t *testing.T, old, content []byte) {
		var patch, made bytes.Buffer
		if err := bsdiff.Diff(old, content, &patch); err != nil {
			t.Fatal(err)
		}
		err := delta.Patch(bytes.NewReader(old), int64(len(old)), bytes.NewReader(patch.Bytes()), int64(patch.Len()), &made, int64(len(content)))
		if err != nil || !bytes.Equal(made.Bytes(), content) {
			t.Fatalf("%q: %v", made.Bytes(), err)
		}
	})
}
