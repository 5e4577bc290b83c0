package faults

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func newDisk(t *testing.T, size int64) *Disk {
	t.Helper()
	d, err := NewDisk(size)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func content(t *testing.T, d *Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDisk compares a disk, its forks and its copies with plain memory under random access.
func TestDisk(t *testing.T) {
	const size = 128 << 10
	rng := rand.New(rand.NewPCG(1, 2))
	d, want := newDisk(t, size), make([]byte, size)
	for i := range 600 {
		off := rng.Int64N(size)
		n := min(rng.Int64N(3*pageSize), size-off)
		switch rng.IntN(6) {
		case 0:
			clear(want[off : off+n])
			if err := d.Zero(off, n, false); err != nil {
				t.Fatal(err)
			}
		case 1:
			if i%5 == 0 {
				d = d.Fork()
			}
		default:
			p := make([]byte, n)
			for j := range p {
				p[j] = byte(rng.IntN(256))
			}
			copy(want[off:], p)
			if err := d.Write(p, off, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !bytes.Equal(content(t, d), want) {
		t.Fatal("the disk differs from memory")
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := d.CopyTo(path, 1000, size-2000); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want[1000:size-1000]) {
		t.Fatal("the copy differs")
	}
	whole := filepath.Join(t.TempDir(), "whole")
	if err := os.WriteFile(whole, want, 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadDisk(whole, 2*size)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, loaded); !bytes.Equal(got[:size], want) || !allZero(got[size:]) {
		t.Fatal("the loaded disk differs")
	}
	if _, err := LoadDisk(whole, size/2); err == nil {
		t.Error("a file larger than the disk was loaded")
	}
}

func TestDiskRefusesWhatIsOutside(t *testing.T) {
	d := newDisk(t, 8192)
	for _, err := range []error{
		d.Write(make([]byte, 2), 8191, false),
		d.Write(make([]byte, 1), -1, false),
		d.Zero(1<<62, 1<<62, false),
		d.CopyTo(filepath.Join(t.TempDir(), "x"), 1, 8192),
	} {
		if !errors.Is(err, ErrRange) {
			t.Errorf("got %v", err)
		}
	}
	if n, err := d.ReadAt(make([]byte, 10), 8190); n != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("read across the end: %d, %v", n, err)
	}
	for _, size := range []int64{0, -512, 513, MaxSize + 512} {
		if _, err := NewDisk(size); err == nil {
			t.Errorf("made a disk of %d bytes", size)
		}
	}
}

// TestCrash checks the model on many crashes of a random history: what was flushed is there, a sector is old or new
// and never mixed, and the same seed gives the same disk.
func TestCrash(t *testing.T) {
	const size, sectors = 64 << 10, (64 << 10) / SectorSize
	rng := rand.New(rand.NewPCG(3, 4))
	base := newDisk(t, size)
	rec := &Recorder{Device: base.Fork()}
	stamp := func(v uint16) []byte { return bytes.Repeat(binary.BigEndian.AppendUint16(nil, v), SectorSize/2) }
	type state struct {
		durable uint16          // value that a cut must at least keep
		may     map[uint16]bool // what else it may be
	}
	for v := uint16(1); v < 120; v++ {
		at := rng.Int64N(sectors)
		n := min(1+rng.Int64N(6), sectors-at)
		switch rng.IntN(5) {
		case 0:
			rec.Flush()
		case 1:
			rec.Zero(at*SectorSize, n*SectorSize, false)
		default:
			rec.Write(bytes.Repeat(stamp(v), int(n)), at*SectorSize, rng.IntN(8) == 0)
		}
	}
	events := rec.Events()
	mixed, lost := 0, 0
	for n := range len(events) + 1 {
		want := make([]state, sectors)
		for i := range want {
			want[i].may = map[uint16]bool{0: true}
		}
		for i, e := range events[:n] {
			if e.Kind == KindFlush {
				for s := range want {
					want[s].may = map[uint16]bool{want[s].durable: true}
				}
				continue
			}
			var v uint16
			if e.Kind == KindWrite {
				v = binary.BigEndian.Uint16(e.Data)
			}
			for s := e.Off / SectorSize; s < (e.Off+e.Len)/SectorSize; s++ {
				want[s].durable = v // if a flush follows
				if e.FUA && i != n-1 {
					want[s].may = map[uint16]bool{}
				}
				want[s].may[v] = true
			}
		}
		for seed := range uint64(6) {
			d, err := Crash(rand.New(rand.NewPCG(seed, uint64(n))), base, events, n)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Crash(rand.New(rand.NewPCG(seed, uint64(n))), base, events, n)
			if err != nil {
				t.Fatal(err)
			}
			got := content(t, d)
			if !bytes.Equal(got, content(t, again)) {
				t.Fatalf("cut %d, seed %d: not reproducible", n, seed)
			}
			part, err := CrashPart(rand.New(rand.NewPCG(seed, uint64(n))), base, events, n, 8192, 4096)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got[8192:12288], content(t, part)[8192:12288]) {
				t.Fatalf("cut %d, seed %d: the part differs", n, seed)
			}
			for s := range want {
				b := got[s*SectorSize : (s+1)*SectorSize]
				v := binary.BigEndian.Uint16(b)
				if !bytes.Equal(b, stamp(v)) {
					t.Fatalf("cut %d, seed %d: sector %d is torn", n, seed, s)
				}
				if !want[s].may[v] {
					t.Fatalf("cut %d, seed %d: sector %d is %d, may be %v", n, seed, s, v, want[s].may)
				}
				if len(want[s].may) > 1 {
					mixed++
					if v != want[s].durable {
						lost++
					}
				}
			}
		}
	}
	if lost == 0 || lost == mixed {
		t.Errorf("of %d sectors that were not flushed, %d lost: the cuts are too tame", mixed, lost)
	}
	if _, err := Crash(rng, base, events, len(events)+1); err == nil {
		t.Error("a cut after the end")
	}
	if !allZero(content(t, base)) {
		t.Error("the base changed")
	}
}

func serve(t *testing.T, d Device) string {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "nbd.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, d) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return sock
}

// TestQEMU lets QEMU's block layer judge the server: it writes with qemu-io and compares with qemu-img.
func TestQEMU(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	rng := rand.New(rand.NewPCG(5, 6))
	image := make([]byte, 3<<20)
	for i := range image[1<<20:] {
		image[1<<20+i] = byte(rng.IntN(256))
	}
	if err := os.WriteFile(raw, image, 0o600); err != nil {
		t.Fatal(err)
	}
	rec := &Recorder{Device: newDisk(t, int64(len(image)))}
	url := "nbd+unix:///?socket=" + serve(t, rec)
	run := func(name string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw, url)
	run("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, url)
	run("qemu-io", "-f", "raw", url, "-c", "write -P 7 4k 64k", "-c", "flush", "-c", "write -f -P 9 1M 512",
		"-c", "write -z 2M 128k", "-c", "discard 2560k 64k", "-c", "read -P 7 4k 64k", "-c", "read -P 0 2M 128k")
	got := make([]byte, len(image))
	if _, err := rec.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	copy(image[4<<10:], bytes.Repeat([]byte{7}, 64<<10))
	copy(image[1<<20:], bytes.Repeat([]byte{9}, 512))
	clear(image[2<<20 : 2<<20+128<<10])
	clear(image[2560<<10 : 2624<<10])
	if sha256.Sum256(got) != sha256.Sum256(image) {
		t.Error("the disk does not hold what was written")
	}
	var flushes, fua, zeroes int
	for _, e := range rec.Events() {
		switch {
		case e.Kind == KindFlush:
			flushes++
		case e.Kind == KindZero:
			zeroes++
		case e.FUA:
			fua++
		}
	}
	if flushes == 0 || fua == 0 || zeroes < 2 {
		t.Errorf("recorded %d flushes, %d writes with FUA, %d zeroings", flushes, fua, zeroes)
	}
}

// option and request are what a client sends.
func option(id uint32, data string) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
}

func request(flags, typ uint16, off uint64, n uint32, data string) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint64(b, 42)
	b = binary.BigEndian.AppendUint64(b, off)
	return append(binary.BigEndian.AppendUint32(b, n), data...)
}

const goDefault = "\x00\x00\x00\x00\x00\x00"

// talk runs one connection whose client sends input and then takes its leave, and returns what it got.
func talk(t *testing.T, d Device, input []byte) ([]byte, error) {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer server.Close()
		done <- handle(server, d)
	}()
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(client)
		got <- b
	}()
	client.Write(append(input, request(0, cmdDisc, 0, 0, "")...)) // fails if the server has left already
	err := <-done
	return <-got, err
}

