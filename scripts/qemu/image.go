package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/croft-os/croft/hardware/layout"
)

// Overlay makes a disk at path (qcow2) that starts with the content of the raw image base, which is never written to,
// and is size bytes large, or as large as base if size is 0.
func Overlay(ctx context.Context, base, path string, size int64) (Disk, error) {
	base, err := filepath.Abs(base)
	if err != nil {
		return Disk{}, err
	}
	args := []string{"create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, path}
	if size > 0 {
		args = append(args, strconv.FormatInt(size, 10))
	}
	if err := tool(ctx, "qemu-img", args...); err != nil {
		return Disk{}, err
	}
	return Disk{Path: path, Format: "qcow2"}, nil
}

// Flatten writes what is on disk d to a sparse raw file at path. The machine that uses d must have ended.
func Flatten(ctx context.Context, d Disk, path string) error {
	return tool(ctx, "qemu-img", "convert", "-f", d.format(), "-O", "raw", d.Path, path)
}

// Direct makes the kernel of a slot of a raw UEFI image startable without firmware: it copies it to dir and reads its
// command line from its loader entry. The arguments in extra are added.
func Direct(ctx context.Context, image, dir string, slot layout.Slot, extra ...string) (*Kernel, error) {
	esp := layout.UEFI().Partition(layout.UEFI().Boot[slot])
	at := fmt.Sprintf("%s@@%d", image, esp.Start)
	entry := filepath.Join(dir, "entry-"+string(slot)+".conf")
	if err := tool(ctx, "mcopy", "-n", "-i", at, fmt.Sprintf("::/loader/entries/croft-%s.conf", slot), entry); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(entry)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Path: filepath.Join(dir, "vmlinuz-"+string(slot))}
	var linux string
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "linux":
			linux = strings.TrimSpace(value)
		case "options":
			k.Cmdline = strings.TrimSpace(value)
		}
	}
	if linux == "" || k.Cmdline == "" {
		return nil, fmt.Errorf("loader entry of slot %s has no kernel or no options: %q", slot, b)
	}
	if err := tool(ctx, "mcopy", "-n", "-i", at, "::"+linux, k.Path); err != nil {
		return nil, err
	}
	k.Cmdline = strings.Join(append([]string{k.Cmdline}, extra...), " ")
	return k, nil
}

// tool runs a foreign program, and gives what it said in the error.
func tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
