// Package image builds the disk images: one per board family, bit for bit the same for the same commit, Go toolchain and
// Debian release.
//
// PID 1 and croftd are built by monogok (gokrazy's packer for a single module), which puts them at /gokrazy/init and
// /user/croftd of its root file system. From there on the image is ours: monogok's layout has one boot partition that is overwritten
// in place, its root is compressed and carries an update password, and its time stamps are the builder's clock.
//
// An image holds slot A and an empty slot B in the layout of package hardware/layout, and a seed of the data partition
// that the first boot grows. Nothing in an image is unique to a box; what must be is made on first boot.
//
// Building needs Debian's gcc (gcc-aarch64-linux-gnu for arm64), squashfs-tools, dosfstools and mtools.
package image
