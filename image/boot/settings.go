package boot

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/croft-os/croft/hardware/fat"
)

// settingsFile is what "croft flash", or an owner with a computer, tells the box before it is claimed. The box takes it
// over whole or not at all: onto the data partition first, then what is secret is wiped from the file, where anybody who
// holds the card could read it. It wipes in place; what a computer's editor left elsewhere on the card it does not know.
const (
	settingsFile   = "croft.json"
	settingsFormat = "croft-settings/1"
	settingsPhase  = "settings"
)

// settings are what the file says.
type settings struct {
	Format   string `json:"format"`
	Name     string `json:"name,omitempty"`
	TimeZone string `json:"time_zone,omitempty"`

	claim, meshKey string
	wifi           *wifi
}

// wifi is what the network service finds in its state directory.
type wifi struct {
	SSID     string `json:"ssid"`
	Password string `json:"password,omitempty"` // none for an open network
}

const wifiFile = "wifi.json"

// zoneRE matches names of the IANA time zone database; core knows which there are.
var zoneRE = regexp.MustCompile(`^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}$`)

// parseSettings returns what the content of the file says, and what is wrong with it, a sentence a field. No sentence holds
// what a field says: it may be a secret.
func parseSettings(content []byte) (s settings, wrong []string) {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf")) // which some editors write
	object := func(path string, raw json.RawMessage, fields map[string]func(path, value string) error, nested map[string]func(json.RawMessage)) {
		var all map[string]json.RawMessage
		if err := json.Unmarshal(raw, &all); err != nil || all == nil {
			what := "it"
			if path != "" {
				what = strings.TrimSuffix(path, ".") + ":"
			}
			wrong = append(wrong, what+` has to be in curly brackets, like {"name": "value"}`)
			return
		}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if open := nested[name]; open != nil {
				open(all[name])
				continue
			}
			var value string
			switch set := fields[name]; {
			case set == nil:
				wrong = append(wrong, fmt.Sprintf("%s%s: there is no such setting", path, strings.Trim(fmt.Sprintf("%.40q", name), `"`)))
			case json.Unmarshal(all[name], &value) != nil:
				wrong = append(wrong, path+name+": has to be a text in quotes")
			default:
				if err := set(path+name, value); err != nil {
					wrong = append(wrong, path+name+": "+err.Error())
				}
			}
		}
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(content, new(json.RawMessage)); errors.As(err, &syntax) {
		line := 1 + bytes.Count(content[:min(int(syntax.Offset), len(content))], []byte("\n"))
		return s, []string{fmt.Sprintf("it can't be read from line %d on: a quote, comma or bracket is missing or too much", line)}
	}
	object("", content, map[string]func(path, value string) error{
		"format": func(_, v string) error {
			s.Format = v
			if v != settingsFormat {
				return errors.New("has to be " + settingsFormat)
			}
			return nil
		},
		"name": func(_, v string) (err error) {
			s.Name, err = hostName(v)
			return err
		},
		"time_zone": func(_, v string) error {
			s.TimeZone = v
			if !zoneRE.MatchString(v) {
				return errors.New("has to be a name such as Europe/Berlin")
			}
			return nil
		},
		"claim_code": func(_, v string) error {
			var ok bool
			if s.claim, ok = readCode(v); !ok {
				return errors.New("a code has 8 letters and digits, such as 7K3M-9QXT, without the letter U")
			}
			return nil
		},
		"mesh_key": func(_, v string) error {
			s.meshKey = v
			if len(v) < 1 || len(v) > 512 || !printable(v) || strings.Contains(v, " ") {
				return errors.New("has to be one word of at most 512 letters, digits and signs")
			}
			return nil
		},
	}, map[string]func(json.RawMessage){
		"wifi": func(raw json.RawMessage) {
			s.wifi = &wifi{}
			object("wifi.", raw, map[string]func(path, value string) error{
				"ssid": func(_, v string) error { s.wifi.SSID = v; return nil },
				"password": func(_, v string) error {
					s.wifi.Password = v
					// IEEE 802.11: a passphrase has 8 to 63 characters of ASCII, a key 64 hex digits.
					if _, err := hex.DecodeString(v); v != "" && (len(v) < 8 || len(v) > 64 || len(v) == 64 && err != nil || !printable(v)) {
						return errors.New("a Wi-Fi password has 8 to 63 letters, digits and signs")
					}
					return nil
				},
			}, nil)
			if n := len(s.wifi.SSID); n < 1 || n > 32 || !utf8.ValidString(s.wifi.SSID) {
				wrong = append(wrong, "wifi.ssid: the name of the Wi-Fi has 1 to 32 bytes")
			}
		},
	})
	if s.Format == "" && len(wrong) == 0 {
		wrong = append(wrong, `format: is missing; write "format": "`+settingsFormat+`"`)
	}
	return s, wrong
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// readCode reads a claim code as people write it: in any case, with or without the hyphen, O for 0, I and L for 1.
func readCode(s string) (string, bool) {
	s = strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(s))
	if len(s) != 8 || strings.Trim(s, codeAlphabet) != "" {
		return "", false
	}
	return s[:4] + "-" + s[4:], true
}

