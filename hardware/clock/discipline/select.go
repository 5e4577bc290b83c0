package discipline

import (
	"cmp"
	"slices"
	"time"
)

// Sample is one server's answer.
type Sample struct {
	Server   string
	Offset   time.Duration // to add to the clock
	Distance time.Duration // root distance: the server's own bound on the error of its offset (RFC 5905 section 10)
	Stratum  int
}

// minDistance stands for what a server leaves out of its root distance, such as queues in one direction.
const minDistance = 5 * time.Millisecond

// selection is what the servers agree on.
type selection struct {
	offset  time.Duration
	bound   time.Duration // of the error
	servers []string      // that agree, by distance
}

// choose finds the offset that more than half of the samples hold possible, by the intersection of their intervals
// offset ± distance (RFC 5905 section 11.2.1; Marzullo 1984), and averages those that do, weighted by distance
// (section 11.2.3). It reports false without such a majority.
func choose(samples []Sample) (selection, bool) {
	type edge struct {
		at  time.Duration
		end bool
	}
	var edges []edge
	for _, s := range samples {
		d := max(s.Distance, minDistance)
		edges = append(edges, edge{s.Offset - d, false}, edge{s.Offset + d, true})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return cmp.Compare(a.at, b.at)
		}
		if a.end == b.end {
			return 0
		}
		if b.end {
			return -1
		}
		return 1
	})
	best, depth := 0, 0
	var low, high time.Duration
	for i, e := range edges {
		if e.end {
			depth--
			continue
		}
		if depth++; depth > best {
			best, low, high = depth, e.at, edges[i+1].at
		}
	}
	if best*2 <= len(samples) {
		return selection{}, false
	}
	var agree []Sample
	for _, s := range samples {
		d := max(s.Distance, minDistance)
		if s.Offset-d <= low && s.Offset+d >= high {
			agree = append(agree, s)
		}
	}
	slices.SortFunc(agree, func(a, b Sample) int { return cmp.Compare(a.Distance, b.Distance) })
	var sum, weights float64
	out := selection{}
	for _, s := range agree {
		w := 1 / max(s.Distance, minDistance).Seconds()
		sum += w * s.Offset.Seconds()
		weights += w
		out.servers = append(out.servers, s.Server)
	}
	out.offset = time.Duration(sum / weights * float64(time.Second))
	out.offset = min(max(out.offset, low), high) // what all of them hold possible
	out.bound = max(out.offset-low, high-out.offset)
	return out, true
}
