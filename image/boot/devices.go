package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/daemon/devices"
)

// opener is what devices.sock hands out. The updater gets the parts of the boot medium that an update is written to: never the
// root that runs, never the data partition, never the whole drive, and nothing to write while the release is on trial, for then
// the idle slot is the one to go back to. The fetcher gets FAT and exFAT volumes of other drives, to read.
type opener struct {
	box              *Box
	updater, fetcher uint32
	sys, dev, mounts string // /sys, /dev, /proc/self/mountinfo

	mu   sync.Mutex
	seen map[string]volumeSeen // by device and sequence number: drives are read only once, when they are new
}

type volumeSeen struct {
	label string
	other string // what it is instead of FAT or exFAT; empty: it is one of them
}

var _ devices.Opener = (*opener)(nil)

// listenDevices answers on devices.sock.
func (b *Box) listenDevices(ctx context.Context) error {
	path := filepath.Join(runDir, "devices.sock")
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return err
	}
	// Drives that let their medium be changed say so only when asked (Documentation/block/stat, events_dfl_poll_msecs).
	if err := os.WriteFile("/sys/module/block/parameters/events_dfl_poll_msecs", []byte("2000"), 0); err != nil {
		b.log.Info("cards put into a reader may be noticed late", "err", err)
	}
	o := &opener{box: b, updater: b.cfg.UpdaterUID, fetcher: b.cfg.FetcherUID, sys: "/sys", dev: "/dev", mounts: "/proc/self/mountinfo"}
	go func() {
		l := daemon.AllowPeers(l, b.log, b.cfg.UpdaterUID, b.cfg.FetcherUID)
		if err := devices.Serve(ctx, l, o, b.log); err != nil {
			b.log.Error("devices", "err", err)
		}
	}()
	return nil
}

var (
	errNotYours = errors.New("not for this service")
	errNoDevice = errors.New("no such device")
	errInUse    = errors.New("not while the release is on trial: the other slot is the one to go back to")
)

// Open implements devices.Opener.
func (o *opener) Open(uid uint32, name string) (f, direct *os.File, err error) {
	usb := strings.HasPrefix(name, api.DeviceUSB)
	if uid != 0 && (usb && uid != o.fetcher || !usb && uid != o.updater) {
		return nil, nil, errNotYours
	}
	if usb {
		for _, v := range o.volumes() {
			if v.Name == name && v.Other == "" {
				return openBlock(filepath.Join(o.dev, strings.TrimPrefix(name, api.DeviceUSB)), os.O_RDONLY)
			}
		}
		return nil, nil, errNoDevice
	}
	m, err := o.box.boot()
	if err != nil {
		return nil, nil, err
	}
	part, flags, err := o.part(m, name)
	if err != nil {
		return nil, nil, err
	}
	path, err := m.path(part)
	if err != nil {
		return nil, nil, err
	}
	return openBlock(path, flags)
}

// part says which partition of the medium a name stands for, and how it may be opened.
func (o *opener) part(m *medium, name string) (number, flags int, err error) {
	l := disk.Layout(m.table)
	idle := otherSlot(m.running)
	ownBoot := m.table == layout.MBR // slots have boot partitions of their own
	switch {
	case name == api.DeviceFirst:
		return l.First, os.O_RDWR, nil
	case name == api.DeviceRoot:
		return l.Root[m.running], os.O_RDONLY, nil
	case name == api.DeviceBoot && ownBoot:
		return l.Boot[m.running], os.O_RDONLY, nil
	case name == api.DeviceRootIdle:
		number = l.Root[idle]
	case name == api.DeviceBootIdle && ownBoot:
		number = l.Boot[idle]
	default:
		return 0, 0, errNoDevice
	}
	if o.box.onTrial() {
		return 0, 0, errInUse
	}
	committed, err := o.box.committed()
	if err != nil && o.box.cfg.Rescue { // none is: then any will do
		return number, os.O_RDWR, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("it is not known which slot starts by itself: %w", err)
	}
	if committed == idle {
		return 0, 0, errInUse
	}
	return number, os.O_RDWR, nil
}

// List implements devices.Opener.
func (o *opener) List(uid uint32) []api.OpenDevice {
	var list []api.OpenDevice
	if uid == o.updater || uid == 0 {
		if m, err := o.box.boot(); err == nil {
			for _, name := range []string{api.DeviceFirst, api.DeviceBoot, api.DeviceRoot, api.DeviceBootIdle, api.DeviceRootIdle} {
				number, _, err := o.part(m, name)
				if err != nil {
					continue
				}
				if p, err := m.partition(number); err == nil {
					list = append(list, api.OpenDevice{Name: name, Size: p.Size, Model: m.disk.Model})
				}
			}
		}
	}
	if uid == o.fetcher || uid == 0 {
		list = append(list, o.volumes()...)
	}
	return list
}

const maxVolumes = 64

