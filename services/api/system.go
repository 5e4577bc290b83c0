package api

import "time"

// Modes of the box.
const (
	ModeNormal = "normal" // the data partition is in use
	ModeRescue = "rescue" // it is not; all state is in memory and lost at the next start
)

// System is what PID 1 knows: GET /v1/system on init's control socket.
type System struct {
	Name     string    `json:"name"`    // host name that the box wants, such as "croft"
	ID       string    `json:"id"`      // unique id of this box, made on first boot; empty in rescue mode
	Version  string    `json:"version"` // release that is running
	Board    Board     `json:"board"`
	Slot     string    `json:"slot"`            // boot slot that is running, "a" or "b"
	Trial    bool      `json:"trial,omitempty"` // the slot is not the committed one: the release has to prove itself first
	Mode     string    `json:"mode"`
	Rescue   *Rescue   `json:"rescue,omitempty"`
	UptimeMS int64     `json:"uptime_ms"`
	Phases   []Phase   `json:"phases"`
	Services []Service `json:"services"`
	Gaps     []Gap     `json:"gaps"` // what this kernel or board cannot enforce or drive
	Vitals   Vitals    `json:"vitals"`
	TimeZone string    `json:"time_zone,omitempty"` // that the settings file on the card asked for, for set-up to begin with
}

// Release is /etc/croft/release.json in the root file system, the same in both slots: what the image builder made.
type Release struct {
	Version string `json:"version"`
	Built   int64  `json:"built"`             // seconds since 1970; no box's clock is right before it
	Board   string `json:"board"`             // board family
	Number  int64  `json:"number,omitempty"`  // of the published release; 0 for an image that nobody published
	Channel string `json:"channel,omitempty"` // "stable" or "beta", if published
}

// Board identifies the hardware.
type Board struct {
	ID    string `json:"id"`    // board family: "pc", "pi", "vm-arm64"
	Model string `json:"model"` // as the firmware names it
	Arch  string `json:"arch"`  // GOARCH
}

// Rescue says why the box is in rescue mode and what a check found.
type Rescue struct {
	Code     string     `json:"code"`           // "no-partition", "no-marker", "mount-failed", "damaged", RescueUnfinished, …
	Text     string     `json:"text"`           // one sentence for an owner
	Detail   string     `json:"detail"`         // the error itself
	Busy     string     `json:"busy,omitempty"` // action under way: "retry", "check", "start-over"
	Progress float64    `json:"progress"`       // of the action under way, 0 to 1
	Check    *CheckDone `json:"check,omitempty"`
}

// RescueUnfinished is the code of a data partition that was being erased when that was cut off.
const RescueUnfinished = "unfinished"

// RescueSystem is the code of the rescue system, which runs from the first FAT when no slot does: it installs a release anew and has
// never opened the data partition.
const RescueSystem = "rescue-system"

// CheckDone is the outcome of the last check of the data partition.
type CheckDone struct {
	At       time.Time `json:"at"`
	OK       bool      `json:"ok"`
	Findings []string  `json:"findings"` // sentences
}

// Phase is one step of the boot.
type Phase struct {
	Name    string `json:"name"`     // such as "data"
	Title   string `json:"title"`    // in words
	StartMS int64  `json:"start_ms"` // since the kernel started
	TookMS  int64  `json:"took_ms"`  // -1 while it runs
	Error   string `json:"error,omitempty"`
	Note    string `json:"note,omitempty"`
}

// States of a service.
const (
	StateWaiting  = "waiting"  // for what it depends on
	StateStarting = "starting" // started, not yet ready
	StateRunning  = "running"  // ready
	StateBackoff  = "backoff"  // failed; will be started again
	StateCrashing = "crashing" // crash loop: tried at long intervals only
	StateStopping = "stopping"
	StateStopped  = "stopped" // by request
	StateDone     = "done"    // ended well and is not to be restarted
	StateFailed   = "failed"  // ended with an error that a restart can't mend
)

