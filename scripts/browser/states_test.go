package browser

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/croft-os/croft/services/api"
)

// stateOf returns what a box can be like, by name. Each call makes its own, so that a test may change it.
func stateOf(name string) (*api.System, *api.Network, *api.Discovery, error) {
	s, n, d := well()
	service := func(name string) *api.Service {
		i := slices.IndexFunc(s.Services, func(v api.Service) bool { return v.Name == name })
		return &s.Services[i]
	}
	switch name {
	case "well":
	case noCore, noPages: // on the way to what has not started yet, see server
	case "changed": // what a live page has to notice
		*s.Vitals.Temperature = 61
		service("discovery").Status = "answering to croft.local, and said so"
	case "starting":
		s.UptimeMS = 4200
		for _, v := range []string{"webui", "gateway"} {
			service(v).State, service(v).SinceMS, service(v).Confined = api.StateStarting, 900, nil
		}
		s.Phases[len(s.Phases)-1].TookMS = -1
		n.Clock.Certainty, n.Clock.Text = api.ClockUnsure, "The time is not checked yet."
	case "crashing":
		v := service("discovery")
		v.State, v.Restarts, v.LastExit, v.NextTryMS = api.StateCrashing, 6, "killed: memory limit 48 MB", 252_000
		v.PID, v.Memory, v.Status = 0, 0, ""
	case "hot":
		*s.Vitals.Temperature = 87
		s.Vitals.Load1 = 7.4
	case "hostile": // whatever others can put there
		const evil = `"><img src=x onerror=alert(1)>`
		for i := range s.Services {
			s.Services[i].Status, s.Services[i].LastExit = evil, evil
		}
		s.Board.Model, s.Vitals.Data.Model = evil, evil
		s.Gaps[0].Text, s.Gaps[0].Detail = evil, evil
		s.Phases[4].Error, s.Phases[4].Note = evil, evil
		d.Name, d.Conflict = "croft-2", evil
		n.Interfaces[0].Problem, n.Clock.Text = evil, evil
		n.Clock.Certainty = api.ClockUnsure
	case "conflict":
		d.Name = "croft-2"
		d.Conflict = "A device at 192.168.1.77 already uses that name, so this box took the next free one."
	case "many":
		*s.Vitals.Temperature = 78
		low := true
		s.Vitals.UnderVoltage = &low
		s.Vitals.Data.Free = 310e6
		s.Vitals.MemAvailable = 24 << 20
		d.Name, d.Conflict = "croft-2", "A device at 192.168.1.77 already uses that name, so this box took the next free one."
		v := service("core")
		v.Confined.OK = false
		v.Confined.Probes[2].Held, v.Confined.Probes[2].Note = false, "opened a file of another service"
		s.Phases[4].Error = "e2fsck: exit status 4: UNEXPECTED INCONSISTENCY"
		n.Clock.Certainty, n.Clock.Text = api.ClockUnsure, "No time server answers, so this is the time since the last start."
		w := service("network")
		w.State, w.Restarts, w.LastExit, w.NextTryMS = api.StateBackoff, 2, "exit status 1", 4000
	case "bare": // neither network nor discovery answers, no sensor
		s.Vitals.Temperature, s.Vitals.UnderVoltage = nil, nil
		return s, nil, nil, nil
	case "rescue", "rescue-busy", "rescue-checked":
		s.Mode, s.ID, s.Vitals.Data = api.ModeRescue, "", nil
		s.Rescue = &api.Rescue{
			Code: "no-marker", Text: "The data partition does not carry this box's mark, so it may not be the right one.",
			Detail: "open /data/.croft-id: no such file or directory (/dev/mmcblk0p7, ext4)",
		}
		if name == "rescue-busy" {
			s.Rescue.Busy, s.Rescue.Progress = "check", 0.42
		}
		if name == "rescue-checked" {
			s.Rescue.Check = &api.CheckDone{At: time.Now(), Findings: []string{
				"The list of files has 3 errors.", "The mark of this box is missing.",
			}}
		}
		s.Phases[4].Error = "no marker"
	default:
		return nil, nil, nil, fmt.Errorf("no state %q", name)
	}
	return s, n, d, nil
}

