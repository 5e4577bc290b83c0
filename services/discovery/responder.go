package discovery

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/croft-os/croft/services/api"
)

// Times of RFC 6762.
const (
	probeGap      = 250 * time.Millisecond // 8.1: between probes, and the most before the first
	probeCount    = 3                      // 8.1
	tieWait       = time.Second            // 8.2: after a lost tie-break
	announceCount = 3                      // 8.3: at 0, 1 and 3 s
	announceGap   = time.Second            // 8.3: doubles
	multicastGap  = time.Second            // 6: of one record on one path
	defendGap     = 250 * time.Millisecond // 6: the same, when somebody probes for our name
	freshFor      = hostTTL / 4 * time.Second
	conflictSpan  = 10 * time.Second // 8.1: so many conflicts within this time …
	conflictCount = 15
	conflictWait  = 5 * time.Second // … cost this wait
	formerAddrFor = time.Minute     // how long an address that was ours counts as ours, when our own packets come back late
	refreshAfter  = 4 * time.Second // see link.refreshAt
	refreshGap    = time.Minute
)

const mdnsPort = 5353

type family uint8

const (
	ipv4Family family = 4
	ipv6Family family = 6
)

// pathKey names one family on one interface: where packets come from and go to.
type pathKey struct {
	index int
	fam   family
}

func comparePaths(a, b pathKey) int {
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.fam, b.fam))
}

// group is where Multicast DNS of this family is spoken.
func (k pathKey) group() netip.AddrPort {
	if k.fam == ipv4Family {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 251}), mdnsPort)
	}
	return netip.AddrPortFrom(netip.MustParseAddr("ff02::fb"), mdnsPort)
}

// iface is one network interface as the system has it.
type iface struct {
	index int
	name  string
	addrs []netip.Addr   // to be published, at most maxAddrs of each family
	own   []netip.Prefix // all, with their networks
}

// inPacket came in on a path; dst tells multicast from unicast.
type inPacket struct {
	path pathKey
	src  netip.AddrPort
	dst  netip.Addr
	data []byte
}

// outPacket is to go out on a path; src is the sender's address, or invalid to leave it to the system.
type outPacket struct {
	path pathKey
	src  netip.Addr
	dst  netip.AddrPort
	data []byte
}

// responder is the host responder's state machine. It has no sockets and no clock: every method is told the time,
// next says when tick is due, and send takes what goes out. It is used by one goroutine.
//
// The name is one for the whole box. Each path probes, announces and answers by itself; a conflict on one path makes
// all paths of that interface probe again, and a lost name is given up everywhere.
type responder struct {
	send func(outPacket)
	log  *slog.Logger
	rand *rand.Rand
	// machine reports whether this machine has an address at this very moment. Another program here, zeroconf for
	// one, may use a new address before we have heard of it, which is no conflict.
	machine func(netip.Addr) bool

	wanted      string // label
	tries       int    // names tried, 1 at the start
	name        string // label
	host        string // fully qualified
	conflict    string
	links       []*link // by index
	paths       []*path // by key
	formerAddrs map[netip.Addr]time.Time
	conflicts   []time.Time // the last ones, at most conflictCount
	epochs      int

	formerNames []*formerName // oldest first
}

// link is an interface in use.
type link struct {
	iface
	// epoch changes whenever DNS-SD must be announced anew here: the interface came, or somebody else claimed our
	// name a moment ago. Giving the name up, he says goodbye to service records that look like ours
	// (grandcat/zeroconf does), so caches lose ours.
	epoch     int
	refreshAt time.Time // when the epoch is to change; zero if not
	refreshed time.Time // when it last did
}

type pathState uint8

const (
	probing pathState = iota
	announced
)

type path struct {
	pathKey
	former string // the former name that it is about, fully qualified; empty for the name that the box has
	link   *link
	state  pathState
	sent   int       // probes or announcements since the state began
	at     time.Time // when the next one is due; zero if none

	last      map[rr]time.Time // when a record was last multicast here
	pending   []rr             // to be multicast at pendingAt, for it was multicast too short ago
	pendingAt time.Time

	in  bucket  // packets taken
	out *bucket // unicast answers given, about former names too
}