// public is what the file holds once the secrets are wiped.
func (s *settings) public() string {
	b, _ := json.Marshal(s) // texts can't fail
	return string(b)
}

// secret says whether there is anything to wipe.
func (s *settings) secret() bool { return s.claim != "" || s.meshKey != "" || s.wifi != nil }

// names lists what is set, for the owner.
func (s *settings) names() string {
	var names []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", s.Name != ""},
		{"time zone", s.TimeZone != ""},
		{"claim code", s.claim != ""},
		{"Wi-Fi", s.wifi != nil},
		{"mesh key", s.meshKey != ""},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ", ")
}

// takeSettings is the boot phase that takes the settings file over, for as long as nobody has claimed the box: an owner
// who made a mistake in it can mend that. Cut off at any point, it is done again at the next start.
func (b *Box) takeSettings() (note string, err error) {
	if b.inRescue() {
		return "", nil
	}
	id := b.identity()
	content, err := b.readOwnerFile(settingsFile, maxOwnerFile)
	s, wrong := parseSettings(content)
	switch news := s.secret() || s.public() != id.Settings; {
	case id.Wipe && (err != nil || len(wrong) > 0 || id.Claim == "" || !news): // what the owner wrote since then is no leftover
		return "went on wiping " + settingsFile, b.wipeSettings()
	case errors.Is(err, fat.ErrNotFound):
		return "", nil
	case err != nil:
		return "", err
	}
	if id.Settings != "" && strings.TrimSpace(string(content)) == id.Settings || len(wrong) == 0 && s.names() == "" {
		return "", nil
	}
	if id.Claim == "" {
		return settingsFile + " is ignored: this Croft is set up already; its pages have all settings", nil
	}
	if len(wrong) > 0 {
		return "", fmt.Errorf("%s is not used: %s", settingsFile, strings.Join(wrong[:min(len(wrong), 5)], "; "))
	}
	if err := b.keepSecrets(s); err != nil {
		return "", err
	}
	if err := b.change(func(id *identity) {
		id.Name = cmp.Or(s.Name, id.Name)
		id.TimeZone = cmp.Or(s.TimeZone, id.TimeZone)
		id.Claim = cmp.Or(s.claim, id.Claim)
		id.Settings, id.Wipe = s.public(), true
	}); err != nil {
		return "", err
	}
	return "taken over: " + s.names(), b.wipeSettings()
}

// keepSecrets puts what others are to find onto the data partition.
func (b *Box) keepSecrets(s settings) error {
	if s.meshKey != "" {
		if err := b.keep("secrets", "mesh-key", 0, []byte(s.meshKey)); err != nil {
			return err
		}
	}
	if s.wifi == nil {
		return nil
	}
	uid := 0
	for _, svc := range b.cfg.Services {
		if svc.Name == "network" {
			uid = int(svc.UID)
		}
	}
	js, err := json.Marshal(s.wifi)
	if err != nil {
		return err
	}
	return b.keep("state/network", wifiFile, uid, js)
}

// keep writes a file that only uid may read into a folder that only uid may enter.
func (b *Box) keep(dir, name string, uid int, content []byte) error {
	dir = filepath.Join(b.dir, dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	return errors.Join(os.Chown(dir, uid, uid), writeAtomic(path, content, 0o600), os.Chown(path, uid, uid),
		syncDir(dir), syncDir(filepath.Dir(dir)))
}

// wipeSettings writes what is no secret over the whole file, and then notes that this is done.
func (b *Box) wipeSettings() error {
	text := []byte(b.identity().Settings)
	content, err := b.readOwnerFile(settingsFile, maxOwnerFile)
	switch {
	case errors.Is(err, fat.ErrNotFound): // somebody else did it
	case err != nil:
		return fmt.Errorf("the secrets are still in %s: %w", settingsFile, err)
	case len(text) > len(content):
		return fmt.Errorf("the secrets are still in %s, which is too short; delete it", settingsFile)
	default:
		wiped := bytes.Repeat([]byte{' '}, len(content))
		copy(wiped, text)
		if err := b.writeOwnerFile(settingsFile, wiped); err != nil {
			return fmt.Errorf("the secrets are still in %s: %w", settingsFile, err)
		}
	}
	return b.change(func(id *identity) { id.Wipe = false })
}
