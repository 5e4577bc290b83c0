// Package boot is what PID 1 does: it brings the box from the kernel's first user process to a running supervisor
// in named, timed phases, keeps the hardware watchdog informed, shows the box's state on its consoles, answers
// the control socket, and takes the box down in order.
//
// A phase that fails is recorded with its reason and, wherever possible, passed over: a box that can be reached and
// says what is wrong is worth more than one that stops. Without a usable data partition the same services run in
// rescue mode, with their state in memory.
//
// Limits: of the network it only opens the listeners that services are passed, and reads nothing from them; what it
// answers comes from local processes whose user it checks.
package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/croft-os/croft/hardware/board"
	"github.com/croft-os/croft/hardware/clock"
	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/hardware/power"
	"github.com/croft-os/croft/hardware/watchdog"
	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/supervisor"
	"github.com/croft-os/croft/services/supervisor/journal"
	"golang.org/x/sys/unix"
)

// Config is what the box's main wires together.
type Config struct {
	Services   []supervisor.Service
	Launcher   []string // argv of the supervisor's second stage
	CoreUID    uint32   // may do everything on the control socket
	UpdaterUID uint32   // may see and try slots there, and gets the idle one to write
	FetcherUID uint32   // may read sticks
	Rescue     bool     // this is the rescue system
}

// Paths on the box.
const (
	dataDir     = "/data"
	runDir      = "/run/croft"
	rescueDir   = "/run/croft-rescue" // state in rescue mode
	releaseFile = "/etc/croft/release.json"
	cgroupRoot  = "/sys/fs/cgroup"
)

// defaultName is the host name of a box that has not been given one.
const defaultName = "croft"

// Box is the running box. The console, the watchdog and the control socket read the fields below mu while phases run.
type Box struct {
	cfg     Config
	log     *slog.Logger
	journal *journal.Journal
	release api.Release
	cmdline map[string]string
	dog     *watchdog.Watchdog
	end     chan string // "reboot", "poweroff" or actionTrial
	dir     string      // where the data partition is mounted

	consoles    func() []string        // device nodes
	firstFAT    func() (string, error) // device node of the first FAT partition of the medium
	setHostname func([]byte) error
	uptime      func() time.Duration // sinceBoot
	runCheck    func(context.Context) error
	committed   func() (layout.Slot, error) // that the firmware starts by itself, read from the medium
	media       func() ([]medium, error)    // drives that are divided as a Croft's is
	newOneShot  func(layout.Table) oneShot
	tryboot     string // file by which a Raspberry Pi's firmware says that it was asked for a trial
	once        oneShot
	forceAt     func(time.Duration) // restarts the machine then, whatever else happens

	twins   disk.Twins // of findGaps only
	ownGaps slow[[]api.Gap]
	pss     slow[int64]

	mu      sync.Mutex
	phases  []api.Phase
	data    *volume
	sup     *supervisor.Supervisor
	rescue  *api.Rescue // nil in normal mode
	ident   identity
	ending  bool // a restart or the end was asked for
	medium  *medium
	trial   trial
	cancel  func() // of the action that may be
	recover recovery

	trialMu sync.Mutex // held while the record of a trial is written
	marking sync.Mutex // held while the marker file is changed
	telling sync.Mutex // held while the claim file is, so that what is written last is what is true
}

func newBox(cfg Config) *Box {
	b := &Box{
		cfg: cfg, end: make(chan string, 1), dir: dataDir, consoles: consoles,
		setHostname: unix.Sethostname, uptime: sinceBoot, newOneShot: newOneShot, tryboot: piTryboot, once: piOneShot{}, forceAt: forceRestart,
		ownGaps: slow[[]api.Gap]{every: time.Minute}, // devices come and go
		pss:     slow[int64]{every: 10 * time.Second},
	}
	b.media = func() ([]medium, error) { return croftMedia("/sys", "/dev") }
	b.runCheck, b.committed, b.firstFAT = b.check, b.readCommitted, b.findFirstFAT
	return b
}

