package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/croft-os/croft/image"
	"github.com/croft-os/croft/image/board"
)

func init() { commands["build"] = build }

// build makes the image of one board, or of all.
func build(ctx context.Context, args []string, _, stderr io.Writer) int {
	var ids, titles []string
	for _, b := range board.All() {
		ids = append(ids, b.ID)
		titles = append(titles, b.ID+" is "+b.Title)
	}
	fl := flag.NewFlagSet("croft build", flag.ContinueOnError)
	fl.SetOutput(stderr)
	id := fl.String("board", "pc", strings.Join(ids, ", ")+" or all: "+strings.Join(titles, "; "))
	out := fl.String("out", "out", "folder for the image")
	version := fl.String("version", "", "version of the release; default: git describe")
	only := fl.Bool("image-only", false, "write no compressed image, bill of materials and checksums")
	url := fl.String("url", "", "where the files will be found, for Raspberry Pi Imager's list; default: where they are written")
	if err := fl.Parse(args); err != nil {
		return 2
	}
	if fl.NArg() > 0 {
		fmt.Fprintf(stderr, "croft build takes no arguments, only flags: %q\n", fl.Args())
		return 2
	}
	if *id != "all" {
		ids = []string{*id}
	}
	for _, id := range ids {
		b, err := board.Find(id)
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 2
		}
		err = image.Build(ctx, image.Options{
			Board: b, Out: *out, Version: *version, ImageOnly: *only, URL: *url,
			Log: slog.New(slog.NewTextHandler(stderr, nil)),
		})
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
	}
	return 0
}
