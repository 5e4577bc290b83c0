package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/croft-os/croft/services/api"
)

// Bounds of a document.
const (
	MaxSize     = 64 << 10 // bytes
	maxDepth    = 8        // of what is in one another
	maxValues   = 4096     // objects, lists, texts, numbers, … altogether
	maxProblems = 20       // that are told; the first ones
	maxPath     = 512      // bytes of a path that are told
	maxPeople   = 200
)

// Problems are all that is wrong with a document.
type Problems []api.FieldProblem

func (p Problems) Error() string {
	if len(p) == 0 {
		return "the document can't be used"
	}
	return "the document can't be used: " + p[0].Path + ": " + p[0].Text
}

// ErrNotJSON says that a document is no JSON at all, or too large or too deep to be one of ours.
var ErrNotJSON = errors.New("the document is no JSON")

// Parse reads a document and validates it. What is unknown, missing, twice there or of another kind than docs/config.md
// says is refused. The error is a Problems, or wraps ErrNotJSON.
func Parse(b []byte) (api.Config, error) {
	if len(b) > MaxSize {
		return api.Config{}, fmt.Errorf("%w: over %d bytes", ErrNotJSON, MaxSize)
	}
	root, err := readTree(b)
	if err != nil {
		return api.Config{}, fmt.Errorf("%w: %w", ErrNotJSON, err)
	}
	var r reader
	c := r.config(root)
	if len(r.problems) == 0 {
		c, r.problems = Validate(c)
	}
	if len(r.problems) > 0 {
		return api.Config{}, Problems(r.problems)
	}
	return c, nil
}

// node is a JSON value as it stands in the text: what encoding/json would pass over, such as a field that is there
// twice, is still seen.
type node struct {
	kind    byte // '{', '[', '"', 'b' (true or false, in text) or, for all else, 'x'
	text    string
	members []member
	items   []*node
}

type member struct {
	name  string
	value *node
}

func readTree(b []byte) (*node, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("no UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	left := maxValues
	n, err := readNode(d, 0, &left)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the document")
	}
	return n, nil
}

func readNode(d *json.Decoder, depth int, left *int) (*node, error) {
	if depth > maxDepth {
		return nil, errors.New("too deep")
	}
	if *left--; *left < 0 {
		return nil, errors.New("too many values")
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case string:
		return &node{kind: '"', text: t}, nil
	case json.Delim:
		n := &node{kind: byte(t)}
		for d.More() {
			var name string
			if t == '{' {
				key, err := d.Token()
				if err != nil {
					return nil, err
				}
				name, _ = key.(string) // the decoder accepts nothing else here
			}
			v, err := readNode(d, depth+1, left)
			if err != nil {
				return nil, err
			}
			if t == '{' {
				n.members = append(n.members, member{name, v})
			} else {
				n.items = append(n.items, v)
			}
		}
		_, err := d.Token() // what ends it
		return n, err
	case bool:
		return &node{kind: 'b', text: strconv.FormatBool(t)}, nil
	default:
		return &node{kind: 'x'}, nil
	}
}

// reader turns nodes into a document and collects what is wrong with them.
type reader struct{ problems []api.FieldProblem }

func (r *reader) wrong(path, code, text string) {
	if len(path) > maxPath { // some unknown field's
		path = strings.ToValidUTF8(path[:maxPath], "") + "…"
	}
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, api.FieldProblem{Path: path, Code: code, Text: text})
	}
}

func (r *reader) config(n *node) api.Config {
	c := api.Config{People: []api.ConfigPerson{}}
	if n.kind == '{' { // another version is told as such, whatever else it has
		for _, m := range n.members {
			if m.name == "format" && (m.value.kind != '"' || m.value.text != api.ConfigFormat) {
				r.wrong("/format", "format", "This is not a configuration that this version of Croft can read.")
				return c
			}
		}
	}
	r.object("", n, map[string]func(string, *node){
		"format":    func(path string, n *node) { c.Format = r.text(path, n) },
		"name":      func(path string, n *node) { c.Name = r.text(path, n) },
		"time_zone": func(path string, n *node) { c.TimeZone = r.text(path, n) },
		"network":   func(path string, n *node) { c.Network = r.network(path, n) },
		"people": func(path string, n *node) {
			r.list(path, n, maxPeople, func(path string, n *node) { c.People = append(c.People, r.person(path, n)) })
		},
		"updates": func(path string, n *node) { c.Updates = r.updates(path, n) },
		"witness": func(path string, n *node) { c.Witness = r.witness(path, n) },
	}, "format", "name", "time_zone", "network", "people")
	return c
}

