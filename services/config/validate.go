package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the box has no zones of its own

	hwnet "github.com/croft-os/croft/hardware/network"
	"github.com/croft-os/croft/services/api"
)

// Bounds of the network's part, as the network service has them.
const (
	maxNTP        = 8
	maxInterfaces = 32
	maxList       = 64 // entries of any other list that are read at all
)

var (
	labelRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	zoneRE  = regexp.MustCompile(`^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}$`)
	hostRE  = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
)

// Name returns the host name as it is kept, in lower case; ok is false for what can't be one: it has to be one DNS label
// (RFC 1123 section 2.1), and not "localhost", by which every device means itself.
func Name(s string) (name string, ok bool) {
	name = strings.ToLower(s)
	return name, labelRE.MatchString(name) && name != "localhost"
}

// TimeZone tells whether s is a name of the IANA time zone database. The empty name is UTC.
func TimeZone(s string) bool {
	if s == "" {
		return true
	}
	if !zoneRE.MatchString(s) || s == "Local" { // which is Go's name for whatever the machine has
		return false
	}
	_, err := time.LoadLocation(s)
	return err == nil
}

// Validate returns the document as it is kept, or everything that is wrong with it but for what only package identity
// knows of people.
func Validate(c api.Config) (api.Config, []api.FieldProblem) {
	var r reader
	if c.Format != api.ConfigFormat {
		r.wrong("/format", "format", "This is not a configuration that this version of Croft can read.")
		return c, r.problems
	}
	name, ok := Name(c.Name)
	if !ok {
		r.wrong("/name", "host-name", "A name has 1 to 63 letters from a to z, digits and hyphens, and begins and ends with a letter or digit.")
	}
	c.Name = name
	if !TimeZone(c.TimeZone) {
		r.wrong("/time_zone", "time-zone", "There is no such time zone. Write one such as Europe/Berlin.")
	}
	r.validateNetwork("/network", c.Network)
	r.validatePeople(c.People)
	c.Updates = r.validateUpdates(c.Updates)
	c.Witness = r.validateWitness(c.Witness)
	if len(r.problems) > 0 {
		return c, r.problems
	}
	return c, nil
}

func (r *reader) validateNetwork(path string, c api.NetConfig) {
	all := path + "/interfaces"
	if len(c.Interfaces) > maxInterfaces {
		r.wrong(all, "too-long", fmt.Sprintf("There can be at most %d entries.", maxInterfaces))
		return
	}
	taken := map[netip.Addr]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Interfaces)) {
		s, at, twice := c.Interfaces[name], pointer(all, name), false
		for i, p := range s.Addresses {
			if other, ok := taken[p.Addr()]; ok && p.IsValid() {
				twice = true
				r.wrong(fmt.Sprintf("%s/addresses/%d", at, i), "duplicate", fmt.Sprintf("%s already has %s.", other, p.Addr()))
			}
			taken[p.Addr()] = name
		}
		if !twice {
			r.validateInterface(at, name, s)
		}
	}
	if len(c.NTP) > maxNTP {
		r.wrong(path+"/ntp", "too-long", fmt.Sprintf("There can be at most %d entries.", maxNTP))
	}
	for i, s := range c.NTP {
		if _, err := netip.ParseAddr(s); err != nil && (len(s) > 253 || !hostRE.MatchString(s)) {
			r.wrong(path+"/ntp/"+strconv.Itoa(i), "host-name", "This is neither a host name nor an address.")
		}
	}
}

// validateInterface asks what will have to work with it, which stops at its first mistake.
func (r *reader) validateInterface(at, name string, s api.StaticConfig) {
	err := hwnet.Config{Interfaces: map[string]hwnet.Static{
		name: {Addresses: s.Addresses, Gateway: s.Gateway, DNS: s.DNS},
	}}.Validate()
	var ce *hwnet.ConfigError
	if !errors.As(err, &ce) {
		return
	}
	// "interfaces.eth0.addresses[1]" is "/addresses/1" below the interface, whose name may have dots itself.
	rest := strings.TrimPrefix(ce.Path, "interfaces."+name)
	field := strings.NewReplacer(".", "/", "[", "/", "]", "").Replace(rest)
	code := "address"
	switch {
	case field == "":
		code = "format"
	case field == "/gateway":
		code = "gateway"
	case field == "/addresses", field == "/dns":
		code = "too-long"
	}
	r.wrong(at+field, code, ce.Text)
}

func (r *reader) validatePeople(all []api.ConfigPerson) {
	if len(all) > maxPeople {
		r.wrong("/people", "too-long", fmt.Sprintf("There can be at most %d entries.", maxPeople))
		return
	}
	seen := map[string]bool{}
	for i, p := range all {
		at := pointer("/people", strconv.Itoa(i))
		if strings.TrimSpace(p.Name) == "" {
			r.wrong(at+"/name", "missing", "A name is needed.")
		}
		if p.Role != api.RoleOwner && p.Role != api.RoleMember {
			r.wrong(at+"/role", "role", "A role is owner or member.")
		}
		if key := personKey(p.Name); seen[key] {
			r.wrong(at+"/name", "duplicate", "This is there twice.")
		} else {
			seen[key] = true
		}
	}
}
