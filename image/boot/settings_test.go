package boot

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/croft-os/croft/services/supervisor"
)

// card is a FAT volume with files in the root folder.
func card(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "card")
	tool(t, "mkfs.fat", "-C", path, "4096")
	for name, text := range files {
		src := filepath.Join(dir, name)
		if err := os.WriteFile(src, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, "mcopy", "-i", path, src, "::"+name)
	}
	return path
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// boxOn is a box whose data partition is dir and whose first FAT partition is at path.
func boxOn(t *testing.T, dir, path string) *Box {
	t.Helper()
	b := testBox()
	b.dir, b.firstFAT = dir, func() (string, error) { return path, nil }
	b.setHostname = func([]byte) error { return nil }
	id, err := readIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		id = identity{Format: 1, ID: "box", Claim: "0000-0000"}
		err = writeIdentity(dir, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.ident = id
	return b
}

func TestParseSettings(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		wrong    []string
	}{
		{"as flashed", `{"format":"croft-settings/1"}` + strings.Repeat(" ", 4000), nil},
		{"all", `{"format":"croft-settings/1","name":"Attic-2","time_zone":"America/Argentina/Ushuaia","claim_code":"abcd efgh",
			"wifi":{"ssid":"Café","password":"correct horse"},"mesh_key":"key-1"}`, nil},
		{"from Windows", "\xef\xbb\xbf{\r\n\"format\": \"croft-settings/1\"\r\n}\r\n", nil},
		{"open Wi-Fi", `{"format":"croft-settings/1","wifi":{"ssid":"x"}}`, nil},
		{"no format", `{"name":"x"}`, []string{"format: is missing"}},
		{"other format", `{"format":"croft-settings/2"}`, []string{"format: has to be"}},
		{"unknown", `{"format":"croft-settings/1","hostname":"x","wifi":{"ssid":"x","psk":"secretsecret"},"a\u001b[2J":1}`, []string{
			`a\x1b[2J: there is no such`, "hostname: there is no such", "wifi.psk: there is no such",
		}},
		{"types", `{"format":"croft-settings/1","name":7,"wifi":"secretsecret","time_zone":null}`, []string{
			"name: has to be a text", "time_zone: has to be a name", "wifi: has to be in curly", "wifi.ssid: ",
		}},
		{"values", `{"format":"croft-settings/1","name":"-x","time_zone":"../etc","claim_code":"UUUU-UUUU","mesh_key":"se cret",
			"wifi":{"ssid":"` + strings.Repeat("x", 33) + `","password":"secret"}}`, []string{
			"claim_code: ", "mesh_key: ", "name: ", "time_zone: ", "wifi.password: ", "wifi.ssid: ",
		}},
		{"localhost", `{"format":"croft-settings/1","name":"LocalHost"}`, []string{"name: "}},
		{"a comma", "{\n\"format\":\"croft-settings/1\",\n}", []string{"line 3"}},
		{"empty", "", []string{"line 1"}},
		{"list", `["secret"]`, []string{"curly brackets"}},
	} {
		s, wrong := parseSettings([]byte(tc.in))
		if len(wrong) != len(tc.wrong) || slices.ContainsFunc(tc.wrong, func(w string) bool { return !strings.Contains(strings.Join(wrong, "\n"), w) }) {
			t.Errorf("%s: %q", tc.name, wrong)
		}
		if strings.Contains(strings.Join(wrong, ""), "secret") {
			t.Errorf("%s: a value is told: %q", tc.name, wrong)
		}
		if tc.name == "all" && (s.Name != "attic-2" || s.TimeZone != "America/Argentina/Ushuaia" || s.claim != "ABCD-EFGH" ||
			s.wifi == nil || *s.wifi != (wifi{"Café", "correct horse"}) || s.meshKey != "key-1") {
			t.Errorf("got %+v", s)
		}
	}
}

