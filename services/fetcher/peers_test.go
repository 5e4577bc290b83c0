package fetcher

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
	"github.com/croft-os/croft/updater/release"
)

// shared serves files to whoever is local.
func shared(t *testing.T, files map[string][]byte, open func() bool, local func(netip.Addr) bool) (*neighbourhood, string) {
	t.Helper()
	store, err := fetch.OpenStore(filepath.Join(t.TempDir(), "store"), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	fill(t, store, files)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := newNeighbourhood(store, open, local)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { n.serve(ctx, l) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return n, "http://" + l.Addr().String() + "/"
}

// memory is a source of files in memory.
type memory struct{ files map[string][]byte }

func (*memory) Kind() string { return fetch.KindFile }
func (*memory) Name() string { return "memory" }
func (*memory) Close() error { return nil }

func (m *memory) Get(_ context.Context, path string, _ int64) ([]byte, error) {
	return m.files[path], nil
}

func (m *memory) ReadRange(_ context.Context, path string, off int64, p []byte) error {
	copy(p, m.files[path][off:])
	return nil
}

func fill(t *testing.T, store *fetch.Store, files map[string][]byte) {
	t.Helper()
	for p, b := range files {
		var err error
		if hash, ok := strings.CutPrefix(p, "blobs/"); ok {
			job := fetch.Job{Store: store, Sources: []fetch.Source{&memory{files}}}
			err = job.Fetch(t.Context(), []fetch.Want{{Blob: hash, Size: int64(len(b))}})
		} else {
			err = store.Put(p, b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func always() bool              { return true }
func anywhere(netip.Addr) bool  { return true }
func nowhere(a netip.Addr) bool { return fetch.IsLocal(a) }

// TestPeersAreASource serves to our own client, which judges as it judges every source.
func TestPeersAreASource(t *testing.T) {
	fetchtest.Test(t, func(t *testing.T, files map[string][]byte) fetch.Source {
		_, url := shared(t, files, always, anywhere)
		s, err := fetch.OpenMirror(url, fetch.HTTPOptions{}) // a neighbour is never on loopback
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// TestPeersServe looks at the answers themselves.
func TestPeersServe(t *testing.T) {
	blob := fetchtest.Bytes(1, 300_000)
	path := release.BlobFile(fetchtest.Hash(blob))
	_, url := shared(t, map[string][]byte{path: blob, "metadata/timestamp.json": []byte("{}")}, always, anywhere)
	do := func(method, path string, header ...string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, b
	}
	resp, b := do("GET", path)
	if resp.StatusCode != 200 || !bytes.Equal(b, blob) || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") ||
		resp.Header.Get("ETag") != `"`+fetchtest.Hash(blob)+`"` || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("the blob: %s, %v", resp.Status, resp.Header)
	}
	if resp, _ := do("GET", path, "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != 304 {
		t.Errorf("the blob again: %s", resp.Status)
	}
	if resp, b := do("GET", path, "Range", "bytes=1000-1999"); resp.StatusCode != 206 || !bytes.Equal(b, blob[1000:2000]) ||
		resp.Header.Get("Content-Range") != "bytes 1000-1999/300000" {
		t.Errorf("a range: %s, %v", resp.Status, resp.Header)
	}
	if resp, _ := do("HEAD", path); resp.StatusCode != 200 || resp.ContentLength != 300_000 {
		t.Errorf("HEAD: %s", resp.Status)
	}
	if resp, _ := do("GET", "metadata/timestamp.json"); resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("the timestamp: %s, %v", resp.Status, resp.Header)
	}
	for _, method := range []string{"PUT", "POST", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
		if resp, _ := do(method, path); resp.StatusCode != 405 {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
	for _, path := range []string{"", "..", "../../etc/passwd", "%2e%2e/settings.json", "blobs/", "blobs", "metadata", "new/x", "partial/" + fetchtest.Hash(blob)} {
		if resp, _ := do("GET", path); resp.StatusCode != 404 && resp.StatusCode != 400 {
			t.Errorf("%q: %s", path, resp.Status)
		}
	}
	for _, header := range [][]string{{"Origin", "https://evil.example"}, {"Range", "bytes=0-1,2-3,4-5"}} {
		if resp, _ := do("GET", path, header...); resp.StatusCode != 403 {
			t.Errorf("%v: %s", header, resp.Status)
		}
	}
}

// TestPeersLimits has strangers, too many connections, too many requests, and sharing turned off in the middle.
func TestPeersLimits(t *testing.T) {
	blob := fetchtest.Bytes(1, 20<<20)
	path := release.BlobFile(fetchtest.Hash(blob))
	files := map[string][]byte{path: blob}
	get := func(url string) error {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		resp, err := client.Get(url + "metadata/timestamp.json")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 404 {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	}
	if _, url := shared(t, files, always, nowhere); get(url) == nil {
		t.Error("served to an address that is not of the LAN")
	}
	if _, url := shared(t, files, func() bool { return false }, anywhere); get(url) == nil {
		t.Error("served without sharing")
	}
	var off atomic.Bool
	n, url := shared(t, files, func() bool { return !off.Load() }, anywhere)
	var conns []net.Conn
	for range peerLimits.ConnsEach {
		c, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	time.Sleep(50 * time.Millisecond)
	if err := get(url); err == nil {
		t.Error("one connection more than allowed")
	}
	conns[0].Close()
	ok := false
	for range 100 {
		if ok = get(url) == nil; ok {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !ok {
		t.Error("no room after one has gone")
	}
	for _, c := range conns {
		c.Close()
	}
	time.Sleep(100 * time.Millisecond)
	refused := 0
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 20 * time.Second}
	for range 2 * peerLimits.Burst {
		resp, err := client.Get(url + "metadata/timestamp.json")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("requests without end")
	}
	client.CloseIdleConnections()
	time.Sleep(500 * time.Millisecond) // for a few requests more
	resp, err := client.Get(url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	off.Store(true)
	n.CloseAll()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("served to the end after sharing was turned off")
	}
	if get(url) == nil {
		t.Error("served after sharing was turned off")
	}
}
