package supervisor

import (
	"slices"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/supervisor/probe"
)

const maxProbes = 32

// judge completes a service's report: what it could do because it was granted is no escape. The service's own
// verdict does not count.
func (u *unit) judge(c *api.Confined) {
	c.At = time.Now().UTC().Round(time.Millisecond)
	if len(c.Probes) > maxProbes {
		c.Probes = c.Probes[:maxProbes]
	}
	c.OK = len(c.Probes) > 0
	for i := range c.Probes {
		p := &c.Probes[i]
		p.Name, p.Note = clean(p.Name), clean(p.Note)
		p.Granted = !p.Held && u.granted(p.Name)
		c.OK = c.OK && (p.Held || p.Granted)
	}
}

func (u *unit) granted(name string) bool {
	d := &u.decl
	switch name {
	case probe.RawSocket:
		return slices.Contains(d.Capabilities, "CAP_NET_RAW")
	case probe.Network:
		return d.Network == NetHost
	case probe.Clock:
		return slices.Contains(d.Capabilities, "CAP_SYS_TIME")
	}
	return false
}
