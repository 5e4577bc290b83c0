package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/hardware/board"
	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/power"
	"github.com/croft-os/croft/hardware/sensors"
	"github.com/croft-os/croft/hardware/watchdog"
	"github.com/croft-os/croft/services/api"
	"golang.org/x/sys/unix"
)

const (
	dogTimeout = 60 * time.Second
	// patience is how long the box may be without all its critical services before it is restarted; a boot counts.
	patience = 3 * time.Minute
	// maxUnhealthyRestarts in a row; after that the box stays up with what works, so that it can be reached.
	maxUnhealthyRestarts = 3
	unhealthyFile        = dataDir + "/unhealthy-restarts"
)

func (b *Box) openWatchdog() (string, error) {
	dog, err := watchdog.Open("/dev/watchdog", dogTimeout)
	if errors.Is(err, fs.ErrNotExist) {
		return "none found", nil
	}
	if err != nil {
		return "", err
	}
	b.dog = dog
	return fmt.Sprintf("%s, %v", dog.Name, dog.Timeout), nil
}

// petWatchdog pets the hardware watchdog while the critical services are healthy.
func (b *Box) petWatchdog(ctx context.Context) {
	if b.dog == nil {
		return
	}
	t := time.NewTicker(min(b.dog.Timeout/4, 10*time.Second))
	defer t.Stop()
	lastHealthy := sinceBoot()
	counted := false
	for {
		err := b.healthy()
		now := sinceBoot()
		if err == nil {
			lastHealthy = now
			if !counted && now > patience {
				counted = true
				os.Remove(unhealthyFile)
			}
		}
		if now-lastHealthy < patience || b.givenUp() {
			if err := b.dog.Pet(); err != nil {
				b.log.Error("watchdog", "err", err)
			}
		} else {
			b.countUnhealthy(err)
			b.say("Restarting: " + err.Error())
			b.finish("reboot") // in order if that still works; else the watchdog does it
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (b *Box) healthy() error {
	b.mu.Lock()
	sup := b.sup
	b.mu.Unlock()
	if sup == nil {
		return errors.New("services have not been started yet")
	}
	return sup.Healthy()
}

func unhealthyRestarts() int {
	n, _ := strconv.Atoi(strings.TrimSpace(readFile(unhealthyFile)))
	return n
}

func (b *Box) givenUp() bool { return !b.inRescue() && unhealthyRestarts() >= maxUnhealthyRestarts }

func (b *Box) countUnhealthy(cause error) {
	b.log.Error("critical services are not healthy", "err", cause)
	if !b.inRescue() {
		if err := writeAtomic(unhealthyFile, fmt.Appendln(nil, unhealthyRestarts()+1), 0o600); err != nil {
			b.log.Error("count the restart", "err", err)
		}
	}
}

// onSignals ends the box on Ctrl-Alt-Del (SIGINT) and on SIGTERM.
func (b *Box) onSignals() {
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM)
	go func() {
		for s := range c {
			if s == unix.SIGINT {
				b.finish("reboot")
			} else {
				b.finish("poweroff")
			}
		}
	}()
}

// takeDown unmounts the data partition and restarts or switches off.
func (b *Box) takeDown(action string) error {
	b.log.Info("taking the box down", "action", action)
	if err := b.journal.Close(); err != nil {
		b.say("Logs: " + err.Error())
	}
	unix.Sync()
	if !b.inRescue() {
		if err := unix.Unmount(dataDir, 0); err != nil {
			b.say("Data partition: " + err.Error())
			unix.Mount("", dataDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	b.say("Bye.")
	if action == "poweroff" {
		if b.dog != nil {
			b.dog.Disarm()
		}
		return power.Off()
	}
	return power.Restart()
}

// gaps says what the running kernel can't enforce or drive, found by trying.
func (b *Box) gaps() []api.Gap {
	own := b.ownGaps.get(b.findGaps)
	b.mu.Lock()
	sup := b.sup
	b.mu.Unlock()
	if sup == nil {
		return own
	}
	return append(sup.Gaps(), own...)
}

func (b *Box) findGaps() []api.Gap {
	var gaps []api.Gap
	add := func(weight, name, text, detail string) {
		gaps = append(gaps, api.Gap{Name: name, Text: text, Detail: detail, Weight: weight})
	}
	if b.dog == nil {
		add("warn", "watchdog", "If the box hangs, nobody restarts it: it has no watchdog that this kernel can use.", "no /dev/watchdog")
	}
	if _, err := os.Stat("/sys/class/rtc/rtc0"); err != nil {
		add("info", "clock", "The box has no battery clock: after a power cut it knows the time only roughly until it reaches the internet.",
			"no /sys/class/rtc/rtc0")
	}
	if _, ok := sensors.Temperature("/sys"); !ok {
		add("info", "temperature", "The box can't tell its temperature.", "no thermal zone in /sys/class/thermal")
	}
	if ok, detail := disk.HasTarget("crypt"); !ok {
		add("info", "encryption", "This kernel can't encrypt the data partition.", detail)
	}
	if w, _ := filepath.Glob("/sys/class/ieee80211/*"); len(w) == 0 {
		add("info", "wifi", "The box can't use Wi-Fi; it needs a network cable.", "no /sys/class/ieee80211")
	}
	if vol := b.volume(); vol != nil {
		if n := disk.ErrorCount("/sys", vol.part); n > 0 {
			add("warn", "data-errors", "The box found errors on its data partition: the card or disk may be wearing out. Copy what you need, then replace it.",
				fmt.Sprintf("%d errors recorded on %s", n, vol.part.Name))
		}
		for _, name := range b.twins.Find("/sys", "/dev", vol.disk, vol.table) {
			add("warn", "twin", "A second Croft card or disk is plugged in; at the next start the box may start from that one. Unplug the one you don't need.",
				name+" has the same root id as "+vol.disk.Name)
		}
	}
	for _, d := range board.Undriven("/sys") {
		add("warn", "driver", "A device is plugged in that this kernel has no driver for: "+d+".", "no driver bound")
	}
	if n := unhealthyRestarts(); n >= maxUnhealthyRestarts {
		add("warn", "restarts", "The box restarted itself several times because something important kept failing; it now stays on with what works.",
			fmt.Sprintf("%d restarts in a row", n))
	}
	return gaps
}

func (b *Box) readVitals() api.Vitals {
	v := api.Vitals{CPUs: runtime.NumCPU(), Load1: sensors.Load1("/proc")}
	v.MemTotal, v.MemAvailable = sensors.Memory("/proc")
	v.PSS = b.pss.get(func() int64 { return sensors.PSS("/proc") })
	if t, ok := sensors.Temperature("/sys"); ok {
		v.Temperature = &t
	}
	if low, ok := sensors.UnderVoltage("/sys"); ok {
		v.UnderVoltage = &low
	}
	if vol := b.volume(); vol != nil && !b.inRescue() {
		d := api.Disk{Device: vol.part.Name, Model: vol.disk.Model}
		d.Size, d.Free, d.ReadOnly, _ = disk.Usage(dataDir)
		v.Data = &d
	}
	return v
}
