package api

import "time"

// Steps between a box out of the shop and a box that is somebody's.
const (
	StepClaim   = "claim"     // nobody has claimed the box: the claim code is asked for
	StepName    = "name"      // of the box
	StepAccount = "account"   // of its first owner; from then on the claim code is void
	StepZone    = "time-zone" //
	StepDone    = "done"      // the box is somebody's
	StepRescue  = "rescue"    // the box is in rescue mode: the code on its screen is asked for
	StepLocked  = "locked"    // it had an owner, but its accounts are lost: only a recovery code goes on
)

// Setup is GET /api/v1/setup, open to everyone: how far the box is.
type Setup struct {
	Step string `json:"step"`
	Name string `json:"name"` // of the box, without ".local"
	Mine bool   `json:"mine"` // the request may take this step; false asks it to claim or to sign in first
	Busy bool   `json:"busy"` // another phone is setting up the box just now; only before StepDone
}

// ClaimRequest is the body of POST /api/v1/claim: the claim code, or in rescue mode the code on the box's screen. The
// answer is a session that may set the box up (or use rescue mode), or the problem "claimed-by-another" while another
// phone does, until that was quiet for ClaimQuiet.
type ClaimRequest struct {
	Code string `json:"code"`
}

// ClaimQuiet is how long the phone that claimed the box has to be quiet before another one with the code may go on.
const ClaimQuiet = 10 * time.Minute

// NameRequest is the body of PUT /api/v1/setup/name: one DNS label, 1 to 63 of a-z, 0-9 and "-", in any case.
type NameRequest struct {
	Name string `json:"name"`
}

// AccountRequest is the body of POST /api/v1/setup/account, and of what else makes an account.
type AccountRequest struct {
	Name     string `json:"name"` // what the person is called and signs in with: 1 to 40 characters
	Password string `json:"password"`
}

// ZoneRequest is the body of PUT /api/v1/setup/time-zone: a name of the IANA time zone database.
type ZoneRequest struct {
	TimeZone string `json:"time_zone"`
}

// RecoverRequest is the body of POST /api/v1/recover: the code that shows who stands at the box, and a new password for
// the owner of that name (in StepLocked: a new first owner). It turns off that person's second factor and ends all
// their sessions and tokens.
type RecoverRequest struct {
	Code     string `json:"code"`
	Name     string `json:"name"`
	Password string `json:"password"`
}

// Recovery is the recovery code: GET /v1/recovery on init's control socket. DELETE makes it void.
type Recovery struct {
	Code   string `json:"code"`   // "XXXX-XXXX", or what stands in the file; empty without one
	Source string `json:"source"` // "file" (on the boot partition) or "console" (after three short power cycles)
}
