package fetcher

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/release"
)

// Client asks the fetcher. Its answers prove nothing: what comes out of it has to be verified as if it came from a stranger.
type Client struct {
	http *http.Client
}

// NewClient returns a client for an HTTP client that reaches the fetcher's socket (daemon.Env.Client).
func NewClient(c *http.Client) *Client { return &Client{http: c} }

// Error is what the fetcher says when it can't.
type Error struct {
	Status int    // of HTTP; 0 in the middle of a stream
	Cause  string // of api.UpdateCauses
	Detail string
}

func (e *Error) Error() string { return fmt.Sprintf("the fetcher says %q: %s", e.Cause, e.Detail) }

// maxAnswer bounds an answer that is not a file, in bytes.
const maxAnswer = 1 << 20

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, header ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://fetcher"+path, body)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the fetcher: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	p := Problem{Cause: "unknown"}
	if json.Unmarshal(b, &p) != nil {
		p.Error = string(b)
	}
	return nil, &Error{resp.StatusCode, p.Cause, p.Error}
}

func (c *Client) json(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("the fetcher's answer: %w", err)
	}
	return nil
}

// Refresh has every source looked at.
func (c *Client) Refresh(ctx context.Context, r RefreshRequest) (RefreshResult, error) {
	var out RefreshResult
	return out, c.json(ctx, http.MethodPost, "/v1/refresh", r, &out)
}

// Fetch fetches blobs, tells how far it is, and returns when they are all there. The end of ctx cancels it. It fails with an
// *Error that has a cause.
func (c *Client) Fetch(ctx context.Context, r FetchRequest, progress func(Progress)) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/fetch", bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var p Progress
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			return fmt.Errorf("the fetcher's answer: %w", err)
		}
		if progress != nil {
			progress(p)
		}
		switch {
		case p.End && p.Cause != "":
			return &Error{0, p.Cause, p.Error}
		case p.End:
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the fetcher ended in the middle: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

// Frames has the frames of a part made for neighbours, from the part as it is. It takes long, on purpose. An *Error with
// http.StatusUnprocessableEntity says that another encoder made the frames.
func (c *Client) Frames(ctx context.Context, w Want, part io.Reader) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/frames", io.MultiReader(bytes.NewReader(append(b, '\n')), part))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Has tells whether a blob is kept.
func (c *Client) Has(ctx context.Context, blob string) (bool, error) {
	resp, err := c.do(ctx, http.MethodHead, "/v1/repo/"+release.BlobFile(blob), nil)
	if fe, ok := errors.AsType[*Error](err); ok && fe.Status == http.StatusNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, resp.Body.Close()
}

// Get returns a file of the kept repository. It makes Client a trust.Source.
func (c *Client) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	if class, _ := fetch.Path(path); class == fetch.ClassNone {
		return nil, fmt.Errorf("%.300q is no path of a repository: %w", path, fetch.ErrNotFound)
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/repo/"+path, nil)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusNotFound {
		return nil, fmt.Errorf("%s: %w", path, fetch.ErrNotFound)
	} else if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: over %d bytes: %w", path, limit, fetch.ErrTooLarge)
	}
	return b, nil
}

// Blob returns a reader of a blob that was fetched; size is what is signed. It keeps at most 1 MiB in memory, and may be
// used by several goroutines.
func (c *Client) Blob(ctx context.Context, hash string, size int64) io.ReaderAt {
	return &blob{ctx: ctx, c: c, path: "/v1/repo/" + release.BlobFile(hash), size: size}
}

const (
	windowSize = 256 << 10
	maxWindows = 4
)

// blob reads through windows of the file, of which it keeps the latest few: a patch is read at three places in turn.
type blob struct {
	ctx  context.Context
	c    *Client
	path string
	size int64

	mu      sync.Mutex
	windows []window // latest used first
}

type window struct {
	at int64
	b  []byte
}

func (r *blob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= r.size {
			return n, io.EOF
		}
		w, err := r.window(at / windowSize * windowSize)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], w[at%windowSize:])
	}
	return n, nil
}

func (r *blob) window(at int64) ([]byte, error) {
	for i, w := range r.windows {
		if w.at == at {
			copy(r.windows[1:i+1], r.windows[:i])
			r.windows[0] = w
			return w.b, nil
		}
	}
	var w window
	if len(r.windows) == maxWindows {
		w = r.windows[maxWindows-1]
		r.windows = r.windows[:maxWindows-1]
	} else {
		w.b = make([]byte, windowSize)
	}
	n := min(windowSize, r.size-at)
	w.at, w.b = at, w.b[:n]
	resp, err := r.c.do(r.ctx, http.MethodGet, r.path, nil, "Range", fmt.Sprintf("bytes=%d-%d", at, at+n-1))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent && n != r.size {
		return nil, fmt.Errorf("read %s: %s", r.path, resp.Status)
	}
	if _, err := io.ReadFull(resp.Body, w.b); err != nil {
		return nil, fmt.Errorf("read %s at %d: %w", r.path, at, err)
	}
	r.windows = append(r.windows, window{})
	copy(r.windows[1:], r.windows)
	r.windows[0] = w
	return w.b, nil
}

// State returns how things are, at once if after is negative, else when the state is another than the one with that revision.
func (c *Client) State(ctx context.Context, after int64) (State, error) {
	path := "/v1/state"
	if after >= 0 {
		path += "?after=" + strconv.FormatInt(after, 10)
	}
	var s State
	return s, c.json(ctx, http.MethodGet, path, nil, &s)
}

// Sources returns the places that releases come from.
func (c *Client) Sources(ctx context.Context) ([]api.UpdateSource, error) {
	var s []api.UpdateSource
	return s, c.json(ctx, http.MethodGet, "/v1/sources", nil, &s)
}

// Set changes the settings.
func (c *Client) Set(ctx context.Context, s Settings) error {
	return c.json(ctx, http.MethodPut, "/v1/settings", s, nil)
}

// Upload gives the fetcher a bundle, of at most MaxUpload bytes. It takes the place of the one before.
func (c *Client) Upload(ctx context.Context, name string, r io.Reader) (Upload, error) {
	var u Upload
	resp, err := c.do(ctx, http.MethodPut, "/v1/upload?name="+url.QueryEscape(name), r)
	if err != nil {
		return u, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&u); err != nil {
		return u, fmt.Errorf("the fetcher's answer: %w", err)
	}
	return u, nil
}

// RemoveUpload forgets the uploaded bundle.
func (c *Client) RemoveUpload(ctx context.Context) error {
	return c.json(ctx, http.MethodDelete, "/v1/upload", nil, nil)
}

// Probe has the start page fetched over TCP.
func (c *Client) Probe(ctx context.Context) (Probe, error) {
	var p Probe
	return p, c.json(ctx, http.MethodPost, "/v1/probe", nil, &p)
}
