package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// message is what a process said by sd_notify(3), with its credentials as the kernel attached them (unix(7),
// SCM_CREDENTIALS), in the supervisor's pid namespace.
type message struct {
	pid      int
	uid      uint32
	ready    bool
	stopping bool
	watchdog bool
	status   string
	confined []byte // JSON of api.Confined
}

const (
	maxMessage = 8 << 10
	maxStatus  = 200 // characters
)

// parseMessage reads the fields that the supervisor knows and ignores the rest.
func parseMessage(b []byte) message {
	var m message
	for line := range strings.SplitSeq(string(b), "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "READY":
			m.ready = value == "1"
		case "STOPPING":
			m.stopping = value == "1"
		case "WATCHDOG":
			m.watchdog = value == "1"
		case "STATUS":
			m.status = clean(value)
		case "X_CONFINED":
			m.confined = []byte(value)
		}
	}
	return m
}

// clean makes text of a service fit to be shown: valid UTF-8, one line, not too long.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	if utf8.RuneCountInString(s) > maxStatus {
		s = string([]rune(s)[:maxStatus-1]) + "…"
	}
	return strings.TrimSpace(s)
}

// notifySocket is one service's NOTIFY_SOCKET. It stays open over restarts.
type notifySocket struct {
	conn *net.UnixConn
	path string
}

func listenNotify(path string) (*notifySocket, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		err = errors.Join(err, cerr)
	}
	if err == nil {
		err = os.Chmod(path, 0o666) // only the service sees it, and credentials decide
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("notification socket %s: %w", path, err)
	}
	return &notifySocket{conn, path}, nil
}

// receive hands on messages until ctx ends or the socket is closed, at most 100 a second: whoever sends more waits.
func (n *notifySocket) receive(ctx context.Context, to chan<- message) {
	buf := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)) // no room for descriptors: the kernel drops those
	for ctx.Err() == nil {
		size, oobn, _, _, err := n.conn.ReadMsgUnix(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			if cred := credentials(oob[:oobn]); cred != nil {
				m := parseMessage(buf[:size])
				m.pid, m.uid = int(cred.Pid), cred.Uid
				select {
				case to <- m:
				case <-ctx.Done():
					return
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func credentials(oob []byte) *unix.Ucred {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range messages {
		if c, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			return c
		}
	}
	return nil
}
