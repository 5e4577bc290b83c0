package core

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// TestHold: what a restart must not cut off is told to the updater while it lasts, and that it is over.
func TestHold(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	b.set(func(f *fakes) { f.updates = offered() })
	// leases are the times that the updater was told of somebody, in milliseconds.
	leases := func(who string) []int64 {
		var all []int64
		b.set(func(f *fakes) {
			for _, a := range f.acted {
				var ms int64
				if _, err := fmt.Sscanf(a, `POST updater/v1/busy {"who":"`+who+`","for_ms":%d}`, &ms); err == nil {
					all = append(all, ms)
				}
			}
		})
		return all
	}
	over := func(who string) bool { l := leases(who); return len(l) > 0 && l[len(l)-1] == 0 }
	lasts := func(who string, least, most time.Duration) {
		t.Helper()
		l := leases(who)
		if len(l) == 0 || l[len(l)-1] < least.Milliseconds() || l[len(l)-1] > most.Milliseconds() {
			t.Errorf("%s: %v", who, l)
		}
	}

	// An upload, until its last byte.
	body, pipe := io.Pipe()
	req, err := http.NewRequest("PUT", "http://croft.local/api/v1/updates/file?name=x.zip", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/zip")
	req.Header.Set("Cookie", anna.cookie)
	req.Header.Set("X-Forwarded-For", anna.place)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := b.raw.Do(req); err != nil {
			t.Error(err)
		} else {
			resp.Body.Close()
		}
	}()
	io.WriteString(pipe, "PK")
	eventually(t, "the file arrives", func() (yes bool) { b.set(func(f *fakes) { yes = f.arriving }); return yes })
	lasts("upload", holdFor, holdFor)
	pipe.Close()
	<-done
	if !over("upload") {
		t.Errorf("after the upload: %v", leases("upload"))
	}

	// A bundle, while it is made.
	waits, goOn := make(chan struct{}, 100), make(chan struct{})
	b.set(func(f *fakes) {
		f.logs = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			waits <- struct{}{}
			<-goOn
			w.Write([]byte(`{"items":[]}`))
		})
	})
	done = make(chan struct{})
	go func() {
		defer close(done)
		anna.do(t, "GET", "/diagnosis", nil)
	}()
	<-waits
	lasts("diagnosis", holdFor, holdFor)
	close(goOn)
	<-done
	if !over("diagnosis") {
		t.Errorf("after the bundle: %v", leases("diagnosis"))
	}

	// A change of the network, until it is kept or taken back; if nobody does either, the lease ends by itself.
	try := func() {
		t.Helper()
		var d api.Config
		tag := anna.must(t, "GET", "/config", nil, &d).Header.Get("ETag")
		d.Network.Interfaces = map[string]api.StaticConfig{"eth0": {Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.1.2/24")}}}
		var r api.ConfigResult
		anna.with("If-Match", tag).must(t, "PUT", "/config", d, &r)
		if r.Trial == nil {
			t.Fatalf("%+v", r)
		}
		lasts("network-trial", api.TrialTime/2, api.TrialTime+holdSpare)
	}
	try()
	anna.must(t, "POST", "/network/revert", nil, nil)
	if !over("network-trial") {
		t.Errorf("taken back: %v", leases("network-trial"))
	}
	try()
	anna.must(t, "POST", "/network/keep", nil, nil)
	if !over("network-trial") {
		t.Errorf("kept: %v", leases("network-trial"))
	}
	// Another change of the configuration needs none.
	n := len(leases("network-trial"))
	var d api.Config
	tag := anna.must(t, "GET", "/config", nil, &d).Header.Get("ETag")
	d.TimeZone = "Europe/Lisbon"
	anna.with("If-Match", tag).must(t, "PUT", "/config", d, nil)
	if l := leases("network-trial"); len(l) != n {
		t.Errorf("without a trial: %v", l)
	}
}

// TestHoldRescue: work on the data partition holds restarts off until it ends.
func TestHoldRescue(t *testing.T) {
	b := start(t)
	b.set(func(f *fakes) {
		f.updates = offered()
		f.system.Mode, f.system.Rescue = api.ModeRescue, &api.Rescue{Code: "no-marker"}
	})
	u := b.stranger()
	eventually(t, "rescue mode", func() bool {
		var v api.Setup
		u.must(t, "GET", "/setup", nil, &v)
		return v.Step == api.StepRescue
	})
	u.must(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}, nil)
	u.must(t, "POST", "/rescue", api.RescueRequest{Action: "check"}, nil)
	told := func(ms string) bool { return b.did(`POST updater/v1/busy {"who":"rescue","for_ms":` + ms + `}`) }
	eventually(t, "restarts are held off", func() bool { return told("60000") })
	time.Sleep(pollEvery + pollEvery/2)
	if told("0") {
		t.Error("no longer, while the check runs")
	}
	b.set(func(f *fakes) {
		s := *f.system
		s.Rescue = &api.Rescue{Code: "no-marker"}
		f.system = &s
	})
	eventually(t, "the check is over", func() bool { return told("0") })
}
