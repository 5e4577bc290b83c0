package webui

import (
	_ "embed"
	"slices"
	"strings"
)

// zoneNames are the names of zone.tab of the IANA time zone database, and UTC. What is not among them still counts if
// core knows it: a phone's own name for its zone may be an older one.
//
//go:embed zones.txt
var zoneNames string

// zones are all time zones to choose from, by continent. current is there and chosen, whatever its name.
func (c catalogue) zones(current string) []group {
	if current == "" {
		current = "UTC"
	}
	names := strings.Fields(zoneNames)
	if !slices.Contains(names, current) {
		names = append([]string{current}, names...)
	}
	var out []group
	last := ""
	for _, name := range names {
		area, place, found := strings.Cut(name, "/")
		if !found {
			area, place = "", name
		}
		if len(out) == 0 || last != area {
			label := area
			if label != "" {
				label = c.or("zone-area."+area, area)
			}
			out, last = append(out, group{Label: label}), area
		}
		g := &out[len(out)-1]
		label := strings.NewReplacer("_", " ", "/", ", ").Replace(place)
		g.Options = append(g.Options, option{Value: name, Label: label, On: name == current})
	}
	return out
}
