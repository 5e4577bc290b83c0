package discovery

import (
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// network is a simulated LAN with a clock of its own. What a responder sends arrives a millisecond later at all paths
// of the same segment, the sender's included.
type network struct {
	t     *testing.T
	now   time.Time
	rand  *rand.Rand
	boxes []*box
	queue []delivery
	sent  []sentPacket
	lose  float64 // probability that a packet is lost on its way to one receiver
}

type box struct {
	*responder
	net    *network
	ifaces []iface
	open   []pathKey
	seg    map[int]int // segment of each interface
}

type delivery struct {
	at  time.Time
	to  *box
	pkt inPacket
}

// sentPacket is what went out, parsed by an independent library.
type sentPacket struct {
	at  time.Duration // since the start
	by  *box
	pkt outPacket
	msg *dns.Msg
}

var start = time.Unix(1_800_000_000, 0)

func newNetwork(t *testing.T, seed uint64) *network {
	return &network{t: t, now: start, rand: rand.New(rand.NewPCG(seed, 1))}
}

// box adds a box, without interfaces.
func (n *network) box(name string) *box {
	b := &box{net: n, seg: map[int]int{}}
	log := slog.New(slog.DiscardHandler)
	b.responder = newResponder(name, log, n.rand, func(netip.Addr) bool { return false }, b.send)
	n.boxes = append(n.boxes, b)
	return b
}

// plug gives the box an interface in a segment, or changes its addresses.
func (b *box) plug(index, segment int, addrs ...string) {
	i := iface{index: index, name: fmt.Sprintf("eth%d", index)}
	b.ifaces = slices.DeleteFunc(b.ifaces, func(i iface) bool { return i.index == index })
	b.open = slices.DeleteFunc(b.open, func(k pathKey) bool { return k.index == index })
	for _, a := range addrs {
		p := netip.MustParsePrefix(a)
		i.own, i.addrs = append(i.own, p), append(i.addrs, p.Addr())
		k := pathKey{index, ipv6Family}
		if p.Addr().Is4() {
			k.fam = ipv4Family
		}
		if !slices.Contains(b.open, k) {
			b.open = append(b.open, k)
		}
	}
	if len(addrs) > 0 {
		b.ifaces = append(b.ifaces, i)
	}
	b.seg[index] = segment
	b.setLinks(b.net.now, b.ifaces, b.open)
}

// address is the source of what the box sends on a path.
func (b *box) address(k pathKey) netip.Addr {
	for _, i := range b.ifaces {
		for _, a := range i.addrs {
			if i.index == k.index && a.Is4() == (k.fam == ipv4Family) {
				return a
			}
		}
	}
	b.net.t.Fatalf("no address on %v", k)
	return netip.Addr{}
}

func (b *box) send(o outPacket) {
	n := b.net
	m := new(dns.Msg)
	if err := m.Unpack(o.data); err != nil {
		n.t.Errorf("sent what can't be parsed: %v: %x", err, o.data)
	}
	if len(o.data) > maxReply {
		n.t.Errorf("sent %d bytes", len(o.data))
	}
	n.sent = append(n.sent, sentPacket{at: n.now.Sub(start), by: b, pkt: o, msg: m})
	if !o.dst.Addr().IsMulticast() {
		return
	}
	src := netip.AddrPortFrom(b.address(o.path), mdnsPort)
	for _, to := range n.boxes {
		for _, k := range to.open {
			if k.fam != o.path.fam || to.seg[k.index] != b.seg[o.path.index] || to != b && n.rand.Float64() < n.lose {
				continue
			}
			n.queue = append(n.queue, delivery{n.now.Add(time.Millisecond), to, inPacket{k, src, o.dst.Addr(), o.data}})
		}
	}
}

// run lets time pass.
func (n *network) run(d time.Duration) {
	end := n.now.Add(d)
	for {
		var next time.Time
		var due func()
		for _, b := range n.boxes {
			if at := b.next(); !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next, due = at, func() { b.tick(n.now) }
			}
		}
		if len(n.queue) > 0 {
			slices.SortStableFunc(n.queue, func(a, b delivery) int { return a.at.Compare(b.at) })
			if d := n.queue[0]; next.IsZero() || !d.at.After(next) {
				next, due = d.at, func() {
					n.queue = n.queue[1:]
					if d.to.path(d.pkt.path) != nil {
						d.to.receive(n.now, d.pkt)
					}
				}
			}
		}
		if next.IsZero() || next.After(end) {
			n.now = end
			return
		}
		if next.After(n.now) {
			n.now = next
		}
		due()
	}
}

// describe renders what was sent since the last call, one line each.
func (n *network) describe() []string {
	var lines []string
	for _, s := range n.sent {
		parts := []string{fmt.Sprintf("%d/%d", s.pkt.path.index, s.pkt.path.fam)}
		if dst := s.pkt.dst; !dst.Addr().IsMulticast() {
			parts = append(parts, "to "+dst.String())
		}
		kind := "query"
		if s.msg.Response {
			kind = "response"
			if !s.msg.Authoritative {
				n.t.Error("a response that is not authoritative")
			}
		}
		if s.msg.Id != 0 {
			kind += fmt.Sprintf(" id=%d", s.msg.Id)
		}
		parts = append(parts, kind)
		for _, q := range s.msg.Question {
			parts = append(parts, fmt.Sprintf("?%s %s", q.Name, dns.TypeToString[q.Qtype]))
		}
		for _, section := range []struct {
			name string
			rrs  []dns.RR
		}{{"answer", s.msg.Answer}, {"authority", s.msg.Ns}, {"extra", s.msg.Extra}} {
			if len(section.rrs) > 0 {
				parts = append(parts, section.name+":")
			}
			for _, r := range section.rrs {
				parts = append(parts, describeRR(r))
			}
		}
		lines = append(lines, strings.Join(parts, " "))
	}
	n.sent = nil
	return lines
}

