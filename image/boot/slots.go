package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon/devices"
	"github.com/croft-os/croft/updater/slots"
	"golang.org/x/sys/unix"
)

// medium is what the box started from, as far as slots go.
type medium struct {
	sys     string // where sysfs is mounted
	dev     string // where device nodes are
	disk    disk.Disk
	table   layout.Table
	running layout.Slot
}

func otherSlot(s layout.Slot) layout.Slot {
	if s == layout.SlotA {
		return layout.SlotB
	}
	return layout.SlotA
}

// findMedium asks the kernel which partition / is on; the slot is the one whose root that is, whatever the command line says.
func findMedium() (*medium, error) {
	d, err := disk.RootDisk("/sys")
	if err != nil {
		return nil, err
	}
	table, err := disk.TableOf(d)
	if err != nil {
		return nil, err
	}
	number, err := disk.RootNumber("/sys")
	if err != nil {
		return nil, err
	}
	for slot, n := range disk.Layout(table).Root {
		if n == number {
			return &medium{"/sys", "/dev", d, table, slot}, nil
		}
	}
	return nil, fmt.Errorf("the system runs from %s, partition %d, which is no slot", d.Name, number)
}

// partition finds a partition of the medium by its number.
func (m *medium) partition(number int) (disk.Partition, error) {
	return disk.Data(m.sys, m.disk, number, 0)
}

// path is the device node of the partition with that number.
func (m *medium) path(number int) (string, error) {
	p, err := m.partition(number)
	if err != nil {
		return "", err
	}
	return filepath.Join(m.dev, p.Name), nil
}

// open opens a partition, as flags say and to read past the cache.
func (m *medium) open(number, flags int) (*devices.Device, error) {
	path, err := m.path(number)
	if err != nil {
		return nil, err
	}
	f, direct, err := openBlock(path, flags)
	if err != nil {
		return nil, err
	}
	return devices.NewDevice(f, direct)
}

// openBlock opens a device twice: as flags say, and to read past the cache, where it can do that.
func openBlock(path string, flags int) (f, direct *os.File, err error) {
	f, err = os.OpenFile(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	direct, err = os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if errors.Is(err, syscall.EINVAL) {
		return f, nil, nil
	} else if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, direct, nil
}

// readCommitted reads from the medium, past the cache, which slot the firmware starts by itself.
func (b *Box) readCommitted() (layout.Slot, error) {
	m, err := b.boot()
	if err != nil {
		return "", err
	}
	d, err := m.open(disk.Layout(m.table).First, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer d.Close()
	return slots.Committed(m.table, d.Reread())
}

// rootIDs reads the PARTUUIDs of both slots' roots.
func (m *medium) rootIDs() (map[string]string, error) {
	f, err := os.Open(filepath.Join(m.dev, m.disk.Name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ids := map[string]string{}
	for slot, number := range disk.Layout(m.table).Root {
		id, err := disk.PARTUUID(f, m.disk.Size, m.table, number)
		if err != nil {
			return nil, err
		}
		ids[string(slot)] = id
	}
	return ids, nil
}

var errNoMedium = errors.New("it is not known which medium the box started from")

// boot returns the medium, or errNoMedium.
func (b *Box) boot() (*medium, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.medium == nil {
		return nil, errNoMedium
	}
	return b.medium, nil
}

// Slots reads what the medium looks like now.
func (b *Box) Slots() (api.Slots, error) {
	m, err := b.boot()
	if err != nil {
		return api.Slots{}, err
	}
	ids, err := m.rootIDs()
	if err != nil {
		return api.Slots{}, err
	}
	s := api.Slots{Board: b.release.Board, Table: string(m.table), Running: string(m.running), RootIDs: ids}
	committed, err := b.committed()
	if err != nil {
		b.log.Warn("which slot starts by itself can't be read", "err", err)
	}
	s.Committed, s.Rescue = string(committed), b.cfg.Rescue
	if s.OneShot = b.once.Lacks(); s.Rescue && committed == "" { // it will be committed instead
		s.OneShot = ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Trial = b.trial.on
	if s.Trial {
		s.LeftMS = max(0, (b.trial.until - b.uptime()).Milliseconds())
	}
	if b.trial.ended != nil {
		e := *b.trial.ended
		s.Ended = &e
	}
	s.Pending = string(b.trial.pending)
	return s, nil
}

// efivars is where the kernel shows UEFI's variables.
const efivars = "/sys/firmware/efi/efivars"

// mountEFI shows UEFI's variables, if the firmware is one that has them.
func mountEFI() error {
	if _, err := os.Stat(filepath.Dir(efivars)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := unix.Mount("efivarfs", efivars, "efivarfs", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount UEFI's variables: %w", err)
	}
	return nil
}
