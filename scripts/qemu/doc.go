// Package qemu boots Croft's images in QEMU: for the tests, for "make run" and for "make bench".
//
// A machine ends with its context, and nothing of it stays behind: QEMU is killed with the thread that started it
// (PR_SET_PDEATHSIG, prctl(2)), sockets and firmware variables are in a folder of its own that is removed. Guests are
// emulated (TCG), so that they are the same everywhere, unless the options ask for KVM. The monitor protocol is
// QEMU's docs/interop/qmp-spec.
//
// Machines: the PC (q35, UEFI by OVMF, or its kernel started without firmware, which is several times faster), the arm64
// virtual machine (UEFI), and the Raspberry Pi 3 as far as QEMU has it (no firmware, no Wi-Fi, no watchdog).
package qemu
