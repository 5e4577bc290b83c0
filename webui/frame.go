package webui

import (
	"strings"

	"github.com/croft-os/croft/services/api"
)

// navItem is one place in the navigation.
type navItem struct {
	Href, Icon, Word string
	Current          bool
}

// section is the place in the navigation that a page belongs to, by the first part of its path.
func section(path string, owner bool) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "":
		return "home"
	case "alerts", "audit":
		return "activity"
	case "logs":
		return "services"
	case "invites":
		return "people"
	case "trust", "settings", "config", "network", "licences", "about", "power", "start-over", "name", "time-zone", "updates":
		if !owner {
			return "me"
		}
		return "box"
	}
	return first
}

// nav is the navigation of a page; empty for who is not signed in as a person.
func (c catalogue) nav(p *page) []navItem {
	if p.Session == nil || p.Session.Person == nil {
		return nil
	}
	owner := p.Session.Role == api.RoleOwner
	places := []string{"home", "services", "me"}
	if owner {
		places = []string{"home", "activity", "services", "people", "box"}
	}
	current := p.Section
	if current == "" {
		current = section(p.Path, owner)
	}
	var out []navItem
	for _, name := range places {
		href := "/" + name
		if name == "home" {
			href = "/"
		}
		out = append(out, navItem{href, "i-" + name, c.s("nav." + name), name == current})
	}
	return out
}

// input is a field for text: the templates "input" (one line) and "area" (several).
type input struct {
	Name, Label, Value string
	ID                 string // where several forms of a page have a field of that name; else the name
	Hint               string // below the field, always there
	Problem            string // what is wrong with what was typed
	Type               string // "text" if empty; a "password" is never filled in by the server
	Autocomplete       string // as HTML has it; "off" if empty
	Mode               string // which keyboard: "numeric", "email", …
	Suffix             string // after the field, such as ".local"
	Max                int    // characters
	Optional           bool
	Loose              bool // may stay empty as far as the browser knows
	Exact              bool // a code or a name of a machine: no capitals, corrections or dictionary
	Focus              bool // the cursor is here when the page opens; also where there is a problem
}

// At is the field's id.
func (i input) At() string {
	if i.ID != "" {
		return i.ID
	}
	return i.Name
}

// option is one of what can be chosen.
type option struct {
	Value, Label, Hint string
	On                 bool
}

// group is options under a heading; without one, just options.
type group struct {
	Label   string
	Options []option
}

// choice is a field to choose one of several: the templates "select" (many) and "radios" (few, each with a hint).
type choice struct {
	Name, Label, Hint, Problem string
	Groups                     []group
}

// At is the field's id.
func (c choice) At() string { return c.Name }

// check is a check box: the template "check".
type check struct {
	Name, Value, Label, Hint string
	On                       bool
}