// bucket is a token bucket.
type bucket struct {
	level float64
	at    time.Time
}

func (b *bucket) take(now time.Time, perSecond, burst float64) bool {
	if b.at.IsZero() {
		b.level = burst
	} else {
		b.level = min(burst, b.level+now.Sub(b.at).Seconds()*perSecond)
	}
	b.at = now
	if b.level < 1 {
		return false
	}
	b.level--
	return true
}

func newResponder(wanted string, log *slog.Logger, random *rand.Rand, machine func(netip.Addr) bool,
	send func(outPacket),
) *responder {
	r := &responder{
		send: send, log: log, rand: random, machine: machine,
		wanted: wanted, tries: 1, formerAddrs: map[netip.Addr]time.Time{},
	}
	r.setName(wanted)
	return r
}

func (r *responder) setName(label string) {
	r.name, r.host = label, label+".local."
	r.formerNames = slices.DeleteFunc(r.formerNames, func(f *formerName) bool { return f.name == label })
}

// nextName is the n-th name to try: "croft", "croft-2", "croft-3". A label has at most 63 bytes.
func nextName(wanted string, n int) string {
	if n == 1 {
		return wanted
	}
	suffix := fmt.Sprintf("-%d", n)
	return strings.TrimRight(wanted[:min(len(wanted), 63-len(suffix))], "-") + suffix
}

// state is one of api.Discovery's.
func (r *responder) state() string {
	switch {
	case len(r.paths) == 0:
		return "no-network"
	case slices.ContainsFunc(r.paths, func(p *path) bool { return p.state == announced }):
		return "announced"
	default:
		return "probing"
	}
}

func (r *responder) status() api.Discovery {
	d := api.Discovery{Wanted: r.wanted, Name: r.name, Conflict: r.conflict, State: r.state()}
	for _, f := range r.formerNames {
		d.Former = append(d.Former, f.name)
	}
	return d
}

// serving returns the interfaces where the name is ours, by index, each with its epoch.
func (r *responder) serving() map[int]int {
	s := map[int]int{}
	for _, p := range r.paths {
		if p.state == announced {
			s[p.index] = p.link.epoch
		}
	}
	return s
}

// setLinks tells which interfaces there are, and on which paths packets can be sent.
func (r *responder) setLinks(now time.Time, ifaces []iface, open []pathKey) {
	var links []*link
	for _, i := range ifaces {
		if !slices.ContainsFunc(open, func(k pathKey) bool { return k.index == i.index }) {
			continue
		}
		l := r.link(i.index)
		if l == nil {
			r.epochs++
			l = &link{iface: iface{index: i.index}, epoch: r.epochs}
		}
		links = append(links, l)
	}
	r.forgetFormerAddrs(now)
	for _, old := range r.links {
		for _, a := range old.own {
			r.formerAddrs[a.Addr()] = now.Add(formerAddrFor)
		}
	}
	r.links = links
	gone := func(p *path) bool { return !slices.Contains(open, p.pathKey) || !slices.Contains(links, p.link) }
	r.paths = slices.DeleteFunc(r.paths, gone)
	r.formerNames = slices.DeleteFunc(r.formerNames, func(f *formerName) bool {
		f.paths = slices.DeleteFunc(f.paths, gone)
		return len(f.paths) == 0
	})
	for _, i := range ifaces {
		n := slices.IndexFunc(links, func(l *link) bool { return l.index == i.index })
		if n < 0 {
			continue
		}
		l := links[n]
		r.changeLink(now, l, i)
		for _, k := range open {
			if k.index == i.index && r.path(k) == nil {
				r.paths = append(r.paths, &path{
					pathKey: k, link: l, at: r.firstProbe(now), last: map[rr]time.Time{}, out: &bucket{},
				})
				r.log.Info("found a network", "interface", l.name, "ipv", k.fam, "probing", r.host)
			}
		}
	}
	slices.SortFunc(r.paths, func(a, b *path) int { return comparePaths(a.pathKey, b.pathKey) })
}

