package api

import "time"

// Update states, as a person sees them. The engine may be cut off in any of them; what it finds on the medium counts, not
// what it remembers.
const (
	UpdateIdle        = "idle"        // nothing to do
	UpdateChecking    = "checking"    // asking for news
	UpdateDownloading = "downloading" //
	UpdateWriting     = "writing"     // to the idle slot
	UpdateVerifying   = "verifying"   // reading back from the medium
	UpdateReady       = "ready"       // written and checked; waits for its time or for the owner
	UpdateRestarting  = "restarting"  // into the new release
	UpdateTrial       = "trial"       // the new release runs and has to prove itself
)

// UpdateStates are all of them.
func UpdateStates() []string {
	return []string{
		UpdateIdle, UpdateChecking, UpdateDownloading, UpdateWriting, UpdateVerifying, UpdateReady, UpdateRestarting, UpdateTrial,
	}
}

// Outcomes of an attempt to change the release.
const (
	UpdateKept      = "kept"      // the new release proved itself and stays
	UpdateBack      = "back"      // it did not, or was never started; the old one runs
	UpdateFailed    = "failed"    // it was never started: download, writing or check failed
	UpdateCancelled = "cancelled" // by the owner
)

// UpdateCauses are all reasons for which an attempt or a check ends other than well. The web UI has a sentence for each.
func UpdateCauses() []string {
	return []string{
		// checking
		"no-trust",     // the box follows nobody: no root
		"no-source",    // no mirror, neighbour or stick answered
		"bad-metadata", // what the sources have is not signed as it must be
		"not-logged",   // signed, but not in the public log, or too few witnesses saw it
		"split-view",   // the log shows this box something else than it did before; evidence is kept
		"rollback",     // the sources offer something older than was seen before
		"stale",        // nothing says that what is known is the newest
		"disagree",     // project and auditor do not say the same
		// downloading and writing
		"download",   // no source had all of it
		"disk-full",  //
		"too-large",  // does not fit into a slot
		"medium",     // reading or writing the card failed
		"read-back",  // what is on the card is not what was written
		"wrong-base", // internal: neither patch nor frames gave the signed bytes
		"busy",       // a backup, export or restore runs
		// starting
		"not-taken",    // the firmware started the old slot
		"not-started",  // the new kernel or its first program did not come far enough to say anything
		"hang",         // the watchdog or the time limit ended it
		"data",         // trial: the data partition could not be written
		"page",         // trial: the page did not answer
		"address",      // trial: no address
		"service",      // trial: a service that was healthy before is not
		"metadata",     // trial: the new updater can't read the repository
		"database",     // trial: the new release can't read the database
		"commit",       // the change of the default slot could not be written
		"tried-twice",  // the release failed twice and is not tried again by itself
		"power",        // power went in the middle; the box goes on by itself
		"interrupted",  // another action of the owner came between
		"not-newer",    // upload or stick: not newer than what runs
		"wrong-board",  // upload or stick: for another family of boards
		"bad-file",     // upload or stick: not an update
		"wrong-phrase", // the fingerprint does not match
		"unknown",      //
	}
}

// Updates is GET /api/v1/updates, and GET /v1/updates on the updater's socket.
type Updates struct {
	Version  string          `json:"version"`            // that runs
	Number   int64           `json:"number"`             // of its release; 0 for an image that nobody published
	State    string          `json:"state"`              // see UpdateStates
	Offer    *UpdateOffer    `json:"offer,omitempty"`    // newer release that may be installed
	Progress *UpdateProgress `json:"progress,omitempty"` // in all states but idle and ready
	Evidence *UpdateEvidence `json:"evidence,omitempty"` // of the running release
	Previous *UpdatePrevious `json:"previous,omitempty"` // what the other slot would start
	Last     *UpdateAttempt  `json:"last,omitempty"`     // latest attempt, newest first in GET /updates/history
	Checked  *time.Time      `json:"checked,omitempty"`  // when a source last answered
	Problem  *UpdateProblem  `json:"problem,omitempty"`  // why the last check brought nothing
	Next     *time.Time      `json:"next,omitempty"`     // when the window opens that an offer waits for
	Policy   UpdatePolicy    `json:"policy"`
	Trust    UpdateTrust     `json:"trust"`
	Sources  []UpdateSource  `json:"sources"`
	Sharing  bool            `json:"sharing"`             // neighbours on the LAN may fetch from here just now
	TimeZone string          `json:"time_zone,omitempty"` // of the window, as the updater was told it
}

// UpdatePolicy is the owner's will: the field "updates" of the configuration document, and PUT /v1/policy on the updater's
// socket. Zero means: by itself, between 2 and 5 at night, stable releases, sharing on.
type UpdatePolicy struct {
	Mode    string   `json:"mode,omitempty"`    // "auto", "ask" or "stay"; empty means auto
	From    string   `json:"from,omitempty"`    // "02:00", in the box's time zone; the window may cross midnight
	To      string   `json:"to,omitempty"`      // "05:00"
	Channel string   `json:"channel,omitempty"` // "stable" or "beta"; empty means stable
	Metered bool     `json:"metered,omitempty"` // the internet line costs by volume: nothing large over it by itself
	Alone   bool     `json:"alone,omitempty"`   // do not serve releases to neighbours on the LAN
	Mirrors []string `json:"mirrors,omitempty"` // in the place of the built-in ones: https URLs, at most 8
}

