package boot

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/croft-os/croft/image/qrtext"
	"github.com/croft-os/croft/services/api"
	"golang.org/x/sys/unix"
)

// consoles returns the device nodes that the kernel uses as consoles: screens ("/dev/tty0") and serial lines.
func consoles() []string {
	var paths []string
	for _, name := range strings.Fields(readFile("/sys/class/tty/console/active")) {
		paths = append(paths, "/dev/"+name)
	}
	if len(paths) == 0 {
		paths = []string{"/dev/console"}
	}
	return paths
}

// isScreen tells a virtual terminal from a serial line.
func isScreen(path string) bool {
	name := strings.TrimPrefix(path, "/dev/tty")
	return name != path && name != "" && name[0] >= '0' && name[0] <= '9'
}

// write sends text to a console; one that does not take it within a second, such as a screen that somebody has stopped
// with Ctrl-S, is left alone.
func write(path, text string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			return
		}
		defer f.Close()
		f.SetWriteDeadline(time.Now().Add(time.Second))
		f.WriteString(strings.ReplaceAll(text, "\n", "\r\n"))
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// say writes one line to all consoles.
func (b *Box) say(line string) {
	for _, c := range b.consoles() {
		write(c, "croft: "+line+"\n")
	}
}

// console shows the box's state on its consoles whenever what it shows has changed: screens are drawn anew, serial
// lines get the new state appended.
func (b *Box) console(ctx context.Context) {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	var shown string
	show := func() (string, error) {
		text := render(b.System(), b.claimCode(), addresses())
		if text == shown {
			return "", nil
		}
		shown = text
		for _, c := range b.consoles() {
			if isScreen(c) {
				write(c, "\x1b[2J\x1b[H"+text)
			} else {
				write(c, text)
			}
		}
		return "", nil
	}
	for {
		if _, err := guard(show); err != nil {
			b.log.Error("console", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// addresses returns the box's own addresses on interfaces with a cable in, the most useful first.
func addresses() []net.IP {
	var v4, v6, local []net.IP
	ifs, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var addrs []net.Addr
	for _, i := range ifs {
		if i.Flags&net.FlagRunning == 0 {
			continue // what it was given may outlive the cable
		}
		if as, err := i.Addrs(); err == nil {
			addrs = append(addrs, as...)
		}
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		switch {
		case !ok || n.IP.IsLoopback() || (n.IP.To4() == nil && n.IP.IsLinkLocalUnicast()):
		case n.IP.IsLinkLocalUnicast():
			local = append(local, n.IP)
		case n.IP.To4() != nil:
			v4 = append(v4, n.IP)
		default:
			v6 = append(v6, n.IP)
		}
	}
	return append(append(v4, local...), v6...)
}

// pageURL is the address of the page; with a claim code in its fragment it opens the box by scanning alone.
func pageURL(ip net.IP, code string) string {
	host := ip.String()
	if ip.To4() == nil {
		host = "[" + host + "]"
	}
	u := "http://" + host + "/"
	if code != "" {
		u += "#" + code
	}
	return u
}

// render writes what the consoles show. It changes only when the owner would want to know.
func render(s api.System, code string, addrs []net.IP) string {
	var w bytes.Buffer
	fmt.Fprintf(&w, "\n  Croft %s · %s\n\n", s.Version, s.Board.Model)
	if s.Rescue != nil {
		fmt.Fprintf(&w, "  RESCUE MODE: %s\n  %s\n  Nothing is erased unless you ask for it. Open the page to see what you can do.\n\n",
			s.Rescue.Text, s.Rescue.Detail)
	}
	if len(addrs) == 0 {
		fmt.Fprintf(&w, "  No network yet. Plug a network cable into the box and into your router.\n")
	} else {
		for _, a := range addrs {
			fmt.Fprintf(&w, "  %s\n", pageURL(a, ""))
		}
	}
	for _, svc := range s.Services {
		if svc.Name == "discovery" && svc.State == api.StateRunning && svc.Status != "" {
			fmt.Fprintf(&w, "  %s\n", svc.Status)
		}
	}
	if code != "" {
		what := "claim code"
		if s.Rescue != nil {
			what = "rescue code"
		}
		fmt.Fprintf(&w, "\n  %s %s\n", what, code)
		if len(addrs) > 0 {
			fmt.Fprintf(&w, "\n%s\n", qrtext.Draw(pageURL(addrs[0], code)))
		}
	}
	fmt.Fprintln(&w)
	for _, p := range s.Phases {
		if p.Error != "" {
			fmt.Fprintf(&w, "  ! %s: %s\n", p.Title, p.Error)
		}
	}
	for _, svc := range s.Services {
		fmt.Fprintf(&w, "  %-9s %s", svc.State, svc.Title)
		if svc.LastExit != "" && svc.State != api.StateRunning {
			fmt.Fprintf(&w, " (%s)", svc.LastExit)
		}
		fmt.Fprintln(&w)
	}
	return w.String()
}
