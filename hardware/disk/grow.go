package disk

import (
	"crypto/rand"
	"fmt"
	"os"
	"unsafe"

	"github.com/croft-os/croft/hardware/layout"
	"golang.org/x/sys/unix"
)

// TableOf reads which kind of partition table d has.
func TableOf(d Disk) (layout.Table, error) {
	f, err := os.Open(d.Path())
	if err != nil {
		return "", fmt.Errorf("partition table: %w", err)
	}
	defer f.Close()
	mbr, err := readMBR(f, 0)
	if err != nil {
		if _, gerr := readGPT(f, 1); gerr == nil {
			return layout.GPT, nil
		}
		return "", err
	}
	for i := range 4 {
		if entryOf(mbr, i).kind() == 0xee {
			return layout.GPT, nil
		}
	}
	return layout.MBR, nil
}

// Layout returns the layout that Croft gives a drive with a table of that kind.
func Layout(t layout.Table) layout.Layout {
	if t == layout.GPT {
		return layout.UEFI()
	}
	return layout.Pi()
}

// Grow lets partition p reach the end of its drive d, in the partition table and in the running kernel
// (BLKPG_RESIZE_PARTITION). With fresh set, a GPT drive and the partition get new ids. It returns p with its new
// size.
func Grow(d Disk, table layout.Table, p Partition, fresh bool) (Partition, error) {
	f, err := os.OpenFile(d.Path(), os.O_RDWR, 0)
	if err != nil {
		return p, fmt.Errorf("grow: %w", err)
	}
	defer f.Close()
	var size int64
	if table == layout.GPT {
		var newID func() [16]byte
		if fresh {
			newID = func() [16]byte { return mixedEndian(NewUUID()) }
		}
		size, _, err = growGPT(f, d.Size, p.Number, newID)
	} else {
		size, _, err = growMBR(f, d.Size, p.Number)
	}
	if err != nil {
		return p, err
	}
	if size == p.Size {
		return p, nil
	}
	if err := resizePartition(int(f.Fd()), p, size); err != nil {
		return p, err
	}
	p.Size = size
	return p, nil
}

// resizePartition tells the kernel the new size of a partition in use: struct blkpg_ioctl_arg of linux/blkpg.h.
func resizePartition(fd int, p Partition, size int64) error {
	part := struct {
		start, length int64
		pno           int32
		devname       [64]byte
		volname       [64]byte
		_             [4]byte
	}{start: p.Start, length: size, pno: int32(p.Number)}
	arg := struct {
		op, flags, datalen int32
		_                  int32
		data               unsafe.Pointer
	}{op: 3, datalen: int32(unsafe.Sizeof(part)), data: unsafe.Pointer(&part)}
	const blkpg = 0x1269
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), blkpg, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return fmt.Errorf("tell the kernel the new size of %s: %w", p.Name, e)
	}
	return nil
}

// NewUUID returns a random UUID (RFC 9562, version 4).
func NewUUID() [16]byte {
	var u [16]byte
	rand.Read(u[:])
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// mixedEndian turns a UUID into the byte order of a GPT, in which the first three fields are little-endian.
func mixedEndian(u [16]byte) [16]byte {
	return [16]byte{u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]}
}

// FormatUUID writes u in the usual form.
func FormatUUID(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
