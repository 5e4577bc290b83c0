package webui

import (
	"testing"
	"time"
	_ "time/tzdata"
)

func TestZones(t *testing.T) {
	for current, want := range map[string]string{"Europe/Berlin": "Europe/Berlin", "Asia/Calcutta": "Asia/Calcutta", "": "UTC"} {
		n, on := 0, ""
		for _, g := range german().zones(current) {
			for _, o := range g.Options {
				n++
				if o.On {
					on += o.Value
				}
				if _, err := time.LoadLocation(o.Value); err != nil {
					t.Error(err)
				}
			}
		}
		if n < 400 || on != want {
			t.Errorf("%q: %d zones, chosen: %q", current, n, on)
		}
	}
}
