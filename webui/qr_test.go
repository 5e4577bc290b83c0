package webui

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"rsc.io/qr"
)

// The path draws exactly the dark modules.
func TestQR(t *testing.T) {
	const text = "http://croft.local/join#7K3M-Q9XA-22PW"
	want, err := qr.Encode(text, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	got := newQR(text, "")
	dark := map[[2]int]bool{}
	for _, m := range regexp.MustCompile(`M(\d+) (\d+)h(\d+)v1h-(\d+)z`).FindAllStringSubmatch(got.Path, -1) {
		var n [4]int
		for i := range n {
			if n[i], err = strconv.Atoi(m[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		for x := range n[2] {
			dark[[2]int{n[0] + x, n[1]}] = true
		}
	}
	for y := -qrQuiet; y < want.Size+qrQuiet; y++ {
		for x := -qrQuiet; x < want.Size+qrQuiet; x++ {
			if dark[[2]int{x + qrQuiet, y + qrQuiet}] != want.Black(x, y) {
				t.Fatalf("module %d, %d", x, y)
			}
		}
	}
	if got.Size != want.Size+8 {
		t.Errorf("%d modules", got.Size)
	}
	if newQR(strings.Repeat("x", 5000), "") != nil {
		t.Error("a code for what does not fit into one")
	}
}
