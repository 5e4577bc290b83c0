package faults

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Limits on what a client may ask.
const (
	maxRequest     = 32 << 20 // bytes of one read or write, as proto.md suggests
	maxOption      = 16 << 10 // bytes of one option's data
	maxOptions     = 64       // options of one handshake
	handshakeLimit = 10 * time.Second
)

// Constants of doc/proto.md.
const (
	magicInit    = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption  = 0x49484156454F5054 // "IHAVEOPT"
	magicReply   = 0x3e889045565a9
	magicRequest = 0x25609513
	magicSimple  = 0x67446698

	handshakeFixedNewstyle = 1 << 0
	handshakeNoZeroes      = 1 << 1

	optExportName = 1
	optAbort      = 2
	optList       = 3
	optInfo       = 6
	optGo         = 7

	repAck        = 1
	repServer     = 2
	repInfo       = 3
	repErrUnsup   = 1<<31 | 1
	repErrInvalid = 1<<31 | 3
	repErrUnknown = 1<<31 | 6

	infoExport    = 0
	infoBlockSize = 3

	flagHasFlags    = 1 << 0
	flagFlush       = 1 << 2
	flagFUA         = 1 << 3
	flagTrim        = 1 << 5
	flagWriteZeroes = 1 << 6

	cmdRead   = 0
	cmdWrite  = 1
	cmdDisc   = 2
	cmdFlush  = 3
	cmdTrim   = 4
	cmdZeroes = 6

	cmdFlagFUA    = 1 << 0
	cmdFlagNoHole = 1 << 1

	errnoIO    = 5
	errnoInval = 22
	errnoNoSpc = 28
)

const transmissionFlags = flagHasFlags | flagFlush | flagFUA | flagTrim | flagWriteZeroes

// Serve serves d as the default export to whoever connects to l, until ctx ends; it closes l. An error of one
// connection is not one of the server.
func Serve(ctx context.Context, l net.Listener, d Device) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		wg.Go(func() {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			defer c.Close()
			handle(c, d) // the client sees a closed connection
		})
	}
}

