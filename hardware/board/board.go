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

// Undriven lists devices on PCI and USB that carry storage or network and that no driver of this kernel took, as
// "network device 10ec:8125". sys is where sysfs is mounted.
func Undriven(sys string) []string {
	var found []string
	pci, _ := filepath.Glob(filepath.Join(sys, "bus/pci/devices/*"))
	for _, d := range pci {
		kind := map[string]string{"0x01": "storage device", "0x02": "network device"}[first4(read(filepath.Join(d, "class")))]
		if kind == "" || exists(filepath.Join(d, "driver")) {
			continue
		}
		found = append(found, kind+" "+strings.TrimPrefix(read(filepath.Join(d, "vendor")), "0x")+":"+
			strings.TrimPrefix(read(filepath.Join(d, "device")), "0x"))
	}
	usb, _ := filepath.Glob(filepath.Join(sys, "bus/usb/devices/*:*"))
	for _, d := range usb {
		// USB-IF base classes: 02 communications, 08 mass storage, e0 wireless.
		kind := map[string]string{"02": "network device", "08": "storage device", "e0": "wireless device"}[read(filepath.Join(d, "bInterfaceClass"))]
		if kind == "" || exists(filepath.Join(d, "driver")) {
			continue
		}
		parent, _, _ := strings.Cut(d, ":")
		found = append(found, "USB "+kind+" "+read(filepath.Join(parent, "idVendor"))+":"+read(filepath.Join(parent, "idProduct")))
	}
	return found
}

func first4(s string) string {
	if len(s) < 4 {
		return ""
	}
	return s[:4]
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
