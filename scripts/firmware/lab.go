package firmware

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/image/pack"
	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

// Lab is a medium of one of the two layouts that is small enough to look at every state of it: real tables and volumes, and releases
// whose kernels and roots are only as much as the models look at.
type Lab struct {
	Layout layout.Layout
	Disk   *faults.Disk // as from the factory: release 1 in slot A, slot B blank
	First  *Made        // release 1
	size   Sizes
	made   int
}

// Sizes are what a lab has, in bytes.
type Sizes struct {
	Root   int64 // of the root part of a release
	Kernel int64 // of the kernel
	Room   int64 // of a root partition, and of the file for a kernel
}

// Made is a release and its parts.
type Made struct {
	*release.Release
	Parts map[string][]byte
}

// Fill writes a part: what Medium.Install asks for.
func (m *Made) Fill(part string, dst io.Writer) error {
	_, err := dst.Write(m.Parts[part])
	return err
}

const labVolume = 192 << 10 // bytes of a FAT volume

// NewLab makes a lab in a folder.
func NewLab(ctx context.Context, dir string, t layout.Table, size Sizes) (*Lab, error) {
	l := &Lab{size: size, Layout: small(t, size)}
	path := filepath.Join(dir, "lab.img")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(l.Layout.Size); err != nil {
		return nil, err
	}
	if err := pack.WriteTable(f, l.Layout); err != nil {
		return nil, err
	}
	first := l.Layout.Partition(l.Layout.First)
	if _, err := f.WriteAt(formatFAT(first.Size, l.firstFiles()), first.Start); err != nil {
		return nil, err
	}
	if l.Disk, err = faults.LoadDisk(path, l.Layout.Size); err != nil {
		return nil, err
	}
	data := l.Layout.Partition(l.Layout.Data)
	if err := l.Disk.Write(bytes.Repeat([]byte("data"), int(data.Size)/4), data.Start, false); err != nil {
		return nil, err
	}
	if l.First, err = l.Release(); err != nil {
		return nil, err
	}
	m := l.Medium(l.Disk, layout.SlotB)
	if err := m.Install(ctx, l.First.Release, l.First.Fill, func(slots.Step, int64, int64) {}); err != nil {
		return nil, err
	}
	return l, m.Commit(layout.SlotA)
}

// small is a layout with the numbers and names of the real one.
func small(t layout.Table, size Sizes) layout.Layout {
	l := layout.UEFI()
	if t == layout.MBR {
		l = layout.Pi()
	}
	ps := append([]layout.Partition(nil), l.Partitions...)
	at := int64(64 << 10) // behind a GPT
	for i := range ps {
		p := &ps[i]
		p.Start = at
		switch p.Number {
		case l.Root[layout.SlotA], l.Root[layout.SlotB]:
			p.Size = size.Room
		case l.Data:
			p.Size = 8 << 10
		default:
			p.Size = labVolume
		}
		if p.Number == l.Extended {
			continue
		}
		at += (p.Size + 0xffff) &^ 0xffff
		if l.Extended != 0 && p.Number >= l.Extended-1 {
			at += layout.EBRGap
		}
	}
	if l.Extended != 0 {
		x := &ps[l.Extended-1]
		x.Start = ps[l.Extended].Start - layout.EBRGap
		x.Size = ps[len(ps)-1].Start + ps[len(ps)-1].Size - x.Start
	}
	l.Partitions, l.Size = ps, at+1<<20
	return l
}

// program is as much of a PE image as the models look at.
func program(n int64, fill []byte) []byte {
	b := append([]byte("MZ"), make([]byte, 58)...)
	b = binary.LittleEndian.AppendUint32(b, 64)
	b = append(b, "PE\x00\x00\x64\x86"...)
	return append(b, fill[:n-int64(len(b))]...)
}

// rescueCmdline is the lab's rescue system's.
const rescueCmdline = "panic=10 croft.version=v1.0"

// piFiles are the files of a partition that Raspberry Pis start from.
func piFiles(kernel []byte, config string, cmdline []byte) map[string][]byte {
	return map[string][]byte{
		"config.txt": []byte("[all]\narm_64bit=1\nkernel=vmlinuz\n" + config), "cmdline.txt": cmdline, "vmlinuz": kernel,
		"start.elf": []byte("\x7fELF 3"), "start4.elf": []byte("\x7fELF 4"), "bcm2712-rpi-5-b.dtb": []byte("tree"),
	}
}

