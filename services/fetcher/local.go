package fetcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/daemon/devices"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/release"
)

// Files of an upload.
const (
	uploadFile = "upload.zip"
	uploadName = "upload.name"
	uploadNew  = "upload.new"
)

// openUpload opens the uploaded bundle of an earlier run.
func (s *service) openUpload() {
	st, err := os.Stat(s.path(uploadFile))
	if err != nil {
		return
	}
	if time.Since(st.ModTime()) > uploadKept {
		s.removeUpload()
		return
	}
	var name string
	if b, err := os.ReadFile(s.path(uploadName)); err == nil {
		name = cleanName(string(b))
	}
	src, err := s.openBundle(s.path(uploadFile), cmp.Or(name, "croft.zip"))
	if err != nil {
		s.log.Warn("the uploaded file can't be used any more", "err", err)
		s.removeUpload()
		return
	}
	s.upload = src
	now := st.ModTime().UTC().Round(time.Second)
	version, _ := fetch.Peek(context.Background(), src, s.cfg.Board, release.Beta)
	s.learn(api.UpdateSource{Kind: fetch.KindFile, Name: src.Name(), Version: version, Seen: &now})
}

func (s *service) openBundle(path, name string) (fetch.Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	src, err := fetch.OpenBundle(fetch.KindFile, name, f, st.Size(), f)
	if err != nil {
		f.Close()
	}
	return src, err
}

// removeUpload removes the files of an upload. It needs s.mu, or to be alone.
func (s *service) removeUpload() {
	if s.upload != nil {
		s.forget(fetch.KindFile, s.upload.Name())
		s.upload.Close()
		s.upload = nil
	}
	os.Remove(s.path(uploadFile))
	os.Remove(s.path(uploadName))
}