// describeRR is a record as "10.0.0.1", "PTR", "NSEC(A AAAA)", with "!" for the cache-flush bit, and the time to live
// unless it is 120.
func describeRR(r dns.RR) string {
	h := r.Header()
	var text string
	switch r := r.(type) {
	case *dns.A:
		text = r.A.String()
	case *dns.AAAA:
		text = r.AAAA.String()
	case *dns.PTR:
		text = h.Name + "=" + r.Ptr
	case *dns.NSEC:
		var types []string
		for _, t := range r.TypeBitMap {
			types = append(types, dns.TypeToString[t])
		}
		text = "NSEC(" + strings.Join(types, " ") + ")"
		if r.NextDomain != h.Name {
			text += " of " + r.NextDomain
		}
	default:
		text = r.String()
	}
	if h.Class&(1<<15) != 0 {
		text += "!"
	}
	if h.Ttl != hostTTL {
		text += fmt.Sprintf(" ttl=%d", h.Ttl)
	}
	return text
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// ready is a box that has announced itself long ago.
func ready(t *testing.T, addrs ...string) (*network, *box) {
	n := newNetwork(t, 1)
	b := n.box("croft")
	b.plug(2, 0, addrs...)
	n.run(time.Minute)
	if b.state() != "announced" {
		t.Fatalf("state %s", b.state())
	}
	n.describe()
	return n, b
}

// hear hands the box a message from a source to a destination.
func (b *box) hear(m *dns.Msg, from, to string) {
	b.net.t.Helper()
	data, err := m.Pack()
	if err != nil {
		b.net.t.Fatal(err)
	}
	src := netip.MustParseAddrPort(from)
	k := pathKey{2, ipv6Family}
	if src.Addr().Is4() {
		k.fam = ipv4Family
	}
	dst := k.group().Addr()
	if to != "" {
		dst = netip.MustParseAddr(to)
	}
	b.receive(b.net.now, inPacket{k, src, dst, data})
}

func query(questions ...string) *dns.Msg {
	m := new(dns.Msg)
	for _, q := range questions {
		name, typ, _ := strings.Cut(q, " ")
		typ, qu := strings.CutSuffix(typ, " QU")
		d := dns.Question{Name: name, Qtype: dns.StringToType[typ], Qclass: dns.ClassINET}
		if qu {
			d.Qclass |= 1 << 15
		}
		m.Question = append(m.Question, d)
	}
	return m
}

func parseRR(t *testing.T, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestProbeAndAnnounce(t *testing.T) {
	n := newNetwork(t, 1)
	b := n.box("croft")
	if s := b.status(); s.State != "no-network" || s.Name != "croft" || s.Wanted != "croft" {
		t.Errorf("at the start: %+v", s)
	}
	b.plug(2, 0, "10.0.0.1/24", "2001:db8::1/64")
	if b.state() != "probing" || len(b.serving()) != 0 {
		t.Errorf("plugged in: %s, serving %v", b.state(), b.serving())
	}
	n.run(time.Minute)
	if b.state() != "announced" || len(b.serving()) != 1 {
		t.Errorf("later: %s, serving %v", b.state(), b.serving())
	}
	for _, fam := range []family{ipv4Family, ipv6Family} {
		var at []time.Duration
		sent := n.sent
		n.sent = slices.DeleteFunc(slices.Clone(sent), func(s sentPacket) bool { return s.pkt.path.fam != fam })
		for _, s := range n.sent {
			if s.pkt.dst != (pathKey{fam: fam}).group() {
				t.Errorf("sent to %s", s.pkt.dst)
			}
			at = append(at, s.at-n.sent[0].at)
		}
		if first := n.sent[0].at; first < 0 || first > 250*time.Millisecond {
			t.Errorf("first probe after %s", first)
		}
		const ms = time.Millisecond
		if want := []time.Duration{0, 250 * ms, 500 * ms, 750 * ms, 1750 * ms, 3750 * ms}; !slices.Equal(at, want) {
			t.Errorf("sent at %v, want %v", at, want)
		}
		probe := fmt.Sprintf("2/%d query ?croft.local. ANY authority: 10.0.0.1 2001:db8::1", fam)
		announcement := fmt.Sprintf("2/%d response answer: 10.0.0.1! 2001:db8::1! extra: NSEC(A AAAA)!", fam)
		wantLines(t, n.describe(), probe, probe, probe, announcement, announcement, announcement)
		n.sent = sent
	}
}

func TestAnswer(t *testing.T) {
	known := func(m *dns.Msg, rrs ...string) *dns.Msg {
		for _, s := range rrs {
			m.Answer = append(m.Answer, parseRR(t, s))
		}
		return m
	}
	withID := func(m *dns.Msg, id uint16) *dns.Msg { m.Id = id; return m }
	both := []string{"10.0.0.1/24", "2001:db8::1/64"}
	only4 := []string{"10.0.0.1/24"}
	for _, test := range []struct {
		name  string
		addrs []string
		msg   *dns.Msg
		from  string // 10.0.0.9:5353 if empty
		to    string // the group if empty
		want  []string
	}{
		{
			name: "A", addrs: both, msg: query("croft.local. A"),
			want: []string{"2/4 response answer: 10.0.0.1! extra: 2001:db8::1! NSEC(A AAAA)!"},
		},
		{
			name: "AAAA over IPv6", addrs: both, msg: query("croft.local. AAAA"), from: "[fe80::9]:5353",
			want: []string{"2/6 response answer: 2001:db8::1! extra: 10.0.0.1! NSEC(A AAAA)!"},
		},
		{
			name: "upper case, the whole family in one message", addrs: both, msg: query("CROFT.Local. A", "croft.local. AAAA"),
			want: []string{"2/4 response answer: 10.0.0.1! 2001:db8::1! extra: NSEC(A AAAA)!"},
		},
		{
			name: "ANY", addrs: both, msg: query("croft.local. ANY"),
			want: []string{"2/4 response answer: 10.0.0.1! 2001:db8::1! extra: NSEC(A AAAA)!"},
		},
		{
			name: "a type that is absent", addrs: only4, msg: query("croft.local. AAAA"),
			want: []string{"2/4 response answer: NSEC(A)! extra: 10.0.0.1!"},
		},
		{
			name: "a type that never exists", addrs: both, msg: query("croft.local. HTTPS"),
			want: []string{"2/4 response answer: NSEC(A AAAA)! extra: 10.0.0.1! 2001:db8::1!"},
		},
		{name: "another name", addrs: both, msg: query("crofts.local. A", "local. ANY", "_http._tcp.local. PTR")},
		{
			name: "after a question with a dot within a label", addrs: both,
			msg:  query(`Printer\032v2\.0._http._tcp.local. SRV`, "croft.local. A"),
			want: []string{"2/4 response answer: 10.0.0.1! extra: 2001:db8::1! NSEC(A AAAA)!"},
		},
		{
			name: "reverse", addrs: both, msg: query("1.0.0.10.in-addr.arpa. PTR"),
			want: []string{"2/4 response answer: 1.0.0.10.in-addr.arpa.=croft.local."},
		},
		{
			name: "reverse IPv6", addrs: both,
			msg:  query("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR"),
			want: []string{"2/4 response answer: 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.=croft.local."},
		},
		{name: "reverse of another", addrs: both, msg: query("2.0.0.10.in-addr.arpa. PTR")},
		{
			name: "known", addrs: both,
			msg: known(query("croft.local. A"), "croft.local. 60 IN A 10.0.0.1"),
		},
		{
			name: "known, of two", addrs: both,
			msg:  known(query("croft.local. ANY"), "croft.local. 60 IN A 10.0.0.1"),
			want: []string{"2/4 response answer: 2001:db8::1! extra: NSEC(A AAAA)!"},
		},
		{
			name: "known, but about to expire", addrs: only4,
			msg:  known(query("croft.local. A"), "croft.local. 59 IN A 10.0.0.1"),
			want: []string{"2/4 response answer: 10.0.0.1! extra: NSEC(A)!"},
		},
		{
			name: "known, but another address", addrs: only4,
			msg:  known(query("croft.local. A"), "croft.local. 120 IN A 10.0.0.2"),
			want: []string{"2/4 response answer: 10.0.0.1! extra: NSEC(A)!"},
		},
		{
			name: "unicast wanted, multicast due", addrs: only4, msg: query("croft.local. A QU"),
			want: []string{"2/4 response answer: 10.0.0.1! extra: NSEC(A)!"},
		},
		{
			name: "legacy", addrs: both, msg: withID(query("Croft.local. A"), 7), from: "10.0.0.9:40000",
			want: []string{"2/4 to 10.0.0.9:40000 response id=7 ?Croft.local. A " +
				"answer: 10.0.0.1 ttl=10 extra: 2001:db8::1 ttl=10 NSEC(A AAAA) ttl=10"},
		},
		{
			name: "legacy over IPv6", addrs: both, msg: withID(query("croft.local. AAAA"), 7), from: "[fe80::9]:40000",
			want: []string{"2/6 to [fe80::9]:40000 response id=7 ?croft.local. AAAA " +
				"answer: 2001:db8::1 ttl=10 extra: 10.0.0.1 ttl=10 NSEC(A AAAA) ttl=10"},
		},
		{name: "legacy from elsewhere", addrs: both, msg: query("croft.local. A"), from: "192.0.2.9:40000"},
		{name: "legacy that asks for too much", addrs: both, from: "10.0.0.9:40000", msg: query(
			"croft.local. A", "croft.local. AAAA", "croft.local. ANY", "croft.local. TXT", "croft.local. HTTPS",
		)},
		{
			name: "direct", addrs: only4, msg: withID(query("croft.local. A"), 7), to: "10.0.0.1",
			want: []string{"2/4 to 10.0.0.9:5353 response id=7 answer: 10.0.0.1! extra: NSEC(A)!"},
		},
		{name: "direct from elsewhere", addrs: both, msg: query("croft.local. A"), from: "192.0.2.9:5353", to: "10.0.0.1"},
		{
			name: "multicast from a neighbour of another network", addrs: only4, msg: query("croft.local. A QU"), from: "192.0.2.9:5353",
			want: []string{"2/4 response answer: 10.0.0.1! extra: NSEC(A)!"},
		},
		{name: "opcode", addrs: both, msg: func() *dns.Msg { m := query("croft.local. A"); m.Opcode = 4; return m }()},
		{name: "rcode", addrs: both, msg: func() *dns.Msg { m := query("croft.local. A"); m.Rcode = 2; return m }()},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, b := ready(t, test.addrs...)
			b.hear(test.msg, cmp.Or(test.from, "10.0.0.9:5353"), test.to)
			n.run(5 * time.Second)
			wantLines(t, n.describe(), test.want...)
		})
	}
}

