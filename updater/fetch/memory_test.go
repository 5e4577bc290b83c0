package fetch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
	"github.com/croft-os/croft/updater/release"
)

// hungry is what TestMemory has another process fetch, or make of a part.
type hungry struct {
	Dir  string
	URLs []string
	Want fetch.Want
	Part string // path
}

func runHungry(spec string) {
	err := func() error {
		var h hungry
		if err := json.Unmarshal([]byte(spec), &h); err != nil {
			return err
		}
		store, err := fetch.OpenStore(h.Dir, 1<<30)
		if err != nil {
			return err
		}
		defer store.Close()
		var list []fetch.Source
		for _, u := range h.URLs {
			s, err := fetch.OpenMirror(u, fetch.HTTPOptions{})
			if err != nil {
				return err
			}
			list = append(list, s)
		}
		began := time.Now()
		if h.Part == "" {
			err = (&fetch.Job{Store: store, Sources: list}).Fetch(context.Background(), []fetch.Want{h.Want})
		} else if f, oerr := os.Open(h.Part); oerr == nil {
			err = store.MakeFrames(context.Background(), h.Want, f, func(work func() error) error { return work() })
		} else {
			err = oerr
		}
		if err != nil {
			return err
		}
		took := time.Since(began)
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(status)) {
			if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				fmt.Println(strings.Fields(kb)[0], took.Microseconds())
				return nil
			}
		}
		return errors.New("no VmHWM")
	}()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestMemory fetches 50 MB in a process of its own, with the memory limit that a box sets, from one server and from three.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds: run without -short")
	}
	var want fetch.Want
	var blob []byte
	for i := range 13 {
		b := fetchtest.Bytes(uint64(i), release.FrameSize-i)
		want.Frames = append(want.Frames, release.Frame{Size: int64(len(b)), SHA256: fetchtest.Hash(b)})
		blob = append(blob, b...)
	}
	want.Blob, want.Size = fetchtest.Hash(blob), int64(len(blob))
	var urls []string
	for range 3 {
		srv := httptest.NewServer(fileServer(map[string][]byte{release.BlobFile(want.Blob): blob}))
		defer srv.Close()
		urls = append(urls, srv.URL)
	}
	hunger := func(spec []byte) (kb int64, took time.Duration) {
		t.Helper()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CROFT_TEST_HUNGRY="+string(spec), "GOMEMLIMIT=32MiB")
		out, err := cmd.Output()
		var us int64
		if _, serr := fmt.Sscan(string(out), &kb, &us); err != nil || serr != nil {
			t.Fatalf("%v, %v: %s", err, serr, out)
		}
		if limit := int64(48 << 10); kb > limit && !raceEnabled {
			t.Errorf("peak of %d kB, at most %d", kb, limit)
		}
		return kb, time.Duration(us) * time.Microsecond
	}
	for _, n := range []int{1, 3} {
		spec, err := json.Marshal(hungry{Dir: filepath.Join(t.TempDir(), "store"), URLs: urls[:n], Want: want})
		if err != nil {
			t.Fatal(err)
		}
		kb, took := hunger(spec)
		began := time.Now()
		curl := exec.Command("curl", "-sf", "-o", filepath.Join(t.TempDir(), "x"), urls[0]+"/"+release.BlobFile(want.Blob))
		err = curl.Run()
		t.Logf("%d servers: %d bytes in %v, with hashes and fsync; peak %d kB; curl: %v, %v", n, want.Size, took, kb,
			time.Since(began).Round(time.Millisecond), err)
	}
	// The same for frames that are made of a part.
	part := bytes.Repeat(programLike(release.FrameSize-5), 2)
	path := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(path, part, 0o600); err != nil {
		t.Fatal(err)
	}
	f, size, _, err := delta.WriteFrames(io.Discard, bytes.NewReader(part))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(hungry{Dir: filepath.Join(t.TempDir(), "store"), Want: fetch.Want{Blob: f.Blob, Size: f.Size, Frames: f.List}, Part: path})
	if err != nil {
		t.Fatal(err)
	}
	kb, took := hunger(spec)
	t.Logf("%d bytes into frames in %v; peak %d kB", size, took, kb)
}

// programLike is what packs to about a third, as programs do.
func programLike(size int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.IntN(6) * r.IntN(6))
	}
	return b
}
