package board

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func put(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestModel(t *testing.T) {
	for _, tc := range []struct{ tree, vendor, product, want string }{
		{"Raspberry Pi 4 Model B Rev 1.4\x00", "", "", "Raspberry Pi 4 Model B Rev 1.4"},
		{"", "QEMU\n", "Standard PC\n", "QEMU Standard PC"},
		{"", "Intel\n", "Intel NUC\n", "Intel NUC"},
		{"", "", "", ""},
	} {
		proc, sys := t.TempDir(), t.TempDir()
		put(t, proc, "device-tree/model", tc.tree)
		put(t, sys, "class/dmi/id/sys_vendor", tc.vendor)
		put(t, sys, "class/dmi/id/product_name", tc.product)
		if got := Model(proc, sys); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestUndriven(t *testing.T) {
	sys := t.TempDir()
	for dev, class := range map[string]string{"0000:00:01.0": "0x020000", "0000:00:02.0": "0x020000", "0000:00:03.0": "0x030000", "0000:00:04.0": "0x010802"} {
		put(t, sys, "bus/pci/devices/"+dev+"/class", class+"\n")
		put(t, sys, "bus/pci/devices/"+dev+"/vendor", "0x10ec\n")
		put(t, sys, "bus/pci/devices/"+dev+"/device", "0x8125\n")
	}
	put(t, sys, "bus/pci/devices/0000:00:01.0/driver/x", "")
	put(t, sys, "bus/usb/devices/1-2/idVendor", "0bda\n")
	put(t, sys, "bus/usb/devices/1-2/idProduct", "8153\n")
	put(t, sys, "bus/usb/devices/1-2:1.0/bInterfaceClass", "02\n")
	put(t, sys, "bus/usb/devices/1-3:1.0/bInterfaceClass", "03\n")
	got := Undriven(sys)
	want := []string{"network device 10ec:8125", "storage device 10ec:8125", "USB network device 0bda:8153"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