func TestAnswerUnicastWhileFresh(t *testing.T) {
	n, b := ready(t, "10.0.0.1/24")
	b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
	n.run(29 * time.Second)
	n.describe()
	b.hear(query("croft.local. A QU"), "10.0.0.9:5353", "")
	wantLines(t, n.describe(), "2/4 to 10.0.0.9:5353 response answer: 10.0.0.1! extra: NSEC(A)!")
	b.hear(query("croft.local. A QU", "croft.local. AAAA"), "10.0.0.9:5353", "") // one of them may be multicast
	wantLines(t, n.describe(), "2/4 response answer: 10.0.0.1! NSEC(A)!")
}

func TestMulticastRate(t *testing.T) {
	n, b := ready(t, "10.0.0.1/24", "2001:db8::1/64")
	const answer = "2/4 response answer: 10.0.0.1! extra: 2001:db8::1! NSEC(A AAAA)!"
	for range 5 {
		b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
		n.run(10 * time.Millisecond)
	}
	wantLines(t, n.describe(), answer) // once
	b.hear(query("croft.local. A"), "[fe80::9]:5353", "")
	wantLines(t, n.describe(), strings.Replace(answer, "2/4", "2/6", 1)) // the other family by itself
	n.run(940 * time.Millisecond)
	wantLines(t, n.describe()) // not yet
	n.run(time.Second)
	wantLines(t, n.describe(), answer) // asked again meanwhile, so answered when it may be
	n.run(time.Minute)
	wantLines(t, n.describe())

	// Who probes for our name is answered sooner, but not at any rate either.
	probe := query("croft.local. ANY")
	probe.Ns = []dns.RR{parseRR(t, "croft.local. 120 IN A 10.0.0.9")}
	for range 3 {
		b.hear(probe, "10.0.0.9:5353", "")
	}
	n.run(200 * time.Millisecond)
	const all = "2/4 response answer: 10.0.0.1! 2001:db8::1! extra: NSEC(A AAAA)!"
	wantLines(t, n.describe(), all)
	n.run(100 * time.Millisecond)
	wantLines(t, n.describe(), "2/4 response answer: 10.0.0.1! 2001:db8::1!")

	// Port 5353 is often shared, so he may not get a unicast packet even if he asks for one.
	n.run(5 * time.Second)
	n.describe()
	probe.Question[0].Qclass |= 1 << 15
	b.hear(probe, "10.0.0.9:5353", "")
	wantLines(t, n.describe(), all)
}

