package flash

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeHost builds a computer's /sys, /proc and /dev from a list of files and links.
func fakeHost(t *testing.T, files, links map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(content, "ROOT", root)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range links {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, to), path); err != nil {
			t.Fatal(err)
		}
	}
	return Host{Sys: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev"), Proc: filepath.Join(root, "proc")}
}

// laptop has a system on NVMe (in an encrypted volume, and swap), a data drive on SATA, a USB stick in use, a free card, an
// eMMC with its boot areas, an empty card reader, and things that are no drives.
func laptop(t *testing.T) Host {
	const (
		pci = "sys/devices/pci0000:00/"
		nvm = pci + "nvme/nvme0/nvme0n1"
		ata = pci + "ata1/host0/target0/0:0:0:0"
		usb = pci + "usb1/1-2"
		mmc = pci + "mmc_host/mmc0/mmc0:1234"
		emm = pci + "mmc_host/mmc1/mmc1:0001"
	)
	return fakeHost(t, map[string]string{
		"proc/self/mountinfo": "21 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw\n" +
			"22 21 259:1 / /boot/efi rw - vfat /dev/nvme0n1p1 rw\n" +
			"23 21 0:45 / /media/me/My\\040Stick rw - btrfs ROOT/dev/sdb1 rw\n" +
			"24 21 0:4 / /proc rw - proc proc rw\nshort line\n",
		"proc/swaps":                                    "Filename Type Size Used Priority\nROOT/dev/sdc1 partition 1 0 -2\n",
		nvm + "/size":                                   "1000215216\n",
		nvm + "/dev":                                    "259:0\n",
		nvm + "/nvme0n1p1/partition":                    "1\n",
		nvm + "/nvme0n1p1/dev":                          "259:1\n",
		nvm + "/nvme0n1p2/partition":                    "2\n",
		nvm + "/nvme0n1p2/dev":                          "259:2\n",
		nvm + "/nvme0n1p2/holders/dm-0/dev":             "253:0\n",
		pci + "nvme/nvme0/model":                        "Samsung SSD 980\n",
		pci + "nvme/nvme0/serial":                       "S64D\n",
		"sys/devices/virtual/block/dm-0/dev":            "253:0\n",
		"sys/devices/virtual/block/dm-0/size":           "900000000\n",
		ata + "/block/sda/size":                         "7814037168\n",
		ata + "/block/sda/dev":                          "8:0\n",
		ata + "/block/sda/removable":                    "0\n",
		ata + "/vendor":                                 "ATA     \n",
		ata + "/model":                                  "WDC WD40EFRX    \n",
		ata + "/vpd_pg80":                               "\x00\x80\x00\x08  WD-1234",
		usb + "/serial":                                 "AA\x1b[31m01\n",
		usb + "/host2/0:0:0:0/block/sdb/size":           "61440000\n",
		usb + "/host2/0:0:0:0/block/sdb/dev":            "8:16\n",
		usb + "/host2/0:0:0:0/block/sdb/removable":      "1\n",
		usb + "/host2/0:0:0:0/block/sdb/sdb1/partition": "1\n",
		usb + "/host2/0:0:0:0/block/sdb/sdb1/dev":       "8:17\n",
		usb + "/host2/0:0:0:0/vendor":                   "SanDisk\n",
		usb + "/host2/0:0:0:0/model":                    "Ultra Fit\n",
		usb + "/host3/0:0:0:0/block/sdc/size":           "61440000\n",
		usb + "/host3/0:0:0:0/block/sdc/dev":            "8:32\n",
		usb + "/host3/0:0:0:0/block/sdc/sdc1/partition": "1\n",
		usb + "/host3/0:0:0:0/block/sdc/sdc1/dev":       "8:33\n",
		usb + "/host4/0:0:0:0/block/sdd/size":           "0\n",
		usb + "/host4/0:0:0:0/block/sdd/removable":      "1\n",
		mmc + "/block/mmcblk0/size":                     "31116288\n",
		mmc + "/block/mmcblk0/dev":                      "179:0\n",
		mmc + "/name":                                   "SC16G\n",
		mmc + "/serial":                                 "0xdeadbeef\n",
		emm + "/block/mmcblk1/size":                     "31116288\n",
		emm + "/block/mmcblk1/ro":                       "1\n",
		emm + "/block/mmcblk1boot0/size":                "8192\n",
		"sys/devices/virtual/block/loop0/size":          "8192\n",
		"dev/sdb1":                                      "",
		"dev/sdc1":                                      "",
		"dev/sdb":                                       "",
		"dev/mmcblk0":                                   strings.Repeat("\x00", 4096) + "x",
	}, map[string]string{
		"sys/block/nvme0n1":                     nvm,
		nvm + "/device":                         pci + "nvme/nvme0",
		"sys/block/dm-0":                        "sys/devices/virtual/block/dm-0",
		"sys/block/loop0":                       "sys/devices/virtual/block/loop0",
		"sys/block/sda":                         ata + "/block/sda",
		ata + "/block/sda/device":               ata,
		"sys/block/sdb":                         usb + "/host2/0:0:0:0/block/sdb",
		"sys/class/block/sdb":                   usb + "/host2/0:0:0:0/block/sdb",
		"sys/class/block/sdb1":                  usb + "/host2/0:0:0:0/block/sdb/sdb1",
		"sys/class/block/sdc1":                  usb + "/host3/0:0:0:0/block/sdc/sdc1",
		usb + "/host2/0:0:0:0/block/sdb/device": usb + "/host2/0:0:0:0",
		"sys/block/sdc":                         usb + "/host3/0:0:0:0/block/sdc",
		usb + "/host3/0:0:0:0/block/sdc/device": usb + "/host3/0:0:0:0",
		"sys/block/sdd":                         usb + "/host4/0:0:0:0/block/sdd",
		"sys/block/mmcblk0":                     mmc + "/block/mmcblk0",
		mmc + "/block/mmcblk0/device":           mmc,
		"sys/block/mmcblk1":                     emm + "/block/mmcblk1",
		emm + "/block/mmcblk1/device":           emm,
		"sys/block/mmcblk1boot0":                emm + "/block/mmcblk1boot0",
		"dev/disk/by-id/usb-stick":              "dev/sdb",
		"dev/disk/by-id/usb-stick-part1":        "dev/sdb1",
	})
}

