package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/slots"
	"golang.org/x/sys/unix"
)

// The rescue system is a kernel and an initramfs on the first FAT: the programs of the release that the image was made of, which no
// update ever writes to. It is for a box neither of whose slots starts. It runs the same services with their state in memory,
// as rescue mode does, and installs a verified release into a slot. It never opens the data partition.
//
// For everybody else the medium looks as if one slot ran: the committed one, or B where none is. The other one is idle, and is what is
// installed into, and started once afterwards; it has to prove itself there as always. Where no slot is committed, starting it
// once could not be told from starting it for good, so it is committed then.

// rescueMark stands in the initramfs.
const rescueMark = "/etc/croft/rescue"

// mediumWait is how long the rescue system waits for its medium: drives on USB come late.
const mediumWait = 20 * time.Second

// IsRescueSystem tells whether what runs is the rescue system.
func IsRescueSystem() bool {
	_, err := os.Lstat(rescueMark)
	return err == nil
}

// newRoot is where the rescue system's root file system is made.
const newRoot = "/newroot"

// LeaveInitramfs is the first thing that the rescue system's PID 1 does: it moves everything from the initramfs, which pivot_root(2)
// does not accept as a root and sandboxes therefore can't leave, to a tmpfs, and starts itself again there. It returns only if
// that fails.
func LeaveInitramfs() error {
	if err := errors.Join(os.MkdirAll(newRoot, 0o755), unix.Mount("root", newRoot, "tmpfs", unix.MS_NOSUID, "mode=0755,size=75%")); err != nil {
		return fmt.Errorf("make a root file system: %w", err)
	}
	err := filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == newRoot || path == "/dev" { // PID 1 mounts /dev
			return fs.SkipDir
		}
		to := newRoot + path
		if path == "/init" {
			to = newRoot + initPath
		}
		return moveFile(path, to, d)
	})
	if err != nil {
		return fmt.Errorf("leave the initramfs: %w", err)
	}
	if err := errors.Join(os.MkdirAll(newRoot+"/dev", 0o755), os.Chdir(newRoot), unix.Mount(".", "/", "", unix.MS_MOVE, ""),
		unix.Chroot("."), os.Chdir("/"), unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID, "")); err != nil {
		return fmt.Errorf("leave the initramfs: %w", err)
	}
	return unix.Exec(initPath, []string{initPath, AgainArg}, os.Environ())
}

// AgainArg is init's argument after LeaveInitramfs.
const AgainArg = "again"

const initPath = "/gokrazy/init"

// moveFile moves a file to another file system; what takes memory is in only one of them at a time.
func moveFile(from, to string, d fs.DirEntry) error {
	switch {
	case d.IsDir():
		return os.MkdirAll(to, 0o755)
	case d.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case !d.Type().IsRegular():
		return nil
	}
	fi, err := d.Info()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fi.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Close(), os.Remove(from))
}

// environmentRescue is why the rescue system is in rescue mode.
func environmentRescue() *api.Rescue {
	return &api.Rescue{
		Code:   api.RescueSystem,
		Text:   "This is the rescue system of this Croft. It can install a release anew. Your data are not touched.",
		Detail: "the data partition was not opened",
	}
}

// findRescueMedium looks for the medium that the rescue system came from: the one drive that is divided as a Croft's is.
func (b *Box) findRescueMedium() (note string, err error) {
	var found []medium
	for end := time.Now().Add(mediumWait); ; time.Sleep(time.Second) {
		found, err = b.media()
		if len(found) > 0 || time.Now().After(end) {
			break
		}
	}
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", errors.New("no drive is divided as a Croft's is")
	case len(found) > 1:
		return "", fmt.Errorf("%s and %s are both divided as a Croft's is: unplug the one that is not to be rescued, and start again",
			found[0].disk.Name, found[1].disk.Name)
	}
	m := &found[0]
	b.mu.Lock()
	b.medium = m
	b.mu.Unlock()
	b.once = b.newOneShot(m.table)
	committed, err := b.committed()
	m.running = layout.SlotB
	if err == nil {
		m.running = committed
	}
	note = fmt.Sprintf("%s; releases go into slot %s", m.disk.Name, otherSlot(m.running))
	return note, errors.Join(err, b.once.Settle())
}

// leaveTrial is the boot phase that restarts the box where a Raspberry Pi's boot code was asked for a trial, found that it can't start
// that slot, and went on to the rescue system: the committed slot is what has to run, if it can. The firmware forgot the trial already.
func (b *Box) leaveTrial() (note string, err error) {
	if readFile(b.tryboot) != "\x00\x00\x00\x01" {
		return "", nil
	}
	b.say("The slot to be tried can't be started; restarting into the one before.")
	b.finish("reboot")
	return "this was to be a trial: back to the other slot", nil
}

// croftMedia are the drives whose partitions are where a Croft's are, with a Croft's file on the first. Ids tell nothing: each drive has
// its own.
func croftMedia(sys, dev string) ([]medium, error) {
	drives, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return nil, err
	}
	var found []medium
	for _, e := range drives {
		dir := filepath.Join(sys, "block", e.Name())
		d := disk.Disk{Name: e.Name(), Size: readNumber(filepath.Join(dir, "size")) * layout.SectorSize}
		if d.Size == 0 || virtual(dir) {
			continue
		}
		parts, err := disk.Partitions(sys, d)
		if err != nil {
			continue
		}
		for _, table := range []layout.Table{layout.GPT, layout.MBR} {
			m := medium{sys: sys, dev: dev, disk: d, table: table}
			if !divided(parts, disk.Layout(table)) {
				continue
			}
			if path, err := m.path(disk.Layout(table).First); err == nil && forOwners(path) {
				found = append(found, m)
			}
		}
	}
	return found, nil
}

// divided tells whether partitions are those of a layout; the data partition may have grown, and the kernel shows only the start of an
// extended one.
func divided(parts []disk.Partition, l layout.Layout) bool {
	at := map[int]disk.Partition{}
	for _, p := range parts {
		at[p.Number] = p
	}
	for _, want := range l.Partitions {
		got, ok := at[want.Number]
		if !ok || got.Start != want.Start {
			return false
		}
		if want.Number != l.Data && want.Number != l.Extended && got.Size != want.Size {
			return false
		}
	}
	return len(parts) == len(l.Partitions)
}

// forOwners tells whether there is a Croft's file for its owner on a volume.
func forOwners(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = fat.Find(f, claimFile)
	return err == nil
}

// commitRescued makes a slot the one that starts, where none was.
func (b *Box) commitRescued(m *medium, slot layout.Slot) error {
	ids, err := m.rootIDs()
	if err != nil {
		return err
	}
	first, err := m.open(disk.Layout(m.table).First, os.O_RDWR)
	if err != nil {
		return err
	}
	defer first.Close()
	sm := &slots.Medium{Table: m.table, Running: m.running, RootID: map[layout.Slot]string{}, First: first, Rescue: true}
	for s, id := range ids {
		sm.RootID[layout.Slot(s)] = id
	}
	if m.table == layout.MBR {
		boot, err := m.open(disk.Layout(m.table).Boot[slot], os.O_RDONLY)
		if err != nil {
			return err
		}
		defer boot.Close()
		sm.BootIdle = boot
	}
	return sm.Commit(slot)
}
