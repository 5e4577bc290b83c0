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

		{"signIn", post, "/session", open, "", small, (*server).postSession},
		{"signOut", del, "/session", open, "", 0, (*server).deleteSession},
		{"session", get, "/session", anyone, "", 0, (*server).getSession},

		{"box", get, "/box", anyone, api.ScopeBox, 0, (*server).getBox},
		{"events", get, "/events", anyone, api.ScopeBox, 0, (*server).getEvents},
		{"rescue", post, "/rescue", rescue, "", small, (*server).postRescue},

		{"history", get, "/history", people, api.ScopeBox, 0, (*server).getHistory},
		{"config", get, "/config", owner, api.ScopeConfig, 0, (*server).getConfig},
		{"changeConfig", put, "/config", owner, api.ScopeConfig, large, (*server).putConfig},
		{"checkConfig", post, "/config/check", owner, api.ScopeConfig, large, (*server).postConfigCheck},
		{"configChanges", get, "/config/changes", owner, api.ScopeConfig, 0, (*server).getConfigChanges},
		{"undoConfig", post, "/config/undo", owner, api.ScopeConfig, small, (*server).postConfigUndo},
		{"network", get, "/network", owner, api.ScopeConfig, 0, (*server).getNetwork},
		{"keepNetwork", post, "/network/keep", owner, api.ScopeConfig, 0, (*server).postNetworkKeep},
		{"revertNetwork", post, "/network/revert", owner, api.ScopeConfig, 0, (*server).postNetworkRevert},
		{"logs", get, "/logs", owner, api.ScopeLogs, 0, (*server).getLogs},
		{"logStream", get, "/logs/stream", owner, api.ScopeLogs, 0, (*server).getLogStream},
		{"diagnosis", get, "/diagnosis", owner, api.ScopeLogs, 0, (*server).getDiagnosis},
		{"alerts", get, "/alerts", owner, api.ScopeControl, 0, (*server).getAlerts},
		{"seeAlert", post, "/alerts/{id}/seen", owner, api.ScopeControl, 0, (*server).postAlertSeen},
	}
}
