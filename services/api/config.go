package api

import (
	"encoding/json"
	"time"
)

// ConfigFormat is the version of the configuration document.
const ConfigFormat = "croft-config/1"

// Config is the box's configuration, GET and PUT /api/v1/config: the document that recreates the box, without secrets.
// docs/config.md is its specification.
type Config struct {
	Format   string         `json:"format"`    // ConfigFormat
	Name     string         `json:"name"`      // of the box: NAME.local
	TimeZone string         `json:"time_zone"` // IANA name; empty means UTC
	Network  NetConfig      `json:"network"`
	People   []ConfigPerson `json:"people"` // by name; who is missing in a document stays, who is new needs an invitation
	Updates  UpdatePolicy   `json:"updates,omitzero"`
	Witness  WitnessConfig  `json:"witness,omitzero"`
}

// ConfigPerson is an account without its secrets.
type ConfigPerson struct {
	Name string `json:"name"`
	Role string `json:"role"` // RoleOwner or RoleMember
}

// ConfigResult is the answer of PUT /api/v1/config and POST /api/v1/config/undo.
type ConfigResult struct {
	Config      Config       `json:"config"`
	Differences []Difference `json:"differences"`
	Trial       *Trial       `json:"trial,omitempty"` // a change of the network waits to be kept
}

// ConfigCheck is the answer of POST /api/v1/config/check with a document as body: what PUT would change.
type ConfigCheck struct {
	Differences []Difference   `json:"differences"`
	Problems    []FieldProblem `json:"problems"`
}

// Difference is one field that differs.
type Difference struct {
	Path   string          `json:"path"` // JSON pointer (RFC 6901), such as "/network/interfaces/eth0"
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

// ConfigChange is one change in GET /api/v1/config/changes, newest first.
type ConfigChange struct {
	ID          int64        `json:"id"`
	At          time.Time    `json:"at"`
	By          string       `json:"by"`
	Differences []Difference `json:"differences"`
	Undoes      int64        `json:"undoes,omitempty"` // the change that this one took back
	CanUndo     bool         `json:"can_undo"`         // nothing later touched the same fields
}

// UndoRequest is the body of POST /api/v1/config/undo.
type UndoRequest struct {
	Change int64 `json:"change"`
}

// TrialTime is how long a new network configuration holds before it has to be kept.
const TrialTime = 60 * time.Second

// Trial is a network configuration that is tried: the box goes back by itself unless POST /api/v1/network/keep comes.
type Trial struct {
	LeftMS int64     `json:"left_ms"`
	Config NetConfig `json:"config"` // what is tried
}
