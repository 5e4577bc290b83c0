package core

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	maxFilter  = 200             // bytes of ?service= and ?q=
	maxLogs    = 1 << 20         // bytes of a page of lines
	maxLogLine = 64 << 10        // bytes of a line of a stream
	logTimeout = 5 * time.Second // for init to look through what it has on disk
)

// errCursor says that init does not know what a page is to begin after.
var errCursor = errors.New("init refuses what is asked of its logs")

// logFilter returns the parameters that init knows, or answers with a problem and returns false.
func logFilter(w http.ResponseWriter, r *http.Request) (url.Values, bool) {
	q, out := r.URL.Query(), url.Values{}
	for _, name := range []string{"service", "q"} {
		v := q.Get(name)
		if len(v) > maxFilter {
			invalid(w, api.FieldProblem{Path: "/" + name, Code: "too-long", Text: fmt.Sprintf("At most %d bytes.", maxFilter)})
			return nil, false
		}
		if v != "" {
			out.Set(name, v)
		}
	}
	if v := q.Get("level"); v != "" {
		if !slices.Contains(api.Levels(), v) {
			invalid(w, api.FieldProblem{Path: "/level", Code: "range", Text: "level is one of " + strings.Join(api.Levels(), ", ") + "."})
			return nil, false
		}
		out.Set("level", v)
	}
	return out, true
}

func (s *server) getLogs(w http.ResponseWriter, r *http.Request, _ *caller) {
	q, ok := logFilter(w, r)
	if !ok {
		return
	}
	after, limit, ok := pageOf(w, r)
	if !ok {
		return
	}
	q.Set("limit", strconv.Itoa(limit))
	if after != "" {
		q.Set("after", after)
	}
	b, err := s.askLogs(r.Context(), q)
	switch {
	case errors.Is(err, errCursor):
		invalid(w, badCursor())
	case err != nil:
		s.refuse(w, r, err)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Write(b)
	}
}

// askLogs returns a page of lines as JSON. The error is errCursor or errStarting.
func (s *server) askLogs(ctx context.Context, q url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	resp, err := s.openLogs(ctx, "/v1/logs", q)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxLogs+1))
	if err == nil && len(b) > maxLogs {
		err = fmt.Errorf("over %d bytes", maxLogs)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: logs: %w", errStarting, err)
	}
	return b, nil
}

func (s *server) openLogs(ctx context.Context, path string, q url.Values) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://init"+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.init.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStarting, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusBadRequest { // everything else was looked at here
		return nil, errCursor
	}
	return nil, fmt.Errorf("%w: logs: %s", errStarting, resp.Status)
}

// getLogStream passes init's lines on, one event "line" each.
func (s *server) getLogStream(w http.ResponseWriter, r *http.Request, c *caller) {
	q, ok := logFilter(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s.stream(w, r, c, func(st *stream) {
		resp, err := s.openLogs(ctx, "/v1/logs/stream", q)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		defer resp.Body.Close()
		lines := make(chan json.RawMessage)
		go func() {
			defer close(lines)
			in := bufio.NewScanner(resp.Body)
			in.Buffer(nil, maxLogLine)
			for in.Scan() {
				// Its events have one line of data each. There is no event but "line".
				data, ok := strings.CutPrefix(in.Text(), "data: ")
				if !ok || !json.Valid([]byte(data)) {
					continue
				}
				select {
				case lines <- json.RawMessage(data):
				case <-ctx.Done():
					return
				}
			}
		}()
		beat := time.NewTicker(beatEvery)
		defer beat.Stop()
		for ok := st.beat(); ok; {
			select {
			case <-ctx.Done():
				return
			case line, open := <-lines:
				if !open {
					return // the page asks again
				}
				ok = st.send("line", line)
			case <-beat.C:
				ok = st.beat()
			}
		}
	})
}
