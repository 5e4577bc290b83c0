package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/croft-os/croft/services/api"
)

// maxConfig is the largest document, in bytes, that is read from a file.
const maxConfig = 64 << 10

const configIntro = `config get | check FILE | put FILE | changes | undo NUMBER

get prints the configuration, put makes the one in FILE ("-" is the input) the box's after showing the difference, check only shows
that; changes lists what was changed, and undo takes one of these back.`

// configCommand reads and changes the configuration.
func configCommand(fl *flag.FlagSet) func(context.Context, *box, []string) error {
	yes := fl.Bool("yes", false, "don't ask before something is changed; keep a new network setting if the box still answers")
	return func(ctx context.Context, b *box, args []string) error {
		c := &configurer{b, *yes}
		switch verb, rest := args[0], args[1:]; {
		case verb == "get" && len(rest) == 0:
			var raw []byte
			if _, err := b.call(ctx, http.MethodGet, "/config", nil, nil, &raw, nil); err != nil {
				return err
			}
			return b.print(indent(raw))
		case verb == "check" && len(rest) == 1:
			return c.check(ctx, rest[0])
		case verb == "put" && len(rest) == 1:
			return c.put(ctx, rest[0])
		case verb == "changes" && len(rest) == 0:
			return c.changes(ctx)
		case verb == "undo" && len(rest) == 1:
			return c.undo(ctx, rest[0])
		}
		return usageError("It is: croft config get, check FILE, put FILE, changes, or undo NUMBER.")
	}
}

type configurer struct {
	*box
	yes bool
}

func indent(raw []byte) []byte {
	var v json.RawMessage = raw
	if out, err := json.MarshalIndent(v, "", "  "); err == nil {
		return out
	}
	return raw
}

// document reads a file, or with "-" the input.
func (c *configurer) document(path string) ([]byte, error) {
	var r io.Reader = c.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError(err.Error())
		}
		defer f.Close()
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = usageError(fmt.Sprintf("%s has more than %d bytes.", path, maxConfig))
	}
	return text, err
}

func (c *configurer) check(ctx context.Context, path string) error {
	text, err := c.document(path)
	if err != nil {
		return err
	}
	var raw []byte
	if _, err := c.call(ctx, http.MethodPost, "/config/check", nil, text, &raw, nil); err != nil {
		return err
	}
	var check api.ConfigCheck
	if err := json.Unmarshal(raw, &check); err != nil {
		return err
	}
	switch {
	case c.asJSON:
		c.print(raw)
	case len(check.Problems) > 0:
		c.problems(check.Problems)
	default:
		c.differences(check.Differences)
	}
	if len(check.Problems) > 0 {
		return errNo
	}
	return nil
}

func (c *configurer) problems(ps []api.FieldProblem) {
	fmt.Fprintln(c.err, "The box would refuse this:")
	for _, p := range ps {
		fmt.Fprintln(c.err, clean(fmt.Sprintf("  %s: %s", p.Path, p.Text)))
	}
}

func (c *configurer) differences(ds []api.Difference) {
	if len(ds) == 0 {
		fmt.Fprintln(c.out, "It changes nothing.")
		return
	}
	for _, d := range ds {
		fmt.Fprint(c.out, clean(differenceText(d)))
	}
}

func differenceText(d api.Difference) string {
	var w strings.Builder
	fmt.Fprintf(&w, "%s\n", d.Path)
	for _, side := range []struct {
		sign  string
		value json.RawMessage
	}{{"-", d.Before}, {"+", d.After}} {
		if len(side.value) > 0 {
			fmt.Fprintf(&w, "  %s %s\n", side.sign, strings.ReplaceAll(string(indent(side.value)), "\n", "\n    "))
		}
	}
	return w.String()
}

// put shows what would change, asks, and changes it, unless somebody else did meanwhile.
func (c *configurer) put(ctx context.Context, path string) error {
	text, err := c.document(path)
	if err != nil {
		return err
	}
	if path == "-" && !c.yes {
		return usageError("With the document on the input there is nobody to ask: add --yes.")
	}
	header, err := c.call(ctx, http.MethodGet, "/config", nil, nil, nil, nil)
	if err != nil {
		return err
	}
	var check api.ConfigCheck
	if _, err := c.call(ctx, http.MethodPost, "/config/check", nil, text, &check, nil); err != nil {
		return err
	}
	if len(check.Problems) > 0 {
		c.problems(check.Problems)
		return errNo
	}
	if !c.asJSON || len(check.Differences) == 0 {
		c.differences(check.Differences)
	}
	if len(check.Differences) == 0 {
		return nil
	}
	if !c.yes && !c.ask.yes(ctx, "Type yes to change this: ") {
		fmt.Fprintln(c.err, "Nothing was changed.")
		return errNo
	}
	var raw []byte
	if _, err := c.call(ctx, http.MethodPut, "/config", nil, text, &raw, http.Header{"If-Match": {header.Get("ETag")}}); err != nil {
		return err
	}
	return c.result(ctx, raw)
}

func (c *configurer) undo(ctx context.Context, id string) error {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return usageError("Name the number of a change; \"croft config changes\" lists them.")
	}
	if !c.yes && !c.ask.yes(ctx, fmt.Sprintf("Type yes to take back change %d: ", n)) {
		fmt.Fprintln(c.err, "Nothing was changed.")
		return errNo
	}
	var raw []byte
	if _, err := c.call(ctx, http.MethodPost, "/config/undo", nil, api.UndoRequest{Change: n}, &raw, nil); err != nil {
		return err
	}
	return c.result(ctx, raw)
}

// result tells what was changed, and offers to keep a new network setting.
func (c *configurer) result(ctx context.Context, raw []byte) error {
	var r api.ConfigResult
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	if c.asJSON {
		c.print(raw)
	} else {
		fmt.Fprintln(c.out, "Changed.")
	}
	if r.Trial == nil {
		return nil
	}
	left := time.Duration(r.Trial.LeftMS) * time.Millisecond
	fmt.Fprintf(c.err, "The new network setting is being tried. The box goes back to the old one in %d seconds unless it is kept.\n", int(left.Seconds()))
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	if !c.yes && !c.ask.yes(ctx, "Type yes to keep it: ") {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			fmt.Fprintln(c.err, "\nThe box has gone back to the old one.")
			return errNo
		}
		if _, err := c.call(ctx, http.MethodPost, "/network/revert", nil, nil, nil, nil); err != nil {
			return err
		}
		fmt.Fprintln(c.err, "The box went back to the old one.")
		return errNo
	}
	if _, err := c.call(ctx, http.MethodPost, "/network/keep", nil, nil, nil, nil); err != nil {
		return err
	}
	fmt.Fprintln(c.err, "Kept.")
	return nil
}

func (c *configurer) changes(ctx context.Context) error {
	return show(ctx, c.box, http.MethodGet, "/config/changes", nil, nil, func(l api.List[api.ConfigChange]) error {
		tw := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "NUMBER\tWHEN\tBY\tWHAT\tUNDO")
		for _, x := range l.Items {
			var paths []string
			for _, d := range x.Differences {
				paths = append(paths, d.Path)
			}
			can := "no"
			if x.CanUndo {
				can = "yes"
			}
			fmt.Fprint(tw, clean(fmt.Sprintf("%d\t%s\t%s\t%s\t%s\n", x.ID, x.At.Local().Format(time.DateTime), orDash(x.By), strings.Join(paths, " "), can)))
		}
		return tw.Flush()
	})
}
