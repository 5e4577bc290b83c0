package board

import (
	"fmt"

	"github.com/croft-os/croft/hardware/layout"
)

const (
	monogok     = "github.com/bradfitz/monogok" // its module carries systemd-boot
	loaderConf  = "loader/loader.conf"
	systemdBoot = "internal/systemdboot/systemd-boot%s.efi"
)

// LoaderConf is the content of loader.conf that starts a slot. It is one sector and as long for either slot, so that
// committing to a slot is one write in place.
func LoaderConf(slot layout.Slot) []byte {
	return fmt.Appendf(nil, "timeout 0\neditor no\ndefault croft-%s.conf\n", slot)
}

// uefiFirst lists what the EFI system partition holds for both slots. arch is systemd-boot's name of the
// architecture, "x64" or "aa64". There is no loader/random-seed and no boot counter, so the firmware never writes.
func uefiFirst(arch, efiName string) func(Modules) ([]File, error) {
	return func(mods Modules) ([]File, error) {
		boot, err := fromModule(mods, monogok, fmt.Sprintf(systemdBoot, arch), "EFI/BOOT/"+efiName)
		if err != nil {
			return nil, err
		}
		return append(forOwners(), File{Path: loaderConf, Data: LoaderConf(layout.SlotA)}, boot), nil
	}
}

// uefiBoot lists a slot's files on the EFI system partition.
func uefiBoot(kernel string) func(Modules, layout.Slot, string, string) ([]File, error) {
	return func(mods Modules, slot layout.Slot, version, cmdline string) ([]File, error) {
		k, err := fromModule(mods, kernel, "vmlinuz", "vmlinuz-"+string(slot))
		if err != nil {
			return nil, err
		}
		entry := fmt.Sprintf("title Croft %s (%s)\nsort-key croft\nversion %s\nlinux /%s\noptions %s\n",
			version, slot, version, k.Path, cmdline)
		return []File{k, {Path: CmdlineFile(layout.GPT, slot), Data: []byte(entry)}}, nil
	}
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
