package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
)

// memoryOptions are options whose disk is d.
func memoryOptions(t *testing.T, d faults.Device) qemu.Options {
	t.Helper()
	return qemu.Options{
		Board: qemu.PC, Kernel: direct(t, image(t, qemu.PC)), CPUs: 1, NICs: []qemu.NIC{{}}, Disks: []qemu.Disk{{NBD: serve(t, d)}},
	}
}

// firsts are boxes that were started once and switched off, by the size of their disks.
var firsts struct {
	sync.Mutex
	bySize map[int64]startedBox
}

type startedBox struct {
	disk     *faults.Disk // not to be written to
	id, code string
}

// started returns the disk of a box that was started once and switched off, of size bytes, and the box's id and code.
func started(t *testing.T, size int64) (d *faults.Disk, id, code string) {
	t.Helper()
	firsts.Lock()
	defer firsts.Unlock()
	f, ok := firsts.bySize[size]
	if !ok {
		d, err := faults.LoadDisk(image(t, qemu.PC), size)
		if err != nil {
			t.Fatal(err)
		}
		b := start(t, memoryOptions(t, d))
		s := b.up()
		b.off()
		f = startedBox{d, s.System.ID, b.code()}
		if firsts.bySize == nil {
			firsts.bySize = map[int64]startedBox{}
		}
		firsts.bySize[size] = f
	}
	return f.disk.Fork(), f.id, f.code
}

// editData lets debugfs carry out commands on the data partition of d.
func editData(t *testing.T, d *faults.Disk, commands string) {
	t.Helper()
	dir := t.TempDir()
	c := cut{disk: d, dir: dir}
	if err := c.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "commands")
	if err := os.WriteFile(script, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t.Context(), "debugfs", "-w", "-f", script, c.data); err != nil {
		t.Fatal(err)
	} else {
		t.Logf("debugfs: %s", out)
	}
	edited, err := faults.LoadDisk(c.data, 0)
	if err != nil {
		t.Fatal(err)
	}
	start := layout.UEFI().Partition(layout.UEFI().Data).Start
	buf := make([]byte, 1<<20)
	for off := int64(0); off < edited.Size(); off += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), edited.Size()-off)]
		if _, err := edited.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		if err := d.Write(p, start+off, false); err != nil {
			t.Fatal(err)
		}
	}
}

// dataSum is the digest of everything from the data partition's start on.
func dataSum(t *testing.T, d *faults.Disk) string {
	t.Helper()
	start := layout.UEFI().Partition(layout.UEFI().Data).Start
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(d, start, d.Size()-start)); err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}

// rescued waits for the page of a box in rescue mode, signs in and returns its state.
func (b *box) rescued(wantCode string) api.Box {
	b.t.Helper()
	b.waitPage()
	b.signIn(b.code())
	s := b.waitState("the box is in rescue mode", time.Minute, func(s api.Box) error {
		if s.System.Mode != api.ModeRescue || s.System.Rescue == nil {
			return fmt.Errorf("mode %q", s.System.Mode)
		}
		return nil
	})
	r := s.System.Rescue
	if r.Code != wantCode || r.Text == "" || r.Detail == "" {
		b.t.Errorf("rescue: %+v, want %q", r, wantCode)
	}
	status, page, err := b.do(b.t.Context(), http.MethodGet, boxURL+"/", nil)
	if err != nil || status != http.StatusOK || !bytes.Contains(page, []byte("<form")) {
		b.t.Errorf("the page of a box in rescue mode: status %d, %v", status, err)
	}
	if _, err := b.vm.Console.Wait(b.t.Context(), b.mark, regexp.MustCompile("RESCUE MODE")); err != nil {
		b.t.Error(err)
	}
	return s
}

// rescue asks for one of rescue mode's actions and waits for its end, if the box is there to see it.
func (b *box) rescue(action, confirm string, want int) {
	b.t.Helper()
	status, body, err := b.do(b.t.Context(), http.MethodPost, boxURL+"/api/v1/rescue", api.RescueRequest{Action: action, Confirm: confirm})
	if err != nil || status != want {
		b.t.Fatalf("rescue action %s: status %d, %v: %s", action, status, err, body)
	}
}

