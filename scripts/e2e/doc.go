// Package e2e holds the tests that boot the built images in QEMU and use the box as people do: over HTTP and HTTPS, with the
// claim code from the console, and by pulling its cables.
//
// The images are built on demand to out/ at the root of the source, or taken as they are from the folder that CROFT_OUT
// names. Two machines run at a time. Tests of faults start the kernel without firmware, which saves most of the time;
// that firmware and loader work is tested by those that use UEFI. Tests with several computers on a network make
// network namespaces and need root. "go test -short" skips all of it.
package e2e
