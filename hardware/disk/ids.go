package disk

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/croft-os/croft/hardware/layout"
	"golang.org/x/sys/unix"
)

// RootNumber returns the number of the partition that holds the file system mounted at /. sys is where sysfs is mounted.
func RootNumber(sys string) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		return 0, fmt.Errorf("stat /: %w", err)
	}
	link := filepath.Join(sys, "dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if _, err := os.Stat(link); err != nil {
		return 0, fmt.Errorf("partition of the root file system: %w", err)
	}
	n := readInt(filepath.Join(link, "partition"))
	if n <= 0 {
		return 0, fmt.Errorf("the root file system is on no partition: %s", link)
	}
	return int(n), nil
}

// PARTUUID reads what root=PARTUUID=… in the kernel's command line is compared with
// (Documentation/admin-guide/kernel-parameters) from the table of the drive in r: on a GPT, whose backup counts if the
// primary is damaged, the partition's GUID; on an MBR the drive's signature and the number.
func PARTUUID(r io.ReaderAt, size int64, table layout.Table, number int) (string, error) {
	if table == layout.MBR {
		mbr, err := readMBR(r, 0)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%08x-%02x", binary.LittleEndian.Uint32(mbr[440:]), number), nil
	}
	if number < 1 || number > gptEntries {
		return "", fmt.Errorf("a GPT has no partition %d", number)
	}
	g, err := readGPT(r, 1)
	if err != nil {
		var berr error
		if g, berr = readGPT(r, uint64(size/sectorSize)-1); berr != nil {
			return "", err
		}
	}
	return FormatUUID(mixedEndian([16]byte(g.entry(number)[16:32]))), nil
}
