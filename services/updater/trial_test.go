package updater

import (
	"testing"

	"github.com/croft-os/croft/services/api"
)

// Who counts in a trial: what was healthy before, or is critical where nobody knows that; never what the box does for others.
func TestServicesWell(t *testing.T) {
	running := func(name string) api.Service { return api.Service{Name: name, State: api.StateRunning} }
	crashing := func(s api.Service) api.Service { s.State = api.StateCrashing; return s }
	forOthers := func(s api.Service) api.Service { s.ForOthers = true; return s }
	core, fetcher, witness := running("core"), running("fetcher"), forOthers(running("witness"))
	core.Critical = true
	for name, tc := range map[string]struct {
		now    []api.Service
		before []string
		well   bool
	}{
		"all run":                          {[]api.Service{core, fetcher, witness}, []string{"core", "fetcher", "witness"}, true},
		"one that ran does not":            {[]api.Service{core, crashing(fetcher), witness}, []string{"core", "fetcher"}, false},
		"one that did not run does not":    {[]api.Service{core, crashing(fetcher), witness}, []string{"core"}, true},
		"nobody knows what ran":            {[]api.Service{core, crashing(fetcher), witness}, nil, true},
		"nobody knows; a critical one":     {[]api.Service{crashing(core), fetcher, witness}, nil, false},
		"what is for others":               {[]api.Service{core, fetcher, crashing(witness)}, []string{"core", "fetcher"}, true},
		"what is for others, which ran":    {[]api.Service{core, fetcher, crashing(witness)}, []string{"core", "fetcher", "witness"}, true},
		"what is for others was restarted": {[]api.Service{core, fetcher, {Name: "witness", State: api.StateRunning, Restarts: 3, ForOthers: true}}, []string{"core", "witness"}, true},
	} {
		if bad := servicesWell(tc.now, tc.before, map[string]int{"core": 0, "fetcher": 0, "witness": 0}); (bad == nil) != tc.well {
			t.Errorf("%s: %+v", name, bad)
		}
	}
}
