package e2e

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/croft-os/croft/scripts/qemu"
)

// TestMakeRun does what "make run" does, twice: the box comes up, an interrupt shuts it down in order, and its state
// survives.
func TestMakeRun(t *testing.T) {
	t.Parallel()
	img := steadied(t, image(t, qemu.PC))
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	// Newer than the source, so that it is not built again.
	if _, err := run(t.Context(), "cp", "--sparse=always", img, filepath.Join(out, "croft-pc.img")); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "run")
	if _, err := run(t.Context(), "go", "build", "-o", program, "../run"); err != nil {
		t.Fatal(err)
	}
	machines <- struct{}{}
	defer func() { <-machines }()
	code := makeRun(t, program, out, "made a new box", regexp.MustCompile(`^Croft is up: (http://127\.0\.0\.1:\d+/) · claim code (\S+)$`))
	if again := makeRun(t, program, out, "kept the box as it was",
		regexp.MustCompile(`^Croft is up: (http://127\.0\.0\.1:\d+/) · claim code (\S+)$`)); again != code {
		t.Errorf("the second time the code is %s, was %s", again, code)
	}
	log, err := os.ReadFile(filepath.Join(out, "run", "console.log"))
	if err != nil || !strings.Contains(string(log), code) {
		t.Errorf("the console's log lacks the code (%v)", err)
	}
}

// makeRun runs the program until it says that the box is up, interrupts it, and returns the code that it told.
func makeRun(t *testing.T, program, out, did string, up *regexp.Regexp) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*pageTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "OUT="+out, "HTTP_PORT=", "HTTPS_PORT=", "FRESH=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said, match []string
	sc := bufio.NewScanner(stdout)
	for sc.Scan() {
		said = append(said, sc.Text())
		m := up.FindStringSubmatch(sc.Text())
		if m == nil {
			continue
		}
		match = m
		checkPage(t, m[1])
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}
	err = cmd.Wait()
	all := strings.Join(said, "\n")
	if match == nil {
		t.Fatalf("it did not come up: %v\n%s\n%s", err, all, stderr.String())
	}
	if err != nil {
		t.Errorf("after the interrupt: %v\n%s", err, stderr.String())
	}
	for _, want := range []string{did, "█▀", "The box is off."} {
		if !strings.Contains(all, want) {
			t.Errorf("it did not say %q:\n%s", want, all)
		}
	}
	return match[2]
}

func checkPage(t *testing.T, url string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Error(err)
		return
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(page), "Croft") {
		t.Errorf("the page: %s, %v", res.Status, err)
	}
}
