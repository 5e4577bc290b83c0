package core

import (
	"net/http"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// TestWitness has an owner turn the witness on, look at it and give it a new key.
func TestWitness(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	ben := anna.joined(t, "Ben", api.RoleMember, "192.168.1.8")
	if a := anna.do(t, "GET", "/witness", nil); a.kind() != "witness-away" {
		t.Errorf("%d %s", a.StatusCode, a.kind())
	}
	if a := anna.do(t, "POST", "/witness/key", nil); a.kind() != "witness-away" {
		t.Errorf("%d %s", a.StatusCode, a.kind())
	}
	now := time.Now().UTC().Truncate(time.Second)
	b.set(func(f *fakes) { f.witness = &api.Witness{} })
	var got api.Witness
	if anna.must(t, "GET", "/witness", nil, &got); got.Config.On() || got.Logs == nil {
		t.Errorf("%+v", got)
	}

	var d api.Config
	tag := anna.must(t, "GET", "/config", nil, &d).Header.Get("ETag")
	d.Witness = api.WitnessConfig{Name: "w.example", Logs: []string{"example.org/log+123"}}
	if a := anna.with("If-Match", tag).do(t, "PUT", "/config", d); a.kind() != "invalid" || a.problem.Fields[0].Path != "/witness/logs/0" {
		t.Errorf("a key that is none: %d %+v", a.StatusCode, a.problem)
	}
	d.Witness.Logs[0] = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW" // the note package's example
	anna.with("If-Match", tag).must(t, "PUT", "/config", d, nil)
	if !b.did(`PUT witness/v1/config {"name":"w.example","logs":["PeterNeumann+`) {
		t.Error("the witness was not told")
	}
	b.set(func(f *fakes) {
		w := *f.witness
		w.Running, w.Key, w.Made, w.Port = true, "w.example+00000000+AAAA", &now, 7467
		w.Logs = []api.WitnessLog{{Origin: "PeterNeumann", Size: 3, At: &now}, {Origin: "b", Problem: "disk-full", Split: true}}
		f.witness = &w
	})
	if anna.must(t, "GET", "/witness", nil, &got); got.Key == "" || len(got.Logs) != 2 || got.Logs[0].Size != 3 {
		t.Errorf("%+v", got)
	}
	anna.must(t, "POST", "/witness/key", nil, nil)
	if !b.did("POST witness/v1/key") {
		t.Error("there is no new key")
	}
	var log api.List[api.AuditEntry]
	if anna.must(t, "GET", "/audit", nil, &log); log.Items[0].Action != "witness-key" || log.Items[0].Who != "Anna" {
		t.Errorf("%+v", log.Items[0])
	}

	// It is for owners, in the state of the box too.
	var box api.Box
	eventually(t, "the owner's box tells of it", func() bool { anna.must(t, "GET", "/box", nil, &box); return box.Witness != nil })
	box = api.Box{}
	if ben.must(t, "GET", "/box", nil, &box); box.Witness != nil {
		t.Errorf("the member's box has %+v", box.Witness)
	}
	if a := ben.do(t, "GET", "/witness", nil); a.StatusCode != http.StatusForbidden {
		t.Errorf("a member: %d", a.StatusCode)
	}
}
