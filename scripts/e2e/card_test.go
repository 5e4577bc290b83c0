package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/faults"
	"github.com/croft-os/croft/scripts/qemu"
	"github.com/croft-os/croft/services/api"
)

const (
	cardCuts   = 100 // crash images of each test below that are checked
	cardBooted = 2   // of them, and booted
	baked      = `{"format":"croft-settings/1","name":"Attic","time_zone":"Europe/Berlin","claim_code":"abcd-efgh",` +
		`"wifi":{"ssid":"home","password":"wifi-secret"},"mesh_key":"mesh-secret"}`
)

// first is the volume with the owner's files.
type first struct{ *faults.Disk }

func (f first) ReadAt(p []byte, off int64) (int, error) {
	return f.Disk.ReadAt(p, off+layout.UEFI().Partition(layout.UEFI().First).Start)
}

func (f first) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.Write(p, off+layout.UEFI().Partition(layout.UEFI().First).Start, false)
}

// settings returns the settings file of a disk.
func settings(d *faults.Disk) (string, error) {
	b, err := fat.ReadFile(first{d}, "croft.json", 64<<10)
	return string(b), err
}

// mended replays the journal of the data partition, as the box and the kernel do, and lets e2fsck judge it.
func (c *cut) mended(ctx context.Context) error {
	if _, err := disk.Recover(c.data); err != nil {
		return err
	}
	if out, err := run(ctx, "e2fsck", "-p", c.data); err != nil && !strings.Contains(err.Error(), "exit status 1\n") {
		return fmt.Errorf("%w%s", err, out)
	}
	_, err := run(ctx, "e2fsck", "-fn", c.data)
	return err
}

