package webui

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// qrQuiet is the light margin around a QR code, in modules (ISO/IEC 18004, section 5.3.8).
const qrQuiet = 4

// qrView is a QR code: the template "qr".
type qrView struct {
	Label string // what it is, for who can't see it
	Size  int    // modules, with the margin
	Path  string // of the dark modules
}

// newQR makes the code for text; nil if text is too long for one. The template shows nothing then, and what the code
// says stands beside it anyway.
func newQR(text, label string) *qrView {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil
	}
	var path strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			from := x
			for x < code.Size && code.Black(x, y) {
				x++
			}
			if x > from {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", from+qrQuiet, y+qrQuiet, x-from, x-from)
			}
		}
	}
	return &qrView{Label: label, Size: code.Size + 2*qrQuiet, Path: path.String()}
}
