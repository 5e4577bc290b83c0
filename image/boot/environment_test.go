package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/image/pack"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/slots"
)

// crofts puts drives into a sysfs made of files; each is divided as a layout says, and has a first FAT with these files.
func crofts(t *testing.T, drives map[string]layout.Layout, files map[string]string) (sys, dev string) {
	t.Helper()
	dir := t.TempDir()
	sys, dev = filepath.Join(dir, "sys"), filepath.Join(dir, "dev")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := cardWith(t)
	if files[claimFile] == "" {
		path = card(t, files)
	}
	volume, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"block", "class/block"} {
		if err := os.MkdirAll(filepath.Join(sys, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, l := range drives {
		at := filepath.Join(sys, "block", name)
		write(filepath.Join(at, "size"), "4194304\n")
		write(filepath.Join(at, "device/model"), "Card\n")
		write(filepath.Join(dev, name), "")
		whole, err := os.OpenFile(filepath.Join(dev, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(whole.Truncate(l.Size), pack.WriteTable(whole, disk.Layout(l.Table)), whole.Close()); err != nil {
			t.Fatal(err)
		}
		for _, p := range l.Partitions {
			part := fmt.Sprint(name, p.Number)
			size := p.Size
			if p.Number == l.Extended {
				size = 1024
			}
			write(filepath.Join(at, part, "partition"), fmt.Sprintln(p.Number))
			write(filepath.Join(at, part, "start"), fmt.Sprintln(p.Start/512))
			write(filepath.Join(at, part, "size"), fmt.Sprintln(size/512))
			content := "nothing"
			if p.Number == l.First {
				content = string(volume)
			}
			write(filepath.Join(dev, part), content)
		}
		if err := os.Symlink(at, filepath.Join(sys, "class/block", name)); err != nil {
			t.Fatal(err)
		}
	}
	return sys, dev
}

var forTheOwner = map[string]string{claimFile: strings.Repeat("\n", 512)}

// TestCroftMedia tells a Croft's medium from other drives.
func TestCroftMedia(t *testing.T) {
	grown := layout.UEFI()
	grown.Partitions[3].Size *= 100
	moved := layout.Pi()
	moved.Partitions[5].Start += 4 << 20
	shrunk := layout.UEFI()
	shrunk.Partitions[1].Size -= 4096
	fewer := layout.UEFI()
	fewer.Partitions = fewer.Partitions[:3]
	more := layout.UEFI()
	more.Partitions = append(more.Partitions, layout.Partition{Number: 5, Start: 1 << 40, Size: 4096})
	for _, tc := range []struct {
		name   string
		drives map[string]layout.Layout
		files  map[string]string
		want   string
	}{
		{"UEFI", map[string]layout.Layout{"vda": layout.UEFI()}, forTheOwner, "vda gpt"},
		{"Pi", map[string]layout.Layout{"mmc": layout.Pi()}, forTheOwner, "mmc mbr"},
		{"in use for long", map[string]layout.Layout{"vda": grown, "sda": fewer, "sdb": more, "sdc": shrunk, "sdd": moved}, forTheOwner, "vda gpt"},
		{"two", map[string]layout.Layout{"sda": layout.Pi(), "sdb": grown}, forTheOwner, "sda mbr, sdb gpt"},
		{"not a Croft's", map[string]layout.Layout{"vda": layout.UEFI()}, map[string]string{"autoexec.bat": "x"}, ""},
		{"none", nil, forTheOwner, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sys, dev := crofts(t, tc.drives, tc.files)
			media, err := croftMedia(sys, dev)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range media {
				got = append(got, m.disk.Name+" "+string(m.table))
			}
			if strings.Join(got, ", ") != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// TestRescueSystem looks at the medium as the rescue system does, and starts what was installed.
func TestRescueSystem(t *testing.T) {
	for _, tc := range []struct {
		name     string
		table    layout.Table
		commit   string // content of the file that says which slot starts
		idle     string // slot that is installed into
		answer   error  // of the phase
		once     layout.Slot
		restarts string // action
		commits  layout.Slot
	}{
		{"slot A starts by itself", layout.GPT, string(slots.LoaderConf("a")), "b", nil, "b", actionTrial, "a"},
		{"slot B starts by itself", layout.MBR, string(slots.Autoboot("b")), "a", nil, "a", actionTrial, "b"},
		{"none does", layout.GPT, strings.Repeat("#", len(slots.LoaderConf("a"))), "a", slots.ErrForm, "", "reboot", "a"},
		{"the file is garbage", layout.MBR, strings.Repeat("\xff", len(slots.Autoboot("a"))), "a", slots.ErrForm, "", "reboot", "a"},
		{"the owner took it away", layout.MBR, "", "a", slots.ErrForm, "", "reboot", "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := layout.UEFI()
			if tc.table == layout.MBR {
				l = layout.Pi()
			}
			sys, dev := crofts(t, map[string]layout.Layout{"vda": l}, forTheOwner)
			put := func(number int, name, text string) {
				t.Helper()
				volume, src := filepath.Join(dev, fmt.Sprint("vda", number)), filepath.Join(t.TempDir(), "file")
				if err := os.WriteFile(src, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				if st, err := os.Stat(volume); err == nil && st.Size() < 512 {
					tool(t, "mkfs.fat", "-C", volume+".new", "4096")
					tool(t, "mv", volume+".new", volume)
				}
				for dir := range strings.SplitSeq(filepath.Dir(name), "/") {
					if dir != "." {
						exec.CommandContext(t.Context(), "mmd", "-D", "s", "-i", volume, "::"+name[:strings.Index(name, dir)+len(dir)]).Run()
					}
				}
				tool(t, "mcopy", "-i", volume, src, "::"+name)
			}
			if tc.commit != "" {
				put(l.First, slots.CommitFile(tc.table), tc.commit)
			} else { // a file can be made on FAT32 only
				first := filepath.Join(dev, fmt.Sprint("vda", l.First))
				tool(t, "rm", first)
				tool(t, "mkfs.fat", "-F", "32", "-s", "1", "-C", first, "36864")
				put(l.First, claimFile, forTheOwner[claimFile])
			}
			// What an update leaves in the idle slot.
			idle := layout.Slot(tc.idle)
			root := "root=PARTUUID=" + l.PARTUUID(l.Root[idle])
			if tc.table == layout.GPT {
				put(l.First, slots.CmdlineFile(tc.table, idle), fmt.Sprintf("%-2048s", "linux /"+slots.KernelFile(idle)+"\noptions "+root+"\n"))
			} else {
				put(l.Boot[idle], slots.CmdlineFile(tc.table, idle), root+"\n")
			}
			f := &fakeFirmware{}
			b := testBox()
			b.cfg.Rescue, b.rescue = true, environmentRescue()
			b.media = func() ([]medium, error) { return croftMedia(sys, dev) }
			b.newOneShot = func(layout.Table) oneShot { return f }
			note, err := b.findRescueMedium()
			if !errors.Is(err, tc.answer) || !strings.HasSuffix(note, "slot "+tc.idle) {
				t.Fatalf("%q, %v", note, err)
			}
			if b.onTrial() {
				t.Error("on trial")
			}
			if s, err := b.Slots(); err != nil || !s.Rescue || s.Trial || s.OneShot != "" || s.Running == tc.idle || s.RootIDs[tc.idle] != l.PARTUUID(l.Root[layout.Slot(tc.idle)]) {
				t.Errorf("%+v, %v", s, err)
			}
			// What the updater is given is the idle slot, to write.
			o := &opener{box: b, updater: updaterUID, fetcher: fetcherUID, sys: sys, dev: dev, mounts: "/proc/self/mountinfo"}
			w, direct, err := o.Open(updaterUID, api.DeviceRootIdle)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint("vda", l.Root[layout.Slot(tc.idle)]); filepath.Base(w.Name()) != want {
				t.Errorf("%s is opened, want %s", w.Name(), want)
			}
			w.Close()
			if direct != nil {
				direct.Close()
			}
			if err := b.startTrial(tc.idle); err != nil {
				t.Fatal(err)
			}
			if a := <-b.end; a != tc.restarts || f.once != tc.once {
				t.Errorf("it ends with %q, one-shot %q", a, f.once)
			}
			if got, err := b.readCommitted(); err != nil || got != tc.commits {
				t.Errorf("committed %q, %v", got, err)
			}
			for _, action := range []string{"retry", "check", "start-over", "cancel"} {
				if err := b.act(context.Background(), action); err == nil {
					t.Errorf("%s was done", action)
				}
			}
		})
	}
}

// TestLeaveTrial goes back from a trial that ended in the rescue system, and only from that.
func TestLeaveTrial(t *testing.T) {
	for says, leaves := range map[string]bool{"\x00\x00\x00\x01": true, "\x00\x00\x00\x00": false, "": false, "1": false} {
		b := testBox()
		b.tryboot = filepath.Join(t.TempDir(), "tryboot")
		if err := os.WriteFile(b.tryboot, []byte(says), 0o600); err != nil {
			t.Fatal(err)
		}
		if note, err := b.leaveTrial(); err != nil || b.over() != leaves || (note != "") != leaves {
			t.Errorf("%q: %q, %v", says, note, err)
		}
		if leaves && <-b.end != "reboot" {
			t.Errorf("%q: it does not restart", says)
		}
	}
	if note, err := testBox().leaveTrial(); note != "" || err != nil {
		t.Errorf("on a machine without such a file: %q, %v", note, err)
	}
}

// TestRescueSystemUnsure refuses to guess.
func TestRescueSystemUnsure(t *testing.T) {
	sys, dev := crofts(t, map[string]layout.Layout{"sda": layout.Pi(), "sdb": layout.Pi()}, forTheOwner)
	b := testBox()
	b.media = func() ([]medium, error) { return croftMedia(sys, dev) }
	if _, err := b.findRescueMedium(); err == nil || b.medium != nil || !strings.Contains(err.Error(), "unplug") {
		t.Errorf("%+v, %v", b.medium, err)
	}
	if _, err := b.Slots(); !errors.Is(err, errNoMedium) {
		t.Error(err)
	}
}

func TestMoveFile(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "deep/er")
	if err := os.WriteFile(filepath.Join(from, "program"), bytes.Repeat([]byte("x"), 100_000), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/run/x", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(from, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if err := moveFile(filepath.Join(from, d.Name()), filepath.Join(to, d.Name()), d); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(filepath.Join(to, "program")); err != nil || st.Size() != 100_000 || st.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := os.Stat(filepath.Join(from, "program")); err == nil {
		t.Error("it takes memory twice")
	}
	if l, err := os.Readlink(filepath.Join(to, "link")); err != nil || l != "/run/x" {
		t.Errorf("%q, %v", l, err)
	}
	if st, err := os.Stat(filepath.Join(to, "folder")); err != nil || !st.IsDir() {
		t.Error(err)
	}
}
