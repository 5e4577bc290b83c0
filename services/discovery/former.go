package discovery

import (
	"maps"
	"slices"
	"time"
)

const maxFormerNames = 4

// formerNameFor is how long a former name is answered for; only tests change it.
var formerNameFor = 30 * time.Minute

// formerName is a name that was ours until the owner gave the box another one. Pages are still open under it, that of
// set-up for one, and what signed them in belongs to that name. It is answered for where it was announced, but neither
// probed for nor defended: as soon as somebody else wants it, it is his, without a word from us.
type formerName struct {
	name, host string
	until      time.Time
	paths      []*path // announced
}

// leave makes the name a former one, where it is ours; the caller sets another.
func (r *responder) leave(now time.Time) {
	f := &formerName{name: r.name, host: r.host, until: now.Add(formerNameFor)}
	for _, p := range r.paths {
		if p.state == announced {
			q := *p
			q.former, q.at, q.last = r.host, time.Time{}, maps.Clone(p.last)
			f.paths = append(f.paths, &q)
		}
	}
	if len(f.paths) > 0 {
		r.formerNames = append(r.formerNames, f)
	}
}

// expire says goodbye to the former names whose time is over, and to the oldest of too many.
func (r *responder) expire(now time.Time) {
	for len(r.formerNames) > maxFormerNames || len(r.formerNames) > 0 && !now.Before(r.formerNames[0].until) {
		r.goodbye(r.formerNames[0].paths)
		r.formerNames = r.formerNames[1:]
	}
}

// receiveFormer takes a packet for the former names.
func (r *responder) receiveFormer(now time.Time, in inPacket, own bool, who asker) {
	r.formerNames = slices.DeleteFunc(r.formerNames, func(f *formerName) bool {
		m, err := parse(in.data, f.host)
		if err != nil {
			return false
		}
		if !own && (m.response && in.src.Port() == mdnsPort && r.claimed(m) || !m.response && r.foreign(m.authority)) {
			r.log.Info("somebody else wants a former name; it is no longer ours", "name", f.host, "from", in.src.Addr())
			return true
		}
		if m.response {
			return false
		}
		m.questions = slices.DeleteFunc(m.questions, func(q question) bool { return q.reverse != "" })
		for _, p := range f.paths {
			if p.pathKey == in.path {
				r.answer(now, p, m, who)
			}
		}
		return false
	})
}

// all are the paths of the name that the box has, and of its former ones.
func (r *responder) all() []*path {
	paths := slices.Clone(r.paths)
	for _, f := range r.formerNames {
		paths = append(paths, f.paths...)
	}
	return paths
}
