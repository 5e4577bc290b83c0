package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/scripts/qemu"
)

// run runs a foreign program and returns what it says, also in the error.
func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// checkDisk lets foreign tools judge a disk that a box left in order: partition table, FAT and ext4, the latter without a
// journal to replay.
func checkDisk(t *testing.T, d qemu.Disk) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if err := qemu.Flatten(t.Context(), d, raw); err != nil {
		t.Fatal(err)
	}
	disk, err := faults.LoadDisk(raw, 0)
	if err != nil {
		t.Fatal(err)
	}
	checkContent(t, disk)
}

func checkContent(t *testing.T, disk *faults.Disk) {
	t.Helper()
	c := cut{disk: disk, dir: t.TempDir()}
	if err := errors.Join(c.load(t.Context()), c.loadESP()); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t.Context(), "sgdisk", "-v", c.table); err != nil || !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %v: %s", err, out)
	}
	if out, err := run(t.Context(), "e2fsck", "-fn", c.data); err != nil {
		t.Errorf("%v", err)
	} else if strings.Contains(out, "recover") {
		t.Errorf("the journal was left to be replayed:\n%s", out)
	}
	if out, err := run(t.Context(), "dosfsck", "-n", c.esp); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// cut is a disk as a box left it, taken apart.
type cut struct {
	disk  *faults.Disk
	dir   string // for the files below
	table string // the partition table at its places on an otherwise empty disk
	esp   string
	data  string // as large as the partition
}

// partitions is what sfdisk says of a disk; it takes the backup table if the primary one is damaged.
type partitions struct {
	Table struct {
		Label      string
		Partitions []struct {
			Start, Size int64
			Type, Name  string
		}
	} `json:"partitiontable"`
}

// loadESP writes c.esp.
func (c *cut) loadESP() error {
	c.esp = filepath.Join(c.dir, "esp")
	esp := layout.UEFI().Partition(layout.UEFI().Boot[layout.SlotA])
	return c.disk.CopyTo(c.esp, esp.Start, esp.Size)
}

// load takes the disk apart, but for the EFI system partition.
func (c *cut) load(ctx context.Context) error {
	size := c.disk.Size()
	c.table, c.data = filepath.Join(c.dir, "table"), filepath.Join(c.dir, "data")
	table, err := faults.NewDisk(size)
	if err != nil {
		return err
	}
	buf := make([]byte, 34*layout.SectorSize)
	for _, off := range []int64{0, size - int64(len(buf))} {
		if _, err := c.disk.ReadAt(buf, off); err != nil {
			return err
		}
		if err := table.Write(buf, off, false); err != nil {
			return err
		}
	}
	// A backup table of the image's size may still be the valid one.
	if end := layout.UEFI().Size; end < size {
		if _, err := c.disk.ReadAt(buf, end-int64(len(buf))); err != nil {
			return err
		}
		if err := table.Write(buf, end-int64(len(buf)), false); err != nil {
			return err
		}
	}
	if err := table.CopyTo(c.table, 0, size); err != nil {
		return err
	}
	out, err := run(ctx, "sfdisk", "--json", c.table)
	if err != nil {
		return err
	}
	var p partitions
	if i := strings.Index(out, "{"); i > 0 { // warnings come first
		out = out[i:]
	}
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		return fmt.Errorf("sfdisk: %w: %s", err, out)
	}
	want := layout.UEFI()
	if len(p.Table.Partitions) != len(want.Partitions) {
		return fmt.Errorf("%d partitions: %s", len(p.Table.Partitions), out)
	}
	for i, w := range want.Partitions {
		got := p.Table.Partitions[i]
		if got.Start*layout.SectorSize != w.Start || got.Name != w.Name || got.Size*layout.SectorSize < w.Size {
			return fmt.Errorf("partition %d is %+v, not %+v", i+1, got, w)
		}
	}
	data := p.Table.Partitions[want.Data-1]
	return c.disk.CopyTo(c.data, data.Start*layout.SectorSize, data.Size*layout.SectorSize)
}