func TestUnicastRate(t *testing.T) {
	n, b := ready(t, "10.0.0.1/24")
	for i := range 1000 {
		b.hear(query("croft.local. A"), fmt.Sprintf("10.0.0.9:%d", 10000+i), "")
	}
	if got := len(n.describe()); got != 100 {
		t.Errorf("%d answers at once", got)
	}
	n.run(time.Second)
	b.hear(query("croft.local. A"), "10.0.0.9:40000", "")
	if got := len(n.describe()); got != 1 {
		t.Errorf("%d answers a second later", got)
	}
}

func TestPacketRate(t *testing.T) {
	n, b := ready(t, "10.0.0.1/24")
	for range 5000 {
		b.hear(query("other.local. A"), "10.0.0.9:5353", "")
	}
	b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
	wantLines(t, n.describe())
	n.run(time.Second)
	b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
	if got := len(n.describe()); got != 1 {
		t.Errorf("%d answers after the flood", got)
	}
}

func response(t *testing.T, rrs ...string) *dns.Msg {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}}
	for _, s := range rrs {
		m.Answer = append(m.Answer, parseRR(t, s))
	}
	return m
}

func TestConflict(t *testing.T) {
	for _, test := range []struct {
		name     string
		msg      *dns.Msg
		from, to string
		conflict bool
	}{
		{name: "another address", msg: response(t, "croft.local. 120 IN A 10.0.0.9"), conflict: true},
		{name: "upper case, IPv6", msg: response(t, "CROFT.local. 120 IN AAAA fe80::9"), from: "[fe80::9]:5353", conflict: true},
		{name: "one of several", msg: response(t, "croft.local. 120 IN A 10.0.0.1", "croft.local. 120 IN A 10.0.0.9"), conflict: true},
		{
			name: "additional", conflict: true,
			msg: func() *dns.Msg {
				m := response(t, "croft.local. 120 IN A 10.0.0.9")
				m.Answer, m.Extra = nil, m.Answer
				return m
			}(),
		},
		{name: "our own address", msg: response(t, "croft.local. 120 IN A 10.0.0.1")},
		{name: "our address of the other interface", msg: response(t, "croft.local. 120 IN A 10.1.0.1")},
		{name: "goodbye", msg: response(t, "croft.local. 0 IN A 10.0.0.9")},
		{name: "another name", msg: response(t, "craft.local. 120 IN A 10.0.0.9")},
		{name: "another type", msg: response(t, `croft.local. 120 IN HINFO "PC" "Linux"`)},
		{name: "from ourselves", msg: response(t, "croft.local. 120 IN A 10.0.0.9"), from: "10.1.0.1:5353"},
		{name: "not from the port", msg: response(t, "croft.local. 120 IN A 10.0.0.9"), from: "10.0.0.9:5354"},
		{name: "direct from elsewhere", msg: response(t, "croft.local. 120 IN A 10.0.0.9"), from: "192.0.2.9:5353", to: "10.0.0.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			from := cmp.Or(test.from, "10.0.0.9:5353")
			n := newNetwork(t, 1)
			b := n.box("croft")
			b.plug(2, 0, "10.0.0.1/24", "fe80::1/64")
			b.plug(3, 1, "10.1.0.1/24")
			n.run(300 * time.Millisecond)
			b.hear(test.msg, from, test.to)
			want := "croft"
			if test.conflict {
				want = "croft-2"
			}
			if s := b.status(); s.Name != want || s.Wanted != "croft" || (s.Conflict != "") != test.conflict {
				t.Errorf("while probing: %+v", s)
			}
			n.run(time.Minute)
			if s := b.status(); s.State != "announced" || s.Name != want {
				t.Errorf("at last: %+v", s)
			}

			// With the name announced, it asks again, and keeps it if nobody answers.
			n, b = ready(t, "10.0.0.1/24", "fe80::1/64")
			b.plug(3, 1, "10.1.0.1/24")
			n.run(time.Minute)
			n.describe()
			b.hear(test.msg, from, test.to)
			if again := len(b.serving()) == 1; again != test.conflict {
				t.Errorf("announced: probing again %t", again)
			}
			n.run(time.Minute)
			if s := b.status(); s.State != "announced" || s.Name != "croft" || s.Conflict != "" {
				t.Errorf("in the end: %+v", s)
			}
		})
	}
}

