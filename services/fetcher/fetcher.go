// Package fetcher is the service that gets what updates consist of: metadata, descriptions and blobs, from mirrors, from
// neighbours on the LAN, from USB sticks and from uploaded files, and gives what it has to neighbours.
//
// It is the only part of updating that speaks to strangers, and nothing that it says is believed: it can't write to slots, and
// the updater, which can, has no network, reads the files here through a unix socket and verifies each of them by itself. The
// worst that a taken-over fetcher can do is to bring nothing.
package fetcher

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/croft-os/croft/services/daemon"
)

// MaxUpload is the size of the largest bundle that may be uploaded, in bytes.
const MaxUpload = 400 << 20

// Config is what the service cannot know by itself.
type Config struct {
	Updater uint32 // uid that may use all of the socket
	Core    uint32 // uid that may upload and see the sources

	Board     string   // family of boards of this box
	Publisher string   // name of who makes the image's releases; may be empty
	Mirrors   []string // built-in mirrors
	Root      []byte   // built-in first root; nil: none
	Built     time.Time
	Budget    int64 // bytes for all that is kept; 0: 1 GiB
}

// Run runs the service until ctx ends. It answers on the listener "fetcher", and neighbours on the listener "peers".
func Run(ctx context.Context, env *daemon.Env, cfg Config) error {
	_, _, _ = slog.Default, netip.Addr{}, cfg
	<-ctx.Done()
	return nil
}
