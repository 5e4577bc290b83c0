package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/supervisor/journal"
)

const (
	maxFilter      = 200              // bytes of each of a filter's words
	streamBeat     = 20 * time.Second // between signs of life
	streamPatience = 10 * time.Second // of one write
)

// level returns the name of a line's level, one of api.Levels.
func level(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	}
	return "error"
}

func toLine(e *journal.Entry) api.LogLine {
	return api.LogLine{
		ID: e.ID(), Time: e.Time, Boot: e.Boot, Service: e.Service, Level: level(e.Level), Text: e.Msg, Fields: e.Fields,
	}
}

// logFilter reads ?service=&level=&q=.
func logFilter(q url.Values) (journal.Filter, error) {
	f := journal.Filter{Service: q.Get("service"), Level: slog.LevelDebug, Text: q.Get("q")}
	if len(f.Service) > maxFilter || len(f.Text) > maxFilter {
		return f, errors.New("the filter is too long")
	}
	if l := q.Get("level"); l != "" {
		if !slices.Contains(api.Levels(), l) {
			return f, errors.New("unknown level " + strconv.Quote(l))
		}
		if err := f.Level.UnmarshalText([]byte(l)); err != nil {
			return f, err
		}
	}
	return f, nil
}

// getLogs answers GET /v1/logs. A page may be short, or even empty, although there is a next one: then as much has been
// looked through as may be at once.
func (b *Box) getLogs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f, err := logFilter(q)
	if err != nil {
		answer(w, err)
		return
	}
	limit := 50
	if l := q.Get("limit"); l != "" {
		if limit, err = strconv.Atoi(l); err != nil || limit < 1 || limit > 200 {
			answer(w, errors.New("the limit is from 1 to 200"))
			return
		}
	}
	p, err := b.journal.Query(r.Context(), f, q.Get("after"), limit)
	if err != nil {
		answer(w, err)
		return
	}
	list := api.List[api.LogLine]{Items: []api.LogLine{}, Next: p.Next}
	for i := range p.Entries {
		list.Items = append(list.Items, toLine(&p.Entries[i]))
	}
	daemon.WriteJSON(w, http.StatusOK, list)
}

// streamLogs answers GET /v1/logs/stream: each new line as an event "line" (HTML, "Server-sent events"). It ends for a
// reader who is too slow.
func (b *Box) streamLogs(w http.ResponseWriter, r *http.Request) {
	f, err := logFilter(r.URL.Query())
	if err != nil {
		answer(w, err)
		return
	}
	lines, stop, err := b.journal.Follow(f)
	if err != nil {
		daemon.WriteJSON(w, http.StatusServiceUnavailable, api.Problem{Title: err.Error(), Status: http.StatusServiceUnavailable})
		return
	}
	defer stop()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	c := http.NewResponseController(w)
	send := func(text string) bool {
		c.SetWriteDeadline(time.Now().Add(streamPatience))
		_, err := fmt.Fprint(w, text)
		return errors.Join(err, c.Flush()) == nil
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for ok := send(": here\n\n"); ok; {
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
			ok = send(": still here\n\n")
		case e, open := <-lines:
			if !open {
				return
			}
			line, err := json.Marshal(toLine(&e))
			if err != nil {
				return
			}
			ok = send(fmt.Sprintf("event: line\nid: %s\ndata: %s\n\n", e.ID(), line))
		}
	}
}
