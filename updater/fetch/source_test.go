package fetch_test

import (
	"archive/zip"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/hardware/fat/fattest"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
)

// writeTree makes a folder of files.
func writeTree(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for p, b := range files {
		name := filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// withStrangers adds files that no source may show.
func withStrangers(files map[string][]byte) map[string][]byte {
	all := maps.Clone(files)
	all["secret.txt"] = []byte("secret")
	all["metadata/1.root.json.bak"] = []byte("secret")
	all["etc/passwd"] = []byte("secret")
	return all
}

func TestDir(t *testing.T) {
	fetchtest.Test(t, func(t *testing.T, files map[string][]byte) fetch.Source {
		s, err := fetch.OpenDir(fetch.KindFile, "a folder", writeTree(t, withStrangers(files)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// TestDirLinks has files behind links, in every place of a path.
func TestDirLinks(t *testing.T) {
	dir := writeTree(t, fetchtest.Files())
	for from, to := range map[string]string{
		"metadata/2.root.json": "1.root.json", "metadata/3.root.json": "/etc/passwd", "auditors/linked": "second",
		"auditors/outside": "/etc", "metadata/4.root.json": "nowhere",
	} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "metadata/5.root.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfifo", filepath.Join(dir, "metadata/6.root.json")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := fetch.OpenDir(fetch.KindFile, "a folder", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, p := range []string{
		"metadata/2.root.json", "metadata/3.root.json", "metadata/4.root.json", "metadata/5.root.json", "metadata/6.root.json",
		"auditors/linked/metadata/timestamp.json", "auditors/outside/metadata/timestamp.json",
	} {
		if b, err := s.Get(t.Context(), p, 1<<20); err == nil {
			t.Errorf("%s: %q", p, b)
		}
	}
}

// putAll fills a store, the way its users do.
func putAll(t testing.TB, s *fetch.Store, files map[string][]byte) {
	t.Helper()
	src, err := fetch.OpenDir(fetch.KindFile, "a folder", writeTree(t, files))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var wants []fetch.Want
	for p, b := range files {
		if hash, ok := strings.CutPrefix(p, "blobs/"); ok {
			wants = append(wants, fetch.Want{Blob: hash, Size: int64(len(b))})
		} else if err := s.Put(p, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := (&fetch.Job{Store: s, Sources: []fetch.Source{src}}).Fetch(t.Context(), wants); err != nil {
		t.Fatal(err)
	}
}

func TestStoreIsASource(t *testing.T) {
	fetchtest.Test(t, func(t *testing.T, files map[string][]byte) fetch.Source {
		s, err := fetch.OpenStore(t.TempDir(), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		putAll(t, s, files)
		return s
	})
}

// makeZip makes a ZIP file of stored entries.
func makeZip(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, p := range slices.Sorted(maps.Keys(files)) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: p, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[p]); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestBundle(t *testing.T) {
	fetchtest.Test(t, func(t *testing.T, files map[string][]byte) fetch.Source {
		b := makeZip(t, withStrangers(files))
		s, err := fetch.OpenBundle(fetch.KindFile, "croft-pc.zip", bytes.NewReader(b), int64(len(b)), nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// tool runs a program of mtools or dosfstools.
func tool(t testing.TB, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// makeVolume makes a FAT32 volume with files in its root folder.
func makeVolume(t testing.TB, files map[string][]byte) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "volume")
	tool(t, "mkfs.fat", "-F", "32", "-s", "1", "-C", img, "65536")
	dir := writeTree(t, files)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		tool(t, "mcopy", "-s", "-i", img, filepath.Join(dir, e.Name()), "::/")
	}
	return img
}

func openVolume(t testing.TB, img string, boards ...string) []fetch.Source {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	list, err := fetch.OpenVolume(fetch.KindUSB, "STICK", f, f, boards...)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestVolume(t *testing.T) {
	fetchtest.Test(t, func(t *testing.T, files map[string][]byte) fetch.Source {
		tree := map[string][]byte{}
		for p, b := range withStrangers(files) {
			tree["croft/"+p] = b
		}
		list := openVolume(t, makeVolume(t, tree), "pc")
		if len(list) != 1 {
			t.Fatalf("%d sources", len(list))
		}
		return list[0]
	})
}

func TestVolumeWithBundle(t *testing.T) {
	fetchtest.Test(t, func(t *testing.T, files map[string][]byte) fetch.Source {
		img := makeVolume(t, map[string][]byte{
			"croft-pc.zip": makeZip(t, files), "croft-rpi.zip": []byte("for another"), "croft/notes.txt": []byte("x"),
		})
		list := openVolume(t, img, "pc")
		if len(list) != 1 || list[0].Name() != "STICK/croft-pc.zip" {
			t.Fatalf("%d sources", len(list))
		}
		return list[0]
	})
}

func TestVolumeExFAT(t *testing.T) {
	fetchtest.Test(t, func(t *testing.T, files map[string][]byte) fetch.Source {
		tree := map[string][]byte{"croft-rpi.zip": []byte("for another")}
		for p, b := range withStrangers(files) {
			tree["croft/"+p] = b
		}
		list := openVolume(t, fattest.Files(t, "STICK", tree), "pc")
		if len(list) != 1 {
			t.Fatalf("%d sources", len(list))
		}
		return list[0]
	})
}

func TestVolumeWithBoth(t *testing.T) {
	files := fetchtest.Files()
	all := map[string][]byte{"croft-pc.zip": makeZip(t, files)}
	for p, b := range files {
		all["croft/"+p] = b
	}
	closed := 0
	img, err := os.Open(makeVolume(t, all))
	if err != nil {
		t.Fatal(err)
	}
	list, err := fetch.OpenVolume(fetch.KindUSB, "STICK", img, closer(func() { closed++; img.Close() }), "pc")
	if err != nil || len(list) != 2 {
		t.Fatalf("%d sources, %v", len(list), err)
	}
	list[0].Close()
	list[0].Close()
	if _, err := list[1].Get(t.Context(), "croft-repository", 100); err != nil || closed != 0 {
		t.Errorf("one closed, the other: %v", err)
	}
	if list[1].Close(); closed != 1 {
		t.Errorf("closed %d times", closed)
	}
}

type closer func()

func (c closer) Close() error { c(); return nil }

// serve serves a folder over TLS, and returns what a client needs.
func serve(t testing.TB, h http.Handler) (*httptest.Server, fetch.HTTPOptions) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return srv, fetch.HTTPOptions{Roots: pool, Sure: true, Window: 2 * time.Second}
}

// fileServer serves files from memory, with ranges.
func fileServer(files map[string][]byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	})
}

func TestMirror(t *testing.T) {
	fetchtest.Test(t, func(t *testing.T, files map[string][]byte) fetch.Source {
		dir := writeTree(t, withStrangers(files))
		srv, o := serve(t, http.StripPrefix("/some/where", http.FileServer(http.Dir(dir))))
		s, err := fetch.OpenMirror(srv.URL+"/some/where", o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestNeighbour(t *testing.T) {
	for addr, ok := range map[string]bool{
		"192.168.1.2:7465": true, "10.0.0.1:7465": true, "169.254.1.1:7465": true, "[fe80::1%eth0]:7465": true, "[fd00::1]:7465": true,
		"[::ffff:10.0.0.1]:7465": true,
		"127.0.0.1:7465":         false, "[::1]:7465": false, "192.0.2.1:7465": false, "8.8.8.8:7465": false, "[2001:db8::1]:7465": false, "0.0.0.0:7465": false,
		"224.0.0.251:7465": false,
	} {
		s, err := fetch.OpenNeighbour("attic", netip.MustParseAddrPort(addr), fetch.HTTPOptions{})
		if (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
		if err == nil {
			s.Close()
		}
	}
}

func TestCheckMirror(t *testing.T) {
	for raw, want := range map[string]string{
		"https://example.org":                 "https://example.org/",
		"https://example.org/croft":           "https://example.org/croft/",
		"https://example.org:8443/a/b/":       "https://example.org:8443/a/b/",
		"http://192.168.1.2:8080/":            "http://192.168.1.2:8080/",
		"http://[fd00::1]/x":                  "http://[fd00::1]/x/",
		"http://example.org/":                 "",
		"http://8.8.8.8/":                     "",
		"ftp://example.org/":                  "",
		"https://user:pw@example.org/":        "",
		"https://example.org/?a=b":            "",
		"https://example.org/#x":              "",
		"https:example.org":                   "",
		"https://":                            "",
		"example.org":                         "",
		"file:///etc":                         "",
		"":                                    "",
		"https://" + strings.Repeat("x", 600): "",
	} {
		u, err := fetch.CheckMirror(raw)
		if (err == nil) != (want != "") || err == nil && u.String() != want {
			t.Errorf("%q: %v, %v", raw, u, err)
		}
	}
}

// TestUnsureClock has a server whose certificate has run out.
func TestUnsureClock(t *testing.T) {
	files := fetchtest.Files()
	srv, o := serve(t, http.FileServer(http.Dir(writeTree(t, files))))
	for name, test := range map[string]struct {
		clock time.Time
		sure  bool
		ok    bool
	}{
		"now":                    {time.Now(), true, true},
		"1970, and it knows":     {time.Unix(0, 0), false, true},
		"1960, and it is sure":   {time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC), true, false},
		"2200, without a clock":  {time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), false, true},
		"another year, and sure": {time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), true, false},
	} {
		state := tls.ConnectionState{ServerName: "example.com", PeerCertificates: []*x509.Certificate{srv.Certificate()}}
		if err := fetch.Verify(state, o.Roots, test.sure, test.clock); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err := fetch.Verify(state, x509.NewCertPool(), test.sure, test.clock); err == nil {
			t.Errorf("%s: a certificate of nobody's taken", name)
		}
		state.ServerName = "other.example"
		if err := fetch.Verify(state, o.Roots, test.sure, test.clock); err == nil {
			t.Errorf("%s: another host's certificate taken", name)
		}
	}
	o.Roots = nil
	s, err := fetch.OpenMirror(srv.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), "croft-repository", 100); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without that authority: %v", err)
	}
}
