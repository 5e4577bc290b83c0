package network

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

const maxResolv = 3 // MAXNS of resolv.conf(5)

var domainRE = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.?$`)

// validDomain reports whether s is a domain name of letters, digits and hyphens (RFC 1123 section 2.1).
func validDomain(s string) bool { return len(s) <= 253 && domainRE.MatchString(s) }

// resolvConf returns the content of resolv.conf: at most three servers, none twice.
func resolvConf(servers []netip.Addr, domain string) []byte {
	var b bytes.Buffer
	b.WriteString("# Written by Croft whenever the network changes.\n")
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if validDomain(domain) {
		fmt.Fprintf(&b, "search %s\n", strings.ToLower(domain))
	}
	return b.Bytes()
}

// firstServers returns the first distinct servers that fit into resolv.conf.
func firstServers(all []netip.Addr) []netip.Addr {
	out := []netip.Addr{}
	for _, a := range all {
		if len(out) < maxResolv && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// replaceFile writes a file that readers, also after a power cut, see either as it was or complete.
func replaceFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := renameio.WriteFile(path, data, 0o644, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o644)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

func sortedAddrs(m map[netip.Addr]time.Duration) []netip.Addr {
	return slices.SortedFunc(maps.Keys(m), netip.Addr.Compare)
}
