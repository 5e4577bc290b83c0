package core

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/config"
	"github.com/croft-os/croft/services/daemon"
	"github.com/croft-os/croft/services/supervisor/journal"
)

func TestConfig(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	var d api.Config
	got := anna.must(t, "GET", "/config", nil, &d)
	tag := got.Header.Get("ETag")
	if want := (api.ConfigPerson{Name: "Anna", Role: api.RoleOwner}); tag != config.ETag(d) || !slices.Equal(d.People, []api.ConfigPerson{want}) {
		t.Errorf("%+v, tag %s", d, tag)
	}
	if a := anna.with("If-None-Match", tag).do(t, "GET", "/config", nil); a.StatusCode != http.StatusNotModified || len(a.text) > 0 {
		t.Errorf("%d %s", a.StatusCode, a.text)
	}

	want := d
	want.Name, want.TimeZone = "Hut", "Asia/Tokyo"
	var check api.ConfigCheck
	anna.must(t, "POST", "/config/check", want, &check)
	if len(check.Differences) != 2 || len(check.Problems) != 0 {
		t.Errorf("%+v", check)
	}
	mine := anna.with("If-Match", tag)
	for name, tc := range map[string]struct {
		who    *user
		body   any
		status int
		kind   string
	}{
		"without a tag": {anna, want, http.StatusPreconditionRequired, "precondition"},
		"an old tag":    {anna.with("If-Match", `"old"`), want, http.StatusPreconditionFailed, "changed-meanwhile"},
		"a weak tag":    {anna.with("If-Match", "W/"+tag), want, http.StatusPreconditionFailed, "changed-meanwhile"},
		"no JSON":       {mine, "{", http.StatusBadRequest, "not-json"},
		"too deep":      {mine, strings.Repeat("[", 20_000), http.StatusBadRequest, "not-json"},
		"too large":     {mine, strings.Repeat(" ", large+1), http.StatusRequestEntityTooLarge, "too-large"},
		"another":       {mine, `{"format":"croft-config/9"}`, http.StatusUnprocessableEntity, "invalid"},
		"last owner": {
			mine,
			api.Config{Format: api.ConfigFormat, Name: "hut", People: []api.ConfigPerson{{Name: "Anna", Role: api.RoleMember}}},
			http.StatusConflict, "last-owner",
		},
	} {
		if a := tc.who.do(t, "PUT", "/config", tc.body); a.StatusCode != tc.status || a.kind() != tc.kind {
			t.Errorf("%s: %d %s, want %d %s", name, a.StatusCode, a.kind(), tc.status, tc.kind)
		}
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(text), `"name":"Hut"`, `"name":"-","wifi":{}`, 1)
	if a := mine.do(t, "PUT", "/config", bad); len(a.problem.Fields) != 1 || a.problem.Fields[0].Path != "/wifi" {
		t.Errorf("%+v", a.problem)
	}
	anna.must(t, "POST", "/config/check", strings.Replace(bad, `,"wifi":{}`, "", 1), &check)
	if len(check.Problems) != 1 || check.Problems[0].Path != "/name" {
		t.Errorf("%+v", check)
	}

	var r api.ConfigResult
	put := mine.must(t, "PUT", "/config", want, &r)
	if r.Config.Name != "hut" || len(r.Differences) != 2 || r.Trial != nil || put.Header.Get("ETag") != config.ETag(r.Config) {
		t.Errorf("%+v", r)
	}
	for _, what := range []string{`PUT init/v1/name {"name":"hut"}`, `PUT discovery/v1/discovery/name {"name":"hut"}`} {
		if !b.did(what) {
			t.Errorf("not done: %s", what)
		}
	}
	if a := mine.do(t, "PUT", "/config", want); a.kind() != "changed-meanwhile" {
		t.Errorf("%d %s", a.StatusCode, a.kind())
	}
	var changes api.List[api.ConfigChange]
	anna.must(t, "GET", "/config/changes?limit=1", nil, &changes)
	latest := changes.Items[0]
	if len(latest.Differences) != 2 || latest.By != "Anna" || !latest.CanUndo || changes.Next == "" {
		t.Errorf("%+v", changes)
	}
	anna.must(t, "POST", "/config/undo", api.UndoRequest{Change: latest.ID}, &r)
	if config.ETag(r.Config) != tag {
		t.Errorf("%+v", r.Config)
	}
	for change, kind := range map[int64]string{latest.ID: "cannot-undo", 99: "not-found"} {
		if a := anna.do(t, "POST", "/config/undo", api.UndoRequest{Change: change}); a.kind() != kind {
			t.Errorf("undo %d: %d %s", change, a.StatusCode, a.kind())
		}
	}
}

