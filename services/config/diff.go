package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/text/secure/precis"

	"github.com/croft-os/croft/services/api"
)

const (
	interfacesPath = "/network/interfaces"
	ntpPath        = "/network/ntp"
	peoplePath     = "/people"
)

// parts are what a document consists of as far as differences go: each by its path, as JSON. A part that is not there is
// as if it were empty.
func parts(c api.Config) map[string]json.RawMessage {
	out := map[string]json.RawMessage{"/name": encode(c.Name), "/time_zone": encode(c.TimeZone)}
	for name, s := range c.Network.Interfaces {
		out[pointer(interfacesPath, name)] = encode(s)
	}
	if len(c.Network.NTP) > 0 {
		out[ntpPath] = encode(c.Network.NTP)
	}
	for _, p := range c.People {
		out[personPath(p.Name)] = encode(p)
	}
	updateParts(c.Updates, func(path string, v any) { out[path] = encode(v) })
	if c.Witness.On() {
		out[witnessPath] = encode(c.Witness)
	}
	return out
}

func personPath(name string) string { return pointer(peoplePath, name) }

// personKey is what people's names are compared by, as package identity does (RFC 8266).
func personKey(name string) string {
	if key, err := precis.Nickname.CompareKey(name); err == nil {
		return key
	}
	return name
}

// encode never fails for the types of a document.
func encode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("config: encode %T: %v", v, err))
	}
	return b
}

// Differences are what has to be changed to come from before to after, by path. The paths are /name, /time_zone,
// /network/interfaces/NAME, /network/ntp, /people/NAME, /updates/FIELD and /witness. Who is missing in after stays, so that is no difference.
func Differences(before, after api.Config) []api.Difference {
	b, a := parts(before), parts(after)
	for _, p := range before.People { // who is only spelled otherwise is no other person
		for _, q := range after.People {
			if p.Name != q.Name && personKey(p.Name) == personKey(q.Name) {
				a[personPath(p.Name)] = encode(q)
				delete(a, personPath(q.Name))
			}
		}
	}
	out := []api.Difference{}
	for _, path := range slices.Sorted(maps.Keys(union(b, a))) {
		if string(b[path]) == string(a[path]) || a[path] == nil && strings.HasPrefix(path, peoplePath+"/") {
			continue
		}
		out = append(out, api.Difference{Path: path, Before: b[path], After: a[path]})
	}
	return out
}

func union(a, b map[string]json.RawMessage) map[string]struct{} {
	out := make(map[string]struct{}, len(a)+len(b))
	for k := range a {
		out[k] = struct{}{}
	}
	for k := range b {
		out[k] = struct{}{}
	}
	return out
}

func isNetwork(d api.Difference) bool { return strings.HasPrefix(d.Path, "/network/") }

// back returns the document with the changes of these differences taken back; ok is false if a field is no longer as they
// left it, or if it is a person who came by them, for people are never removed by the document.
func back(c api.Config, diffs []api.Difference) (out api.Config, ok bool) {
	now := parts(c)
	out = c
	out.Network.Interfaces = maps.Clone(c.Network.Interfaces)
	out.People = slices.Clone(c.People)
	out.Updates.Mirrors = slices.Clone(c.Updates.Mirrors)
	for _, d := range diffs {
		if string(now[d.Path]) != string(d.After) || !set(&out, d.Path, d.Before) {
			return api.Config{}, false
		}
	}
	if len(out.Network.Interfaces) == 0 {
		out.Network.Interfaces = nil
	}
	return out, true
}

// set sets one part of a document; without a value it is taken out.
func set(c *api.Config, path string, value json.RawMessage) bool {
	read := func(v any) bool { return value != nil && json.Unmarshal(value, v) == nil }
	if token, ok := strings.CutPrefix(path, interfacesPath+"/"); ok {
		name := unescape(token)
		if value == nil {
			delete(c.Network.Interfaces, name)
			return true
		}
		if c.Network.Interfaces == nil {
			c.Network.Interfaces = map[string]api.StaticConfig{}
		}
		var s api.StaticConfig
		ok := read(&s)
		c.Network.Interfaces[name] = s
		return ok
	}
	if strings.HasPrefix(path, peoplePath+"/") {
		var p api.ConfigPerson
		if !read(&p) {
			return false
		}
		i := slices.IndexFunc(c.People, func(q api.ConfigPerson) bool { return q.Name == p.Name })
		if i < 0 {
			return false
		}
		c.People[i] = p
		return true
	}
	if field := updateField(&c.Updates, path); field != nil {
		reflect.ValueOf(field).Elem().SetZero()
		return value == nil || read(field)
	}
	switch path {
	case "/name":
		return read(&c.Name)
	case "/time_zone":
		return read(&c.TimeZone)
	case ntpPath:
		c.Network.NTP = nil
		return value == nil || read(&c.Network.NTP)
	case witnessPath:
		c.Witness = api.WitnessConfig{}
		return value == nil || read(&c.Witness)
	}
	return false
}

func unescape(token string) string { return strings.NewReplacer("~1", "/", "~0", "~").Replace(token) }

// ETag is the document's entity tag (RFC 9110 section 8.8.3).
func ETag(c api.Config) string {
	sum := sha256.Sum256(encode(c))
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}