// handle speaks with one client until it leaves or breaks the protocol.
func handle(c net.Conn, d Device) error {
	if err := c.SetDeadline(time.Now().Add(handshakeLimit)); err != nil {
		return err
	}
	s := &session{r: bufio.NewReaderSize(c, 64<<10), w: bufio.NewWriterSize(c, 64<<10), d: d}
	on, err := s.handshake()
	if err != nil || !on {
		return err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return s.transmit()
}

type session struct {
	r   *bufio.Reader
	w   *bufio.Writer
	d   Device
	buf []byte
}

func (s *session) put(fields ...any) error {
	for _, f := range fields {
		if err := binary.Write(s.w, binary.BigEndian, f); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) reply(option, typ uint32, data []byte) error {
	return s.put(uint64(magicReply), option, typ, uint32(len(data)), data)
}

// handshake reports whether the client wants to go on to the transmission phase.
func (s *session) handshake() (bool, error) {
	s.put(uint64(magicInit), uint64(magicOption), uint16(handshakeFixedNewstyle|handshakeNoZeroes))
	if err := s.w.Flush(); err != nil {
		return false, err
	}
	var flags uint32
	if err := binary.Read(s.r, binary.BigEndian, &flags); err != nil {
		return false, err
	}
	for range maxOptions {
		var h struct {
			Magic       uint64
			Option, Len uint32
		}
		if err := binary.Read(s.r, binary.BigEndian, &h); err != nil {
			return false, err
		}
		if h.Magic != magicOption || h.Len > maxOption {
			return false, fmt.Errorf("option magic %#x, %d bytes", h.Magic, h.Len)
		}
		data := make([]byte, h.Len)
		if _, err := io.ReadFull(s.r, data); err != nil {
			return false, err
		}
		on := false
		switch h.Option {
		case optExportName:
			if len(data) != 0 {
				return false, fmt.Errorf("unknown export %q", data)
			}
			s.put(uint64(s.d.Size()), uint16(transmissionFlags))
			if flags&handshakeNoZeroes == 0 {
				s.put(make([]byte, 124))
			}
			on = true
		case optAbort:
			s.reply(h.Option, repAck, nil)
			return false, s.w.Flush()
		case optList:
			s.reply(h.Option, repServer, make([]byte, 4))
			s.reply(h.Option, repAck, nil)
		case optInfo, optGo:
			switch name, ok := exportName(data); {
			case !ok:
				s.reply(h.Option, repErrInvalid, nil)
			case name != "":
				s.reply(h.Option, repErrUnknown, nil)
			default:
				b := binary.BigEndian.AppendUint16(nil, infoExport)
				b = binary.BigEndian.AppendUint64(b, uint64(s.d.Size()))
				s.reply(h.Option, repInfo, binary.BigEndian.AppendUint16(b, transmissionFlags))
				b = binary.BigEndian.AppendUint16(nil, infoBlockSize)
				for _, size := range []uint32{SectorSize, pageSize, maxRequest} {
					b = binary.BigEndian.AppendUint32(b, size)
				}
				s.reply(h.Option, repInfo, b)
				s.reply(h.Option, repAck, nil)
				on = h.Option == optGo
			}
		default:
			s.reply(h.Option, repErrUnsup, nil)
		}
		if err := s.w.Flush(); err != nil || on {
			return on, err
		}
	}
	return false, errors.New("too many options")
}

// exportName parses the data of NBD_OPT_INFO and NBD_OPT_GO.
func exportName(b []byte) (string, bool) {
	if len(b) < 6 {
		return "", false
	}
	n := int64(binary.BigEndian.Uint32(b))
	if n > int64(len(b)-6) {
		return "", false
	}
	name, rest := string(b[4:4+n]), b[4+n:]
	return name, int(binary.BigEndian.Uint16(rest))*2 == len(rest)-2
}

func (s *session) transmit() error {
	for {
		var h struct {
			Magic      uint32
			Flags, Typ uint16
			Cookie     uint64
			Off        uint64
			Len        uint32
		}
		if err := binary.Read(s.r, binary.BigEndian, &h); err != nil {
			return err
		}
		if h.Magic != magicRequest {
			return fmt.Errorf("request magic %#x", h.Magic)
		}
		if h.Typ == cmdDisc {
			return nil
		}
		var payload []byte
		if h.Typ == cmdRead || h.Typ == cmdWrite {
			if h.Len > maxRequest {
				return fmt.Errorf("request of %d bytes", h.Len)
			}
			if cap(s.buf) < int(h.Len) {
				s.buf = make([]byte, h.Len)
			}
			payload = s.buf[:h.Len]
		}
		if h.Typ == cmdWrite {
			if _, err := io.ReadFull(s.r, payload); err != nil {
				return err
			}
		}
		errno := s.do(h.Typ, h.Flags, h.Off, int64(h.Len), payload)
		s.put(uint32(magicSimple), errno, h.Cookie)
		if h.Typ == cmdRead && errno == 0 {
			s.w.Write(payload)
		}
		if err := s.w.Flush(); err != nil {
			return err
		}
	}
}

// do carries out one command and returns the error number of the reply.
func (s *session) do(typ, flags uint16, uoff uint64, n int64, payload []byte) uint32 {
	fua := flags&cmdFlagFUA != 0
	outside := uint32(errnoInval)
	if typ == cmdWrite || typ == cmdZeroes {
		outside = errnoNoSpc
	}
	if size := uint64(s.d.Size()); uoff > size || uint64(n) > size-uoff || flags&^(cmdFlagFUA|cmdFlagNoHole) != 0 {
		return outside
	}
	off := int64(uoff)
	var err error
	switch typ {
	case cmdRead:
		_, err = s.d.ReadAt(payload, off)
	case cmdWrite:
		err = s.d.Write(payload, off, fua)
	case cmdFlush:
		err = s.d.Flush()
	case cmdTrim, cmdZeroes: // a trimmed range may hold anything: zeroes are the harshest
		err = s.d.Zero(off, n, fua)
	default:
		return errnoInval
	}
	if err != nil {
		return errnoIO
	}
	return 0
}
