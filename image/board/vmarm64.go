package board

import "github.com/croft-os/croft/hardware/layout"

func init() { families = append(families, vmARM64) }

// vmARM64 is an arm64 virtual machine with UEFI, for tests and hypervisors. Its vmlinuz is an uncompressed Image with an
// EFI stub, which is what systemd-boot can start; so it needs much room.
func vmARM64() Board {
	const kernel = "github.com/gokrazy/kernel.arm64"
	return Board{
		ID:         "vm-arm64",
		Title:      "Virtual machine (arm64, UEFI)",
		GOARCH:     "arm64",
		CC:         "aarch64-linux-gnu-gcc",
		Layout:     layout.UEFI(),
		Kernel:     kernel,
		Args:       []string{"gpt", "console=tty0", "console=ttyAMA0,115200"},
		First:      uefiFirst("aa64", "BOOTAA64.EFI", 80<<20),
		Boot:       uefiBoot(kernel),
		Rescue:     uefiRescue,
		Components: []Component{linux(kernel), systemdBootComponent()},
	}
}