// cleanName makes the name of a file that a browser sent one that can be shown.
func cleanName(s string) string {
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	for len(s) > 100 {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// putUpload takes a bundle, streamed to the medium. What is no bundle for this box leaves no trace.
func (s *service) putUpload(w http.ResponseWriter, r *http.Request) {
	name := cmp.Or(cleanName(r.URL.Query().Get("name")), "croft-"+s.cfg.Board+".zip")
	if r.ContentLength > MaxUpload {
		problem(w, http.StatusRequestEntityTooLarge, "bad-file", fmt.Errorf("%d bytes, at most %d", r.ContentLength, MaxUpload))
		return
	}
	if err := s.lock(r.Context()); err != nil {
		return
	}
	defer s.unlock()
	up, status, why, err := s.receive(r, name)
	if err != nil {
		os.Remove(s.path(uploadNew))
		s.log.Warn("an uploaded file was not taken", "name", name, "cause", why, "err", err)
		problem(w, status, why, err)
		return
	}
	daemon.WriteJSON(w, http.StatusOK, up)
}

func (s *service) receive(r *http.Request, name string) (up Upload, status int, why string, err error) {
	no := func(status int, why string, err error) (Upload, int, string, error) {
		return Upload{}, status, why, err
	}
	if err := s.store.Room(max(r.ContentLength, 0), func(string) bool { return false }); err != nil {
		return no(http.StatusInsufficientStorage, cause(err), err)
	}
	f, err := os.OpenFile(s.path(uploadNew), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return no(http.StatusInternalServerError, "medium", err)
	}
	n, err := io.Copy(f, io.LimitReader(&ctxReader{r.Context(), r.Body}, MaxUpload+1))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	err = fetch.Full(err)
	switch {
	case errors.Is(err, fetch.ErrNoSpace):
		return no(http.StatusInsufficientStorage, "disk-full", err)
	case err != nil:
		return no(http.StatusBadRequest, "interrupted", err)
	case n > MaxUpload:
		return no(http.StatusRequestEntityTooLarge, "bad-file", fmt.Errorf("over %d bytes", MaxUpload))
	}
	src, err := s.openBundle(s.path(uploadNew), name)
	if err != nil {
		return no(http.StatusUnprocessableEntity, "bad-file", err)
	}
	boards := fetch.Boards(src)
	if len(boards) != 1 || boards[0] != s.cfg.Board {
		src.Close()
		return no(http.StatusUnprocessableEntity, "wrong-board", fmt.Errorf("it is for %q", boards))
	}
	version, err := fetch.Peek(r.Context(), src, s.cfg.Board, release.Beta)
	if err != nil {
		src.Close()
		return no(http.StatusUnprocessableEntity, "bad-file", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeUpload()
	if err := errors.Join(os.Rename(s.path(uploadNew), s.path(uploadFile)), os.WriteFile(s.path(uploadName), []byte(name), 0o600)); err != nil {
		src.Close()
		s.removeUpload()
		return no(http.StatusInternalServerError, "medium", err)
	}
	s.upload = src
	now := time.Now().UTC().Round(time.Second)
	s.learn(api.UpdateSource{Kind: fetch.KindFile, Name: name, Version: version, Seen: &now})
	return Upload{Name: name, Size: n, Board: boards[0], Version: version}, http.StatusOK, "", nil
}

// ctxReader ends when its context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func (s *service) deleteUpload(w http.ResponseWriter, r *http.Request) {
	if err := s.lock(r.Context()); err != nil {
		return
	}
	defer s.unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeUpload()
	w.WriteHeader(http.StatusNoContent)
}

// stick is a partition or drive that is plugged in.
type stick struct {
	device  api.OpenDevice
	sources []fetch.Source // none: there is no update on it
	names   []string       // under which State tells of it
	again   time.Time      // when to look at it again
}

const (
	lookEvery  = 5 * time.Second // at what is plugged in
	againAfter = 2 * time.Minute // at a stick without updates: somebody may copy one onto it elsewhere and come back
)

// watchSticks notices sticks as they come and go, until ctx ends.
func (s *service) watchSticks(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	told := false
	for {
		lctx, cancel := context.WithTimeout(ctx, lookEvery)
		list, err := devices.List(lctx, devices.Socket(s.env.SocketDir))
		cancel()
		if err != nil && ctx.Err() == nil && !told {
			s.log.Info("no word on what is plugged in", "err", err)
			told = true
		}
		if err == nil {
			told = false
			s.plugged(ctx, list)
		}
		select {
		case <-ctx.Done():
			s.plugged(context.WithoutCancel(ctx), nil)
			return
		case <-t.C:
		}
	}
}

// plugged compares what is plugged in with what was.
func (s *service) plugged(ctx context.Context, list []api.OpenDevice) {
	here := map[string]api.OpenDevice{}
	for _, d := range list {
		if strings.HasPrefix(d.Name, api.DeviceUSB) && len(here) < 16 {
			here[d.Name] = d
		}
	}
	s.mu.Lock()
	var gone []*stick
	for name, st := range s.sticks {
		if here[name] != st.device {
			gone = append(gone, st)
			delete(s.sticks, name)
			for _, n := range st.names {
				s.forget(fetch.KindUSB, n)
			}
		}
	}
	var look []api.OpenDevice
	for name, d := range here {
		if st := s.sticks[name]; st == nil || len(st.sources) == 0 && d.Other == "" && time.Now().After(st.again) {
			look = append(look, d)
		}
	}
	s.mu.Unlock()
	for _, st := range gone {
		for _, src := range st.sources {
			src.Close()
		}
	}
	for _, d := range look {
		st := &stick{device: d, again: time.Now().Add(againAfter)}
		var seen []api.UpdateSource
		var err error
		if d.Other != "" {
			k := api.UpdateSource{Kind: fetch.KindUSB, Name: stickName(d), Cause: api.StickFileSystem}
			if d.Other != api.DeviceOtherUnknown {
				k.System = d.Other
			}
			seen = append(seen, k)
		} else if st.sources, err = s.openStick(ctx, d); err != nil && !errors.Is(err, fetch.ErrNotFound) {
			s.log.Info("can't read what is plugged in", "device", d.Name, "err", err)
			seen = append(seen, api.UpdateSource{Kind: fetch.KindUSB, Name: stickName(d), Cause: api.StickDamaged, Error: err.Error()})
		}
		for _, src := range st.sources {
			now := time.Now().UTC().Round(time.Second)
			version, err := fetch.Peek(ctx, src, s.cfg.Board, release.Beta)
			k := api.UpdateSource{Kind: src.Kind(), Name: src.Name(), Version: version, Seen: &now}
			if err != nil {
				k.Error = err.Error()
			}
			seen = append(seen, k)
		}
		s.mu.Lock()
		if old := s.sticks[d.Name]; old != nil {
			for _, n := range old.names {
				if !slices.ContainsFunc(seen, func(k api.UpdateSource) bool { return k.Name == n }) {
					s.forget(fetch.KindUSB, n)
				}
			}
		}
		s.sticks[d.Name] = st
		for _, k := range seen {
			s.learn(k)
			st.names = append(st.names, k.Name)
		}
		s.mu.Unlock()
	}
}

// stickName is what a stick is called.
func stickName(d api.OpenDevice) string {
	return cmp.Or(cleanName(strings.TrimSpace(d.Label)), cleanName(strings.TrimSpace(d.Model)), d.Name)
}

func (s *service) openStick(ctx context.Context, d api.OpenDevice) ([]fetch.Source, error) {
	dev, err := devices.Open(ctx, devices.Socket(s.env.SocketDir), d.Name)
	if err != nil {
		return nil, err
	}
	return fetch.OpenVolume(fetch.KindUSB, stickName(d), dev, dev, s.cfg.Board)
}
