// Package journal keeps the log lines of services: the latest of each in memory, and as many as fit a bound on disk,
// where they survive a reboot and a power cut.
//
// On disk a journal is a directory of files NUMBER.jsonl.gz in the order of their numbers. A file is a sequence of
// gzip members (RFC 1952, so that zcat reads it), each a few lines of JSON, one Entry a line. A file is only
// appended to by the boot that made it, so that a member torn by a power cut is the last one of its file, and what
// is torn is all that is lost. Lines are written when many have gathered, every half hour, and when Sync says so:
// cards wear out.
//
// Limits: a service that writes more than a few lines a second for long, restarts included, loses some, and a line
// says how many. One that does so for days still drives the others' older lines from the disk.
package journal

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds.
const (
	maxLine      = 8 << 10  // bytes; the rest of a longer line is cut off
	maxMemory    = 64 << 10 // bytes of a service's entries in memory
	maxServices  = 64       // with entries in memory; further ones are on disk only
	maxPending   = 64 << 10 // bytes of JSON that wait to be written
	burst        = 1000     // lines that a service may write at once: a crash with all its stacks
	perSecond    = 4        // lines that it may write for ever
	bytesPerLine = 256      // a longer line counts as several
	flushEvery   = 30 * time.Minute
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

func (e *Entry) size() int { return len(e.Msg) + len(e.Fields) + 128 }

// Journal collects entries; its methods may be called from several goroutines.
type Journal struct {
	boot string

	mu      sync.Mutex
	seq     uint64
	rings   map[string]*ring
	rates   map[string]*rate
	store   *store // nil until Attach
	pending []byte // JSON lines for store
	stop    chan struct{}
	closed  bool

	flushing  sync.Mutex    // keeps what is written in order
	searching chan struct{} // one query at a time: PID 1 has other work
	most      int           // searchSize
	followers []*follower
}

// ring is what memory holds of one service.
type ring struct {
	entries []Entry
	size    int
}

// add appends an entry and drops the oldest until at most so many bytes are left.
func (r *ring) add(e Entry, most int) {
	r.entries = append(r.entries, e)
	r.size += e.size()
	for r.size > most {
		r.drop()
	}
}

// last drops the oldest entries until n are left.
func (r *ring) last(n int) {
	for len(r.entries) > n {
		r.drop()
	}
}

func (r *ring) drop() {
	r.size -= r.entries[0].size()
	r.entries[0] = Entry{}
	r.entries = r.entries[1:]
}

// rate is the token bucket of a service's lines. It outlives the service's processes.
type rate struct {
	tokens float64
	filled time.Time // when tokens were last added
}

// allow takes the tokens for a line of that many bytes, if the service has them.
func (j *Journal) allow(service string, size int) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	r := j.rates[service]
	if r == nil {
		r = &rate{tokens: burst, filled: now}
		j.rates[service] = r
	}
	r.tokens = min(r.tokens+now.Sub(r.filled).Seconds()*perSecond, burst)
	r.filled = now
	cost := float64(1 + size/bytesPerLine)
	if r.tokens < cost {
		return false
	}
	r.tokens -= cost
	return true
}

// New returns a journal that keeps entries in memory only until Attach.
func New() *Journal {
	boot := "unknown"
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil && len(b) >= 8 {
		boot = string(b[:8])
	}
	return newJournal(boot)
}

func newJournal(boot string) *Journal {
	return &Journal{
		boot: boot, rings: map[string]*ring{}, rates: map[string]*rate{}, stop: make(chan struct{}),
		searching: make(chan struct{}, 1), most: searchSize,
	}
}

// Attach makes the journal keep entries in dir as well, those that it already has included. It can be called once.
func (j *Journal) Attach(dir string) error {
	st, err := openStore(dir)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || j.store != nil {
		return errors.New("journal: is attached or closed already")
	}
	j.store = st
	var early []Entry
	for _, r := range j.rings {
		early = append(early, r.entries...)
	}
	slices.SortFunc(early, func(a, b Entry) int { return int(int64(a.Seq) - int64(b.Seq)) })
	for _, e := range early {
		j.keep(e)
	}
	go j.flushLoop()
	return nil
}

func (j *Journal) flushLoop() {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-t.C:
			j.Sync() // what fails is tried again with the next lines
		}
	}
}

