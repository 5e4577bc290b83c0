package firmware

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Model is a generation of Raspberry Pis, and a version of its boot code.
type Model string

// The generations that differ in how they start, with boot code of August 2025 or later.
const (
	Pi3 Model = "pi3" // and the Zero 2 W: boot code on the medium
	Pi4 Model = "pi4" // boot code in the EEPROM, start4.elf on the medium
	Pi5 Model = "pi5" // all of it in the EEPROM
)

// The same with other boot code; they differ only where a partition that is asked for can't be started.
const (
	Pi4Before Model = "pi4-before-2025"
	Pi5Before Model = "pi5-before-2025"
	Pi4First  Model = "pi4-walks-from-1"
	Pi5First  Model = "pi5-walks-from-1"
)

// Models are the generations.
func Models() []Model { return []Model{Pi3, Pi4, Pi5} }

// AllModels are those with other boot code, too.
func AllModels() []Model {
	return append(Models(), Pi4Before, Pi5Before, Pi4First, Pi5First)
}

// walk is how boot code goes on where the partition that it is sent to can't be started.
type walk int

const (
	stops     walk = iota // it tries other drives, again and again
	fromNext              // the partitions behind that one, then those before it
	fromFirst             // the partitions in their order
)

// What the models take for granted where Raspberry Pi's documentation leaves it open, or was not always right. Who finds out better
// changes it here, and docs/boards.md.
const (
	// The "PARTITION_WALK" chapter of the documentation: "check each partition in turn (up to 8 and wrapping to 0)"; the release notes of
	// 27 January and 11 February 2025: "starting from the specified partition". The default since 13 August 2025 (rpi-eeprom, pull requests
	// 736 and 737). autoboot.txt is not read again on the way.
	eepromWalks = fromNext
	// In rpi-eeprom's issue 738 a Pi 4 tries the partition that it was sent to, and then 1, 2 and 3.
	eepromWalksSeen = fromFirst
	// The same release notes: before, "the bootloader would stop and advance to the next BOOT_ORDER".
	eepromBefore = stops
	// Nothing says that bootcode.bin looks any further. It may.
	bootcodeWalks = stops
	// lastPartition is how far a walk goes.
	lastPartition = 8
)

// walks is how the boot code of each model goes on.
func (m Model) walks() walk {
	switch m {
	case Pi3:
		return bootcodeWalks
	case Pi4Before, Pi5Before:
		return eepromBefore
	case Pi4First, Pi5First:
		return eepromWalksSeen
	}
	return eepromWalks
}

// order is in which order partitions are tried by boot code that is sent to one.
func (m Model) order(asked int) []int {
	if asked == 0 { // the default: "the first bootable FAT partition"
		return []int{1, 2, 3, 4}
	}
	order := []int{asked}
	for i := range lastPartition {
		switch m.walks() {
		case fromNext: // 0, where it wraps to, is the default
			order = append(order, max(1, (asked+1+i)%(lastPartition+1)))
		case fromFirst:
			order = append(order, 1+i)
		}
	}
	return order
}

// ErrStops is when boot code finds nothing to start, and waits for another drive or for being switched off.
var ErrStops = errors.New("no partition that can be started")

// autobootLimit is how much of autoboot.txt the firmware reads, in bytes.
const autobootLimit = 512