func TestRename(t *testing.T) {
	n, b := ready(t, "10.0.0.1/24")
	b.plug(3, 1, "10.1.0.1/24")
	n.run(100 * time.Millisecond)
	n.describe()
	m := response(t, "croft.local. 120 IN A 10.1.0.9")
	data, _ := m.Pack()
	b.receive(n.now, inPacket{pathKey{3, ipv4Family}, netip.MustParseAddrPort("10.1.0.9:5353"), (pathKey{fam: ipv4Family}).group().Addr(), data})
	// The name is one for the box: the interface without conflict gives it up, too.
	wantLines(t, n.describe(), "2/4 response answer: 10.0.0.1 ttl=0")
	n.run(500 * time.Millisecond)
	b.hear(query("croft-2.local. A", "croft.local. A"), "10.0.0.9:5353", "")
	for _, line := range n.describe() {
		if !strings.Contains(line, "query ?croft-2.local. ANY authority") {
			t.Error(line)
		}
	}
	n.run(10 * time.Second)
	n.describe()
	b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
	b.hear(query("croft-2.local. A"), "10.0.0.9:5353", "")
	wantLines(t, n.describe(), "2/4 response answer: 10.0.0.1! extra: NSEC(A)!")
	if s := b.status(); s.Name != "croft-2" || !strings.Contains(s.Conflict, "croft-2.local") {
		t.Errorf("%+v", s)
	}
	b.stop()
	got := n.describe()
	wantLines(t, got, "2/4 response answer: 10.0.0.1 ttl=0", "3/4 response answer: 10.1.0.1 ttl=0")
}

// TestConflictStorm checks that somebody who answers every probe does not make us probe at full speed.
func TestConflictStorm(t *testing.T) {
	n := newNetwork(t, 1)
	b := n.box("croft")
	b.plug(2, 0, "10.0.0.1/24")
	for n.now.Sub(start) < time.Minute {
		n.run(10 * time.Millisecond)
		b.hear(response(t, b.host+" 120 IN A 10.0.0.9"), "10.0.0.9:5353", "")
	}
	var probes []time.Duration
	for _, s := range n.sent {
		probes = append(probes, s.at)
	}
	if len(probes) > 20 {
		t.Errorf("%d probes in a minute", len(probes))
	}
	if b.tries > 20 || b.tries < 2 { // a name is given up for an answer to a probe, not unasked
		t.Errorf("%d names tried in a minute", b.tries)
	}
}