// UpdateSettings is the body of PUT /v1/policy on the updater's socket.
type UpdateSettings struct {
	Policy   UpdatePolicy `json:"policy"`
	TimeZone string       `json:"time_zone"` // IANA name; empty means UTC
}

// UpdateBusy is the body of POST /v1/busy on the updater's socket: who does something that no restart may cut off, and for how long at
// most.
type UpdateBusy struct {
	Who   string `json:"who"`
	ForMS int64  `json:"for_ms"` // 0: it is over
}

// UpdateOffer is a verified release.
type UpdateOffer struct {
	Version  string            `json:"version"`
	Number   int64             `json:"number"`
	Channel  string            `json:"channel"`
	Built    time.Time         `json:"built"`
	Notes    map[string]string `json:"notes"` // by language
	Download int64             `json:"download"`
	Source   string            `json:"source"`          // "mirror", "neighbour", "usb" or "file"
	Stale    bool              `json:"stale,omitempty"` // can't be shown to be the newest
	Tried    int               `json:"tried,omitempty"` // attempts that failed
	Evidence UpdateEvidence    `json:"evidence"`
}

// UpdateEvidence says who stands for a release: "Signed by 3 of 5, publicly logged, seen by 3 independent witnesses, 2 days ago".
type UpdateEvidence struct {
	Signers   int        `json:"signers"`           // valid signatures
	Of        int        `json:"of"`                // keys that may sign
	Logged    bool       `json:"logged"`            //
	Witnesses int        `json:"witnesses"`         //
	Seen      *time.Time `json:"seen,omitempty"`    // when the quorum of witnesses last saw it
	Auditor   string     `json:"auditor,omitempty"` // second organisation that agrees
}

// UpdateProgress is how far long work is.
type UpdateProgress struct {
	Done   int64  `json:"done"`              // bytes, or health checks in the trial
	Total  int64  `json:"total"`             // 0: not known
	LeftMS int64  `json:"left_ms,omitempty"` // estimate
	Source string `json:"source,omitempty"`  // as in UpdateOffer, while downloading
	Cancel bool   `json:"cancel,omitempty"`  // can be cancelled
}

// UpdatePrevious is the release in the slot that does not run.
type UpdatePrevious struct {
	Version string `json:"version"`
	Number  int64  `json:"number"`
}

// UpdateAttempt is one attempt to change the release.
type UpdateAttempt struct {
	ID      string     `json:"id"`
	Version string     `json:"version"`
	Number  int64      `json:"number"`
	From    string     `json:"from"` // version before
	Began   time.Time  `json:"began"`
	Ended   *time.Time `json:"ended,omitempty"`
	Outcome string     `json:"outcome,omitempty"` // "kept", "back", "failed" or "cancelled"; empty while it lasts
	Cause   string     `json:"cause,omitempty"`   // see UpdateCauses
	Detail  string     `json:"detail,omitempty"`  // for the record, in English
	Service string     `json:"service,omitempty"` // that the cause "service" is about
	By      string     `json:"by,omitempty"`      // person; empty for the box itself
	Source  string     `json:"source,omitempty"`  // as in UpdateOffer
	DownMS  int64      `json:"down_ms,omitempty"` // from the restart to the answer of the page
}

// UpdateProblem is why a check brought nothing.
type UpdateProblem struct {
	Cause  string    `json:"cause"` // see UpdateCauses
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"`
}

// UpdateSource is a place that releases come from.
type UpdateSource struct {
	Kind    string     `json:"kind"`             // "mirror", "neighbour", "usb" or "file"
	Name    string     `json:"name"`             // URL, name of a box, label of a stick, name of a file
	Version string     `json:"version"`          // newest release that it offered; not verified for all kinds
	Seen    *time.Time `json:"seen,omitempty"`   // when it last answered
	Error   string     `json:"error,omitempty"`  // of the last try
	Cause   string     `json:"cause,omitempty"`  // why nothing can be had from a stick: one of Stick…
	System  string     `json:"system,omitempty"` // file system that the box does not read, such as "NTFS"; empty: not known
}

// Why nothing can be had from a stick.
const (
	StickFileSystem = "file-system" // neither FAT nor exFAT
	StickDamaged    = "damaged"
)

// UpdateTrust is whom the box follows.
type UpdateTrust struct {
	Project *TrustRoot `json:"project,omitempty"` // nil: nobody, so there are no updates
	Auditor *TrustRoot `json:"auditor,omitempty"` // has to agree
	Builtin bool       `json:"builtin"`           // the project is the one that the image came with
}

