// Package api holds the wire types that Croft's processes exchange as JSON over HTTP on unix sockets, and that
// the public HTTP API serves below /api/v1.
//
// It is data only: it imports nothing of ours, so that every process and the web UI may import it without
// importing one another. Times are RFC 3339 in UTC, sizes are bytes, durations are milliseconds unless the
// field's name says otherwise. A field is only ever added; a reader ignores what it does not know.
package api
