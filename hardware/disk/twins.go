package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"

	"github.com/croft-os/croft/hardware/layout"
)

// Twins returns the names of other drives that carry the same id for the root's partition as d: images of one
// release do, and which of them the kernel takes at the next start is chance. Nothing is written.
func Twins(sys string, d Disk, table layout.Table) []string {
	mine, err := rootID(d.Path(), table)
	if err != nil {
		return nil
	}
	var twins []string
	drives, _ := filepath.Glob(filepath.Join(sys, "block/*"))
	for _, dir := range drives {
		name := filepath.Base(dir)
		if name == d.Name {
			continue
		}
		if id, err := rootID("/dev/"+name, table); err == nil && bytes.Equal(id, mine) {
			twins = append(twins, name)
		}
	}
	slices.Sort(twins)
	return twins
}

// rootID reads what PARTUUID=… in the kernel's command line is compared with: the GUID of slot A's root, or the
// signature of the drive.
func rootID(path string, table layout.Table) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if table == layout.MBR {
		mbr, err := readMBR(f, 0)
		if err != nil {
			return nil, err
		}
		return mbr[440:444], nil
	}
	g, err := readGPT(f, 1)
	if err != nil {
		return nil, err
	}
	return g.entry(layout.UEFI().Root[layout.SlotA])[16:32], nil
}
