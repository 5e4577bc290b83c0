package boot

import (
	"errors"
	"fmt"
	"strings"

	"github.com/croft-os/croft/hardware/efi"
	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/hardware/power"
	"github.com/croft-os/croft/updater/slots"
)

// newOneShot is the oneShot of a machine whose medium has such a table.
func newOneShot(t layout.Table) oneShot {
	if t == layout.MBR {
		return piOneShot{}
	}
	return uefiOneShot{efi.New(efi.Dir)}
}

// piOneShot is a Raspberry Pi's: what is to be tried stands in autoboot.txt for good, and the restart says that it is to be. So
// nothing can be pending, and none of it outlives a power cut.
type piOneShot struct{}

func (piOneShot) Set(layout.Slot) error         { return nil }
func (piOneShot) Pending() (layout.Slot, error) { return "", nil }
func (piOneShot) Settle() error                 { return nil }
func (piOneShot) Lacks() string                 { return "" }
func (piOneShot) Restart() error                { return power.RestartTry() }

// piTryboot is a number of 32 bits, big endian, which is 1 in a trial (the "autoboot.txt" chapter of Raspberry Pi's documentation).
const piTryboot = "/proc/device-tree/chosen/bootloader/tryboot"

// uefiOneShot is systemd-boot's.
type uefiOneShot struct{ vars efi.Vars }

func (o uefiOneShot) Set(s layout.Slot) error { return o.vars.SetOneShot(slots.EntryID(s)) }

func (o uefiOneShot) Pending() (layout.Slot, error) {
	entry, err := o.vars.OneShot()
	if errors.Is(err, efi.ErrNone) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	for _, s := range []layout.Slot{layout.SlotA, layout.SlotB} {
		if entry == slots.EntryID(s) {
			return s, nil
		}
	}
	return "", nil
}

func (o uefiOneShot) Settle() error {
	err := errors.Join(o.vars.ClearOneShot(), o.vars.ClearDefault())
	if errors.Is(err, efi.ErrNone) {
		return nil
	}
	return err
}

func (o uefiOneShot) Lacks() string {
	loader, err := o.vars.Loader()
	switch {
	case err != nil:
		return "a slot can't be started once: " + err.Error()
	case !strings.HasPrefix(loader, "systemd-boot"):
		return fmt.Sprintf("a slot can't be started once: systemd-boot did not start this, but %q", loader)
	}
	return ""
}

func (o uefiOneShot) Restart() error { return power.Restart() }
