package firmware

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/croft-os/croft/updater/release"
)

// Boot is what starts.
type Boot struct {
	Kernel  Place // file
	Cmdline string
	Root    Place // partition
	// Part is where the boot part of a release is, and Own what in it belongs to the slot: the command line's file.
	Part, Own Place
	Rescue    bool // it is a rescue system, whose root is in memory; Root and Part are empty
	Walked    bool // the boot code was sent to another partition, which can't be started
}

// kernelRoot finds the root that a command line names, as Linux does: its partition, with a squashfs that lies within.
func kernelRoot(r io.ReaderAt, ps []partition, cmdline string) (Place, error) {
	id := ""
	for _, arg := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(arg, "root=PARTUUID="); ok {
			id = v
		}
	}
	for _, p := range ps {
		if id == "" || !strings.EqualFold(p.id, id) {
			continue
		}
		sb := make([]byte, 96)
		if _, err := r.ReadAt(sb, p.Off); err != nil {
			return Place{}, err
		}
		// Documentation/filesystems/squashfs.rst; fs/squashfs/squashfs_fs.h
		if string(sb[:4]) != "hsqs" || binary.LittleEndian.Uint64(sb[40:]) > uint64(p.Len) {
			return Place{}, fmt.Errorf("panic: no squashfs in partition %d", p.number)
		}
		return p.Place, nil
	}
	return Place{}, fmt.Errorf("panic: no root %q", id)
}

// isPE tells whether a file is a program that UEFI can load (UEFI 2.10, section 2.1.1).
func isPE(head []byte) bool {
	if len(head) < 64 || string(head[:2]) != "MZ" {
		return false
	}
	at := int64(binary.LittleEndian.Uint32(head[60:]))
	return at+6 <= int64(len(head)) && bytes.Equal(head[at:at+4], []byte("PE\x00\x00"))
}

// Identify tells which of the releases starts, bit for bit; an error if it is none of them, such as a mixture.
func (b *Boot) Identify(r io.ReaderAt, releases ...*release.Release) (*release.Release, error) {
	for _, rel := range releases {
		boot, err := hashed(r, b.Part, rel.Boot.Size, b.Own)
		if err != nil {
			return nil, err
		}
		if boot != rel.Boot.SHA256 {
			continue
		}
		root, err := hashed(r, b.Root, rel.Root.Size, Place{})
		if err != nil {
			return nil, err
		}
		if root != rel.Root.SHA256 {
			return nil, fmt.Errorf("the kernel of %s starts with another root (%s)", rel.Version, b.Cmdline)
		}
		if !strings.Contains(b.Cmdline+" ", " croft.version="+rel.Version+" ") {
			return nil, fmt.Errorf("%s starts with the command line %q", rel.Version, b.Cmdline)
		}
		return rel, nil
	}
	return nil, fmt.Errorf("what starts is no release (%s)", b.Cmdline)
}

// hashed is the SHA-256 of the first size bytes of a place, with blanks in another one.
func hashed(r io.ReaderAt, p Place, size int64, blank Place) (string, error) {
	if size > p.Len {
		return "", nil
	}
	h := sha256.New()
	buf := make([]byte, min(size, 1<<20))
	for at := int64(0); at < size; {
		b := buf[:min(int64(len(buf)), size-at)]
		if _, err := r.ReadAt(b, p.Off+at); err != nil {
			return "", err
		}
		from, to := max(0, blank.Off-p.Off-at), min(int64(len(b)), blank.Off+blank.Len-p.Off-at)
		for i := from; i < to; i++ {
			b[i] = ' '
		}
		h.Write(b)
		at += int64(len(b))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
