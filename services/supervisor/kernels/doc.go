// Package kernels has only a test: it boots each kernel that boards have in QEMU and lets the supervisor's tests with
// real processes run there, break-outs included, since what a sandbox holds depends on the kernel. The Pi's kernel
// runs on QEMU's generic machine, where it finds a serial port but no disk; nothing more is needed.
package kernels
