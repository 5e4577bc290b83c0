package devices

import (
	"errors"
	"os"

	"github.com/croft-os/croft/updater/slots"
)

// Device is an open device, as updater/slots uses them.
type Device struct {
	*slots.File
	files []*os.File
}

// NewDevice takes over an open device or file, and the same opened with O_DIRECT, or nil.
func NewDevice(f, direct *os.File) (*Device, error) {
	sf, err := slots.NewFile(f, direct)
	if err != nil {
		return nil, err
	}
	d := &Device{File: sf, files: []*os.File{f}}
	if direct != nil {
		d.files = append(d.files, direct)
	}
	return d, nil
}

// Close closes the device.
func (d *Device) Close() error {
	var errs []error
	for _, f := range d.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
