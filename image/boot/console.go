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
		text := render(b.System(), b.claimCode(), b.recoveryCode(), addresses())
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
	if code != "" { // without the hyphen: with any IPv4 address it fits into a QR code of 25 modules
		u += "#" + strings.ReplaceAll(code, "-", "")
	}
	return u
}

// The least that a screen shows, with a margin.
const (
	screenWidth  = 80
	screenMargin = 2
)

// wrap breaks text into lines of at most width characters, between words where it can.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		for len([]rune(word)) > width {
			r := []rune(word)
			if line != "" {
				lines, line = append(lines, line), ""
			}
			lines, word = append(lines, string(r[:width])), string(r[width:])
		}
		switch {
		case line == "":
			line = word
		case len([]rune(line))+1+len([]rune(word)) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// render writes what the consoles show; while all is well, that fits a screen of 80 by 25 characters. It changes only when
// the owner would want to know.
func render(s api.System, code string, rec api.Recovery, addrs []net.IP) string {
	var w bytes.Buffer
	margin := strings.Repeat(" ", screenMargin)
	say := func(format string, args ...any) {
		for _, line := range wrap(fmt.Sprintf(format, args...), screenWidth-2*screenMargin) {
			fmt.Fprintf(&w, "%s%s\n", margin, line)
		}
	}
	fmt.Fprintln(&w)
	say("Croft %s · %s", s.Version, s.Board.Model)
	fmt.Fprintln(&w)
	if s.Rescue != nil {
		say("RESCUE MODE: %s", s.Rescue.Text)
		say("%s", s.Rescue.Detail)
		say("Nothing is erased unless you ask for it. Open the page to see what you can do.")
		fmt.Fprintln(&w)
	}
	if s.Trial {
		say("This release is on trial. If it does not prove itself within a few minutes, the box goes back to the one before.")
		fmt.Fprintln(&w)
	}
	beside(&w, picture(code, addrs), words(s, code, rec, addrs))
	fmt.Fprintln(&w)
	for _, p := range s.Phases {
		if p.Error != "" {
			say("! %s: %s", p.Title, p.Error)
		} else if p.Name == settingsPhase && p.Note != "" {
			say("%s: %s", p.Title, p.Note)
		}
	}
	var running []string
	for _, svc := range s.Services {
		switch {
		case svc.State == api.StateRunning:
			running = append(running, svc.Title)
		case svc.LastExit != "":
			say("! %s: %s (%s)", svc.Title, svc.State, svc.LastExit)
		default:
			say("%s: %s", svc.Title, svc.State)
		}
	}
	if len(running) > 0 {
		say("Running: %s", strings.Join(running, ", "))
	}
	return w.String()
}

// picture is the QR code of the page with the code, nil while there is none to show.
func picture(code string, addrs []net.IP) []string {
	if code == "" || len(addrs) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(qrtext.Draw(pageURL(addrs[0], code)), "\n"), "\n")
}

// words are what stands beside the picture: a paragraph each, "" for a gap.
func words(s api.System, code string, rec api.Recovery, addrs []net.IP) []string {
	var p []string
	if len(addrs) == 0 {
		p = append(p, s.Name, "No network yet. Plug a network cable into the box and into your router.")
	}
	for _, a := range addrs[:min(len(addrs), 4)] {
		p = append(p, pageURL(a, ""))
	}
	fingerprint := ""
	for _, svc := range s.Services {
		if svc.State != api.StateRunning {
			continue
		}
		if svc.Name == "discovery" && svc.Status != "" {
			p = append(p, svc.Status)
		}
		if svc.Name == "gateway" && strings.Contains(svc.Status, "ingerprint") {
			fingerprint = svc.Status
		}
	}
	if code != "" {
		what := "claim code"
		if s.Rescue != nil {
			what = "rescue code"
		}
		p = append(p, "", what+" "+code)
		if len(addrs) > 0 {
			p = append(p, "Scan this with your phone, or open the address and type in the code.")
		}
	}
	switch rec.Source {
	case sourceConsole:
		p = append(p, "", "recovery code "+rec.Code, `Open the page, go on with "Lost your password?" and type in the code. It is good for half an hour.`)
	case sourceFile:
		p = append(p, "", `The code in `+recoveryFile+` is good for half an hour. Open the page and go on with "Lost your password?".`)
	}
	if fingerprint != "" {
		p = append(p, "", fingerprint)
	}
	return p
}

// beside writes paragraphs to the right of a picture, or alone without one.
func beside(w *bytes.Buffer, picture, paragraphs []string) {
	width, margin := screenWidth-2*screenMargin, strings.Repeat(" ", screenMargin)
	wide := 0
	if len(picture) > 0 {
		wide = len([]rune(picture[0])) + screenMargin
		width -= wide
	}
	var lines []string
	for _, p := range paragraphs {
		if p == "" {
			lines = append(lines, "")
		}
		lines = append(lines, wrap(p, width)...)
	}
	for i := range max(len(picture), len(lines)) {
		left, right := "", ""
		if i < len(picture) {
			left = picture[i]
		}
		if i < len(lines) {
			right = lines[i]
		}
		line := left + strings.Repeat(" ", max(0, wide-len([]rune(left)))) + margin + right
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}
