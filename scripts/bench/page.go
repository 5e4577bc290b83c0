package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/croft-os/croft/scripts/browser"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/webui"
)

// benchPage lets a browser on an emulated slow phone open the pages of the real gateway, web UI and core.
func benchPage(ctx context.Context, o options) ([]row, error) {
	dir, err := os.MkdirTemp("", "croft-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, role := range []string{"neighbours", "core", "webui"} {
		if _, err := actor(ctx, role, dir, nil); err != nil {
			return nil, err
		}
	}
	plain, _, _, err := startGateway(ctx, dir)
	if err != nil {
		return nil, err
	}
	port := strings.TrimSuffix(plain[strings.LastIndexByte(plain, ':'):], "/")
	gate, home, err := browser.Measure(ctx, browser.Options{
		Dir: filepath.Join("scripts", "browser"), URL: "http://127.0.0.1" + port, Code: benchCode, Output: o.log,
	})
	if err != nil {
		return nil, err
	}
	phone := "a sixth of this machine's speed, 400 kbit/s, 400 ms"
	var rows []row
	for _, p := range []struct {
		name string
		browser.Weight
	}{{"first page", gate}, {"start page", home}} {
		rows = append(rows,
			row{
				Measure: p.name + ", over the wire", Unit: "kB", Ours: float64(p.Bytes) / 1e3, Budget: 100,
				Note: fmt.Sprintf("%d requests, empty cache", p.Requests),
			},
			row{Measure: p.name + ", first paint on a slow phone", Unit: "s", Ours: p.Slow.FirstPaint / 1e3, Budget: 2, Note: phone})
	}
	return append(rows, row{Measure: "start page, live data on a slow phone", Unit: "s", Ours: home.Slow.Live / 1e3, Note: phone}), nil
}

// playWebUI runs the real web UI.
func playWebUI(ctx context.Context, env *daemon.Env, dir string) error {
	l, err := net.Listen("unix", filepath.Join(dir, "webui.sock"))
	if err != nil {
		return err
	}
	return webui.Run(ctx, webui.Config{Log: env.Log, Listener: l, API: env.Client("core"), Ready: env.Ready, Watch: env.Watch})
}
