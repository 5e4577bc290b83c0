package browser

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
)

// neighbours stand in for PID 1, the network service and discovery: they keep what they are told, and note it. The
// server's mutex guards them.
type neighbours struct {
	sys     *api.System
	net     *api.Network // Config is what was kept
	disc    *api.Discovery
	claim   string
	recover string
	trial   *api.NetConfig
	until   time.Time
	lines   []api.LogLine
	told    []string // "METHOD /path body" of each request that acts
	updaters
}

// recoveryCode is what shows who stands at the box, in tests of lost passwords.
const recoveryCode = "4T7W-M2PX"

func (n *neighbours) fresh(state string) error {
	var err error
	n.sys, n.net, n.disc, err = stateOf(state)
	n.claim, n.recover, n.trial, n.told = claimCode, recoveryCode, nil, nil
	n.lines = nil
	n.updaters = updaters{u: updatesOf("idle")}
	levels := api.Levels()
	for i := range 260 {
		service := []string{"network", "core", "gateway", "discovery"}[i%4]
		text := "answered a request"
		if i%40 == 7 {
			text = "the lease was renewed"
		}
		if i == 255 {
			text = "<img src=x onerror=alert(1)> is what a phone calls itself"
		}
		n.lines = append(n.lines, api.LogLine{
			ID: fmt.Sprint(i), Time: time.Now().Add(time.Duration(i-260) * time.Minute), Boot: "5f2c81aa", Service: service,
			Level: levels[1+i%7/5+i%11/10], Text: text, Fields: json.RawMessage(fmt.Sprintf(`{"took_ms":%d}`, i)),
		})
	}
	return err
}

// network is what the network service says now.
func (n *neighbours) network() *api.Network {
	if n.net == nil {
		return nil
	}
	v := *n.net
	if n.trial != nil {
		if left := time.Until(n.until); left > 0 {
			v.Trial = &api.Trial{LeftMS: left.Milliseconds(), Config: *n.trial}
		} else {
			n.trial = nil
		}
	}
	return &v
}

func matches(r *http.Request, l api.LogLine) bool {
	q, levels := r.URL.Query(), api.Levels()
	return (q.Get("service") == "" || q.Get("service") == l.Service) &&
		slices.Index(levels, l.Level) >= max(0, slices.Index(levels, q.Get("level"))) &&
		strings.Contains(strings.ToLower(l.Text), strings.ToLower(q.Get("q")))
}

// fake answers for all three.
func (s *server) fake(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == "/v1/logs/stream" {
		s.streamLogs(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &s.neighbours
	if r.Method != http.MethodGet {
		var body json.RawMessage
		if r.ContentLength != 0 {
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		n.told = append(n.told, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+string(body)))
		if status := n.act(r.Method+" "+r.URL.Path, body); status != 0 {
			w.WriteHeader(status)
			return
		}
		http.NotFound(w, r)
		return
	}
	var v any
	switch r.URL.Path {
	case "/v1/system":
		sys := *n.sys
		sys.UptimeMS += time.Since(s.began).Milliseconds()
		sys.Vitals.CPUBusyMS += time.Since(s.began).Milliseconds() / 5
		v = sys
	case "/v1/vitals":
		v = n.sys.Vitals
	case "/v1/claim":
		v = api.Claim{Code: n.claim}
	case "/v1/recovery":
		v = api.Recovery{Code: n.recover, Source: "console"}
	case "/v1/settings":
		v = map[string]string{}
	case "/v1/logs":
		v = n.logs(r)
	case "/v1/network":
		if net := n.network(); net != nil {
			v = net
		}
	case "/v1/discovery":
		if n.disc != nil {
			v = n.disc
		}
	}
	if v == nil {
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, v)
}

// act does what a request asks for and returns the status to answer with, 0 if there is no such request.
func (n *neighbours) act(request string, body json.RawMessage) int {
	var name api.NameRequest
	json.Unmarshal(body, &name) //nolint:errcheck // other bodies have no name
	switch request {
	case "DELETE /v1/claim":
		n.claim = ""
	case "DELETE /v1/recovery":
		n.recover = ""
	case "PUT /v1/name":
		sys := *n.sys
		sys.Name, n.sys = name.Name, &sys
	case "PUT /v1/discovery/name":
		if n.disc != nil {
			disc := *n.disc
			disc.Wanted, disc.Name, n.disc = name.Name, name.Name, &disc
		}
	case "PUT /v1/network/name", "POST /v1/power", "POST /v1/start-over":
	case "PUT /v1/network/config", "PUT /v1/network/trial":
		var c api.NetConfig
		if json.Unmarshal(body, &c) != nil {
			return http.StatusBadRequest
		}
		if n.trial = nil; request == "PUT /v1/network/trial" {
			n.trial, n.until = &c, time.Now().Add(api.TrialTime)
		} else {
			n.net.Config = c
		}
	case "POST /v1/network/keep":
		if n.trial == nil {
			return http.StatusConflict
		}
		n.net.Config, n.trial = *n.trial, nil
	case "DELETE /v1/network/trial":
		n.trial = nil
	case "POST /v1/rescue":
		var req api.RescueRequest
		if json.Unmarshal(body, &req) != nil {
			return http.StatusBadRequest
		}
		sys, busy := *n.sys, *n.sys.Rescue
		busy.Busy, busy.Progress, sys.Rescue = req.Action, 0.05, &busy
		if req.Action == "cancel" {
			busy.Busy = ""
		}
		n.sys = &sys
	default:
		service, ok := strings.CutPrefix(request, "POST /v1/services/")
		service, ok2 := strings.CutSuffix(service, "/restart")
		if !ok || !ok2 {
			return 0
		}
		sys := *n.sys
		sys.Services = slices.Clone(sys.Services)
		for i, v := range sys.Services {
			if v.Name == service {
				sys.Services[i].Restarts, sys.Services[i].SinceMS, sys.Services[i].Since = v.Restarts+1, 0, time.Now()
			}
		}
		n.sys = &sys
	}
	return http.StatusNoContent
}

func (n *neighbours) logs(r *http.Request) api.List[api.LogLine] {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		limit = 50
	}
	after, err := strconv.Atoi(r.URL.Query().Get("after"))
	if err != nil {
		after = len(n.lines)
	}
	out := api.List[api.LogLine]{Items: []api.LogLine{}}
	for i := min(after, len(n.lines)) - 1; i >= 0; i-- {
		if !matches(r, n.lines[i]) {
			continue
		}
		if len(out.Items) == limit {
			out.Next = fmt.Sprint(i + 1)
			break
		}
		out.Items = append(out.Items, n.lines[i])
	}
	return out
}

// streamLogs sends a line a second.
func (s *server) streamLogs(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for i := 1000; ; i++ {
		if rc.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-t.C:
		}
		l := api.LogLine{
			ID: fmt.Sprint(i), Time: time.Now(), Boot: "5f2c81aa", Service: "gateway", Level: "info", Text: fmt.Sprintf("line %d of the stream", i),
		}
		if b, err := json.Marshal(l); err == nil && matches(r, l) {
			fmt.Fprintf(w, "event: line\ndata: %s\n\n", b)
		}
	}
}
