package board

import (
	"bytes"
	"compress/gzip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/croft-os/croft/hardware/layout"
	"github.com/croft-os/croft/updater/slots"
)

func init() { families = append(families, pi) }

const (
	piKernel   = "github.com/gokrazy/kernel.rpi"
	piFirmware = "github.com/gokrazy/firmware"
)

// pi is Raspberry Pi 3, 4, 5 and Zero 2 W with their relatives of the same chips. The boot ROM of the 3 and the Zero 2 W
// loads bootcode.bin from the selector; the 4 and 5 have its like in their EEPROM, which no image touches. Either
// reads autoboot.txt there and goes on with the boot partition that it names.
//
// The kernel says which security modules it has, but starts Landlock only when asked. The Pi's device trees carry
// cgroup_disable=memory, so the memory controller has to be asked for too.
func pi() Board {
	return Board{
		ID:     "pi",
		Title:  "Raspberry Pi 3, 4, 5 and Zero 2 W",
		GOARCH: "arm64",
		CC:     "aarch64-linux-gnu-gcc",
		Layout: layout.Pi(),
		Kernel: piKernel,
		Args:   []string{"lsm=landlock", "cgroup_enable=memory", "console=tty1", "console=serial0,115200"},
		First:  piFirst,
		Boot:   piBoot,
		Rescue: piRescue,
		Components: []Component{
			linux(piKernel),
			{
				Name: "raspberrypi-firmware", Module: piFirmware, License: "LicenseRef-broadcom-raspberrypi",
				Supplier: "Organization: Raspberry Pi Ltd", Text: "LICENSE.broadcom",
			},
		},
		Imager: []string{"pi5-64bit", "pi4-64bit", "pi3-64bit"}, // the last one also means the Zero 2 W
	}
}

// piFirst is the selector, without its rescue system. The bootcode.bin of the Pi 3 and the Zero 2 W goes on to autoboot.txt only where
// there is a config.txt too (docs/boards.md), which the rescue system brings.
func piFirst(mods Modules) ([]File, error) {
	boot, err := fromModule(mods, piFirmware, "bootcode.bin", "bootcode.bin")
	if err != nil {
		return nil, err
	}
	return append(forOwners(), File{Path: slots.CommitFile(layout.MBR), Data: slots.Autoboot(layout.SlotB)}, boot), nil
}

// piRescue makes the selector a partition to start from, which firmware does that is not sent to a slot's, or can't start that one
// (docs/boards.md). All has the name and the settings that it has in a slot: a firmware that confused some of it would still start the
// slot.
func piRescue(boot []File, _, cmdline string) []File {
	var files []File
	for _, f := range boot {
		switch f.Path {
		case "config.txt":
			f.Data = []byte(piConfig + "initramfs " + RescueFile + " followkernel\n")
		case slots.CmdlineFile(layout.MBR, ""):
			f.Data = []byte(cmdline + "\n")
		}
		files = append(files, f)
	}
	return files
}

// piConfig: gpu_mem=16 picks the firmware's small variant (start_cd.elf), which leaves a Zero 2 W 48 MB more. The kernel is
// compressed, which the firmware recognises by itself.
const piConfig = `[all]
arm_64bit=1
kernel=vmlinuz
auto_initramfs=0
gpu_mem=16
enable_uart=1
disable_splash=1
dtparam=watchdog=on
`

// piFirmwareFiles are what the firmware of the Pi 3 family ("") and of the Pi 4 ("4") loads: the small variant that gpu_mem=16
// asks for, and the full one that it falls back to.
var piFirmwareFiles = []string{
	"start.elf", "fixup.dat", "start_cd.elf", "fixup_cd.dat",
	"start4.elf", "fixup4.dat", "start4cd.elf", "fixup4cd.dat",
	"LICENSE.broadcom",
}

// piCluster is the size in bytes of a cluster of the boot file system, and of the command line's file in it.
const piCluster = 1024

// piBoot lists a slot's boot file system: firmware, kernel, the device trees of all models (bcm2710 is the 3 and the Zero 2 W,
// bcm2711 the 4, bcm2712 the 5) and all overlays, which add-on boards name in their own EEPROM.
func piBoot(mods Modules) ([]File, error) {
	k, err := fromModule(mods, piKernel, "vmlinuz", "vmlinuz")
	if err != nil {
		return nil, err
	}
	if k.Data, err = gzipped(k.Data); err != nil {
		return nil, err
	}
	files := []File{
		{Path: "config.txt", Data: []byte(piConfig)},
		{Path: slots.CmdlineFile(layout.MBR, ""), Data: slots.BlankCmdline(piCluster)},
		k,
	}
	for _, name := range piFirmwareFiles {
		f, err := fromModule(mods, piFirmware, name, name)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	dir, err := mods(piKernel)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"", "overlays"} {
		ents, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return nil, err
		}
		for _, e := range ents {
			tree := strings.HasPrefix(e.Name(), "bcm271") && strings.HasSuffix(e.Name(), ".dtb")
			if name := path.Join(sub, e.Name()); tree || sub == "overlays" {
				f, err := fromModule(mods, piKernel, name, name)
				if err != nil {
					return nil, err
				}
				files = append(files, f)
			}
		}
	}
	return files, nil
}

func gzipped(b []byte) ([]byte, error) {
	var out bytes.Buffer
	zw, err := gzip.NewWriterLevel(&out, 6)
	if err != nil {
		return nil, err
	}
	if _, err := zw.Write(b); err != nil {
		return nil, err
	}
	err = zw.Close()
	return out.Bytes(), err
}
