// Package devices lets a service without any right to block devices use the few that init opens for it: parts of the boot
// medium for the updater, sticks for whoever looks for releases.
//
// The protocol on devices.sock, a unix stream socket: one line with a name (api.Device…) per connection. The answer is "+"
// with one or two descriptors (SCM_RIGHTS, unix(7)): the device, and the same opened with O_DIRECT; or "-", the reason and a
// line feed. To the line "list" the answer is "+" and one JSON object per line (api.OpenDevice), and the end of the stream.
// Serve is init's side, Open and List are the service's. Who may have what decides the server, by the peer's uid.
//
// List is cheap: who waits for a stick asks every few seconds.
package devices

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"golang.org/x/sys/unix"
)

// Bounds of the protocol.
const (
	maxName   = 64       // bytes of a name
	maxAnswer = 64 << 10 // bytes of a list, or of a reason
	patience  = 15 * time.Second
)

// Dialer connects to devices.sock.
type Dialer func(ctx context.Context) (net.Conn, error)

// Socket is the Dialer for the folder in which services see the sockets that they were granted.
func Socket(dir string) Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "devices.sock"))
	}
}

// RefusedError is an answer that init gave: the device is not there, or not for this service.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "init opens no device: " + e.Reason }

// ask sends one line and returns the connection once "+" has come, with the descriptors that came along.
func ask(ctx context.Context, dial Dialer, line string) (*net.UnixConn, []int, error) {
	c, err := dial(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("ask init for a device: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, nil, fmt.Errorf("ask init for a device: %T is no unix socket", c)
	}
	if err := u.SetDeadline(time.Now().Add(patience)); err != nil {
		u.Close()
		return nil, nil, fmt.Errorf("ask init for a device: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { u.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	fds, err := exchange(u, line)
	if err != nil {
		u.Close()
		if cerr := context.Cause(ctx); cerr != nil {
			err = cerr
		}
		return nil, nil, err
	}
	return u, fds, nil
}

func exchange(u *net.UnixConn, line string) ([]int, error) {
	if _, err := io.WriteString(u, line+"\n"); err != nil {
		return nil, fmt.Errorf("ask init for a device: %w", err)
	}
	first, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, err := u.ReadMsgUnix(first, oob)
	fds, ferr := descriptors(oob[:oobn])
	switch {
	case err == nil && n == 0:
		err = io.ErrUnexpectedEOF
	case err == nil && flags&unix.MSG_CTRUNC != 0:
		err = errors.New("more descriptors than fit")
	case err == nil:
		err = ferr
	}
	if err == nil && first[0] != '+' {
		reason, rerr := bufio.NewReader(io.LimitReader(u, maxAnswer)).ReadString('\n')
		if rerr != nil && !errors.Is(rerr, io.EOF) {
			err = rerr
		} else {
			closeAll(fds)
			return nil, &RefusedError{strings.TrimSpace(reason)}
		}
	}
	if err != nil {
		closeAll(fds)
		return nil, fmt.Errorf("ask init for a device: %w", err)
	}
	return fds, nil
}

const maxFDs = 2

// descriptors takes the descriptors out of control messages.
func descriptors(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // of another kind
		}
		fds = append(fds, got...)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// List returns what this service may open now.
func List(ctx context.Context, dial Dialer) ([]api.OpenDevice, error) {
	u, fds, err := ask(ctx, dial, listWord)
	if err != nil {
		return nil, err
	}
	defer u.Close()
	closeAll(fds)
	var list []api.OpenDevice
	for dec := json.NewDecoder(io.LimitReader(u, maxAnswer)); ; {
		var d api.OpenDevice
		if err := dec.Decode(&d); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("list init's devices: %w", err)
		}
		list = append(list, d)
	}
}

// Open opens the device with that name. The caller closes it.
func Open(ctx context.Context, dial Dialer, name string) (*Device, error) {
	u, fds, err := ask(ctx, dial, name)
	if err != nil {
		return nil, err
	}
	u.Close()
	if len(fds) == 0 {
		return nil, fmt.Errorf("ask init for the device %s: it sent none", name)
	}
	f := os.NewFile(uintptr(fds[0]), name)
	var direct *os.File
	if len(fds) > 1 {
		direct = os.NewFile(uintptr(fds[1]), name+" (direct)")
	}
	d, err := NewDevice(f, direct)
	if err != nil {
		f.Close()
		if direct != nil {
			direct.Close()
		}
		return nil, fmt.Errorf("device %s: %w", name, err)
	}
	return d, nil
}
