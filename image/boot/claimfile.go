package boot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"unsafe"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
	"golang.org/x/sys/unix"
)

// claimFile stands on the first FAT partition of the medium, where a computer shows it when the card is put in. The
// image carries it with a full sector, so that the box only ever overwrites that one sector in place: a power cut
// can't hurt the files that the box starts from.
const claimFile = "croft.txt"

// claimText fills the sector with the claim code, or with the code that rescue mode asks for; "" says that it is void.
func claimText(code string, rescue bool) []byte {
	text := "This Croft has an owner. The claim code is no longer valid.\r\n"
	if code != "" {
		what := "Claim code"
		if rescue {
			what = "This Croft can't use its data and is in rescue mode.\r\nRescue code"
		}
		text = what + " of this Croft: " + code + "\r\n\r\n" +
			"Plug the box into your router, open http://croft.local on your phone\r\n" +
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
		return b.writeClaimFile(b.claimCode(), false)
	}
	code, note, err := rescueCode()
	b.mu.Lock()
	b.ident.Claim = code
	b.mu.Unlock()
	if err == nil && note == "" {
		note, err = b.writeClaimFile(code, true)
	}
	return note, err
}

// rescueCode returns the code in the claim file, or a new one.
func rescueCode() (code, note string, err error) {
	p, err := claimPartition()
	if err != nil {
		return newClaimCode(), "", err
	}
	_, content, err := findClaimSector(p.Path())
	if err != nil {
		return newClaimCode(), "", err
	}
	if code := codeIn(content); code != "" {
		return code, "the code in " + claimFile + " counts", nil
	}
	return newClaimCode(), "", nil
}

func claimPartition() (disk.Partition, error) {
	d, err := disk.RootDisk("/sys")
	if err != nil {
		return disk.Partition{}, err
	}
	table, err := disk.TableOf(d)
	if err != nil {
		return disk.Partition{}, err
	}
	return disk.Data("/sys", d, disk.Layout(table).First, 0)
}

func (b *Box) writeClaimFile(code string, rescue bool) (note string, err error) {
	p, err := claimPartition()
	if err != nil {
		return "", err
	}
	sector, old, err := findClaimSector(p.Path())
	if err != nil {
		return "", err
	}
	text := claimText(code, rescue)
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
