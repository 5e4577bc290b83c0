package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/supervisor/journal"
	"golang.org/x/sys/unix"
)

func testBox() *Box {
	b := newBox(Config{})
	b.log, b.journal = slog.New(slog.DiscardHandler), journal.New()
	b.consoles = func() []string { return nil }
	return b
}

func TestPhase(t *testing.T) {
	b := testBox()
	b.log = nil
	b.phase("good", "Good", func() (string, error) { return "note", nil })
	b.phase("bad", "Bad", func() (string, error) { return "", errors.New("no such thing") })
	b.phase("worse", "Worse", func() (string, error) { panic("out of luck") })
	for i, want := range []struct{ name, note, err string }{
		{"good", "note", ""}, {"bad", "", "no such thing"}, {"worse", "", "panic: out of luck"},
	} {
		p := b.phases[i]
		if p.Name != want.name || p.Note != want.note || p.Error != want.err || p.TookMS < 0 {
			t.Errorf("phase %d is %+v, want %+v", i, p, want)
		}
	}
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	if _, err := readIdentity(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no marker: %v", err)
	}
	want := identity{Format: 1, ID: "x", Claim: newClaimCode(), Created: 7}
	if err := writeIdentity(dir, want); err != nil {
		t.Fatal(err)
	}
	if got, err := readIdentity(dir); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if st, _ := os.Stat(filepath.Join(dir, markerFile)); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	for name, text := range map[string]string{
		"empty": "", "torn": `{"format":1,"id":"x`, "newer": `{"format":2,"id":"x"}`, "nobody's": `{"format":1}`,
	} {
		os.WriteFile(filepath.Join(dir, markerFile), []byte(text), 0o600)
		if id, err := readIdentity(dir); err == nil {
			t.Errorf("%s marker was taken: %+v", name, id)
		}
	}
}

