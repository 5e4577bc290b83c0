package trust

import (
	"context"
	"errors"
)

// Client follows one publisher. Its methods may be called from several goroutines.
type Client struct{}

var errSoon = errors.New("not written yet")

// Create makes an empty store in dir around the first trusted root. It fails with fs.ErrExist if there is one already.
func Create(dir string, o Options) (*Client, error) { return nil, errSoon }

// Open opens a store: fs.ErrNotExist if there is none, ErrDamaged if it can't be read.
func Open(dir string, o Options) (*Client, error) { return nil, errSoon }

// Refresh looks for news at a source. What was verified is durable before it returns, also if it fails.
func (c *Client) Refresh(ctx context.Context, src Source, clock Clock) (Status, error) {
	return Status{}, errSoon
}

// Status is what the client knows.
func (c *Client) Status() Status { return Status{} }

// Targets are the verified descriptions of releases.
func (c *Client) Targets() []Target { return nil }

// Verify checks the bytes of a target.
func (c *Client) Verify(path string, b []byte) error { return errSoon }

// ForgetSplitView is the owner's word that the client shall go on from the checkpoint seen last.
func (c *Client) ForgetSplitView() error { return errSoon }

// Inspect says what an owner has to know of a root before trusting it.
func Inspect(root []byte) (RootInfo, error) { return RootInfo{}, errSoon }

// Agree are the targets on which both agree (TAP 4).
func Agree(project, auditor *Client) []Target { return nil }