// volumes are the FAT and exFAT volumes on other drives than the boot medium that nobody has mounted, and the drives that somebody
// plugged in and that have none. Drives that are made of others, such as loop devices and arrays, don't count.
func (o *opener) volumes() []api.OpenDevice {
	m, err := o.box.boot()
	if err != nil {
		return nil // nothing can be told from the boot medium
	}
	mounted, err := mountedDevices(o.mounts)
	if err != nil {
		return nil
	}
	drives, err := os.ReadDir(filepath.Join(o.sys, "block"))
	if err != nil {
		return nil
	}
	var list []api.OpenDevice
	now := map[string]volumeSeen{}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range drives {
		dir := filepath.Join(o.sys, "block", d.Name())
		if d.Name() == m.disk.Name || readNumber(filepath.Join(dir, "size")) == 0 || virtual(dir) {
			continue
		}
		seq := strings.TrimSpace(readFile(filepath.Join(dir, "diskseq")))
		model := strings.TrimSpace(clip(strings.TrimSpace(readFile(filepath.Join(dir, "device/vendor"))) + " " +
			strings.TrimSpace(readFile(filepath.Join(dir, "device/model")))))
		parts, err := disk.Partitions(o.sys, disk.Disk{Name: d.Name()})
		if err != nil {
			continue
		}
		if len(parts) == 0 {
			parts = []disk.Partition{{Name: d.Name(), Size: readNumber(filepath.Join(dir, "size")) * layout.SectorSize}}
		}
		known, other := false, ""
		for _, p := range parts {
			at := dir
			if p.Number > 0 {
				at = filepath.Join(dir, p.Name)
			}
			if holders, _ := os.ReadDir(filepath.Join(at, "holders")); len(holders) > 0 || mounted[strings.TrimSpace(readFile(filepath.Join(at, "dev")))] {
				continue
			}
			key := p.Name + " " + seq
			v, seen := o.seen[key]
			if !seen {
				v = lookAt(filepath.Join(o.dev, p.Name))
			}
			now[key] = v
			if v.other != "" {
				if other == "" || other == api.DeviceOtherUnknown {
					other = v.other
				}
				continue
			}
			known = true
			if len(list) < maxVolumes {
				list = append(list, api.OpenDevice{Name: api.DeviceUSB + p.Name, Size: p.Size, Label: v.label, Model: model})
			}
		}
		if !known && other != "" && plugged(dir) && len(list) < maxVolumes {
			size := readNumber(filepath.Join(dir, "size")) * layout.SectorSize
			list = append(list, api.OpenDevice{Name: api.DeviceUSB + d.Name(), Size: size, Model: model, Other: other})
		}
	}
	o.seen = now
	slices.SortFunc(list, func(a, b api.OpenDevice) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// virtual tells whether a drive is none of its own: it has no device behind it.
func virtual(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "device"))
	return err != nil
}

// plugged tells whether a drive is one that people plug in and pull: Documentation/ABI/stable/sysfs-block, "removable", which discs
// in USB cases are not. Drives for CDs and DVDs, which have a size without a disc, too, are no sticks.
func plugged(dir string) bool {
	if strings.HasPrefix(filepath.Base(dir), "sr") { // Documentation/admin-guide/devices.txt, major 11
		return false
	}
	if readNumber(filepath.Join(dir, "removable")) == 1 {
		return true
	}
	path, err := filepath.EvalSymlinks(dir)
	return err == nil && strings.Contains(path, "/usb")
}

// otherSystems are what tells other file systems, by where it is.
var otherSystems = []struct {
	at          int
	magic, name string
}{
	{3, "NTFS    ", "NTFS"},
	{32, "NXSB", "APFS"},
	{1024, "H+", "HFS+"},
	{1024, "HX", "HFS+"},
	{1080, "\x53\xef", "ext4"}, // and its predecessors
}

// lookAt reads the start of a volume.
func lookAt(path string) volumeSeen {
	f, err := os.Open(path)
	if err != nil {
		return volumeSeen{other: api.DeviceOtherUnknown}
	}
	defer f.Close()
	label, err := fat.Label(f)
	if err == nil || errors.Is(err, fat.ErrDamaged) { // the latter is for the fetcher to say
		return volumeSeen{label: label}
	}
	head := make([]byte, 2048)
	n, _ := io.ReadFull(f, head)
	for _, s := range otherSystems {
		if bytes.HasPrefix(head[min(s.at, n):n], []byte(s.magic)) {
			return volumeSeen{other: s.name}
		}
	}
	return volumeSeen{other: api.DeviceOtherUnknown}
}

// mountedDevices returns the devices that file systems are mounted from, as "major:minor": proc_pid_mountinfo(5).
func mountedDevices(path string) (map[string]bool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := map[string]bool{}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) > 2 {
			m[string(f[2])] = true
		}
	}
	return m, nil
}

func readNumber(path string) int64 {
	var n int64
	if _, err := fmt.Sscan(readFile(path), &n); err != nil {
		return 0
	}
	return n
}
