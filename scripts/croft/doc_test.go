package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestAPIDoc runs the examples of docs/api.md, in their order.
func TestAPIDoc(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	b := startBox(t)
	dir := t.TempDir()
	n := 0
	var all strings.Builder
	for block := range strings.SplitSeq(string(text), "\n```sh\n") {
		script, _, ok := strings.Cut(block, "\n```")
		if n++; n == 1 || !ok { // what is before the first one
			continue
		}
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "BOX="+b.secure, "TOKEN="+b.tokens["all"])
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s\n%v: %s", script, err, out)
		}
		all.Write(out)
		t.Logf("%s\n→ %.600s", script, out)
	}
	if n < 7 {
		t.Errorf("only %d examples found", n-1)
	}
	if !strings.Contains(all.String(), `"after":"Europe/Paris"`) {
		t.Error("the examples changed nothing")
	}
}