// changeLink gives a link its addresses; the ones that went are said goodbye to, and what remains is announced
// (8.4).
func (r *responder) changeLink(now time.Time, l *link, i iface) {
	before := l.addrs
	l.iface = i
	if slices.Equal(before, i.addrs) {
		return
	}
	var gone []rr
	for _, a := range before {
		if !slices.Contains(i.addrs, a) {
			gone = append(gone, addressRecord(a))
		}
	}
	for _, p := range r.all() {
		if p.link != l || p.state != announced {
			continue
		}
		if len(gone) > 0 {
			r.multicast(p, outgoing{response: true, answers: gone})
		}
		clear(p.last)
		p.pending = nil
		p.sent, p.at = 0, now
	}
}

func (r *responder) forgetFormerAddrs(now time.Time) {
	for a, until := range r.formerAddrs {
		if now.After(until) {
			delete(r.formerAddrs, a)
		}
	}
}

func (r *responder) link(index int) *link {
	for _, l := range r.links {
		if l.index == index {
			return l
		}
	}
	return nil
}

func (r *responder) path(k pathKey) *path {
	for _, p := range r.paths {
		if p.pathKey == k {
			return p
		}
	}
	return nil
}

// firstProbe is when probing that is decided upon now begins: after a random delay, or a longer one if there were
// many conflicts lately (8.1).
func (r *responder) firstProbe(now time.Time) time.Time {
	if len(r.conflicts) == conflictCount && now.Sub(r.conflicts[0]) < conflictSpan {
		return now.Add(conflictWait)
	}
	return now.Add(time.Duration(r.rand.Int64N(int64(probeGap))))
}

// next is when tick is due; zero if nothing is.
func (r *responder) next() time.Time {
	var t time.Time
	sooner := func(u time.Time) {
		if !u.IsZero() && (t.IsZero() || u.Before(t)) {
			t = u
		}
	}
	for _, f := range r.formerNames {
		sooner(f.until)
	}
	for _, p := range r.all() {
		sooner(p.at)
		if len(p.pending) > 0 {
			sooner(p.pendingAt)
		}
	}
	for _, l := range r.links {
		sooner(l.refreshAt)
	}
	return t
}

// tick does what is due.
func (r *responder) tick(now time.Time) {
	r.expire(now)
	for _, p := range r.all() {
		if !p.at.IsZero() && !now.Before(p.at) {
			r.step(now, p)
		}
		if len(p.pending) > 0 && !now.Before(p.pendingAt) {
			due := p.pending
			p.pending = nil
			r.multicastAnswers(now, p, due, nil)
		}
	}
	for _, l := range r.links {
		if !l.refreshAt.IsZero() && !now.Before(l.refreshAt) {
			r.epochs++
			l.epoch, l.refreshed, l.refreshAt = r.epochs, now, time.Time{}
		}
	}
}

// step sends the next probe or announcement.
func (r *responder) step(now time.Time, p *path) {
	if p.state == probing && p.sent < probeCount {
		// 8.1 suggests asking for unicast answers (QU). Port 5353 may be shared, and a unicast packet reaches only one
		// of its sockets, so the answers are asked for by multicast.
		name, err := dnsmessage.NewName(r.host)
		if err != nil {
			return
		}
		r.multicast(p, outgoing{
			questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeALL, Class: dnsmessage.ClassINET}},
			authority: p.link.addresses(),
			ttl:       hostTTL,
		})
		p.sent++
		p.at = now.Add(probeGap)
		return
	}
	if p.state == probing {
		p.state, p.sent = announced, 0
		r.log.Info("announced", "name", r.host, "interface", p.link.name, "ipv", p.fam, "addresses", p.link.addrs)
	}
	answers, extra := p.link.addresses(), []rr{{typ: typeNSEC}}
	r.multicast(p, outgoing{response: true, answers: answers, additional: extra, ttl: hostTTL, flush: true})
	p.mark(now, answers, extra)
	p.at = time.Time{}
	if p.sent++; p.sent < announceCount {
		p.at = now.Add(announceGap << (p.sent - 1))
	}
}

// stop says goodbye to all names.
func (r *responder) stop() {
	r.goodbye(r.all())
	r.paths, r.links, r.formerNames = nil, nil, nil
}

// goodbye takes a name back where it was announced (10.1).
func (r *responder) goodbye(paths []*path) {
	for _, p := range paths {
		if p.state == announced {
			r.multicast(p, outgoing{response: true, answers: p.link.addresses()})
		}
	}
}

