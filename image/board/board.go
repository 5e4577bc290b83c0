// Package board says, for each family of boards, what an image for it holds: kernel, firmware, layout, console and kernel
// command line. One file per family; adding a family adds a file and touches no other.
//
// Kernels and firmware come from Go modules, so that go.mod pins them and go.sum verifies them. Command lines follow
// the kernel's Documentation/admin-guide/kernel-parameters, loader entries the Boot Loader Specification and
// systemd's loader.conf(5), the Pi's files the "config.txt" and "autoboot.txt" chapters of Raspberry Pi's
// documentation. What a kernel can't enforce or drive is written down in docs/boards.md.
package board

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/croft-os/croft/hardware/layout"
)

// Modules finds the folder of a Go module that go.mod requires.
type Modules func(path string) (dir string, err error)

// File is one file of a FAT volume.
type File struct {
	Path string // slash separated, from the volume's root
	Data []byte
	Room int64 // bytes that the file has, zeros behind Data; 0 means as many as Data
}

// Board is one family of boards.
type Board struct {
	ID     string // names the image: croft-ID.img
	Title  string
	GOARCH string
	CC     string // C compiler for the cgo parts
	Layout layout.Layout
	Kernel string // Go module that holds vmlinuz

	// Args are the kernel arguments of this family, beside the common ones.
	Args []string
	// First lists what the first FAT volume holds before any slot is written: what both slots need, and on UEFI machines the
	// files that slots are written into. It says that slot B starts, which whoever writes slot A puts right.
	First func(mods Modules) ([]File, error)
	// Boot lists what the boot part of a release is made of: on UEFI machines the kernel, on Raspberry Pis the files of a slot's
	// boot file system. It is the same for either slot.
	Boot func(mods Modules) ([]File, error)
	// Rescue lists what the first FAT volume holds beside that for the rescue system, from what Boot lists. Its initramfs is RescueFile
	// there, and its kernel gets that command line. No update writes to any of it.
	Rescue func(boot []File, version, cmdline string) []File
	// Components are the parts of an image that are not Go code.
	Components []Component
	// Imager are the tags by which Raspberry Pi Imager knows the boards of this family, none for others.
	Imager []string
}

// Component is a part of an image that is not Go code, for the bill of materials.
type Component struct {
	Name     string
	Module   string // Go module that carries it
	Version  string // "" takes the module's
	License  string // SPDX expression
	Supplier string
	Text     string // file of the module with the licence's text, for "LicenseRef-" licences
}

// commonArgs are the kernel arguments of every board. rootwait=N waits at most N seconds for a root that comes late;
// a root that never comes ends in a panic and, after another 10 s, a reboot, so that the boot loader can fall back.
// Kernel messages below "error" stay out of the console, which is for people. raid=noautodetect keeps the kernel from
// starting an array that it finds on somebody's drives.
var commonArgs = []string{
	"ro", "rootfstype=squashfs", "rootwait=10", "raid=noautodetect", "init=/gokrazy/init", "panic=10", "oops=panic",
	"consoleblank=0", "loglevel=4",
}

// Cmdline is the kernel command line of a release, with "{root}" and "{slot}" for what each slot puts there
// (docs/release-format.md). The last two arguments are for whoever looks at a slot later, and not for the kernel.
func (b Board) Cmdline(version string, number int64) string {
	args := append([]string{"root=PARTUUID={root}"}, commonArgs...)
	args = append(args, "croft.board="+b.ID, "croft.slot={slot}")
	args = append(args, b.Args...)
	return strings.Join(append(args, "croft.version="+version, fmt.Sprintf("croft.number=%d", number)), " ")
}

// RescueFile is the initramfs of the rescue system on the first FAT volume.
const RescueFile = "rescue.cpio.zst"

// RescueCmdline is the kernel command line of the rescue system, whose root is its initramfs.
func (b Board) RescueCmdline(version string) string {
	var args []string
	for _, a := range commonArgs {
		if a != "ro" && !strings.HasPrefix(a, "root") && !strings.HasPrefix(a, "init=") {
			args = append(args, a)
		}
	}
	args = append(args, "croft.board="+b.ID)
	return strings.Join(append(append(args, b.Args...), "croft.version="+version), " ")
}

// families is filled by each family's file, so that adding one touches one file.
var families []func() Board

// All returns every family, by ID.
func All() []Board {
	var bs []Board
	for _, f := range families {
		bs = append(bs, f())
	}
	slices.SortFunc(bs, func(a, b Board) int { return strings.Compare(a.ID, b.ID) })
	return bs
}

// Find returns the family with the given ID.
func Find(id string) (Board, error) {
	var ids []string
	for _, b := range All() {
		if b.ID == id {
			return b, nil
		}
		ids = append(ids, b.ID)
	}
	return Board{}, fmt.Errorf("no board %q; there are %s", id, strings.Join(ids, ", "))
}

// SectorFile is the most that a file which a running box rewrites in place may hold: one sector, which a medium writes whole
// or not at all.
const SectorFile = layout.SectorSize

// SettingsFile is the file on the first FAT volume that tells a box what it is to be when it starts for the first time: the
// owner's to write, by "croft flash" or by hand. It has SettingsSize bytes in one piece, so that it can be overwritten in
// place.
const (
	SettingsFile   = "croft.json"
	SettingsFormat = "croft-settings/1"
	SettingsSize   = 4096
)

// forOwners are the files that people read and write when they put the medium into a computer. croft.txt tells an owner without
// a screen how to reach the box; PID 1 overwrites it in place, so it fills its sector.
func forOwners() []File {
	const text = "Croft has not been started from this card or stick yet.\r\n\r\n" +
		"Put it into the box and switch the box on. Two minutes later, put it\r\n" +
		"back here: this file will then hold the box's address and claim code.\r\n"
	fill := func(s, with string, size int) []byte {
		return append([]byte(s), strings.Repeat(with, size-len(s))...)
	}
	return []File{
		{Path: "croft.txt", Data: fill(text, "\n", SectorFile)},
		{Path: SettingsFile, Data: fill(fmt.Sprintf("{\r\n  \"format\": %q\r\n}\r\n", SettingsFormat), " ", SettingsSize)},
	}
}

func fromModule(mods Modules, module, name, to string) (File, error) {
	dir, err := mods(module)
	if err != nil {
		return File{}, err
	}
	b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return File{}, fmt.Errorf("read %s of %s: %w", name, module, err)
	}
	return File{Path: to, Data: b}, nil
}