func TestDrives(t *testing.T) {
	h := laptop(t)
	drives, err := h.Drives()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	by := map[string]Drive{}
	for _, d := range drives {
		names = append(names, d.Name)
		by[d.Name] = d
	}
	if want := []string{"sda", "sdb", "sdc", "mmcblk0", "mmcblk1", "nvme0n1"}; !slices.Equal(names, want) {
		t.Fatalf("drives %v, want %v", names, want)
	}
	for _, tc := range []struct {
		name, model, serial string
		removable           bool
		problem             string // with enough room and without --all; "" if it may be used
	}{
		{"sda", "ATA WDC WD40EFRX", "WD-1234", false, "built into"},
		{"sdb", "SanDisk Ultra Fit", "AA[31m01", true, "in use, at /media/me/My Stick"},
		{"sdc", "", "AA[31m01", true, "own system (swap)"},
		{"mmcblk0", "SC16G", "0xdeadbeef", true, ""},
		{"mmcblk1", "", "", true, "write-protected"},
		{"nvme0n1", "Samsung SSD 980", "S64D", false, "own system (/boot/efi)"},
	} {
		d := by[tc.name]
		if d.Model != tc.model || d.Serial != tc.serial || d.Removable != tc.removable {
			t.Errorf("%s: %+v", tc.name, d)
		}
		if p := d.Problem(1, false); (p == "") != (tc.problem == "") || !strings.Contains(p, tc.problem) {
			t.Errorf("%s: problem %q, want %q", tc.name, p, tc.problem)
		}
	}
	// The root is on the NVMe drive too, two layers down.
	if d := by["nvme0n1"]; !slices.Equal(d.Mounted, []string{"/boot/efi", "/"}) || d.Used != "dm-0" {
		t.Errorf("%+v", d)
	}
	if p := by["sda"].Problem(1, true); p != "" {
		t.Errorf("with --all: %s", p)
	}
	if p := by["nvme0n1"].Problem(1, true); !strings.Contains(p, "own system") {
		t.Errorf("the system's drive with --all: %q", p)
	}
	if p := by["mmcblk0"].Problem(16e9, false); !strings.Contains(p, "too small: it has 15.9 GB, and the image needs 16.0 GB") {
		t.Errorf("too small: %q", p)
	}
	if c := by["mmcblk0"].Content.String(); c != "nothing that is known" {
		t.Errorf("content %s", c)
	}
	if d := by["sda"]; d.Unread == "" {
		t.Error("there is no /dev/sda, and no word of it")
	}
}

