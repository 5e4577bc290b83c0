package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/croft-os/croft/image"
	"github.com/croft-os/croft/image/board"
)

// build makes the image of one board, or of all.
func build(ctx context.Context, args []string, io stdio) int {
	var ids, titles []string
	for _, b := range board.All() {
		ids = append(ids, b.ID)
		titles = append(titles, b.ID+" is "+b.Title)
	}
	fl := flags(io, "build", "build [--board ID] [--out FOLDER] [--publisher FOLDER --number N]")
	id := fl.String("board", "pc", strings.Join(ids, ", ")+" or all: "+strings.Join(titles, "; "))
	out := fl.String("out", "out", "folder for the image")
	version := fl.String("version", "", "version of the release; default: git describe")
	only := fl.Bool("image-only", false, "write no compressed image, bill of materials and checksums")
	url := fl.String("url", "", "where the files will be found, for Raspberry Pi Imager's list; default: where they are written")
	publisher := fl.String("publisher", "", "folder with root.json and publisher.json: whom the box follows; default: nobody")
	number := fl.Int64("number", 0, "number of the release, which counts up with every release of a publisher; 0: not published")
	channel := fl.String("channel", "stable", "channel of the release, stable or beta")
	if _, code, ok := parse(fl, args, 0, 0); !ok {
		return code
	}
	if *number == 0 {
		*channel = ""
	}
	if *id != "all" {
		ids = []string{*id}
	}
	for _, id := range ids {
		b, err := board.Find(id)
		if err != nil {
			fmt.Fprintln(io.err, err)
			return exitUsage
		}
		err = image.Build(ctx, image.Options{
			Board: b, Out: *out, Version: *version, ImageOnly: *only, URL: *url,
			Number: *number, Channel: *channel, Publisher: *publisher,
			Log: slog.New(slog.NewTextHandler(io.err, nil)),
		})
		if err != nil {
			fmt.Fprintln(io.err, err)
			return exitFailed
		}
	}
	return exitOK
}
