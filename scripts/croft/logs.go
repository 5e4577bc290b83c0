package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	logPage   = 200     // lines of one answer
	maxLine   = 1 << 20 // bytes of an event
	reconnect = 2 * time.Second
)

// logsCommand reads the logs.
func logsCommand(fl *flag.FlagSet) func(context.Context, *box, []string) error {
	follow := fl.Bool("f", false, "go on with what is logged from now on")
	n := fl.Int("n", 50, "how many `lines` of the past")
	service := fl.String("service", "", "only this `service`")
	level := fl.String("level", "", "at least this grave: "+strings.Join(api.Levels(), ", "))
	grep := fl.String("grep", "", "only lines with this `text`, in any case")
	return func(ctx context.Context, b *box, _ []string) error {
		if *n < 0 || *level != "" && !slices.Contains(api.Levels(), *level) {
			return usageError("-n is 0 or more, and --level one of " + strings.Join(api.Levels(), ", ") + ".")
		}
		q := url.Values{}
		for k, v := range map[string]string{"service": *service, "level": *level, "q": *grep} {
			if v != "" {
				q.Set(k, v)
			}
		}
		r := &logReader{box: b, query: q}
		if !*follow {
			return r.past(ctx, *n)
		}
		for {
			err := r.follow(ctx, *n)
			var refused *refusedError
			if ctx.Err() != nil || errors.As(err, &refused) && refused.Status < 500 {
				return err
			}
			if !r.connected {
				return err
			}
			if len(r.seen) > 0 {
				*n = logPage // what came while the connection was away
			}
			select {
			case <-ctx.Done():
			case <-time.After(reconnect):
			}
		}
	}
}

type logReader struct {
	*box
	query     url.Values
	connected bool     // once
	seen      []string // ids of the last lines that were printed
}

// past prints the last n lines, oldest first, but only what is newer than what was printed.
func (r *logReader) past(ctx context.Context, n int) error {
	var lines []api.LogLine
	q := url.Values{}
	for k, v := range r.query {
		q[k] = v
	}
	for len(lines) < n {
		var page api.List[api.LogLine]
		q.Set("limit", strconv.Itoa(min(logPage, n-len(lines))))
		if _, err := r.call(ctx, http.MethodGet, "/logs", q, nil, &page, nil); err != nil {
			return err
		}
		news := slices.IndexFunc(page.Items, func(l api.LogLine) bool { return slices.Contains(r.seen, l.ID) })
		if news >= 0 {
			lines = append(lines, page.Items[:news]...)
			break
		}
		lines = append(lines, page.Items...)
		if page.Next == "" || len(page.Items) == 0 {
			break
		}
		q.Set("after", page.Next)
	}
	for _, l := range slices.Backward(lines) {
		r.line(l)
	}
	return nil
}

// follow opens the stream, prints the past, and then what comes. It ends with the stream.
func (r *logReader) follow(ctx context.Context, n int) error {
	resp, err := r.do(ctx, http.MethodGet, "/logs/stream", r.query, nil, http.Header{"Accept": {"text/event-stream"}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r.connected = true
	if err := r.past(ctx, n); err != nil {
		return err
	}
	// HTML standard, "server-sent events": each event is a few lines "field: value", ended by an empty one.
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, maxLine)
	var event, data string
	for sc.Scan() {
		field, value, _ := strings.Cut(sc.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			event = value
		case "data":
			data += value
		}
		if sc.Text() == "" {
			var l api.LogLine
			if event == "line" && json.Unmarshal([]byte(data), &l) == nil {
				r.line(l)
			}
			event, data = "", ""
		}
	}
	return sc.Err()
}

func (r *logReader) line(l api.LogLine) {
	if l.ID != "" && slices.Contains(r.seen, l.ID) {
		return
	}
	r.seen = append(r.seen, l.ID)
	r.seen = r.seen[max(0, len(r.seen)-2*logPage):]
	if r.asJSON {
		js, _ := json.Marshal(l)
		r.print(js)
		return
	}
	s := fmt.Sprintf("%s %-5s %s: %s", l.Time.Local().Format(time.DateTime), l.Level, l.Service, l.Text)
	var fields map[string]any
	if json.Unmarshal(l.Fields, &fields) == nil && len(fields) > 0 {
		s += " " + string(l.Fields)
	}
	fmt.Fprintln(r.out, strings.ReplaceAll(clean(s), "\n", " "))
}
