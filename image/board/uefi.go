package board

import (
	"fmt"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/updater/slots"
)

const (
	monogok     = "github.com/bradfitz/monogok" // its module carries systemd-boot
	systemdBoot = "internal/systemdboot/systemd-boot%s.efi"
)

// uefiFirst lists what the EFI system partition holds for both slots: systemd-boot, and for each slot a kernel's file of room
// bytes and a blank loader entry, which slots are written into in place. arch is systemd-boot's name of the architecture, "x64"
// or "aa64". There is no loader/random-seed and no boot counter, so the firmware never writes.
func uefiFirst(arch, efiName string, room int64) func(Modules) ([]File, error) {
	return func(mods Modules) ([]File, error) {
		boot, err := fromModule(mods, monogok, fmt.Sprintf(systemdBoot, arch), "EFI/BOOT/"+efiName)
		if err != nil {
			return nil, err
		}
		files := append(forOwners(), File{Path: slots.CommitFile(layout.GPT), Data: slots.LoaderConf(layout.SlotB)}, boot)
		for _, slot := range []layout.Slot{layout.SlotA, layout.SlotB} {
			files = append(files,
				File{Path: slots.CmdlineFile(layout.GPT, slot), Data: slots.BlankEntry()},
				File{Path: slots.KernelFile(slot), Room: room})
		}
		return files, nil
	}
}

// uefiBoot is the kernel.
func uefiBoot(kernel string) func(Modules) ([]File, error) {
	return func(mods Modules) ([]File, error) {
		k, err := fromModule(mods, kernel, "vmlinuz", "vmlinuz")
		return []File{k}, err
	}
}

// uefiRescue is a kernel of its own, which no update writes to, and a loader entry. The loader takes it by itself only when there is
// no entry of a slot; otherwise by its menu, which a key that is pressed while the machine starts brings up. Volumes are packed in
// the order of names, and this one puts the kernel where the image's compression sees that slot A has the same (pack.Window).
func uefiRescue(boot []File, version, cmdline string) []File {
	k := File{Path: "rescue-vmlinuz", Data: boot[0].Data}
	entry := fmt.Sprintf("title Croft rescue system: installs a release anew, leaves your data alone\nsort-key croft-rescue\n"+
		"version %s\nlinux /%s\ninitrd /%s\noptions %s\n", version, k.Path, RescueFile, cmdline)
	return []File{k, {Path: "loader/entries/croft-rescue.conf", Data: []byte(entry)}}
}

func systemdBootComponent() Component {
	return Component{
		Name: "systemd-boot", Module: monogok, Version: "250.5", License: "LGPL-2.1-or-later",
		Supplier: "Organization: systemd project",
	}
}

func linux(module string) Component {
	return Component{Name: "linux", Module: module, License: "GPL-2.0-only", Supplier: "Organization: gokrazy authors"}
}