func notBusy(s api.Box) error {
	if r := s.System.Rescue; r != nil && r.Busy != "" {
		return fmt.Errorf("busy with %s, %.0f %%", r.Busy, 100*r.Progress)
	}
	return nil
}

// TestDamagedData starts a box whose data partition is damaged at its start: it says so, checks, refuses to start over
// without the word, and with it becomes a new box.
func TestDamagedData(t *testing.T) {
	t.Parallel()
	d, id, code := started(t, diskSize)
	data := layout.UEFI().Partition(layout.UEFI().Data)
	if err := d.Write(random(4096), data.Start, false); err != nil {
		t.Fatal(err)
	}
	before := dataSum(t, d)
	b := start(t, memoryOptions(t, d))
	b.rescued("not-ext4")
	if b.code() != code {
		t.Errorf("rescue mode's code is %s; the card says %s", b.code(), code)
	}
	b.rescue("check", "", http.StatusAccepted)
	s := b.waitState("the check is over", pageTime, func(s api.Box) error {
		if s.System.Rescue == nil || s.System.Rescue.Check == nil {
			return errors.Join(errors.New("no outcome yet"), notBusy(s))
		}
		return nil
	})
	if c := s.System.Rescue.Check; c.OK || len(c.Findings) == 0 {
		t.Errorf("the check found %+v", c)
	} else {
		t.Logf("findings: %q", c.Findings)
	}
	b.browse("phone", "rescue en @rescue")
	b.browse("desk", "rescue de no script @rescue")
	b.rescue("retry", "", http.StatusAccepted)
	b.waitState("the retry is over", pageTime, notBusy)
	b.rescue("start-over", "erase", http.StatusUnprocessableEntity)
	if dataSum(t, d) != before {
		t.Error("the data partition was changed in rescue mode")
	}
	mark := b.vm.Console.Mark()
	b.rescue("start-over", api.StartOverWord, http.StatusAccepted)
	if _, err := b.vm.Console.Wait(t.Context(), mark, regexp.MustCompile("claim code")); err != nil {
		t.Fatal(err)
	}
	b.mark = b.vm.Console.Mark() // the code is shown again as services start
	b.newClient()
	s = b.up()
	if s.System.ID == id || s.System.ID == "" || b.code() == code {
		t.Error("starting over did not make a new box")
	}
	if err := grown(s); err != nil {
		t.Error(err)
	}
}

// TestMissingMark starts a box whose data partition has lost the box's mark: it must not start on it, nor change it; put
// back, the box is as before.
func TestMissingMark(t *testing.T) {
	t.Parallel()
	d, id, code := started(t, diskSize)
	editData(t, d, "dump /croft.json "+filepath.Join(t.TempDir(), "x")+"\nln /croft.json /kept\nunlink /croft.json\n")
	before := dataSum(t, d)
	b := start(t, memoryOptions(t, d))
	b.rescued("no-marker")
	b.rescue("retry", "", http.StatusAccepted)
	b.waitState("the retry is over", pageTime, notBusy)
	b.off()
	editData(t, d, "ln /kept /croft.json\nunlink /kept\n")
	if before == dataSum(t, d) {
		t.Error("the mark was not put back")
	}
	b = start(t, memoryOptions(t, d))
	s := b.up()
	if s.System.ID != id || b.code() != code {
		t.Errorf("box %s with code %s, was %s with %s", s.System.ID, b.code(), id, code)
	}
}

// TestFullData starts a box whose data partition has no free block left: it comes up, lets its owner in and says so.
func TestFullData(t *testing.T) {
	t.Parallel()
	d, id, _ := started(t, 0)
	big := filepath.Join(t.TempDir(), "big")
	size := layout.UEFI().Partition(layout.UEFI().Data).Size
	if err := os.WriteFile(big, random(int(size)), 0o600); err != nil {
		t.Fatal(err)
	}
	editData(t, d, "write "+big+" /photos\n") // as much as fits
	b := start(t, memoryOptions(t, d))
	s := b.upTo(running)
	for _, n := range s.Notices {
		t.Logf("notice: %s", n.Text)
	}
	if s.System.ID != id {
		t.Errorf("box %s, was %s", s.System.ID, id)
	}
	if v := s.System.Vitals.Data; v == nil || v.Free > size/50 {
		t.Errorf("the data partition should be full: %+v", v)
	}
	b.off()
	c := cut{disk: d, dir: t.TempDir()}
	if err := c.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t.Context(), "e2fsck", "-fn", c.data); err != nil {
		t.Errorf("%v%s", err, out)
	}
}