func TestTieBreak(t *testing.T) {
	// The first is the example of RFC 6762 section 8.2: ours are 10.0.0.20 and fe80::20.
	for _, test := range []struct {
		theirs []string
		wins   bool
	}{
		{[]string{"croft.local. 120 IN A 10.0.0.19"}, true},
		{[]string{"croft.local. 120 IN A 10.0.0.21"}, false},
		{[]string{"croft.local. 120 IN A 10.0.0.200"}, false}, // bytes, not text
		{[]string{"croft.local. 120 IN A 10.0.0.20"}, true},   // ours, in part
		{[]string{"croft.local. 120 IN A 10.0.0.20", "croft.local. 120 IN AAAA fe80::20"}, true},
		{[]string{"croft.local. 120 IN AAAA fe80::20", "croft.local. 120 IN A 10.0.0.20", "croft.local. 120 IN AAAA fe80::21"}, false},
		{[]string{"croft.local. 120 IN AAAA fe80::1"}, false}, // AAAA comes after A
		{[]string{`croft.local. 120 IN HINFO "a" "b"`}, false},
		{[]string{"croft.local. 120 IN A 10.0.0.19", "croft.local. 120 IN AAAA fe80::ff"}, true},
		{[]string{"other.local. 120 IN A 10.0.0.200"}, true},
	} {
		n := newNetwork(t, 1)
		b := n.box("croft")
		b.plug(2, 0, "10.0.0.20/24", "fe80::20/64")
		n.run(300 * time.Millisecond)
		n.describe()
		probe := query("croft.local. ANY")
		for _, s := range test.theirs {
			probe.Ns = append(probe.Ns, parseRR(t, s))
		}
		b.hear(probe, "10.0.0.9:5353", "")
		n.run(999 * time.Millisecond)
		if quiet := len(n.describe()) == 0; quiet == test.wins {
			t.Errorf("against %q: won %t", test.theirs, !quiet)
		}
		n.run(10 * time.Second)
		if s := b.status(); s.Name != "croft" || s.State != "announced" {
			t.Errorf("against %q, who then vanished: %+v", test.theirs, s)
		}
	}
}

// TestManyAtOnce starts boxes of one name together, on lossless and on lossy networks, and demands that each ends
// with a name of its own, and that somebody has the wanted one.
func TestManyAtOnce(t *testing.T) {
	for seed := range uint64(150) {
		n := newNetwork(t, seed)
		if seed%3 == 0 {
			n.lose = 0.1
		}
		count := 2 + int(seed%4)
		for i := range count {
			b := n.box("croft")
			n.run(time.Duration(n.rand.IntN(300)) * time.Millisecond)
			if n.rand.IntN(2) == 0 { // addresses come one after the other
				b.plug(2, 0, fmt.Sprintf("fe80::%x/64", n.rand.IntN(1000)*10+i))
				n.run(time.Duration(n.rand.IntN(300)) * time.Millisecond)
			}
			b.plug(2, 0, fmt.Sprintf("10.0.%d.%d/16", n.rand.IntN(256), i+1), fmt.Sprintf("fe80::%x/64", n.rand.IntN(1000)*10+i))
		}
		n.run(30 * time.Second)
		// With losses, two may have missed each other; a question makes both speak.
		for range 5 {
			n.ask("croft.local. A", "croft-2.local. A", "croft-3.local. A", "croft-4.local. A")
			n.run(15 * time.Second)
		}
		names := map[string]bool{}
		for _, b := range n.boxes {
			if b.state() != "announced" {
				t.Errorf("seed %d: %s is %s", seed, b.name, b.state())
			}
			names[b.name] = true
		}
		if len(names) != count || !names["croft"] && n.lose == 0 {
			t.Errorf("seed %d: names %v of %d boxes", seed, names, count)
		}
	}
}

// ask lets a bystander ask everybody.
func (n *network) ask(questions ...string) {
	data, err := query(questions...).Pack()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, b := range n.boxes {
		for _, k := range b.open {
			src := netip.MustParseAddrPort("10.0.255.255:5353")
			if k.fam == ipv6Family {
				src = netip.MustParseAddrPort("[fe80::ffff]:5353")
			}
			b.receive(n.now, inPacket{k, src, k.group().Addr(), data})
		}
	}
}

// TestMerge joins two networks that each have a croft.local: one keeps the name, and announces its services anew,
// since the other says goodbye to them.
func TestMerge(t *testing.T) {
	for seed := range uint64(100) {
		n := newNetwork(t, seed)
		a, b := n.box("croft"), n.box("croft")
		a.plug(2, 0, "10.0.0.1/24", "fe80::1/64")
		b.plug(2, 1, "10.0.0.2/24", "fe80::2/64")
		n.run(time.Minute)
		if a.name != "croft" || b.name != "croft" {
			t.Fatalf("apart: %s, %s", a.name, b.name)
		}
		before := []map[int]int{a.serving(), b.serving()}
		b.seg[2] = 0
		n.ask("croft.local. A")
		n.run(time.Minute)
		names := []string{a.name, b.name}
		slices.Sort(names)
		if !slices.Equal(names, []string{"croft", "croft-2"}) {
			t.Fatalf("seed %d, joined: %s", seed, names)
		}
		for i, x := range []*box{a, b} {
			if x.name == "croft" && x.serving()[2] == before[i][2] {
				t.Errorf("seed %d: the winner does not announce its services anew", seed)
			}
		}
	}
}