func TestClaimCode(t *testing.T) {
	re := regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}$`)
	seen := map[string]bool{}
	for range 1000 {
		c := newClaimCode()
		if !re.MatchString(c) || seen[c] {
			t.Fatalf("code %q", c)
		}
		seen[c] = true
	}
}

func TestClaimText(t *testing.T) {
	for _, tc := range []struct {
		code   string
		rescue bool
		want   string
	}{
		{"ABCD-EFGH", false, "Claim code of this Croft: ABCD-EFGH"},
		{"ABCD-EFGH", true, "Rescue code of this Croft: ABCD-EFGH"},
		{"", false, "no longer valid"},
	} {
		b := claimText(tc.code, strings.Repeat("n", 63), tc.rescue)
		if len(b) != 512 || !strings.Contains(string(b), tc.want) || tc.code != "" && !strings.Contains(string(b), "type in the code.\r\n") {
			t.Errorf("%d bytes: %q", len(b), b)
		}
		if got := codeIn(b); got != tc.code {
			t.Errorf("read back %q, want %q", got, tc.code)
		}
	}
	for _, text := range []string{"", "Croft has not been started from this card", "Claim code of this Croft: ABCD-EFG", "Claim code of this Croft: abcd-efgh\r\n"} {
		if got := codeIn([]byte(text)); got != "" {
			t.Errorf("%q holds the code %q", text, got)
		}
	}
}

func TestParseCmdline(t *testing.T) {
	m := parseCmdline("root=PARTUUID=1-2 ro croft.slot=a\n")
	if m["root"] != "PARTUUID=1-2" || m["croft.slot"] != "a" {
		t.Errorf("%v", m)
	}
	if _, ok := m["ro"]; !ok {
		t.Error("a word without a value is lost")
	}
}

func TestRender(t *testing.T) {
	s := api.System{
		Version: "1.2", Board: api.Board{Model: "Test Board"},
		Phases:   []api.Phase{{Title: "Clock", Error: "no battery"}},
		Services: []api.Service{{Name: "core", Title: "Core", State: api.StateRunning}, {Name: "x", Title: "X", State: api.StateCrashing, LastExit: "exit status 1"}},
	}
	s.Name = "attic"
	v4, v6 := net.ParseIP("192.168.178.100"), net.ParseIP("fd00::1")
	none := api.Recovery{}
	with := func(p api.Phase, status string) api.System {
		s := s
		s.Phases = append(slices.Clone(s.Phases), p)
		s.Services = append(slices.Clone(s.Services), api.Service{Name: "gateway", Title: "Front door", State: api.StateRunning, Status: status})
		return s
	}
	for _, tc := range []struct {
		name  string
		text  string
		want  []string
		never []string
	}{
		{"unclaimed", render(s, "ABCD-EFGH", none, []net.IP{v4, v6}), []string{
			"claim code ABCD-EFGH", "http://192.168.178.100/", "http://[fd00::1]/", "█", "Clock: no battery", "Running: Core", "X: crashing (exit status 1)",
		}, []string{"RESCUE", "recover"}},
		{"claimed", render(s, "", none, []net.IP{v4}), []string{"http://192.168.178.100/"}, []string{"claim code", "█"}},
		{"no network", render(s, "ABCD-EFGH", none, nil), []string{"No network yet", "ABCD-EFGH", "attic"}, []string{"█"}},
		{"rescue", render(api.System{Rescue: &api.Rescue{Text: "Broken.", Detail: "EIO"}}, "ABCD-EFGH", none, []net.IP{v4}), []string{
			"RESCUE MODE: Broken.", "EIO", "rescue code ABCD-EFGH",
		}, []string{"claim code"}},
		{"recovery by switching", render(s, "", api.Recovery{Code: "WXYZ-0123", Source: "console"}, []net.IP{v4}), []string{
			"recovery code WXYZ-0123",
		}, []string{"claim code"}},
		{"recovery by file", render(s, "", api.Recovery{Code: "my own", Source: "file"}, []net.IP{v4}), []string{recoveryFile}, []string{"my own"}},
		{"settings", render(with(api.Phase{Name: settingsPhase, Title: "Settings", Note: "taken over: name"}, ""), "", none, nil), []string{
			"Settings: taken over: name",
		}, []string{"ingerprint"}},
		{"fingerprint", render(with(api.Phase{}, "fingerprint AB:CD"), "", none, nil), []string{"fingerprint AB:CD"}, nil},
	} {
		for _, w := range tc.want {
			if !strings.Contains(tc.text, w) {
				t.Errorf("%s: %q is missing in\n%s", tc.name, w, tc.text)
			}
		}
		for _, w := range tc.never {
			if strings.Contains(tc.text, w) {
				t.Errorf("%s: %q is in\n%s", tc.name, w, tc.text)
			}
		}
		for line := range strings.Lines(tc.text) {
			if len([]rune(line)) > screenWidth {
				t.Errorf("%s: too wide: %q", tc.name, line)
			}
		}
	}
}

// TestScreen holds that a box that waits for its owner shows all of it on the smallest screen.
func TestScreen(t *testing.T) {
	s := api.System{Name: "croft", Version: "2026.11.21-1234567", Board: api.Board{Model: "Raspberry Pi 4 Model B Rev 1.5"}}
	for name, title := range map[string]string{
		"network": "Network and time", "discovery": "Found on the LAN", "core": "Accounts and settings", "webui": "Web page", "gateway": "Front door",
	} {
		s.Services = append(s.Services, api.Service{Name: name, Title: title, State: api.StateRunning})
	}
	for i := range s.Services {
		switch s.Services[i].Name {
		case "discovery":
			s.Services[i].Status = "Reached at croft.local."
		case "gateway":
			s.Services[i].Status = "Answers on the LAN. Fingerprint of its own certificate authority: " + strings.TrimSuffix(strings.Repeat("AB:", 32), ":")
		}
	}
	text := render(s, "ABCD-EFGH", api.Recovery{}, []net.IP{net.ParseIP("192.168.178.100"), net.ParseIP("2001:db8::1234:5678")})
	if n := strings.Count(text, "\n"); n > 24 {
		t.Errorf("%d lines and the cursor's:\n%s", n, text)
	}
}

func TestControl(t *testing.T) {
	b := testBox()
	b.ident = identity{ID: "id", Claim: "ABCD-EFGH"}
	h := b.control(context.Background())
	call := func(method, path, body string) (int, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		text, _ := io.ReadAll(w.Body)
		return w.Code, string(text)
	}
	if code, body := call("GET", "/v1/claim", ""); code != 200 || !strings.Contains(body, "ABCD-EFGH") {
		t.Errorf("claim: %d %s", code, body)
	}
	code, body := call("GET", "/v1/system", "")
	var sys api.System
	if err := json.Unmarshal([]byte(body), &sys); err != nil || code != 200 || sys.ID != "id" || sys.Mode != api.ModeNormal {
		t.Errorf("system: %d %s %v", code, body, err)
	}
	for _, tc := range []struct{ path, body string }{
		{"/v1/power", `{"action":"explode"}`},
		{"/v1/power", `rubbish`},
		{"/v1/power", `{"action":"` + strings.Repeat("x", 8192) + `"}`},
		{"/v1/rescue", `{"action":"check"}`},                           // not in rescue mode
		{"/v1/rescue", `{"action":"start-over"}`},                      // no confirmation
		{"/v1/rescue", `{"action":"start-over","confirm":"erase it"}`}, // not the word
		{"/v1/services/core/restart", ``},                              // not started
	} {
		if code, body := call("POST", tc.path, tc.body); code != http.StatusBadRequest {
			t.Errorf("POST %s %.40s: %d %s", tc.path, tc.body, code, body)
		}
	}
	select {
	case a := <-b.end:
		t.Errorf("the box was told to %s", a)
	default:
	}
	if code, _ := call("POST", "/v1/power", `{"action":"reboot"}`); code != http.StatusNoContent {
		t.Errorf("reboot: %d", code)
	}
	if a := <-b.end; a != "reboot" {
		t.Errorf("the box was told to %s", a)
	}
}

// TestRescueActions holds the rules of the rescue page's actions: one at a time, none without a partition.
func TestRescueActions(t *testing.T) {
	b := testBox()
	b.rescue = &api.Rescue{Code: "no-partition"}
	for _, action := range []string{"check", "start-over"} {
		if err := b.act(context.Background(), action); err == nil {
			t.Errorf("%s without a partition", action)
		}
	}
	b.rescue.Busy = "retry"
	if err := b.act(context.Background(), "check"); !errors.Is(err, errBusy) {
		t.Errorf("a second action: %v", err)
	}
	if err := b.act(context.Background(), "cancel"); err == nil {
		t.Error("what can't be cancelled was")
	}
	b.rescue.Busy = ""
	b.finish("reboot")
	if err := b.act(context.Background(), "check"); !errors.Is(err, errBusy) {
		t.Errorf("an action of a box that is being restarted: %v", err)
	}
}

// TestCancelCheck cancels a check of a drive that takes long to read: it is then free for something else.
func TestCancelCheck(t *testing.T) {
	b := testBox()
	ctx, began := make(chan context.Context, 1), make(chan struct{})
	b.rescue = &api.Rescue{Code: "damaged", Detail: "EIO"}
	b.data = &volume{}
	b.runCheck = func(c context.Context) error {
		ctx <- c
		close(began)
		<-c.Done()
		return fmt.Errorf("check: %w", c.Err())
	}
	if err := b.act(context.Background(), "check"); err != nil {
		t.Fatal(err)
	}
	<-began
	if err := b.act(context.Background(), "cancel"); err != nil {
		t.Fatal(err)
	}
	<-(<-ctx).Done()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if r := b.System().Rescue; r.Busy == "" {
			if r.Detail != "EIO" || r.Check != nil {
				t.Errorf("%+v", r)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal("still busy")
		}
	}
}

func TestWriteAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"one", "two"} {
		if err := writeAtomic(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readFile(path); got != text {
			t.Errorf("got %q", got)
		}
	}
	if err := writeAtomic(filepath.Join(path, "x"), nil, 0o600); err == nil {
		t.Error("wrote below a file")
	}
}

// TestStoppedConsole writes to a console that takes nothing, as a screen after Ctrl-S: nobody waits for it for long.
func TestStoppedConsole(t *testing.T) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	var name string
	conn, err := ptmx.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Control(func(fd uintptr) {
		n, e := unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		err = errors.Join(e, unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0))
		name = fmt.Sprint("/dev/pts/", n)
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	b := testBox()
	b.consoles = func() []string { return []string{name, "/nonexistent/tty"} }
	for range 3 {
		b.say(strings.Repeat("Nobody reads this. ", 10_000)) // more than the terminal keeps
	}
	for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left behind", runtime.NumGoroutine()-before)
		}
	}
}

// TestVigil holds for how long a box may be unhealthy, before and after its services have been started.
func TestVigil(t *testing.T) {
	sick := errors.New("service core: crashing")
	v := vigil{}
	for i, tc := range []struct {
		at   time.Duration
		err  error
		want bool
	}{
		{patience, errNotStarted, false}, // a drive that dies takes its time
		{bootPatience - 1, errNotStarted, false},
		{bootPatience, errNotStarted, true},
		{time.Hour, nil, false},
		{time.Hour + patience - 1, sick, false},
		{time.Hour + patience, sick, true},
		{time.Hour + patience + 1, nil, false},
		{time.Hour + 2*patience, sick, false},
	} {
		if got := v.overdue(tc.at, tc.err); got != tc.want {
			t.Errorf("step %d, at %v: %v", i, tc.at, got)
		}
	}
	// Services that have just been started count as healthy for a while, after a slow start too.
	v = vigil{}
	v.overdue(5*time.Minute, errNotStarted)
	for at, want := range map[time.Duration]bool{5*time.Minute + 10*time.Second: false, 5*time.Minute + patience: true} {
		if v.overdue(at, nil); v.settled(at) != want {
			t.Errorf("healthy from 5 min on, at %v: settled %v", at, !want)
		}
	}
	v.stays = true
	if v.overdue(2*time.Hour, nil); v.stays {
		t.Error("a box that was well again would not be restarted")
	}
}

// TestMayRestart counts restarts, and gives up where they don't help or can't be counted.
func TestMayRestart(t *testing.T) {
	b := testBox()
	sick := errors.New("service core: crashing")
	path := filepath.Join(t.TempDir(), "count")
	for n := 1; n <= maxUnhealthyRestarts; n++ {
		if !b.mayRestart(path, sick) || unhealthyRestarts(path) != n {
			t.Errorf("restart %d: count %d", n, unhealthyRestarts(path))
		}
	}
	if b.mayRestart(path, sick) || unhealthyRestarts(path) != maxUnhealthyRestarts {
		t.Error("one restart too many")
	}
	if !b.mayRestart(path, errNotStarted) {
		t.Error("a box without services stays as it is")
	}
	if b.mayRestart(filepath.Join(path, "unwritable"), sick) {
		t.Error("a restart that can't be counted")
	}
	os.Remove(path)
	b.rescue = &api.Rescue{}
	if b.mayRestart(path, sick) || unhealthyRestarts(path) != 0 {
		t.Error("a restart in rescue mode, which may be at work on the data partition")
	}
}