// Pi starts a disk of size bytes. tryboot is the flag of a restart that asks for a trial; the firmware forgets it at once.
func Pi(r io.ReaderAt, size int64, model Model, tryboot bool) (*Boot, error) {
	ps, err := readMBR(r, size)
	if err != nil {
		return nil, err
	}
	number := func(n int) *partition {
		if i := slices.IndexFunc(ps, func(p partition) bool { return p.number == n && n <= 4 && (p.kind == "0c" || p.kind == "0b") }); i >= 0 {
			return &ps[i]
		}
		return nil
	}
	bootable := func(n int) *volume {
		p := number(n)
		if p == nil {
			return nil
		}
		v, err := openFAT(r, p.Off, p.Len)
		if err != nil || !bootFiles(v, model) {
			return nil
		}
		return v
	}
	p := number(1)
	if p == nil {
		return nil, errors.New("no first partition")
	}
	selector, err := openFAT(r, p.Off, p.Len)
	if err != nil {
		return nil, fmt.Errorf("first partition: %w", err)
	}
	if model == Pi3 {
		// The boot ROM takes bootcode.bin from there, which goes on only where there is a config.txt.
		if !selector.has("bootcode.bin") || !selector.has("config.txt") {
			return nil, errors.New("no bootcode.bin that goes on")
		}
	}
	text, err := selector.file("autoboot.txt", autobootLimit+1)
	if err != nil && !errors.Is(err, errNoFile) {
		return nil, err
	}
	auto := autoboot(text, tryboot)
	var v *volume
	walked := false
	for i, n := range model.order(auto.partition) {
		if v = bootable(n); v != nil {
			walked = i > 0
			break
		}
	}
	if v == nil {
		return nil, ErrStops
	}
	config := "config.txt"
	if tryboot && !auto.ab {
		config = "tryboot.txt"
	}
	b, err := piKernel(v, ps, config)
	if err == nil {
		b.Walked = walked
	}
	return b, err
}

// bootFiles tells whether a partition is one to start from: by the second stage's program or, on the Pi 5, by its settings and device
// tree.
func bootFiles(v *volume, model Model) bool {
	switch model {
	case Pi3:
		return v.has("start.elf")
	case Pi4, Pi4Before, Pi4First:
		return v.has("start4.elf") || v.has("start.elf")
	}
	return v.has("config.txt") && v.has("bcm2712-rpi-5-b.dtb")
}

type autobootFile struct {
	partition int
	ab        bool // settings are config.txt in a trial, too
}

// autoboot reads autoboot.txt: lines with settings, under the filters [all], [none] and [tryboot].
func autoboot(b []byte, tryboot bool) autobootFile {
	var a autobootFile
	if len(b) > autobootLimit {
		b = b[:autobootLimit]
	}
	counts := true
	for line := range strings.Lines(string(b)) {
		line = strings.Trim(line, " \t\r\n")
		if strings.HasPrefix(line, "[") {
			counts = line == "[all]" || line == "[tryboot]" && tryboot
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !counts || strings.HasPrefix(line, "#") {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			continue
		}
		switch key {
		case "boot_partition":
			a.partition = n
		case "tryboot_a_b":
			a.ab = n == 1
		}
	}
	return a
}

// piKernel is what the second stage starts from a boot partition.
func piKernel(v *volume, ps []partition, config string) (*Boot, error) {
	b, err := v.file(config, 16<<10)
	if err != nil {
		return nil, err
	}
	kernel, cmdline, initramfs := "kernel8.img", "cmdline.txt", ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if k, ok := strings.CutPrefix(line, "kernel="); ok {
			kernel = k
		}
		if c, ok := strings.CutPrefix(line, "cmdline="); ok {
			cmdline = c
		}
		if f := strings.Fields(line); len(f) == 3 && f[0] == "initramfs" && f[2] == "followkernel" {
			initramfs = f[1]
		}
	}
	k, err := v.places(kernel)
	if err != nil {
		return nil, err
	}
	c, err := v.places(cmdline)
	if err != nil {
		return nil, err
	}
	if len(k) == 0 || len(c) != 1 {
		return nil, errors.New("no kernel or no command line")
	}
	head, err := v.file(kernel, 64)
	if err != nil {
		return nil, err
	}
	// A kernel of arm64, or one compressed by gzip (Documentation/arch/arm64/booting.rst).
	if !strings.HasPrefix(string(head), "\x1f\x8b") && (len(head) < 64 || string(head[56:60]) != "ARM\x64") {
		return nil, fmt.Errorf("%s is no kernel", kernel)
	}
	text, err := v.file(cmdline, 4096)
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	// "Failed to load …, initramfs disabled", say start.elf and start4.elf where it is missing.
	if initramfs != "" && v.has(initramfs) && !strings.Contains(" "+line, " root=") {
		return &Boot{Kernel: k[0], Cmdline: strings.TrimSpace(line), Rescue: true}, nil
	}
	root, err := kernelRoot(v.r, ps, line)
	if err != nil {
		return nil, err
	}
	return &Boot{Kernel: k[0], Cmdline: strings.TrimSpace(line), Root: root, Part: Place{v.start, v.size}, Own: c[0]}, nil
}
