// Package qrtext draws QR codes (ISO/IEC 18004, level L) as text for dark screens: two modules a character, in half
// blocks that every console's font has.
package qrtext

import (
	"strings"

	"rsc.io/qr"
)

// quiet is the light margin in modules. The standard asks for four; two are enough for phones and leave a console of
// 25 lines room for words.
const quiet = 2

// Draw returns the code for text, one line of characters after the other, or "" if text is too long for a code.
func Draw(text string) string {
	c, err := qr.Encode(text, qr.L)
	if err != nil {
		return ""
	}
	var w strings.Builder
	for y := -quiet; y < c.Size+quiet; y += 2 {
		w.WriteString("  ")
		for x := -quiet; x < c.Size+quiet; x++ {
			i := 0
			if c.Black(x, y) {
				i |= 1
			}
			if c.Black(x, y+1) || y+1 >= c.Size+quiet {
				i |= 2
			}
			w.WriteString([]string{"█", "▄", "▀", " "}[i])
		}
		w.WriteString("\n")
	}
	return w.String()
}