// receive takes a packet.
func (r *responder) receive(now time.Time, in inPacket) {
	p := r.path(in.path)
	if p == nil || !p.in.take(now, 1000, 1000) {
		return
	}
	src := in.src.Addr().Unmap().WithZone("")
	direct := !in.dst.IsMulticast()
	onLink := p.link.onLink(src)
	if direct && !onLink { // section 11: not from this link
		return
	}
	m, err := parse(in.data, r.host)
	if err != nil {
		return
	}
	r.forgetFormerAddrs(now)
	own := r.isOwn(src)
	who := asker{addr: in.src, dst: in.dst, legacy: in.src.Port() != mdnsPort, direct: direct, onLink: onLink}
	r.receiveFormer(now, in, own, who)
	if m.response {
		if in.src.Port() == mdnsPort && !own { // section 6: others must be ignored
			r.response(now, p, m, src)
		}
		return
	}
	who.rival = !own && r.foreign(m.authority)
	if p.state == probing {
		if who.rival {
			r.tieBreak(now, p, m.authority)
		}
		return
	}
	if who.rival && p.link.refreshAt.IsZero() && (p.link.refreshed.IsZero() || now.Sub(p.link.refreshed) > refreshGap) {
		p.link.refreshAt = now.Add(refreshAfter)
	}
	r.answer(now, p, m, who)
}

// claimed reports whether somebody's response gives a name an address that is not ours (section 9).
func (r *responder) claimed(m *message) bool {
	return slices.ContainsFunc(slices.Concat(m.answers, m.extra), func(x record) bool {
		return x.ttl != 0 && x.addr.IsValid() && !r.isOwn(x.addr) && !r.machine(x.addr)
	})
}

// response looks for a conflict in somebody's response.
func (r *responder) response(now time.Time, p *path, m *message, src netip.Addr) {
	if !r.claimed(m) {
		return
	}
	if r.conflicts = append(r.conflicts, now); len(r.conflicts) > conflictCount {
		r.conflicts = r.conflicts[1:]
	}
	if p.state == announced {
		// Whoever really has the name will answer the probes, and we answered his.
		r.log.Warn("somebody else uses our name; asking again whose it is", "name", r.host, "from", src)
		at := r.firstProbe(now)
		for _, q := range r.paths {
			if q.link == p.link {
				q.reset(at)
			}
		}
		if p.link.refreshed.IsZero() || now.Sub(p.link.refreshed) > refreshGap {
			p.link.refreshAt = now.Add(refreshAfter)
		}
		return
	}
	// Only an answer to a probe counts. What both sides sent before either noticed, such as the same answer over the
	// other family, must not make both give up; nor may a flood of answers to nothing drive us from name to name.
	if p.sent > 0 {
		r.rename(now, src)
	}
}

func (p *path) reset(at time.Time) {
	p.state, p.sent, p.at, p.pending = probing, 0, at, nil
	clear(p.last)
}

// rename gives the name up and goes on with the next one (9).
func (r *responder) rename(now time.Time, src netip.Addr) {
	r.goodbye(r.paths)
	lost := r.name
	r.tries++
	r.setName(nextName(r.wanted, r.tries))
	r.conflict = fmt.Sprintf("This box is reached at %s.local for now, because another device on your network already "+
		"uses %s.local. Give one of the two a different name.", r.name, r.wanted)
	r.log.Warn("the name is taken", "lost", lost, "new", r.name, "owner", src)
	at := r.firstProbe(now)
	for _, p := range r.paths {
		p.reset(at)
		p.link.refreshAt = time.Time{}
	}
}

// want gives the box another name, which is probed for everywhere. What it has now becomes a former name.
func (r *responder) want(now time.Time, label string) {
	if label == r.wanted {
		return
	}
	r.leave(now)
	r.log.Info("the box gets another name", "old", r.wanted, "new", label)
	r.wanted, r.tries, r.conflict, r.conflicts = label, 1, "", nil
	r.setName(label)
	r.expire(now)
	at := r.firstProbe(now)
	for _, p := range r.paths {
		p.reset(at)
		p.link.refreshAt = time.Time{}
	}
}

