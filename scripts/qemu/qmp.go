package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmp is a connection to QEMU's monitor. One command at a time; events are dropped.
type qmp struct {
	mu   sync.Mutex
	conn net.Conn
	dec  *json.Decoder
}

// maxAnswer bounds one message of the monitor in bytes.
const maxAnswer = 8 << 20

type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string          `json:"event"`
	QMP   json.RawMessage `json:"QMP"`
}

// dialQMP connects to the monitor and leaves its negotiation mode (qmp-spec 4).
func dialQMP(ctx context.Context, path string) (*qmp, error) {
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			q := &qmp{conn: c, dec: json.NewDecoder(bufio.NewReader(c))}
			if err := q.do(ctx, "qmp_capabilities", nil, nil); err != nil {
				c.Close()
				return nil, err
			}
			return q, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("monitor: %w (%w)", context.Cause(ctx), err)
		}
	}
}

// do runs a command; its result goes to result unless that is nil.
func (q *qmp) do(ctx context.Context, command string, args map[string]any, result any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	deadline, ok := ctx.Deadline()
	if limit := time.Now().Add(30 * time.Second); !ok || deadline.After(limit) {
		deadline = limit
	}
	if err := q.conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	msg := map[string]any{"execute": command}
	if args != nil {
		msg["arguments"] = args
	}
	b, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("monitor: %s: %w", command, err)
	}
	for {
		var raw json.RawMessage
		if err := q.dec.Decode(&raw); err != nil {
			return fmt.Errorf("monitor: %s: %w", command, err)
		}
		if len(raw) > maxAnswer {
			return errors.New("monitor: answer too long")
		}
		var m qmpMessage
		if err := json.Unmarshal(raw, &m); err != nil {
			return fmt.Errorf("monitor: %s: %w", command, err)
		}
		switch {
		case m.Error != nil:
			return fmt.Errorf("monitor: %s: %s: %s", command, m.Error.Class, m.Error.Desc)
		case m.Event != "" || m.QMP != nil:
			continue
		case result == nil:
			return nil
		}
		return json.Unmarshal(m.Return, result)
	}
}
