package boot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/services/api"
)

const updaterUID, fetcherUID, otherUID = 207, 206, 204

// fakeDrive is a drive in a sysfs made of files.
type fakeDrive struct {
	name, model string
	virtual     bool
	pulls       bool // a removable one
	seq         int
	parts       []string // names of what is put on each of its partitions; on itself if it has none
	on          string
}

// bench is an opener over a sysfs and device nodes made of files. vda is the boot medium.
func bench(t *testing.T, table layout.Table, mounted []string, drives ...fakeDrive) *opener {
	t.Helper()
	dir := t.TempDir()
	o := &opener{updater: updaterUID, fetcher: fetcherUID, sys: filepath.Join(dir, "sys"), dev: filepath.Join(dir, "dev"), mounts: filepath.Join(dir, "mountinfo")}
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stick, err := os.ReadFile(cardWith(t))
	if err != nil {
		t.Fatal(err)
	}
	on := map[string]string{
		"fat": string(stick), "ext4": string(made(t, "mkfs.ext4", "-q", "-F")), "exfat": string(made(t, "mkfs.exfat", "-b", "4K", "-c", "512", "-L", "Fotos 64")),
		"ntfs": "\xeb\x52\x90NTFS    ", "else": strings.Repeat("x", 4096), "": "",
	}
	for i, d := range drives {
		at := filepath.Join(o.sys, "block", d.name)
		write(filepath.Join(at, "size"), "8192\n")
		write(filepath.Join(at, "diskseq"), fmt.Sprintln(d.seq))
		write(filepath.Join(at, "dev"), fmt.Sprintf("8:%d\n", 16*i))
		if !d.virtual {
			write(filepath.Join(at, "device/model"), d.model+"\n")
			write(filepath.Join(at, "device/vendor"), "Acme    \n")
		}
		if d.pulls {
			write(filepath.Join(at, "removable"), "1\n")
		}
		write(filepath.Join(o.dev, d.name), on[d.on])
		for n, what := range d.parts {
			p := fmt.Sprint(d.name, n+1)
			write(filepath.Join(at, p, "partition"), fmt.Sprintln(n+1))
			write(filepath.Join(at, p, "size"), "4096\n")
			write(filepath.Join(at, p, "start"), "8\n")
			write(filepath.Join(at, p, "dev"), fmt.Sprintf("8:%d\n", 16*i+n+1))
			write(filepath.Join(o.dev, p), on[what])
		}
		if err := os.MkdirAll(filepath.Join(o.sys, "class/block"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(at, filepath.Join(o.sys, "class/block", d.name)); err != nil {
			t.Fatal(err)
		}
	}
	var mounts strings.Builder
	for _, dev := range mounted {
		fmt.Fprintf(&mounts, "36 35 %s / /mnt rw,noatime - vfat /dev/x rw\n", dev)
	}
	write(o.mounts, mounts.String())
	f := &fakeFirmware{committed: layout.SlotA}
	o.box = startOf(t, t.TempDir(), "/nonexistent", f, layout.SlotA)
	o.box.medium = &medium{sys: o.sys, dev: o.dev, disk: disk.Disk{Name: "vda", Model: "Card"}, table: table, running: layout.SlotA}
	return o
}

// made is a small file system.
func made(t *testing.T, tool string, args ...string) []byte {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := errors.Join(os.WriteFile(img, nil, 0o600), os.Truncate(img, 1<<20)); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath(tool)
	if err != nil {
		path = "/usr/sbin/" + tool
	}
	if out, err := exec.Command(path, append(args, img)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", tool, err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func names(list []api.OpenDevice) string {
	var s []string
	for _, d := range list {
		s = append(s, d.Name)
	}
	return strings.Join(s, " ")
}

// TestOpenerMedium holds who may open which part of the boot medium, and how.
func TestOpenerMedium(t *testing.T) {
	seven := []string{"fat", "fat", "fat", "", "ext4", "ext4", "ext4"}
	for _, tc := range []struct {
		name  string
		table layout.Table
		set   func(*Box)
		want  map[string]string // partition and "w" if it can be written to
	}{
		{"UEFI", layout.GPT, nil, map[string]string{"first": "vda1 w", "root": "vda2", "root-idle": "vda3 w"}},
		{"Pi", layout.MBR, nil, map[string]string{"first": "vda1 w", "boot": "vda2", "boot-idle": "vda3 w", "root": "vda5", "root-idle": "vda6 w"}},
		{"slot B", layout.MBR, func(b *Box) {
			b.medium.running = layout.SlotB
			b.committed = func() (layout.Slot, error) { return layout.SlotB, nil }
		}, map[string]string{"first": "vda1 w", "boot": "vda3", "boot-idle": "vda2 w", "root": "vda6", "root-idle": "vda5 w"}},
		{"on trial", layout.GPT, func(b *Box) { b.trial.on = true }, map[string]string{"first": "vda1 w", "root": "vda2"}},
		{"the idle slot is committed", layout.GPT, func(b *Box) {
			b.committed = func() (layout.Slot, error) { return layout.SlotB, nil }
		}, map[string]string{"first": "vda1 w", "root": "vda2"}},
		{"the commit can't be read", layout.MBR, func(b *Box) {
			b.committed = func() (layout.Slot, error) { return "", errors.New("EIO") }
		}, map[string]string{"first": "vda1 w", "boot": "vda2", "root": "vda5"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := bench(t, tc.table, nil, fakeDrive{name: "vda", parts: seven}, fakeDrive{name: "sda", on: "fat"})
			if tc.set != nil {
				tc.set(o.box)
			}
			for _, name := range []string{
				"first", "boot", "root", "boot-idle", "root-idle", "data", "vda", "vda7", "usb/vda", "usb/vda1", "usb/vda7", "usb/sda", "usb/..", "",
			} {
				for _, uid := range []uint32{updaterUID, fetcherUID, otherUID} {
					want := tc.want[name]
					if uid != updaterUID {
						want = ""
					}
					if uid == fetcherUID && name == "usb/sda" {
						want = "sda"
					}
					got := ""
					f, direct, err := o.Open(uid, name)
					if err == nil {
						got = filepath.Base(f.Name())
						if _, err := f.WriteAt([]byte{0}, 0); err == nil {
							got += " w"
						}
						if direct != nil {
							if _, err := direct.WriteAt(make([]byte, 4096), 0); err == nil {
								t.Errorf("%s: what is to be read can be written", name)
							}
							direct.Close()
						}
						f.Close()
					}
					if got != want {
						t.Errorf("%d opens %q: %q (%v), want %q", uid, name, got, err, want)
					}
				}
			}
			for _, d := range o.List(updaterUID) {
				if tc.want[d.Name] == "" || d.Size != 4096*512 || d.Model != "Card" {
					t.Errorf("listed %+v", d)
				}
			}
			if n := len(o.List(updaterUID)); n != len(tc.want) {
				t.Errorf("%d listed, want %d", n, len(tc.want))
			}
			if got := o.List(otherUID); len(got) != 0 {
				t.Errorf("somebody else sees %v", got)
			}
		})
	}
}

// TestOpenerSticks holds what counts as a stick.
func TestOpenerSticks(t *testing.T) {
	o := bench(t, layout.GPT, []string{"8:33", "8:80"},
		fakeDrive{name: "vda", parts: []string{"fat", "ext4", "ext4", "ext4"}},
		fakeDrive{name: "sda", model: "Stick", seq: 1, parts: []string{"fat", "ext4"}},
		fakeDrive{name: "sdb", model: "Mounted", seq: 2, parts: []string{"fat"}},
		fakeDrive{name: "sdc", model: "Bare", seq: 3, on: "fat"},
		fakeDrive{name: "loop0", virtual: true, seq: 4, on: "fat"},
		fakeDrive{name: "sdd", model: "Bare and mounted", seq: 5, on: "fat"},
		fakeDrive{name: "nvme0n1", model: "Somebody's", seq: 6, on: "ext4"},
	)
	list := o.List(fetcherUID)
	if got := names(list); got != "usb/sda1 usb/sdc" {
		t.Fatalf("%v", list)
	}
	if d := list[0]; d.Model != "Acme Stick" || d.Size != 4096*512 || d.Label != "" {
		t.Errorf("%+v", d)
	}
	// A drive is read once, when it is new.
	if err := os.WriteFile(filepath.Join(o.dev, "sda1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := names(o.List(fetcherUID)); got != "usb/sda1 usb/sdc" {
		t.Errorf("%v", got)
	}
	if err := os.WriteFile(filepath.Join(o.sys, "block/sda/diskseq"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := names(o.List(fetcherUID)); got != "usb/sdc" {
		t.Errorf("another stick in its place: %v", got)
	}
	// Pulled out.
	if err := os.RemoveAll(filepath.Join(o.sys, "block/sdc")); err != nil {
		t.Fatal(err)
	}
	if got := names(o.List(fetcherUID)); got != "" {
		t.Errorf("%v", got)
	}
	if _, _, err := o.Open(fetcherUID, "usb/sdc"); !errors.Is(err, errNoDevice) {
		t.Error(err)
	}
	// What somebody plugs in and the box can't read is told of, once for a drive, and not opened.
	o = bench(t, layout.GPT, nil,
		fakeDrive{name: "vda", parts: []string{"fat", "ext4", "ext4", "ext4"}},
		fakeDrive{name: "sda", seq: 1, pulls: true, parts: []string{"exfat", "else"}},
		fakeDrive{name: "sdb", model: "Backup", seq: 2, pulls: true, parts: []string{"else", "ntfs", "ext4"}},
		fakeDrive{name: "sdc", seq: 3, pulls: true, on: "ext4"},
		fakeDrive{name: "sdd", seq: 4, pulls: true, on: "else"},
		fakeDrive{name: "sde", seq: 5, pulls: true, on: ""},
		fakeDrive{name: "sdf", seq: 6, parts: []string{"ntfs"}},
		fakeDrive{name: "sr0", model: "DVD", seq: 7, pulls: true, on: ""},
	)
	var got []string
	for _, d := range o.List(fetcherUID) {
		got = append(got, d.Name+" "+d.Label+d.Other)
		if _, _, err := o.Open(fetcherUID, d.Name); (err != nil) != (d.Other != "") {
			t.Errorf("%s: %v", d.Name, err)
		}
	}
	want := []string{"usb/sda1 Fotos 64", "usb/sdb NTFS", "usb/sdc ext4", "usb/sdd unknown", "usb/sde unknown"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// From nowhere: what is not the boot medium can't be told.
	o.box.medium = nil
	if got := o.List(fetcherUID); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
