// Package efi reads and writes the variables by which systemd-boot is told, and tells, what it starts. They live in the firmware's
// own memory and are reached through efivarfs.
//
// Sources: systemd's Boot Loader Interface (https://systemd.io/BOOT_LOADER_INTERFACE) for the variables, UEFI 2.10 section 8.2 for
// their attributes, the kernel's Documentation/filesystems/efivarfs.rst for the files: four bytes of attributes, then the value.
//
// Limits: values are strings of at most 1024 UTF-16 units. What firmware does with its memory can't be known: every
// change is read back, and still a start may not do what was asked for.
package efi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// Dir is where efivarfs is mounted.
const Dir = "/sys/firmware/efi/efivars"

// vendor is the namespace of the variables of the Boot Loader Interface.
const vendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// Names of variables.
const (
	oneShot  = "LoaderEntryOneShot"  // entry that the next start takes, and only that
	standard = "LoaderEntryDefault"  // entry that starts take whatever loader.conf says
	selected = "LoaderEntrySelected" // entry that this start took
	info     = "LoaderInfo"          // the boot loader's name and version
)

// attributes of variables that stay: NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS.
const attributes = 7

const maxUnits = 1024 // UTF-16 units of a value

// Errors that callers tell apart.
var (
	ErrNone = errors.New("this machine keeps no EFI variables")       // no UEFI, or efivarfs is not mounted
	ErrFull = errors.New("the firmware has no room for the variable") //
	ErrKept = errors.New("the firmware did not keep the variable as it was written")
)

// Vars are the variables in a folder.
type Vars struct {
	dir string
}

// New takes a folder, which is Dir but in tests.
func New(dir string) Vars { return Vars{dir} }

// OneShot is the entry that the next start takes once; "" if none is set.
func (v Vars) OneShot() (string, error) { return v.get(oneShot) }

// SetOneShot has the next start take an entry once. The boot loader removes it before it starts anything. Errors wrap ErrNone,
// ErrFull or ErrKept, or are of writing.
func (v Vars) SetOneShot(entry string) error { return v.set(oneShot, entry) }

// ClearOneShot takes that back.
func (v Vars) ClearOneShot() error { return v.remove(oneShot) }

// Default is the entry that goes before what loader.conf names, as the boot loader's menu may have set it; "" if none is set.
func (v Vars) Default() (string, error) { return v.get(standard) }

// ClearDefault leaves the choice to loader.conf.
func (v Vars) ClearDefault() error { return v.remove(standard) }

// Selected is the entry that this start took; "" if the boot loader did not say.
func (v Vars) Selected() (string, error) { return v.get(selected) }

// Loader names the boot loader and its version, such as "systemd-boot 250.5"; "" if it did not say.
func (v Vars) Loader() (string, error) { return v.get(info) }

func (v Vars) path(name string) string { return filepath.Join(v.dir, name+"-"+vendor) }

// there tells whether there are variables at all: the folder of a machine without UEFI is missing, or empty.
func (v Vars) there() error {
	d, err := os.Open(v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNone
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); errors.Is(err, io.EOF) {
		return ErrNone
	} else if err != nil {
		return err
	}
	return nil
}

func (v Vars) get(name string) (string, error) {
	if err := v.there(); err != nil {
		return "", fmt.Errorf("EFI variable %s: %w", name, err)
	}
	f, err := os.Open(v.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("EFI variable: %w", err)
	}
	defer f.Close()
	// efivarfs gives all of a variable to one read.
	b := make([]byte, 4+2*maxUnits+1)
	n, err := f.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("EFI variable %s: %w", name, err)
	}
	s, err := parse(b[:n])
	if err != nil {
		return "", fmt.Errorf("EFI variable %s: %w", name, err)
	}
	return s, nil
}

// parse reads attributes and a string in UTF-16, little-endian, up to its NUL.
func parse(b []byte) (string, error) {
	if len(b) == 0 { // it is being removed
		return "", nil
	}
	if len(b) < 4 || len(b)%2 != 0 || len(b) > 4+2*maxUnits {
		return "", fmt.Errorf("%d bytes are no string", len(b))
	}
	var units []uint16
	for c := range slices.Chunk(b[4:], 2) {
		u := binary.LittleEndian.Uint16(c)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units)), nil
}

func format(s string) ([]byte, error) {
	units := append(utf16.Encode([]rune(s)), 0)
	if len(s) == 0 || len(units) > maxUnits || slices.Contains(units[:len(units)-1], 0) {
		return nil, fmt.Errorf("%q can't be the value of a variable", s)
	}
	b := binary.LittleEndian.AppendUint32(nil, attributes)
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b, nil
}

func (v Vars) set(name, value string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("set EFI variable %s: %w", name, err)
		}
	}()
	b, err := format(value)
	if err != nil {
		return err
	}
	if err := v.there(); err != nil {
		return err
	}
	path := v.path(name)
	if err := mutable(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return full(err)
	}
	// The kernel makes a variable of each write: it has to be one.
	n, err := f.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err := errors.Join(err, f.Close()); err != nil {
		// What it was is gone or unsure; nothing is better than half.
		_ = v.remove(name)
		return full(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKept, err)
	}
	if !bytes.Equal(got, b) {
		_ = v.remove(name)
		return ErrKept
	}
	return nil
}

func full(err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

func (v Vars) remove(name string) error {
	if err := v.there(); err != nil {
		return fmt.Errorf("remove EFI variable %s: %w", name, err)
	}
	path := v.path(name)
	err := mutable(path)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove EFI variable %s: %w", name, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove EFI variable %s: %w", name, ErrKept)
	}
	return nil
}

// immutable is FS_IMMUTABLE_FL of linux/fs.h.
const immutable = 0x10

// mutable takes the flag off a variable that keeps it from being changed by accident (efivarfs.rst; ioctl_iflags(2)).
func mutable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a file system without flags
	}
	if err != nil {
		return fmt.Errorf("flags of %s: %w", path, err)
	}
	if flags&immutable == 0 {
		return nil
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable); err != nil {
		return fmt.Errorf("flags of %s: %w", path, err)
	}
	return nil
}
