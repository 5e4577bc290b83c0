package qemu

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"
)

// LoaderGUID is the namespace of the variables of the Boot Loader Interface, which systemd-boot reads.
const LoaderGUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// The layout of OVMF's file of variables (EDK II, MdeModulePkg/Include/Guid/VariableFormat.h): the header of the volume, the one of
// the store, and then variables one after the other, each aligned to 4 bytes.
const (
	varStart  = 0x55aa
	varAdded  = 0x3f
	varHeader = 60 // AUTHENTICATED_VARIABLE_HEADER
	storeHead = 28 // VARIABLE_STORE_HEADER
	erased    = 0xff
)

// MakeVars makes the file of a UEFI's variables (Options.Vars) with a string in one of them, which outlives starts.
func MakeVars(path, guid, name, value string) error {
	const fresh = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		b, err = os.ReadFile(fresh)
	}
	if err != nil {
		return fmt.Errorf("UEFI variables: %w", err)
	}
	if b, err = setVar(b, guid, name, append(utf16le(value), 0, 0)); err != nil {
		return fmt.Errorf("UEFI variables in %s: %w", filepath.Base(path), err)
	}
	return os.WriteFile(path, b, 0o600)
}

func setVar(b []byte, guid, name string, data []byte) ([]byte, error) {
	id, err := hex.DecodeString(strings.ReplaceAll(guid, "-", ""))
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("%q is no GUID", guid)
	}
	le := binary.LittleEndian
	if len(b) < 100 || string(b[40:44]) != "_FVH" {
		return nil, errors.New("no volume of variables")
	}
	at := int(le.Uint16(b[48:]))
	end := at + int(le.Uint32(b[at+16:]))
	if at += storeHead; end > len(b) {
		return nil, errors.New("the store is cut off")
	}
	for ; le.Uint16(b[at:]) == varStart; at = (at + 3) &^ 3 {
		at += varHeader + int(le.Uint32(b[at+36:])) + int(le.Uint32(b[at+40:]))
		if at+varHeader > end {
			return nil, errors.New("the store is full")
		}
	}
	wide := append(utf16le(name), 0, 0)
	v := make([]byte, varHeader)
	le.PutUint16(v, varStart)
	v[2] = varAdded
	le.PutUint32(v[4:], 7) // non-volatile, at boot and at run time
	le.PutUint32(v[36:], uint32(len(wide)))
	le.PutUint32(v[40:], uint32(len(data)))
	copy(v[44:], []byte{id[3], id[2], id[1], id[0], id[5], id[4], id[7], id[6]})
	copy(v[52:], id[8:])
	v = append(append(v, wide...), data...)
	if at+len(v) > end || bytes.Count(b[at:at+len(v)], []byte{erased}) != len(v) {
		return nil, errors.New("the store is full")
	}
	out := bytes.Clone(b)
	copy(out[at:], v)
	return out, nil
}

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
