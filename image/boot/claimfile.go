package boot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
	"golang.org/x/sys/unix"
)

// claimFile stands on the first FAT partition of the medium, where a computer shows it when the card is put in. The
// image carries it with a full sector, so that the box only ever overwrites that one sector in place: a power cut
// can't hurt the files that the box starts from.
const claimFile = "croft.txt"

func claimText(code string) []byte {
	text := "This Croft has an owner. The claim code is no longer valid.\r\n"
	if code != "" {
		text = "Claim code of this Croft: " + code + "\r\n\r\n" +
			"Plug the box into your router, open http://croft.local on your phone\r\n" +
			"(or the address on the box's screen) and type in the code.\r\n"
	}
	b := bytes.Repeat([]byte{' '}, layout.SectorSize)
	copy(b, text)
	return b
}

func (b *Box) writeClaimFile() (note string, err error) {
	if b.inRescue() {
		return "shown on the console only", nil // the medium is not to be touched
	}
	vol := b.volume()
	if vol == nil {
		return "", disk.ErrNoPartition
	}
	p, err := disk.Data("/sys", vol.disk, disk.Layout(vol.table).First, 0)
	if err != nil {
		return "", err
	}
	sector, old, err := findClaimSector(p.Path())
	if err != nil {
		return "", err
	}
	text := claimText(b.claimCode())
	if bytes.Equal(old, text) {
		return "unchanged", nil
	}
	f, err := os.OpenFile(p.Path(), os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.WriteAt(text, sector*layout.SectorSize); err != nil {
		return "", fmt.Errorf("write %s: %w", claimFile, err)
	}
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("write %s: %w", claimFile, err)
	}
	return "", nil
}

// findClaimSector returns the sector of the claim file within its partition (FIBMAP, linux/fs.h) and its content.
func findClaimSector(dev string) (sector int64, content []byte, err error) {
	if err := unix.Mount(dev, bootDir, "vfat", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return 0, nil, fmt.Errorf("mount %s: %w", dev, err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(bootDir, 0)) }()
	f, err := os.Open(bootDir + "/" + claimFile)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	content = make([]byte, layout.SectorSize)
	if n, err := f.ReadAt(content, 0); n != len(content) {
		return 0, nil, fmt.Errorf("%s is too short: %d bytes: %w", claimFile, n, err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, nil, err
	}
	const fibmap, figetbsz = 1, 2
	block, size := int32(0), int32(0)
	for _, call := range []struct {
		req uintptr
		arg *int32
	}{{figetbsz, &size}, {fibmap, &block}} {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), call.req, uintptr(unsafe.Pointer(call.arg))); e != 0 {
			return 0, nil, fmt.Errorf("find %s on the medium: %w", claimFile, e)
		}
	}
	if block <= 0 || size < layout.SectorSize {
		return 0, nil, fmt.Errorf("find %s on the medium: block %d of %d bytes", claimFile, block, size)
	}
	return int64(block) * int64(size) / layout.SectorSize, content, nil
}
