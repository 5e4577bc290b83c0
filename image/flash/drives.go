package flash

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is where this computer's drives are looked for.
type Host struct {
	Sys, Dev, Proc string // where sysfs, the device nodes and procfs are
}

// ThisHost is the computer that we run on.
var ThisHost = Host{Sys: "/sys", Dev: "/dev", Proc: "/proc"}

// Drive is a whole drive.
type Drive struct {
	Name      string // such as "sdb"
	Path      string // such as "/dev/sdb"
	Model     string // with the maker's name
	Serial    string
	Number    string // device number, such as "8:16"
	Seq       string // the kernel's number for this medium in this drive, never used twice; "" before Linux 5.15
	Size      int64  // bytes
	Removable bool   // it can be taken out: its driver says so, or it is on USB or in a card reader
	ReadOnly  bool
	Mounted   []string // where it or its partitions are mounted
	System    string   // what of this computer's system is on it, such as "/" or "swap"; empty if nothing
	Used      string   // what else uses it, such as an encrypted volume or a RAID; empty if nothing
	Content   Content
	Unread    string // why Content is not known
}

// notDrives are block devices that are no drives: memory, mapped and network devices, boot areas of eMMC, optical drives.
var notDrives = regexp.MustCompile(`^(loop|ram|zram|dm-|md|nbd|sr|fd|mtdblock|rbd|drbd)\d|^mmcblk\d+(boot\d+|rpmb)$`)

// Drives lists the drives with a medium in them, by name.
func (h Host) Drives() ([]Drive, error) {
	ents, err := os.ReadDir(filepath.Join(h.Sys, "block"))
	if err != nil {
		return nil, fmt.Errorf("list the drives: %w", err)
	}
	used, err := h.uses()
	if err != nil {
		return nil, fmt.Errorf("list what is mounted: %w", err)
	}
	var ds []Drive
	for _, e := range ents {
		if notDrives.MatchString(e.Name()) {
			continue
		}
		if d, ok := h.drive(e.Name(), used); ok {
			ds = append(ds, d)
		}
	}
	slices.SortFunc(ds, func(a, b Drive) int { return cmp.Or(len(a.Name)-len(b.Name), strings.Compare(a.Name, b.Name)) })
	return ds, nil
}

// Drive finds one block device by the path of its node, which may be a link and may be of a kind that Drives leaves out, such
// as a loop device.
func (h Host) Drive(path string) (Drive, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Drive{}, err
	}
	name := filepath.Base(real)
	if _, err := os.Stat(filepath.Join(h.Sys, "class/block", name, "partition")); err == nil {
		parent := "?"
		if dir, err := filepath.EvalSymlinks(filepath.Join(h.Sys, "class/block", name)); err == nil {
			parent = filepath.Base(filepath.Dir(dir))
		}
		return Drive{}, fmt.Errorf("%s is a partition; name the whole drive, %s", path, filepath.Join(h.Dev, parent))
	}
	// A node may have any name: what counts is the number in it.
	if n := nodeNumber(real); n != "" && n != h.line(h.Sys, "class/block", name, "dev") {
		return Drive{}, fmt.Errorf("%s is not the drive that has its name; name the one in %s", path, h.Dev)
	}
	used, err := h.uses()
	if err != nil {
		return Drive{}, err
	}
	d, ok := h.drive(name, used)
	if !ok {
		return Drive{}, fmt.Errorf("%s has no medium in it", path)
	}
	return d, nil
}

// Same says whether d and o are one drive with one medium in it, or both none.
func (d *Drive) Same(o *Drive) bool {
	if d == nil || o == nil {
		return d == o
	}
	return d.Path == o.Path && d.Number == o.Number && d.Seq == o.Seq && d.Size == o.Size && d.Model == o.Model && d.Serial == o.Serial
}

func (h Host) drive(name string, used map[string][]string) (Drive, bool) {
	dir := filepath.Join(h.Sys, "block", name)
	d := Drive{Name: name, Path: filepath.Join(h.Dev, name)}
	sectors, _ := strconv.ParseInt(h.line(dir, "size"), 10, 64)
	if d.Size = sectors * 512; d.Size <= 0 {
		return d, false
	}
	d.Number, d.Seq = h.line(dir, "dev"), h.line(dir, "diskseq")
	bus, _ := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	d.Removable = h.line(dir, "removable") == "1" || strings.Contains(bus, "/usb") || strings.Contains(bus, "/mmc_host/")
	d.ReadOnly = h.line(dir, "ro") == "1"
	vendor := h.line(dir, "device/vendor")
	if strings.HasPrefix(vendor, "0x") { // virtual drives have a number there
		vendor = ""
	}
	d.Model = strings.Join(strings.Fields(vendor+" "+h.line(dir, "device/model")+" "+h.line(dir, "device/name")), " ")
	d.Serial = h.serial(dir, bus)
	h.look(&d, dir, used, 0)
	d.Mounted = slices.Compact(d.Mounted)
	if f, err := os.Open(d.Path); err != nil {
		d.Unread = err.Error()
	} else {
		defer f.Close()
		if d.Content, err = Look(f, d.Size); err != nil {
			d.Unread = err.Error()
		}
	}
	return d, true
}

