package disk

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/croft-os/croft/hardware/layout"
)

// Twins finds other drives that carry the same id for the root's partition as the one that the box started from: images
// of one release do, and which of them the kernel takes at the next start is chance. Nothing is written, and each drive
// is read only once, when it is new, so that one that rests is not woken. It is for one goroutine; the zero value is
// ready.
type Twins struct {
	seen map[string]bool // by name and sequence number: whether it is a twin
}

// Find returns the names of the twins of d that are plugged in now. sys is where sysfs is mounted, dev the folder of the
// device nodes.
func (t *Twins) Find(sys, dev string, d Disk, table layout.Table) []string {
	now := map[string]bool{}
	var twins []string
	drives, _ := filepath.Glob(filepath.Join(sys, "block/*"))
	for _, dir := range drives {
		name := filepath.Base(dir)
		if name == d.Name || readInt(filepath.Join(dir, "size")) == 0 {
			continue
		}
		// The number changes with each drive or card that is plugged in (Documentation/ABI/stable/sysfs-block).
		key := fmt.Sprint(name, " ", readLine(filepath.Join(dir, "diskseq")))
		same, known := t.seen[key]
		if !known {
			same = sameRoot(filepath.Join(dev, d.Name), filepath.Join(dev, name), table)
		}
		now[key] = same
		if same {
			twins = append(twins, name)
		}
	}
	t.seen = now
	slices.Sort(twins)
	return twins
}

func sameRoot(a, b string, table layout.Table) bool {
	idA, errA := rootID(a, table)
	idB, errB := rootID(b, table)
	return errA == nil && errB == nil && bytes.Equal(idA, idB)
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
