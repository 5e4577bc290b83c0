// Package board says what the box is made of: the model as the firmware names it, and its serial number.
//
// Sources: the device tree (/proc/device-tree/model) on arm64 boards, DMI (/sys/class/dmi/id) on machines with UEFI.
package board

import (
	"os"
	"path/filepath"
	"strings"
)

// Model returns the model's name, such as "Raspberry Pi 4 Model B Rev 1.4", or "" if the firmware names none. proc
// and sys are where procfs and sysfs are mounted.
func Model(proc, sys string) string {
	if m := read(filepath.Join(proc, "device-tree/model")); m != "" {
		return m
	}
	vendor := read(filepath.Join(sys, "class/dmi/id/sys_vendor"))
	product := read(filepath.Join(sys, "class/dmi/id/product_name"))
	if strings.HasPrefix(product, vendor) {
		return product
	}
	return strings.TrimSpace(vendor + " " + product)
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
}
