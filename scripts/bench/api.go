package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/core"
	"github.com/croft-os/croft/services/daemon"
)

// benchAPI reads the API of the real core through the real gateway over HTTPS, as the script of an owner would; PID 1, the
// network service and discovery are stand-ins that always say the same.
func benchAPI(ctx context.Context, o options) ([]row, error) {
	dir, err := os.MkdirTemp("", "croft-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, role := range []string{"neighbours", "core", "backend"} {
		if _, err := actor(ctx, role, dir, nil); err != nil {
			return nil, err
		}
	}
	base, _, err := startOurs(ctx, dir)
	if err != nil {
		return nil, err
	}
	base = strings.TrimSuffix(base, "/")
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	b := &box{base: base, client: &http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // on loopback, with a certificate made for this run
	}}}
	if err := b.own(ctx, benchCode); err != nil {
		return nil, err
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	cookie := "Cookie:"
	for _, c := range jar.Cookies(u) {
		cookie += " " + c.Name + "=" + c.Value
	}
	var rows []row
	for _, path := range []string{"/api/v1/box", "/api/v1/config"} {
		var rates, p99s []float64
		for range o.rounds {
			rate, p99, err := wrkWith(ctx, base+path, o.round, "-H", cookie)
			if err != nil {
				return nil, err
			}
			rates, p99s = append(rates, rate), append(p99s, p99)
		}
		rows = append(rows,
			row{
				Measure: "API, GET " + path, Unit: "requests/s", Ours: median(rates),
				Note: fmt.Sprintf("signed in, gateway and core, HTTPS, %d connections; medians of %d rounds of %v", h1Conns, o.rounds, o.round),
			},
			row{Measure: "API, GET " + path + ", p99", Unit: "ms", Ours: median(p99s), Note: "lower is better"})
	}
	return rows, nil
}

const benchCode = "7K3M-Q9XA"

// playNeighbours answers as PID 1, the network service and discovery do, always the same.
func playNeighbours(ctx context.Context, dir string) error {
	services := []api.Service{}
	for _, name := range []string{"network", "discovery", "core", "webui", "gateway"} {
		services = append(services, api.Service{Name: name, Title: name, State: api.StateRunning, Confined: &api.Confined{OK: true}})
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet:
			w.WriteHeader(http.StatusNoContent)
		case r.URL.Path == "/v1/claim":
			daemon.WriteJSON(w, http.StatusOK, api.Claim{Code: benchCode})
		case r.URL.Path == "/v1/system":
			daemon.WriteJSON(w, http.StatusOK, api.System{Name: "croft", Mode: api.ModeNormal, Services: services})
		case r.URL.Path == "/v1/vitals":
			daemon.WriteJSON(w, http.StatusOK, api.Vitals{CPUs: 1})
		case r.URL.Path == "/v1/network":
			daemon.WriteJSON(w, http.StatusOK, api.Network{Clock: api.Clock{Certainty: api.ClockSure}})
		case r.URL.Path == "/v1/discovery":
			daemon.WriteJSON(w, http.StatusOK, api.Discovery{Wanted: "croft", Name: "croft", State: "announced"})
		default:
			http.NotFound(w, r)
		}
	})
	done := make(chan error, 3)
	for _, name := range []string{"init", "network", "discovery"} {
		l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
		if err != nil {
			return err
		}
		go func() { done <- daemon.Serve(ctx, l, h) }()
	}
	return <-done
}

// playCore runs the real core.
func playCore(ctx context.Context, env *daemon.Env, dir string) error {
	env.Name, env.StateDir = "core", filepath.Join(dir, "core")
	if err := os.Mkdir(env.StateDir, 0o700); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "core.sock"))
	if err != nil {
		return err
	}
	env.Listeners["core"] = l
	me := uint32(os.Getuid())
	return core.Run(ctx, env, core.Config{GatewayUID: me, WebUIUID: me})
}

// own claims the box and sets it up.
func (b *box) own(ctx context.Context, code string) error {
	for _, step := range []struct {
		method, path string
		body         any
		want         int
	}{
		{http.MethodPost, "/claim", api.ClaimRequest{Code: code}, http.StatusCreated},
		{http.MethodPut, "/setup/name", api.NameRequest{Name: "croft"}, http.StatusOK},
		{http.MethodPost, "/setup/account", api.AccountRequest{Name: "Anna", Password: "a meadow behind the barn"}, http.StatusCreated},
		{http.MethodPut, "/setup/time-zone", api.ZoneRequest{TimeZone: "Europe/Berlin"}, http.StatusOK},
		{http.MethodPost, "/setup/done", nil, http.StatusOK},
	} {
		var body bytes.Buffer
		if step.body != nil {
			if err := json.NewEncoder(&body).Encode(step.body); err != nil {
				return err
			}
		}
		if _, err := b.do(ctx, step.method, "/api/v1"+step.path, body.Bytes(), step.want); err != nil {
			return err
		}
	}
	return nil
}