func TestNetworkTrial(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	for _, p := range []string{"/network/keep", "/network/revert"} {
		if a := anna.do(t, "POST", p, nil); a.kind() != "no-trial" {
			t.Errorf("%s: %d %s", p, a.StatusCode, a.kind())
		}
	}
	try := func() (api.Config, api.ConfigResult, answer) {
		var d api.Config
		tag := anna.must(t, "GET", "/config", nil, &d).Header.Get("ETag")
		d.Network.Interfaces = map[string]api.StaticConfig{"eth0": {Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.1.2/24")}}}
		d.Network.NTP = append(d.Network.NTP, "time.example")
		var r api.ConfigResult
		a := anna.with("If-Match", tag).do(t, "PUT", "/config", d)
		if a.StatusCode == http.StatusOK {
			a.into(t, &r)
		}
		return d, r, a
	}
	_, r, _ := try()
	if r.Trial == nil || len(r.Differences) != 2 || len(r.Config.Network.NTP) != 0 {
		t.Errorf("%+v", r)
	}
	var n api.Network
	if anna.must(t, "GET", "/network", nil, &n); n.Trial == nil || len(n.Config.NTP) != 0 {
		t.Errorf("%+v", n)
	}
	if _, _, a := try(); a.kind() != "trial-running" {
		t.Errorf("%d %s", a.StatusCode, a.kind())
	}
	anna.must(t, "POST", "/network/revert", nil, nil)
	want, _, _ := try()
	anna.must(t, "POST", "/network/keep", nil, nil)
	var d api.Config
	if anna.must(t, "GET", "/config", nil, &d); config.ETag(d) != config.ETag(want) {
		t.Errorf("%+v", d.Network)
	}
	b.stop()
	again := startIn(t, b.dir)
	v := *anna
	v.b = again
	if v.must(t, "GET", "/config", nil, &d); config.ETag(d) != config.ETag(want) {
		t.Errorf("after a restart %+v", d.Network)
	}
	// A network service that has forgotten is told again.
	eventually(t, "the network service is told", func() bool { return again.did("PUT network/v1/network/config") })
}

func TestAlerts(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	ben := anna.joined(t, "Ben", api.RoleMember, "192.168.1.8")
	b.set(func(f *fakes) {
		sys := *f.system
		sys.Vitals.Data = &api.Disk{Size: 100 << 30, Free: 50 << 30, ReadOnly: true}
		sys.Services = slices.Clone(sys.Services)
		sys.Services[0].State = api.StateCrashing
		f.system = &sys
	})
	var box api.Box
	eventually(t, "two alerts", func() bool {
		anna.must(t, "GET", "/box", nil, &box)
		return len(box.Alerts) == 2
	})
	var theirs api.Box
	if ben.must(t, "GET", "/box", nil, &theirs); len(theirs.Alerts) != 0 {
		t.Errorf("a member sees %+v", theirs.Alerts)
	}
	var list, rest api.List[api.Alert]
	anna.must(t, "GET", "/alerts?limit=1", nil, &list)
	anna.must(t, "GET", "/alerts?after="+list.Next, nil, &rest)
	all := append(list.Items, rest.Items...)
	if len(all) != 2 || all[0].ID == all[1].ID || rest.Next != "" {
		t.Fatalf("%+v", all)
	}
	for _, a := range all {
		anna.must(t, "POST", "/alerts/"+strconv.FormatInt(a.ID, 10)+"/seen", nil, nil)
	}
	if anna.must(t, "GET", "/alerts", nil, &list); len(list.Items) != 0 {
		t.Errorf("%+v", list.Items)
	}
	if a := anna.do(t, "POST", "/alerts/"+strconv.FormatInt(all[0].ID, 10)+"/seen", nil); a.StatusCode != http.StatusNotFound {
		t.Error(a.Status)
	}
	var audit api.List[api.AuditEntry]
	anna.must(t, "GET", "/audit?limit=2", nil, &audit)
	var seen []string
	for _, e := range audit.Items {
		seen = append(seen, e.Action+" "+e.Target+" "+e.Args["target"])
	}
	slices.Sort(seen)
	if want := []string{"alert-seen crash-loop gateway", "alert-seen disk-read-only "}; !slices.Equal(seen, want) {
		t.Errorf("%q", seen)
	}
}

func TestHistory(t *testing.T) {
	b := start(t)
	b.set(func(f *fakes) { f.vitals = &api.Vitals{MemTotal: 1000, MemAvailable: 400} })
	anna := b.owned(t)
	b.stop() // which writes what was measured
	b = startIn(t, b.dir)
	v := *anna
	v.b = b
	measured := func(rng string) bool {
		var h api.History
		v.must(t, "GET", "/history?range="+rng, nil, &h)
		for _, s := range h.Series {
			if s.Name == api.SeriesMemory {
				p := s.Points[len(s.Points)-1]
				return p != nil && p.Mean == 600
			}
		}
		return false
	}
	if !measured(api.Range24h) || !measured(api.Range30d) {
		t.Error("nothing was measured, or it was forgotten")
	}
	for _, q := range []string{"", "?range=1y", "?range="} {
		if a := v.do(t, "GET", "/history"+q, nil); a.kind() != "invalid" {
			t.Errorf("%q: %d %s", q, a.StatusCode, a.kind())
		}
	}
}

// journalHandler answers as init does, from a real journal.
func journalHandler(j *journal.Journal) http.Handler {
	line := func(e *journal.Entry) api.LogLine {
		return api.LogLine{
			ID: e.ID(), Time: e.Time, Boot: e.Boot, Service: e.Service, Level: strings.ToLower(e.Level.String()),
			Text: e.Msg, Fields: e.Fields,
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		f := journal.Filter{Service: q.Get("service"), Level: slog.LevelDebug, Text: q.Get("q")}
		if l := q.Get("level"); l != "" {
			f.Level.UnmarshalText([]byte(l))
		}
		if r.URL.Path == "/v1/logs" {
			limit, _ := strconv.Atoi(q.Get("limit"))
			p, err := j.Query(r.Context(), f, q.Get("after"), limit)
			if err != nil {
				daemon.WriteJSON(w, http.StatusBadRequest, api.Problem{Title: err.Error()})
				return
			}
			list := api.List[api.LogLine]{Items: []api.LogLine{}, Next: p.Next}
			for i := range p.Entries {
				list.Items = append(list.Items, line(&p.Entries[i]))
			}
			daemon.WriteJSON(w, http.StatusOK, list)
			return
		}
		lines, stop, err := j.Follow(f)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer stop()
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, ": here\n\n")
		http.NewResponseController(w).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case e := <-lines:
				b, _ := json.Marshal(line(&e))
				fmt.Fprintf(w, "event: line\nid: %s\ndata: %s\n\n", e.ID(), b)
				http.NewResponseController(w).Flush()
			}
		}
	})
}

