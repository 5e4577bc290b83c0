package core

import (
	"net/http"

	"github.com/croft-os/croft/services/api"
)

// base is where the API stands.
const base = "/api/v1"

// who is a set of those who may ask for an operation.
type who uint8

const (
	open   who = 1 << iota // everybody, signed in or not
	setup                  // the phone that claimed the box and has no account yet
	rescue                 // who gave the code of rescue mode
	member                 // people who use the box
	owner                  // people who look after it

	anyone = setup | rescue | member | owner // who is signed in, as whatever
	people = member | owner
)

// operation is one thing that the API does. What is not in the table does not exist, and what a caller is not named for in
// it is refused.
type operation struct {
	id     string
	method string
	path   string // below base; {name} is one segment, {name...} all that is left
	who    who
	scope  string // that a token needs; without one, tokens are refused
	body   int64  // most bytes of the request's body; 0: it has none
	serve  func(*server, http.ResponseWriter, *http.Request, *caller)
}

// Limits of a request's body, in bytes.
const (
	small = 4 << 10
	large = 64 << 10 // a configuration document

	maxRoot   = 192 << 10 // a root of trust, with what is around it
	maxUpload = 400 << 20 // an uploaded update, which is passed on as it arrives
)

// operations is the table of all operations. openapi.json says the same in more words; a test holds them together.
func operations() []operation {
	const (
		get  = http.MethodGet
		post = http.MethodPost
		put  = http.MethodPut
		del  = http.MethodDelete
	)
	return []operation{
		{"health", get, "/health", open, "", 0, (*server).getHealth},
		{"openapi", get, "/openapi.json", open, "", 0, (*server).getOpenAPI},

		{"setupState", get, "/setup", open, "", 0, (*server).getSetup},
		{"claim", post, "/claim", open, "", small, (*server).postClaim},
		{"nameBox", put, "/setup/name", setup | owner, "", small, (*server).putSetupName},
		{"makeOwner", post, "/setup/account", setup, "", small, (*server).postSetupAccount},
		{"setTimeZone", put, "/setup/time-zone", owner, "", small, (*server).putSetupTimeZone},
		{"finishSetup", post, "/setup/done", owner, "", 0, (*server).postSetupDone},

		{"session", get, "/session", anyone, "", 0, (*server).getSession},
		{"signIn", post, "/session", open, "", small, (*server).postSession},
		{"signOut", del, "/session", open, "", 0, (*server).deleteSession},
		{"recover", post, "/recover", open, "", small, (*server).postRecover},
		{"lookAtInvite", post, "/join/look", open, "", small, (*server).postJoinLook},
		{"join", post, "/join", open, "", small, (*server).postJoin},

		{"me", get, "/me", people, "", 0, (*server).getMe},
		{"changeMe", put, "/me", people, "", small, (*server).putMe},
		{"changePassword", put, "/me/password", people, "", small, (*server).putPassword},
		{"newSecondFactor", post, "/me/second-factor", people, "", small, (*server).postSecondFactor},
		{"turnOnSecondFactor", put, "/me/second-factor", people, "", small, (*server).putSecondFactor},
		{"turnOffSecondFactor", del, "/me/second-factor", people, "", small, (*server).deleteSecondFactor},
		{"newRecoveryCodes", post, "/me/recovery-codes", people, "", small, (*server).postRecoveryCodes},
		{"mySessions", get, "/me/sessions", people, "", 0, (*server).getMySessions},
		{"endOtherSessions", del, "/me/sessions", people, "", 0, (*server).deleteMySessions},
		{"endSession", del, "/me/sessions/{id}", people, "", 0, (*server).deleteMySession},
		{"myTokens", get, "/me/tokens", people, "", 0, (*server).getTokens},
		{"makeToken", post, "/me/tokens", people, "", small, (*server).postToken},
		{"endToken", del, "/me/tokens/{id}", people, "", 0, (*server).deleteToken},

		{"people", get, "/people", owner, api.ScopePeople, 0, (*server).getPeople},
		{"person", get, "/people/{id}", owner, api.ScopePeople, 0, (*server).getPerson},
		{"changePerson", put, "/people/{id}", owner, api.ScopePeople, small, (*server).putPerson},
		{"removePerson", del, "/people/{id}", owner, api.ScopePeople, 0, (*server).deletePerson},
		{"endPersonSessions", del, "/people/{id}/sessions", owner, api.ScopePeople, 0, (*server).deletePersonSessions},
		{"invites", get, "/invites", owner, api.ScopePeople, 0, (*server).getInvites},
		{"invite", post, "/invites", owner, api.ScopePeople, small, (*server).postInvite},
		{"endInvite", del, "/invites/{id}", owner, api.ScopePeople, 0, (*server).deleteInvite},
		{"audit", get, "/audit", owner, api.ScopeLogs, 0, (*server).getAudit},

		{"box", get, "/box", anyone, api.ScopeBox, 0, (*server).getBox},
		{"events", get, "/events", anyone, api.ScopeBox, 0, (*server).getEvents},
		{"history", get, "/history", people, api.ScopeBox, 0, (*server).getHistory},
		{"alerts", get, "/alerts", owner, api.ScopeControl, 0, (*server).getAlerts},
		{"seeAlert", post, "/alerts/{id}/seen", owner, api.ScopeControl, 0, (*server).postAlertSeen},
		{"services", get, "/services", people, api.ScopeBox, 0, (*server).getServices},
		{"restartService", post, "/services/{name}/restart", owner, api.ScopeControl, 0, (*server).postServiceRestart},
		{"power", post, "/power", rescue | owner, api.ScopeControl, small, (*server).postPower},
		{"startOver", post, "/start-over", owner, "", small, (*server).postStartOver},
		{"rescue", post, "/rescue", rescue, "", small, (*server).postRescue},
		{"logs", get, "/logs", owner, api.ScopeLogs, 0, (*server).getLogs},
		{"logStream", get, "/logs/stream", owner, api.ScopeLogs, 0, (*server).getLogStream},
		{"diagnosis", get, "/diagnosis", owner, api.ScopeLogs, 0, (*server).getDiagnosis},
		{"licences", get, "/licences", people, "", 0, (*server).getLicences},
		{"licence", get, "/licences/{name...}", people, "", 0, (*server).getLicence},

		{"config", get, "/config", owner, api.ScopeConfig, 0, (*server).getConfig},
		{"changeConfig", put, "/config", owner, api.ScopeConfig, large, (*server).putConfig},
		{"checkConfig", post, "/config/check", owner, api.ScopeConfig, large, (*server).postConfigCheck},
		{"configChanges", get, "/config/changes", owner, api.ScopeConfig, 0, (*server).getConfigChanges},
		{"undoConfig", post, "/config/undo", owner, api.ScopeConfig, small, (*server).postConfigUndo},
		{"updates", get, "/updates", rescue | people, api.ScopeBox, 0, (*server).getUpdates},
		{"updatesHistory", get, "/updates/history", owner, api.ScopeControl, 0, (*server).getUpdatesHistory},
		{"updatesAction", post, "/updates/action", rescue | owner, api.ScopeControl, small, (*server).postUpdatesAction},
		{"updatesTrust", put, "/updates/trust", rescue | owner, "", maxRoot, (*server).putUpdatesTrust},
		{"uploadUpdate", put, "/updates/file", rescue | owner, api.ScopeControl, maxUpload, (*server).putUpdatesFile},
		{"removeUpdate", del, "/updates/file", rescue | owner, api.ScopeControl, 0, (*server).deleteUpdatesFile},
		{"witness", get, "/witness", owner, api.ScopeConfig, 0, (*server).getWitness},
		{"newWitnessKey", post, "/witness/key", owner, "", 0, (*server).postWitnessKey},

		{"network", get, "/network", owner, api.ScopeConfig, 0, (*server).getNetwork},
		{"keepNetwork", post, "/network/keep", owner, api.ScopeConfig, 0, (*server).postNetworkKeep},
		{"revertNetwork", post, "/network/revert", owner, api.ScopeConfig, 0, (*server).postNetworkRevert},
	}
}
