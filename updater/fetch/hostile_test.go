package fetch_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/fat"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
	"github.com/croft-os/croft/updater/release"
)

// liars are mirrors that do not do what they should with a request for bytes [from, to] of file.
func liars() map[string]func(w http.ResponseWriter, r *http.Request, file []byte, from, to int) {
	answer := func(w http.ResponseWriter, file []byte, from, to int) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(file)))
		w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
		w.WriteHeader(http.StatusPartialContent)
	}
	trickle := func(w http.ResponseWriter, r *http.Request, b []byte) {
		for i := range b {
			w.Write(b[i : i+1])
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return map[string]func(w http.ResponseWriter, r *http.Request, file []byte, from, to int){
		"endless data": func(w http.ResponseWriter, r *http.Request, file []byte, from, to int) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(file)))
			w.WriteHeader(http.StatusPartialContent)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
		"cut short": func(w http.ResponseWriter, _ *http.Request, file []byte, from, to int) {
			answer(w, file, from, to)
			w.Write(file[from : from+(to-from)/2])
			panic(http.ErrAbortHandler)
		},
		"shorter than asked": func(w http.ResponseWriter, _ *http.Request, file []byte, from, to int) {
			to = from + (to-from)/2
			answer(w, file, from, to)
			w.Write(file[from : to+1])
		},
		"one wrong byte": func(w http.ResponseWriter, _ *http.Request, file []byte, from, to int) {
			b := bytes.Clone(file[from : to+1])
			b[len(b)/2] ^= 1
			answer(w, file, from, to)
			w.Write(b)
		},
		"another range": func(w http.ResponseWriter, _ *http.Request, file []byte, from, to int) {
			answer(w, file, 0, to-from)
			w.Write(file[:to-from+1])
		},
		"another range, said to be the right one": func(w http.ResponseWriter, _ *http.Request, file []byte, from, to int) {
			n := to - from + 1
			answer(w, file, from, to)
			w.Write(file[len(file)-n:])
		},
		"200 and the whole file": func(w http.ResponseWriter, _ *http.Request, file []byte, _, _ int) { w.Write(file) },
		"200 and a page": func(w http.ResponseWriter, _ *http.Request, _ []byte, _, _ int) {
			io.WriteString(w, "<html>Please sign in to our Wi-Fi</html>")
		},
		"206 without saying of what": func(w http.ResponseWriter, _ *http.Request, file []byte, from, to int) {
			w.WriteHeader(http.StatusPartialContent)
			w.Write(file[from : to+1])
		},
		"redirect to http": func(w http.ResponseWriter, r *http.Request, _ []byte, _, _ int) {
			http.Redirect(w, r, "http://127.0.0.1:1/"+r.URL.Path, http.StatusFound)
		},
		"redirect in a circle": func(w http.ResponseWriter, r *http.Request, _ []byte, _, _ int) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		},
		"redirect to a file": func(w http.ResponseWriter, _ *http.Request, _ []byte, _, _ int) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		},
		"says nothing": func(_ http.ResponseWriter, r *http.Request, _ []byte, _, _ int) { <-r.Context().Done() },
		"headers only": func(w http.ResponseWriter, r *http.Request, file []byte, from, to int) {
			answer(w, file, from, to)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"a byte at a time": func(w http.ResponseWriter, r *http.Request, file []byte, from, to int) {
			answer(w, file, from, to)
			trickle(w, r, file[from:to+1])
		},
		"compressed": func(w http.ResponseWriter, _ *http.Request, file []byte, from, to int) {
			w.Header().Set("Content-Encoding", "gzip")
			answer(w, file, from, to)
			w.Write(make([]byte, to-from+1))
		},
		"500": func(w http.ResponseWriter, _ *http.Request, _ []byte, _, _ int) { w.WriteHeader(500) },
		"404": func(w http.ResponseWriter, _ *http.Request, _ []byte, _, _ int) { w.WriteHeader(404) },
		"huge headers": func(w http.ResponseWriter, _ *http.Request, file []byte, from, to int) {
			for i := range 100 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 4000))
			}
			answer(w, file, from, to)
			w.Write(file[from : to+1])
		},
		"hangs up": func(http.ResponseWriter, *http.Request, []byte, int, int) { panic(http.ErrAbortHandler) },
	}
}

