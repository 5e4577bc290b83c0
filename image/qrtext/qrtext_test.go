package qrtext

import (
	"strings"
	"testing"

	"rsc.io/qr"
)

// TestDraw reads the drawing back, module by module.
func TestDraw(t *testing.T) {
	for _, text := range []string{"http://192.168.1.20/#ABCD-EFGH", "http://[fd00::1234:5678:9abc:def0]/#ABCD-EFGH", "x"} {
		c, err := qr.Encode(text, qr.L)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(Draw(text), "\n"), "\n")
		if want := (c.Size + 2*quiet + 1) / 2; len(lines) != want {
			t.Fatalf("%d lines, want %d", len(lines), want)
		}
		for n, line := range lines {
			chars := []rune(strings.TrimPrefix(line, "  "))
			if len(chars) != c.Size+2*quiet {
				t.Fatalf("line %d has %d characters", n, len(chars))
			}
			for x, r := range chars {
				light := map[rune][2]bool{'█': {true, true}, '▀': {true, false}, '▄': {false, true}, ' ': {}}[r]
				for half := range 2 {
					y := 2*n + half - quiet
					want := !c.Black(x-quiet, y) && y < c.Size+quiet
					if light[half] != want {
						t.Fatalf("%s: module %d,%d is light: %v", text, x-quiet, y, light[half])
					}
				}
			}
		}
	}
	if s := Draw(strings.Repeat("x", 4000)); s != "" {
		t.Error("drew what fits no code")
	}
}
