// Package layout says how Croft's boot media are divided: the numbers, names, places and sizes of the partitions, and
// which of them belong to which slot. It is data only; packages image and updater write by it, hardware/disk and PID 1
// read by it. A layout never changes once a box is in the field.
//
// Two layouts exist. UEFI machines have a GPT (UEFI 2.10 section 5.3) with one EFI system partition that holds both
// slots' kernels. Raspberry Pis have an MBR with an extended partition, because the Pi's firmware handles GPT and
// autoboot.txt together badly; a selector says which of two boot partitions the firmware reads. All starts are multiples of
// 4 MiB, the largest erase block of usual SD cards. DATA is last, so that it can grow to the medium.
package layout

import "fmt"

// SectorSize is the logical sector in bytes that all layouts count in.
const SectorSize = 512

const mib = 1 << 20

// Slot is one of the two systems on a medium, "a" or "b".
type Slot string

// The slots; an image carries only SlotA.
const (
	SlotA Slot = "a"
	SlotB Slot = "b"
)

// Table is a kind of partition table.
type Table string

// The kinds of partition table.
const (
	GPT Table = "gpt"
	MBR Table = "mbr"
)

// Partition is one partition of a layout.
type Partition struct {
	Number int    // as in the partition table, from 1
	Name   string // in the GPT, such as "croft-root-a"; for people only on an MBR
	Type   string // GPT: type GUID; MBR: type byte as two hex digits
	GUID   string // GPT: unique GUID of the partition
	Start  int64  // bytes from the start of the medium
	Size   int64  // bytes in the image; DATA grows on the box
}

// Layout is the division of a medium.
type Layout struct {
	Table      Table
	ID         string // GPT: disk GUID; MBR: disk signature as eight hex digits
	Partitions []Partition
	Size       int64 // bytes of an image
	First      int   // number of the FAT that holds croft.txt and is read first by the firmware
	Boot       map[Slot]int
	Root       map[Slot]int
	Data       int
	Extended   int // MBR: number of the extended partition, else 0
}

// Types of partitions: the EFI system partition and Linux data, on a GPT as GUIDs; FAT32 (LBA), extended (LBA) and
// Linux, on an MBR as bytes.
const (
	TypeESP      = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	TypeLinux    = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	TypeFAT      = "0c"
	TypeExtended = "0f"
	TypeMBRLinux = "83"
)

// EBRGap is the distance in bytes between a logical partition and the extended boot record before it.
const EBRGap = 4 * mib

// UEFI is the layout of UEFI machines. Both slots' kernels and entries are in partition 1.
func UEFI() Layout {
	guid := func(n int) string { return fmt.Sprintf("c0f7c0f7-d15c-4000-8000-%012x", n) }
	return Layout{
		Table: GPT,
		ID:    guid(0),
		Partitions: []Partition{
			{Number: 1, Name: "croft-esp", Type: TypeESP, GUID: guid(1), Start: 4 * mib, Size: 256 * mib},
			{Number: 2, Name: "croft-root-a", Type: TypeLinux, GUID: guid(2), Start: 260 * mib, Size: 256 * mib},
			{Number: 3, Name: "croft-root-b", Type: TypeLinux, GUID: guid(3), Start: 516 * mib, Size: 256 * mib},
			{Number: 4, Name: "croft-data", Type: TypeLinux, GUID: guid(4), Start: 772 * mib, Size: 64 * mib},
		},
		Size:  840 * mib, // leaves room for the backup GPT
		First: 1,
		Boot:  map[Slot]int{SlotA: 1, SlotB: 1},
		Root:  map[Slot]int{SlotA: 2, SlotB: 3},
		Data:  4,
	}
}

// Pi is the layout of Raspberry Pis. An inactive boot partition starts with a zeroed sector, so that the firmware can't
// take it for a file system.
func Pi() Layout {
	return Layout{
		Table: MBR,
		ID:    "c0f7c0f7",
		Partitions: []Partition{
			{Number: 1, Name: "croft-selector", Type: TypeFAT, Start: 4 * mib, Size: 64 * mib},
			{Number: 2, Name: "croft-boot-a", Type: TypeFAT, Start: 68 * mib, Size: 128 * mib},
			{Number: 3, Name: "croft-boot-b", Type: TypeFAT, Start: 196 * mib, Size: 128 * mib},
			{Number: 4, Name: "extended", Type: TypeExtended, Start: 324 * mib, Size: 588 * mib},
			{Number: 5, Name: "croft-root-a", Type: TypeMBRLinux, Start: 328 * mib, Size: 256 * mib},
			{Number: 6, Name: "croft-root-b", Type: TypeMBRLinux, Start: 588 * mib, Size: 256 * mib},
			{Number: 7, Name: "croft-data", Type: TypeMBRLinux, Start: 848 * mib, Size: 64 * mib},
		},
		Size:     912 * mib,
		First:    1,
		Boot:     map[Slot]int{SlotA: 2, SlotB: 3},
		Root:     map[Slot]int{SlotA: 5, SlotB: 6},
		Data:     7,
		Extended: 4,
	}
}

// Partition returns the partition with the given number.
func (l Layout) Partition(number int) Partition {
	for _, p := range l.Partitions {
		if p.Number == number {
			return p
		}
	}
	panic(fmt.Sprintf("layout has no partition %d", number))
}

// PARTUUID is the partition's name in the kernel's root= argument (Documentation/admin-guide/kernel-parameters).
func (l Layout) PARTUUID(number int) string {
	if l.Table == GPT {
		return l.Partition(number).GUID
	}
	return fmt.Sprintf("%s-%02x", l.ID, number)
}
