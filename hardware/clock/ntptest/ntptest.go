// Package ntptest is a small NTP server (RFC 5905 section 7.3) for tests: a right one, a lying one or one that
// refuses. It is no server for anything else: it knows nothing of its own error.
package ntptest

import (
	"encoding/binary"
	"net"
	"time"
)

// Serve answers client queries on c with the machine's time plus ahead until c is closed. With a kiss code, such as
// "DENY", it only sends that.
func Serve(c net.PacketConn, ahead time.Duration, kiss string) {
	q := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(q)
		if err != nil {
			return
		}
		if n < 48 || q[0]&7 != 3 {
			continue
		}
		r := make([]byte, 48)
		r[0], r[1], r[2], r[3] = 4<<3|4, 2, 6, 0xe9  // version 4, server; stratum; poll; precision
		binary.BigEndian.PutUint32(r[4:], 1<<16/100) // root delay: 10 ms
		binary.BigEndian.PutUint32(r[8:], 1<<16/200) // root dispersion: 5 ms
		copy(r[12:], "TEST")
		if kiss != "" {
			r[1] = 0
			copy(r[12:], kiss)
		}
		now := time.Now().Add(ahead)
		copy(r[24:], q[40:48])                 // origin
		for _, at := range []int{16, 32, 40} { // reference, receive, transmit
			binary.BigEndian.PutUint32(r[at:], uint32(now.Unix()+2208988800))
			binary.BigEndian.PutUint32(r[at+4:], uint32(uint64(now.Nanosecond())<<32/1e9))
		}
		if _, err := c.WriteTo(r, from); err != nil {
			return
		}
	}
}