func TestProtocol(t *testing.T) {
	start := append([]byte{0, 0, 0, 3}, option(optGo, goDefault)...)
	errno := func(b []byte) uint32 { // of the last simple reply without data
		if len(b) < 16 || binary.BigEndian.Uint32(b[len(b)-16:]) != magicSimple {
			return 1 << 31
		}
		return binary.BigEndian.Uint32(b[len(b)-12:])
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want uint32 // errno; 1<<31: no reply at all
	}{
		{"write", request(0, cmdWrite, 0, 4, "abcd"), 0},
		{"flush", request(0, cmdFlush, 0, 0, ""), 0},
		{"write at the end", request(0, cmdWrite, 8190, 4, "abcd"), errnoNoSpc},
		{"read far outside", request(0, cmdRead, 1<<63, 4, ""), errnoInval},
		{"zeroes around the end of uint64", request(0, cmdZeroes, ^uint64(0), 2, ""), errnoNoSpc},
		{"unknown command", request(0, 99, 0, 0, ""), errnoInval},
		{"unknown flag", request(1<<9, cmdFlush, 0, 0, ""), errnoInval},
		{"giant write", request(0, cmdWrite, 0, maxRequest+1, ""), 1 << 31},
		{"bad magic", make([]byte, 28), 1 << 31},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := talk(t, newDisk(t, 8192), append(bytes.Clone(start), tt.in...))
			if got := errno(out); got != tt.want {
				t.Errorf("errno %d, want %d (%v)", got, tt.want, err)
			}
		})
	}
}

