package api

import (
	"net/netip"
	"time"
)

// Network is GET /v1/network on the network service's socket.
type Network struct {
	Interfaces []Interface  `json:"interfaces"`
	DNS        []netip.Addr `json:"dns"`
	Config     NetConfig    `json:"config"`
	Clock      Clock        `json:"clock"`
	Trial      *Trial       `json:"trial,omitempty"` // a configuration that is tried; Config is then the one before
}

// Interface is one network interface.
type Interface struct {
	Name      string         `json:"name"`
	MAC       string         `json:"mac"`
	Up        bool           `json:"up"`     // carrier present
	Method    string         `json:"method"` // how IPv4 was obtained: "dhcp", "static", "link-local", ""
	Addresses []netip.Prefix `json:"addresses"`
	Gateway   netip.Addr     `json:"gateway"`
	Server    netip.Addr     `json:"server"` // DHCP server
	LeaseEnd  time.Time      `json:"lease_end,omitzero"`
	Problem   string         `json:"problem,omitempty"` // one sentence for an owner
}

// NetConfig is the owner's network configuration: PUT /v1/network/config. Empty means DHCP and SLAAC everywhere.
type NetConfig struct {
	Interfaces map[string]StaticConfig `json:"interfaces,omitempty"` // by interface name, or "*" for all without one of their own
	NTP        []string                `json:"ntp,omitempty"`        // host names; empty means the built-in list
}

// StaticConfig fixes one interface's addresses.
type StaticConfig struct {
	Addresses []netip.Prefix `json:"addresses"`
	Gateway   netip.Addr     `json:"gateway,omitzero"`
	DNS       []netip.Addr   `json:"dns,omitempty"`
}

// Certainty of the clock.
const (
	ClockUnsure = "unsure" // only the floor from build time and last known time
	ClockKept   = "kept"   // synchronised earlier in this boot, not lately; or from a battery-backed clock
	ClockSure   = "sure"   // synchronised with agreeing servers
)

// Clock says what time it is and how sure the box is.
type Clock struct {
	Now       time.Time `json:"now"`
	Certainty string    `json:"certainty"`
	Text      string    `json:"text"` // one sentence for an owner
	OffsetMS  float64   `json:"offset_ms"`
	ErrorMS   float64   `json:"error_ms"` // bound on the error; 0 if unknown
	LastSync  time.Time `json:"last_sync,omitzero"`
	Servers   []string  `json:"servers"`
}

// Discovery is GET /v1/discovery on the discovery service's socket.
type Discovery struct {
	Wanted   string    `json:"wanted"`   // "croft"
	Name     string    `json:"name"`     // "croft-2" after a conflict; without ".local"
	Conflict string    `json:"conflict"` // one sentence for an owner, empty without a conflict
	State    string    `json:"state"`    // "probing", "announced", "no-network"
	Since    time.Time `json:"since"`
	Former   []string  `json:"former,omitempty"` // names that the box had before it was renamed and still answers to, oldest first
}
