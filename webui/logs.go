package webui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/croft-os/croft/services/api"
)

// logRoutes are the pages of what the services wrote down.
func logRoutes() []route {
	return []route{
		{"GET /logs", whoOwner, (*visit).getLogs},
		{"GET /logs/live", whoOwner, (*visit).getLogsLive},
	}
}

const (
	logsPage    = 100                    // lines of one page
	logBatch    = 100                    // lines that a browser is sent at once, at most …
	logEvery    = 300 * time.Millisecond // … and how often
	longestText = 4000                   // bytes of a line's text that are shown
	mostFields  = 40                     // of a line
	longestTerm = 200                    // characters of what is searched for
)

// logView is one line.
type logView struct {
	ID, Service, Tone, Level, Text string
	Time                           time.Time
	Fields                         []fact
	Boot                           bool // the box was started between this line and the one below, which is older
	Dropped                        int  // in the place of a line: how many were left out
}

// logsView is the page.
type logsView struct {
	Service, Level choice
	Query          string
	Lines          []logView
	Live           bool // the newest lines, so what comes is added
	Filtered       bool
	Older, Newer   string // URLs
	Problem        string
}

// logs says lines as the page shows them.
func (c catalogue) logs(lines []api.LogLine) []logView {
	var out []logView
	for i, l := range lines {
		v := logView{
			ID: l.ID, Service: c.or("service-name."+l.Service, l.Service), Level: c.or("level."+l.Level, l.Level), Time: l.Time,
			Text: short(l.Text, longestText), Fields: fieldsOf(l.Fields),
			Boot: i+1 < len(lines) && lines[i+1].Boot != l.Boot,
		}
		switch l.Level {
		case "warn":
			v.Tone = toneLook
		case "error":
			v.Tone = toneAct
		case "debug":
			v.Tone = toneOff
		default:
			v.Tone = toneOK
		}
		out = append(out, v)
	}
	return out
}

