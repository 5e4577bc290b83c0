package updater

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/croft-os/croft/services/api"
)

// askTimeout is how long another process of the box may take to answer.
const askTimeout = 10 * time.Second

// errRefused is what ask fails with, wrapped, where the other process understood and said no.
var errRefused = errors.New("refused")

// refusal is an answer other than success.
type refusal struct {
	status int
	api.Problem
}

func (r *refusal) Error() string {
	if r.Detail != "" {
		return r.Title + " (" + r.Detail + ")"
	}
	return r.Title
}

func (r *refusal) Unwrap() error { return errRefused }

// ask sends body, if there is one, and decodes the answer into v, if there is one.
func ask(ctx context.Context, c *http.Client, method, url string, body, v any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return askLong(ctx, c, method, url, body, v)
}

// askLong does so without a time limit of its own.
func askLong(ctx context.Context, c *http.Client, method, url string, body, v any) error {
	var send io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, send)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	if resp.StatusCode >= 300 {
		r := &refusal{status: resp.StatusCode}
		if json.Unmarshal(b, &r.Problem) != nil || r.Title == "" {
			r.Problem = api.Problem{Title: resp.Status}
		}
		return fmt.Errorf("ask %s: %w", url, r)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	return nil
}

// slots asks PID 1 what the medium looks like.
func (e *engine) slots(ctx context.Context) (api.Slots, error) {
	var s api.Slots
	err := ask(ctx, e.init, http.MethodGet, "http://init/v1/slots", nil, &s)
	if err == nil && s.Running != "a" && s.Running != "b" {
		err = fmt.Errorf("PID 1 says that slot %q runs", s.Running)
	}
	return s, err
}

func (e *engine) system(ctx context.Context) (api.System, error) {
	var s api.System
	err := ask(ctx, e.init, http.MethodGet, "http://init/v1/system", nil, &s)
	return s, err
}

// network asks for addresses and the clock.
func (e *engine) network(ctx context.Context) (api.Network, error) {
	var n api.Network
	err := ask(ctx, e.net, http.MethodGet, "http://network/v1/network", nil, &n)
	return n, err
}

// other is the other slot.
func other(slot string) string {
	if slot == "a" {
		return "b"
	}
	return "a"
}

// bootID is a random number of this boot: it lies in the runtime directory, which is gone at the next one.
func bootID(runtime string) (string, error) {
	if runtime == "" {
		return rand.Text(), nil // then a new process is taken for a new boot
	}
	path := filepath.Join(runtime, "boot")
	b, err := os.ReadFile(path)
	if err == nil && len(b) > 0 {
		return string(b), nil
	}
	id := rand.Text()
	return id, os.WriteFile(path, []byte(id), 0o600)
}

// readJSON reads a small file of the root file system.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
