package slots

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
)

// The files that the boot loaders read. Each of those that decide which slot starts is one sector, and as long for either slot, so
// that committing to a slot is one write in place.
const (
	loaderConf = "loader/loader.conf"
	autoboot   = "autoboot.txt"
	// maxEntry bounds a loader entry and a command line's file in bytes.
	maxEntry = 64 << 10
)

// EntrySize is the size in bytes of a loader entry's file, which images make as large as this: one cluster.
const EntrySize = 2048

// CommitFile is the file on the first FAT that decides which slot starts.
func CommitFile(t layout.Table) string {
	if t == layout.MBR {
		return autoboot
	}
	return loaderConf
}

// CommitContent is what the file holds if a slot is committed.
func CommitContent(t layout.Table, slot layout.Slot) []byte {
	if t == layout.MBR {
		return Autoboot(slot)
	}
	return LoaderConf(slot)
}

// LoaderConf is the content of loader.conf that starts a slot (loader.conf(5)).
func LoaderConf(slot layout.Slot) []byte {
	return fmt.Appendf(nil, "timeout 0\neditor no\ndefault %s\n", entryName(slot))
}

// Autoboot is the content of autoboot.txt that starts a slot, and the other one once when the restart asks for a trial
// ("tryboot").
func Autoboot(slot layout.Slot) []byte {
	boot := layout.Pi().Boot
	return fmt.Appendf(nil, "[all]\ntryboot_a_b=1\nboot_partition=%d\n[tryboot]\nboot_partition=%d\n", boot[slot], boot[other(slot)])
}

func other(slot layout.Slot) layout.Slot {
	if slot == layout.SlotA {
		return layout.SlotB
	}
	return layout.SlotA
}

func entryName(slot layout.Slot) string { return "croft-" + string(slot) + ".conf" }

// EntryID is how systemd-boot calls a slot's loader entry, for the variable LoaderEntryOneShot (package hardware/efi).
func EntryID(slot layout.Slot) string { return entryName(slot) }

// KernelFile is the file of a slot's kernel on the first FAT of UEFI machines.
func KernelFile(slot layout.Slot) string { return "vmlinuz-" + string(slot) }

// CmdlineFile is where the volume that a slot starts from keeps the kernel's command line.
func CmdlineFile(t layout.Table, slot layout.Slot) string {
	if t == layout.MBR {
		return "cmdline.txt"
	}
	return "loader/entries/" + entryName(slot)
}

// BlankEntry is a loader entry of a slot that can't be started: systemd-boot passes over entries without a program.
func BlankEntry() []byte { return bytes.Repeat([]byte{'\n'}, EntrySize) }

// BlankCmdline is cmdline.txt as a boot part has it; size is one cluster.
func BlankCmdline(size int64) []byte { return spaces(size) }

func spaces(n int64) []byte { return bytes.Repeat([]byte{' '}, int(n)) }

// entry is the loader entry that starts a slot, with newlines up to size. The lines that make it an entry are all in its first
// sector, which is written last.
func entry(slot layout.Slot, version, cmdline string, size int64) ([]byte, error) {
	head := fmt.Sprintf("title Croft %s (%s)\nsort-key croft\nversion %s\nlinux /%s\n", version, slot, version, KernelFile(slot))
	b := []byte(head + "options " + cmdline + "\n")
	if int64(len(b)) > size || len(head) > layout.SectorSize {
		return nil, fmt.Errorf("%w: its loader entry has %d bytes, and there is room for %d", ErrTooLarge, len(b), size)
	}
	return append(b, bytes.Repeat([]byte{'\n'}, int(size)-len(b))...), nil
}

// parseEntry reads the lines "key value" of a loader entry; of lines with the same key, the last.
func parseEntry(b []byte) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(key, "#") {
			m[key] = strings.TrimSpace(value)
		}
	}
	return m
}

// cmdlineText is the content of cmdline.txt. The firmware takes the first line; the kernel passes over what else it is given.
func cmdlineText(cmdline string, size int64) ([]byte, error) {
	if int64(len(cmdline)) >= size {
		return nil, fmt.Errorf("%w: its command line has %d bytes, and there is room for %d", ErrTooLarge, len(cmdline), size-1)
	}
	return append([]byte(cmdline+"\n"), spaces(size-int64(len(cmdline))-1)...), nil
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// The kernel arguments by which a slot says what it holds.
const (
	argRoot    = "root=PARTUUID="
	argVersion = "croft.version="
	argNumber  = "croft.number="
)

// read takes a command line for what it says, if it starts the root that belongs to the slot.
func (s *Stamp) read(cmdline, root string) {
	var version string
	var number int64
	found := false
	for _, arg := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(arg, argRoot); ok {
			found = strings.EqualFold(v, root)
		}
		if v, ok := strings.CutPrefix(arg, argVersion); ok {
			version = v
		}
		if v, ok := strings.CutPrefix(arg, argNumber); ok {
			number, _ = strconv.ParseInt(v, 10, 64)
		}
	}
	if found {
		s.Complete, s.Version, s.Number, s.Cmdline = true, version, max(0, number), cmdline
	}
}

// Committed is the slot that the firmware starts by itself, as the file on the first FAT says. It fails with ErrForm where that
// names none.
func Committed(t layout.Table, first io.ReaderAt) (layout.Slot, error) {
	b, err := fat.ReadFile(first, CommitFile(t), maxEntry)
	if err != nil {
		return "", volumeError(err)
	}
	for _, slot := range []layout.Slot{layout.SlotA, layout.SlotB} {
		if t == layout.GPT && parseEntry(b)["default"] == entryName(slot) ||
			t == layout.MBR && bootPartition(b) == layout.Pi().Boot[slot] {
			return slot, nil
		}
	}
	return "", fmt.Errorf("%w: %s names no slot", ErrForm, CommitFile(t))
}

// bootPartition reads what autoboot.txt says of a start that is no trial; 0 if nothing.
func bootPartition(b []byte) int {
	n, counts := 0, true
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			counts = line == "[all]"
		}
		if v, ok := strings.CutPrefix(line, "boot_partition="); ok && counts {
			n, _ = strconv.Atoi(v)
		}
	}
	return n
}
