package discovery

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// records renders the answers that were sent since the last call, with their names; probes and announcements of our own
// name "attic" are left out.
func (n *network) records() []string {
	var lines []string
	for _, s := range n.sent {
		for _, r := range s.msg.Answer {
			if name := r.Header().Name; name != "attic.local." {
				lines = append(lines, name+" "+describeRR(r))
			}
		}
	}
	n.sent = nil
	return lines
}

// renamed is a box that was croft long enough, and is told to be attic now.
func renamed(t *testing.T, addrs ...string) (*network, *box) {
	n, b := ready(t, addrs...)
	b.want(n.now, "attic")
	wantLines(t, n.records()) // no goodbye
	return n, b
}

func TestFormerName(t *testing.T) {
	n, b := renamed(t, "10.0.0.1/24")
	const (
		a    = "croft.local. 10.0.0.1!"
		none = "croft.local. NSEC(A)!"
	)
	for i, at := range []time.Duration{0, 200 * time.Millisecond, time.Minute, formerNameFor - 2*time.Minute} {
		n.run(at)
		n.records()
		if i != 1 { // where the one before is too short ago
			b.hear(query("Croft.local. A"), "10.0.0.9:5353", "")
			wantLines(t, n.records(), a)
			b.hear(query("croft.local. A"), "10.0.0.9:40000", "")
			wantLines(t, n.records(), "croft.local. 10.0.0.1 ttl=10")
			b.hear(query("croft.local. AAAA"), "10.0.0.9:5353", "10.0.0.1")
			wantLines(t, n.records(), none)
		}
		if got := b.status().Former; !slices.Equal(got, []string{"croft"}) {
			t.Errorf("former names %v", got)
		}
	}
	if b.state() != "announced" || b.name != "attic" {
		t.Errorf("%s, %s", b.name, b.state())
	}
	b.hear(query("1.0.0.10.in-addr.arpa. PTR", "croft.local. HINFO"), "10.0.0.9:5353", "10.0.0.1")
	var ptr []string
	for _, s := range n.sent {
		for _, r := range s.msg.Answer {
			ptr = append(ptr, describeRR(r))
		}
	}
	wantLines(t, ptr, "NSEC(A)!", "1.0.0.10.in-addr.arpa.=attic.local.")
	n.records()
	both := query("croft.local. A", "attic.local. A")
	b.hear(both, "10.0.0.9:5353", "10.0.0.1")
	if got := len(n.sent); got != 2 {
		t.Errorf("%d answers about two names", got)
	}
	n.records()

	n.run(time.Minute)
	wantLines(t, n.records(), "croft.local. 10.0.0.1 ttl=0")
	b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
	n.run(time.Minute)
	wantLines(t, n.records())
	if got := b.status().Former; len(got) > 0 || !b.next().IsZero() {
		t.Errorf("former names %v, due %s", got, b.next())
	}
}

func TestFormerNameIsLeftToOthers(t *testing.T) {
	probe := func(rrs ...string) *dns.Msg {
		m := query("croft.local. ANY")
		for _, s := range rrs {
			m.Ns = append(m.Ns, parseRR(t, s))
		}
		return m
	}
	for _, test := range []struct {
		name string
		msg  *dns.Msg
		from string // 10.0.0.9:5353 if empty
		path pathKey
		gone bool
	}{
		{name: "probe", msg: probe("croft.local. 120 IN A 10.0.0.9"), gone: true},
		{name: "probe that would lose a tie", msg: probe("croft.local. 120 IN A 10.0.0.0"), gone: true},
		{name: "probe without an address", msg: probe(`croft.local. 120 IN HINFO "a" "b"`), gone: true},
		{name: "announcement", msg: response(t, "CROFT.local. 120 IN A 10.0.0.9"), gone: true},
		{
			name: "in the other network", msg: response(t, "croft.local. 120 IN A 10.1.0.9"), gone: true,
			from: "10.1.0.9:5353", path: pathKey{3, ipv4Family},
		},
		{name: "our own probe, repeated by a router", msg: probe("croft.local. 120 IN A 10.1.0.1")},
		{name: "our own address", msg: response(t, "croft.local. 120 IN A 10.0.0.1")},
		{name: "from ourselves", msg: response(t, "croft.local. 120 IN A 10.0.0.9"), from: "10.0.0.1:5353"},
		{name: "goodbye", msg: response(t, "croft.local. 0 IN A 10.0.0.9")},
		{name: "not from the port", msg: response(t, "croft.local. 120 IN A 10.0.0.9"), from: "10.0.0.9:5354"},
		{name: "another name", msg: response(t, "crofts.local. 120 IN A 10.0.0.9")},
		{name: "question", msg: query("crofts.local. A")},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, b := ready(t, "10.0.0.1/24")
			b.plug(3, 1, "10.1.0.1/24")
			n.run(time.Minute)
			b.want(n.now, "attic")
			n.run(time.Minute)
			n.records()
			data, err := test.msg.Pack()
			if err != nil {
				t.Fatal(err)
			}
			k, from := pathKey{2, ipv4Family}, "10.0.0.9:5353"
			if test.path.index != 0 {
				k = test.path
			}
			if test.from != "" {
				from = test.from
			}
			b.receive(n.now, inPacket{k, netip.MustParseAddrPort(from), k.group().Addr(), data})
			n.run(time.Minute)
			if said := n.records(); test.gone {
				wantLines(t, said)
			}
			b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
			b.stop()
			var want []string
			if !test.gone {
				want = []string{"croft.local. 10.0.0.1!", "croft.local. 10.0.0.1 ttl=0", "croft.local. 10.1.0.1 ttl=0"}
			}
			wantLines(t, n.records(), want...)
		})
	}

	// Another box gets it as if we had never had it.
	n, a := renamed(t, "10.0.0.1/24", "fe80::1/64")
	n.run(time.Minute)
	n.records()
	b := n.box("croft")
	b.plug(2, 0, "10.0.0.2/24", "fe80::2/64")
	n.run(time.Minute)
	if len(a.status().Former) > 0 || a.name != "attic" || b.name != "croft" || b.state() != "announced" || b.conflict != "" {
		t.Errorf("%+v and %+v", a.status(), b.status())
	}
	for _, s := range n.sent {
		if s.by == a {
			t.Errorf("said %v", s.msg)
		}
	}
}