// Service is one supervised service.
type Service struct {
	Name      string    `json:"name"`
	Title     string    `json:"title"` // in words
	State     string    `json:"state"`
	Since     time.Time `json:"since"`
	SinceMS   int64     `json:"since_ms"`         // for how long it has been in this state, by the monotonic clock
	Status    string    `json:"status,omitempty"` // what it says of itself (STATUS=)
	PID       int       `json:"pid,omitempty"`
	UID       uint32    `json:"uid"`
	Critical  bool      `json:"critical"`
	ForOthers bool      `json:"for_others,omitempty"` // the household does not need it: an update is kept whether it runs or not
	Restarts  int       `json:"restarts"`
	LastExit  string    `json:"last_exit,omitempty"` // "exit status 1", "killed: memory limit 64 MB", …
	NextTryMS int64     `json:"next_try_ms,omitempty"`
	Memory    int64     `json:"memory"`
	MemoryMax int64     `json:"memory_max"`
	Confined  *Confined `json:"confined,omitempty"`
}

// Confined is a service's own report, after entering its sandbox, of what it tried and could not do.
type Confined struct {
	OK     bool      `json:"ok"`
	Probes []Probe   `json:"probes"`
	At     time.Time `json:"at"`
}

// Probe is one attempt to get out of the sandbox.
type Probe struct {
	Name    string `json:"name"`              // such as "write-root", "raw-socket"
	Held    bool   `json:"held"`              // the sandbox refused it
	Granted bool   `json:"granted,omitempty"` // it was not refused because the service was granted it
	Note    string `json:"note,omitempty"`
}

// Gap is something that the running kernel or board cannot enforce or drive, found by trying at run time.
type Gap struct {
	Name   string `json:"name"`   // such as "memory-limit"
	Text   string `json:"text"`   // one sentence for an owner
	Detail string `json:"detail"` // what was tried and what came back
	Weight string `json:"weight"` // "info" or "warn"
}

// Vitals are the box's measurements: GET /v1/vitals on init's control socket has them without PSS.
type Vitals struct {
	MemTotal     int64    `json:"mem_total"`
	MemAvailable int64    `json:"mem_available"`
	PSS          int64    `json:"pss"` // of all processes together; measured at most every 10 s
	Load1        float64  `json:"load1"`
	CPUs         int      `json:"cpus"`
	Temperature  *float64 `json:"temperature,omitempty"` // °C of the hottest CPU sensor; absent without a sensor
	UnderVoltage *bool    `json:"under_voltage,omitempty"`
	CPUBusyMS    int64    `json:"cpu_busy_ms"`    // of all CPUs together, since the kernel started
	NetIn        int64    `json:"net_in"`         // bytes that all network interfaces received since the kernel started
	NetOut       int64    `json:"net_out"`        // bytes that they sent
	Data         *Disk    `json:"data,omitempty"` // absent in rescue mode
}

// Disk is the data partition.
type Disk struct {
	Device   string `json:"device"` // such as "mmcblk0p7"
	Model    string `json:"model"`
	Size     int64  `json:"size"`
	Free     int64  `json:"free"`
	ReadOnly bool   `json:"read_only"`
}

// Claim is the claim code: GET /v1/claim on init's control socket. DELETE makes it void for ever.
type Claim struct {
	Code string `json:"code"` // "XXXX-XXXX" in Crockford's base 32, 40 bits; empty once void
}

// PowerRequest is the body of POST /v1/power.
type PowerRequest struct {
	Action string `json:"action"` // "reboot" or "poweroff"
}

// RescueRequest is the body of POST /v1/rescue.
type RescueRequest struct {
	Action  string `json:"action"`            // "retry", "check", "cancel" (the check) or "start-over"
	Confirm string `json:"confirm,omitempty"` // StartOverWord, for "start-over"
}

// StartOverWord is what the owner types to erase the data partition.
const StartOverWord = "ERASE"
