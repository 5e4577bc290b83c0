package board

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/croft-os/croft/hardware/layout"
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
		{"vm-arm64", "a", " console=ttyAMA0,115200"},
		{"pi", "a", "root=PARTUUID=c0f7c0f7-05 "},
		{"pi", "b", "root=PARTUUID=c0f7c0f7-06 "},
		{"pi", "b", " croft.slot=b "},
		{"pi", "a", " lsm=landlock cgroup_enable=memory "},
		{"pc", "a", " gpt "},
	} {
		b, err := Find(tc.board)
		if err != nil {
			t.Fatal(err)
		}
		got := b.Cmdline(tc.slot)
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
		if strings.ContainsAny(got, "\n\"") {
			t.Errorf("%s: %q is not one plain line", tc.board, got)
		}
	}
}

func TestFindUnknown(t *testing.T) {
	if _, err := Find("toaster"); err == nil || !strings.Contains(err.Error(), "pc") {
		t.Errorf("got %v, want an error that names the boards", err)
	}
}

// TestCommitSectors: committing to a slot overwrites a file in place, so both contents must be as long and within a sector.
func TestCommitSectors(t *testing.T) {
	for name, f := range map[string]func(layout.Slot) []byte{"loader.conf": LoaderConf, "autoboot.txt": Autoboot} {
		a, b := f(layout.SlotA), f(layout.SlotB)
		if len(a) != len(b) || len(a) > SectorFile || bytes.Equal(a, b) {
			t.Errorf("%s: %q and %q", name, a, b)
		}
	}
	if got, want := string(Autoboot("a")), "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"; got != want {
		t.Errorf("autoboot.txt is %q, want %q", got, want)
	}
	if got, want := string(LoaderConf("b")), "timeout 0\neditor no\ndefault croft-b.conf\n"; got != want {
		t.Errorf("loader.conf is %q, want %q", got, want)
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
			boot, err := b.Boot(mods, layout.SlotA, "v1", b.Cmdline(layout.SlotA))
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, f := range append(first, boot...) {
				if seen[strings.ToLower(f.Path)] {
					t.Errorf("%s is there twice", f.Path)
				}
				seen[strings.ToLower(f.Path)] = true
				if len(f.Data) == 0 {
					t.Errorf("%s is empty", f.Path)
				}
				if f.Path == "croft.txt" && len(f.Data) != SectorFile {
					t.Errorf("croft.txt has %d bytes, want one sector", len(f.Data))
				}
				if f.Path == SettingsFile && (len(f.Data) != SettingsSize || !json.Valid(f.Data)) {
					t.Errorf("%s has %d bytes: %q", SettingsFile, len(f.Data), f.Data)
				}
			}
			for _, name := range []string{"croft.txt", SettingsFile} {
				if !seen[name] {
					t.Errorf("no %s", name)
				}
			}
			if b.Layout.Boot[layout.SlotA] != b.Layout.Boot[layout.SlotB] {
				return
			}
			// Both slots share a volume: their files must not collide.
			other, err := b.Boot(mods, layout.SlotB, "v1", b.Cmdline(layout.SlotB))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range other {
				if seen[strings.ToLower(f.Path)] {
					t.Errorf("slot B would overwrite %s", f.Path)
				}
			}
		})
	}
}