func TestFormerNameIsTheNameAgain(t *testing.T) {
	n, b := renamed(t, "10.0.0.1/24")
	n.run(time.Minute)
	n.describe()
	b.want(n.now, "croft")
	n.run(300 * time.Millisecond)
	b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
	n.run(time.Minute)
	probe := "2/4 query ?croft.local. ANY authority: 10.0.0.1"
	announcement := "2/4 response answer: 10.0.0.1! extra: NSEC(A)!"
	wantLines(t, n.describe(), probe, probe, probe, announcement, announcement, announcement)
	if got := b.status().Former; b.name != "croft" || !slices.Equal(got, []string{"attic"}) {
		t.Errorf("%s, before %v", b.name, got)
	}

	// Also by a conflict over another one.
	b.want(n.now, "croft-2")
	n.run(time.Minute)
	b.want(n.now, "croft")
	n.run(300 * time.Millisecond)
	b.hear(response(t, "croft.local. 120 IN A 10.0.0.9"), "10.0.0.9:5353", "")
	n.run(time.Minute)
	if got := b.status().Former; b.name != "croft-2" || !slices.Equal(got, []string{"attic"}) {
		t.Errorf("%s, before %v", b.name, got)
	}
}

func TestFormerNamesAreFew(t *testing.T) {
	n, b := ready(t, "10.0.0.1/24")
	goodbyes := func() []string {
		return slices.DeleteFunc(n.records(), func(s string) bool { return !strings.HasSuffix(s, " ttl=0") })
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		b.want(n.now, name)
		n.run(time.Minute)
	}
	wantLines(t, goodbyes())
	b.want(n.now, "unowned")
	wantLines(t, goodbyes(), "croft.local. 10.0.0.1 ttl=0") // the oldest
	b.want(n.now, "e")                                      // before anybody heard of the one before
	n.run(time.Minute)
	if got := b.status().Former; !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("former names %v", got)
	}
	b.want(n.now, "a") // makes room for e
	n.run(time.Minute)
	if got := b.status().Former; !slices.Equal(got, []string{"b", "c", "d", "e"}) {
		t.Errorf("former names %v", got)
	}
	wantLines(t, goodbyes())
}

// TestFormerNameInDoubt renames the box while it asks again whose its name is.
func TestFormerNameInDoubt(t *testing.T) {
	n, b := ready(t, "10.0.0.1/24")
	b.hear(response(t, "croft.local. 120 IN A 10.0.0.9"), "10.0.0.9:5353", "")
	b.want(n.now, "attic")
	n.run(time.Minute)
	if got := b.status().Former; len(got) > 0 {
		t.Errorf("former names %v", got)
	}
}

func TestFormerNameFollowsTheNetwork(t *testing.T) {
	n, b := renamed(t, "10.0.0.1/24")
	n.run(time.Minute)
	b.plug(2, 0, "10.0.0.2/24")
	n.run(time.Minute)
	const now = "croft.local. 10.0.0.2!"
	wantLines(t, n.records(), "croft.local. 10.0.0.1 ttl=0", now, now, now)
	b.plug(3, 1, "10.1.0.1/24") // where nobody was asked whose it is
	n.run(time.Minute)
	wantLines(t, n.records())
	b.plug(2, 0) // and here somebody may take it unheard
	b.plug(2, 0, "10.0.0.2/24")
	n.run(time.Minute)
	b.hear(query("croft.local. A"), "10.0.0.9:5353", "")
	wantLines(t, n.records())
	if got := b.status().Former; len(got) > 0 || b.state() != "announced" {
		t.Errorf("former names %v, %s", got, b.state())
	}
}
