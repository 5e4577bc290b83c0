package publish_test

import (
	"fmt"
	"math/rand/v2"
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

// part makes a system of n bytes that differs a little from that of another seed.
func part(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
		if i%4096 > 2048 {
			b[i] = 0
		}
	}
	r = rand.New(rand.NewPCG(seed, 2))
	for range 20 {
		b[r.IntN(n)] ^= 0x55
	}
	return b
}

func verify(t *testing.T, p *publishtest.Publisher) *publish.Verified {
	t.Helper()
	v, err := publish.Verify(t.Context(), publish.Folder(p.Dir()), publish.VerifyOptions{Fingerprint: p.Fingerprint(), Deep: true, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestReleases(t *testing.T) {
	p := publishtest.New(t, publishtest.Options{Beta: [2]int{1, 2}})
	for i := range int64(9) {
		p.AddRelease("pc", i+1, fmt.Sprintf("v1.%d.0", i), part(300_000, uint64(i)/3), part(6_000_000, uint64(i)))
	}
	v := verify(t, p)
	if len(v.Releases) != publish.Keep {
		t.Errorf("%d releases, want %d", len(v.Releases), publish.Keep)
	}
	last := v.Releases[len(v.Releases)-1].Release
	if last.Number != 9 || len(last.Root.Patches) != 6 {
		t.Errorf("%d has %d patches", last.Number, len(last.Root.Patches))
	}
	t.Logf("%d frames, %d patches, %d unproven", v.Frames, v.Patches, v.Unproven)
}
