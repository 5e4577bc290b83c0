package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"testing"

	croft "github.com/croft-os/croft/image"
	"github.com/croft-os/croft/image/board"
	"github.com/croft-os/croft/scripts/qemu"
)

// TestMain is also the process that builds a release, with an environment of its own, and the one that carries a machine's
// connection to this machine.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "carry" {
		if err := qemu.Carry(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	out := os.Getenv("CROFT_PAYLOAD")
	if out == "" {
		code := m.Run()
		for _, dir := range shared.dirs {
			os.RemoveAll(dir)
		}
		os.Exit(code)
	}
	pc, err := board.Find(qemu.PC)
	if err == nil {
		var number int64
		if number, err = strconv.ParseInt(os.Getenv("CROFT_NUMBER"), 10, 64); err == nil {
			_, err = croft.Payload(context.Background(), croft.Options{
				Board: pc, Out: out, Source: os.Getenv("CROFT_SOURCE"), Version: fmt.Sprintf("test-%d", number), Number: number, Channel: "stable",
				Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
			})
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// shared are the folders of what several tests use.
var shared struct {
	sync.Mutex
	dirs []string
}

// kept makes a folder that lasts until all tests have ended.
func kept(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "croft-"+name+"-")
	if err != nil {
		t.Fatal(err)
	}
	shared.Lock()
	defer shared.Unlock()
	shared.dirs = append(shared.dirs, dir)
	return dir
}