// add makes an entry of a line that came from a service.
func (j *Journal) add(service string, level slog.Level, msg string, fields json.RawMessage) {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // can't fail for this clock
	j.mu.Lock()
	j.seq++
	e := Entry{
		Time: time.Now().UTC().Round(time.Millisecond), MS: ts.Nano() / 1e6, Boot: j.boot, Seq: j.seq,
		Service: service, Level: level, Msg: msg, Fields: fields,
	}
	r := j.rings[service]
	if r == nil && len(j.rings) < maxServices {
		r = &ring{}
		j.rings[service] = r
	}
	if r != nil {
		r.add(e, maxMemory)
	}
	j.tell(&e)
	full := false
	if j.store != nil {
		j.keep(e)
		full = len(j.pending) >= maxPending
	}
	j.mu.Unlock()
	if full {
		j.flush(false)
	}
}

// keep queues an entry for the store.
func (j *Journal) keep(e Entry) {
	b, err := json.Marshal(e)
	if err != nil {
		return // Fields is valid JSON, so nothing can fail
	}
	j.pending = append(append(j.pending, b...), '\n')
}

// flush writes what is queued. What can't be written, on a full disk, is dropped: memory still has the latest.
func (j *Journal) flush(sync bool) error {
	j.flushing.Lock()
	defer j.flushing.Unlock()
	j.mu.Lock()
	st, b := j.store, j.pending
	j.pending = nil
	j.mu.Unlock()
	if st == nil {
		return nil
	}
	return st.write(b, sync)
}

// Sync writes what is buffered and waits until it is on the medium.
func (j *Journal) Sync() error { return j.flush(true) }

// Close syncs and ends the journal on disk.
func (j *Journal) Close() error {
	err := j.Sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.closed {
		j.closed = true
		close(j.stop)
		if j.store != nil {
			err = errors.Join(err, j.store.close())
			j.store = nil
		}
	}
	return err
}

// Writer returns a writer that takes a service's output: each line becomes an entry. A line of JSON as slog writes
// it keeps its level, message and fields; any other line is a message of level INFO, in a crash ERROR. It is for one
// goroutine.
func (j *Journal) Writer(service string) io.WriteCloser {
	return &lineWriter{j: j, service: service}
}

// lineWriter cuts output into lines and counts them against the service's rate.
type lineWriter struct {
	j       *Journal
	service string
	line    []byte
	cut     bool // the line was too long
	crash   bool // within the runtime's report of a crash
	dropped int
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, end := p, []byte(nil), false
		if i := slices.Index(p, '\n'); i >= 0 {
			part, rest, end = p[:i], p[i+1:], true
		}
		if room := maxLine - len(w.line); len(part) > room {
			part, w.cut = part[:room], true
		}
		w.line = append(w.line, part...)
		if end {
			w.flush()
		}
		p = rest
	}
	return n, nil
}

// Close makes an entry of an unfinished last line.
func (w *lineWriter) Close() error {
	w.flush()
	w.sayDropped()
	return nil
}

func (w *lineWriter) flush() {
	line, cut := w.line, w.cut
	w.line, w.cut = w.line[:0], false
	if len(line) == 0 {
		return
	}
	if !w.j.allow(w.service, len(line)) {
		w.dropped++
		return
	}
	w.sayDropped()
	level, msg, fields, ok := parseStructured(line)
	if ok {
		w.crash = false
	} else {
		msg = strings.ToValidUTF8(string(line), "\ufffd")
		w.crash = w.crash || startsCrash(msg)
		if w.crash {
			level = slog.LevelError
		}
	}
	if cut {
		msg += "…"
	}
	w.j.add(w.service, level, msg, fields)
}

func (w *lineWriter) sayDropped() {
	if w.dropped == 0 {
		return
	}
	fields, _ := json.Marshal(map[string]int{"lines": w.dropped})
	w.dropped = 0
	w.j.add(w.service, slog.LevelWarn, "too many lines: some were dropped", fields)
}

// startsCrash tells whether a line is the first of what Go's runtime writes when it gives up.
func startsCrash(line string) bool {
	for _, p := range []string{
		"panic: ", "fatal error: ", "runtime: ", "unexpected fault ", "SIGABRT: ", "SIGSEGV: ", "SIGQUIT: ", "SIGBUS: ",
	} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return false
}

// parseStructured reads a line as slog's JSONHandler writes it.
func parseStructured(line []byte) (level slog.Level, msg string, fields json.RawMessage, ok bool) {
	if line[0] != '{' {
		return 0, "", nil, false
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(line, &all) != nil {
		return 0, "", nil, false
	}
	if json.Unmarshal(all[slog.MessageKey], &msg) != nil {
		return 0, "", nil, false
	}
	if json.Unmarshal(all[slog.LevelKey], &level) != nil {
		level = slog.LevelInfo
	}
	delete(all, slog.MessageKey)
	delete(all, slog.LevelKey)
	delete(all, slog.TimeKey)
	if len(all) > 0 {
		fields, _ = json.Marshal(all)
	}
	return level, msg, fields, true
}
