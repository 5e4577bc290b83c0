package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/scripts/qemu"
)

// image returns the path of the PC image.
func (o options) image() (string, error) {
	img := filepath.Join(o.out, "croft-pc.img")
	if _, err := os.Stat(img); err != nil {
		return "", fmt.Errorf("%w; make image BOARD=pc builds it", err)
	}
	return filepath.Abs(img)
}

// benchSize looks at the compressed images.
func benchSize(_ context.Context, o options) ([]row, error) {
	var rows []row
	var errs error
	for _, b := range []struct {
		board  string
		budget float64
	}{{"pc", 60}, {"pi", 80}, {"vm-arm64", 0}} {
		fi, err := os.Stat(filepath.Join(o.out, "croft-"+b.board+".img.zst"))
		if err != nil {
			if b.budget != 0 {
				errs = errors.Join(errs, fmt.Errorf("%w; make image BOARD=%s builds it", err, b.board))
			}
			continue
		}
		rows = append(rows, row{Measure: "image " + b.board + ", compressed", Unit: "MB", Ours: float64(fi.Size()) / 1e6, Budget: b.budget})
	}
	return rows, errs
}

// The bare image is what gokrazy gives: its own PID 1, DHCP, NTP and heartbeat, and one program that answers on port
// 80. Both images start without firmware, with the same kernel and the same arguments but for where the root is.
func benchBoot(ctx context.Context, o options) ([]row, error) {
	img, err := o.image()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "croft-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ours, err := qemu.Direct(ctx, img, dir, layout.SlotA, "loglevel=6")
	if err != nil {
		return nil, err
	}
	bareImg := filepath.Join(dir, "bare.img")
	root, err := bareGokrazy(ctx, dir, bareImg)
	if err != nil {
		return nil, err
	}
	bare := &qemu.Kernel{Path: ours.Path, Cmdline: rootArg.ReplaceAllLiteralString(ours.Cmdline, root)}

	var first, later, peer []float64
	for n := range o.rounds {
		disk, err := qemu.Overlay(ctx, img, filepath.Join(dir, fmt.Sprintf("ours-%d.qcow2", n)), 4<<30)
		if err != nil {
			return nil, err
		}
		bareDisk, err := qemu.Overlay(ctx, bareImg, filepath.Join(dir, fmt.Sprintf("bare-%d.qcow2", n)), 0)
		if err != nil {
			return nil, err
		}
		type start struct {
			name   string
			kernel *qemu.Kernel
			disk   qemu.Disk
			took   *[]float64
		}
		// Right beside the start that the budget is about, before it and after it in turn.
		starts := []start{
			{"Croft, first start", ours, disk, &first}, {"bare gokrazy", bare, bareDisk, &peer}, {"Croft, later start", ours, disk, &later},
		}
		if n%2 == 1 {
			starts[1], starts[2] = starts[2], starts[1]
		}
		for _, b := range starts {
			took, err := bootToPage(ctx, o, b.kernel, b.disk)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", b.name, err)
			}
			fmt.Fprintf(o.log, "round %d: %s: page after %.2f s\n", n+1, b.name, took.Seconds())
			*b.took = append(*b.took, took.Seconds())
		}
	}
	how := fmt.Sprintf("against bare gokrazy, same kernel; medians of %d, the ratio's of each round's; %s", o.rounds, o.machine())
	return []row{
		{
			Measure: "kernel start to page", Unit: "s", Ours: median(later), Peer: median(peer), Value: ratios(later, peer), Budget: 1.3,
			Note: how,
		},
		{
			Measure: "kernel start to page, first start ever", Unit: "s", Ours: median(first), Peer: median(peer),
			Value: ratios(first, peer), Note: "makes keys and file systems",
		},
	}, nil
}

func (o options) machine() string {
	if o.kvm {
		return "KVM"
	}
	return "emulated"
}

var rootArg = regexp.MustCompile(`\broot=\S+`)

// bareGokrazy builds gokrazy's image at path and returns its root argument.
func bareGokrazy(ctx context.Context, dir, path string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "-json", "GOMOD", "GOMODCACHE", "GOCACHE", "GOPATH").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	var env map[string]string
	if err := json.Unmarshal(out, &env); err != nil {
		return "", err
	}
	// monogok looks for go.mod above its config.json, so that has to be inside the module for a moment.
	conf, err := os.MkdirTemp(filepath.Dir(env["GOMOD"]), ".croft-build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(conf)
	config := filepath.Join(conf, "config.json")
	if err := os.WriteFile(config, []byte(`{
		"Hostname": "bare",
		"Packages": ["github.com/croft-os/croft/scripts/bench/hello"],
		"KernelPackage": "github.com/gokrazy/kernel.amd64", "FirmwarePackage": "", "EEPROMPackage": "",
		"Update": {"NoPassword": true, "UseTLS": "off", "HTTPPort": "1080"}
	}`), 0o644); err != nil {
		return "", err
	}
	tool := filepath.Join(dir, "monogok")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", tool, "github.com/bradfitz/monogok/cmd/monogok").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building monogok: %w: %s", err, out)
	}
	cmd := exec.CommandContext(ctx, tool, "--config", config, "overwrite", "--full", path, "--target_storage_bytes", strconv.Itoa(1300<<20))
	cmd.Env = append(os.Environ(), "HOME="+dir, "GOARCH=amd64", "GOFLAGS=-mod=readonly",
		"GOMODCACHE="+env["GOMODCACHE"], "GOCACHE="+env["GOCACHE"], "GOPATH="+env["GOPATH"])
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building gokrazy's image: %w: %s", err, out)
	}
	// gokrazy's boot partition starts at sector 8192.
	mcopy := exec.CommandContext(ctx, "mcopy", "-n", "-i", path+"@@4194304", "::/cmdline.txt", "-")
	mcopy.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	cmdline, err := mcopy.Output()
	if err != nil {
		return "", fmt.Errorf("reading gokrazy's command line: %w", err)
	}
	root := rootArg.Find(cmdline)
	if root == nil {
		return "", fmt.Errorf("gokrazy's command line names no root: %q", cmdline)
	}
	return string(root), nil
}

