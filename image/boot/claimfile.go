package boot

import (
	"bytes"
	"regexp"

	"github.com/croft-os/croft/hardware/layout"
)

// claimFile stands on the first FAT partition of the medium, where a computer shows it when the card is put in. The
// image carries it with a full sector, so that the box only ever overwrites that one sector in place: a power cut
// can't hurt the files that the box starts from.
const claimFile = "croft.txt"

// claimText fills the sector with the claim code, or with the code that rescue mode asks for; "" says that it is void.
func claimText(code, name string, rescue bool) []byte {
	text := "This Croft has an owner. The claim code is no longer valid.\r\n"
	if code != "" {
		what := "Claim code"
		if rescue {
			what = "This Croft can't use its data and is in rescue mode.\r\nRescue code"
		}
		text = what + " of this Croft: " + code + "\r\n\r\n" +
			"Plug the box into your router, open http://" + name + ".local on your phone\r\n" +
			"(or the address on the box's screen) and type in the code.\r\n"
	}
	b := bytes.Repeat([]byte{' '}, layout.SectorSize)
	copy(b, text)
	return b
}

// codeIn finds the code in the claim file's content, "" without one.
func codeIn(content []byte) string {
	m := codeRE.FindSubmatch(content)
	if m == nil {
		return ""
	}
	return string(m[1])
}

var codeRE = regexp.MustCompile(`code of this Croft: ([0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4})\r\n`)

// showCode is the boot phase that puts the code into the claim file. In rescue mode a code that is there already is
// the one that counts, so that the owner of a box without a screen can read it on a computer and put the card back.
func (b *Box) showCode() (note string, err error) {
	if !b.inRescue() {
		return b.writeClaimFile()
	}
	code, note, err := b.rescueCode()
	b.mu.Lock()
	b.ident.Claim = code
	b.mu.Unlock()
	if err == nil && note == "" {
		note, err = b.writeClaimFile()
	}
	return note, err
}

// rescueCode returns the code in the claim file, or a new one.
func (b *Box) rescueCode() (code, note string, err error) {
	content, err := b.readOwnerFile(claimFile, maxOwnerFile)
	if err != nil {
		return newClaimCode(), "", err
	}
	if code := codeIn(content); code != "" {
		return code, "the code in " + claimFile + " counts", nil
	}
	return newClaimCode(), "", nil
}

// writeClaimFile brings the claim file in step with the box.
func (b *Box) writeClaimFile() (note string, err error) {
	b.telling.Lock()
	defer b.telling.Unlock()
	old, err := b.readOwnerFile(claimFile, maxOwnerFile)
	if err != nil {
		return "", err
	}
	text := claimText(b.claimCode(), b.name(), b.inRescue())
	if bytes.HasPrefix(old, text) {
		return "unchanged", nil
	}
	return "", b.writeOwnerFile(claimFile, text)
}