func FuzzParseSettings(f *testing.F) {
	f.Add([]byte(`{"format":"croft-settings/1","name":"x","wifi":{"ssid":"x","password":"12345678"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, wrong := parseSettings(b)
		if len(wrong) > 0 {
			return
		}
		// What is left in the file has to be read without taking anything for changed, and to fit.
		again, wrong := parseSettings([]byte(s.public()))
		if len(wrong) > 0 || again.Name != s.Name || again.TimeZone != s.TimeZone || len(s.public()) > len(b) {
			t.Errorf("%q leaves %q: %q", b, s.public(), wrong)
		}
	})
}

const flashed = `{"format":"croft-settings/1","name":"attic","claim_code":"ABCD-EFGH","mesh_key":"mesh-secret",
	"wifi":{"ssid":"home","password":"wifi-secret"},"time_zone":"Europe/Berlin"}`

// TestTakeSettings cuts the power at each step: afterwards the secrets are still in the file or taken over, and in the end
// they are taken over and gone from the card.
func TestTakeSettings(t *testing.T) {
	content := flashed + strings.Repeat(" ", 4096-len(flashed))
	for _, cut := range []string{"never", "before the mark", "before wiping", "while wiping", "after wiping"} {
		t.Run(cut, func(t *testing.T) {
			dir, path := t.TempDir(), card(t, map[string]string{settingsFile: content})
			if err := os.Mkdir(filepath.Join(dir, "state"), 0o711); err != nil {
				t.Fatal(err)
			}
			b := boxOn(t, dir, path)
			b.cfg.Services = []supervisor.Service{{Name: "network", UID: uint32(os.Getuid())}}
			note, err := "", error(nil)
			switch cut {
			case "before the mark":
				s, _ := parseSettings([]byte(content))
				err = b.keepSecrets(s)
			case "before wiping", "while wiping":
				reads := 0
				b.firstFAT = func() (string, error) {
					if reads++; reads > 1 {
						return "", errors.New("no power")
					}
					return path, nil
				}
				if _, err := b.takeSettings(); err == nil {
					t.Error("nobody was told that the secrets are still there")
				}
				if cut == "while wiping" { // the first sector was written, the others were not
					b.firstFAT = func() (string, error) { return path, nil }
					torn := bytes.Repeat([]byte{' '}, 512)
					copy(torn, b.ident.Settings)
					err = b.writeOwnerFile(settingsFile, torn)
				}
			case "after wiping":
				if _, err = b.takeSettings(); err == nil {
					err = b.change(func(id *identity) { id.Wipe = true })
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			b = boxOn(t, dir, path)
			if note, err = b.takeSettings(); err != nil || note == "" {
				t.Errorf("%q, %v", note, err)
			}
			b = boxOn(t, dir, path)
			if id := b.ident; id.Name != "attic" || id.Claim != "ABCD-EFGH" || id.TimeZone != "Europe/Berlin" || id.Wipe {
				t.Errorf("identity %+v", id)
			}
			if got := readFile(filepath.Join(dir, "secrets/mesh-key")); got != "mesh-secret" {
				t.Errorf("mesh key %q", got)
			}
			if got := readFile(filepath.Join(dir, "state/network", wifiFile)); got != `{"ssid":"home","password":"wifi-secret"}` {
				t.Errorf("Wi-Fi %s", got)
			}
			raw, err := os.ReadFile(path)
			if err != nil || bytes.Contains(raw, []byte("secret")) || bytes.Contains(raw, []byte("ABCD")) {
				t.Errorf("a secret is left on the card: %v", err)
			}
			tool(t, "fsck.fat", "-n", path)
			if left := tool(t, "mtype", "-i", path, "::"+settingsFile); len(left) != 4096 || !strings.Contains(left, `"name":"attic"`) {
				t.Errorf("left: %q", strings.TrimSpace(left))
			}
			if note, err := b.takeSettings(); note != "" || err != nil {
				t.Errorf("the next start: %q, %v", note, err)
			}
		})
	}
}

// TestSettingsLater holds when a file counts: until the box is claimed, and no later.
func TestSettingsLater(t *testing.T) {
	dir, path := t.TempDir(), card(t, map[string]string{settingsFile: `{"format":"croft-settings/1","nam":"attic"}`})
	b := boxOn(t, dir, path)
	if note, err := b.takeSettings(); note != "" || err == nil || !strings.Contains(err.Error(), "nam: there is no such setting") {
		t.Errorf("a bad file: %q, %v", note, err)
	}
	if b.ident.Name != "" || b.ident.Claim != "0000-0000" {
		t.Errorf("half of a bad file was taken over: %+v", b.ident)
	}
	mended := card(t, map[string]string{settingsFile: `{"format":"croft-settings/1","name":"attic"}`})
	b = boxOn(t, dir, mended)
	if note, err := b.takeSettings(); note != "taken over: name" || err != nil || b.name() != "attic" || b.System().Name != "attic" {
		t.Errorf("a mended file: %q, %v", note, err)
	}
	// Whoever writes another file, where the one before could not be wiped any more, wants that one.
	if err := b.change(func(id *identity) { id.Wipe = true }); err != nil {
		t.Fatal(err)
	}
	other := card(t, map[string]string{settingsFile: `{"format":"croft-settings/1","name":"hut","claim_code":"7K3M-9QXT"}`})
	b = boxOn(t, dir, other)
	if note, err := b.takeSettings(); note != "taken over: name, claim code" || err != nil || b.name() != "hut" || b.claimCode() != "7K3M-9QXT" || b.ident.Wipe {
		t.Errorf("another file: %q, %v, %+v", note, err, b.ident)
	}
	if left := tool(t, "mtype", "-i", other, "::"+settingsFile); strings.Contains(left, "7K3M") {
		t.Errorf("left: %q", left)
	}
	if err := b.voidClaim(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{flashed, `{"format":"croft-settings/1","nam":"x"}`, "rubbish"} {
		b = boxOn(t, dir, card(t, map[string]string{settingsFile: text}))
		if note, err := b.takeSettings(); !strings.Contains(note, "is ignored") || err != nil || b.name() != "hut" || b.claimCode() != "" {
			t.Errorf("%s: %q, %v, %+v", text, note, err, b.ident)
		}
	}
	for _, files := range []map[string]string{nil, {settingsFile: `{"format":"croft-settings/1"}`}} {
		b = boxOn(t, dir, card(t, files))
		if note, err := b.takeSettings(); note != "" || err != nil {
			t.Errorf("%v: %q, %v", files, note, err)
		}
	}
}