func TestLogs(t *testing.T) {
	b := start(t)
	j := journal.New()
	b.set(func(f *fakes) { f.logs = journalHandler(j) })
	anna := b.owned(t)
	log := slog.New(slog.NewJSONHandler(j.Writer("gateway"), nil))
	for i := range 5 {
		log.Info("request", "n", i)
	}
	log.Warn("certificate", "name", "<script>")
	slog.New(slog.NewJSONHandler(j.Writer("core"), nil)).Info("signed in")
	texts := func(query string) (out []string, next string) {
		var list api.List[api.LogLine]
		anna.must(t, "GET", "/logs?"+query, nil, &list)
		for _, l := range list.Items {
			out = append(out, l.Service+" "+l.Level+" "+l.Text)
		}
		return out, list.Next
	}
	if got, _ := texts(""); len(got) != 7 || got[0] != "core info signed in" {
		t.Errorf("%q", got)
	}
	if got, _ := texts("service=gateway&level=warn&q=SCRIPT"); !slices.Equal(got, []string{"gateway warn certificate"}) {
		t.Errorf("%q", got)
	}
	first, next := texts("service=gateway&limit=4")
	second, _ := texts("service=gateway&limit=4&after=" + next)
	if len(first) != 4 || len(second) != 2 {
		t.Errorf("%q, then %q", first, second)
	}
	for _, q := range []string{"level=loud", "limit=0", "limit=x", "after=nowhere", "q=" + strings.Repeat("x", 201)} {
		for _, p := range []string{"/logs", "/logs/stream"} {
			if p == "/logs/stream" && !strings.HasPrefix(q, "level") && !strings.HasPrefix(q, "q=") {
				continue
			}
			if a := anna.do(t, "GET", p+"?"+q, nil); a.kind() != "invalid" {
				t.Errorf("%s?%s: %d %s", p, q, a.StatusCode, a.kind())
			}
		}
	}
	live := anna.events(t, "/logs/stream?service=gateway&level=warn")
	live(":") // the stream has begun; that init has may be a moment later
	go func() {
		for t.Context().Err() == nil {
			log.Info("not this one")
			log.Warn("live", "n", 7)
			time.Sleep(50 * time.Millisecond)
		}
	}()
	live("event: line")
	var l api.LogLine
	if text := strings.TrimPrefix(live("data: "), "data: "); json.Unmarshal([]byte(text), &l) != nil || l.Text != "live" || l.Level != "warn" || string(l.Fields) != `{"n":7}` {
		t.Errorf("%q", text)
	}
	b.set(func(f *fakes) { f.logs = http.NotFoundHandler() })
	for _, p := range []string{"/logs", "/logs/stream"} {
		if a := anna.do(t, "GET", p, nil); a.kind() != "starting" {
			t.Errorf("%s: %d %s", p, a.StatusCode, a.kind())
		}
	}
}

