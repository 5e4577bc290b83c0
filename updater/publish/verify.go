package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/trust"
)

// Source is where Verify reads a repository.
type Source interface {
	trust.Source
	// ReadRange fills p with a file's bytes from off on.
	ReadRange(ctx context.Context, path string, off int64, p []byte) error
}

// ReadRange makes a Folder a Source.
func (f Folder) ReadRange(_ context.Context, path string, off int64, p []byte) error {
	if !filepath.IsLocal(path) {
		return trust.ErrNotFound
	}
	file, err := os.Open(filepath.Join(string(f), filepath.FromSlash(path)))
	if errors.Is(err, os.ErrNotExist) {
		return trust.ErrNotFound
	} else if err != nil {
		return err
	}
	defer file.Close()
	if n, err := file.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("%s: %w", path, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return nil
}

// VerifyOptions say whom to believe and how much to look at.
type VerifyOptions struct {
	Root        []byte // a root that is trusted; nil: the one in the repository with this Fingerprint
	Fingerprint string // SHA-256 of a trusted root, hex
	Prefix      string // "auditors/NAME/" for the lists of an auditor
	NoLog       bool   // a publisher without a public log will do
	Board       string // only this; "" means all
	Deep        bool   // every frame and patch, too
	Partial     bool   // what is not there is no fault, as in a bundle; but one release has to be
	Now         time.Time
	Progress    func(what string) // nil: nobody hears
}

// Verified is what was found.
type Verified struct {
	trust.Status
	Releases []VerifiedRelease
	Frames   int // blobs of frames that were unpacked and hashed
	Patches  int // patches that were applied to what they are for
	Absent   int // descriptions, bills of materials and patches that are not there, with Partial
	Unproven int // patches whose old part is not in the repository: only their own hash was checked
}

// VerifiedRelease is a release that the metadata stands for.
type VerifiedRelease struct {
	Target  trust.Target
	Release *release.Release
}

// Verify checks a repository as a box does, and with Deep every byte that boxes could ever fetch of it. Everybody can do that.
func Verify(ctx context.Context, src Source, o VerifyOptions) (*Verified, error) {
	say := o.Progress
	if say == nil {
		say = func(string) {}
	}
	if o.Root == nil {
		var err error
		if o.Root, err = findRoot(ctx, src, o.Prefix, o.Fingerprint); err != nil {
			return nil, err
		}
	} else if sum := hashOf(o.Root); o.Fingerprint != "" && sum != o.Fingerprint {
		return nil, fmt.Errorf("the fingerprint of the root is %s", sum)
	}
	dir, err := os.MkdirTemp("", "croft-verify-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, err := trust.Create(dir, trust.Options{Root: o.Root, Prefix: o.Prefix, NeedLog: !o.NoLog})
	if err != nil {
		return nil, err
	}
	v := &Verified{}
	if v.Status, err = c.Refresh(ctx, src, trust.Clock{Now: o.Now, Sure: true}); err != nil {
		return v, err
	}
	if v.Status.Beta != "" {
		return v, errors.New(v.Status.Beta)
	}
	for _, t := range c.Targets() {
		ch, board, version, ok := release.ParseTarget(t.Path)
		if !ok {
			return v, fmt.Errorf("%s is not the path of a release", t.Path)
		}
		if o.Board != "" && board != o.Board {
			continue
		}
		b, err := src.Get(ctx, release.TargetFile(t.Path, t.SHA256), release.MaxDescription)
		if o.Partial && errors.Is(err, trust.ErrNotFound) {
			v.Absent++
			continue
		}
		if err == nil {
			err = c.Verify(t.Path, b)
		}
		if err != nil {
			return v, fmt.Errorf("%s: %w", t.Path, err)
		}
		r, err := release.Parse(b)
		if err != nil {
			return v, fmt.Errorf("%s: %w", t.Path, err)
		}
		if r.Board != board || r.Version != version || r.Channel != ch {
			return v, fmt.Errorf("%s describes another release", t.Path)
		}
		v.Releases = append(v.Releases, VerifiedRelease{t, r})
	}
	slices.SortFunc(v.Releases, func(a, b VerifiedRelease) int { return int(a.Release.Number - b.Release.Number) })
	for i, r := range v.Releases {
		if i > 0 && v.Releases[i-1].Release.Number == r.Release.Number && v.Releases[i-1].Release.Version != r.Release.Version {
			return v, fmt.Errorf("two releases have the number %d", r.Release.Number)
		}
	}
	if o.Partial && len(v.Releases) == 0 {
		return v, errors.New("there is no release in it")
	}
	if o.Deep {
		return v, v.deep(ctx, src, o.Partial, say)
	}
	return v, nil
}

// findRoot looks for a root by its fingerprint. It is the fingerprint that is believed.
func findRoot(ctx context.Context, src Source, prefix, fingerprint string) ([]byte, error) {
	if !release.IsHash(fingerprint) {
		return nil, errors.New("a fingerprint has 64 digits 0-9 and a-f")
	}
	for v := range int64(release.MaxNewRoots) {
		b, err := src.Get(ctx, prefix+metadataFile(roleRoot, v+1), release.MaxRoot)
		if errors.Is(err, trust.ErrNotFound) {
			break
		} else if err != nil {
			return nil, err
		}
		if hashOf(b) == fingerprint {
			return b, nil
		}
	}
	return nil, fmt.Errorf("no root there has the fingerprint %s", fingerprint)
}

// blobReader reads a blob of a source.
type blobReader struct {
	ctx  context.Context
	src  Source
	path string
	size int64
}

func (b blobReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > b.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > b.size-off {
		p, end = p[:b.size-off], io.EOF
	}
	if err := b.src.ReadRange(b.ctx, b.path, off, p); err != nil {
		return 0, err
	}
	return len(p), end
}

// deep checks all blobs of the releases. Parts are kept in a temporary folder while patches need them.
func (v *Verified) deep(ctx context.Context, src Source, partial bool, say func(string)) error {
	dir, err := os.MkdirTemp("", "croft-parts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	have := map[string]bool{}
	for _, r := range v.Releases {
		if err := checkBlob(ctx, src, r.Release.SBOM); partial && errors.Is(err, trust.ErrNotFound) {
			v.Absent++
		} else if err != nil {
			return fmt.Errorf("%s: %w", r.Target.Path, err)
		}
		for _, p := range []release.Part{r.Release.Boot, r.Release.Root} {
			if have[p.SHA256] {
				continue
			}
			blob := release.Blob{Blob: p.Frames.Blob, Size: p.Frames.Size}
			say(r.Target.Path + ": " + release.BlobFile(blob.Blob))
			if err := checkBlob(ctx, src, blob); err != nil {
				return fmt.Errorf("%s: %w", r.Target.Path, err)
			}
			f, err := os.Create(filepath.Join(dir, p.SHA256))
			if err != nil {
				return err
			}
			err = delta.ReadFrames(p, blobReader{ctx, src, release.BlobFile(blob.Blob), blob.Size}, f)
			if err = errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("%s: frames %s: %w", r.Target.Path, blob.Blob, err)
			}
			have[p.SHA256] = true
			v.Frames++
		}
	}
	for _, r := range v.Releases {
		for _, p := range []release.Part{r.Release.Boot, r.Release.Root} {
			for _, x := range p.Patches {
				blob := release.Blob{Blob: x.Blob, Size: x.Size}
				say(r.Target.Path + ": " + release.BlobFile(blob.Blob))
				if err := checkBlob(ctx, src, blob); partial && errors.Is(err, trust.ErrNotFound) {
					v.Absent++
					continue
				} else if err != nil {
					return fmt.Errorf("%s: %w", r.Target.Path, err)
				}
				if !have[x.From] {
					v.Unproven++
					continue
				}
				if err := applies(ctx, src, filepath.Join(dir, x.From), x, p); err != nil {
					return fmt.Errorf("%s: patch %s: %w", r.Target.Path, x.Blob, err)
				}
				v.Patches++
			}
		}
	}
	return nil
}

// applies checks that a patch makes the part of the old one.
func applies(ctx context.Context, src Source, old string, x release.Patch, p release.Part) error {
	f, err := os.Open(old)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != x.FromSize {
		return fmt.Errorf("it says that the old part has %d bytes, not %d", x.FromSize, fi.Size())
	}
	w := counter{Hash: sha256.New()}
	blob := blobReader{ctx, src, release.BlobFile(x.Blob), x.Size}
	if err := delta.Patch(f, x.FromSize, blob, x.Size, &w, p.Size); err != nil {
		return err
	}
	if w.n != p.Size || hex.EncodeToString(w.Sum(nil)) != p.SHA256 {
		return errors.New("it makes something else")
	}
	return nil
}

type counter struct {
	hash.Hash
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return c.Hash.Write(b)
}

// checkBlob checks length and hash of a blob.
func checkBlob(ctx context.Context, src Source, b release.Blob) error {
	h := sha256.New()
	_, err := io.CopyBuffer(struct{ io.Writer }{h},
		io.NewSectionReader(blobReader{ctx, src, release.BlobFile(b.Blob), b.Size}, 0, b.Size), make([]byte, 1<<20))
	if err != nil {
		return fmt.Errorf("%s: %w", release.BlobFile(b.Blob), err)
	}
	if hex.EncodeToString(h.Sum(nil)) != b.Blob {
		return fmt.Errorf("%s is not what its name says", release.BlobFile(b.Blob))
	}
	// What follows would be no part of it: a server that has more is not in order.
	if err := src.ReadRange(ctx, release.BlobFile(b.Blob), b.Size, make([]byte, 1)); err == nil {
		return fmt.Errorf("%s is longer than its release says", release.BlobFile(b.Blob))
	}
	return nil
}
