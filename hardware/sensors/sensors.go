// Package sensors reads the box's vital signs: memory, load, work, network traffic, temperature, under-voltage, and what
// each process uses.
//
// Sources: proc_meminfo(5), proc_loadavg(5), proc_stat(5), proc_pid_smaps(5), and the kernel's net, thermal and hwmon
// classes in sysfs. Limits: a sensor that a board lacks is reported as absent, never as zero.
package sensors

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Memory returns the total and the available memory in bytes.
func Memory(proc string) (total, available int64) {
	b, err := os.ReadFile(filepath.Join(proc, "meminfo"))
	if err != nil {
		return 0, 0
	}
	return field(b, "MemTotal:"), field(b, "MemAvailable:")
}

// PSS returns the sum of the proportional set sizes of all processes in bytes.
func PSS(proc string) int64 {
	dirs, err := filepath.Glob(filepath.Join(proc, "[0-9]*/smaps_rollup"))
	if err != nil {
		return 0
	}
	var sum int64
	for _, p := range dirs {
		if b, err := os.ReadFile(p); err == nil {
			sum += field(b, "Pss:")
		}
	}
	return sum
}

// field returns the value of a "Name:  123 kB" line in bytes.
func field(b []byte, name string) int64 {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		if rest, ok := strings.CutPrefix(sc.Text(), name); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// Load1 returns the load average of the last minute.
func Load1(proc string) float64 {
	b, err := os.ReadFile(filepath.Join(proc, "loadavg"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	f, _ := strconv.ParseFloat(first, 64)
	return f
}

// userHZ is the unit of /proc/stat, a second's part, on all architectures that Croft runs on.
const userHZ = 100

// CPUBusy returns for how long all CPUs together have worked since the kernel started.
func CPUBusy(proc string) time.Duration {
	b, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(first)
	var busy int64
	for i, v := range f {
		// cpu user nice system idle iowait irq softirq steal guest guest_nice: guests count as users too.
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		n, _ := strconv.ParseInt(v, 10, 64)
		busy += n
	}
	return time.Duration(busy) * time.Second / userHZ
}

// Network returns how many bytes the network interfaces that are devices, not tunnels or bridges, have received and sent
// since the kernel started.
func Network(sys string) (in, out int64) {
	devices, _ := filepath.Glob(filepath.Join(sys, "class/net/*/device"))
	for _, d := range devices {
		for name, sum := range map[string]*int64{"rx_bytes": &in, "tx_bytes": &out} {
			if b, err := os.ReadFile(filepath.Join(filepath.Dir(d), "statistics", name)); err == nil {
				n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
				*sum += n
			}
		}
	}
	return in, out
}

// Temperature returns the hottest thermal zone in °C; ok is false on a board without a sensor.
func Temperature(sys string) (celsius float64, ok bool) {
	zones, _ := filepath.Glob(filepath.Join(sys, "class/thermal/thermal_zone*/temp"))
	for _, z := range zones {
		b, err := os.ReadFile(z)
		if err != nil {
			continue
		}
		milli, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
		if err == nil && milli > -40e3 && milli < 150e3 && (!ok || milli/1000 > celsius) {
			celsius, ok = milli/1000, true
		}
	}
	return celsius, ok
}

// UnderVoltage tells whether the power supply is too weak now (hwmon rpi_volt); ok is false where nothing measures
// it.
func UnderVoltage(sys string) (low, ok bool) {
	names, _ := filepath.Glob(filepath.Join(sys, "class/hwmon/hwmon*/name"))
	for _, n := range names {
		if b, _ := os.ReadFile(n); strings.TrimSpace(string(b)) != "rpi_volt" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(n), "in0_lcrit_alarm"))
		if err == nil {
			return strings.TrimSpace(string(b)) == "1", true
		}
	}
	return false, false
}