// tieBreak compares what somebody else who is probing for our name wants to publish with our own, section 8.2. The
// lexicographically later set wins; the loser waits and asks again, by when the winner answers. All paths of the
// interface wait, lest each side wins one family.
func (r *responder) tieBreak(now time.Time, p *path, theirs []record) {
	var ours []record
	for _, a := range p.link.addresses() {
		ours = append(ours, record{class: dnsmessage.ClassINET, typ: a.typ, addr: a.addr})
	}
	slices.SortFunc(ours, compareRecords)
	slices.SortFunc(theirs, compareRecords)
	if slices.CompareFunc(ours, theirs, compareRecords) >= 0 {
		return
	}
	if p.sent > 0 { // else it is waiting already
		r.log.Info("another box asks for the same name at the same time; letting it go first", "name", r.host)
	}
	for _, q := range r.paths {
		if q.link == p.link && q.state == probing {
			q.reset(now.Add(tieWait))
		}
	}
}

// compareRecords orders by class, type and data (8.2). Data other than addresses is not known, and not needed: our
// own records are addresses.
func compareRecords(a, b record) int {
	return cmp.Or(
		cmp.Compare(a.class, b.class), cmp.Compare(a.typ, b.typ),
		bytes.Compare(a.addr.AsSlice(), b.addr.AsSlice()),
	)
}

// foreign reports whether any of these records of our name is not one of ours, on whichever interface: a network may be
// reached by two interfaces, or a router may repeat packets from one network to another.
func (r *responder) foreign(records []record) bool {
	return slices.ContainsFunc(records, func(x record) bool { return !x.addr.IsValid() || !r.isOwn(x.addr) })
}

func (r *responder) isOwn(addr netip.Addr) bool {
	if _, ok := r.formerAddrs[addr]; ok {
		return true
	}
	for _, l := range r.links {
		for _, o := range l.own {
			if o.Addr() == addr {
				return true
			}
		}
	}
	return false
}

// asker is who asked, and how.
type asker struct {
	addr   netip.AddrPort
	dst    netip.Addr
	legacy bool // one-shot, from a port of its own (6.7)
	direct bool // by unicast (5.5)
	onLink bool
	rival  bool // probing for our name
}

// answer answers the questions of a message.
func (r *responder) answer(now time.Time, p *path, m *message, who asker) {
	var want []rr
	var asked []dnsmessage.Question
	unicast := true
	for _, q := range m.questions {
		found := p.link.lookup(q)
		if len(found) == 0 {
			continue
		}
		for _, a := range found {
			if !slices.Contains(want, a) {
				want = append(want, a)
			}
		}
		asked = append(asked, q.asked)
		unicast = unicast && q.unicast
	}
	if !who.legacy {
		want = slices.DeleteFunc(want, func(a rr) bool { return known(a, m.answers) })
	}
	switch {
	case len(want) == 0:
	case who.legacy:
		if who.onLink && len(asked) <= maxEchoed && p.out.take(now, 50, 100) {
			for i := range asked {
				asked[i].Class &^= topBit
			}
			r.unicast(p, who, outgoing{
				response: true, id: m.id, questions: asked,
				answers: want, additional: p.additional(want, m.answers), ttl: legacyTTL,
			})
		}
	case who.onLink && (who.direct || unicast && !who.rival && p.fresh(now, want)):
		if p.out.take(now, 50, 100) {
			r.unicast(p, who, outgoing{
				response: true, id: m.id,
				answers: want, additional: p.additional(want, m.answers), ttl: hostTTL, flush: true,
			})
		}
	default:
		gap := multicastGap
		if who.rival {
			gap = defendGap
		}
		var due []rr
		for _, a := range want {
			last, ok := p.last[a]
			switch {
			case !ok || now.Sub(last) >= gap:
				due = append(due, a)
			case !slices.Contains(p.pending, a):
				p.pending = append(p.pending, a)
				if at := last.Add(gap); at.After(p.pendingAt) {
					p.pendingAt = at
				}
			}
		}
		r.multicastAnswers(now, p, due, m.answers)
	}
}

