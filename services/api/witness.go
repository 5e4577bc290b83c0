package api

import "time"

// WitnessConfig has the box cosign the checkpoints of other people's logs: the field "witness" of the configuration document, and PUT
// /v1/config on the witness's socket. Zero means that it does not.
type WitnessConfig struct {
	Name string   `json:"name"` // of the witness's key, by custom an address
	Logs []string `json:"logs"` // verifier keys of logs (C2SP signed-note), at least one
}

// On tells whether the box is to be a witness.
func (c WitnessConfig) On() bool { return c.Name != "" }

// Witness is GET /api/v1/witness, and GET /v1/witness on the witness's socket.
type Witness struct {
	Config  WitnessConfig `json:"config"`            // as the service was told it
	Running bool          `json:"running"`           // it cosigns
	Problem string        `json:"problem,omitempty"` // see WitnessProblems
	Key     string        `json:"key,omitempty"`     // verifier key for publishers (C2SP tlog-cosignature)
	Made    *time.Time    `json:"made,omitempty"`    // when the key was made, on this box
	Port    int           `json:"port,omitempty"`    // TCP port for publishers
	Logs    []WitnessLog  `json:"logs"`
}

// WitnessLog is how it stands with one log.
type WitnessLog struct {
	Origin  string     `json:"origin"`
	Size    int64      `json:"size"`              // entries of the newest tree that was cosigned
	At      *time.Time `json:"at,omitempty"`      // when; absent before the first
	Problem string     `json:"problem,omitempty"` // see WitnessProblems; absent: the last tree was cosigned
	Split   bool       `json:"split,omitempty"`   // the log has signed two trees that contradict each other; the proof is kept
}

// WitnessProblems are all reasons for which a witness does not cosign. The web UI has a sentence for each.
func WitnessProblems() []string {
	return []string{
		"disk-full", // what it signs could not be remembered
		"medium",    // likewise: reading or writing failed
		"damaged",   // the memory or the key is not what it was
		"clock",     // nobody knows what time it is, and a cosignature says it
	}
}
