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
	// patience is how long the box may be without all its critical services before it is restarted.
	patience = 3 * time.Minute
	// bootPatience is how long the steps before the services may take: a drive that dies takes minutes to say so.
	bootPatience = 10 * time.Minute
	// maxUnhealthyRestarts in a row; after that the box stays up with what works, so that it can be reached.
	maxUnhealthyRestarts = 3
	unhealthyFile        = dataDir + "/unhealthy-restarts"

	stopTimeout = 30 * time.Second // for services to stop
	downTimeout = 15 * time.Second // for the rest of taking the box down
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

// watchHealth pets the hardware watchdog until the critical services have not been healthy for too long; then it restarts
// the box. When ctx ends, the box is being taken down, which gets its time and no more.
func (b *Box) watchHealth(ctx context.Context) {
	every := 10 * time.Second
	if b.dog != nil {
		every = min(every, max(b.dog.Timeout/4, time.Second))
	}
	v := vigil{lastHealthy: sinceBoot(), lastSick: sinceBoot()}
	restart, cleared := false, false
	for ctx.Err() == nil && !restart {
		now := sinceBoot()
		err := b.healthy()
		if v.overdue(now, err) && !v.stays {
			restart = b.mayRestart(unhealthyFile, err)
			v.stays = !restart
		}
		if v.settled(now) && !cleared && !b.onTrial() {
			cleared = true
			os.Remove(unhealthyFile)
		}
		b.pet()
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
	if restart {
		b.finish("reboot")
	}
	for end := sinceBoot() + stopTimeout + downTimeout; sinceBoot() < end; time.Sleep(every) {
		b.pet()
	}
	if restart { // and that was not in order
		time.Sleep(dogTimeout)
		power.Restart() // there is no hardware watchdog, then
	}
}

func (b *Box) pet() {
	if b.dog == nil {
		return
	}
	if err := b.dog.Pet(); err != nil {
		b.log.Error("watchdog", "err", err)
	}
}

// vigil is how the box has been lately.
type vigil struct {
	lastHealthy, lastSick time.Duration // since boot
	stays                 bool          // was decided for as long as it is not healthy: no restart
}

// settled tells whether the box has been healthy for so long that a later restart is not one in a row.
func (v *vigil) settled(now time.Duration) bool { return now-v.lastSick >= patience }

// overdue tells whether a box in that state has been so for too long.
func (v *vigil) overdue(now time.Duration, err error) bool {
	if err == nil {
		v.lastHealthy, v.stays = now, false
		return false
	}
	v.lastSick = now
	limit := patience
	if errors.Is(err, errNotStarted) {
		limit = bootPatience
	}
	return now-v.lastHealthy >= limit
}

var errNotStarted = errors.New("services have not been started yet")

func (b *Box) healthy() error {
	sup := b.supervisor()
	if sup == nil {
		return errNotStarted
	}
	return sup.Healthy()
}

// unhealthyRestarts reads the count of restarts in a row from the file at path.
func unhealthyRestarts(path string) int {
	n, _ := strconv.Atoi(strings.TrimSpace(readFile(path)))
	return n
}

// mayRestart tells whether to restart a box that has been unhealthy for too long, and counts it in the file at path. A
// box whose restarts can't be counted stays up, for it could restart for ever: in rescue mode, and when the data
// partition can't be written. One that never came as far as its services has nothing to stay up for.
//
// On trial the box restarts, into the other slot, and nothing is counted: the counts are the committed release's.
func (b *Box) mayRestart(path string, cause error) bool {
	if b.onTrial() {
		b.failTrial(api.TrialEnd{Cause: causeService, Service: b.sick(), Detail: cause.Error()})
		return true
	}
	var against error
	switch n := unhealthyRestarts(path); {
	case errors.Is(cause, errNotStarted):
	case b.inRescue():
		against = errors.New("in rescue mode")
	case n >= maxUnhealthyRestarts:
		against = fmt.Errorf("restarted %d times in a row already", n)
	default:
		against = writeAtomic(path, fmt.Appendln(nil, n+1), 0o600)
	}
	b.log.Error("critical services are not healthy", "err", cause, "restart", against == nil, "against", against)
	if against == nil {
		b.say("Restarting: " + cause.Error())
	}
	return against == nil
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

// takeDown unmounts the data partition and restarts or switches off, even if a drive hangs.
func (b *Box) takeDown(action string) error {
	b.log.Info("taking the box down", "action", action)
	unmounted := make(chan struct{})
	go func() {
		defer close(unmounted)
		if err := b.journal.Close(); err != nil {
			b.say("Logs: " + err.Error())
		}
		unix.Sync()
		if b.inRescue() {
			return
		}
		b.startLasted()
		if err := unix.Unmount(dataDir, 0); err != nil {
			b.say("Data partition: " + err.Error())
			unix.Mount("", dataDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}()
	select {
	case <-unmounted:
	case <-time.After(downTimeout):
		b.say("The data partition does not answer.")
	}
	b.say("Bye.")
	if action == "poweroff" {
		if b.dog != nil {
			b.dog.Disarm()
		}
		return power.Off()
	}
	return b.restart(action)
}

// gaps says what the running kernel can't enforce or drive, found by trying.
func (b *Box) gaps() []api.Gap {
	own, sup := b.ownGaps.get(b.findGaps), b.supervisor()
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
	radio := "no radio that this kernel can drive"
	if w, _ := filepath.Glob("/sys/class/ieee80211/*"); len(w) > 0 {
		radio = "there is a radio, but nothing in this release joins a network with it"
	}
	if _, err := os.Stat(filepath.Join(b.dir, "state/network", wifiFile)); err == nil {
		add("warn", "wifi", "The box can't use Wi-Fi yet; it needs a network cable. The Wi-Fi's name and password are kept for when it can.", radio)
	} else {
		add("info", "wifi", "The box can't use Wi-Fi; it needs a network cable.", radio)
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
	if n := unhealthyRestarts(unhealthyFile); n >= maxUnhealthyRestarts {
		add("warn", "restarts", "The box restarted itself several times because something important kept failing; it now stays on with what works.",
			fmt.Sprintf("%d restarts in a row", n))
	}
	return gaps
}

// readVitals measures; withPSS is what takes long.
func (b *Box) readVitals(withPSS bool) api.Vitals {
	v := api.Vitals{CPUs: runtime.NumCPU(), Load1: sensors.Load1("/proc"), CPUBusyMS: sensors.CPUBusy("/proc").Milliseconds()}
	v.MemTotal, v.MemAvailable = sensors.Memory("/proc")
	v.NetIn, v.NetOut = sensors.Network("/sys")
	if withPSS {
		v.PSS = b.pss.get(func() int64 { return sensors.PSS("/proc") })
	}
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
