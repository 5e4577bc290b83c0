package flash

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/image/board"
)

// Settings are what a box takes over when it starts for the first time: the content of croft.json (docs/flash.md).
type Settings struct {
	Format    string `json:"format"`
	Name      string `json:"name,omitempty"`       // one DNS label
	TimeZone  string `json:"time_zone,omitempty"`  // IANA name
	WiFi      *WiFi  `json:"wifi,omitempty"`       //
	ClaimCode string `json:"claim_code,omitempty"` // "XXXX-XXXX"
	MeshKey   string `json:"mesh_key,omitempty"`
}

// WiFi is a network to join.
type WiFi struct {
	SSID     string `json:"ssid"`
	Password string `json:"password,omitempty"` // none for an open network
}

// Normalise checks the settings and brings them into the form in which the box wants them. Its errors name the setting but
// never a secret.
func (s *Settings) Normalise() error {
	s.Format = board.SettingsFormat
	if s.Name != "" {
		s.Name = strings.TrimSuffix(strings.ToLower(s.Name), ".local")
		if !validName(s.Name) {
			return errors.New("the name of the box must have 1 to 63 letters a-z, digits or dashes, and no dash at its ends")
		}
	}
	if s.TimeZone != "" {
		if _, err := time.LoadLocation(s.TimeZone); err != nil || s.TimeZone == "Local" {
			return fmt.Errorf("there is no time zone %q; use a name such as Europe/Berlin", s.TimeZone)
		}
	}
	if s.WiFi != nil {
		// IEEE 802.11: at most 32 bytes; WPA passphrases have 8 to 63 characters of ASCII, a key has 64 hex digits.
		if n := len(s.WiFi.SSID); n < 1 || n > 32 || !utf8.ValidString(s.WiFi.SSID) {
			return errors.New("the name of the Wi-Fi must have 1 to 32 bytes")
		}
		p := s.WiFi.Password
		_, notHex := hex.DecodeString(p)
		if p != "" && (len(p) < 8 || len(p) > 64 || len(p) == 64 && notHex != nil || !printable(p)) {
			return errors.New("a Wi-Fi password has 8 to 63 letters, digits and signs")
		}
	}
	if s.ClaimCode != "" {
		code, ok := claimCode(s.ClaimCode)
		if !ok {
			return errors.New("a claim code has 8 letters and digits, such as 7K3M-9QXT, without the letter U")
		}
		s.ClaimCode = code
	}
	if len(s.MeshKey) > 512 || !printable(s.MeshKey) || strings.Contains(s.MeshKey, " ") {
		return errors.New("the mesh key must be one word of at most 512 characters")
	}
	return nil
}

func validName(s string) bool {
	return len(s) >= 1 && len(s) <= 63 && s != "localhost" && s[0] != '-' && s[len(s)-1] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// crockford is Crockford's base 32 (https://www.crockford.com/base32.html).
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// NewClaimCode returns 40 random bits as "XXXX-XXXX".
func NewClaimCode() string {
	var r [8]byte
	rand.Read(r[:])
	for i, b := range r {
		r[i] = crockford[b%32]
	}
	return string(r[:4]) + "-" + string(r[4:])
}

// claimCode reads a code as people type it: in any case, with or without dashes and blanks, O for 0, I and L for 1.
func claimCode(s string) (string, bool) {
	s = strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(s))
	if len(s) != 8 || strings.Trim(s, crockford) != "" {
		return "", false
	}
	return s[:4] + "-" + s[4:], true
}

// medium is what settings are baked into.
type medium interface {
	io.ReaderAt
	io.WriterAt
}

// bake overwrites the settings file on the first FAT volume, which starts at an offset, in place.
func bake(m medium, start, size int64, s Settings) error {
	js, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	volume := window{m, start, size}
	f, err := fat.Find(volume, board.SettingsFile)
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	content := append(js, '\n')
	if int64(len(content)) > f.Size {
		return fmt.Errorf("settings: %d bytes, and %s has room for %d", len(content), board.SettingsFile, f.Size)
	}
	content = append(content, strings.Repeat(" ", int(f.Size)-len(content))...)
	return fat.Overwrite(volume, f, content)
}

// window is a part of a medium.
type window struct {
	medium
	start, size int64
}

func (w window) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(w.medium, w.start, w.size).ReadAt(p, off)
}

func (w window) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > w.size {
		return 0, fmt.Errorf("write %d bytes at %d, beyond the volume's %d", len(p), off, w.size)
	}
	return w.medium.WriteAt(p, w.start+off)
}