// file returns a file of the data partition, "" without it.
func (c *cut) file(ctx context.Context, name string) (string, error) {
	path := filepath.Join(c.dir, "file")
	if err := os.RemoveAll(path); err != nil {
		return "", err
	}
	if _, err := run(ctx, "debugfs", "-R", "dump "+name+" "+path, c.data); err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// crashes checks disks that power cuts behind event from could have left, seeded, and boots some.
func crashes(t *testing.T, base *faults.Disk, events []faults.Event, from int, check func(*cut) error, boot func(*box)) {
	t.Helper()
	const seed = 20261121
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range uint64(cardCuts) {
		at := from + rng.IntN(len(events)+1-from)
		d, err := faults.Crash(rand.New(rand.NewPCG(seed, i)), base, events, at)
		if err != nil {
			t.Fatal(err)
		}
		c := &cut{disk: d, dir: t.TempDir()}
		err = c.load(t.Context())
		if err == nil {
			err = check(c)
		}
		if err != nil {
			t.Errorf("power cut %d, after event %d of %d: %v", i, at, len(events), err)
		}
		os.RemoveAll(c.dir)
		if i%(cardCuts/cardBooted) == 0 {
			b := start(t, memoryOptions(t, d))
			b.waitPage()
			boot(b)
			b.vm.Kill()
		}
	}
}

// TestSettingsOnTheCard starts a box from a card with settings: it is what they say, and no secret is left on the card.
// A power cut leaves the secrets on the card, or taken over.
func TestSettingsOnTheCard(t *testing.T) {
	t.Parallel()
	base, err := faults.LoadDisk(image(t, qemu.PC), diskSize)
	if err != nil {
		t.Fatal(err)
	}
	file, err := fat.Find(first{base}, "croft.json")
	if err != nil {
		t.Fatal(err)
	}
	content := baked + strings.Repeat(" ", int(file.Size)-len(baked))
	if err := fat.Overwrite(first{base}, file, []byte(content)); err != nil {
		t.Fatal(err)
	}
	taken := func(c *cut) error {
		for name, want := range map[string]string{
			"/croft.json": `"claim": "ABCD-EFGH"`, "/secrets/mesh-key": "mesh-secret", "/state/network/wifi.json": "wifi-secret",
		} {
			if got, err := c.file(t.Context(), name); err != nil || !strings.Contains(got, want) {
				return fmt.Errorf("%s: %q, %w", name, got, err)
			}
		}
		return nil
	}
	rec := &faults.Recorder{Device: base.Fork()}
	b := start(t, memoryOptions(t, rec))
	itself := func(b *box) {
		t.Helper()
		b.signIn("ABCD-EFGH")
		b.waitState("the box goes by its name", time.Minute, func(s api.Box) error {
			if s.System.Name != "attic" || s.Discovery == nil || s.Discovery.Name != "attic" {
				return fmt.Errorf("the box is %q, discovery says %+v", s.System.Name, s.Discovery)
			}
			return healthy(s)
		})
	}
	b.waitPage()
	itself(b)
	b.off()
	events := rec.Events()
	end, err := faults.Replay(base, events, len(events))
	if err != nil {
		t.Fatal(err)
	}
	crashes(t, base, events, 0, func(c *cut) error {
		now, err := settings(c.disk)
		if err != nil || now == content {
			return err
		}
		if err := c.mended(t.Context()); err != nil {
			return err
		}
		return taken(c)
	}, itself)
	c := &cut{disk: end, dir: t.TempDir()}
	if err := errors.Join(c.load(t.Context()), c.loadESP(), c.mended(t.Context()), taken(c)); err != nil {
		t.Error(err)
	}
	esp, err := os.ReadFile(c.esp)
	if err != nil || bytes.Contains(esp, []byte("mesh-secret")) || bytes.Contains(esp, []byte("wifi-secret")) {
		t.Errorf("a secret is left on the card: %v", err)
	}
	if now, err := settings(end); err != nil || !json.Valid([]byte(now)) || len(now) != len(content) {
		t.Errorf("left: %q, %v", now, err)
	}
}

// owned gives a new box a name and an owner, and returns its id.
func (b *box) owned() (id string) {
	b.t.Helper()
	s := b.up()
	b.api("PUT", "/setup/name", api.NameRequest{Name: "attic"}, nil, 200)
	b.api("POST", "/setup/account", api.AccountRequest{Name: owner, Password: password}, nil, 201)
	return s.System.ID
}

// TestStartOver starts a box over that has an owner: it becomes another one, without one. A power cut leaves a box that
// goes on with that.
func TestStartOver(t *testing.T) {
	t.Parallel()
	base, err := faults.LoadDisk(image(t, qemu.PC), diskSize)
	if err != nil {
		t.Fatal(err)
	}
	rec := &faults.Recorder{Device: base.Fork()}
	b := start(t, memoryOptions(t, rec))
	id, code := b.owned(), b.code()
	b.api("POST", "/start-over", api.StartOverRequest{Confirm: "erase", Password: password}, nil, 422)
	mark := b.vm.Console.Mark()
	b.api("POST", "/start-over", api.StartOverRequest{Confirm: api.StartOverWord, Password: password}, nil, 202)
	asked := len(rec.Events())
	another := func(b *box) {
		t.Helper()
		b.newClient()
		s := b.up()
		if s.System.ID == id || s.System.ID == "" || b.code() == code || s.System.Name != "croft" {
			t.Errorf("box %s called %q with code %s, was %s with %s", s.System.ID, s.System.Name, b.code(), id, code)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), pageTime)
	defer cancel()
	if _, err := b.vm.Console.Wait(ctx, mark, regexp.MustCompile("claim code")); err != nil {
		t.Fatal(err)
	}
	b.mark = mark
	another(b)
	b.off()
	crashes(t, base, rec.Events(), asked, func(c *cut) error {
		if err := disk.Finished(c.data); errors.Is(err, disk.ErrUnfinished) {
			return nil
		}
		if err := c.mended(t.Context()); err != nil {
			return err
		}
		js, err := c.file(t.Context(), "/croft.json")
		if err != nil || js == "" { // not started yet
			return err
		}
		var m struct {
			ID    string
			Erase bool
		}
		if err := json.Unmarshal([]byte(js), &m); err != nil {
			return err
		}
		if m.ID == id && !m.Erase {
			return errors.New("nobody remembers that the box was to start over")
		}
		return nil
	}, another)
}

// TestLostPassword switches a box on and off three times; the code that it then shows makes a new password, once.
func TestLostPassword(t *testing.T) {
	t.Parallel()
	settle(t)
	d, err := faults.LoadDisk(settled.disk, 0)
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`recovery code ([0-9A-Z]{4}-[0-9A-Z]{4})`)
	for range 3 {
		b := start(t, memoryOptions(t, d))
		ctx, cancel := context.WithTimeout(t.Context(), pageTime)
		_, err := b.vm.Console.Wait(ctx, 0, regexp.MustCompile(`^\s*Running: `))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		b.vm.Kill()
		<-b.vm.Done()
	}
	b := start(t, memoryOptions(t, d))
	b.waitPage()
	m, err := b.vm.Console.Wait(t.Context(), 0, shown)
	if err != nil {
		t.Fatal(err)
	}
	const fresh = "another good password"
	again := api.RecoverRequest{Code: m[1], Name: owner, Password: fresh}
	wrong := again
	wrong.Code = "0000-0000"
	b.api("POST", "/recover", wrong, nil, 403)
	b.api("POST", "/recover", again, nil, 201)
	b.newClient()
	b.trust()
	b.api("POST", "/session", api.SessionRequest{Name: owner, Password: password}, nil, 403)
	b.api("POST", "/session", api.SessionRequest{Name: owner, Password: fresh}, nil, 201)
	b.newClient()
	b.trust()
	if status, body, err := b.do(t.Context(), "POST", boxURL+"/api/v1/recover", again); err != nil || status < 400 {
		t.Errorf("the code is good again: %d %s, %v", status, body, err)
	}
	b.off()
}