func well() (*api.System, *api.Network, *api.Discovery) {
	const mib = 1 << 20
	temp, low := 48.3, false
	up := 3 * time.Hour
	service := func(name, title, status string, uid uint32, mem, most int64, critical bool) api.Service {
		return api.Service{
			Name: name, Title: title, State: api.StateRunning, Since: time.Now().Add(-up), SinceMS: up.Milliseconds(),
			Status: status, PID: int(uid) - 100, UID: uid, Critical: critical, Memory: mem * mib, MemoryMax: most * mib,
			Confined: &api.Confined{OK: true, At: time.Now().Add(-up), Probes: []api.Probe{
				{Name: "write-root", Held: true},
				{Name: "read-others", Held: true},
				{Name: "ptrace", Held: true},
				{Name: "user-namespace", Held: true},
				{Name: "raw-socket", Granted: name == "network", Held: name != "network"},
			}},
		}
	}
	phase := func(name, title string, start, took int64) api.Phase {
		return api.Phase{Name: name, Title: title, StartMS: start, TookMS: took}
	}
	sys := &api.System{
		Name: "croft", ID: "c7f3a1d2-8e54-4c1b-9d06-2b1f6a7e9c33", Version: "0.1.0", Slot: "a", Mode: api.ModeNormal,
		Board:    api.Board{ID: "pi", Model: "Raspberry Pi 4 Model B Rev 1.4", Arch: "arm64"},
		UptimeMS: up.Milliseconds(),
		Phases: []api.Phase{
			phase("mounts", "System folders", 1240, 30),
			phase("board", "What the box is made of", 1270, 110),
			phase("console", "Screen", 1380, 40),
			phase("disk", "Finding the data partition", 1420, 310),
			phase("data", "Checking and opening the data", 1730, 640),
			phase("clock", "Setting the clock", 2370, 20),
			phase("hostname", "Name", 2390, 5),
			phase("services", "Services", 2395, 980),
		},
		Services: []api.Service{
			service("network", "Network and time", "connected", 201, 14, 48, true),
			service("discovery", "Found on the LAN", "answering to croft.local", 202, 12, 48, false),
			service("core", "Accounts and settings", "running", 204, 13, 96, true),
			service("webui", "Web page", "running", 205, 11, 64, true),
			service("gateway", "Front door", "serving", 203, 19, 128, true),
		},
		Gaps: []api.Gap{
			{
				Name: "test-memory-limit", Weight: "warn", Detail: "cgroup.controllers has no memory",
				Text: "This kernel can't limit memory, so Croft watches it and ends what uses too much.",
			},
			{
				Name: "test-device-mapper", Weight: "info", Detail: "/sys/module/dm_mod: no such file or directory",
				Text: "This kernel can't encrypt a whole disk.",
			},
		},
		Vitals: api.Vitals{
			MemTotal: 1892 * mib, MemAvailable: 1604 * mib, Load1: 0.21, CPUs: 4, Temperature: &temp, UnderVoltage: &low,
			Data: &api.Disk{Device: "mmcblk0p7", Model: "SD32G", Size: 29_700_000_000, Free: 27_400_000_000},
		},
	}
	network := &api.Network{
		DNS: []netip.Addr{netip.MustParseAddr("192.168.1.1")},
		Interfaces: []api.Interface{{
			Name: "eth0", MAC: "dc:a6:32:01:02:03", Up: true, Method: "dhcp",
			Addresses: []netip.Prefix{
				netip.MustParsePrefix("192.168.1.20/24"), netip.MustParsePrefix("fd5c:7e1a:22b0:0:dea6:32ff:fe01:203/64"),
				netip.MustParsePrefix("fe80::dea6:32ff:fe01:203/64"),
			},
			Gateway: netip.MustParseAddr("192.168.1.1"), Server: netip.MustParseAddr("192.168.1.1"),
			LeaseEnd: time.Now().Add(20 * time.Hour),
		}},
		Clock: api.Clock{
			Now: time.Now(), Certainty: api.ClockSure, Text: "Several time servers agree to within 12 ms.", OffsetMS: 1.2,
			ErrorMS: 12, LastSync: time.Now().Add(-10 * time.Minute), Servers: []string{"0.pool.ntp.org", "time.cloudflare.com"},
		},
	}
	disc := &api.Discovery{Wanted: "croft", Name: "croft", State: "announced", Since: time.Now().Add(-up)}
	return sys, network, disc
}