var kernelLine = regexp.MustCompile(`^\[ *(\d+\.\d+)\] `)

// bootToPage returns the time from the kernel's start to the first byte of a page. When the kernel started follows from
// its console lines: each carries the time since then, and none can arrive before it was written.
func bootToPage(ctx context.Context, o options, k *qemu.Kernel, disk qemu.Disk) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var mu sync.Mutex
	var kernel time.Time
	vm, err := qemu.Start(ctx, qemu.Options{
		Board: qemu.PC, Kernel: k, Disks: []qemu.Disk{disk}, NICs: []qemu.NIC{{}}, KVM: o.kvm,
		Log: func(line string) {
			m := kernelLine.FindStringSubmatch(line)
			if m == nil {
				return
			}
			since, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				return
			}
			at := time.Now().Add(-time.Duration(since * float64(time.Second)))
			mu.Lock()
			defer mu.Unlock()
			if kernel.IsZero() || at.Before(kernel) {
				kernel = at
			}
		},
	})
	if err != nil {
		return 0, err
	}
	defer vm.Kill()
	at, err := firstByte(ctx, vm)
	if err != nil {
		return 0, fmt.Errorf("%w; the console ended with:\n%s", err, vm.Console.Tail(20))
	}
	// Let the first start finish, and write what it has to.
	if err := vm.Shutdown(ctx); err != nil {
		return 0, err
	}
	mu.Lock()
	defer mu.Unlock()
	if kernel.IsZero() {
		return 0, errors.New("the kernel printed nothing")
	}
	return at.Sub(kernel), nil
}

// firstByte asks for the page until it comes.
func firstByte(ctx context.Context, vm *qemu.VM) (time.Time, error) {
	port, err := vm.Port(ctx, "tcp", 80)
	if err != nil {
		return time.Time{}, err
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Second}
	for {
		res, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err == nil {
			at := time.Now()
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if err == nil && res.StatusCode == http.StatusOK {
				return at, nil
			}
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("no page came: %w", context.Cause(ctx))
		case <-vm.Done():
			return time.Time{}, errors.New("the machine ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// running starts the image twice, as a box does whose first start is behind it, and waits until it rests.
func runningBox(ctx context.Context, o options, dir string) (*qemu.VM, error) {
	img, err := o.image()
	if err != nil {
		return nil, err
	}
	k, err := qemu.Direct(ctx, img, dir, layout.SlotA)
	if err != nil {
		return nil, err
	}
	disk, err := qemu.Overlay(ctx, img, filepath.Join(dir, "disk.qcow2"), 4<<30)
	if err != nil {
		return nil, err
	}
	for again := range 2 {
		vm, err := qemu.Start(ctx, qemu.Options{
			Board: qemu.PC, Kernel: k, Disks: []qemu.Disk{disk}, NICs: []qemu.NIC{{}}, KVM: o.kvm, Memory: 512,
		})
		if err != nil {
			return nil, err
		}
		if _, err := firstByte(ctx, vm); err != nil {
			vm.Kill()
			return nil, fmt.Errorf("%w; the console ended with:\n%s", err, vm.Console.Tail(20))
		}
		if again == 1 {
			return vm, nil
		}
		if err := vm.Shutdown(ctx); err != nil {
			vm.Kill()
			return nil, err
		}
	}
	return nil, errors.New("unreachable")
}

// sleep waits, unless ctx or the machine ends first.
func sleep(ctx context.Context, vm *qemu.VM, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-vm.Done():
		return fmt.Errorf("the machine ended; the console ended with:\n%s", vm.Console.Tail(20))
	case <-time.After(d):
		return nil
	}
}

// claimCode reads the claim code from the console.
func claimCode(ctx context.Context, vm *qemu.VM) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	m, err := vm.Console.Wait(ctx, 0, qemu.ClaimRE)
	if err != nil {
		return "", fmt.Errorf("no claim code on the console: %w", err)
	}
	return strings.ToUpper(m[1]), nil
}