// Main runs the box; it returns only if the kernel refuses to restart or switch off.
func Main(cfg Config) error {
	b := newBox(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.phase("kernel", "Kernel started", func() (string, error) { return "", nil })
	b.phase("mounts", "System folders", b.mounts)
	b.journal = journal.New() // needs /proc
	out := b.journal.Writer("init")
	b.log = slog.New(slog.NewJSONHandler(out, nil))
	go supervisor.Reap(ctx, b.log)
	b.phase("board", "What the box is made of", b.identify)
	b.phase("watchdog", "Watchdog", b.openWatchdog)
	watchCtx, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go b.watchHealth(watchCtx)
	go b.console(ctx)
	if cfg.Rescue {
		b.mu.Lock()
		b.rescue = environmentRescue()
		b.mu.Unlock()
		b.phase("slots", "Slots", b.findRescueMedium)
		b.phase("trial", "Last update", b.leaveTrial)
	} else {
		b.phase("slots", "Slots", b.findSlots)
		b.phase("data", "Data partition", b.openData)
		b.phase("trial", "Last update", b.recordTrial)
	}
	if b.over() { // on trial, and nothing can be proved
		return b.takeDown(<-b.end)
	}
	b.phase(settingsPhase, "Settings on the card", b.takeSettings)
	b.phase("recovery", "Lost password", b.findRecovery)
	b.phase("clock", "Clock", b.setClock)
	b.phase("name", "Name and loopback", b.setName)
	b.phase("code", "Claim code", b.showCode)
	b.phase("control", "Control socket", func() (string, error) { return "", b.listenControl(ctx) })
	b.phase("devices", "Devices for updates", func() (string, error) { return "", b.listenDevices(ctx) })
	b.phase("power", "Power button", func() (string, error) {
		if n := power.Button(ctx, "/sys", b.log, func() { b.finish("poweroff") }); n == 0 {
			return "none found", nil
		}
		return "", nil
	})
	b.onSignals()
	stopped := make(chan error, 1)
	supCtx, stopServices := context.WithCancel(ctx)
	b.phase("services", "Services", func() (string, error) { return "", b.startServices(supCtx, stopped) })

	if b.supervisor() != nil {
		if err := b.trialCame(cameServices); err != nil {
			b.log.Warn("how far the trial came could not be written", "err", err)
		}
	}
	action := <-b.end
	b.interruptTrial()
	b.say("Stopping: " + action)
	stopWatching()
	stopServices()
	if b.supervisor() != nil {
		select {
		case <-stopped:
		case <-time.After(stopTimeout):
			b.log.Error("services did not stop in time")
		}
	}
	return b.takeDown(action)
}

// actionTrial is the end of the box by which the other slot is started once.
const actionTrial = "start the other slot once"

// over tells whether the end of the box was asked for.
func (b *Box) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ending
}

// finish asks for the end of the box: "reboot", "poweroff" or actionTrial. Only the first one counts.
func (b *Box) finish(action string) {
	b.mu.Lock()
	b.ending = true
	b.mu.Unlock()
	select {
	case b.end <- action:
	default:
	}
}

// hearing is how long the box goes on after it was asked to end, so that whoever asked, by way of several services, hears
// that it does.
const hearing = 500 * time.Millisecond

// finishSoon is finish once the answer had its time.
func (b *Box) finishSoon(action string) {
	b.mu.Lock()
	b.ending = true
	b.mu.Unlock()
	time.AfterFunc(hearing, func() { b.finish(action) })
}

