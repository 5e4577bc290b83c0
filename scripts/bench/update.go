package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/image"
	"github.com/croft-os/croft/image/board"
	"github.com/croft-os/croft/updater/delta"
	"github.com/croft-os/croft/updater/delta/bsdiff"
	"github.com/croft-os/croft/updater/fetch"
	"github.com/croft-os/croft/updater/publish/publishtest"
	"github.com/croft-os/croft/updater/release"
	"github.com/croft-os/croft/updater/tlog"
	"github.com/croft-os/croft/updater/tlog/tlogtest"
	"github.com/croft-os/croft/updater/trust"
)

// Budgets of an update: shares of the compressed root file system in percent, and the memory of applying it in MB.
const (
	fixBudget    = 4
	bumpBudget   = 13
	memoryBudget = 16
)

// oneLine is the small fix: one line of one function of the gateway. A test holds that the line is still there.
var oneLine = struct{ file, old, new string }{
	"services/gateway/proxy.go", `return strings.HasPrefix(p, "/api/") }`, `return p == "/api" || strings.HasPrefix(p, "/api/") }`,
}

// bumped are the dependencies whose last minor or patch version is what the larger update brings. Both are large, and at work all
// over the box.
var bumped = []string{"golang.org/x/net", "github.com/quic-go/quic-go"}

// benchUpdate builds what boxes run from the last commit: as it is, with a small fix, and as it was before a dependency bump; makes
// updates of that, and applies them. Peers get the same pairs. It builds six times, and sorts the suffixes of what it built: some
// minutes of work.
func benchUpdate(ctx context.Context, o options) ([]row, error) {
	dir, err := os.MkdirTemp("", "croft-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	rows, err := proofRows(ctx, dir)
	if err != nil {
		return nil, err
	}
	apply := filepath.Join(dir, "apply")
	if err := command(ctx, "", "go", "build", "-o", apply, "./scripts/bench/apply"); err != nil {
		return nil, err
	}
	plain, fixed, before := filepath.Join(dir, "plain"), filepath.Join(dir, "fixed"), filepath.Join(dir, "before")
	if err := sources(ctx, o, plain, fixed, before); err != nil {
		return nil, err
	}
	for _, id := range []string{"pc", "pi"} {
		b, err := board.Find(id)
		if err != nil {
			return nil, err
		}
		build := func(source string, number int64) (string, error) {
			out := filepath.Join(dir, fmt.Sprintf("%s-%d", id, number))
			_, err := image.Payload(ctx, image.Options{
				Board: b, Out: out, Source: source, Version: fmt.Sprintf("v1.0.%d", number), Number: number, Channel: string(release.Stable),
				Epoch: time.Unix(1790000000, 0).AddDate(0, int(number), 0), Log: slog.New(slog.NewTextHandler(o.log, nil)),
			})
			return out, err
		}
		older, err := build(before, 1)
		if err != nil {
			return nil, err
		}
		now, err := build(plain, 2)
		if err != nil {
			return nil, err
		}
		fix, err := build(fixed, 3)
		if err != nil {
			return nil, err
		}
		for _, u := range []struct {
			name, from, to string
			budget         float64
		}{{"one-line fix", now, fix, fixBudget}, {"dependency bump", older, now, bumpBudget}} {
			got, err := updateRows(ctx, o, u.name+", "+id, u.from, u.to, u.budget, apply)
			if err != nil {
				return nil, fmt.Errorf("%s for %s: %w", u.name, id, err)
			}
			rows = append(rows, got...)
		}
		got, err := fullRows(ctx, id, now, apply)
		if err != nil {
			return nil, fmt.Errorf("full release for %s: %w", id, err)
		}
		rows = append(rows, got...)
	}
	return rows, nil
}

// sources makes three copies of the last commit: as it is, with the fix, and before the bump.
func sources(ctx context.Context, o options, plain, fixed, before string) error {
	mod, err := output(ctx, "", "go", "env", "GOMOD")
	if err != nil {
		return err
	}
	from := filepath.Dir(mod)
	for _, dir := range []string{plain, fixed, before} {
		if err := command(ctx, "", "git", "clone", "--quiet", "--no-hardlinks", from, dir); err != nil {
			return err
		}
		from = plain // somebody may commit meanwhile
	}
	path := filepath.Join(fixed, oneLine.file)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if bytes.Count(b, []byte(oneLine.old)) != 1 {
		return fmt.Errorf("the last commit's %s has no line to fix", oneLine.file)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte(oneLine.old), []byte(oneLine.new), 1), 0o644); err != nil {
		return err
	}
	args := []string{"get"}
	for _, m := range bumped {
		now, err := output(ctx, before, "go", "list", "-m", "-f", "{{.Version}}", m)
		if err != nil {
			return err
		}
		all, err := output(ctx, before, "go", "list", "-m", "-versions", "-f", `{{join .Versions " "}}`, m)
		if err != nil {
			return err
		}
		last := versionBefore(strings.Fields(all), now)
		if last == "" {
			return fmt.Errorf("no version of %s before %s", m, now)
		}
		fmt.Fprintf(o.log, "bump: %s from %s to %s\n", m, last, now)
		args = append(args, m+"@"+last)
	}
	return command(ctx, before, "go", args...)
}

