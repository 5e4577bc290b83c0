package gateway

import (
	"net/netip"
	"strings"
)

// localHost reports whether the Host header names a box at home: an IP address, localhost, a name of one label, or
// a name below local (RFC 6762), localhost (RFC 6761) or home.arpa (RFC 8375). Nobody can make the public DNS answer
// for such a name, so a page from elsewhere can't be rebound to the box (DNS rebinding).
func localHost(hostport string) bool {
	host, ok := splitHost(hostport)
	if !ok {
		return false
	}
	if strings.HasPrefix(hostport, "[") || strings.Count(host, ".") == 3 {
		if addr, err := netip.ParseAddr(host); err == nil {
			return addr.Zone() == ""
		}
	}
	host = strings.TrimSuffix(host, ".")
	if !hostName(host) {
		return false
	}
	last := host
	if i := strings.LastIndexByte(host, '.'); i >= 0 {
		last = host[i+1:]
	} else {
		return !numeric(host)
	}
	switch {
	case strings.EqualFold(last, "local"), strings.EqualFold(last, "localhost"):
		return true
	case strings.EqualFold(last, "arpa"):
		return len(host) > len(".home.arpa") && strings.EqualFold(host[len(host)-len(".home.arpa"):], ".home.arpa")
	}
	return false
}

// splitHost takes the port off a Host header (RFC 9110 section 7.2), and the brackets off an IPv6 address.
func splitHost(s string) (host string, ok bool) {
	if len(s) == 0 || len(s) > 260 {
		return "", false
	}
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 || !strings.Contains(s[:end], ":") {
			return "", false
		}
		return s[1:end], end+1 == len(s) || s[end+1] == ':' && port(s[end+2:])
	}
	host, p, found := strings.Cut(s, ":")
	return host, host != "" && (!found || port(p))
}

func port(s string) bool { return len(s) <= 5 && (s == "" || numeric(s)) }

func numeric(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// hostName reports whether s is a host name in ASCII: labels of 1 to 63 letters, digits, hyphens and underscores.
func hostName(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	label := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-' && label > 0:
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0
}
