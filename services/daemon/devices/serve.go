package devices

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/daemon"
	"golang.org/x/sys/unix"
)

const (
	listWord  = "list"
	maxAtOnce = 16 // connections
	serveTime = 10 * time.Second
)

// nameRE is what can be a name at all; it can't lead anywhere in a file system.
var nameRE = regexp.MustCompile(`^[a-z]+(-[a-z]+)?(/[A-Za-z0-9]+)?$`)

// Opener knows the devices.
type Opener interface {
	// List returns what a user may open.
	List(uid uint32) []api.OpenDevice
	// Open opens a device for a user: normally, and with O_DIRECT, nil where that does not work. Its error is shown to them.
	Open(uid uint32, name string) (f, direct *os.File, err error)
}

// Serve answers on l, a unix socket, until ctx ends.
func Serve(ctx context.Context, l net.Listener, o Opener, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxAtOnce)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("devices: %w", err)
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer c.Close()
			defer func() {
				if r := recover(); r != nil { // the end of PID 1 would be the end of the box
					log.Error("devices", "panic", r)
				}
			}()
			c.SetDeadline(time.Now().Add(serveTime))
			uid, err := daemon.PeerUID(c)
			if err == nil {
				err = serve(c.(*net.UnixConn), uid, o, log)
			}
			if err != nil {
				log.Warn("devices", "uid", uid, "err", err)
			}
		}()
	}
}

func serve(c *net.UnixConn, uid uint32, o Opener, log *slog.Logger) error {
	line, err := bufio.NewReader(io.LimitReader(c, maxName+1)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read a name: %w", err)
	}
	name := strings.TrimSuffix(line, "\n")
	if name == listWord {
		var b bytes.Buffer
		b.WriteByte('+')
		enc := json.NewEncoder(&b)
		for _, d := range o.List(uid) {
			if err := enc.Encode(d); err != nil {
				return err
			}
		}
		_, err := c.Write(b.Bytes())
		return err
	}
	if !nameRE.MatchString(name) {
		_, err := io.WriteString(c, "-that is no device's name\n")
		return err
	}
	f, direct, err := o.Open(uid, name)
	if err != nil {
		log.Info("a device was not opened", "device", name, "uid", uid, "err", err)
		_, werr := io.WriteString(c, "-"+strings.ReplaceAll(err.Error(), "\n", " ")+"\n")
		return werr
	}
	defer f.Close()
	fds := []int{int(f.Fd())}
	if direct != nil {
		defer direct.Close()
		fds = append(fds, int(direct.Fd()))
	}
	log.Info("a device was opened", "device", name, "uid", uid)
	_, _, err = c.WriteMsgUnix([]byte("+"), unix.UnixRights(fds...), nil)
	return err
}
