package discovery

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Limits on what comes in and goes out.
const (
	maxPacket    = 9000 // bytes of a message, RFC 6762 section 17
	maxReply     = 1440 // bytes that we send: one Ethernet frame, also over IPv6
	maxQuestions = 256  // in one message
	maxRecords   = 400  // in one message
	maxKept      = 64   // questions, and records, about us that one message may hold
	maxEchoed    = 4    // questions in a legacy query
	maxAddrs     = 8    // addresses of each family published on one interface
)

const (
	typeNSEC = dnsmessage.Type(47)
	topBit   = dnsmessage.Class(1 << 15) // cache-flush in records (10.2), QU in questions (5.4)

	hostTTL   = 120 // seconds, RFC 6762 section 10
	legacyTTL = 10  // seconds, 6.7

)

// rr is one of our records. Its name and data follow from the type and the address: A and AAAA map our name to addr,
// PTR maps addr's reverse name to our name, NSEC says which of the address types our name has.
type rr struct {
	typ  dnsmessage.Type
	addr netip.Addr
}

// question is a question about our name or about the reverse name of some address.
type question struct {
	typ     dnsmessage.Type
	reverse string // reverse name asked for, lower case; "" for our own name
	unicast bool   // QU
	asked   dnsmessage.Question
}

// record is somebody's record of our name.
type record struct {
	class dnsmessage.Class // without the cache-flush bit
	typ   dnsmessage.Type
	ttl   uint32
	addr  netip.Addr // of A and AAAA
}

// message is what a Multicast DNS message says about one host name.
type message struct {
	response  bool
	id        uint16
	questions []question
	answers   []record // answer section: in a query what the asker knows already
	authority []record // in a query what a prober wants to publish
	extra     []record
}

var (
	errIgnored = errors.New("opcode or rcode is not zero")
	errTooMany = errors.New("too many questions or records")
)