// TrustRoot is a root of trust.
type TrustRoot struct {
	Name        string    `json:"name"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the first root that was trusted, hex
	Version     int64     `json:"version"`     // of the newest root of its chain
	Threshold   int       `json:"threshold"`   // signatures that a release needs
	Keys        int       `json:"keys"`
	Witnesses   int       `json:"witnesses"` // quorum; 0: no public log
	Expires     time.Time `json:"expires"`
}

// UpdateAction is the body of POST /api/v1/updates/action: "check", "install" (the offer, of the number it names, now),
// "tonight" (the same, but its restart waits for the window, also where the policy is to ask), "cancel", "restart" (into what is
// ready, now) or "back" (to the previous release).
type UpdateAction struct {
	Action string `json:"action"`
	Number int64  `json:"number,omitempty"` // install, tonight: so that nobody installs what they have not seen
	By     string `json:"by,omitempty"`     // set by core: the person
}

// TrustRequest is the body of PUT /api/v1/updates/trust: whom to follow. It asks for the owner's password. Root is the JSON of a
// first root, needed where Fingerprint names one that the box does not know.
type TrustRequest struct {
	Password    string `json:"password,omitempty"`
	Role        string `json:"role"`                  // "project" or "auditor"
	Action      string `json:"action"`                // "set", "remove" (auditor), "builtin" (project)
	Name        string `json:"name,omitempty"`        // what the owner calls it
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256 of the root, hex; blanks and colons are passed over
	Root        string `json:"root,omitempty"`
	By          string `json:"by,omitempty"` // set by core
}

// Slots is GET /v1/slots on init's control socket: what the medium looks like, read from the medium just now.
type Slots struct {
	Board     string            `json:"board"`
	Table     string            `json:"table"`              // "gpt" or "mbr"
	Running   string            `json:"running"`            // "a" or "b"
	Committed string            `json:"committed"`          // that the firmware starts by itself; empty: can't be read
	Trial     bool              `json:"trial"`              // running is not committed
	LeftMS    int64             `json:"left_ms,omitempty"`  // in a trial: until init restarts the box
	RootIDs   map[string]string `json:"root_ids"`           // PARTUUID of each slot's root partition, from the medium's table
	Ended     *TrialEnd         `json:"ended,omitempty"`    // how the last trial ended, as far as init saw it
	Pending   string            `json:"pending,omitempty"`  // slot of a one-shot start that is still set; it was not taken
	OneShot   string            `json:"one_shot,omitempty"` // why this machine can't start a slot once, if it can't
	Rescue    bool              `json:"rescue,omitempty"`   // no slot runs, but the rescue system; Running is the slot to be left alone
}

// TrialEnd is how far a trial came: init writes it to the data partition as it goes.
type TrialEnd struct {
	Slot    string `json:"slot"`
	Version string `json:"version"`
	Came    string `json:"came"`  // "started", "services", "ready": the furthest that init saw
	Cause   string `json:"cause"` // see UpdateCauses; empty: it was cut off
	Detail  string `json:"detail,omitempty"`
	Service string `json:"service,omitempty"`
}

// TrialRequest is the body of POST /v1/trial on init's control socket: start that slot once, now. POST /v1/trial/kept has init
// see that the running slot is committed, and DELETE /v1/trial with a TrialEnd restarts into the committed slot.
type TrialRequest struct {
	Slot string `json:"slot"`
}

// Files that init opens for others (docs/architecture.md): names on devices.sock.
const (
	DeviceFirst    = "first"     // the first FAT, to read and write
	DeviceBootIdle = "boot-idle" // boot partition of the slot that does not run, to read and write; only where slots have one
	DeviceRootIdle = "root-idle" // likewise root partition
	DeviceBoot     = "boot"      // of the running slot, to read
	DeviceRoot     = "root"      // likewise
	DeviceUSB      = "usb/"      // + name of a partition or drive that is not the medium, such as "usb/sda1", to read
)

// DeviceOtherUnknown is the OpenDevice.Other of a stick with who knows what on it.
const DeviceOtherUnknown = "unknown"

// OpenDevice is one line of the answer to "list" on devices.sock.
type OpenDevice struct {
	Name  string `json:"name"`            // to open it by, such as "usb/sda1"
	Size  int64  `json:"size"`            // bytes
	Label string `json:"label,omitempty"` // of the FAT or exFAT on it
	Model string `json:"model,omitempty"` // of its drive
	Other string `json:"other,omitempty"` // file system in their place, such as "NTFS" or DeviceOtherUnknown: it can't be opened
}

// Peer is a box on the LAN that shares releases: one of the answer to GET /v1/peers on discovery's socket. Nothing of it is
// verified.
type Peer struct {
	Name      string   `json:"name"`      // as it is announced
	Addresses []string `json:"addresses"` // with port, IPv4 first; of the own network only
}

// ShareRequest is the body of PUT /v1/share on discovery's socket: whether to announce that this box shares releases.
type ShareRequest struct {
	Share bool `json:"share"`
}
