package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	_ "time/tzdata" // to check time zones on computers without a database of them

	"golang.org/x/sys/unix"

	"github.com/croft-os/croft/image/flash"
	"github.com/croft-os/croft/image/qrtext"
)

// flashCommand puts an image onto a drive.
func flashCommand(ctx context.Context, args []string, io stdio) int {
	fl := flags(io, "flash", "flash IMAGE [DRIVE] [FLAGS]\n\n"+
		"IMAGE is a croft-….img or .img.zst, DRIVE such as /dev/sdb, or a file. Without a drive, the cards and sticks that are\n"+
		"plugged in are listed. What was on the drive is lost.")
	var s flash.Settings
	var ssid string
	fl.StringVar(&s.Name, "hostname", "", "`name` of the box: it answers as NAME.local (default: croft)")
	fl.StringVar(&ssid, "wifi", "", "`name` of the Wi-Fi that the box joins; its password is asked for")
	fl.StringVar(&s.ClaimCode, "claim-code", "", "`code` that makes you the owner, such as 7K3M-9QXT (default: a new one)")
	fl.StringVar(&s.MeshKey, "mesh-key", "", "`key` that lets the box join your mesh; \"-\" asks for it")
	fl.StringVar(&s.TimeZone, "time-zone", "", "the household's time `zone`, such as Europe/Berlin")
	all := fl.Bool("all", false, "also list and take drives that are built in")
	yes := fl.Bool("yes", false, "don't ask before the drive is erased")
	rest, code, ok := parse(fl, args, 1, 2)
	if !ok {
		return code
	}
	if len(rest) == 1 {
		return listDrives(rest[0], *all, io)
	}
	f := &flasher{stdio: io, ask: newAsker(io), img: rest[0], path: rest[1], all: *all, yes: *yes, settings: s}
	return f.run(ctx, ssid)
}

// listDrives shows the drives that could be meant.
func listDrives(img string, all bool, io stdio) int {
	drives, err := flash.ThisHost.Drives()
	if err != nil {
		fmt.Fprintln(io.err, err)
		return exitFailed
	}
	n := 0
	tw := tabwriter.NewWriter(io.out, 0, 0, 2, ' ', 0)
	for _, d := range drives {
		if !all && !d.Removable {
			continue
		}
		if n++; n == 1 {
			fmt.Fprintln(tw, "DRIVE\tSIZE\tMODEL\tSERIAL\tNOTE\tON IT")
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Path, flash.Bytes(d.Size), orDash(d.Model), orDash(d.Serial), note(d), content(d))
	}
	tw.Flush()
	if n == 0 {
		fmt.Fprintln(io.err, "No card or stick is plugged in. Plug one in and try again, or add --all to see the drives that are built in.")
		return exitFailed
	}
	fmt.Fprintf(io.err, "\nName the one to erase:  croft flash %s DRIVE\n", img)
	return exitOK
}

func note(d flash.Drive) string {
	switch {
	case d.System != "":
		return "this computer's system"
	case len(d.Mounted) > 0:
		return "in use at " + strings.Join(d.Mounted, ", ")
	case d.Used != "":
		return "in use by " + d.Used
	case d.ReadOnly:
		return "write-protected"
	}
	return "free"
}

