package webui

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// watching is a witness in a state.
func watching(state string) *api.Witness {
	at := time.Now().Add(-2 * time.Hour)
	w := &api.Witness{
		Config: api.WitnessConfig{Name: "witness.example", Logs: []string{"a", "b"}}, Running: true, Key: "witness.example+0a1b2c3d+BAAA", Made: &at,
		Port: 7467, Logs: []api.WitnessLog{{Origin: "example.org/log", Size: 12, At: &at}, {Origin: "example.org/new"}},
	}
	switch state {
	case "off":
		return &api.Witness{}
	case "split":
		w.Logs[0].Split = true
	case "disk-full":
		w.Running, w.Problem, w.Logs[1].Problem = false, state, state
	case "clock":
		w.Running, w.Problem = false, state
	case "damaged", "medium":
		return &api.Witness{Config: w.Config, Problem: state}
	}
	return w
}

// TestWitnessPage looks at the page in each state.
func TestWitnessPage(t *testing.T) {
	f, srv, c := start(t)
	f.on = household("")
	for state, want := range map[string][]string{
		"off":       {"Off.", "Turn it on"},
		"on":        {"Watching 2 logs.", "0a1b2c3d", "http://croft.local:7467", "Confirmed with 12 entries", "Nothing confirmed yet", "Turn it off"},
		"split":     {"A log contradicts itself.", "the proof is kept"},
		"disk-full": {"Nothing is confirmed just now.", "The disk is full", "0a1b2c3d"},
		"clock":     {"Nothing is confirmed just now.", "what time it is"},
		"damaged":   {"Nothing is confirmed just now.", "Make a new key"},
		"medium":    {"Nothing is confirmed just now.", "disk"},
		"away":      {"does not answer"},
	} {
		doc := f.on["GET /config"].(api.Config)
		doc.Witness = api.WitnessConfig{}
		if state != "off" {
			doc.Witness = watching("").Config
		}
		f.on["GET /config"] = doc
		if f.box.Witness = watching(state); state == "away" {
			f.box.Witness = nil
		}
		resp, body := get(t, c, "GET", srv.URL+"/updates/witness", nil, signedIn...)
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", state, resp.Status)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: the page does not say %q", state, w)
			}
		}
		if (state == "off" || state == "damaged") && strings.Contains(body, "0a1b2c3d") {
			t.Errorf("%s: there is a key", state)
		}
	}
	for _, name := range api.WitnessProblems() {
		for _, c := range catalogues() {
			if c["witness-problem."+name] == "" {
				t.Errorf("%s: no sentence for %s", c["lang"], name)
			}
		}
	}
}

func TestWitnessForms(t *testing.T) {
	words := url.Values{"name": {"w"}, "logs": {"one\r\n two \r\n"}}
	for _, tt := range []struct {
		name, path     string
		form           url.Values
		core           string
		answer         any
		body           string
		status         int
		location, page string
	}{
		{
			"on", "/updates/witness", words, "PUT /config",
			api.ConfigResult{Differences: []api.Difference{{Path: "/witness"}}},
			`"witness":{"name":"w","logs":["one","two"]}`, 303, "/updates/witness?done=witness", "",
		},
		{"a wrong key", "/updates/witness", words, "PUT /config", problem(422, "invalid", field("/witness/logs/1", "format")), "", 422, "", `id="logs-problem"`},
		{"a wrong name", "/updates/witness", words, "PUT /config", problem(422, "invalid", field("/witness/name", "format")), "", 422, "", `id="name-problem"`},
		{
			"off", "/updates/witness/off",
			url.Values{},
			"PUT /config",
			api.ConfigResult{Differences: []api.Difference{{Path: "/witness"}}},
			`"people"`, 303, "/updates/witness?done=witness", "",
		},
		{"a new key", "/updates/witness/key", url.Values{}, "POST /witness/key", nil, "", 303, "/updates/witness?done=witness-key", ""},
		{"away", "/updates/witness/key", url.Values{}, "POST /witness/key", problem(503, "witness-away"), "", 503, "", "does not answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, srv, c := start(t)
			f.on = household("")
			f.box.Witness = watching("")
			f.on[tt.core] = tt.answer
			resp, body := get(t, c, "POST", srv.URL+tt.path, tt.form, signedIn...)
			if resp.StatusCode != tt.status || resp.Header.Get("Location") != tt.location || !strings.Contains(body, tt.page) {
				t.Errorf("%s to %q, with %q: %v", resp.Status, resp.Header.Get("Location"), tt.page, strings.Contains(body, tt.page))
			}
			_, path, _ := strings.Cut(tt.core, " ")
			r, got := f.last(path)
			if r == nil || !strings.Contains(got, tt.body) || tt.name == "off" && strings.Contains(got, "witness") {
				t.Errorf("core got %q, want %q", got, tt.body)
			}
		})
	}
}
