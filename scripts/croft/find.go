package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/grandcat/zeroconf"
)

// Limits on what the network says.
const (
	findRounds = 2 // each asks anew, in case a packet is lost
	findMax    = 256
	findText   = 64 // bytes of a value
	findAddrs  = 16 // of one box
)

// found is one Croft on the LAN.
type found struct {
	Name      string       `json:"name"`
	URL       string       `json:"url"`
	Addresses []netip.Addr `json:"addresses"`
	Version   string       `json:"version,omitempty"`
	ID        string       `json:"id,omitempty"`
}

// find lists the Crofts on the LAN, by DNS-SD (RFC 6763).
func find(ctx context.Context, args []string, std stdio) int {
	fl := flags(std, "find", "find [--json]")
	asJSON := fl.Bool("json", false, "print a JSON array")
	wait := fl.Duration("wait", 3*time.Second, "how long to wait for answers")
	if _, code, ok := parse(fl, args, 0, 0); !ok {
		return code
	}
	boxes := map[string]found{}
	for range findRounds {
		if err := browse(ctx, *wait/findRounds, boxes); err != nil {
			fmt.Fprintf(std.err, "Can't ask this network for Crofts. Check that this computer is connected, then try again. "+
				"(%v)\n", err)
			return exitFailed
		}
	}
	list := make([]found, 0, len(boxes))
	for _, b := range boxes {
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b found) int { return cmp.Compare(a.Name, b.Name) })
	if *asJSON {
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", "  ")
		enc.Encode(list)
	} else if len(list) > 0 {
		printFound(std.out, list)
	}
	if len(list) == 0 {
		fmt.Fprintln(std.err, "No Croft answered. Check that the box has power and its network cable, and that this "+
			"computer is on the same network, not on a guest Wi-Fi or a VPN. A box that was just switched on needs about a minute.")
		return exitFailed
	}
	return exitOK
}

// browse collects what answers within wait.
func browse(ctx context.Context, wait time.Duration, boxes map[string]found) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var resolver *zeroconf.Resolver
	var err error
	// It fails if one of the families that it is told is missing.
	for _, traffic := range []zeroconf.IPType{zeroconf.IPv4AndIPv6, zeroconf.IPv4, zeroconf.IPv6} {
		if resolver, err = zeroconf.NewResolver(zeroconf.SelectIPTraffic(traffic)); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	entries := make(chan *zeroconf.ServiceEntry)
	if err := resolver.Browse(ctx, "_croft._tcp", "local", entries); err != nil {
		return err
	}
	for e := range entries { // closed when ctx ends
		if b, ok := fromEntry(e); ok && (len(boxes) < findMax || boxes[b.Name].Name != "") {
			boxes[b.Name] = b
		}
	}
	return nil
}

// fromEntry takes what is of use from an answer, which anybody on the LAN may have sent.
func fromEntry(e *zeroconf.ServiceEntry) (found, bool) {
	host := printable(strings.TrimSuffix(e.HostName, "."))
	b := found{Name: printable(e.Instance), URL: "http://" + host + "/"}
	if b.Name == "" || host == "" {
		return b, false
	}
	for _, t := range e.Text {
		switch key, value, _ := strings.Cut(t, "="); key {
		case "id":
			b.ID = printable(value)
		case "v":
			b.Version = printable(value)
		}
	}
	for _, ip := range slices.Concat(e.AddrIPv4, e.AddrIPv6) {
		if a, ok := addr(ip); ok && !slices.Contains(b.Addresses, a) && len(b.Addresses) < findAddrs {
			b.Addresses = append(b.Addresses, a)
		}
	}
	// A link-local address does not say on which network it is, so it is of use only if there is no other.
	rest := slices.DeleteFunc(slices.Clone(b.Addresses), netip.Addr.IsLinkLocalUnicast)
	if len(rest) > 0 {
		b.Addresses = rest
	}
	slices.SortFunc(b.Addresses, netip.Addr.Compare) // IPv4 first
	return b, true
}

func addr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

// printable drops what could disturb a terminal or a URL.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c <= ' ' || c > '~' {
			return -1
		}
		return c
	}, s)
	return s[:min(len(s), findText)]
}

func printFound(w io.Writer, list []found) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tOPEN\tADDRESSES\tVERSION\tID")
	for _, b := range list {
		var addrs []string
		for _, a := range b.Addresses {
			addrs = append(addrs, a.String())
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", b.Name, b.URL, strings.Join(addrs, ", "),
			cmp.Or(b.Version, "-"), cmp.Or(b.ID, "-"))
	}
	tw.Flush()
}
