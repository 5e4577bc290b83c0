package slots

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/hardware/layout"
)

// Committed is the slot that the firmware starts by itself. It fails with ErrForm where the file that says it names none.
func (m *Medium) Committed() (layout.Slot, error) { return Committed(m.Table, m.First) }

// Commit makes slot the one that the firmware starts by itself. It refuses with ErrIncomplete where the slot holds nothing that
// starts, and with ErrForm where the change would be more than one sector in place. In a rescue environment a missing autoboot.txt is
// made anew: a Raspberry Pi's owner takes it away to get there (docs/boards.md).
func (m *Medium) Commit(slot layout.Slot) error {
	s, err := m.stamp(slot)
	if err != nil {
		return err
	}
	if !s.Complete {
		return fmt.Errorf("commit to slot %s: %w", slot, ErrIncomplete)
	}
	name, content := CommitFile(m.Table), CommitContent(m.Table, slot)
	at, err := inPlace(m.First, name)
	if m.Rescue && m.Table == layout.MBR && errors.Is(err, fat.ErrNotFound) {
		return m.commitAnew(slot, name, content)
	}
	if err != nil {
		return err
	}
	if at.Length != int64(len(content)) || at.Length > sector {
		return fmt.Errorf("%w: %s has %d bytes, not %d", ErrForm, name, at.Length, len(content))
	}
	whole := make([]byte, sector) // what lies behind the file in its sector stays
	if err := readFull(m.First.Reread(), whole, at.Offset); err != nil {
		return err
	}
	if bytes.Equal(whole[:len(content)], content) {
		return nil
	}
	copy(whole, content)
	return put(m.First, whole, at.Offset)
}

// commitAnew makes the file that says which slot starts.
func (m *Medium) commitAnew(slot layout.Slot, name string, content []byte) error {
	if err := fat.Create(m.First, name, content); err != nil {
		return volumeError(err)
	}
	if got, err := Committed(m.Table, m.First.Reread()); err != nil {
		return err
	} else if got != slot {
		return fmt.Errorf("%w: %s", ErrReadBack, name)
	}
	return nil
}