func content(d flash.Drive) string {
	if d.Unread != "" {
		return "can't be read: " + d.Unread
	}
	return d.Content.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

type flasher struct {
	stdio
	ask      *asker
	img      string       // path of the image
	path     string       // of the drive
	drive    *flash.Drive // at that path when it was looked at last; nil for a file
	all, yes bool
	settings flash.Settings
}

func (f *flasher) run(ctx context.Context, ssid string) int {
	if err := f.gather(ctx, ssid); err != nil {
		return f.fail(ctx, exitUsage, "%v", err)
	}
	if p := f.problem(0); p != "" { // before minutes are spent on the image
		return f.fail(ctx, exitNo, "%s", p)
	}
	asked := f.drive
	p := newProgress(f.err, "Checking the image")
	img, err := flash.OpenImage(ctx, f.img, func(done int64) { p.show(done, 0) })
	p.end()
	if err != nil {
		return f.fail(ctx, exitFailed, "%s. %s was not touched.", strings.TrimSuffix(why(ctx, err), "."), f.path)
	}
	if p := f.problem(img.Size); p != "" {
		return f.fail(ctx, exitNo, "%s", p)
	}
	if !asked.Same(f.drive) {
		return f.fail(ctx, exitNo, otherDrive, f.path)
	}
	if q := f.question(); q != "" && !f.yes && !f.ask.yes(ctx, q+"Type yes to erase it: ") {
		return f.fail(ctx, exitNo, "Nothing was changed.")
	}
	target, err := f.open(img.Size)
	switch {
	case errors.Is(err, flash.ErrOther):
		return f.fail(ctx, exitNo, otherDrive, f.path)
	case errors.Is(err, os.ErrPermission):
		return f.fail(ctx, exitFailed, "%s may only be written to by the administrator. Try again with sudo in front. (%v)", f.path, err)
	case errors.Is(err, unix.EBUSY):
		return f.fail(ctx, exitNo, "%s is in use by another program. Eject it there and try again.", f.path)
	case err != nil:
		return f.fail(ctx, exitFailed, "%v", err)
	}
	defer target.Close()
	var phase string
	state, err := flash.Write(ctx, img, target, f.settings, func(now string, done int64) {
		if now != phase {
			p.end()
			phase, p = now, newProgress(f.err, map[string]string{flash.Writing: "Writing", flash.Reading: "Reading back"}[now])
		}
		p.show(done, img.Size)
	})
	p.end()
	if err != nil {
		return f.fail(ctx, exitFailed, "%s\n%s", why(ctx, err), after(state, f.path))
	}
	f.done()
	return exitOK
}

const otherDrive = "%s is not the drive any more that it was a moment ago. Nothing was changed; look again which one you mean."

// fail says why the command ends, and returns the exit code.
func (f *flasher) fail(ctx context.Context, code int, format string, args ...any) int {
	fmt.Fprintf(f.err, format+"\n", args...)
	if ctx.Err() != nil {
		return exitAbort
	}
	return code
}

// gather completes the settings.
func (f *flasher) gather(ctx context.Context, ssid string) (err error) {
	s := &f.settings
	if ssid != "" {
		s.WiFi = &flash.WiFi{SSID: ssid}
		if s.WiFi.Password, err = f.ask.secret(ctx, fmt.Sprintf("Password of the Wi-Fi %q (empty if it has none): ", ssid)); err != nil {
			return fmt.Errorf("no password for the Wi-Fi: %w", err)
		}
	}
	if s.MeshKey == "-" {
		if s.MeshKey, err = f.ask.secret(ctx, "Mesh key: "); err != nil {
			return fmt.Errorf("no mesh key: %w", err)
		}
	}
	if s.ClaimCode == "" {
		s.ClaimCode = flash.NewClaimCode()
	}
	return s.Normalise()
}

// problem looks at the target, and says why it must not be written to.
func (f *flasher) problem(size int64) string {
	f.drive = nil
	fi, err := os.Stat(f.path)
	if err == nil && fi.Mode()&os.ModeDevice != 0 && fi.Mode()&os.ModeCharDevice == 0 {
		d, err := flash.ThisHost.Drive(f.path)
		if err != nil {
			return err.Error()
		}
		f.drive = &d
		return d.Problem(size, f.all)
	}
	if err == nil && !fi.Mode().IsRegular() {
		return fmt.Sprintf("%s is neither a drive nor a file.", f.path)
	}
	if img, ierr := os.Stat(f.img); err == nil && ierr == nil && os.SameFile(fi, img) {
		return fmt.Sprintf("%s is the image itself.", f.path)
	}
	// A file there would be taken for the drive whose place it has, and that drive may come.
	path, aerr := filepath.Abs(f.path)
	if aerr != nil || strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/") {
		return fmt.Sprintf("There is no drive %s. \"croft flash IMAGE\" without a drive lists those that are there.", f.path)
	}
	if to, lerr := os.Readlink(f.path); err != nil && lerr == nil {
		return fmt.Sprintf("%s leads to %s, and there is nothing.", f.path, to)
	}
	return ""
}

// open opens what problem looked at.
func (f *flasher) open(size int64) (*flash.Target, error) {
	if f.drive != nil {
		return flash.ThisHost.Open(*f.drive)
	}
	return flash.OpenFile(f.path, size)
}

// question names what will be lost, "" if nothing is.
func (f *flasher) question() string {
	d := f.drive
	if d == nil {
		if fi, err := os.Stat(f.path); err == nil && fi.Size() > 0 {
			return fmt.Sprintf("The file %s (%s) will be overwritten.\n", f.path, flash.Bytes(fi.Size()))
		}
		return ""
	}
	q := fmt.Sprintf("Everything on this drive will be lost:\n\n  %s, %s, %s", d.Path, orDash(d.Model), flash.Bytes(d.Size))
	if d.Serial != "" {
		q += ", serial number " + d.Serial
	}
	return q + "\n  On it now: " + content(*d) + "\n\n"
}

// why says in words what stopped the writing.
func why(ctx context.Context, err error) string {
	var differs *flash.VerifyError
	var gone *flash.GoneError
	switch {
	case ctx.Err() != nil:
		return "Stopped."
	case errors.Is(err, flash.ErrTooSmall):
		return "The drive is too small. " + err.Error()
	case errors.As(err, &differs):
		return fmt.Sprintf("The drive did not keep what was written to it: from byte %d (%s) on, it gives back something else. It may be "+
			"worn out, or claim to be larger than it is. Use another one.", differs.Offset, flash.Bytes(differs.Offset))
	case errors.Is(err, unix.ENOSPC):
		return fmt.Sprintf("There is no room left. (%v)", err)
	case errors.As(err, &gone):
		return fmt.Sprintf("The drive stopped answering after %s: it was pulled out, or is failing. (%v)", flash.Bytes(gone.Offset), err)
	}
	return err.Error()
}

// after says what the drive holds now.
func after(s flash.State, path string) string {
	switch s {
	case flash.Untouched:
		return path + " was not touched."
	case flash.Cleared:
		return "What was on " + path + " is gone, and nothing can be started from it. Flash it again before you use it."
	case flash.Written:
		return "Everything was written to " + path + ", but it was not read back to the end. It will probably work; to be sure, flash it again."
	}
	return ""
}

// done says what to do now.
func (f *flasher) done() {
	s := f.settings
	name := s.Name
	if name == "" {
		name = "croft"
	}
	url := fmt.Sprintf("http://%s.local/#%s", name, s.ClaimCode)
	net := "Plug its network cable into your router"
	if s.WiFi != nil {
		net = "Leave it within reach of the Wi-Fi"
	}
	fmt.Fprintf(f.out, "Done: %s holds Croft, and gave back every byte.\n\n"+
		"1. Put it into the box. %s, and switch the box on.\n"+
		"2. A minute later, scan this code with a phone at home, or open the address:\n\n%s\n"+
		"   %s\n\n"+
		"The claim code %s makes whoever has it the owner, until you have made your account.\n", f.path, net, qrtext.Draw(url), url, s.ClaimCode)
}