func TestDrive(t *testing.T) {
	h := laptop(t)
	if d, err := h.Drive(filepath.Join(h.Dev, "disk/by-id/usb-stick")); err != nil || d.Name != "sdb" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := h.Drive(filepath.Join(h.Dev, "disk/by-id/usb-stick-part1")); err == nil || !strings.Contains(err.Error(), "name the whole drive, "+h.Dev+"/sdb") {
		t.Errorf("a partition: %v", err)
	}
	if _, err := h.Drive(filepath.Join(h.Dev, "sdz")); err == nil {
		t.Error("no such drive, and no error")
	}
}

// TestLook holds what is recognised against what the tools make.
func TestLook(t *testing.T) {
	file := func(size int64) string {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		return path
	}
	look := func(path string) string {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		c, err := Look(f, fi.Size())
		if err != nil {
			t.Fatal(err)
		}
		return c.String()
	}
	for want, cmd := range map[string][]string{
		`FAT32 "STICK"`: {"mkfs.fat", "-F", "32", "-n", "STICK"},
		`FAT16`:         {"mkfs.fat", "-F", "16"},
		`ext4 "photos"`: {"mkfs.ext4", "-q", "-L", "photos"},
		`ext2`:          {"mke2fs", "-q", "-t", "ext2"},
		`swap "pages"`:  {"mkswap", "-L", "pages"},
		"no partitions": {"sgdisk", "-o"},
		"unknown 65 MB": {"sgdisk", "-o", "-n1:0:+62M"},
	} {
		path := file(70 * mib)
		tool(t, cmd[0], append(cmd[1:], path)...)
		if got := look(path); got != want {
			t.Errorf("%v: %s, want %s", cmd, got, want)
		}
	}
	if got := look(file(mib)); got != "nothing that is known" {
		t.Errorf("zeros: %s", got)
	}
	if got := look(image(t, "mbr.img")); !strings.HasPrefix(got, `a Croft (FAT32 "CROFT" 38 MB, FAT32 "CROFT" 38 MB, unknown 8 MB, unknown 8 MB, `) {
		t.Errorf("MBR image: %s", got)
	}
	if got := look(image(t, "gpt.img")); !strings.HasPrefix(got, `a Croft (FAT32 "CROFT" 38 MB, unknown 8 MB, `) {
		t.Errorf("GPT image: %s", got)
	}
}

// FuzzLook: any drive may be plugged in.
func FuzzLook(f *testing.F) {
	for _, name := range []string{"gpt.img", "mbr.img"} {
		file, err := os.Open(image(f, name))
		if err != nil {
			f.Fatal(err)
		}
		head := make([]byte, 64*1024)
		if _, err := io.ReadFull(file, head); err != nil {
			f.Fatal(err)
		}
		file.Close()
		f.Add(head)
		// An extended partition that leads to itself.
		loop := bytes.Clone(head[:1024])
		loop[446+4] = 0x0f
		binary.LittleEndian.PutUint32(loop[446+16+8:], 0)
		loop[446+16+4] = 0x05
		f.Add(loop)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Look(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Partitions) > maxParts {
			t.Errorf("%d partitions", len(c.Partitions))
		}
		for _, r := range c.String() {
			if r < ' ' || r == 0x7f {
				t.Errorf("a control character in %q", c.String())
			}
		}
	})
}
