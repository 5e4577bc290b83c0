package api

// Box is the public state of the box, GET /api/v1/box: what PID 1, the network service and discovery know.
type Box struct {
	System    System     `json:"system"`
	Network   *Network   `json:"network,omitempty"`   // absent while the service does not answer
	Discovery *Discovery `json:"discovery,omitempty"` // absent while the service does not answer
	Notices   []Notice   `json:"notices,omitempty"`   // what core itself has to say
	Alerts    []Alert    `json:"alerts,omitempty"`    // not yet seen by an owner; for owners only
	Updates   *Updates   `json:"updates,omitempty"`   // absent while the updater does not answer; who is no owner gets only how far it is
	Witness   *Witness   `json:"witness,omitempty"`   // absent while the service does not answer; for owners only
	TimeZone  string     `json:"time_zone,omitempty"` // of the household; empty means UTC
}

// Problem is an error answer: RFC 9457, application/problem+json.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`            // what happened, one sentence
	Status int    `json:"status"`           // HTTP status code
	Detail string `json:"detail,omitempty"` // why, and the one next step

	RetryAfter int            `json:"retry_after,omitempty"` // seconds to wait, as in the header of that name
	Fields     []FieldProblem `json:"fields,omitempty"`      // what is wrong with the body, of the type "invalid"
}

// FieldProblem says what is wrong with one field of a request's body.
type FieldProblem struct {
	Path string `json:"path"` // JSON pointer (RFC 6901)
	Code string `json:"code"` // one of FieldCodes
	Text string `json:"text"` // one sentence
}

// FieldCodes are all that can be wrong with a field. The web UI has a sentence for each.
func FieldCodes() []string {
	return []string{
		"unknown", "missing", "type", "too-long", "too-short", "format", "host-name", "time-zone", "address", "gateway",
		"role", "name-taken", "last-owner", "range", "duplicate", "password-short", "password-long", "password-common",
		"choice", "time", "url", "fingerprint",
	}
}

// ProblemTypes are the last parts of all problem types of the public API. The web UI has a sentence for each.
func ProblemTypes() []string {
	return []string{
		"not-found", "method", "cross-origin", "signed-out", "forbidden", "invalid", "not-json", "too-large", "too-slow",
		"too-many-tries", "too-many-streams", "starting", "code-format", "wrong-code", "code-void", "claimed-by-another",
		"already-claimed", "not-claimed", "wrong-password", "second-factor", "wrong-second-factor", "invite-void",
		"no-such-owner", "last-owner", "changed-meanwhile", "precondition", "no-trial", "trial-running", "cannot-undo",
		"not-confirmed", "action", "not-rescue", "refused", "state", "internal", "too-many", "updater-away", "witness-away", "wrong-release",
		"bad-file", "wrong-board", "no-room", "busy",
	}
}

// Notice is something that a service wants the owner to know.
type Notice struct {
	Name   string `json:"name"`   // such as "state-replaced"
	Text   string `json:"text"`   // what happened, one sentence for an owner
	Next   string `json:"next"`   // the one next step
	Weight string `json:"weight"` // "info" or "warn"

	Args map[string]string `json:"args,omitempty"` // for the sentence: "at" of "state-restored", RFC 3339; absent if nothing was lost
}