// multicastAnswers multicasts answers and what is likely to be asked for next.
func (r *responder) multicastAnswers(now time.Time, p *path, answers []rr, given []record) {
	if len(answers) == 0 {
		return
	}
	extra := slices.DeleteFunc(p.additional(answers, given), func(a rr) bool {
		last, ok := p.last[a]
		return ok && now.Sub(last) < multicastGap
	})
	r.multicast(p, outgoing{response: true, answers: answers, additional: extra, ttl: hostTTL, flush: true})
	p.mark(now, answers, extra)
}

// mark remembers that records were multicast.
func (p *path) mark(now time.Time, sets ...[]rr) {
	for _, set := range sets {
		for _, a := range set {
			p.last[a] = now
			p.pending = slices.DeleteFunc(p.pending, func(b rr) bool { return a == b })
		}
	}
}

// fresh reports whether all these records were multicast within a quarter of their time to live (5.4).
func (p *path) fresh(now time.Time, records []rr) bool {
	return !slices.ContainsFunc(records, func(a rr) bool {
		last, ok := p.last[a]
		return !ok || now.Sub(last) > freshFor
	})
}

// additional is what goes with answers about the host: its other addresses, and which types it has, so that nobody
// waits for one that does not exist (6.1, 6.2).
func (p *path) additional(answers []rr, given []record) []rr {
	if !slices.ContainsFunc(answers, func(a rr) bool { return a.typ != dnsmessage.TypePTR }) {
		return nil
	}
	return slices.DeleteFunc(append(p.link.addresses(), rr{typ: typeNSEC}), func(a rr) bool {
		return slices.Contains(answers, a) || known(a, given)
	})
}

// known reports whether the asker has that record, with at least half of its time to live left (7.1).
func known(a rr, given []record) bool {
	return slices.ContainsFunc(given, func(k record) bool {
		return k.class == dnsmessage.ClassINET && k.typ == a.typ && k.addr.IsValid() && k.addr == a.addr &&
			k.ttl >= hostTTL/2
	})
}

// lookup finds the records that answer a question here.
func (l *link) lookup(q question) []rr {
	if q.reverse != "" {
		if q.typ == dnsmessage.TypePTR || q.typ == dnsmessage.TypeALL {
			for _, a := range l.addrs {
				if reverseName(a) == q.reverse {
					return []rr{{dnsmessage.TypePTR, a}}
				}
			}
		}
		return nil
	}
	found := l.addresses()
	if q.typ != dnsmessage.TypeALL {
		found = slices.DeleteFunc(found, func(a rr) bool { return a.typ != q.typ })
	}
	if len(found) == 0 {
		found = append(found, rr{typ: typeNSEC})
	}
	return found
}

// addresses are the address records of this link.
func (l *link) addresses() []rr {
	set := make([]rr, 0, len(l.addrs)+1)
	for _, a := range l.addrs {
		set = append(set, addressRecord(a))
	}
	return set
}

func addressRecord(a netip.Addr) rr {
	if a.Is4() {
		return rr{dnsmessage.TypeA, a}
	}
	return rr{dnsmessage.TypeAAAA, a}
}

// types are the address types that exist here.
func (l *link) types() []dnsmessage.Type {
	var t []dnsmessage.Type
	for _, a := range l.addresses() {
		if !slices.Contains(t, a.typ) {
			t = append(t, a.typ)
		}
	}
	return t
}

// onLink reports whether an address belongs to this link: to one of its networks, or to the link-local ones.
func (l *link) onLink(addr netip.Addr) bool {
	return addr.IsLinkLocalUnicast() ||
		slices.ContainsFunc(l.own, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (r *responder) multicast(p *path, o outgoing) {
	r.emit(p, outPacket{path: p.pathKey, dst: p.group()}, o)
}

func (r *responder) unicast(p *path, who asker, o outgoing) {
	out := outPacket{path: p.pathKey, dst: who.addr}
	if who.direct {
		out.src = who.dst
	}
	r.emit(p, out, o)
}

func (r *responder) emit(p *path, out outPacket, o outgoing) {
	data, err := build(cmp.Or(p.former, r.host), p.link.types(), o)
	if err != nil {
		r.log.Warn("can't build an answer", "err", err)
		return
	}
	out.data = data
	r.send(out)
}
