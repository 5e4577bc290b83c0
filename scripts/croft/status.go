package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/croft-os/croft/image/flash"
	"github.com/croft-os/croft/services/api"
)

// errNeedsYou is that the box is not well; what is to be said was said.
var errNeedsYou = errors.New("the box needs somebody")

// statusCommand says how the box is.
func statusCommand(*flag.FlagSet) func(context.Context, *box, []string) error {
	return func(ctx context.Context, b *box, _ []string) error {
		var state api.Box
		var raw []byte
		if _, err := b.call(ctx, http.MethodGet, "/box", nil, nil, &raw, nil); err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &state); err != nil {
			return fmt.Errorf("%s answers what this program does not understand: %w", b.base, err)
		}
		needs := needs(state)
		if b.asJSON {
			b.print(raw)
		} else {
			fmt.Fprint(b.out, clean(statusText(state, needs)))
		}
		if len(needs) > 0 {
			return errNeedsYou
		}
		return nil
	}
}

// needs lists what somebody should look at, one or two sentences each.
func needs(s api.Box) []string {
	var list []string
	if r := s.System.Rescue; r != nil {
		list = append(list, "It is in rescue mode. "+r.Text)
	}
	for _, a := range s.Alerts {
		list = append(list, strings.TrimSpace(a.Text+" "+a.Next))
	}
	for _, n := range s.Notices {
		if n.Weight != "info" {
			list = append(list, strings.TrimSpace(n.Text+" "+n.Next))
		}
	}
	for _, v := range s.System.Services {
		switch v.State {
		case api.StateBackoff, api.StateCrashing, api.StateFailed:
			list = append(list, fmt.Sprintf("%s does not run (%s).", v.Title, cmp.Or(v.LastExit, v.State)))
		}
	}
	return list
}

func statusText(s api.Box, needs []string) string {
	var w strings.Builder
	name := s.System.Name
	switch len(needs) {
	case 0:
		fmt.Fprintf(&w, "%s: all is well.\n", name)
	case 1:
		fmt.Fprintf(&w, "%s: one thing needs you.\n", name)
	default:
		fmt.Fprintf(&w, "%s: %d things need you.\n", name, len(needs))
	}
	for _, n := range needs {
		fmt.Fprintf(&w, "  - %s\n", n)
	}
	tw := tabwriter.NewWriter(&w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw)
	v := s.System.Vitals
	fmt.Fprintf(tw, "Running\tfor %s, Croft %s on %s\n", span(s.System.UptimeMS), s.System.Version, cmp.Or(s.System.Board.Model, s.System.Board.ID))
	if s.Network != nil {
		var addrs []string
		for _, i := range s.Network.Interfaces {
			for _, a := range i.Addresses {
				if !a.Addr().IsLoopback() && !a.Addr().IsLinkLocalUnicast() {
					addrs = append(addrs, a.Addr().String())
				}
			}
		}
		fmt.Fprintf(tw, "Address\t%s.local %s\n", name, strings.Join(addrs, ", "))
		fmt.Fprintf(tw, "Clock\t%s\n", s.Network.Clock.Text)
	}
	fmt.Fprintf(tw, "Memory\t%s of %s free\n", flash.Bytes(v.MemAvailable), flash.Bytes(v.MemTotal))
	if v.Data != nil {
		fmt.Fprintf(tw, "Disk\t%s of %s free\n", flash.Bytes(v.Data.Free), flash.Bytes(v.Data.Size))
	}
	fmt.Fprintf(tw, "Load\t%.2f on %d cores\n", v.Load1, v.CPUs)
	if x := s.Witness; x != nil && x.Config.On() {
		what := fmt.Sprintf("%s, logs of others: %d", x.Config.Name, len(x.Logs))
		if !x.Running {
			what = x.Config.Name + ", but cosigns nothing: " + cmp.Or(x.Problem, "it starts")
		}
		fmt.Fprintf(tw, "Witness\t%s\n", what)
	}
	if v.Temperature != nil {
		fmt.Fprintf(tw, "Temperature\t%.0f °C\n", *v.Temperature)
	}
	tw.Flush()
	fmt.Fprintln(tw, "\nSERVICE\tSTATE\tFOR\tRESTARTS\tMEMORY")
	for _, x := range s.System.Services {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\n", x.Name, x.State, span(x.SinceMS), x.Restarts, flash.Bytes(x.Memory))
	}
	tw.Flush()
	return w.String()
}

// span writes milliseconds in its largest unit that counts.
func span(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := int64(d / u.of); n == 1 {
			return "1 " + u.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "a moment"
}

// restartCommand restarts a service, or the box.
func restartCommand(fl *flag.FlagSet) func(context.Context, *box, []string) error {
	whole := fl.Bool("whole-box", false, "restart the whole box")
	yes := fl.Bool("yes", false, "don't ask before the whole box is restarted")
	return func(ctx context.Context, b *box, args []string) error {
		if *whole == (len(args) == 1) {
			return usageError("Name one service, or --whole-box. \"croft status\" lists the services.")
		}
		if !*whole {
			return show(ctx, b, http.MethodPost, "/services/"+url.PathEscape(args[0])+"/restart", nil, nil, func(struct{}) error {
				fmt.Fprintf(b.out, "%s is being restarted.\n", clean(args[0]))
				return nil
			})
		}
		if !*yes && !b.ask.yes(ctx, "Everything that runs on the box will stop for about a minute. Type yes to restart it: ") {
			fmt.Fprintln(b.err, "The box was not restarted.")
			return errNo
		}
		return show(ctx, b, http.MethodPost, "/power", nil, api.PowerRequest{Action: "reboot"}, func(struct{}) error {
			fmt.Fprintln(b.out, "The box is restarting. It will be back in about a minute.")
			return nil
		})
	}
}
