package api

import "time"

// Box is the public state of the box, GET /api/v1/box: what PID 1, the network service and discovery know.
type Box struct {
	System    System     `json:"system"`
	Network   *Network   `json:"network,omitempty"`   // absent while the service does not answer
	Discovery *Discovery `json:"discovery,omitempty"` // absent while the service does not answer
	Notices   []Notice   `json:"notices,omitempty"`   // what core itself has to say
}

// SessionRequest is the body of POST /api/v1/session.
type SessionRequest struct {
	Code string `json:"code"`
}

// Problem is an error answer: RFC 9457, application/problem+json.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`            // what happened, one sentence
	Status int    `json:"status"`           // HTTP status code
	Detail string `json:"detail,omitempty"` // why, and the one next step
}

// Session is GET /api/v1/session: the sign-in that the request's cookie belongs to.
type Session struct {
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// Notice is something that a service wants the owner to know.
type Notice struct {
	Name   string `json:"name"`   // such as "state-replaced"
	Text   string `json:"text"`   // what happened, one sentence for an owner
	Next   string `json:"next"`   // the one next step
	Weight string `json:"weight"` // "info" or "warn"
}
