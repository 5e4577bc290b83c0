package history

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"os"
	"time"
)

// A file is a header and the blocks of the ring, all of blockSize and little-endian. Each begins with the CRC-32C of
// what follows in it, then four bytes of zeros, then
//
//	header: magic[16], seconds of a step (uint32), records (uint32)
//	block:  records of recordSize each; a record stands at its step modulo the number of records
//	record: step (uint32, steps since 1970; 0: none), samples (uint32), for each series least, mean, greatest (float32)
const (
	blockSize  = 512
	blockHead  = 8
	recordSize = 8 + 12*len(names)
	perBlock   = (blockSize - blockHead) / recordSize
	magic      = "croft-history/1\n"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// value is what one series was in a step. NaN is unknown.
type value struct{ min, mean, max float32 }

func (v value) known() bool { return v.mean == v.mean }

var unknown = value{float32(math.NaN()), float32(math.NaN()), float32(math.NaN())}

// record is one step.
type record struct {
	step   int64
	count  uint32 // of samples
	values [len(names)]value
}

// add takes a sample in.
func (r *record) add(sample [len(names)]float64) {
	one := record{count: 1}
	for i, x := range sample {
		f := float32(x)
		one.values[i] = value{f, f, f}
	}
	r.merge(one)
}

// merge takes what another record measured in. Series that only some of the samples know are weighed as if all did.
func (r *record) merge(o record) {
	if r.count == 0 {
		for i := range r.values {
			r.values[i] = unknown
		}
	}
	part := float32(float64(o.count) / (float64(r.count) + float64(o.count)))
	for i, v := range o.values {
		switch mine := &r.values[i]; {
		case !v.known():
		case !mine.known():
			*mine = v
		default:
			mine.min, mine.max = min(mine.min, v.min), max(mine.max, v.max)
			mine.mean = min(max(mine.mean+(v.mean-mine.mean)*part, mine.min), mine.max)
		}
	}
	r.count += min(o.count, math.MaxUint32-r.count)
}

// ring holds the records of one range in memory, and in a file if it has one.
type ring struct {
	step    time.Duration
	records []record // by step modulo their number; count 0: none
	dirty   map[int]bool
	file    file // nil: in memory only
	fresh   bool // the file has no header yet
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

func newRing(step time.Duration, count int) *ring {
	return &ring{step: step, records: make([]record, count), dirty: map[int]bool{}}
}

func (r *ring) slot(step int64) int {
	n := int64(len(r.records))
	return int((step%n + n) % n)
}

func (r *ring) get(step int64) (record, bool) {
	rec := r.records[r.slot(step)]
	return rec, rec.count > 0 && rec.step == step
}

// at is the record of a step, an empty one if there is none.
func (r *ring) at(step int64) record {
	if rec, ok := r.get(step); ok {
		return rec
	}
	return record{step: step}
}

// put keeps a record in the place of whatever was there. Steps that a file can't hold are not kept: no clock gets there.
func (r *ring) put(rec record) {
	if rec.step <= 0 || rec.step > math.MaxUint32 {
		return
	}
	r.records[r.slot(rec.step)] = rec
	r.dirty[r.slot(rec.step)/perBlock] = true
}

func (r *ring) remove(step int64) {
	if _, ok := r.get(step); ok {
		r.records[r.slot(step)] = record{}
		r.dirty[r.slot(step)/perBlock] = true
	}
}

func (r *ring) blocks() int { return (len(r.records) + perBlock - 1) / perBlock }

// openRing reads the file at path, or makes it with all its blocks, so that a disk that is full later has room for them.
// The ring can be used even if there is an error.
func openRing(path string, step time.Duration, count int) (*ring, error) {
	r := newRing(step, count)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return r, err
	}
	r.file = f
	head := make([]byte, blockSize)
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return r, err
	}
	if string(head) == string(r.header()) {
		err = r.read(f)
	} else { // new, torn while it was made, or of another kind
		r.fresh = true
	}
	size := int64(1+r.blocks()) * blockSize
	if fi, serr := f.Stat(); serr != nil || fi.Size() != size || r.fresh {
		for b := range r.blocks() {
			r.dirty[b] = true
		}
		return r, errors.Join(err, serr, f.Truncate(size), r.flush())
	}
	return r, err
}

// read takes over the blocks that are whole.
func (r *ring) read(f io.ReaderAt) error {
	b := make([]byte, blockSize)
	for n := range r.blocks() {
		switch _, err := f.ReadAt(b, int64(1+n)*blockSize); {
		case errors.Is(err, io.EOF):
			return nil // it was cut short
		case err != nil:
			return err
		}
		r.decode(n, b)
	}
	return nil
}

func (r *ring) header() []byte {
	b := make([]byte, blockSize)
	copy(b[blockHead:], magic)
	binary.LittleEndian.PutUint32(b[blockHead+16:], uint32(r.step/time.Second))
	binary.LittleEndian.PutUint32(b[blockHead+20:], uint32(len(r.records)))
	return seal(b)
}

func seal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

func (r *ring) encode(n int) []byte {
	b := make([]byte, blockSize)
	for i := range perBlock {
		s := n*perBlock + i
		if s >= len(r.records) || r.records[s].count == 0 {
			continue
		}
		p, rec := b[blockHead+i*recordSize:], r.records[s]
		binary.LittleEndian.PutUint32(p, uint32(rec.step))
		binary.LittleEndian.PutUint32(p[4:], rec.count)
		for k, v := range rec.values {
			for j, x := range [3]float32{v.min, v.mean, v.max} {
				binary.LittleEndian.PutUint32(p[8+12*k+4*j:], math.Float32bits(x))
			}
		}
	}
	return seal(b)
}

// decode takes over what a block has, if it is whole. A record that does not belong where it stands, or whose numbers are
// none, is passed over: a checksum is no proof.
func (r *ring) decode(n int, b []byte) {
	if binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:blockSize], castagnoli) {
		return
	}
	for i := range perBlock {
		s := n*perBlock + i
		p := b[blockHead+i*recordSize:]
		rec := record{step: int64(binary.LittleEndian.Uint32(p)), count: binary.LittleEndian.Uint32(p[4:])}
		if s >= len(r.records) || rec.step == 0 || rec.count == 0 || r.slot(rec.step) != s {
			continue
		}
		ok := true
		for k := range rec.values {
			f := func(j int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(p[8+12*k+4*j:])) }
			v := value{f(0), f(1), f(2)}
			if !v.known() {
				v = unknown
			} else if !(v.min <= v.mean && v.mean <= v.max) || math.IsInf(float64(v.min), 0) || math.IsInf(float64(v.max), 0) {
				ok = false
			}
			rec.values[k] = v
		}
		if ok {
			r.records[s] = rec
		}
	}
}

// flush writes the blocks that changed. What can't be written is tried again next time.
func (r *ring) flush() error {
	if r.file == nil {
		return nil
	}
	for n := range r.blocks() {
		if !r.dirty[n] {
			continue
		}
		if _, err := r.file.WriteAt(r.encode(n), int64(1+n)*blockSize); err != nil {
			return err
		}
		delete(r.dirty, n)
	}
	if r.fresh {
		if _, err := r.file.WriteAt(r.header(), 0); err != nil {
			return err
		}
		r.fresh = false
	}
	return nil
}

func (r *ring) close() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	return f.Close()
}
