package journal

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Bounds of a journal on disk.
const (
	maxFile   = 1 << 20  // bytes, after which a new file is begun
	maxTotal  = 16 << 20 // bytes of all files
	maxFiles  = 128
	maxMember = 1 << 20 // bytes that a member may unpack to
	suffix    = ".jsonl.gz"
)

// store is a journal's directory.
type store struct {
	dir               string
	maxFile, maxTotal int64

	mu     sync.Mutex
	file   *os.File // nil until something is written
	size   int64
	files  []stored // all, the current one last
	closed bool
}

type stored struct {
	number uint64
	size   int64
}

func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	s := &store{dir: dir, maxFile: maxFile, maxTotal: maxTotal}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		n, err := strconv.ParseUint(name, 10, 63)
		fi, err2 := e.Info()
		if err != nil || err2 != nil {
			continue
		}
		s.files = append(s.files, stored{n, fi.Size()})
	}
	slices.SortFunc(s.files, func(a, b stored) int { return int(int64(a.number) - int64(b.number)) })
	return s, nil
}

func (s *store) path(number uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%010d%s", number, suffix))
}

// write appends lines as one member.
func (s *store) write(lines []byte, sync bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.closed { // a flush that began before; its file would keep the partition busy
		err = os.ErrClosed
	} else if len(lines) > 0 {
		err = s.append(lines)
	}
	if sync && s.file != nil && err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

func (s *store) append(lines []byte) error {
	if s.file == nil || s.size >= s.maxFile {
		if err := s.begin(); err != nil {
			return err
		}
	}
	var b bytes.Buffer
	for len(lines) > 0 { // as members that a reader accepts
		part := lines
		if len(part) > maxMember {
			part = part[:bytes.LastIndexByte(part[:maxMember], '\n')+1]
		}
		lines = lines[len(part):]
		z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err != nil {
			return err
		}
		z.Write(part)
		if err := z.Close(); err != nil {
			return err
		}
	}
	for {
		_, err := s.file.Write(b.Bytes())
		if err == nil {
			break
		}
		if terr := s.file.Truncate(s.size); terr != nil { // what follows a torn member can't be read
			return errors.Join(err, terr)
		}
		if !errors.Is(err, syscall.ENOSPC) || len(s.files) < 2 {
			return err
		}
		if err := s.removeOldest(); err != nil { // on a full disk the latest lines matter most
			return err
		}
	}
	s.size += int64(b.Len())
	s.files[len(s.files)-1].size = s.size
	return nil
}

// begin starts a new file and removes the oldest ones.
func (s *store) begin() error {
	if s.file != nil {
		if err := errors.Join(s.file.Sync(), s.file.Close()); err != nil {
			return err
		}
		s.file = nil
	}
	var total int64
	for _, f := range s.files {
		total += f.size
	}
	for len(s.files) > 0 && (total+s.maxFile > s.maxTotal || len(s.files) >= maxFiles) {
		total -= s.files[0].size
		if err := s.removeOldest(); err != nil {
			return err
		}
	}
	var number uint64 = 1
	if len(s.files) > 0 {
		number = s.files[len(s.files)-1].number + 1
	}
	f, err := os.OpenFile(s.path(number), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	s.file, s.size = f, 0
	s.files = append(s.files, stored{number: number})
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (s *store) removeOldest() error {
	if err := os.Remove(s.path(s.files[0].number)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.files = s.files[1:]
	return nil
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// numbers returns the files' numbers, the newest first.
func (s *store) numbers() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n []uint64
	for _, f := range slices.Backward(s.files) {
		n = append(n, f.number)
	}
	return n
}

// read calls visit with the lines of each whole member of a file until that says no. What is torn is lost; the file may
// be removed by now.
func (s *store) read(number uint64, visit func(lines []byte) bool) {
	r, err := os.Open(s.path(number))
	if err != nil {
		return
	}
	defer r.Close()
	readMembers(r, visit)
}

// readMembers calls visit with the contents of each whole member until that says no, and returns what it stopped at: nil
// at the end of the file.
func readMembers(r io.Reader, visit func(lines []byte) bool) error {
	in := bufio.NewReader(r)
	var z gzip.Reader
	var b bytes.Buffer
	for {
		if _, err := in.Peek(1); err == io.EOF {
			return nil
		}
		if err := z.Reset(in); err != nil {
			return err
		}
		z.Multistream(false)
		b.Reset()
		n, err := io.Copy(&b, io.LimitReader(&z, maxMember+1))
		if err != nil {
			return err
		}
		if n > maxMember {
			return errors.New("member too long")
		}
		if !visit(b.Bytes()) {
			return nil
		}
	}
}