func (r *reader) person(path string, n *node) api.ConfigPerson {
	var p api.ConfigPerson
	r.object(path, n, map[string]func(string, *node){
		"name": func(path string, n *node) { p.Name = r.text(path, n) },
		"role": func(path string, n *node) { p.Role = r.text(path, n) },
	}, "name", "role")
	return p
}

func (r *reader) network(path string, n *node) api.NetConfig {
	var c api.NetConfig
	r.object(path, n, map[string]func(string, *node){
		"interfaces": func(path string, n *node) {
			if !r.kind(path, n, '{') {
				return
			}
			c.Interfaces = map[string]api.StaticConfig{}
			for _, m := range n.members {
				at := pointer(path, m.name)
				if _, ok := c.Interfaces[m.name]; ok {
					r.wrong(at, "duplicate", "This is there twice.")
					continue
				}
				c.Interfaces[m.name] = r.static(at, m.value)
			}
			if len(c.Interfaces) == 0 {
				c.Interfaces = nil
			}
		},
		"ntp": func(path string, n *node) {
			r.list(path, n, maxNTP, func(path string, n *node) { c.NTP = append(c.NTP, r.text(path, n)) })
		},
	})
	return c
}

func (r *reader) static(path string, n *node) api.StaticConfig {
	s := api.StaticConfig{Addresses: []netip.Prefix{}}
	r.object(path, n, map[string]func(string, *node){
		"addresses": func(path string, n *node) {
			r.list(path, n, maxList, func(path string, n *node) {
				p, err := netip.ParsePrefix(r.text(path, n))
				if n.kind == '"' && err != nil {
					r.wrong(path, "address", "Write the address and the length of its network, such as 192.168.1.5/24.")
				}
				s.Addresses = append(s.Addresses, p)
			})
		},
		"gateway": func(path string, n *node) { s.Gateway = r.address(path, n) },
		"dns": func(path string, n *node) {
			r.list(path, n, maxList, func(path string, n *node) { s.DNS = append(s.DNS, r.address(path, n)) })
		},
	}, "addresses")
	return s
}

func (r *reader) address(path string, n *node) netip.Addr {
	a, err := netip.ParseAddr(r.text(path, n))
	if n.kind == '"' && err != nil {
		r.wrong(path, "address", "Write an address, such as 192.168.1.1.")
	}
	return a
}

func (r *reader) text(path string, n *node) string {
	r.kind(path, n, '"')
	return n.text
}

func (r *reader) yes(path string, n *node) bool { return r.kind(path, n, 'b') && n.text == "true" }

func (r *reader) list(path string, n *node, most int, item func(string, *node)) {
	if !r.kind(path, n, '[') {
		return
	}
	if len(n.items) > most {
		r.wrong(path, "too-long", fmt.Sprintf("There can be at most %d entries.", most))
		return
	}
	for i, v := range n.items {
		item(pointer(path, strconv.Itoa(i)), v)
	}
}

// object reads the fields of an object, each of which may be there once, and those that are needed must be.
func (r *reader) object(path string, n *node, fields map[string]func(string, *node), needed ...string) {
	if !r.kind(path, n, '{') {
		return
	}
	seen := map[string]bool{}
	for _, m := range n.members {
		at := pointer(path, m.name)
		read := fields[m.name]
		switch {
		case read == nil:
			r.wrong(at, "unknown", "There is no such field.")
		case seen[m.name]:
			r.wrong(at, "duplicate", "This is there twice.")
		default:
			seen[m.name] = true
			read(at, m.value)
		}
	}
	for _, name := range needed {
		if !seen[name] {
			r.wrong(pointer(path, name), "missing", "This is missing.")
		}
	}
}

func (r *reader) kind(path string, n *node, want byte) bool {
	if n.kind == want {
		return true
	}
	r.wrong(path, "type", map[byte]string{
		'{': "This has to be an object in braces.", '[': "This has to be a list in brackets.", '"': "This has to be a text in quotes.",
		'b': "This has to be true or false.",
	}[want])
	return false
}

// pointer appends a token to a JSON pointer (RFC 6901 section 3).
func pointer(path, token string) string {
	return path + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(token)
}
