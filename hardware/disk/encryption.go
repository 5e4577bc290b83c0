package disk

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// HasTarget tells whether the running kernel's device mapper has a target, such as "crypt" or "verity"
// (DM_LIST_VERSIONS, linux/dm-ioctl.h). detail says what was found instead.
func HasTarget(name string) (ok bool, detail string) {
	f, err := os.Open("/dev/mapper/control")
	if err != nil {
		return false, "no device mapper: " + err.Error()
	}
	defer f.Close()
	const (
		headerSize     = 312
		dmListVersions = 0xc138fd0d // _IOWR(0xfd, 13, struct dm_ioctl)
	)
	b := make([]byte, 16<<10)
	le := binary.NativeEndian
	le.PutUint32(b, 4) // version of the interface
	le.PutUint32(b[12:], uint32(len(b)))
	le.PutUint32(b[16:], headerSize)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), dmListVersions, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return false, fmt.Sprintf("device mapper does not list its targets: %v", e)
	}
	targets := parseTargets(b[le.Uint32(b[16:]):min(le.Uint32(b[12:]), uint32(len(b)))])
	for _, t := range targets {
		if t == name {
			return true, ""
		}
	}
	return false, "the device mapper has only " + strings.Join(targets, ", ")
}

// parseTargets reads a list of struct dm_target_versions: offset of the next one, three version numbers, name.
func parseTargets(b []byte) []string {
	var names []string
	for len(b) > 16 && len(names) < 64 {
		name, _, _ := strings.Cut(string(b[16:]), "\x00")
		if name != "" {
			names = append(names, name)
		}
		next := binary.NativeEndian.Uint32(b)
		if next == 0 || int64(next) >= int64(len(b)) {
			break
		}
		b = b[next:]
	}
	return names
}
