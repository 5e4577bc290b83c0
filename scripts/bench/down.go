package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/croft-os/croft/scripts/qemu"
)

// benchDown restarts a box, through firmware and boot loader as an update does, and looks how long no page answers.
func benchDown(ctx context.Context, o options) ([]row, error) {
	img, err := o.image()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "croft-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "disk.img")
	if err := qemu.Steadied(ctx, img, disk); err != nil {
		return nil, err
	}
	if err := os.Truncate(disk, 4<<30); err != nil {
		return nil, err
	}
	vm, err := qemu.Start(ctx, qemu.Options{
		Board: qemu.PC, Disks: []qemu.Disk{{Path: disk}}, NICs: []qemu.NIC{{}}, Vars: filepath.Join(dir, "vars.fd"), KVM: o.kvm, Memory: 512,
	})
	if err != nil {
		return nil, err
	}
	defer vm.Kill()
	if _, err := firstByte(ctx, vm); err != nil {
		return nil, fmt.Errorf("%w; the console ended with:\n%s", err, vm.Console.Tail(20))
	}
	b, err := setUp(ctx, vm)
	if err != nil {
		return nil, err
	}
	var down []float64
	for n := range o.rounds {
		// The first start goes on with its work for a while after the page has come.
		if err := sleep(ctx, vm, 15*time.Second); err != nil {
			return nil, err
		}
		if _, err := b.do(ctx, http.MethodPost, "/api/v1/power", []byte(`{"action":"reboot"}`), http.StatusAccepted); err != nil {
			return nil, err
		}
		last, err := lastByte(ctx, vm)
		if err != nil {
			return nil, err
		}
		again, err := firstByte(ctx, vm)
		if err != nil {
			return nil, fmt.Errorf("%w; the console ended with:\n%s", err, vm.Console.Tail(20))
		}
		took := again.Sub(last).Seconds()
		fmt.Fprintf(o.log, "restart %d: no page for %.1f s\n", n+1, took)
		down = append(down, took)
	}
	return []row{{
		Measure: "no page across a restart", Unit: "s", Ours: median(down),
		Note: fmt.Sprintf("median of %d, with UEFI firmware and boot loader, as when an update begins its trial; %s", o.rounds, o.machine()),
	}}, nil
}

// lastByte asks for the page until it does not come, and says when it came last.
func lastByte(ctx context.Context, vm *qemu.VM) (time.Time, error) {
	for last := time.Now(); ; {
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		at, err := firstByte(once, vm)
		cancel()
		switch {
		case ctx.Err() != nil:
			return last, ctx.Err()
		case err != nil:
			return last, nil
		}
		last = at
		if err := sleep(ctx, vm, 100*time.Millisecond); err != nil {
			return last, err
		}
	}
}
