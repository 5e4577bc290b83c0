// Package firmware says what would start from a medium, without starting it: models of the two chains by which Croft's boards
// boot, which read the bytes of a disk as the firmware, its boot loader and the kernel do.
//
// UEFI reads the GPT, or its copy at the end of the disk, and the EFI system partition, and starts systemd-boot, which follows
// LoaderEntryOneShot, loader.conf and the loader entries. Raspberry Pis read the MBR, autoboot.txt and a boot partition. Either way it
// ends with a kernel, a command line and the root that it names.
//
// Sources: UEFI 2.10 section 5.3 and 13.3; fatgen103; systemd 250's src/boot/efi/boot.c, for which the models were written line by line; the
// "autoboot.txt", "config.txt" and "tryboot" chapters of Raspberry Pi's documentation. Limits: the Pi's firmware is not public, so what
// its model does is what is documented; drivers, memory and time don't exist; nothing is executed. The models share no code with the
// programs that they judge.
package firmware
