package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/croft-os/croft/updater/publish"
	"github.com/croft-os/croft/updater/release"
)

// TestReleaseScripts runs whole lives of publishers, each by the command lines that people type, with witnesses as processes on
// the loopback interface. Only the payloads are small.
func TestReleaseScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds with the race detector")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/release",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("CROFT_PASSPHRASE_FILE", filepath.Join(e.WorkDir, "passphrase"))
			for _, name := range []string{"W1", "W2", "W3", "W4"} {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return err
				}
				e.Setenv(name, l.Addr().String())
				l.Close()
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "passphrase"), []byte("seven quiet herons\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"tell":  tellWitness,
			// readkey NAME FILE: sets an environment variable to what is in a file.
			"readkey": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
			},
			// listening ADDRESS: waits until something does.
			"listening": func(ts *testscript.TestScript, _ bool, args []string) {
				for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					c, err := net.Dial("tcp", args[0])
					if err == nil {
						c.Close()
						return
					}
					if time.Now().After(end) {
						ts.Fatalf("%v", err)
					}
				}
			},
			// payload FOLDER BOARD NUMBER VERSION CHANNEL: what a build would leave.
			"payload": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(fakePayload(ts.MkAbs(args[0]), args[1], args[2], args[3], args[4]))
			},
			// flip FILE: turns one bit over.
			"flip": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, name := range glob(ts, args) {
					b, err := os.ReadFile(name)
					ts.Check(err)
					b[len(b)/2] ^= 1
					ts.Check(os.WriteFile(name, b, 0o644))
				}
			},
			// unsign FILE: takes the first signature away.
			"unsign": func(ts *testscript.TestScript, _ bool, args []string) {
				b, err := os.ReadFile(ts.MkAbs(args[0]))
				ts.Check(err)
				var doc struct {
					Signatures []json.RawMessage `json:"signatures"`
					Signed     json.RawMessage   `json:"signed"`
				}
				ts.Check(json.Unmarshal(b, &doc))
				doc.Signatures = doc.Signatures[1:]
				b, err = json.Marshal(doc)
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
			},
			// clone FROM TO: copies a folder.
			"clone": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(os.RemoveAll(ts.MkAbs(args[1])))
				ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(ts.MkAbs(args[0]))))
			},
			// fingerprint NAME FILE: sets an environment variable to a file's SHA-256.
			"fingerprint": func(ts *testscript.TestScript, _ bool, args []string) {
				files := glob(ts, args[1:])
				if len(files) != 1 {
					ts.Fatalf("%q", files)
				}
				b, err := os.ReadFile(files[0])
				ts.Check(err)
				ts.Setenv(args[0], hashOf(b))
			},
			// mode MODE FILE: its permissions.
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				fi, err := os.Stat(ts.MkAbs(args[1]))
				ts.Check(err)
				if got := strconv.FormatUint(uint64(fi.Mode().Perm()), 8); got != args[0] {
					ts.Fatalf("%s has the mode %s", args[1], got)
				}
			},
		},
	})
}

func glob(ts *testscript.TestScript, patterns []string) []string {
	var all []string
	for _, p := range patterns {
		m, err := filepath.Glob(ts.MkAbs(p))
		ts.Check(err)
		all = append(all, m...)
	}
	if len(all) == 0 {
		ts.Fatalf("no file %q", patterns)
	}
	return all
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// fakePayload writes a payload. The same arguments make the same bytes, and numbers that are near make parts that are alike.
func fakePayload(dir, board, number, version, channel string) error {
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file := func(name string, size int) (publish.PayloadFile, error) {
		same := rand.NewChaCha8(sha256.Sum256([]byte(name)))
		b := make([]byte, size)
		same.Read(b)
		own := rand.NewChaCha8(sha256.Sum256([]byte(number)))
		own.Read(b[size/2 : size/2+100])
		return publish.PayloadFile{File: name, Size: int64(size), SHA256: hashOf(b)}, os.WriteFile(filepath.Join(dir, name), b, 0o644)
	}
	p := publish.Payload{
		Format: "croft-payload/1", Board: board, Version: version, Number: n, Channel: release.Channel(channel), Built: 1790000000 + n,
		Commit: hashOf([]byte(version))[:40], Cmdline: "root=PARTUUID={root} ro croft.slot={slot}",
	}
	if p.Boot, err = file("boot.part", 90_000); err != nil {
		return err
	}
	if p.Root, err = file("root.part", 200_000); err != nil {
		return err
	}
	if p.SBOM, err = file("sbom.spdx.json", 1000); err != nil {
		return err
	}
	js, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "payload.json"), bytes.TrimSpace(js), 0o644)
}
