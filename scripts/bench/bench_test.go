package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	for name, test := range map[string]struct {
		in    row
		value float64
		pass  bool
	}{
		"no budget":      {row{Ours: 5}, 5, true},
		"below ceiling":  {row{Ours: 5, Budget: 6}, 5, true},
		"above ceiling":  {row{Ours: 7, Budget: 6}, 7, false},
		"ratio to floor": {row{Ours: 9, Peer: 10, Budget: 1, AtLeast: true}, 0.9, false},
		"ratio above":    {row{Ours: 12, Peer: 10, Budget: 1, AtLeast: true}, 1.2, true},
		"own ratio":      {row{Ours: 12, Peer: 10, Value: 0.95, Budget: 1, AtLeast: true}, 0.95, false},
	} {
		if got := test.in.judge(); got.Value != test.value || got.Pass != test.pass {
			t.Errorf("%s: value %v, pass %v", name, got.Value, got.Pass)
		}
	}
}

func TestMedians(t *testing.T) {
	if m := median([]float64{3, 1, 2}); m != 2 {
		t.Errorf("median of three: %v", m)
	}
	if m := median([]float64{4, 1, 2, 3}); m != 2.5 {
		t.Errorf("median of four: %v", m)
	}
	if r := ratios([]float64{10, 30, 90}, []float64{10, 10, 10}); r != 3 {
		t.Errorf("ratios: %v", r)
	}
}

func TestRunWritesTableAndReport(t *testing.T) {
	out := t.TempDir()
	for board, size := range map[string]int64{"pc": 10_000_000, "pi": 81_000_000} {
		f, err := os.Create(filepath.Join(out, "croft-"+board+".img.zst"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	var table bytes.Buffer
	err := run(context.Background(), []string{"-only", "size", "-out", out}, &table, io.Discard)
	if !errors.Is(err, errBudget) {
		t.Errorf("a missed budget gave %v", err)
	}
	if s := table.String(); !strings.Contains(s, "at most 60  pass") || !strings.Contains(s, "at most 80  FAIL") {
		t.Errorf("table:\n%s", s)
	}
	b, err := os.ReadFile(filepath.Join(out, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	if err := json.Unmarshal(b, &rows); err != nil || len(rows) != 2 || !rows[0].Pass || rows[1].Pass || rows[1].Ours != 81 {
		t.Errorf("%v: %s", err, b)
	}
	if err := run(context.Background(), []string{"-only", "weight"}, io.Discard, io.Discard); err == nil {
		t.Error("an unknown section was accepted")
	}
	if err := run(context.Background(), []string{"-only", "size", "-out", t.TempDir()}, io.Discard, io.Discard); err == nil {
		t.Error("without images the run passes")
	}
}
