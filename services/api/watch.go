package api

import (
	"encoding/json"
	"time"
)

// Ranges of the history.
const (
	Range24h = "24h"
	Range30d = "30d"
)

// Series of the history.
const (
	SeriesCPU         = "cpu"         // percent of all cores
	SeriesMemory      = "memory"      // bytes in use
	SeriesTemperature = "temperature" // °C; absent without a sensor
	SeriesDisk        = "disk"        // bytes in use of the data partition; absent in rescue mode
	SeriesNetIn       = "network-in"  // bytes a second
	SeriesNetOut      = "network-out" // bytes a second
)

// History is GET /api/v1/history?range=24h or 30d.
type History struct {
	Range  string    `json:"range"`
	From   time.Time `json:"from"`
	StepMS int64     `json:"step_ms"`
	Series []Series  `json:"series"`
}

// Series is one measurement over time.
type Series struct {
	Name   string   `json:"name"`
	Max    float64  `json:"max,omitempty"` // of the scale: total memory, size of the disk, 100 %; 0 if open
	Points []*Point `json:"points"`        // one a step from History.From on; null where nothing was measured
}

// Point is one step of a series.
type Point struct {
	Min  float64 `json:"min"`
	Mean float64 `json:"mean"`
	Max  float64 `json:"max"`
}

// Alert is something that happened to the box and is kept until an owner has seen it, GET /api/v1/alerts.
type Alert struct {
	ID     int64             `json:"id"`
	Name   string            `json:"name"`             // one of AlertNames
	Weight string            `json:"weight"`           // "warn" or "act"
	Text   string            `json:"text"`             // what happened, one sentence
	Next   string            `json:"next"`             // the one next step
	Target string            `json:"target,omitempty"` // name of the service
	Args   map[string]string `json:"args,omitempty"`   // numbers for the sentence
	First  time.Time         `json:"first"`
	Last   time.Time         `json:"last"`
	Count  int               `json:"count"`
	Active bool              `json:"active"` // it is still so
}

// AlertNames are all kinds of alerts. The web UI has sentences for each.
func AlertNames() []string {
	return []string{
		"disk-nearly-full", "disk-full", "disk-read-only", "storage-errors", "hot", "under-voltage", "crash-loop",
		"clock-unsure", "out-of-memory", "state-restored", "state-replaced", "restarted-unhealthy", "update-available",
		"update-back", "update-failed", "update-tried-twice", "update-split-view", "update-stale",
	}
}

// Levels of log lines, from chatty to grave.
func Levels() []string { return []string{"debug", "info", "warn", "error"} }

// LogLine is one line of GET /api/v1/logs?service=&level=&q=&after=&limit=, newest first, and one event "line" of
// GET /api/v1/logs/stream. level is the least grave that is wanted; q is text that the line holds, in any case.
type LogLine struct {
	ID      string          `json:"id"`   // position in the journal
	Time    time.Time       `json:"time"` // by the box's clock as it was then
	Boot    string          `json:"boot"` // id of the boot
	Service string          `json:"service"`
	Level   string          `json:"level"`
	Text    string          `json:"text"`
	Fields  json.RawMessage `json:"fields,omitempty"` // one JSON object
}

// Component is one piece of software in the image, GET /api/v1/licences.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Licence string `json:"licence"`        // SPDX expression
	Text    string `json:"text,omitempty"` // the licence's own words, in GET /api/v1/licences/{name…} only
}

// StartOverRequest is the body of POST /api/v1/start-over: everything on the data partition is erased at the next
// start, which comes at once.
type StartOverRequest struct {
	Confirm  string `json:"confirm"`  // StartOverWord
	Password string `json:"password"` // of the owner who asks
}
