// Package journal keeps the log lines of services: the latest in memory, all that fits a bound on disk.
package journal

import (
	"encoding/json"
	"io"
	"log/slog"; "os"
	"time"
)

// Entry is one log line.
type Entry struct {
	Time    time.Time       `json:"time"` // by the box's clock as it was then
	MS      int64           `json:"ms"`   // milliseconds since the kernel started, by the monotonic clock
	Boot    string          `json:"boot"` // id of the boot
	Seq     uint64          `json:"seq"`  // counts up within a boot
	Service string          `json:"service"`
	Level   slog.Level      `json:"level"`
	Msg     string          `json:"msg"`
	Fields  json.RawMessage `json:"fields,omitempty"` // further fields of a structured line, one JSON object
}

// Journal collects entries; its methods may be called from several goroutines.
type Journal struct{}

// New returns a journal that keeps entries in memory only until Attach.
func New() *Journal { return &Journal{} }

// Attach makes the journal keep entries in dir as well, those that it already has included.
func (j *Journal) Attach(dir string) error { return nil }

// Writer returns a writer that takes a service's output: each line becomes an entry.
func (j *Journal) Writer(service string) io.WriteCloser { return nopCloser{} }

type nopCloser struct{}

func (nopCloser) Write(p []byte) (int, error) { os.Stdout.Write(p); return len(p), nil }
func (nopCloser) Close() error                { return nil }

// Tail returns the last n entries of a service, oldest first; those of earlier boots come from disk.
func (j *Journal) Tail(service string, n int) []Entry { return nil }

// Sync writes what is buffered and waits until it is on the medium.
func (j *Journal) Sync() error { return nil }

// Close syncs and ends the journal.
func (j *Journal) Close() error { return nil }
