package sensors

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// tree writes files below a new folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestProc(t *testing.T) {
	proc := tree(t, map[string]string{
		"meminfo":           "MemTotal:         507904 kB\nMemFree:   1 kB\nMemAvailable:     400000 kB\n",
		"loadavg":           "0.42 0.1 0.0 1/80 99\n",
		"stat":              "cpu  100 20 3 99999 888 4 5 6 70 7\ncpu0 100 20 3 99999 888 4 5 6 70 7\n",
		"1/smaps_rollup":    "00400000-7ffd rollup\nRss:  9 kB\nPss:      7 kB\nPss_Anon:   2 kB\n",
		"77/smaps_rollup":   "Pss:      5 kB\n",
		"self/smaps_rollup": "Pss:      5 kB\n",
	})
	if total, avail := Memory(proc); total != 507904<<10 || avail != 400000<<10 {
		t.Errorf("memory %d %d", total, avail)
	}
	if l := Load1(proc); l != 0.42 {
		t.Errorf("load %v", l)
	}
	if b := CPUBusy(proc); b != 1380*time.Millisecond {
		t.Errorf("busy for %v", b)
	}
	if p := PSS(proc); p != 12<<10 {
		t.Errorf("PSS %d", p)
	}
	if b := CPUBusy(t.TempDir()); b != 0 {
		t.Errorf("busy out of nothing: %v", b)
	}
	if total, avail := Memory(t.TempDir()); total != 0 || avail != 0 {
		t.Errorf("memory out of nothing: %d %d", total, avail)
	}
}

func TestNetwork(t *testing.T) {
	sys := tree(t, map[string]string{
		"class/net/eth0/device/vendor": "x", "class/net/eth0/statistics/rx_bytes": "1000\n", "class/net/eth0/statistics/tx_bytes": "10\n",
		"class/net/eth1/device/vendor": "x", "class/net/eth1/statistics/rx_bytes": "500\n", "class/net/eth1/statistics/tx_bytes": "5\n",
		"class/net/tun0/statistics/rx_bytes": "7\n", "class/net/lo/statistics/tx_bytes": "7\n",
	})
	if in, out := Network(sys); in != 1500 || out != 15 {
		t.Errorf("%d in, %d out", in, out)
	}
}

func TestTemperature(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  float64
		ok    bool
	}{
		{"none", nil, 0, false},
		{"hottest", map[string]string{"class/thermal/thermal_zone0/temp": "41000\n", "class/thermal/thermal_zone1/temp": "52500\n"}, 52.5, true},
		{"below zero", map[string]string{"class/thermal/thermal_zone0/temp": "-5000"}, -5, true},
		{"broken sensor", map[string]string{"class/thermal/thermal_zone0/temp": "-273000"}, 0, false},
		{"rubbish", map[string]string{"class/thermal/thermal_zone0/temp": "hot"}, 0, false},
	} {
		if got, ok := Temperature(tree(t, tc.files)); got != tc.want || ok != tc.ok {
			t.Errorf("%s: %v %v, want %v %v", tc.name, got, ok, tc.want, tc.ok)
		}
	}
}

func TestUnderVoltage(t *testing.T) {
	sys := tree(t, map[string]string{
		"class/hwmon/hwmon0/name": "cpu_thermal\n", "class/hwmon/hwmon1/name": "rpi_volt\n", "class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
	})
	if low, ok := UnderVoltage(sys); !low || !ok {
		t.Errorf("%v %v", low, ok)
	}
	if _, ok := UnderVoltage(t.TempDir()); ok {
		t.Error("a board without a sensor was measured")
	}
}