// liar serves files with one of these; everything else than blobs is served well.
func liar(t testing.TB, files map[string][]byte, lie func(http.ResponseWriter, *http.Request, []byte, int, int)) fetch.Source {
	t.Helper()
	srv, o := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, ok := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		from, to := 0, len(file)-1
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
		lie(w, r, file, from, min(to, len(file)-1))
	}))
	o.Window, o.MinRate = 300*time.Millisecond, 10_000
	s, err := fetch.OpenMirror(srv.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// framed makes a blob of n frames, and what is wanted of it.
func framed(seed uint64, n int) ([]byte, fetch.Want) {
	var w fetch.Want
	var blob []byte
	for i := range n {
		b := fetchtest.Bytes(seed*100+uint64(i), 200_000+i*1000)
		w.Frames = append(w.Frames, release.Frame{Size: int64(len(b)), SHA256: fetchtest.Hash(b)})
		blob = append(blob, b...)
	}
	w.Blob, w.Size = fetchtest.Hash(blob), int64(len(blob))
	return blob, w
}

func newStore(t testing.TB) *fetch.Store {
	t.Helper()
	s, err := fetch.OpenStore(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func check(t testing.TB, s *fetch.Store, blob []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), release.BlobFile(fetchtest.Hash(blob)), release.MaxPart)
	if err != nil || !bytes.Equal(got, blob) {
		t.Errorf("the blob: %d bytes of %d, %v", len(got), len(blob), err)
	}
}

// TestLiars fetches from each of them alone, which fails in bounded time and memory and leaves no wrong byte, and then from it and an
// honest one after it, which ends well.
func TestLiars(t *testing.T) {
	blob, want := framed(1, 4)
	files := map[string][]byte{release.BlobFile(want.Blob): blob}
	plain := fetch.Want{Blob: want.Blob, Size: want.Size}
	// What is no lie where all of a file is asked for.
	honest := map[string]bool{"200 and the whole file": true, "another range": true, "another range, said to be the right one": true}
	for name, lie := range liars() {
		for kind, w := range map[string]fetch.Want{"frames": want, "whole": plain} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				store := newStore(t)
				bad := liar(t, files, lie)
				job := fetch.Job{Store: store, Sources: []fetch.Source{bad}, Patience: 100 * time.Millisecond}
				err := job.Fetch(ctx, []fetch.Want{w})
				ends := honest[name] && kind == "whole"
				if ends != (err == nil) || err != nil && !errors.Is(err, fetch.ErrExhausted) {
					t.Errorf("alone: %v", err)
				}
				good, err := fetch.OpenDir(fetch.KindMirror, "good", writeTree(t, files))
				if err != nil {
					t.Fatal(err)
				}
				defer good.Close()
				job.Sources = append(job.Sources, good)
				if err := job.Fetch(ctx, []fetch.Want{w}); err != nil {
					t.Errorf("with an honest one: %v", err)
				}
				check(t, store, blob)
			})
		}
	}
}

