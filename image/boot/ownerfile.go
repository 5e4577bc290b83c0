package boot

import (
	"errors"
	"fmt"
	"os"

	"github.com/croft-os/croft/hardware/disk"
	"github.com/croft-os/croft/hardware/fat"
)

// Owners' files stand on the first FAT partition of the medium, where a computer shows them when the card is put in. The
// box reads them without a mount, and writes only over the bytes that a file has: what the box starts from is on the same
// partition, and no power cut may hurt that.

// maxOwnerFile is the most that such a file may have, in bytes.
const maxOwnerFile = 64 << 10

func (b *Box) findFirstFAT() (string, error) {
	if m, err := b.boot(); err == nil {
		return m.path(disk.Layout(m.table).First)
	}
	d, err := disk.RootDisk("/sys")
	if err != nil {
		return "", err
	}
	table, err := disk.TableOf(d)
	if err != nil {
		return "", err
	}
	p, err := disk.Data("/sys", d, disk.Layout(table).First, 0)
	return p.Path(), err
}

// readOwnerFile fails with fat.ErrNotFound or fat.ErrTooLarge, or with what reading fails with.
func (b *Box) readOwnerFile(name string, limit int64) ([]byte, error) {
	path, err := b.firstFAT()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return fat.ReadFile(f, name, limit)
}

// writeOwnerFile writes content over the first bytes of a file, and returns when it is on the medium.
func (b *Box) writeOwnerFile(name string, content []byte) error {
	path, err := b.firstFAT()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	file, err := fat.Find(f, name)
	if err != nil {
		return err
	}
	if err := errors.Join(fat.Overwrite(f, file, content), f.Sync()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
