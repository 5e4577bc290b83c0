package firmware

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Model is a generation of Raspberry Pis.
type Model string

// The generations that differ in how they start.
const (
	Pi3 Model = "pi3" // and the Zero 2 W: boot code on the medium
	Pi4 Model = "pi4" // boot code in the EEPROM, start4.elf on the medium
	Pi5 Model = "pi5" // all of it in the EEPROM
)

// Models are all of them.
func Models() []Model { return []Model{Pi3, Pi4, Pi5} }

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
	v := bootable(auto.partition)
	// Without a partition that can be started: the first one that can.
	for n := 1; v == nil && n <= 4; n++ {
		v = bootable(n)
	}
	if v == nil {
		return nil, errors.New("no partition that can be started")
	}
	config := "config.txt"
	if tryboot && !auto.ab {
		config = "tryboot.txt"
	}
	return piKernel(v, ps, config)
}

// bootFiles tells whether a partition is one to start from: by the second stage's program or, on the Pi 5, by its settings.
func bootFiles(v *volume, model Model) bool {
	switch model {
	case Pi3:
		return v.has("start.elf")
	case Pi4:
		return v.has("start4.elf") || v.has("start.elf")
	}
	return v.has("config.txt")
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
	kernel, cmdline := "kernel8.img", "cmdline.txt"
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if k, ok := strings.CutPrefix(line, "kernel="); ok {
			kernel = k
		}
		if c, ok := strings.CutPrefix(line, "cmdline="); ok {
			cmdline = c
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
	root, err := kernelRoot(v.r, ps, line)
	if err != nil {
		return nil, err
	}
	return &Boot{Kernel: k[0], Cmdline: strings.TrimSpace(line), Root: root, Part: Place{v.start, v.size}, Own: c[0]}, nil
}
