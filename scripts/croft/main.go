// Command croft is Croft's one tool for people, on a laptop: it builds images and finds boxes.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// commands by name; each gets its own arguments and returns the exit code. Files beside this one add to it.
var commands = map[string]func(ctx context.Context, args []string, stdout, stderr io.Writer) int{}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 {
		if cmd := commands[os.Args[1]]; cmd != nil {
			os.Exit(cmd(ctx, os.Args[2:], os.Stdout, os.Stderr))
		}
	}
	var names []string
	for n := range commands {
		names = append(names, n)
	}
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "usage: croft %v\n", names)
	os.Exit(2)
}
