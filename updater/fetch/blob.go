package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/updater/release"
)

// Want is a blob that is wanted. Frames, if there are any, make it possible to verify pieces, and so to take them from several
// sources and to go on after a power cut; without them a wrong byte shows at the end only.
type Want struct {
	Blob   string // hex SHA-256
	Size   int64  // bytes
	Frames []release.Frame
}

// piece is what is fetched at once.
type piece struct {
	off  int64
	size int64
	hash string // hex SHA-256; empty: not known
}

// pieces cuts a blob up. The hashes of frames are as trustworthy as the description that they are from.
func (w Want) pieces() ([]piece, error) {
	const most = release.FrameSize + release.FrameSize/64
	bad := fmt.Errorf("the blob %.64q of %d bytes in %d frames can't be", w.Blob, w.Size, len(w.Frames))
	if !release.IsHash(w.Blob) || w.Size < 1 || w.Size > release.MaxPart {
		return nil, bad
	}
	var list []piece
	var off int64
	for _, f := range w.Frames {
		if f.Size < 1 || f.Size > most || f.Size > w.Size-off || !release.IsHash(f.SHA256) {
			return nil, bad
		}
		list = append(list, piece{off, f.Size, f.SHA256})
		off += f.Size
	}
	for len(w.Frames) == 0 && off < w.Size {
		n := min(release.FrameSize, w.Size-off)
		list = append(list, piece{off: off, size: n})
		off += n
	}
	if off != w.Size {
		return nil, bad
	}
	return list, nil
}

// Partial is a blob on its way into the store.
type Partial struct {
	s      *Store
	want   Want
	pieces []piece
	have   []bool
	done   int64 // bytes
	f      *os.File
	resume bool // something of it was there before
}

// Begin goes on with a blob, or starts it; nil means that it is complete. All that is there is read and hashed again, so that
// only bytes count which are on the medium now: a complete blob that was damaged becomes one with gaps. Room for all of it is
// taken at once; keep names the blobs that must not go for that.
func (s *Store) Begin(ctx context.Context, w Want, keep func(hash string) bool) (*Partial, error) {
	list, err := w.pieces()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &Partial{s: s, want: w, pieces: list, have: make([]bool, len(list))}
	whole := release.BlobFile(w.Blob)
	if f, size, err := openPlain(s.repo, whole); err == nil {
		hash, err := hashOf(ctx, f)
		f.Close()
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, err
		case err == nil && size == w.Size && hash == w.Blob:
			now := time.Now()
			return nil, s.repo.Chtimes(whole, now, now)
		case len(w.Frames) == 0 || size != w.Size:
			err = s.repo.Remove(whole)
		default:
			err = s.root.Rename(repoDir+"/"+whole, partialDir+"/"+w.Blob)
		}
		if err != nil {
			return nil, fmt.Errorf("the damaged blob %s: %w", w.Blob, err)
		}
	} else if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	var old int64
	name := partialDir + "/" + w.Blob
	if st, err := s.root.Lstat(name); err == nil && st.Mode().IsRegular() {
		old = st.Size()
	} else if err := s.root.RemoveAll(name); err != nil { // something that is not ours
		return nil, err
	}
	mine := func(hash string) bool { return hash == w.Blob || keep != nil && keep(hash) }
	if err := s.roomFor(max(0, w.Size-old), mine); err != nil {
		return nil, err
	}
	if p.f, err = s.root.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644); err != nil {
		return nil, Full(err)
	}
	if err := p.prepare(ctx, old); err != nil {
		p.f.Close()
		if old == 0 {
			s.root.Remove(name)
		}
		return nil, fmt.Errorf("the blob %s: %w", w.Blob, Full(err))
	}
	return p, nil
}

// prepare takes the room, and finds out which pieces are there.
func (p *Partial) prepare(ctx context.Context, old int64) error {
	now := time.Now()
	if err := p.s.root.Chtimes(partialDir+"/"+p.want.Blob, now, now); err != nil {
		return err
	}
	if len(p.want.Frames) == 0 { // the size says how far it is
		n := 0
		for old <= p.want.Size && n < len(p.pieces) && p.pieces[n].off+p.pieces[n].size <= old {
			p.have[n] = true
			p.done += p.pieces[n].size
			n++
		}
		p.resume = n > 0
		if err := p.f.Truncate(p.done); err != nil {
			return err
		}
		return p.allocate(unix.FALLOC_FL_KEEP_SIZE)
	}
	if old > p.want.Size {
		if err := p.f.Truncate(p.want.Size); err != nil {
			return err
		}
	}
	if err := p.allocate(0); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for i, x := range p.pieces {
		if err := ctx.Err(); err != nil {
			return err
		}
		if x.off >= old {
			break
		}
		h := sha256.New()
		if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(p.f, x.off, x.size), buf); err != nil {
			return err
		}
		if p.have[i] = hex.EncodeToString(h.Sum(nil)) == x.hash; p.have[i] {
			p.done += x.size
			p.resume = true
		}
	}
	return nil
}

// allocate takes the room for all of it, where the file system can.
func (p *Partial) allocate(mode uint32) error {
	err := unix.Fallocate(int(p.f.Fd()), mode, 0, p.want.Size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// hashOf hashes a whole file.
func hashOf(ctx context.Context, f *os.File) (string, error) {
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.ReadAt(buf, off)
		h.Write(buf[:n])
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// missing returns the pieces that are still needed, in order.
func (p *Partial) missing() []int {
	var list []int
	for i, have := range p.have {
		if !have {
			list = append(list, i)
		}
	}
	return list
}

// write keeps a piece, durably. A piece with another hash is ErrLied, and nothing changes.
func (p *Partial) write(i int, b []byte) error {
	x := p.pieces[i]
	if int64(len(b)) != x.size {
		return fmt.Errorf("%w: %d bytes instead of %d", ErrLied, len(b), x.size)
	}
	if x.hash != "" {
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != x.hash {
			return fmt.Errorf("%w: bytes %d to %d of the blob %s are not the signed ones", ErrLied, x.off, x.off+x.size, p.want.Blob)
		}
	}
	_, err := p.f.WriteAt(b, x.off)
	if err == nil {
		err = p.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("keep a piece of the blob %s: %w", p.want.Blob, Full(err))
	}
	p.have[i] = true
	p.done += x.size
	return nil
}

// finish makes a blob whose pieces are all there a file of the repository. If its hash is wrong, that is ErrLied, and it starts anew.
func (p *Partial) finish(ctx context.Context) error {
	hash, err := hashOf(ctx, p.f)
	if err != nil {
		return err
	}
	if hash != p.want.Blob {
		return errors.Join(fmt.Errorf("%w: the blob %s has the hash %s", ErrLied, p.want.Blob, hash), p.restart())
	}
	if err := p.f.Sync(); err != nil {
		return Full(err)
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return Full(p.s.move(partialDir+"/"+p.want.Blob, repoDir+"/"+release.BlobFile(p.want.Blob)))
}

// restart forgets all pieces.
func (p *Partial) restart() error {
	clear(p.have)
	p.done, p.resume = 0, false
	return p.f.Truncate(0)
}

// close keeps what there is for the next time.
func (p *Partial) close() { p.f.Close() }

// Abandon removes what there is of an incomplete blob.
func (s *Store) Abandon(hash string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !release.IsHash(hash) {
		return nil
	}
	if err := s.root.Remove(partialDir + "/" + hash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