// TestUSBDisks boots a box beside drives that are not its own, and plugs in another: nothing on them may change, even if
// they look like the box's own.
func TestUSBDisks(t *testing.T) {
	t.Parallel()
	img := image(t, qemu.PC)
	dir := t.TempDir()
	stick := func(name string, label, uuid string) string {
		path := filepath.Join(dir, name)
		files := filepath.Join(dir, name+".files")
		if err := os.Mkdir(files, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(files, "photos"), random(1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		mark := `{"format":1,"id":"00000000-0000-4000-8000-000000000000","claim":"0000-0000"}`
		if err := os.WriteFile(filepath.Join(files, "croft.json"), []byte(mark), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := run(t.Context(), "mke2fs", "-q", "-t", "ext4", "-L", label, "-U", uuid, "-d", files, path, "64M"); err != nil {
			t.Fatal(err)
		}
		return path
	}
	alike := stick("alike.img", "croft-data", disk.SeedUUID)
	later := stick("later.img", "photos", "random")
	// A copy of the whole image has the same partitions by every name, the root that the kernel looks for too.
	twin := filepath.Join(dir, "twin.img")
	if _, err := run(t.Context(), "cp", "--sparse=always", img, twin); err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	sum := func(path string) string {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			t.Fatal(err)
		}
		return string(h.Sum(nil))
	}
	for _, path := range []string{alike, later, twin} {
		sums[path] = sum(path)
	}
	o := options(t)
	o.Disks = append(o.Disks, qemu.Disk{Path: alike, USB: true}, qemu.Disk{Path: twin, USB: true})
	b := start(t, o)
	s := b.up()
	if err := grown(s); err != nil {
		t.Errorf("the box's own disk: %v", err)
	}
	id, err := b.vm.PlugUSB(t.Context(), qemu.Disk{Path: later})
	if err != nil {
		t.Fatal(err)
	}
	// The kernel has read its partition table when QEMU counts reads.
	b.until("the kernel has looked at the drive", time.Minute, func(ctx context.Context) error {
		n, err := reads(ctx, b.vm, id)
		if err == nil && n == 0 {
			err = errors.New("no reads")
		}
		return err
	})
	b.waitState("everything still runs", time.Minute, healthy)
	if err := b.vm.Unplug(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.off()
	for path, was := range sums {
		if sum(path) != was {
			t.Errorf("%s was changed", filepath.Base(path))
		}
	}
}

// reads counts the reads of a drive that was plugged in.
func reads(ctx context.Context, vm *qemu.VM, id string) (int64, error) {
	var stats []struct {
		QDev  string `json:"qdev"`
		Stats struct {
			Reads int64 `json:"rd_operations"`
		} `json:"stats"`
	}
	if err := vm.Do(ctx, "query-blockstats", nil, &stats); err != nil {
		return 0, err
	}
	for _, s := range stats {
		if s.QDev == id || filepath.Base(filepath.Dir(s.QDev)) == id || bytes.Contains([]byte(s.QDev), []byte(id)) {
			return s.Stats.Reads, nil
		}
	}
	return 0, fmt.Errorf("no drive %s among %s", id, strconv.Itoa(len(stats)))
}

// TestWatchdog hangs a box for good, in a kernel panic that does not restart it: the hardware watchdog must.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	o := options(t, "unknown_nmi_panic", "panic=0")
	o.Watchdog = true
	b := start(t, o)
	first := b.up()
	b.mark = b.vm.Console.Mark()
	if err := b.vm.Do(t.Context(), "inject-nmi", nil, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), pageTime)
	defer cancel()
	if _, err := b.vm.Console.Wait(ctx, b.mark, regexp.MustCompile("Kernel panic")); err != nil {
		t.Fatal(err)
	}
	b.code()
	if s := b.up(); s.System.ID != first.System.ID {
		t.Errorf("box %s, was %s", s.System.ID, first.System.ID)
	}
}