// TestDiagnosis makes every secret that there is, and looks for each in the bundle.
func TestDiagnosis(t *testing.T) {
	b := start(t)
	j := journal.New()
	b.set(func(f *fakes) {
		f.logs = journalHandler(j)
		f.vitals = &api.Vitals{MemTotal: 1000, MemAvailable: 400}
		f.recovery = api.Recovery{Code: recoveryCode, Source: "file"}
		sys := *f.system
		sys.ID = "box-id-canary"
		f.system = &sys
		f.network = &api.Network{Interfaces: []api.Interface{{Name: "eth0", MAC: "b8:27:eb:12:34:56", Addresses: []netip.Prefix{}}}, DNS: []netip.Addr{}}
	})
	anna := b.owned(t)
	ben := anna.joined(t, "Benedikta", api.RoleMember, "192.168.1.8")
	anna.joined(t, "Zacharias", api.RoleMember, "192.168.1.9")
	var people api.List[api.Person]
	anna.must(t, "GET", "/people", nil, &people)
	gone := slices.IndexFunc(people.Items, func(p api.Person) bool { return p.Name == "Zacharias" })
	anna.must(t, "DELETE", "/people/"+people.Items[gone].ID, nil, nil) // only the audit log knows them
	var f api.NewSecondFactor
	anna.must(t, "POST", "/me/second-factor", api.PasswordRequest{Password: goodPassword}, &f)
	var codes api.RecoveryCodes
	anna.must(t, "PUT", "/me/second-factor", api.SecondFactorCode{Code: otp(t, f.Secret, time.Now())}, &codes)
	var token api.Token
	anna.must(t, "POST", "/me/tokens", api.TokenRequest{Name: "backup", Scopes: []string{api.ScopeLogs}, Days: 1}, &token)
	var invite api.Invite
	anna.must(t, "POST", "/invites", api.InviteRequest{Role: api.RoleMember, Hours: 1}, &invite)
	var d api.Config
	tag := anna.must(t, "GET", "/config", nil, &d).Header.Get("ETag")
	d.People = append(d.People, api.ConfigPerson{Name: "Cleopatra", Role: api.RoleMember})
	anna.with("If-Match", tag).must(t, "PUT", "/config", d, nil)

	secrets := append([]string{
		goodCode, strings.ReplaceAll(goodCode, "-", ""), goodPassword, recoveryCode, f.Secret, token.Secret, invite.Code,
		cookieValue(anna), cookieValue(ben), "Anna", "Benedikta", "Zacharias", "Cleopatra", "12:34:56", "box-id-canary", "$argon2",
	}, codes.Codes...)
	log := slog.New(slog.NewJSONHandler(j.Writer("core"), nil))
	log.Info("nobody should log this", "token", token.Secret, "invite", invite.Code, "claim", goodCode, "uri", f.URI)
	log.Info("hello Benedikta", "mac", "b8:27:eb:12:34:56")
	for i := range 3000 { // more than fits
		log.Info(fmt.Sprintf("line %d %x", i, strings.Repeat("\x01\xfe", i%400)))
	}
	a := anna.must(t, "GET", "/diagnosis", nil, nil)
	z, err := zip.NewReader(bytes.NewReader(a.text), int64(len(a.text)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	total := 0
	for _, file := range z.File {
		names = append(names, file.Name)
		r, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		total += len(text)
		for _, s := range secrets {
			if s == "" || bytes.Contains(text, []byte(s)) {
				t.Errorf("%s has %q", file.Name, s)
			}
		}
		if strings.HasSuffix(file.Name, ".json") && !json.Valid(text) {
			t.Errorf("%s is no JSON", file.Name)
		}
	}
	for _, name := range []string{
		"README.txt", "system.json", "alerts.json", "network.json", "discovery.json", "config.json", "changes.json",
		"history-24h.json", "history-30d.json", "audit.json", "logs/core.jsonl",
	} {
		if !slices.Contains(names, name) {
			t.Errorf("no %s in %q", name, names)
		}
		if strings.HasSuffix(name, ".json") && !strings.Contains(bundleReadme, name) {
			t.Errorf("README.txt does not name %s", name)
		}
	}
	if total < 50_000 || total > maxBundle {
		t.Errorf("%d bytes", total)
	}
	t.Logf("%d bytes of files, %d packed", total, len(a.text))
	if out := b.log.String(); strings.Contains(out, token.Secret) || strings.Contains(out, goodPassword) {
		t.Error("core's own log has secrets")
	}
	// A script may take one too.
	script := anna.tokened(t, api.ScopeLogs)
	script.must(t, "GET", "/diagnosis", nil, nil)
	var audit api.List[api.AuditEntry]
	anna.must(t, "GET", "/audit?limit=1", nil, &audit)
	if audit.Items[0].Action != "diagnosis-taken" {
		t.Errorf("%+v", audit.Items)
	}
}

func cookieValue(u *user) string {
	_, v, _ := strings.Cut(u.cookie, "=")
	return v
}
