// Command bench measures Croft against its budgets and against named peers, prints a table and writes
// out/bench.json. "make bench" runs it.
//
// Limits: throughput is measured on loopback, with load generator, gateway and backend on the same processors, so
// that only the ratio between two gateways in the same run means something; boot times come from QEMU without
// hardware acceleration, where again only ratios do. Whatever needs an image takes the one in out/.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// row is one measure.
type row struct {
	Measure string  `json:"measure"`
	Unit    string  `json:"unit"`
	Ours    float64 `json:"ours"`
	Peer    float64 `json:"peer,omitempty"` // the same of the named peer; 0 without one
	Value   float64 `json:"value"`          // what the budget is about: Ours, or the ratio to the peer
	Budget  float64 `json:"budget,omitempty"`
	AtLeast bool    `json:"at_least"` // the budget is a floor, not a ceiling
	Pass    bool    `json:"pass"`
	Note    string  `json:"note,omitempty"`
}

// judge fills in Pass, and Value if it is not there. A row without a budget passes.
func (r row) judge() row {
	if r.Value == 0 {
		r.Value = r.Ours
		if r.Peer != 0 {
			r.Value = r.Ours / r.Peer
		}
	}
	r.Pass = r.Budget == 0 || r.AtLeast && r.Value >= r.Budget || !r.AtLeast && r.Value <= r.Budget
	return r
}

// options of a run.
type options struct {
	out    string        // directory of images, and of the report
	rounds int           // of each gateway
	round  time.Duration // of load
	idle   time.Duration // of the idle box
	kvm    bool          // the machines may use it
	log    io.Writer
}

// section measures one thing.
type section struct {
	name string
	run  func(context.Context, options) ([]row, error)
}

var sections = []section{
	{"gateway", benchGateway},
	{"api", benchAPI},
	{"page", benchPage},
	{"size", benchSize},
	{"boot", benchBoot},
	{"down", benchDown},
	{"idle", benchIdle},
	{"update", benchUpdate},
}

func main() {
	if role := os.Getenv(roleEnv); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", role+":", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errBudget says that a budget was missed or a section could not be measured.
var errBudget = errors.New("not everything is within its budget")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	o := options{log: stderr}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	only := fs.String("only", "", "comma-separated sections to run, of "+strings.Join(names, ", ")+"; empty means all")
	fs.StringVar(&o.out, "out", "out", "directory of the images, and of the report bench.json")
	fs.IntVar(&o.rounds, "rounds", 3, "rounds of load on each gateway and protocol, interleaved")
	fs.DurationVar(&o.round, "round", 5*time.Second, "length of a round of load")
	fs.DurationVar(&o.idle, "idle", 34*time.Minute, "how long the idle box is watched; its log reaches the medium every 30 minutes")
	fs.BoolVar(&o.kvm, "kvm", false, "let QEMU use KVM, if the machine has it")
	if err := fs.Parse(args); err != nil {
		return err
	}
	want := strings.FieldsFunc(*only, func(r rune) bool { return r == ',' })
	for _, w := range want {
		if !slices.Contains(names, w) {
			return fmt.Errorf("-only %s: there is %s", w, strings.Join(names, ", "))
		}
	}
	var rows []row
	var failed error
	for _, s := range sections {
		if len(want) > 0 && !slices.Contains(want, s.name) {
			continue
		}
		got, err := s.run(ctx, o)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Fprintf(stderr, "bench: %s: %v\n", s.name, err)
			failed = errBudget
		}
		for _, r := range got {
			r = r.judge()
			if !r.Pass {
				failed = errBudget
			}
			rows = append(rows, r)
		}
	}
	report(stdout, rows)
	b, err := json.MarshalIndent(rows, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	return cmp.Or(os.WriteFile(filepath.Join(o.out, "bench.json"), append(b, '\n'), 0o644), failed)
}

// report prints the table.
func report(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MEASURE\tOURS\tPEER\tVALUE\tBUDGET\t\tNOTE")
	for _, r := range rows {
		peer, budget, verdict := "", "", ""
		if r.Peer != 0 {
			peer = number(r.Peer) + " " + r.Unit
		}
		if r.Budget != 0 {
			budget, verdict = "at most "+number(r.Budget), "pass"
			if r.AtLeast {
				budget = "at least " + number(r.Budget)
			}
			if !r.Pass {
				verdict = "FAIL"
			}
		}
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%s\t%s\t%s\t%s\n",
			r.Measure, number(r.Ours), r.Unit, peer, number(r.Value), budget, verdict, r.Note)
	}
	t.Flush()
}

func number(f float64) string {
	if f >= 1000 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.3g", f)
}