// versionBefore is the version that comes before one in a list in ascending order, previews passed over, or "".
func versionBefore(all []string, now string) string {
	last := ""
	for _, v := range all {
		if v == now {
			return last
		}
		if !strings.Contains(v, "-") {
			last = v
		}
	}
	return ""
}

// updateRows measures an update of both parts. What stays the same costs nothing.
func updateRows(ctx context.Context, o options, name, from, to string, budget float64, apply string) ([]row, error) {
	var ours, zstd, chunked, blocked int
	var making time.Duration
	var took applied
	for _, part := range []string{"boot.part", "root.part"} {
		old, err := os.ReadFile(filepath.Join(from, part))
		if err != nil {
			return nil, err
		}
		content, err := os.ReadFile(filepath.Join(to, part))
		if err != nil {
			return nil, err
		}
		if bytes.Equal(old, content) {
			continue
		}
		var patch bytes.Buffer
		start := time.Now()
		if err := bsdiff.Diff(old, content, &patch); err != nil {
			return nil, err
		}
		making += time.Since(start)
		a, err := applyPart(ctx, apply, "patch", filepath.Join(from, part), patch.Bytes(), content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part, err)
		}
		took = applied{took.Seconds + a.Seconds, max(took.Peak, a.Peak)}
		z, err := exec.CommandContext(ctx, "zstd", "-q", "-19", "--single-thread", "-c", "--patch-from", filepath.Join(from, part),
			filepath.Join(to, part)).Output()
		if err != nil {
			return nil, fmt.Errorf("zstd --patch-from: %w", err)
		}
		c, err := missing(chunks(old), chunks(content), chunkEntry)
		if err != nil {
			return nil, err
		}
		k, err := missing(blocks(old), blocks(content), blockEntry)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(o.log, "%s: %s of %d bytes: bsdiff %d, zstd --patch-from %d, chunks %d, blocks %d\n",
			name, part, len(content), patch.Len(), len(z), c, k)
		ours, zstd, chunked, blocked = ours+patch.Len(), zstd+len(z), chunked+c, blocked+k
	}
	whole, err := compressed(ctx, filepath.Join(to, "root.part"))
	if err != nil {
		return nil, err
	}
	if ours == 0 {
		return nil, errors.New("nothing has changed")
	}
	kb := func(n int) float64 { return float64(n) / 1e3 }
	return []row{
		{
			Measure: "update, " + name, Unit: "kB", Ours: kb(ours), Peer: kb(zstd), Value: 100 * float64(ours) / float64(whole), Budget: budget,
			Note: fmt.Sprintf("beside zstd --patch-from; the budget is percent of the root's %.0f kB of zstd -19", kb(whole)),
		},
		{Measure: "update, " + name + ", beside chunks", Unit: "kB", Ours: kb(ours), Peer: kb(chunked), Note: "content-defined, 16-256 KiB, zstd, with their index"},
		{Measure: "update, " + name + ", beside blocks", Unit: "kB", Ours: kb(ours), Peer: kb(blocked), Note: "hashes of 4 KiB blocks, zstd, with their index"},
		{Measure: "update, " + name + ", memory to apply", Unit: "MB", Ours: took.Peak / 1e6, Budget: memoryBudget, Note: "peak of a whole process"},
		{Measure: "update, " + name + ", time to apply", Unit: "s", Ours: took.Seconds, Note: "to a file in the page cache"},
		{Measure: "update, " + name + ", time to make", Unit: "s", Ours: making.Seconds(), Note: "by who publishes"},
	}, nil
}