// look adds how the device at dir, its partitions and what is built on them are used.
func (h Host) look(d *Drive, dir string, used map[string][]string, depth int) {
	if depth > 8 {
		return
	}
	for _, at := range used[h.line(dir, "dev")] {
		if part := systemPart(at); part != "" && d.System == "" {
			d.System = part
		}
		if strings.HasPrefix(at, "/") {
			d.Mounted = append(d.Mounted, clean(at))
		} else if at != "swap" {
			d.Used = at
			h.look(d, filepath.Join(h.Sys, "block", at), used, depth+1)
		}
	}
	ents, _ := os.ReadDir(dir)
	for _, e := range ents {
		if sub := filepath.Join(dir, e.Name()); h.line(sub, "partition") != "" {
			h.look(d, sub, used, depth+1)
		}
	}
	holders, _ := os.ReadDir(filepath.Join(dir, "holders"))
	for _, e := range holders {
		sub := filepath.Join(h.Sys, "block", e.Name())
		d.Used = cmp.Or(h.line(sub, "dm/name"), e.Name())
		h.look(d, sub, used, depth+1)
	}
}

// systemPart says whether a mount point belongs to the running system.
func systemPart(at string) string {
	for _, part := range []string{"/boot", "/efi", "/usr", "/var", "/home", "/etc", "/opt", "/nix"} {
		if at == part || strings.HasPrefix(at, part+"/") && part != "/var" && part != "/home" {
			return at
		}
	}
	if at == "/" || at == "swap" {
		return at
	}
	return ""
}

// uses maps device numbers ("8:17") to mount points, "swap" and loop devices ("loop0"): proc(5), mountinfo and swaps;
// Documentation/ABI/testing/sysfs-block-loop. The kernel names no holder for a loop device, and lets others write below it.
func (h Host) uses() (map[string][]string, error) {
	mounts, err := os.ReadFile(filepath.Join(h.Proc, "self/mountinfo"))
	if err != nil {
		return nil, err
	}
	used := map[string][]string{}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 7 {
			continue
		}
		at := unescape(fields[4])
		used[fields[2]] = append(used[fields[2]], at)
		// File systems of several devices, such as btrfs, have a number of their own; the source names one device.
		if i := slices.Index(fields, "-"); i > 0 && i+2 < len(fields) && strings.HasPrefix(fields[i+2], "/") {
			if n := h.number(unescape(fields[i+2])); n != "" && n != fields[2] {
				used[n] = append(used[n], at)
			}
		}
	}
	swaps, _ := os.ReadFile(filepath.Join(h.Proc, "swaps"))
	for line := range strings.Lines(string(swaps)) {
		if path, _, _ := strings.Cut(line, " "); strings.HasPrefix(path, "/") {
			if n := h.number(unescape(path)); n != "" {
				used[n] = append(used[n], "swap")
			}
		}
	}
	loops, _ := filepath.Glob(filepath.Join(h.Sys, "block/loop*/loop/backing_file"))
	for _, l := range loops {
		if n := h.number(h.line(l)); n != "" {
			used[n] = append(used[n], filepath.Base(filepath.Dir(filepath.Dir(l))))
		}
	}
	return used, nil
}

// number is the device number of a node, "" if it is none.
func (h Host) number(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	return cmp.Or(nodeNumber(real), h.line(h.Sys, "class/block", filepath.Base(real), "dev"))
}

// nodeNumber is the number in the node of a block device, "" if path is something else.
func nodeNumber(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return numberOf(&st)
}

func numberOf(st *unix.Stat_t) string {
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// serial looks at the device, then at what it hangs on: a USB stick's number is that of the USB device.
func (h Host) serial(dir, bus string) string {
	if s := h.line(dir, "device/serial"); s != "" {
		return s
	}
	// SCSI, SPC-4 7.8.15: the unit serial number page has four bytes before the number.
	if b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); err == nil && len(b) > 4 {
		if s := clean(string(b[4:])); s != "" {
			return s
		}
	}
	for i := 0; i < 8 && strings.Contains(bus, "/usb"); i++ {
		if s := h.line(bus, "serial"); s != "" {
			return s
		}
		bus = filepath.Dir(bus)
	}
	return ""
}

// line reads a short file of sysfs, "" if it is not there.
func (h Host) line(elem ...string) string {
	f, err := os.Open(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return clean(string(line))
}

// clean leaves what can be printed, for a drive may claim any name.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\uFFFD' || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return -1
		}
		return r
	}, s))
}

// Problem says why a drive must not be written to, "" if it may. any allows drives that can't be taken out.
func (d Drive) Problem(size int64, any bool) string {
	switch {
	case d.System != "":
		return fmt.Sprintf("%s holds this computer's own system (%s).", d.Path, d.System)
	case len(d.Mounted) > 0:
		return fmt.Sprintf("%s is in use, at %s. Eject or unmount it first.", d.Path, strings.Join(d.Mounted, ", "))
	case d.Used != "":
		return fmt.Sprintf("%s is in use, by %s. Close that first.", d.Path, d.Used)
	case d.ReadOnly:
		return fmt.Sprintf("%s is write-protected. Cards have a small slider for that at their side.", d.Path)
	case d.Size < size:
		return fmt.Sprintf("%s is too small: it has %s, and the image needs %s.", d.Path, Bytes(d.Size), Bytes(size))
	case !d.Removable && !any:
		return fmt.Sprintf("%s is built into this computer. If you really mean it, add --all.", d.Path)
	}
	return ""
}

// Bytes writes a size as people know it from packages.
func Bytes(n int64) string {
	switch {
	case n >= 1e12:
		return fmt.Sprintf("%.1f TB", float64(n)/1e12)
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.0f kB", float64(n)/1e3)
}