// FuzzServer feeds the server whatever a client may send after the greeting: it must end, without a panic, and
// write only inside its disk.
func FuzzServer(f *testing.F) {
	start := append([]byte{0, 0, 0, 3}, option(optGo, goDefault)...)
	f.Add(append(bytes.Clone(start), request(1, cmdWrite, 512, 4, "abcd")...))
	f.Add(append(bytes.Clone(start), request(0, cmdZeroes, 0, 8192, "")...))
	f.Add(append([]byte{0, 0, 0, 1}, option(optExportName, "")...))
	f.Add(append([]byte{0, 0, 0, 1}, option(optList, "")...))
	f.Add(append([]byte{0, 0, 0, 1}, option(optInfo, "\xff\xff\xff\xff\x00\x01")...))
	f.Add(append([]byte{0, 0, 0, 1}, option(optAbort, "x")...))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := NewDisk(8192)
		if err != nil {
			t.Fatal(err)
		}
		r, w := bytes.NewReader(in), io.Discard
		if err := handle(&fakeConn{Reader: r, Writer: w}, &Recorder{Device: d}); err == nil && r.Len() == len(in) && len(in) > 0 {
			t.Error("ended well without reading anything")
		}
		for i := range d.pages {
			if i < 0 || i >= 8192/pageSize {
				t.Errorf("wrote page %d", i)
			}
		}
	})
}

type fakeConn struct {
	io.Reader
	io.Writer
	net.Conn
}

func (c *fakeConn) Read(p []byte) (int, error)  { return c.Reader.Read(p) }
func (c *fakeConn) Write(p []byte) (int, error) { return c.Writer.Write(p) }
func (c *fakeConn) SetDeadline(time.Time) error { return nil }
