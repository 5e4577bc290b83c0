package fetcher

import (
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/release"
)

// RefreshRequest is the body of POST /v1/refresh: look for news at every source, and keep what verifies.
type RefreshRequest struct {
	Prefix   string    `json:"prefix,omitempty"`   // "" or "auditors/NAME/": whose metadata
	Root     []byte    `json:"root,omitempty"`     // first root to trust; nil: the built-in one of the image
	Mirrors  []string  `json:"mirrors,omitempty"`  // in the place of those of the settings
	Channel  string    `json:"channel,omitempty"`  // for the newest version of a source: "stable" or "beta", which includes stable
	Board    string    `json:"board,omitempty"`    // whose descriptions are wanted; "": this box's
	Internet bool      `json:"internet,omitempty"` // mirrors may be asked
	Now      time.Time `json:"now"`                // the present time
	Sure     bool      `json:"sure,omitempty"`     // it is certain
}

// RefreshResult answers a RefreshRequest. An updater does not believe it: it verifies the files of /v1/repo by itself.
type RefreshResult struct {
	Sources []SourceResult `json:"sources"` // in the order in which they were asked
}

// SourceResult is what came of one source.
type SourceResult struct {
	Kind  string `json:"kind"` // as in api.UpdateSource
	Name  string `json:"name"`
	Cause string `json:"cause,omitempty"` // of api.UpdateCauses: why nothing was taken from it
	Error string `json:"error,omitempty"` // for the record
}

// Want is a blob to fetch.
type Want struct {
	Blob   string          `json:"blob"` // hex SHA-256
	Size   int64           `json:"size"` // bytes
	Frames []release.Frame `json:"frames,omitempty"`
}

// FetchRequest is the body of POST /v1/fetch. The answer is a stream of lines, each a Progress in JSON, as long as the
// work lasts; closing the connection cancels it. What was fetched by then stays, and is gone on with next time.
type FetchRequest struct {
	Board    string   `json:"board,omitempty"`    // tells which bundle on a stick may have it; "": this box's
	Blobs    []Want   `json:"blobs"`              // at most 16
	Internet bool     `json:"internet,omitempty"` // mirrors may be asked
	Mirrors  []string `json:"mirrors,omitempty"`  // in the place of those of the settings
	Rate     int64    `json:"rate,omitempty"`     // bytes a second from mirrors; 0: as fast as it goes
	Sure     bool     `json:"sure,omitempty"`     // the clock is right, so a mirror's certificate has to be valid today
}

// Progress is a line of the answer to POST /v1/fetch. The last one has End set.
type Progress struct {
	Done   int64  `json:"done"`             // bytes that are verified, of all blobs
	Total  int64  `json:"total"`            // bytes
	Source string `json:"source,omitempty"` // kind of the one that gave the latest piece
	Name   string `json:"name,omitempty"`   // its name
	End    bool   `json:"end,omitempty"`    // nothing follows
	Cause  string `json:"cause,omitempty"`  // at the end: empty, or one of api.UpdateCauses
	Error  string `json:"error,omitempty"`  // for the record
}

// State is GET /v1/state. With ?after=N it is answered when Revision is no longer N, or after 30 seconds.
type State struct {
	Revision int64              `json:"revision"` // counts changes of what follows but Progress
	Sources  []api.UpdateSource `json:"sources"`
	Sharing  bool               `json:"sharing"` // neighbours may fetch from here just now
	Progress *Progress          `json:"progress,omitempty"`
	Upload   string             `json:"upload,omitempty"` // name of the uploaded bundle
	Used     int64              `json:"used"`             // bytes on the medium
	Budget   int64              `json:"budget"`
}

// Settings is the body of PUT /v1/settings. They are kept.
type Settings struct {
	Mirrors []string `json:"mirrors"` // https URLs, at most 8
	Share   bool     `json:"share"`   // serve what is kept to neighbours on the LAN
}

// Upload answers PUT /v1/upload.
type Upload struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"`    // bytes
	Board   string `json:"board"`   // that it is for, as it says itself
	Version string `json:"version"` // newest release in it, likewise
}

// Probe answers POST /v1/probe: whether the start page can be had over TCP on this box.
type Probe struct {
	HTTP  string `json:"http,omitempty"`  // why not; empty: it answers
	HTTPS string `json:"https,omitempty"` // likewise
}

// Problem is the body of an answer other than 200.
type Problem struct {
	Cause string `json:"cause"` // of api.UpdateCauses
	Error string `json:"error"`
}