// TestLyingMetadata asks them for a small file.
func TestLyingMetadata(t *testing.T) {
	files := map[string][]byte{"metadata/timestamp.json": bytes.Repeat([]byte("x"), 9000)}
	for name, lie := range liars() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			b, err := liar(t, files, lie).Get(ctx, "metadata/timestamp.json", release.MaxTimestamp)
			want := name == "200 and the whole file" || name == "200 and a page"
			if (err == nil) != want || len(b) > release.MaxTimestamp || ctx.Err() != nil {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
}

// TestBombs checks that nothing is decompressed, and that an endless answer is not read.
func TestBombs(t *testing.T) {
	var sent atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("asked for %q", r.Header.Get("Accept-Encoding"))
		}
		if strings.HasSuffix(r.URL.Path, "timestamp.json") {
			w.Header().Set("Content-Encoding", "gzip")
		}
		for r.Context().Err() == nil && sent.Load() < 1<<30 {
			n, err := w.Write(make([]byte, 1<<20))
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}))
	defer srv.Close()
	s, err := fetch.OpenMirror(srv.URL, fetch.HTTPOptions{}) // by an address of this machine
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), "metadata/timestamp.json", 1<<20); !errors.Is(err, fetch.ErrLied) {
		t.Errorf("compressed: %v", err)
	}
	if _, err := s.Get(t.Context(), "metadata/1.root.json", 1<<40); !errors.Is(err, fetch.ErrTooLarge) {
		t.Errorf("endless: %v", err)
	}
	if sent.Load() > 64<<20 {
		t.Errorf("%d bytes were sent", sent.Load())
	}
}

