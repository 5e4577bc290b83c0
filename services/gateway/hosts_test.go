package gateway

import (
	"net/netip"
	"strings"
	"testing"
)

func TestLocalHost(t *testing.T) {
	for host, want := range map[string]bool{
		"croft.local": true, "croft.local:80": true, "CROFT.Local.": true, "croft-2.local:8080": true, "a.b.local": true,
		"localhost": true, "localhost:8443": true, "croft": true, "croft:80": true, "app.localhost": true,
		"croft.home.arpa": true, "x.y.HOME.arpa:443": true,
		"192.168.1.5": true, "10.0.0.1:8080": true, "[fe80::1]": true, "[::1]:443": true, "203.0.113.9": true,
		"": false, "example.com": false, "croft.local.example.com": false, "local.evil.com:80": false,
		"home.arpa": false, ".home.arpa": false, "xhome.arpa": false, "foo.xhome.arpa": false, "in-addr.arpa": false,
		"192.168.1.5.nip.io": false, "[fe80::1": false, "fe80::1": false, "[croft.local]": false, "[::1]x": false,
		"[::1]:x": false, "[fe80::1%eth0]": false, "croft.local:99999999": false, "croft.local:8o": false, "croft local": false,
		"user@croft.local": false, "croft.local/evil.com": false, "croft..local": false, "-croft.local": false,
		"3232235781": false, "1.2.3": false, "0x7f.1": false, "999.1.1.1": false, "croft.local:80:80": false,
		strings.Repeat("a", 64) + ".local": false, strings.Repeat("a.", 140) + "local": false, "crö.local": false,
	} {
		if got := localHost(host); got != want {
			t.Errorf("localHost(%q) = %v, want %v", host, got, want)
		}
	}
}

// FuzzLocalHost looks for an accepted Host header that is neither an address nor a name that only the LAN resolves.
func FuzzLocalHost(f *testing.F) {
	for _, s := range []string{"croft.local", "croft", "[::1]:443", "a.home.arpa:80", "evil.com", "local.", "..", "[::ffff:1.2.3.4]", ":80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !localHost(s) {
			return
		}
		if strings.ContainsAny(s, "/@\\ \t\r\n\x00?#%") {
			t.Fatalf("accepted %q", s)
		}
		host, ok := splitHost(s)
		if !ok {
			t.Fatalf("accepted %q without a host", s)
		}
		if _, err := netip.ParseAddr(host); err == nil {
			return
		}
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if strings.Contains(host, ".") && !strings.HasSuffix(host, ".local") && !strings.HasSuffix(host, ".localhost") &&
			!strings.HasSuffix(host, ".home.arpa") {
			t.Fatalf("accepted the public name %q", s)
		}
	})
}
