package publish_test

import (
	"testing"
	"time"

	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/trust"
)

// client follows a publisher from its first root on.
func client(t *testing.T, p *publishtest.Publisher) *trust.Client {
	t.Helper()
	c, err := trust.Create(t.TempDir(), trust.Options{Root: p.Root(), NeedLog: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func refresh(t *testing.T, c *trust.Client, p *publishtest.Publisher) trust.Status {
	t.Helper()
	s, err := c.Refresh(t.Context(), publish.Folder(p.Dir()), trust.Clock{Now: time.Now(), Sure: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPublisher(t *testing.T) {
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 2}})
	c := client(t, p)
	s := refresh(t, c, p)
	if s.Versions != (trust.Versions{Root: 1, Timestamp: 1, Snapshot: 1, Targets: 1, Beta: 1}) {
		t.Errorf("%+v", s.Versions)
	}
	if e := s.Evidence["targets"]; e.Signers != 3 || e.Of != 5 || e.Witnesses != 3 || !e.Logged {
		t.Errorf("%+v", e)
	}
	p.Refresh()
	if s = refresh(t, c, p); s.Versions.Timestamp != 2 || s.Versions.Snapshot != 1 {
		t.Errorf("%+v", s.Versions)
	}
	p.Rotate()
	if s = refresh(t, c, p); s.Versions.Root != 2 {
		t.Errorf("%+v", s.Versions)
	}
}
