package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// slowly gives a body in pieces with a pause after each.
type slowly struct {
	left, piece int
	pause       time.Duration
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := min(s.left, s.piece, len(p))
	s.left -= n
	time.Sleep(s.pause)
	return n, nil
}

// An update as a file is let through at its own pace, at two addresses and nowhere else.
func TestUpdateFile(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			updateFile(t, protocol)
		})
	}
}

func updateFile(t *testing.T, protocol string) {
	env := newEnv(t)
	var whole atomic.Int64
	take := func(w http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(io.Discard, r.Body); err == nil {
			whole.Store(n)
		}
	}
	serve(t, env, "webui", take)
	serve(t, env, "core", take)
	l := testLimits()
	l.Upload, l.BodyTime, l.WriteTime = 4<<20, 1200*time.Millisecond, 500*time.Millisecond
	g := start(t, env, l)
	const much = 2 << 20
	c := g.client(protocol)
	send := func(method, path string, body io.Reader) int {
		whole.Store(-1)
		req, err := http.NewRequest(method, "https://croft.local"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			return 0 // cut while it was still sending
		}
		res.Body.Close()
		return res.StatusCode
	}
	for _, at := range [][2]string{{"PUT", "/api/v1/updates/file?name=a.zip"}, {"POST", "/updates/file"}} {
		began := time.Now()
		if s := send(at[0], at[1], &slowly{much, 64 << 10, 80 * time.Millisecond}); s != 200 || whole.Load() != much {
			t.Errorf("%s: %s of %d bytes in %v: %d, %d bytes arrived", protocol, at, much, time.Since(began), s, whole.Load())
		}
		if took := time.Since(began); took < 2*l.BodyTime {
			t.Errorf("%s: it took only %v, which proves nothing", protocol, took)
		}
		if s := send(at[0], at[1], strings.NewReader(strings.Repeat("x", 5<<20))); s != 413 && s != 0 || whole.Load() >= 0 {
			t.Errorf("%s: %s of 5 MB: %d, %d bytes arrived", protocol, at, s, whole.Load())
		}
		if s := send(at[0], at[1], &slowly{much, much, 3 * time.Second}); s == 200 || whole.Load() >= 0 {
			t.Errorf("%s: %s with a long pause: %d, %d bytes arrived", protocol, at, s, whole.Load())
		}
	}
	for _, at := range [][2]string{
		{"POST", "/api/v1/updates/file"},
		{"PUT", "/updates/file"},
		{"PUT", "/api/v1/updates/trust"},
		{"PUT", "/api/v1/updates/file/"},
		{"POST", "/updates/file/x"},
		{"PUT", "/api/v1/config"},
		{"POST", "/updates"},
	} {
		if s := send(at[0], at[1], strings.NewReader(strings.Repeat("x", much))); s != 413 && s != 0 || whole.Load() >= 0 {
			t.Errorf("%s: %s of 2 MB: %d, %d bytes arrived", protocol, at, s, whole.Load())
		}
	}
}
