package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
)

const (
	owner    = "Anna"
	password = "a meadow behind the barn"
	bootTime = 4 * time.Minute
	takeTime = 15 * time.Minute
)

// box is a machine with a Croft, and its owner's phone.
type box struct {
	name  string
	ctx   context.Context
	vm    *qemu.VM
	phone *http.Client
}

// box starts a machine from a copy of the image. Its page is forwarded by interface nic.
func (d *demo) box(name string, nic int, nics []qemu.NIC) (*box, error) {
	disk := filepath.Join(d.dir, name+".img")
	if err := qemu.Steadied(d.ctx, filepath.Join(d.dir, "croft-pc.img"), disk); err != nil {
		return nil, fmt.Errorf("copy the image: %w", err)
	}
	if err := os.Truncate(disk, 2<<30); err != nil {
		return nil, err
	}
	vm, err := qemu.Start(d.ctx, qemu.Options{
		Board: qemu.PC, CPUs: 1, Disks: []qemu.Disk{{Path: disk}}, NICs: nics, Vars: filepath.Join(d.dir, name+"-vars.fd"), Watchdog: true,
	})
	if err != nil {
		return nil, err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	b := &box{name: name, ctx: d.ctx, vm: vm}
	b.phone = &http.Client{Jar: jar, Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			port, err := vm.PortOf(ctx, nic, "tcp", 80)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		},
	}}
	return b, nil
}

// ask asks the box's API and decodes the answer into out, if there is one to decode into.
func (b *box) ask(method, path string, in, out any, header ...string) (etag string, err error) {
	var body io.Reader
	if in != nil {
		js, err := json.Marshal(in)
		if err != nil {
			return "", err
		}
		body = bytes.NewReader(js)
	}
	req, err := http.NewRequestWithContext(b.ctx, method, "http://croft.home.arpa/api/v1"+path, body)
	if err != nil {
		return "", err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := b.phone.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return "", err
	}
	if res.StatusCode >= 300 {
		return "", fmt.Errorf("box %s: %s %s: %s: %s", b.name, method, path, res.Status, text)
	}
	if out != nil {
		err = json.Unmarshal(text, out)
	}
	return res.Header.Get("ETag"), err
}

// until repeats f until it succeeds.
func (b *box) until(limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil || b.ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-b.vm.Done():
			return fmt.Errorf("box %s: the machine ended: %w", b.name, b.vm.Wait(b.ctx))
		case <-b.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// setUp claims the box with the code on its screen and makes an owner.
func (b *box) setUp() error {
	ctx, cancel := context.WithTimeout(b.ctx, bootTime)
	defer cancel()
	found, err := b.vm.Console.Wait(ctx, 0, qemu.ClaimRE)
	if err != nil {
		return fmt.Errorf("box %s: no claim code: %w", b.name, err)
	}
	if err := b.until(bootTime, func() error {
		_, err := b.ask("POST", "/claim", api.ClaimRequest{Code: found[1]}, nil)
		return err
	}); err != nil {
		return err
	}
	for _, s := range []struct {
		method, path string
		in           any
	}{
		{"PUT", "/setup/name", api.NameRequest{Name: "box-" + b.name}},
		{"POST", "/setup/account", api.AccountRequest{Name: owner, Password: password}},
		{"PUT", "/setup/time-zone", api.ZoneRequest{TimeZone: "Europe/Berlin"}},
		{"POST", "/setup/done", nil},
	} {
		if _, err := b.ask(s.method, s.path, s.in, nil); err != nil {
			return err
		}
	}
	fmt.Printf("Box %s is set up: box-%s.local\n", b.name, b.name)
	return nil
}

// follow has the box take updates of the publisher with that first root when its owner says so.
func (b *box) follow(root []byte, mirrors ...string) error {
	var c api.Config
	etag, err := b.ask("GET", "/config", nil, &c)
	if err != nil {
		return err
	}
	c.Updates = api.UpdatePolicy{Mode: "ask", Mirrors: mirrors}
	if _, err := b.ask("PUT", "/config", c, nil, "If-Match", etag); err != nil {
		return err
	}
	sum := sha256.Sum256(root)
	_, err = b.ask("PUT", "/updates/trust", api.TrustRequest{
		Password: password, Role: "project", Action: "set", Name: "Demonstration", Fingerprint: hex.EncodeToString(sum[:]), Root: string(root),
	}, nil)
	return err
}

// take has the box take a release, and fails unless it ends so.
func (b *box) take(number int64, outcome, source string) error {
	var u api.Updates
	if err := b.until(3*time.Minute, func() error {
		if _, err := b.ask("POST", "/updates/action", api.UpdateAction{Action: "check"}, nil); err != nil {
			return err
		}
		if _, err := b.ask("GET", "/updates", nil, &u); err != nil {
			return err
		}
		if u.Offer == nil || u.Offer.Number != number {
			return fmt.Errorf("box %s is offered %+v; problem %+v", b.name, u.Offer, u.Problem)
		}
		return nil
	}); err != nil {
		return err
	}
	o := u.Offer
	fmt.Printf("Offered: %s, %.1f MB, signed by %d of %d, logged: %v, seen by %d witnesses, from %s\n", o.Version, float64(o.Download)/1e6,
		o.Evidence.Signers, o.Evidence.Of, o.Evidence.Logged, o.Evidence.Witnesses, o.Source)
	if _, err := b.ask("POST", "/updates/action", api.UpdateAction{Action: "install", Number: number}, nil); err != nil {
		return err
	}
	var state string
	err := b.until(takeTime, func() error {
		u = api.Updates{}
		if _, err := b.ask("GET", "/updates", nil, &u); err != nil {
			return err // it restarts
		}
		if u.State != state {
			state = u.State
			fmt.Printf("  %s  %s\n", time.Now().Format(time.TimeOnly), state)
		}
		if u.State == api.UpdateReady {
			_, err := b.ask("POST", "/updates/action", api.UpdateAction{Action: "restart"}, nil)
			return err
		}
		if u.Last == nil || u.Last.Number != number || u.Last.Ended == nil {
			return fmt.Errorf("box %s: state %s, last attempt %+v", b.name, u.State, u.Last)
		}
		return nil
	})
	if err != nil {
		return err
	}
	a := u.Last
	fmt.Printf("Box %s: %s. It runs %s; cause %q; %.1f s without a page.\n", b.name, a.Outcome, u.Version, a.Cause, float64(a.DownMS)/1e3)
	if a.Outcome != outcome || a.Source != source {
		return fmt.Errorf("box %s: the attempt ended as %q from %q, not %q from %q: %+v", b.name, a.Outcome, a.Source, outcome, source, *a)
	}
	return nil
}