func (l *Lab) firstFiles() map[string][]byte {
	files := map[string][]byte{
		"croft.txt": bytes.Repeat([]byte{'\n'}, 512), "croft.json": bytes.Repeat([]byte{' '}, 4096),
		slots.CommitFile(l.Layout.Table): slots.CommitContent(l.Layout.Table, layout.SlotB),
	}
	files["rescue.cpio.zst"] = []byte("initramfs")
	if l.Layout.Table == layout.MBR {
		maps.Copy(files, piFiles([]byte("\x1f\x8b rescue"), "initramfs rescue.cpio.zst followkernel\n", []byte(rescueCmdline+"\n")))
		files["bootcode.bin"] = []byte("boot code")
		return files
	}
	files["EFI/BOOT/BOOTX64.EFI"] = program(1024, make([]byte, 1024))
	files["rescue-vmlinuz"] = program(1024, make([]byte, 1024))
	files["loader/entries/croft-rescue.conf"] = []byte("title Rescue\nsort-key croft-rescue\nversion v1\nlinux /rescue-vmlinuz\n" +
		"initrd /rescue.cpio.zst\noptions " + rescueCmdline + "\n")
	for _, slot := range []layout.Slot{layout.SlotA, layout.SlotB} {
		files[slots.CmdlineFile(layout.GPT, slot)] = slots.BlankEntry()
		files[slots.KernelFile(slot)] = make([]byte, l.size.Room)
	}
	return files
}

// Release makes the next release: other content in every sector.
func (l *Lab) Release() (*Made, error) {
	l.made++
	version := fmt.Sprintf("v1.%d", l.made)
	noise := func(n int64, seed uint64) []byte {
		rng, b := rand.New(rand.NewPCG(uint64(l.made), seed)), make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	root := noise(l.size.Root, 1)
	clear(root[:96])
	copy(root, "hsqs")
	binary.LittleEndian.PutUint64(root[40:], uint64(len(root)))
	kernel := program(l.size.Kernel, noise(l.size.Kernel, 2))
	m := &Made{Parts: map[string][]byte{slots.PartRoot: root, slots.PartBoot: kernel}}
	if l.Layout.Table == layout.MBR {
		copy(kernel, "\x1f\x8b")
		whole := formatFAT(labVolume, piFiles(kernel, "", slots.BlankCmdline(512)))
		end, err := fat.End(bytes.NewReader(whole))
		if err != nil {
			return nil, err
		}
		m.Parts[slots.PartBoot] = whole[:end]
	}
	part := func(b []byte) release.Part {
		h := sha256.Sum256(b)
		return release.Part{Size: int64(len(b)), SHA256: hex.EncodeToString(h[:])}
	}
	m.Release = &release.Release{
		Format: release.Format, Board: "lab", Version: version, Number: int64(l.made), Channel: release.Stable, Built: 1790000000,
		Cmdline: fmt.Sprintf("root=PARTUUID={root} ro rootfstype=squashfs rootwait=10 panic=10 croft.slot={slot} croft.version=%s croft.number=%d",
			version, l.made),
		Boot: part(m.Parts[slots.PartBoot]), Root: part(root),
	}
	return m, nil
}

// Medium is what a box that runs from a slot of a disk has.
func (l *Lab) Medium(d faults.Device, running layout.Slot) *slots.Medium {
	idle := layout.SlotA
	if running == layout.SlotA {
		idle = layout.SlotB
	}
	part := func(number int) slots.Device {
		p := l.Layout.Partition(number)
		return slots.Window{D: disk{d}, Start: p.Start, Len: p.Size}
	}
	lay := l.Layout
	m := &slots.Medium{
		Table: lay.Table, Running: running, First: part(lay.First), Root: part(lay.Root[running]), RootIdle: part(lay.Root[idle]),
		RootID: map[layout.Slot]string{running: lay.PARTUUID(lay.Root[running]), idle: lay.PARTUUID(lay.Root[idle])},
	}
	if lay.Boot[idle] != lay.First {
		m.Boot, m.BootIdle = part(lay.Boot[running]), part(lay.Boot[idle])
	}
	return m
}

// disk is a device of package faults as one of package slots.
type disk struct{ faults.Device }

func (d disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.Write(p, off, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d disk) Sync() error         { return d.Flush() }
func (d disk) Reread() io.ReaderAt { return d.Device }

// Starts are the ways in which a medium of this layout can be started, by name: on UEFI machines one, of Raspberry Pis one for each
// generation.
func (l *Lab) Starts() []Start { return l.starts(Models()) }

// AllStarts are those with other boot code, too.
func (l *Lab) AllStarts() []Start { return l.starts(AllModels()) }

func (l *Lab) starts(models []Model) []Start {
	if l.Layout.Table == layout.GPT {
		return []Start{{"uefi", ""}}
	}
	var out []Start
	for _, m := range models {
		out = append(out, Start{string(m), m})
	}
	return out
}

// Start is a machine that starts from a medium.
type Start struct {
	Name  string
	model Model
}

// Boot starts it; trial is the slot of a start that is asked for once, or "".
func (s Start) Boot(r io.ReaderAt, size int64, trial layout.Slot) (*Boot, error) {
	if s.model != "" {
		return Pi(r, size, s.model, trial != "")
	}
	vars := Vars{}
	if trial != "" {
		vars["LoaderEntryOneShot"] = slots.EntryID(trial)
	}
	return UEFI(r, size, vars)
}
