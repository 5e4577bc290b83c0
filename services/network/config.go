package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/google/renameio/v2"

	hwnet "github.com/croft-os/croft/hardware/network"
	"github.com/croft-os/croft/services/api"
)

const (
	maxConfig  = 64 << 10 // bytes
	maxNTP     = 8
	maxList    = 64
	configFile = "config.json"
)

// hostRE matches host names (RFC 1123 section 2.1).
var hostRE = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

// validate returns a *hwnet.ConfigError for the first wrong field.
func validate(c api.NetConfig) error {
	if err := toHardware(c).Validate(); err != nil {
		return err
	}
	if len(c.NTP) > maxNTP {
		return &hwnet.ConfigError{Path: "ntp", Text: fmt.Sprintf("There can be at most %d time servers.", maxNTP)}
	}
	for i, n := range c.NTP {
		if _, err := netip.ParseAddr(n); err != nil && (len(n) > 253 || !hostRE.MatchString(n)) {
			return &hwnet.ConfigError{Path: fmt.Sprintf("ntp[%d]", i), Text: "This is neither a host name nor an address."}
		}
	}
	return nil
}

// decodeConfig reads a configuration as an owner sends it. The error says at which path the first mistake is; a
// field that does not exist is one.
func decodeConfig(r io.Reader) (api.NetConfig, error) {
	var c api.NetConfig
	b, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return c, fmt.Errorf("read the configuration: %w", err)
	}
	if len(b) > maxConfig {
		return c, &hwnet.ConfigError{Text: "The configuration is too large."}
	}
	err = object("", b, map[string]func(string, json.RawMessage) error{
		"interfaces": func(path string, raw json.RawMessage) error {
			all, err := value[map[string]json.RawMessage](path, raw)
			for _, name := range slices.Sorted(maps.Keys(all)) {
				if err == nil {
					err = decodeInterface(path+"."+name, all[name], name, &c)
				}
			}
			return err
		},
		"ntp": func(path string, raw json.RawMessage) (err error) {
			c.NTP, err = list[string](path, raw)
			return err
		},
	})
	if err != nil {
		return api.NetConfig{}, err
	}
	return c, validate(c)
}

func decodeInterface(path string, raw json.RawMessage, name string, c *api.NetConfig) error {
	var s api.StaticConfig
	err := object(path, raw, map[string]func(string, json.RawMessage) error{
		"addresses": func(path string, raw json.RawMessage) (err error) {
			s.Addresses, err = list[netip.Prefix](path, raw)
			return err
		},
		"gateway": func(path string, raw json.RawMessage) (err error) {
			s.Gateway, err = value[netip.Addr](path, raw)
			return err
		},
		"dns": func(path string, raw json.RawMessage) (err error) {
			s.DNS, err = list[netip.Addr](path, raw)
			return err
		},
	})
	if c.Interfaces == nil {
		c.Interfaces = map[string]api.StaticConfig{}
	}
	c.Interfaces[name] = s
	return err
}

// object decodes the fields of a JSON object, in alphabetical order.
func object(path string, raw json.RawMessage, fields map[string]func(string, json.RawMessage) error) error {
	all, err := value[map[string]json.RawMessage](path, raw)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		at := name
		if path != "" {
			at = path + "." + name
		}
		decode := fields[name]
		if decode == nil {
			return &hwnet.ConfigError{Path: at, Text: "There is no such setting."}
		}
		if err := decode(at, all[name]); err != nil {
			return err
		}
	}
	return nil
}

func list[T any](path string, raw json.RawMessage) ([]T, error) {
	all, err := value[[]json.RawMessage](path, raw)
	if err != nil {
		return nil, err
	}
	if len(all) > maxList {
		return nil, &hwnet.ConfigError{Path: path, Text: "The list is too long."}
	}
	var out []T
	for i, r := range all {
		v, err := value[T](fmt.Sprintf("%s[%d]", path, i), r)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func value[T any](path string, raw json.RawMessage) (v T, err error) {
	if err := json.Unmarshal(raw, &v); err != nil {
		text := "This can't be read."
		switch any(v).(type) {
		case netip.Addr:
			text = "Write an address, such as 192.168.1.1."
		case netip.Prefix:
			text = "Write the address and the length of its network, such as 192.168.1.5/24."
		case string:
			text = "Write a text in quotes."
		}
		return v, &hwnet.ConfigError{Path: path, Text: text}
	}
	return v, nil
}

// load reads the saved configuration. One that can't be used is set aside, so that the box is still reached by DHCP.
func (s *service) load() api.NetConfig {
	if s.dir == "" {
		return api.NetConfig{}
	}
	path := filepath.Join(s.dir, configFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return api.NetConfig{}
	}
	var c api.NetConfig
	if err == nil {
		err = json.Unmarshal(b, &c) // fields that a later version added are ignored
	}
	if err == nil {
		err = validate(c)
	}
	if err != nil {
		s.log.Error("the saved network settings can't be used; using DHCP", "err", err, "set aside", path+".bad")
		if err := os.Rename(path, path+".bad"); err != nil {
			s.log.Error("can't set them aside", "err", err)
		}
		return api.NetConfig{}
	}
	return c
}

func (s *service) save(c api.NetConfig) error {
	if s.dir == "" {
		return nil
	}
	b, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, configFile)
	if err := renameio.WriteFile(path, append(b, '\n'), 0o600, renameio.WithTempDir(s.dir)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
