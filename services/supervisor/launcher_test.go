package supervisor

import (
	"io"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Somebody who outlives the service holds the pipe of its output.
func TestOutputEndsWithTheProcess(t *testing.T) {
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	p := &child{cmd: exec.Command("/proc/self/exe", "-test.run=^$"), ended: make(chan exit, 1), log: slog.New(slog.DiscardHandler)}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	output := make(chan struct{})
	go func() {
		defer close(output)
		io.Copy(io.Discard, pr)
	}()
	p.wait(output, pr)
	select {
	case <-output:
	case <-time.After(10 * time.Second):
		t.Error("the output is still read")
	}
	if e := <-p.ended; e.code != 0 || e.err != nil {
		t.Errorf("ended with %+v", e)
	}
}
