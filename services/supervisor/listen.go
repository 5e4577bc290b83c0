package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// socket is a listener that the supervisor holds open as long as it runs, so that nobody is refused while the
// service restarts.
type socket struct {
	decl Listener
	file *os.File // nil until it could be opened
}

// open opens what is not open yet, or what the service has shut down. A path of a unix socket is in dir.
func (s *socket) open(ctx context.Context, dir string) error {
	if s.file != nil {
		if s.decl.Network != "tcp" || listening(s.file) {
			return nil
		}
		s.file.Close()
		s.file = nil
	}
	f, err := s.listen(ctx, dir)
	if err != nil {
		return fmt.Errorf("can't listen on %s: %w", s.decl.Address, err)
	}
	s.file = f
	return nil
}

// listening reports whether a socket still takes connections: shutdown(2) by one process ends that for all.
func listening(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	on := 0
	cerr := raw.Control(func(fd uintptr) { on, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN) })
	return cerr == nil && err == nil && on == 1
}

func (s *socket) listen(ctx context.Context, dir string) (*os.File, error) {
	var lc net.ListenConfig
	type filer interface{ File() (*os.File, error) }
	switch s.decl.Network {
	case "udp":
		c, err := lc.ListenPacket(ctx, "udp", s.decl.Address)
		if err != nil {
			return nil, err
		}
		defer c.Close() // File returns a duplicate
		return c.(filer).File()
	case "unix":
		path := filepath.Join(dir, s.decl.Address)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		l, err := lc.Listen(ctx, "unix", path)
		if err != nil {
			return nil, err
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		defer l.Close()
		mode := s.decl.Mode
		if mode == 0 {
			mode = 0o666
		}
		if err := os.Chmod(path, mode); err != nil {
			return nil, err
		}
		return l.(filer).File()
	default:
		l, err := lc.Listen(ctx, "tcp", s.decl.Address)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		return l.(filer).File()
	}
}

// listenEnv returns the variables of sd_listen_fds(3), without LISTEN_PID.
func listenEnv(sockets []*socket) []string {
	if len(sockets) == 0 {
		return nil
	}
	var names []string
	for _, s := range sockets {
		names = append(names, s.decl.Name)
	}
	return []string{fmt.Sprintf("LISTEN_FDS=%d", len(sockets)), "LISTEN_FDNAMES=" + strings.Join(names, ":")}
}