// phase runs one step of the boot and records it.
func (b *Box) phase(name, title string, f func() (note string, err error)) {
	p := api.Phase{Name: name, Title: title, StartMS: sinceBoot().Milliseconds(), TookMS: -1}
	b.mu.Lock()
	i := len(b.phases)
	b.phases = append(b.phases, p)
	b.mu.Unlock()
	note, err := guard(f)
	p.TookMS = sinceBoot().Milliseconds() - p.StartMS
	p.Note = note
	if err != nil {
		p.Error = err.Error()
	}
	b.mu.Lock()
	b.phases[i] = p
	b.mu.Unlock()
	if b.log != nil {
		b.log.Info("boot phase", "phase", name, "took_ms", p.TookMS, "note", note, "err", p.Error)
	}
	if err != nil {
		b.say(fmt.Sprintf("Boot step %q failed: %v", title, err))
	}
}

// guard turns a panic of a boot step into its error: the end of PID 1 would be the end of the box.
func guard(f func() (string, error)) (note string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f()
}

func (b *Box) identify() (string, error) {
	b.cmdline = parseCmdline(readFile("/proc/cmdline"))
	var err error
	if uerr := json.Unmarshal([]byte(readFile(releaseFile)), &b.release); uerr != nil {
		err = fmt.Errorf("%s: %w", releaseFile, uerr)
	}
	return board.Model("/proc", "/sys"), err
}

// setClock gives the clock its floor, so that certificates and logs make sense before a time server is reached.
func (b *Box) setClock() (string, error) {
	var last time.Time
	var err error
	if !b.inRescue() {
		last, err = clock.LoadLast(dataDir + "/state/network/clock.json")
	}
	if b.release.Built == 0 { // not known, then, and nothing to hold the clock against
		return "", err
	}
	note, serr := clock.SetFloor(time.Unix(b.release.Built, 0), last)
	return note, errors.Join(err, serr)
}

func (b *Box) startServices(ctx context.Context, stopped chan<- error) error {
	stateRoot := dataDir + "/state"
	if b.inRescue() {
		stateRoot = rescueDir + "/state"
		if err := os.MkdirAll(stateRoot, 0o711); err != nil {
			return err
		}
	}
	// Every service may know which box and which release it runs on.
	b.mu.Lock()
	env := []string{"CROFT_ID=" + b.ident.ID, "CROFT_VERSION=" + b.release.Version}
	if b.trial.on {
		env = append(env, daemon.TrialEnv+"=1")
	}
	b.mu.Unlock()
	services := slices.Clone(b.cfg.Services)
	for i := range services {
		services[i].Env = slices.Concat(services[i].Env, env)
	}
	sup, err := supervisor.New(supervisor.Options{
		Services: services, Log: b.log, Journal: b.journal, StateRoot: stateRoot, RunDir: runDir,
		CgroupRoot: cgroupRoot, Launcher: b.cfg.Launcher, Hostname: b.name,
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.sup = sup
	b.mu.Unlock()
	go func() {
		err := sup.Run(ctx)
		if err != nil {
			b.log.Error("services", "err", err)
			b.say("Services: " + err.Error())
		}
		stopped <- err
	}()
	return nil
}

// supervisor returns nil until the services have been started.
func (b *Box) supervisor() *supervisor.Supervisor {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sup
}

func (b *Box) inRescue() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rescue != nil
}

// System returns all that PID 1 knows of the box.
func (b *Box) System() api.System {
	s := api.System{
		Version:  b.release.Version,
		Board:    api.Board{ID: b.release.Board, Model: board.Model("/proc", "/sys"), Arch: runtime.GOARCH},
		Slot:     b.cmdline["croft.slot"],
		Mode:     api.ModeNormal,
		UptimeMS: sinceBoot().Milliseconds(),
		Gaps:     b.gaps(),
		Vitals:   b.readVitals(true),
	}
	b.mu.Lock()
	s.ID, s.Name, s.TimeZone, s.Phases = b.ident.ID, b.ident.name(), b.ident.TimeZone, slices.Clone(b.phases)
	s.Trial = b.trial.on
	if b.rescue != nil {
		r := *b.rescue
		s.Mode, s.Rescue = api.ModeRescue, &r
	}
	b.mu.Unlock()
	if sup := b.supervisor(); sup != nil { // outside the lock: it measures processes
		s.Services = sup.Services()
	}
	return s
}