// fullRows measures a release without patches.
func fullRows(ctx context.Context, id, dir, apply string) ([]row, error) {
	var size, peer int
	var took applied
	for _, part := range []string{"boot.part", "root.part"} {
		path := filepath.Join(dir, part)
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var blob bytes.Buffer
		if _, _, _, err := delta.WriteFrames(&blob, bytes.NewReader(content)); err != nil {
			return nil, err
		}
		size += blob.Len()
		z, err := compressed(ctx, path)
		if err != nil {
			return nil, err
		}
		peer += z
		a, err := applyPart(ctx, apply, "frames", os.DevNull, blob.Bytes(), content)
		if err != nil {
			return nil, err
		}
		took = applied{took.Seconds + a.Seconds, max(took.Peak, a.Peak)}
	}
	return []row{
		{Measure: "full release, " + id, Unit: "MB", Ours: float64(size) / 1e6, Peer: float64(peer) / 1e6, Note: "frames of 4 MiB, boot and root, beside zstd -19"},
		{Measure: "full release, " + id + ", memory to unpack", Unit: "MB", Ours: took.Peak / 1e6, Budget: memoryBudget, Note: "peak of a whole process"},
		{Measure: "full release, " + id + ", time to unpack", Unit: "s", Ours: took.Seconds, Note: "to a file in the page cache"},
	}, nil
}

// applied is what the program apply tells.
type applied struct{ Seconds, Peak float64 }

// applyPart has a process of its own make a part from a blob, and compares what it made.
func applyPart(ctx context.Context, program, way, base string, blob, content []byte) (a applied, err error) {
	dir, err := os.MkdirTemp(filepath.Dir(program), "apply-")
	if err != nil {
		return a, err
	}
	defer os.RemoveAll(dir)
	// Frames are named, but never fetched, for a patch.
	part := release.Part{Size: int64(len(content)), SHA256: hashOf(content), Patches: []release.Patch{{Size: int64(len(blob))}}}
	if way == "frames" {
		if part.Frames, _, _, err = delta.WriteFrames(io.Discard, bytes.NewReader(content)); err != nil {
			return a, err
		}
	} else {
		fi, err := os.Stat(base)
		if err != nil {
			return a, err
		}
		part.Patches[0].FromSize = fi.Size()
	}
	js, err := json.Marshal(part)
	if err != nil {
		return a, err
	}
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, blob, 0o600); err != nil {
		return a, err
	}
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, program, way, base, in, out)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(js), &stderr
	answer, err := cmd.Output()
	if err != nil {
		return a, fmt.Errorf("apply %s: %w: %s", way, err, stderr.String())
	}
	made, err := os.ReadFile(out)
	if err != nil {
		return a, err
	}
	if !bytes.Equal(made, content) {
		return a, errors.New("apply made something else")
	}
	return a, json.Unmarshal(answer, &a)
}

// compressed is the size of a file as zstd's command line compresses it best.
func compressed(ctx context.Context, path string) (int, error) {
	b, err := exec.CommandContext(ctx, "zstd", "-q", "-19", "--single-thread", "-c", path).Output()
	if err != nil {
		return 0, fmt.Errorf("zstd: %w", err)
	}
	return len(b), nil
}

