package firmware

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Vars are the variables of the Boot Loader Interface by their names.
type Vars map[string]string

// entry is a loader entry of systemd-boot.
type entry struct {
	id, sortKey, version, loader, options string
	initrds                               []string
}

// UEFI starts a disk of size bytes. It uses up LoaderEntryOneShot, and sets LoaderEntrySelected.
func UEFI(r io.ReaderAt, size int64, vars Vars) (*Boot, error) {
	ps, err := readGPT(r, size)
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, p := range ps {
		if p.kind != espType {
			continue
		}
		v, err := openFAT(r, p.Off, p.Len)
		if err == nil {
			return systemdBoot(v, ps, vars)
		}
		problems = append(problems, err)
	}
	return nil, errors.Join(append(problems, errors.New("no EFI system partition"))...)
}

// systemdBoot is main of boot.c.
func systemdBoot(v *volume, ps []partition, vars Vars) (*Boot, error) {
	self := ""
	for _, name := range []string{"EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/BOOTAA64.EFI"} {
		if head, err := v.file(name, 4096); err == nil && isPE(head) {
			self = name
		}
	}
	if self == "" {
		return nil, errors.New("no boot loader that the firmware can start")
	}
	entries := loadEntries(v, self)
	i := choose(entries, loaderDefault(v), vars)
	if i < 0 {
		return nil, errors.New("no loader found: configuration files in loader/entries are needed")
	}
	e := entries[i]
	if vars != nil {
		vars["LoaderEntrySelected"] = e.id
	}
	head, err := v.file(e.loader, 4096)
	if err != nil {
		return nil, err
	}
	if !isPE(head) {
		return nil, fmt.Errorf("%s: the firmware can't start it", e.loader)
	}
	kernel, err := v.places(e.loader)
	if err != nil {
		return nil, err
	}
	if len(kernel) != 1 {
		return nil, fmt.Errorf("%s is in %d pieces", e.loader, len(kernel))
	}
	// The kernel asks the firmware for them, and starts without those that are not there.
	for _, name := range e.initrds {
		if v.has(name) && !strings.Contains(" "+e.options, " root=") {
			return &Boot{Kernel: kernel[0], Cmdline: e.options, Rescue: true}, nil
		}
	}
	root, err := kernelRoot(v.r, ps, e.options)
	if err != nil {
		return nil, err
	}
	return &Boot{Kernel: kernel[0], Cmdline: e.options, Root: root, Part: kernel[0]}, nil
}

// lines is line_get_key_value: a C string of lines with a key and a value.
func lines(b []byte) [][2]string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	var out [][2]string
	for _, line := range strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.Trim(line, " \t")
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.IndexAny(line, " \t")
		if i < 0 {
			continue
		}
		value := strings.TrimLeft(line[i:], " \t")
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		out = append(out, [2]string{line[:i], value})
	}
	return out
}

// loaderDefault is what config_defaults_load_from_file finds.
func loaderDefault(v *volume) string {
	b, err := v.file("loader/loader.conf", 1<<20)
	if err != nil {
		return ""
	}
	pattern := ""
	for _, kv := range lines(b) {
		if kv[0] == "default" {
			pattern = strings.ToLower(kv[1])
		}
	}
	return pattern
}

// loadEntries is config_load_entries with config_entry_add_from_file, and config_sort_entries.
func loadEntries(v *volume, self string) []entry {
	var out []entry
	dir, err := v.find("loader/entries")
	if err != nil || !dir.dir {
		return nil
	}
	files, err := v.list(dir.first)
	if err != nil {
		return nil
	}
	for _, f := range files {
		lower := strings.ToLower(f.name)
		if f.dir || !strings.HasSuffix(lower, ".conf") || strings.HasPrefix(lower, "auto-") || strings.HasPrefix(lower, ".") {
			continue
		}
		b, err := v.file("loader/entries/"+f.name, 1<<20)
		if err != nil {
			continue
		}
		e := entry{id: lower}
		for _, kv := range lines(b) {
			switch kv[0] {
			case "sort-key":
				e.sortKey = kv[1]
			case "version":
				e.version = kv[1]
			case "linux", "efi":
				e.loader = kv[1]
			case "initrd":
				e.initrds = append(e.initrds, kv[1])
			case "options":
				e.options = strings.TrimSpace(e.options + " " + kv[1])
			}
		}
		if e.loader == "" || strings.EqualFold(strings.Trim(e.loader, `/\`), self) {
			continue
		}
		if d, err := v.find(e.loader); err != nil || d.dir {
			continue
		}
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b entry) int {
		if (a.sortKey == "") != (b.sortKey == "") {
			if a.sortKey != "" {
				return -1
			}
			return 1
		}
		if c := strings.Compare(a.sortKey, b.sortKey); a.sortKey != "" && c != 0 {
			return c
		}
		if c := versionCompare(b.version, a.version); a.sortKey != "" && c != 0 {
			return c
		}
		return versionCompare(b.id, a.id)
	})
	return out
}

// choose is config_default_entry_select.
func choose(entries []entry, pattern string, vars Vars) int {
	byID := func(id string) int {
		return slices.IndexFunc(entries, func(e entry) bool { return e.id == strings.ToLower(id) })
	}
	if id, ok := vars["LoaderEntryOneShot"]; ok {
		delete(vars, "LoaderEntryOneShot")
		if i := byID(id); i >= 0 {
			return i
		}
	}
	if id, ok := vars["LoaderEntryDefault"]; ok {
		if i := byID(id); i >= 0 {
			return i
		}
	}
	if pattern != "" {
		for i, e := range entries {
			if ok, err := path.Match(pattern, e.id); err == nil && ok {
				return i
			}
		}
	}
	if len(entries) > 0 {
		return 0
	}
	return -1
}

// versionCompare orders versions by their numbers, as far as strverscmp_improved does the same for those of releases: digits count
// as numbers, all else byte by byte.
func versionCompare(a, b string) int {
	digits := func(s string) int {
		i := 0
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		return i
	}
	for a != "" && b != "" {
		if i, j := digits(a), digits(b); i > 0 && j > 0 {
			x, y := strings.TrimLeft(a[:i], "0"), strings.TrimLeft(b[:j], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[i:], b[j:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}
