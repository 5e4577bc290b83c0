package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// Exit codes of all commands.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2   // the arguments make no sense
	exitNo       = 3   // the person said no, or the box did: it does not allow it
	exitNeedsYou = 4   // the box is not well
	exitAbort    = 130 // Ctrl-C, as shells have it
)

// stdio is what a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// command is one word behind "croft".
type command struct {
	name, args, does string

	run func(ctx context.Context, args []string, io stdio) int
}

// commands are all of them, in the order of a box's life.
var commands = []command{
	{"build", "[--board ID]", "build the image of a board from this source", build},
	{"flash", "IMAGE [DRIVE]", "put an image onto a card or stick; without a drive, list them", flashCommand},
	{"find", "", "list the boxes on this network", find},
	{"status", "", "say how a box is", boxCommand("status", "status", 0, 0, statusCommand)},
	{"logs", "[-f]", "read a box's logs", boxCommand("logs", "logs [-f]", 0, 0, logsCommand)},
	{"config", "VERB", "read and change a box's configuration", boxCommand("config", configIntro, 1, 2, configCommand)},
	{"update", "VERB", "see to updates of a box: status, check, install, back, cancel", boxCommand("update", updateIntro, 1, 1, updateCommand)},
	{"restart", "SERVICE", "restart a service, or with --whole-box the box", boxCommand("restart", "restart SERVICE | --whole-box", 0, 1, restartCommand)},
	{"release", "VERB", "make, sign, publish and check releases", releaseCommand},
	{"tuf-client", "COMMAND", "follow any repository of The Update Framework, to test how we do", tufClient},
	{"witness", "--log KEY", "watch other people's public logs, so that boxes can believe them", witnessCommand},
}

// run runs one command and returns its exit code.
func run(ctx context.Context, args []string, io stdio) int {
	return dispatch(ctx, "croft", "COMMAND", commands, "\"croft COMMAND -h\" says more about each.", args, io)
}

// dispatch runs the command that args begin with, one of those behind name, or says which there are. kind is what they are called.
func dispatch(ctx context.Context, name, kind string, commands []command, more string, args []string, io stdio) int {
	if len(args) > 0 {
		for _, c := range commands {
			if c.name == args[0] {
				return c.run(ctx, args[1:], io)
			}
		}
	}
	to, code := io.err, exitUsage
	if len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help") {
		to, code = io.out, exitOK
	} else if len(args) > 0 {
		fmt.Fprintf(to, "There is no command %q.\n\n", strings.TrimPrefix(name+" "+args[0], "croft "))
	}
	fmt.Fprintf(to, "usage: %s %s [ARGUMENTS]\n\n", name, kind)
	tw := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, c := range commands {
		fmt.Fprintf(tw, "  %s\t%s\n", strings.TrimSpace(c.name+" "+c.args), c.does)
	}
	tw.Flush()
	fmt.Fprint(to, "\n"+more+"\n")
	return code
}

// flags makes the set of a command's flags. intro is what -h says first.
func flags(io stdio, name, intro string) *flag.FlagSet {
	fl := flag.NewFlagSet(name, flag.ContinueOnError)
	fl.SetOutput(io.err)
	fl.Usage = func() {
		fmt.Fprintf(fl.Output(), "usage: croft %s\n\n", intro)
		fl.PrintDefaults()
	}
	return fl
}

// parse takes flags before, between and behind the arguments, and wants between least and most of these. ok is false when the
// command ends with the returned code.
func parse(fl *flag.FlagSet, args []string, least, most int) (rest []string, code int, ok bool) {
	for {
		if err := fl.Parse(args); errors.Is(err, flag.ErrHelp) {
			return nil, exitOK, false
		} else if err != nil {
			return nil, exitUsage, false
		}
		if fl.NArg() == 0 {
			break
		}
		rest, args = append(rest, fl.Arg(0)), fl.Args()[1:]
	}
	switch {
	case len(rest) > most:
		fmt.Fprintf(fl.Output(), "croft %s: %q is one argument too many.\n", fl.Name(), rest[most])
	case len(rest) < least:
		fl.Usage()
	default:
		return rest, exitOK, true
	}
	return nil, exitUsage, false
}

// terminal returns the terminal that v is, or nil.
func terminal(v any) *os.File {
	if f, ok := v.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// asker asks the person. It reads ahead, so there must be one for all questions of a command.
type asker struct {
	io   stdio
	text *bufio.Reader
}

func newAsker(io stdio) *asker { return &asker{io, bufio.NewReader(io.in)} }

// line asks for a line; ctx ends the wait.
func (a *asker) line(ctx context.Context, question string) (string, error) {
	fmt.Fprint(a.io.err, question)
	return a.await(ctx, func() (string, error) {
		s, err := a.text.ReadString('\n')
		if err == io.EOF && s != "" {
			err = nil
		}
		return strings.TrimRight(s, "\r\n"), err
	})
}

// secret asks for a line that the terminal does not show.
func (a *asker) secret(ctx context.Context, question string) (string, error) {
	tty := terminal(a.io.in)
	if tty == nil {
		return a.line(ctx, question)
	}
	fmt.Fprint(a.io.err, question)
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return "", err
	}
	s, err := a.await(ctx, func() (string, error) {
		b, err := term.ReadPassword(int(tty.Fd()))
		return string(b), err
	})
	if ctx.Err() != nil {
		term.Restore(int(tty.Fd()), before)
	}
	fmt.Fprintln(a.io.err)
	return s, err
}

func (a *asker) await(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		s   string
		err error
	}
	c := make(chan answer, 1)
	go func() {
		s, err := read()
		c <- answer{s, err}
	}()
	select {
	case r := <-c:
		return r.s, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// yes asks for the word "yes".
func (a *asker) yes(ctx context.Context, question string) bool {
	s, err := a.line(ctx, question)
	return err == nil && strings.EqualFold(strings.TrimSpace(s), "yes")
}
