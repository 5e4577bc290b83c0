package main

import (
	"strings"
	"testing"

	"github.com/croft-os/croft/services/api"
)

func TestNeeds(t *testing.T) {
	for _, tc := range []struct {
		name string
		box  api.Box
		want string // first lines of the text
	}{
		{"well", api.Box{Notices: []api.Notice{{Text: "New.", Weight: "info"}}}, "croft: all is well.\n\n"},
		{"crashing", api.Box{System: api.System{Services: []api.Service{
			{Title: "Web server", State: api.StateCrashing, LastExit: "exit status 1"}, {Title: "Pages", State: api.StateRunning},
		}}}, "croft: one thing needs you.\n  - Web server does not run (exit status 1).\n\n"},
		{"rescue", api.Box{
			System: api.System{Rescue: &api.Rescue{Text: "The disk is missing."}}, Alerts: []api.Alert{{Text: "It is hot.", Next: "Move it."}},
			Notices: []api.Notice{{Text: "Old state.", Weight: "warn"}},
		}, "croft: 3 things need you.\n  - It is in rescue mode. The disk is missing.\n  - It is hot. Move it.\n  - Old state.\n\n"},
	} {
		tc.box.System.Name = "croft"
		if got := statusText(tc.box, needs(tc.box)); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestWitnessLine looks for what the box does for others: nothing unless an owner wants it.
func TestWitnessLine(t *testing.T) {
	on := api.WitnessConfig{Name: "w.example"}
	for _, tc := range []struct {
		w    *api.Witness
		want string
	}{
		{nil, ""},
		{&api.Witness{}, ""},
		{&api.Witness{Config: on, Running: true, Logs: []api.WitnessLog{{Origin: "a"}}}, "w.example, logs of others: 1"},
		{&api.Witness{Config: on, Problem: "disk-full"}, "w.example, but cosigns nothing: disk-full"},
	} {
		got := statusText(api.Box{Witness: tc.w}, nil)
		if tc.want == "" && strings.Contains(got, "Witness") || !strings.Contains(got, tc.want) {
			t.Errorf("%+v: %s", tc.w, got)
		}
	}
}

func TestSpan(t *testing.T) {
	for ms, want := range map[int64]string{0: "a moment", 999: "a moment", 1000: "1 second", 119_000: "1 minute", 7_300_000: "2 hours", 90_000_000: "1 day"} {
		if got := span(ms); got != want {
			t.Errorf("%d ms: %s, want %s", ms, got, want)
		}
	}
}