// TestReflected has a router repeat everything between the two networks of one box.
func TestReflected(t *testing.T) {
	n := newNetwork(t, 1)
	b := n.box("croft")
	b.plug(2, 0, "10.0.0.1/24")
	b.plug(3, 1, "10.1.0.1/24")
	for range 100 {
		n.run(50 * time.Millisecond)
		for _, s := range n.sent {
			k := pathKey{5 - s.pkt.path.index, ipv4Family}
			router := netip.MustParseAddrPort(fmt.Sprintf("10.%d.0.254:5353", k.index-2))
			b.receive(n.now, inPacket{k, router, k.group().Addr(), s.pkt.data})
		}
		n.sent = nil
	}
	// An address that has just gone still comes back.
	b.plug(2, 0, "10.0.0.2/24")
	m := response(t, "croft.local. 120 IN A 10.0.0.1")
	b.hear(m, "10.0.0.254:5353", "")
	n.run(time.Second)
	if s := b.status(); s.Name != "croft" || len(b.serving()) != 2 {
		t.Errorf("%+v, serving %v", s, b.serving())
	}
	n.run(2 * time.Minute)
	b.hear(m, "10.0.0.254:5353", "")
	if len(b.serving()) != 1 {
		t.Error("for ever sure of an address that was ours once")
	}
}

func TestForeignAddressIsThisMachines(t *testing.T) {
	_, b := ready(t, "10.0.0.1/24")
	b.machine = func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.7") }
	b.hear(response(t, "croft.local. 120 IN A 10.0.0.7"), "10.0.0.7:5353", "")
	if len(b.serving()) != 1 {
		t.Error("a new address of our own taken for a conflict")
	}
	b.hear(response(t, "croft.local. 120 IN A 10.0.0.8"), "10.0.0.8:5353", "")
	if len(b.serving()) != 0 {
		t.Error("a conflict overlooked")
	}
}

func TestAddressChanges(t *testing.T) {
	n, b := ready(t, "10.0.0.1/24", "fe80::1/64")
	epoch := b.serving()[2]
	b.plug(2, 0, "10.0.0.2/24", "fe80::1/64")
	n.run(10 * time.Second)
	const announcement = " response answer: 10.0.0.2! fe80::1! extra: NSEC(A AAAA)!"
	wantLines(t, n.describe(),
		"2/4 response answer: 10.0.0.1 ttl=0", "2/6 response answer: 10.0.0.1 ttl=0",
		"2/4"+announcement, "2/6"+announcement, "2/4"+announcement, "2/6"+announcement, "2/4"+announcement, "2/6"+announcement)
	b.plug(2, 0, "10.0.0.2/24", "fe80::1/64") // nothing new
	n.run(10 * time.Second)
	wantLines(t, n.describe())

	for i := range 100 {
		b.plug(2, 0, fmt.Sprintf("10.0.0.%d/24", 100+i), "fe80::1/64")
		n.run(5 * time.Second)
	}
	if got := len(b.paths[0].last); got > 3 {
		t.Errorf("remembers %d records, has 3", got)
	}
	if got := len(b.formerAddrs); got > 30 {
		t.Errorf("remembers %d addresses", got)
	}
	b.plug(2, 0, "10.0.0.2/24", "fe80::1/64")
	n.run(10 * time.Second)
	n.describe()

	b.plug(2, 0, "fe80::1/64") // the lease ended
	n.run(time.Second / 2)
	wantLines(t, n.describe(), "2/6 response answer: 10.0.0.2 ttl=0", "2/6 response answer: fe80::1! extra: NSEC(AAAA)!")
	n.run(10 * time.Second)
	n.describe()
	b.plug(2, 0, "10.0.0.3/24", "fe80::1/64") // a new one: IPv4 probes, IPv6 goes on
	n.run(time.Second / 10)
	b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
	b.hear(query("croft.local. A"), "[fe80::9]:5353", "")
	for _, line := range n.describe() {
		if strings.HasPrefix(line, "2/4 response") {
			t.Errorf("answered while probing: %s", line)
		}
	}
	if b.serving()[2] != epoch {
		t.Error("an address change alone made the services be announced anew")
	}

	b.plug(2, 0)
	if b.state() != "no-network" || !b.next().IsZero() {
		t.Errorf("without a network: %s, due %s", b.state(), b.next())
	}
	n.run(time.Second)
	n.describe()
	b.plug(2, 0, "10.0.0.3/24")
	n.run(10 * time.Second)
	if got := len(n.describe()); got != probeCount+announceCount {
		t.Errorf("back again, sent %d packets", got)
	}
	if b.serving()[2] == epoch {
		t.Error("the interface came again, but the services are not announced anew")
	}
	b.stop()
	wantLines(t, n.describe(), "2/4 response answer: 10.0.0.3 ttl=0")
}

func TestManyAddresses(t *testing.T) {
	var addrs []string
	for i := range maxAddrs {
		addrs = append(addrs, fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("2001:db8::%x/64", 0xfff0+i))
	}
	n := newNetwork(t, 1)
	b := n.box(strings.Repeat("x", 63))
	b.plug(2, 0, addrs...)
	n.run(time.Minute) // send checks the sizes
	n.describe()
	b.hear(query(b.host+" ANY", b.host+" TXT", b.host+" A", b.host+" AAAA"), "10.0.0.99:5000", "")
	got := n.sent
	if len(got) != 1 || len(got[0].msg.Answer) != 2*maxAddrs+1 || len(got[0].msg.Question) != maxEchoed {
		t.Errorf("sent %v", n.describe())
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 63)
	for _, test := range []struct {
		wanted string
		n      int
		want   string
	}{
		{"croft", 1, "croft"},
		{"croft", 2, "croft-2"},
		{"croft", 10, "croft-10"},
		{"pi-4", 2, "pi-4-2"},
		{long, 1, long},
		{long, 2, long[:61] + "-2"},
		{long[:60] + "-xx", 2, long[:60] + "-2"},
	} {
		if got := nextName(test.wanted, test.n); got != test.want {
			t.Errorf("nextName(%q, %d) = %q, want %q", test.wanted, test.n, got, test.want)
		}
	}
	for hostname, want := range map[string]string{
		"croft": "croft", "Croft": "croft", "croft.example.org": "croft", "": "croft", "(none)": "croft", "none": "none", "localhost": "croft",
		"our house": "our-house", "-x-": "x", "größe": "gr--e", "...": "croft",
		strings.Repeat("y", 80): strings.Repeat("y", 63),
	} {
		if got := hostLabel(hostname); got != want {
			t.Errorf("hostLabel(%q) = %q, want %q", hostname, got, want)
		}
	}
}

