package fetch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/fetch/fetchtest"
	"github.com/croft-os/croft/updater/release"
)

// hungry is what TestMemory has another process fetch.
type hungry struct {
	Dir  string
	URLs []string
	Want fetch.Want
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
		if err := (&fetch.Job{Store: store, Sources: list}).Fetch(context.Background(), []fetch.Want{h.Want}); err != nil {
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
	for _, n := range []int{1, 3} {
		spec, err := json.Marshal(hungry{filepath.Join(t.TempDir(), "store"), urls[:n], want})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CROFT_TEST_HUNGRY="+string(spec), "GOMEMLIMIT=32MiB")
		out, err := cmd.Output()
		var kb, us int64
		if _, serr := fmt.Sscan(string(out), &kb, &us); err != nil || serr != nil {
			t.Fatalf("%v, %v: %s", err, serr, out)
		}
		began := time.Now()
		curl := exec.Command("curl", "-sf", "-o", filepath.Join(t.TempDir(), "x"), urls[0]+"/"+release.BlobFile(want.Blob))
		err = curl.Run()
		t.Logf("%d servers: %d bytes in %v, with hashes and fsync; peak %d kB; curl: %v, %v", n, want.Size, time.Duration(us)*time.Microsecond, kb,
			time.Since(began).Round(time.Millisecond), err)
		if limit := int64(48 << 10); kb > limit && !raceEnabled {
			t.Errorf("peak of %d kB, at most %d", kb, limit)
		}
	}
}
