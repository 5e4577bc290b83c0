package board

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/slots"
)

func modules(t *testing.T) Modules {
	return func(path string) (string, error) {
		out, err := exec.Command("go", "mod", "download", "-json", path).Output()
		if err != nil {
			return "", err
		}
		var m struct{ Dir string }
		err = json.Unmarshal(out, &m)
		return m.Dir, err
	}
}

func TestCmdline(t *testing.T) {
	for _, tc := range []struct {
		board string
		slot  layout.Slot
		want  string
	}{
		{"pc", "a", "root=PARTUUID=c0f7c0f7-d15c-4000-8000-000000000002 "},
		{"pc", "b", "root=PARTUUID=c0f7c0f7-d15c-4000-8000-000000000003 "},
		{"vm-arm64", "a", " console=ttyAMA0,115200 "},
		{"pi", "a", "root=PARTUUID=c0f7c0f7-05 "},
		{"pi", "b", "root=PARTUUID=c0f7c0f7-06 "},
		{"pi", "b", " croft.slot=b "},
		{"pi", "a", " lsm=landlock cgroup_enable=memory "},
		{"pc", "a", " gpt "},
		{"pc", "a", " croft.version=v1.2 croft.number=17"},
	} {
		b, err := Find(tc.board)
		if err != nil {
			t.Fatal(err)
		}
		r := release.Release{Cmdline: b.Cmdline("v1.2", 17)}
		got := r.CmdlineFor(string(tc.slot), b.Layout.PARTUUID(b.Layout.Root[tc.slot]))
		if !strings.Contains(got, tc.want) {
			t.Errorf("%s slot %s: no %q in %q", tc.board, tc.slot, tc.want, got)
		}
		for _, word := range strings.Fields(got) {
			// Waiting for ever would defeat the boot loader's fallback.
			if word == "rootwait" || word == "rw" || strings.HasPrefix(word, "rootdelay") {
				t.Errorf("%s: %s in %q", tc.board, word, got)
			}
		}
		for _, want := range []string{" ro ", " panic=10 ", " rootwait=10 ", " croft.board=" + tc.board + " ", " init=/gokrazy/init "} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in %q", tc.board, want, got)
			}
		}
		if strings.ContainsAny(got, "\n\"{}") {
			t.Errorf("%s: %q is not one plain line", tc.board, got)
		}
		// The longest version there may be has to fit, too.
		long := b.Cmdline(strings.Repeat("v", 64), 1<<62)
		if b.Layout.Table == layout.MBR && len(long) > piCluster-256 {
			t.Errorf("%s: %d bytes leave no room in a cluster", tc.board, len(long))
		}
	}
}

func TestFindUnknown(t *testing.T) {
	if _, err := Find("toaster"); err == nil || !strings.Contains(err.Error(), "pc") {
		t.Errorf("got %v, want an error that names the boards", err)
	}
}

func TestFiles(t *testing.T) {
	mods := modules(t)
	for _, b := range All() {
		if b.Layout.Table == layout.MBR {
			continue // compresses its kernel, which takes long; the image's own tests look at the files
		}
		t.Run(b.ID, func(t *testing.T) {
			first, err := b.First(mods)
			if err != nil {
				t.Fatal(err)
			}
			boot, err := b.Boot(mods)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, f := range first {
				if seen[strings.ToLower(f.Path)] {
					t.Errorf("%s is there twice", f.Path)
				}
				seen[strings.ToLower(f.Path)] = true
				if len(f.Data) == 0 && f.Room == 0 {
					t.Errorf("%s is empty", f.Path)
				}
				if f.Path == "croft.txt" && len(f.Data) != SectorFile {
					t.Errorf("croft.txt has %d bytes, want one sector", len(f.Data))
				}
				if f.Path == SettingsFile && (len(f.Data) != SettingsSize || !json.Valid(f.Data)) {
					t.Errorf("%s has %d bytes: %q", SettingsFile, len(f.Data), f.Data)
				}
			}
			for _, name := range []string{"croft.txt", SettingsFile, slots.CommitFile(b.Layout.Table)} {
				if !seen[name] {
					t.Errorf("no %s", name)
				}
			}
			if len(boot) != 1 {
				t.Fatalf("%d files in the boot part", len(boot))
			}
			// A kernel grows: a quarter more has to fit into the room that a box has for ever.
			room, used := int64(0), int64(0)
			for _, f := range first {
				used += max(int64(len(f.Data)), f.Room)
				for _, slot := range []layout.Slot{layout.SlotA, layout.SlotB} {
					switch f.Path {
					case slots.KernelFile(slot):
						room += f.Room
					case slots.CmdlineFile(b.Layout.Table, slot):
						if len(f.Data) != slots.EntrySize || len(bytes.Trim(f.Data, "\n")) > 0 {
							t.Errorf("%s has %d bytes", f.Path, len(f.Data))
						}
					}
				}
			}
			if size := int64(len(boot[0].Data)); room/2 < size*5/4 {
				t.Errorf("a kernel of %d bytes, and room for %d", size, room/2)
			}
			// So has that of the rescue system of a later image, with an initramfs half as large again as today's.
			const initramfs = 16 << 20
			if size := b.Layout.Partition(b.Layout.First).Size; used+int64(len(boot[0].Data))*5/4+initramfs > size {
				t.Errorf("%d of %d bytes are used without the rescue system", used, size)
			}
			files := b.Rescue(boot, "v1", b.RescueCmdline("v1"))
			if len(files) != 2 || !bytes.Equal(files[0].Data, boot[0].Data) || seen[files[0].Path] ||
				!strings.Contains(string(files[1].Data), "\ninitrd /"+RescueFile+"\noptions "+b.RescueCmdline("v1")+"\n") {
				t.Errorf("the rescue system has %d files, the last one %q", len(files), files[len(files)-1].Data)
			}
		})
	}
}
