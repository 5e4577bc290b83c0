package fat

import (
	"io"
	"strings"
)

// Label returns the label of the volume in r, "" for none: on FAT that in the boot sector (fatgen103, "BS_VolLab"), on exFAT that in
// the root folder. It fails with ErrNotFAT or ErrDamaged, or with what r fails with.
func Label(r io.ReaderAt) (string, error) {
	v, err := open(r)
	if err != nil {
		return "", err
	}
	if v.ex {
		return v.labelEx()
	}
	at := int64(43)
	if v.bits == 32 {
		at = 71
	}
	b := make([]byte, 11)
	if err := readFull(r, b, at); err != nil {
		return "", err
	}
	label := strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, string(b)))
	if label == "NO NAME" {
		return "", nil
	}
	return label, nil
}
