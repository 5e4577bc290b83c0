package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"time"

	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
)

// settle is how long a box gets after its page has come until it counts as idle.
const settle = 2 * time.Minute

// benchIdle lets a box rest that has been started before, and looks at its memory and at what it writes.
func benchIdle(ctx context.Context, o options) ([]row, error) {
	dir, err := os.MkdirTemp("", "croft-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	vm, err := runningBox(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	defer vm.Kill()
	b, err := setUp(ctx, vm)
	if err != nil {
		return nil, err
	}
	if err := sleep(ctx, vm, settle); err != nil {
		return nil, err
	}
	before, flushesBefore, err := vm.Written(ctx, 0)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := sleep(ctx, vm, o.idle); err != nil {
		return nil, err
	}
	after, flushesAfter, err := vm.Written(ctx, 0)
	if err != nil {
		return nil, err
	}
	hours := time.Since(start).Hours()
	if before == 0 {
		return nil, fmt.Errorf("QEMU counts no writes at all, not even those of the start")
	}
	s, err := b.state(ctx)
	if err != nil {
		return nil, err
	}
	for _, svc := range s.System.Services {
		fmt.Fprintf(o.log, "%s: %s, %.1f MB\n", svc.Name, svc.State, float64(svc.Memory)/1e6)
		if svc.State != api.StateRunning {
			return nil, fmt.Errorf("service %s is %s: %s", svc.Name, svc.State, svc.LastExit)
		}
	}
	if s.System.Vitals.PSS == 0 {
		return nil, fmt.Errorf("the box does not tell its memory: %+v", s.System.Vitals)
	}
	return []row{
		{
			Measure: "memory of all processes, idle", Unit: "MB PSS", Ours: float64(s.System.Vitals.PSS) / 1e6, Budget: 80,
			Note: "as the box tells it; pc image, set up, nobody looking, no mesh",
		},
		{
			Measure: "written to the medium while idle", Unit: "MB/hour", Ours: float64(after-before) / 1e6 / hours, Budget: 10.0 / 24,
			Note: fmt.Sprintf("extrapolated from %d bytes, %d flushes in %v (before: %.1f MB), so without what is rarer; the budget is 10 MB a day",
				after-before, flushesAfter-flushesBefore, o.idle, float64(before)/1e6),
		},
	}, nil
}

// box is a signed-in client of a running box.
type box struct {
	client *http.Client
	base   string
}

// setUp claims the box with the code on its console and sets it up.
func setUp(ctx context.Context, vm *qemu.VM) (*box, error) {
	port, err := vm.Port(ctx, "tcp", 80)
	if err != nil {
		return nil, err
	}
	code, err := claimCode(ctx, vm)
	if err != nil {
		return nil, err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	b := &box{
		client: &http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
		base:   fmt.Sprintf("http://127.0.0.1:%d", port),
	}
	return b, b.own(ctx, code)
}

func (b *box) state(ctx context.Context) (s api.Box, err error) {
	answer, err := b.do(ctx, http.MethodGet, "/api/v1/box", nil, http.StatusOK)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(answer, &s)
}

func (b *box) do(ctx context.Context, method, path string, body []byte, want int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err == nil && res.StatusCode != want {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, answer)
	}
	return answer, err
}
