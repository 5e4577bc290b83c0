package image

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/croft-os/croft/services/api"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Places of the two programs in the root file system; they are monogok's.
const (
	pathInit   = "gokrazy/init"
	pathCroftd = "user/croftd"
)

// writeRoot adds to dir, which holds the two programs, everything else of the root file system: empty folders to mount on, the
// files in /etc that the Go standard library reads, the release, the licences and whom to follow. There is no shell, no library and, so far, no
// kernel module: what the boards need is built into their kernels, except the Pi's Wi-Fi.
func writeRoot(dir string, r api.Release, licences []byte, publisher map[string][]byte) error {
	for _, d := range []string{"boot", "data", "dev", "mnt", "proc", "run", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/croft/licences.json.gz": string(licences),
		"etc/hosts":                  "127.0.0.1 localhost\n::1 localhost\n",
		"etc/nsswitch.conf":          "hosts: files dns\n",
		"etc/ssl/ca-bundle.pem":      roots(),
	}
	for name, content := range publisher {
		files["etc/croft/"+name] = string(content)
	}
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := writeRelease(dir, r); err != nil {
		return err
	}
	if err := os.Symlink("/run/croft/network/resolv.conf", filepath.Join(dir, "etc/resolv.conf")); err != nil {
		return err
	}
	for _, p := range []string{pathInit, pathCroftd} {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			return fmt.Errorf("the packer made no /%s: %w", p, err)
		}
	}
	return nil
}

func writeRelease(dir string, r api.Release) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "etc/croft/release.json"), append(b, '\n'), 0o644)
}

// roots is Mozilla's list of certificate authorities as golang.org/x/crypto carries it, without those that Mozilla trusts
// only under conditions: a PEM file can't express them. The builder's own list would make images differ.
func roots() string {
	var s strings.Builder
	for c := range bundle.Roots() {
		if c.Constraint == nil {
			s.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate}))
		}
	}
	return s.String()
}