// TestHostileZip has files that only look like bundles.
func TestHostileZip(t *testing.T) {
	good := fetchtest.Files()
	base := makeZip(t, good)
	le := binary.LittleEndian
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(base)) }
	end := len(base) - 22
	entries := func(hs ...zip.FileHeader) []byte {
		var buf bytes.Buffer
		z := zip.NewWriter(&buf)
		mark, _ := z.CreateHeader(&zip.FileHeader{Name: "croft-repository"})
		io.WriteString(mark, fetch.Mark)
		for _, h := range hs {
			w, err := z.CreateHeader(&h)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(h.Name, "/") {
				w.Write(make([]byte, 1<<20))
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	many := map[string][]byte{"croft-repository": []byte(fetch.Mark)}
	for i := range 5000 {
		many[fmt.Sprintf("metadata/%d.root.json", i+1)] = nil
	}
	for name, b := range map[string][]byte{
		"empty":             nil,
		"no ZIP":            bytes.Repeat([]byte("croft"), 1000),
		"cut off":           base[:len(base)-1],
		"cut in the middle": base[:len(base)/2],
		"only the end":      base[end:],
		"a comment":         edit(func(b []byte) []byte { le.PutUint16(b[end+20:], 5); return append(b, "hello"...) }),
		"a false comment":   edit(func(b []byte) []byte { le.PutUint16(b[end+20:], 5); return b }),
		"several disks":     edit(func(b []byte) []byte { le.PutUint16(b[end+4:], 1); return b }),
		"ZIP64":             edit(func(b []byte) []byte { le.PutUint32(b[end+16:], 1<<32-1); return b }),
		"too many":          makeZip(t, many),
		"more than it has":  edit(func(b []byte) []byte { le.PutUint16(b[end+8:], 4000); le.PutUint16(b[end+10:], 4000); return b }),
		"a huge directory":  edit(func(b []byte) []byte { le.PutUint32(b[end+12:], 1<<31); return b }),
		"directory outside": edit(func(b []byte) []byte { le.PutUint32(b[end+16:], uint32(len(b))); return b }),
		"deflated":          entries(zip.FileHeader{Name: "metadata/1.root.json", Method: zip.Deflate}),
		"deflated stranger": entries(zip.FileHeader{Name: "notes.txt", Method: zip.Deflate}),
		"too large":         entries(zip.FileHeader{Name: "metadata/timestamp.json"}),
		"twice":             entries(zip.FileHeader{Name: "notes.txt"}, zip.FileHeader{Name: "notes.txt"}),
		"the mark twice":    entries(zip.FileHeader{Name: "croft-repository"}),
		"dots":              entries(zip.FileHeader{Name: "../notes.txt"}),
		"absolute":          entries(zip.FileHeader{Name: "/etc/passwd"}),
		"backslash":         entries(zip.FileHeader{Name: "..\\notes.txt"}),
		"no mark":           makeZip(t, map[string][]byte{"metadata/timestamp.json": nil}),
	} {
		s, err := fetch.OpenBundle(fetch.KindFile, name, bytes.NewReader(b), int64(len(b)), nil)
		if err == nil || !errors.Is(err, fetch.ErrLied) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	for name, b := range map[string][]byte{
		"as it was":  base,
		"a folder":   entries(zip.FileHeader{Name: "metadata/"}),
		"a stranger": entries(zip.FileHeader{Name: "notes.txt"}),
		"in front":   append([]byte("something that unpacks itself"), base...),
	} {
		if _, err := fetch.OpenBundle(fetch.KindFile, name, bytes.NewReader(b), int64(len(b)), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Memory does not follow what a file claims: one that is nothing but a directory.
	var dir bytes.Buffer
	for i := range 1 << 19 {
		h := make([]byte, 46)
		le.PutUint32(h, 0x02014b50)
		le.PutUint16(h[28:], 8)
		dir.Write(h)
		fmt.Fprintf(&dir, "%08d", i)
	}
	tail := make([]byte, 22)
	le.PutUint32(tail, 0x06054b50)
	le.PutUint16(tail[8:], 100)
	le.PutUint16(tail[10:], 100)
	le.PutUint32(tail[12:], uint32(dir.Len()))
	dir.Write(tail)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := fetch.OpenBundle(fetch.KindFile, "x", bytes.NewReader(dir.Bytes()), int64(dir.Len()), nil); err == nil {
		t.Error("a directory without files taken")
	}
	if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 4<<20 {
		t.Errorf("took %d bytes", after.TotalAlloc-before.TotalAlloc)
	}
}

// unplugged fails from the nth reading on.
type unplugged struct {
	io.ReaderAt
	left int
}

func (u *unplugged) ReadAt(p []byte, off int64) (int, error) {
	if u.left--; u.left < 0 {
		return 0, os.NewSyscallError("read", errNoDevice)
	}
	return u.ReaderAt.ReadAt(p, off)
}

var errNoDevice = errors.New("no such device")

// TestUnplugged pulls a stick at every single reading.
func TestUnplugged(t *testing.T) {
	blob, want := framed(3, 3)
	files := map[string][]byte{"croft/croft-repository": []byte(fetch.Mark), "croft/" + release.BlobFile(want.Blob): blob}
	img, err := os.ReadFile(makeVolume(t, files))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		u := &unplugged{bytes.NewReader(img), n}
		store := newStore(t)
		list, err := fetch.OpenVolume(fetch.KindUSB, "STICK", u, nil, "pc")
		if err == nil {
			job := fetch.Job{Store: store, Sources: list, Patience: time.Millisecond}
			err = job.Fetch(t.Context(), []fetch.Want{want})
		}
		if err == nil {
			check(t, store, blob)
			if n < 10 {
				t.Errorf("only %d readings", n)
			}
			break
		}
		if !errors.Is(err, errNoDevice) {
			t.Fatalf("unplugged at reading %d: %v", n, err)
		}
	}
}

// TestHostileVolume changes bytes of a volume's structures one by one: what comes out is right, or an error, in bounded time.
func TestHostileVolume(t *testing.T) {
	blob, want := framed(3, 1)
	files := map[string][]byte{"croft/croft-repository": []byte(fetch.Mark), "croft/" + release.BlobFile(want.Blob): blob}
	img, err := os.ReadFile(makeVolume(t, files))
	if err != nil {
		t.Fatal(err)
	}
	list, err := fetch.OpenVolume(fetch.KindUSB, "STICK", bytes.NewReader(img), nil, "pc")
	if err != nil {
		t.Fatal(err)
	}
	list[0].Close()
	began := time.Now()
	for at := 0; at < 90; at++ { // the boot sector's fields
		for _, x := range []byte{0, 1, 0x7f, 0xff} {
			bad := bytes.Clone(img[:1<<20])
			bad[at] = x
			r := io.NewSectionReader(readers{bad, img}, 0, int64(len(img)))
			list, err := fetch.OpenVolume(fetch.KindUSB, "STICK", r, nil, "pc")
			if err != nil {
				continue
			}
			p := make([]byte, len(blob))
			if err := list[0].ReadRange(t.Context(), release.BlobFile(want.Blob), 0, p); err == nil && !bytes.Equal(p, blob) {
				t.Logf("byte %d as %#x makes other bytes, which the hash will tell", at, x)
			}
			list[0].Close()
		}
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

// readers reads the first bytes from one slice, the others from another.
type readers struct{ first, all []byte }

func (r readers) ReadAt(p []byte, off int64) (int, error) {
	if off < int64(len(r.first)) {
		return bytes.NewReader(r.first).ReadAt(p[:min(len(p), len(r.first)-int(off))], off)
	}
	return bytes.NewReader(r.all).ReadAt(p, off)
}

func FuzzBundle(f *testing.F) {
	small := maps.Clone(fetchtest.Files())
	maps.DeleteFunc(small, func(_ string, b []byte) bool { return len(b) > 3000 })
	f.Add(makeZip(f, small))
	f.Add(makeZip(f, map[string][]byte{"croft-repository": []byte(fetch.Mark)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := fetch.OpenBundle(fetch.KindFile, "x", bytes.NewReader(b), int64(len(b)), nil)
		if err != nil {
			if !errors.Is(err, fetch.ErrLied) {
				t.Errorf("%v", err)
			}
			return
		}
		for p := range small {
			got, err := s.Get(t.Context(), p, 1<<20)
			if err == nil && len(got) > len(b) {
				t.Errorf("%s: %d bytes of a file of %d", p, len(got), len(b))
			}
		}
		for _, p := range fetchtest.Strangers() {
			if _, err := s.Get(t.Context(), p, 1<<20); !errors.Is(err, fetch.ErrNotFound) {
				t.Errorf("%q: %v", p, err)
			}
		}
	})
}

func FuzzVolume(f *testing.F) {
	img, err := os.ReadFile(makeVolume(f, map[string][]byte{
		"croft/croft-repository": []byte(fetch.Mark), "croft/metadata/timestamp.json": fetchtest.Bytes(1, 5000),
	}))
	if err != nil {
		f.Fatal(err)
	}
	// What differs from the volume: (where, what) pairs.
	f.Add([]byte{0, 0, 11, 1})
	f.Add([]byte{0, 2, 0, 0xff, 0x40, 4, 0, 0xff})
	f.Fuzz(func(t *testing.T, edits []byte) {
		head := bytes.Clone(img[:2<<20])
		for len(edits) >= 4 {
			at := int(edits[0])<<16 | int(edits[1])<<8 | int(edits[2])
			head[at%len(head)] = edits[3]
			edits = edits[4:]
		}
		list, err := fetch.OpenVolume(fetch.KindUSB, "x", io.NewSectionReader(readers{head, img}, 0, int64(len(img))), nil, "pc")
		if err != nil {
			return
		}
		for _, s := range list {
			if b, err := s.Get(t.Context(), "metadata/timestamp.json", release.MaxTimestamp); err == nil && len(b) > release.MaxTimestamp {
				t.Errorf("%d bytes", len(b))
			}
			err := s.ReadRange(t.Context(), "metadata/timestamp.json", 4000, make([]byte, 1000))
			if errors.Is(err, fat.ErrNotFAT) {
				t.Errorf("%v", err)
			}
			s.Close()
		}
	})
}

func FuzzPath(f *testing.F) {
	for p := range fetchtest.Files() {
		f.Add(p)
	}
	for _, p := range fetchtest.Strangers() {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		c, limit := fetch.Path(p)
		if (c == fetch.ClassNone) != (limit == 0) {
			t.Errorf("%q: %v, %d", p, c, limit)
		}
		if c == fetch.ClassNone {
			return
		}
		if len(p) > 256 || strings.ContainsAny(p, "\\\x00\n :") || strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") {
			t.Errorf("%q is taken", p)
		}
		for part := range strings.SplitSeq(p, "/") {
			if part == "" || part == "." || part == ".." || part[0] == '.' {
				t.Errorf("%q is taken", p)
			}
		}
	})
}