// parse reads a message and keeps what concerns host, a fully qualified name in lower case ("croft.local."), and
// reverse names. Names with characters that dnsmessage does not take, such as a dot in a service's name, are passed
// over.
func parse(data []byte, host string) (*message, error) {
	if len(data) > maxPacket {
		return nil, fmt.Errorf("message of %d bytes", len(data))
	}
	var p dnsmessage.Parser
	h, err := p.Start(data)
	if err != nil {
		return nil, err
	}
	if h.OpCode != 0 || h.RCode != 0 { // 18.3, 18.11: must be ignored
		return nil, errIgnored
	}
	m := &message{response: h.Response, id: h.ID}
	for n := 0; ; n++ {
		if n > maxQuestions {
			return nil, errTooMany
		}
		q, err := p.Question()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			if err := p.SkipQuestion(); err != nil {
				return nil, err
			}
			continue
		}
		class := q.Class &^ topBit
		if class != dnsmessage.ClassINET && class != dnsmessage.ClassANY {
			continue
		}
		kept := question{typ: q.Type, unicast: q.Class&topBit != 0, asked: q}
		switch name := strings.ToLower(q.Name.String()); {
		case name == host:
		case strings.HasSuffix(name, ".arpa."):
			kept.reverse = name
		default:
			continue
		}
		if len(m.questions) < maxKept {
			m.questions = append(m.questions, kept)
		}
	}
	left := maxRecords
	for _, s := range []struct {
		into   *[]record
		header func() (dnsmessage.ResourceHeader, error)
		skip   func() error
	}{
		{&m.answers, p.AnswerHeader, p.SkipAnswer},
		{&m.authority, p.AuthorityHeader, p.SkipAuthority},
		{&m.extra, p.AdditionalHeader, p.SkipAdditional},
	} {
		if err := readSection(&p, s.header, s.skip, host, s.into, &left); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func readSection(p *dnsmessage.Parser, header func() (dnsmessage.ResourceHeader, error), skip func() error,
	host string, into *[]record, left *int,
) error {
	for ; ; *left-- {
		h, err := header()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if *left <= 0 {
			return errTooMany
		}
		if err != nil || len(*into) >= maxKept || strings.ToLower(h.Name.String()) != host {
			if err := skip(); err != nil {
				return err
			}
			continue
		}
		rec := record{class: h.Class &^ topBit, typ: h.Type, ttl: h.TTL}
		switch {
		case h.Type == dnsmessage.TypeA && h.Length == 4:
			a, err := p.AResource()
			if err != nil {
				return err
			}
			rec.addr = netip.AddrFrom4(a.A)
		case h.Type == dnsmessage.TypeAAAA && h.Length == 16:
			a, err := p.AAAAResource()
			if err != nil {
				return err
			}
			rec.addr = netip.AddrFrom16(a.AAAA)
		default:
			if err := skip(); err != nil {
				return err
			}
		}
		*into = append(*into, rec)
	}
}

// outgoing is a message about our name to be built.
type outgoing struct {
	response   bool
	id         uint16
	questions  []dnsmessage.Question
	answers    []rr
	authority  []rr
	additional []rr
	ttl        uint32
	flush      bool // set the cache-flush bit on records that are ours alone
}

// build makes the bytes of a message about host; has are the types that NSEC declares. A message too large for one
// frame loses its additional records, and is an error if that does not help.
func build(host string, has []dnsmessage.Type, o outgoing) ([]byte, error) {
	data, err := pack(host, has, o)
	if err == nil && len(data) > maxReply && len(o.additional) > 0 {
		o.additional = nil
		data, err = pack(host, has, o)
	}
	if err == nil && len(data) > maxReply {
		err = fmt.Errorf("message of %d bytes", len(data))
	}
	return data, err
}

func pack(host string, has []dnsmessage.Type, o outgoing) ([]byte, error) {
	name, err := dnsmessage.NewName(host)
	if err != nil {
		return nil, fmt.Errorf("host name %q: %w", host, err)
	}
	header := dnsmessage.Header{ID: o.id, Response: o.response, Authoritative: o.response}
	b := dnsmessage.NewBuilder(make([]byte, 0, 512), header)
	b.EnableCompression()
	errs := []error{b.StartQuestions()}
	for _, q := range o.questions {
		errs = append(errs, b.Question(q))
	}
	errs = append(errs, b.StartAnswers())
	for _, r := range o.answers {
		errs = append(errs, r.pack(&b, name, has, o))
	}
	errs = append(errs, b.StartAuthorities())
	for _, r := range o.authority {
		errs = append(errs, r.pack(&b, name, has, o))
	}
	errs = append(errs, b.StartAdditionals())
	for _, r := range o.additional {
		errs = append(errs, r.pack(&b, name, has, o))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("build a message about %s: %w", host, err)
	}
	return b.Finish()
}

func (r rr) pack(b *dnsmessage.Builder, host dnsmessage.Name, has []dnsmessage.Type, o outgoing) error {
	h := dnsmessage.ResourceHeader{Name: host, Type: r.typ, Class: dnsmessage.ClassINET, TTL: o.ttl}
	if o.flush && r.typ != dnsmessage.TypePTR { // a reverse name is not probed for, so not claimed as ours alone
		h.Class |= topBit
	}
	switch r.typ {
	case dnsmessage.TypeA:
		return b.AResource(h, dnsmessage.AResource{A: r.addr.As4()})
	case dnsmessage.TypeAAAA:
		return b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: r.addr.As16()})
	case dnsmessage.TypePTR:
		name, err := dnsmessage.NewName(reverseName(r.addr))
		if err != nil {
			return err
		}
		h.Name = name
		return b.PTRResource(h, dnsmessage.PTRResource{PTR: host})
	default:
		return b.UnknownResource(h, dnsmessage.UnknownResource{Type: typeNSEC, Data: nsec(host.String(), has)})
	}
}

// nsec is the data of a negative answer, RFC 6762 section 6.1: the name itself, uncompressed, and the bitmap of block 0
// (RFC 4034 section 4.1.2) with the types that exist.
func nsec(host string, has []dnsmessage.Type) []byte {
	var data []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		data = append(data, byte(len(label)))
		data = append(data, label...)
	}
	data = append(data, 0)
	var bits [32]byte
	n := 0
	for _, t := range has {
		bits[t/8] |= 0x80 >> (t % 8)
		n = max(n, int(t/8)+1)
	}
	data = append(data, 0, byte(n))
	return append(data, bits[:n]...)
}

// reverseName is the name that maps addr back to a host name, RFC 1035 section 3.5 and RFC 3596 section 2.5.
func reverseName(addr netip.Addr) string {
	raw := addr.AsSlice()
	var b strings.Builder
	for i := len(raw) - 1; i >= 0; i-- {
		if addr.Is4() {
			b.WriteString(strconv.Itoa(int(raw[i])) + ".")
		} else {
			const hex = "0123456789abcdef"
			b.Write([]byte{hex[raw[i]&15], '.', hex[raw[i]>>4], '.'})
		}
	}
	if addr.Is4() {
		return b.String() + "in-addr.arpa."
	}
	return b.String() + "ip6.arpa."
}
