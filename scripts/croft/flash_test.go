package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestFlash flashes real images, those of CROFT_OUT, into files, and lets others judge these.
func TestFlash(t *testing.T) {
	dir := os.Getenv("CROFT_OUT")
	if dir == "" || testing.Short() {
		t.Skip("needs images: CROFT_OUT names their folder")
	}
	for image, at := range map[string]string{"croft-pc.img": "@@4M", "croft-pi.img.zst": "@@4M"} {
		t.Run(image, func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk")
			var out, errs bytes.Buffer
			code := run(t.Context(), []string{
				"flash", "--hostname", "attic", "--wifi", "Home", filepath.Join(dir, image), disk, "--time-zone", "Europe/Berlin",
			}, stdio{strings.NewReader("correct horse\n"), &out, &errs})
			if code != exitOK {
				t.Fatalf("exit code %d: %s", code, &errs)
			}
			url := regexp.MustCompile(`http://attic\.local/#[0-9A-Z]{4}-[0-9A-Z]{4}\n`).FindString(out.String())
			if url == "" || !strings.Contains(out.String(), "█") {
				t.Errorf("no address to scan: %s", &out)
			}
			for _, want := range []string{"Writing: ", "Reading back: ", ", 100 %"} {
				if !strings.Contains(errs.String(), want) {
					t.Errorf("no %q in %s", want, &errs)
				}
			}
			if s := out.String() + errs.String(); strings.Contains(s, "correct horse") {
				t.Errorf("the Wi-Fi password is shown: %s", s)
			}
			cmd := exec.Command("mcopy", "-i", disk+at, "::croft.json", "-")
			cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
			got, err := cmd.Output()
			_, claim, _ := strings.Cut(strings.TrimSpace(url), "#")
			for _, want := range []string{`"name": "attic"`, `"ssid": "Home"`, `"password": "correct horse"`, `"claim_code": "` + claim + `"`} {
				if err != nil || !strings.Contains(string(got), want) {
					t.Errorf("no %s in %q, %v", want, got, err)
				}
			}
			if out, err := exec.Command("sfdisk", "--verify", disk).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors detected") {
				t.Errorf("sfdisk: %s, %v", out, err)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, "Writing")
	p.start = time.Unix(0, 0)
	for _, tc := range []struct {
		done, total int64
		after       time.Duration
		want        string
	}{
		{100e6, 0, 0, "Writing: 100 MB"},
		{100e6, 1e9, time.Millisecond, "Writing: 100 MB of 1.0 GB, 10 %"},
		{100e6, 1e9, 4 * time.Second, "Writing: 100 MB of 1.0 GB, 10 %, 25.0 MB/s, 36s left"},
		{1e9, 1e9, 40 * time.Second, "Writing: 1.0 GB of 1.0 GB, 100 %, 25.0 MB/s"},
		{1e6, 36e9, 10 * time.Second, "Writing: 1 MB of 36.0 GB, 0 %, 0.1 MB/s, 99h59m50s left"},
	} {
		if got := p.line(tc.done, tc.total, p.start.Add(tc.after)); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
	for done := int64(0); done <= 100; done++ {
		p.show(done, 100)
	}
	if n := strings.Count(out.String(), "\n"); n != 10 {
		t.Errorf("%d lines: %s", n, &out)
	}
}