// proofRows measures what shows a box without a network that a release is everybody's: its size in a log of 5,000 entries, of which
// 3 of 5 witnesses have seen the last; and the time that all of a repository's metadata takes.
func proofRows(ctx context.Context, dir string) ([]row, error) {
	l := &tlogtest.Log{Key: tlogtest.NewKey(tlogtest.AlgLog, "example.org/log", "log")}
	for i := range 5000 {
		l.Add(fmt.Appendf(nil, "entry %d", i))
	}
	var witnesses []*tlogtest.Key
	var keys []string
	for i := range 5 {
		w := tlogtest.NewKey(tlogtest.AlgWitness, fmt.Sprintf("witness%d.example", i), fmt.Sprint("witness", i))
		w.At = time.Unix(1790000000, 0)
		witnesses, keys = append(witnesses, w), append(keys, w.String())
	}
	policy, err := tlog.NewPolicy(l.Key.String(), keys, 3)
	if err != nil {
		return nil, err
	}
	proof := l.Proof(4000, 0, witnesses[:3]...)
	if _, _, err := policy.Verify(l.Entries[4000], proof); err != nil {
		return nil, err
	}
	proving := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if _, _, err := policy.Verify(l.Entries[4000], proof); err != nil {
				b.Fatal(err)
			}
		}
	})
	var signatures int
	failed := errors.New("the publisher made no repository")
	whole := testing.Benchmark(func(b *testing.B) {
		p := publishtest.New(b, publishtest.Options{Witnesses: 5, Quorum: 3})
		p.AddRelease("pc", 1, "v1.0.0", []byte("boot"), []byte("root"))
		if signatures, failed = signaturesOf(p.Dir()); failed != nil {
			b.Fatal(failed)
		}
		for i := 0; b.Loop(); i++ {
			if failed = verifyOffline(ctx, p, filepath.Join(dir, fmt.Sprint("trust", i))); failed != nil {
				b.Fatal(failed)
			}
		}
	})
	if proving.N == 0 || whole.N == 0 {
		return nil, fmt.Errorf("verify without a network: %w", failed)
	}
	return []row{
		{
			Measure: "proof that a release is everybody's", Unit: "kB", Ours: float64(signatures+len(proof)) / 1e3, Budget: 4,
			Note: fmt.Sprintf("3 of 5 signatures %d B, log of 5,000 entries with 3 of 5 witnesses %d B", signatures, len(proof)),
		},
		{Measure: "time to verify such a proof", Unit: "ms", Ours: float64(proving.NsPerOp()) / 1e6, Note: "without a network"},
		{
			Measure: "time to verify a repository", Unit: "ms", Ours: float64(whole.NsPerOp()) / 1e6,
			Note: "from a folder, from the first root to a release's description, with an fsync for each step",
		},
	}, nil
}

// signaturesOf is the size of what people signed the list of releases with.
func signaturesOf(repo string) (int, error) {
	names, err := filepath.Glob(filepath.Join(repo, "metadata", "*.targets.json"))
	if err != nil || len(names) == 0 {
		return 0, cmp.Or(err, os.ErrNotExist)
	}
	b, err := os.ReadFile(names[len(names)-1])
	if err != nil {
		return 0, err
	}
	var m struct {
		Signatures []json.RawMessage `json:"signatures"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return 0, err
	}
	if len(m.Signatures) != 3 {
		return 0, fmt.Errorf("%d signatures, not 3", len(m.Signatures))
	}
	n := 0
	for _, s := range m.Signatures {
		n += len(s)
	}
	return n, nil
}

// verifyOffline does what a box does with a repository in a folder that it has never seen.
func verifyOffline(ctx context.Context, p *publishtest.Publisher, dir string) error {
	c, err := trust.Create(dir, trust.Options{Root: p.Root(), NeedLog: true})
	if err != nil {
		return err
	}
	src, err := fetch.OpenDir("folder", "bench", p.Dir())
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := c.Refresh(ctx, src, trust.Clock{Built: time.Now().Add(-time.Hour)}); err != nil {
		return err
	}
	targets := c.Targets()
	if len(targets) != 1 || targets[0].Evidence.Witnesses < 3 {
		return fmt.Errorf("targets %+v", targets)
	}
	b, err := src.Get(ctx, release.TargetFile(targets[0].Path, targets[0].SHA256), release.MaxDescription)
	if err != nil {
		return err
	}
	if err := c.Verify(targets[0].Path, b); err != nil {
		return err
	}
	_, err = release.Parse(b)
	return err
}

// output runs a command in a folder and returns what it prints, trimmed.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	cmd.Dir, cmd.Stderr = dir, &stderr
	b, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(b)), nil
}

func command(ctx context.Context, dir, name string, args ...string) error {
	_, err := output(ctx, dir, name, args...)
	return err
}
