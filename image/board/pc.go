package board

import "github.com/croft-os/croft/hardware/layout"

func init() { families = append(families, pc) }

// pc is any x86-64 machine with UEFI. "gpt" lets the kernel take the backup table when the primary is damaged.
func pc() Board {
	const kernel = "github.com/gokrazy/kernel.amd64"
	return Board{
		ID:         "pc",
		Title:      "PC (x86-64, UEFI)",
		GOARCH:     "amd64",
		CC:         "gcc",
		Layout:     layout.UEFI(),
		Kernel:     kernel,
		Args:       []string{"gpt", "console=tty0", "console=ttyS0,115200"},
		First:      uefiFirst("x64", "BOOTX64.EFI", 32<<20),
		Boot:       uefiBoot(kernel),
		Rescue:     uefiRescue,
		Components: []Component{linux(kernel), systemdBootComponent()},
	}
}