// short cuts a text that is too long to show.
func short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// fieldsOf are the members of a JSON object, by name.
func fieldsOf(raw json.RawMessage) []fact {
	var m map[string]json.RawMessage
	if len(raw) == 0 || json.Unmarshal(raw, &m) != nil {
		return nil
	}
	var out []fact
	for k, b := range m {
		var s string
		if json.Unmarshal(b, &s) != nil {
			var compact bytes.Buffer
			if json.Compact(&compact, b) == nil {
				s = compact.String()
			}
		}
		out = append(out, fact{short(k, 100), short(s, longestText)})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out[:min(len(out), mostFields)]
}

// logQuery is what of the logs a page's URL asks for, as core's API has it.
func logQuery(q url.Values) url.Values {
	out := url.Values{}
	for _, k := range []string{"service", "q", "after"} {
		if s := strings.TrimSpace(q.Get(k)); s != "" && utf8.RuneCountInString(s) <= longestTerm && utf8.ValidString(s) {
			out.Set(k, s)
		}
	}
	if l := q.Get("level"); slices.Contains(api.Levels(), l) {
		out.Set("level", l)
	}
	return out
}

func (v *visit) getLogs() {
	b, ok := v.box()
	if !ok {
		return
	}
	c, q := v.text, logQuery(v.r.URL.Query())
	view := logsView{Query: q.Get("q"), Live: !q.Has("after"), Filtered: q.Has("q") || q.Has("level") || q.Has("service")}
	services := []option{{"", c.s("logs.all"), "", !q.Has("service")}}
	known := false
	for _, s := range b.System.Services {
		on := s.Name == q.Get("service")
		known = known || on
		services = append(services, option{s.Name, c.or("service-name."+s.Name, s.Title), "", on})
	}
	if name := q.Get("service"); name != "" && !known { // such as init
		services = append(services, option{name, c.or("service-name."+name, name), "", true})
	}
	view.Service = choice{Name: "service", Label: c.s("logs.service"), Groups: []group{{Options: services}}}
	levels := choice{Name: "level", Label: c.s("logs.level"), Groups: []group{{}}}
	for _, l := range api.Levels() {
		on := l == q.Get("level") || l == "debug" && !q.Has("level")
		levels.Groups[0].Options = append(levels.Groups[0].Options, option{l, c.s("logs.level." + l), "", on})
	}
	view.Level = levels

	ask := cloned(q)
	ask.Set("limit", strconv.Itoa(logsPage))
	var list api.List[api.LogLine]
	p, err := v.call(http.MethodGet, "/api/v1/logs?"+ask.Encode(), nil, &list)
	switch {
	case p != nil && p.Status < 500 && p.Status != http.StatusUnauthorized:
		view.Problem = v.problem(p)
	case p != nil || err != nil:
		v.failed(p, err)
		return
	}
	view.Lines = c.logs(list.Items)
	if !view.Live {
		newest := cloned(q)
		newest.Del("after")
		view.Newer = "/logs?" + newest.Encode()
	}
	if list.Next != "" {
		older := cloned(q)
		older.Set("after", list.Next)
		view.Older = "/logs?" + older.Encode()
	}
	v.render(http.StatusOK, v.page("logs", view))
}

func cloned(q url.Values) url.Values {
	out := url.Values{}
	for k, v := range q {
		out[k] = slices.Clone(v)
	}
	return out
}

// getLogsLive streams lines as they are written: events "lines", HTML of some lines with the newest first, as a JSON
// string. The first holds the newest lines that there are, for a page that was away.
func (v *visit) getLogsLive() {
	page, err := url.Parse(v.r.URL.Query().Get("page"))
	if err != nil {
		page = &url.URL{}
	}
	q := logQuery(page.Query())
	q.Del("after")
	from, to := v.live("/api/v1/logs/stream?" + q.Encode())
	if to == nil {
		return
	}
	defer from.Close()
	send := func(lines []api.LogLine, dropped int) bool {
		views := v.text.logs(lines)
		if dropped > 0 {
			views = append(views, logView{Dropped: dropped})
		}
		html, err := v.fragment("log-lines", views)
		if err != nil {
			v.log.Error("can't make lines", "err", err)
			return false
		}
		data, err := json.Marshal(html)
		return err == nil && to.send("lines", string(data))
	}
	ask := cloned(q)
	ask.Set("limit", strconv.Itoa(logsPage))
	var list api.List[api.LogLine]
	if p, err := v.call(http.MethodGet, "/api/v1/logs?"+ask.Encode(), nil, &list); p != nil || err != nil {
		return // the browser connects anew
	}
	if !send(list.Items, 0) {
		return
	}

	lines := make(chan api.LogLine, logBatch)
	ctx := v.r.Context()
	go func() {
		defer close(lines)
		for event, data := range readEvents(from) {
			var l api.LogLine
			if event != "line" || json.Unmarshal(data, &l) != nil {
				continue
			}
			select {
			case lines <- l:
			case <-ctx.Done():
				return
			}
		}
	}()
	var batch []api.LogLine // the newest first
	dropped := 0
	flush := time.NewTicker(logEvery)
	defer flush.Stop()
	sent := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case l, ok := <-lines:
			if !ok {
				return
			}
			if batch = slices.Insert(batch, 0, l); len(batch) > logBatch {
				batch, dropped = batch[:logBatch], dropped+1
			}
		case <-flush.C:
			switch {
			case len(batch) > 0:
				if !send(batch, dropped) {
					return
				}
				batch, dropped, sent = nil, 0, time.Now()
			case time.Since(sent) >= beatEvery:
				if !to.send("beat", "{}") {
					return
				}
				sent = time.Now()
			}
		}
	}
}

// pass sends the browser an answer of core's as a file of that type and name, as it comes.
func (v *visit) pass(req *http.Request, contentType, name string) {
	resp, err := v.api.Do(req)
	if err != nil {
		v.starting(err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var p api.Problem
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err == nil {
			err = json.Unmarshal(b, &p)
		}
		if err != nil {
			v.starting(fmt.Errorf("%s: %s without a problem: %w", req.URL.Path, resp.Status, err))
			return
		}
		p.Status = resp.StatusCode
		v.failed(&p, nil)
		return
	}
	h := v.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Disposition", `attachment; filename="`+path.Base(name)+`"`)
	for _, k := range []string{"Set-Cookie", "Content-Length"} {
		for _, s := range resp.Header.Values(k) {
			h.Add(k, s)
		}
	}
	rc := http.NewResponseController(v.w)
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			rc.SetWriteDeadline(time.Now().Add(sendTimeout))
			if _, werr := v.w.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil { // a file that is cut off must not look whole
			v.log.Warn("a file was cut off", "path", req.URL.Path, "err", err)
			panic(http.ErrAbortHandler)
		}
	}
}
