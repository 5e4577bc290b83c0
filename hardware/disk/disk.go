// Package disk finds, grows, checks, formats and mounts the data partition of the medium that the box booted
// from. It never writes to any other drive.
//
// The partition is found by its number on the disk that holds the root file system, so a second drive, even one
// that carries a copy of this one, is not mistaken for it. It holds ext4; an image carries a 64 MiB seed of it that
// the first boot grows to the medium. Formats: ext4 as in the kernel's Documentation/filesystems/ext4, GPT as in
// UEFI 2.10 section 5.3, MBR with an extended partition.
//
// Limits: only 512-byte logical sectors; a damaged file system is found and told, not repaired.
package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"golang.org/x/sys/unix"
)

// ErrNoPartition means that the boot medium has no data partition.
var ErrNoPartition = errors.New("no data partition on the medium that the box booted from")

// Disk is a whole drive.
type Disk struct {
	Name  string // in /sys/block, such as "mmcblk0"
	Model string // as the drive names itself, or ""
	Size  int64  // bytes
}

// Path is the device node.
func (d Disk) Path() string { return "/dev/" + d.Name }

// Partition is one partition of a drive.
type Partition struct {
	Name   string // in /sys/class/block, such as "mmcblk0p7"
	Number int    // as in the partition table, from 1
	Start  int64  // bytes from the start of the drive
	Size   int64  // bytes
}

// Path is the device node.
func (p Partition) Path() string { return "/dev/" + p.Name }

// RootDisk returns the drive that holds the file system mounted at /. sys is where sysfs is mounted.
func RootDisk(sys string) (Disk, error) {
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		return Disk{}, fmt.Errorf("stat /: %w", err)
	}
	return diskOf(sys, unix.Major(st.Dev), unix.Minor(st.Dev))
}

func diskOf(sys string, major, minor uint32) (Disk, error) {
	link := filepath.Join(sys, "dev/block", fmt.Sprintf("%d:%d", major, minor))
	dir, err := filepath.EvalSymlinks(link)
	if err != nil {
		return Disk{}, fmt.Errorf("drive of the root file system: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	d := Disk{Name: filepath.Base(dir)}
	d.Size = readInt(filepath.Join(dir, "size")) * layout.SectorSize
	for _, f := range []string{"device/model", "device/name"} {
		if d.Model = readLine(filepath.Join(dir, f)); d.Model != "" {
			break
		}
	}
	return d, nil
}

// Partitions lists the partitions of d that the kernel knows.
func Partitions(sys string, d Disk) ([]Partition, error) {
	dir := filepath.Join(sys, "class/block", d.Name)
	ents, err := os.ReadDir(dir + "/")
	if err != nil {
		return nil, fmt.Errorf("partitions of %s: %w", d.Name, err)
	}
	var ps []Partition
	for _, e := range ents {
		sub := filepath.Join(dir, e.Name())
		n := readInt(filepath.Join(sub, "partition"))
		if n <= 0 || !strings.HasPrefix(e.Name(), d.Name) {
			continue
		}
		ps = append(ps, Partition{
			Name: e.Name(), Number: int(n),
			Start: readInt(filepath.Join(sub, "start")) * layout.SectorSize,
			Size:  readInt(filepath.Join(sub, "size")) * layout.SectorSize,
		})
	}
	return ps, nil
}

// Data returns the data partition of d, waiting up to wait for the kernel to find it.
func Data(sys string, d Disk, number int, wait time.Duration) (Partition, error) {
	deadline := time.Now().Add(wait)
	for {
		ps, err := Partitions(sys, d)
		if err != nil {
			return Partition{}, err
		}
		for _, p := range ps {
			if p.Number == number {
				return p, nil
			}
		}
		if !time.Now().Before(deadline) {
			return Partition{}, fmt.Errorf("%w: %s has no partition %d", ErrNoPartition, d.Name, number)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func readInt(path string) int64 {
	n, _ := strconv.ParseInt(readLine(path), 10, 64)
	return n
}
