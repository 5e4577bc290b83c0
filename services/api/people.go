package api

import "time"

// Roles of people, and what else a session may be.
const (
	RoleOwner  = "owner"  // may do everything
	RoleMember = "member" // uses the box and looks after their own account
	RoleSetup  = "setup"  // claimed the box, has no account yet
	RoleRescue = "rescue" // gave the code of rescue mode; there are no accounts there
)

// Scopes of tokens. A token may do what its scopes and its person's role both allow.
const (
	ScopeBox     = "box"     // read the state of the box and its history
	ScopeLogs    = "logs"    // read logs, the audit log and the diagnosis bundle
	ScopeControl = "control" // restart services, restart and switch off the box, install updates, see alerts off
	ScopeConfig  = "config"  // read and change the configuration
	ScopePeople  = "people"  // read and change people and invitations
)

// Scopes are all of them.
func Scopes() []string { return []string{ScopeBox, ScopeLogs, ScopeControl, ScopeConfig, ScopePeople} }

// SessionRequest is the body of POST /api/v1/session. Without a second factor where the person has one, the answer is
// the problem "second-factor".
type SessionRequest struct {
	Name         string `json:"name"`
	Password     string `json:"password"`
	SecondFactor string `json:"second_factor,omitempty"` // six digits (TOTP), or a recovery code
}

// Session is GET /api/v1/session, and one of GET /api/v1/me/sessions.
type Session struct {
	ID      string    `json:"id"` // not the cookie's value
	Role    string    `json:"role"`
	Person  *Person   `json:"person,omitempty"` // absent for RoleSetup and RoleRescue
	Current bool      `json:"current"`          // the one that asks
	Created time.Time `json:"created"`
	Seen    time.Time `json:"seen"` // to the hour
	Expires time.Time `json:"expires"`
	Device  string    `json:"device"` // such as "Safari, iPhone"
	Place   string    `json:"place"`  // address that it was last seen at
}

// Person is an account.
type Person struct {
	ID            string    `json:"id"`
	Name          string    `json:"name"`
	Role          string    `json:"role"`
	HasPassword   bool      `json:"has_password"`  // false until an invitation is taken
	SecondFactor  bool      `json:"second_factor"` // TOTP is on
	RecoveryCodes int       `json:"recovery_codes"`
	Created       time.Time `json:"created"`
	Seen          time.Time `json:"seen,omitzero"` // to the hour
}

// PersonChange is the body of PUT /api/v1/people/{id}, and of PUT /api/v1/me without the role.
type PersonChange struct {
	Name string `json:"name"`
	Role string `json:"role,omitempty"`
}

// PasswordChange is the body of PUT /api/v1/me/password. It ends the person's other sessions.
type PasswordChange struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// PasswordRequest is the body of what asks for the password once more: DELETE /api/v1/me/second-factor,
// POST /api/v1/me/second-factor and POST /api/v1/me/recovery-codes.
type PasswordRequest struct {
	Password string `json:"password"`
}

// NewSecondFactor is the answer of POST /api/v1/me/second-factor: RFC 6238 with SHA-1, 6 digits, 30 s. It counts once
// PUT with a code of it came.
type NewSecondFactor struct {
	Secret string `json:"secret"` // base 32
	URI    string `json:"uri"`    // otpauth://
}

// SecondFactorCode is the body of PUT /api/v1/me/second-factor.
type SecondFactorCode struct {
	Code string `json:"code"`
}

// RecoveryCodes are ten codes in the place of a second factor, each good once; shown once.
type RecoveryCodes struct {
	Codes []string `json:"codes"`
}

// TokenRequest is the body of POST /api/v1/me/tokens.
type TokenRequest struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	Days   int      `json:"days"` // 1 to 366
}

// Token is a bearer token for a person's own scripts.
type Token struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Scopes  []string  `json:"scopes"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"used,omitzero"` // to the hour
	Expires time.Time `json:"expires"`
	Secret  string    `json:"secret,omitempty"` // in the answer of POST only: "croft_…"
}

// InviteRequest is the body of POST /api/v1/invites.
type InviteRequest struct {
	Role   string `json:"role"`
	Hours  int    `json:"hours"`            // 1 to 168
	Person string `json:"person,omitempty"` // id of a person who gets a new password by it, instead of a new account
}

// Invite is an invitation, good once. Whoever has its code makes an account by POST /api/v1/join.
type Invite struct {
	ID      string    `json:"id"`
	Role    string    `json:"role"`
	Person  *Person   `json:"person,omitempty"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Code    string    `json:"code,omitempty"` // in the answer of POST only: "XXXX-XXXX-XXXX"
}

// JoinRequest is the body of POST /api/v1/join. The name is not asked for where the invitation is for a person; POST
// /api/v1/join/look with the code alone says what it is for.
type JoinRequest struct {
	Code     string `json:"code"`
	Name     string `json:"name,omitempty"`
	Password string `json:"password,omitempty"`
}

// JoinLook is the answer of POST /api/v1/join/look.
type JoinLook struct {
	Box    string `json:"box"`
	By     string `json:"by"`
	Role   string `json:"role"`
	Person string `json:"person,omitempty"` // name of the person whom it gives a new password
}

// List is one page of a list. The next page has ?after=Next.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // empty on the last page
}

// AuditEntry is one thing that was done, GET /api/v1/audit, newest first.
type AuditEntry struct {
	ID     int64             `json:"id"`
	At     time.Time         `json:"at"`
	Action string            `json:"action"`           // one of AuditActions
	Who    string            `json:"who,omitempty"`    // name at that time; empty for the box itself
	Target string            `json:"target,omitempty"` // name of the person, service, token … that it was done to
	Args   map[string]string `json:"args,omitempty"`   // for the sentence; never a secret
	Place  string            `json:"place,omitempty"`  // address that it came from
}

// AuditActions are all that is recorded. The web UI has a sentence for each.
func AuditActions() []string {
	return []string{
		"claimed", "account-made", "setup-done", "signed-in", "sign-in-failed", "signed-out", "session-ended",
		"sessions-ended", "password-changed", "second-factor-on", "second-factor-off", "recovery-codes-made",
		"recovery-code-used", "recovered", "token-made", "token-ended", "invited", "invite-ended", "joined",
		"person-changed", "person-removed", "config-changed", "config-undone", "network-tried", "network-kept",
		"network-reverted", "service-restarted", "box-restarted", "box-switched-off", "started-over", "diagnosis-taken",
		"alert-seen", "state-restored", "update-install", "update-tonight", "update-restart", "update-undo", "update-cancel",
		"update-file", "update-trust", "witness-key", "update-kept", "update-back", "update-failed",
	}
}