func TestReverseName(t *testing.T) {
	for _, s := range []string{"10.0.0.1", "192.168.178.254", "2001:db8::1", "fe80::1234:5678:9abc:def0"} {
		want, err := dns.ReverseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := reverseName(netip.MustParseAddr(s)); got != want {
			t.Errorf("reverseName(%s) = %s, want %s", s, got, want)
		}
	}
}

func TestParseLimits(t *testing.T) {
	many := new(dns.Msg)
	for range maxQuestions + 1 {
		many.Question = append(many.Question, query("a. A").Question...)
	}
	records := query("croft.local. A")
	for range maxRecords + 1 {
		records.Answer = append(records.Answer, parseRR(t, "a. 1 IN A 10.0.0.1"))
	}
	for name, m := range map[string]*dns.Msg{"questions": many, "records": records} {
		data, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(data, "croft.local."); err == nil {
			t.Errorf("too many %s taken", name)
		}
	}
	if _, err := parse(make([]byte, maxPacket+1), "croft.local."); err == nil {
		t.Error("a packet that is too large taken")
	}
	own := query("croft.local. ANY")
	for range maxRecords - 10 {
		own.Ns = append(own.Ns, parseRR(t, "croft.local. 1 IN A 10.0.0.1"))
	}
	own.Compress = true
	data, err := own.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := parse(data, "croft.local."); err != nil || len(m.authority) != maxKept {
		t.Errorf("kept %+v, %v", m, err)
	}
}

// FuzzReceive hands anything to responders in every state. They must survive it, send only well-formed messages that
// fit in a frame, at most one in reply, and nothing by unicast to other networks or to anybody but the sender.
func FuzzReceive(f *testing.F) {
	seed := func(m *dns.Msg) {
		data, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		for flags := range byte(16) {
			f.Add(data, flags)
		}
	}
	seed(query("croft.local. A"))
	seed(query("croft.local. ANY QU", "1.0.0.10.in-addr.arpa. PTR", "croft.local. TXT"))
	probe := query("croft.local. ANY")
	for _, s := range []string{
		"croft.local. 120 IN A 10.0.0.9", "croft.local. 120 IN AAAA fe80::9", `croft.local. 120 IN HINFO "x" "y"`,
	} {
		r, err := dns.NewRR(s)
		if err != nil {
			f.Fatal(err)
		}
		probe.Ns = append(probe.Ns, r)
	}
	seed(probe)
	seed(&dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Answer: probe.Ns})
	f.Add([]byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}, byte(0)) // a pointer to itself
	f.Fuzz(func(t *testing.T, data []byte, flags byte) {
		n := newNetwork(t, 1)
		b := n.box("croft")
		b.plug(2, 0, "10.0.0.1/24", "2001:db8::1/64")
		if flags&1 != 0 {
			n.run(10 * time.Second)
		} else {
			n.run(300 * time.Millisecond)
		}
		if flags&8 != 0 {
			b.want(n.now, "attic")
		}
		n.sent = nil
		src := netip.MustParseAddrPort("10.0.0.9:5353")
		local := flags&2 == 0
		if !local {
			src = netip.MustParseAddrPort("192.0.2.1:40000")
		}
		dst := (pathKey{fam: ipv4Family}).group().Addr()
		if flags&4 != 0 {
			dst = netip.MustParseAddr("10.0.0.1")
		}
		b.receive(n.now, inPacket{pathKey{2, ipv4Family}, src, dst, data}) // send checks form and size
		if len(n.sent) > 3 {
			t.Errorf("%d packets for one", len(n.sent))
		}
		for _, s := range n.sent {
			if to := s.pkt.dst; !to.Addr().IsMulticast() && (!local || to != src) {
				t.Errorf("an answer to %s, asked by %s", to, src)
			}
		}
		n.run(time.Minute)
		if b.state() != "announced" {
			t.Errorf("for ever %s", b.state())
		}
	})
}

// FuzzParse checks that what is kept of a message is bounded and consistent.
func FuzzParse(f *testing.F) {
	for _, q := range []string{"croft.local. A", "CROFT.local. AAAA QU", "x.local. A"} {
		data, err := query(q).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parse(data, "croft.local.")
		if err != nil {
			return
		}
		if len(m.questions) > maxKept || len(m.answers)+len(m.authority)+len(m.extra) > 3*maxKept {
			t.Errorf("kept too much: %+v", m)
		}
		for _, x := range slices.Concat(m.answers, m.authority, m.extra) {
			if x.addr.IsValid() && (x.typ == dnsmessage.TypeA) != x.addr.Is4() {
				t.Errorf("record %+v", x)
			}
		}
	})
}
