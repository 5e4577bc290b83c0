package core

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/services/fetcher"
)

func offered() *api.Updates {
	seen := time.Now().Add(-50 * time.Hour)
	return &api.Updates{
		Version: "v1", Number: 1, State: api.UpdateIdle, Sources: []api.UpdateSource{{Kind: "mirror", Name: "https://a.example", Version: "v2"}},
		Offer: &api.UpdateOffer{
			Version: "v2", Number: 2, Channel: "stable", Built: time.Now(), Notes: map[string]string{"en": "New."}, Download: 300_000, Source: "mirror",
			Evidence: api.UpdateEvidence{Signers: 3, Of: 5, Logged: true, Witnesses: 3, Seen: &seen},
		},
		Previous: &api.UpdatePrevious{Version: "v0"},
		Trust:    api.UpdateTrust{Builtin: true, Project: &api.TrustRoot{Name: "Croft", Fingerprint: strings.Repeat("ab", 32), Expires: time.Now()}},
	}
}

// While the updater does not answer, that is what the API says, and the rest of the box is told as before.
func TestUpdaterAway(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	for _, ask := range [][3]string{
		{"GET", "/updates"},
		{"GET", "/updates/history"},
		{"POST", "/updates/action", `{"action":"check"}`},
		{"PUT", "/updates/trust", `{"role":"project","action":"builtin","password":"` + goodPassword + `"}`},
		{"DELETE", "/updates/file"},
	} {
		var body any
		if ask[2] != "" {
			body = ask[2]
		}
		if a := anna.do(t, ask[0], ask[1], body); a.kind() != "updater-away" || a.Header.Get("Retry-After") == "" {
			t.Errorf("%v: %d %s", ask, a.StatusCode, a.text)
		}
	}
	if a := anna.with("Content-Type", "application/zip").do(t, "PUT", "/updates/file", "PK"); a.kind() != "updater-away" {
		t.Errorf("upload: %d %s", a.StatusCode, a.text)
	}
	var box api.Box
	anna.must(t, "GET", "/box", nil, &box)
	if box.Updates != nil {
		t.Errorf("%+v", box.Updates)
	}
}

func TestUpdates(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	ben := anna.joined(t, "Ben", api.RoleMember, "192.168.1.8")
	b.set(func(f *fakes) {
		f.updates = offered()
		f.updates.State, f.updates.Progress = api.UpdateDownloading, &api.UpdateProgress{Done: 1, Total: 2, Source: "neighbour", Cancel: true}
		for i := range 60 {
			f.attempts = append(f.attempts, api.UpdateAttempt{ID: fmt.Sprint(i), Version: "v9", Began: time.Unix(int64(100_000-i), 0)})
		}
	})
	var u api.Updates
	anna.must(t, "GET", "/updates", nil, &u)
	if u.Offer == nil || u.Offer.Evidence.Witnesses != 3 || u.Trust.Project == nil {
		t.Errorf("the owner sees %+v", u)
	}
	u = api.Updates{}
	ben.must(t, "GET", "/updates", nil, &u)
	if u.Version != "v1" || u.State != api.UpdateDownloading || u.Progress == nil || u.Progress.Source != "" || u.Offer != nil || u.Trust.Project != nil ||
		len(u.Sources) > 0 || u.Previous != nil {
		t.Errorf("a member sees %+v", u)
	}
	var box api.Box
	eventually(t, "the box tells of updates", func() bool { anna.must(t, "GET", "/box", nil, &box); return box.Updates != nil })
	if box.Updates.Offer == nil {
		t.Errorf("the owner's box has %+v", box.Updates)
	}
	box = api.Box{}
	if ben.must(t, "GET", "/box", nil, &box); box.Updates == nil || box.Updates.Offer != nil {
		t.Errorf("the member's box has %+v", box.Updates)
	}
	if event := anna.events(t, "/events")("data:"); !strings.Contains(event, `"version":"v2"`) {
		t.Errorf("the stream says %s", event)
	}
	var all []string
	for after := ""; ; {
		var l api.List[api.UpdateAttempt]
		anna.must(t, "GET", "/updates/history?limit=25"+after, nil, &l)
		for _, x := range l.Items {
			all = append(all, x.ID)
		}
		if l.Next == "" {
			break
		}
		after = "&after=" + l.Next
	}
	if len(all) != 60 || all[0] != "0" || all[59] != "59" {
		t.Errorf("history: %v", all)
	}
}

func TestUpdateActions(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	script := anna.tokened(t, api.ScopeControl)
	b.set(func(f *fakes) { f.updates = offered() })
	for _, tt := range []struct {
		body, want, told, audit string
	}{
		{`{"action":"check"}`, "", `{"action":"check","by":"Anna"}`, ""},
		{`{"action":"install","number":2,"by":"Eve"}`, "", `{"action":"install","number":2,"by":"Anna"}`, "update-install v2"},
		{`{"action":"tonight","number":2}`, "", `{"action":"tonight","number":2,"by":"Anna"}`, "update-tonight v2"},
		{`{"action":"cancel"}`, "", `{"action":"cancel","by":"Anna"}`, "update-cancel "},
		{`{"action":"restart"}`, "", `{"action":"restart","by":"Anna"}`, "update-restart "},
		{`{"action":"back"}`, "", `{"action":"back","by":"Anna"}`, "update-undo v0"},
		{`{"action":"install","number":3}`, "wrong-release", "", ""},
		{`{"action":"install"}`, "wrong-release", "", ""},
		{`{"action":"explode"}`, "action", "", ""},
		{`{"action":"install","number":"2"}`, "invalid", "", ""},
		{`{"force":true,"action":"install","number":2}`, "invalid", "", ""},
	} {
		b.set(func(f *fakes) { f.acted = nil })
		a := script.do(t, "POST", "/updates/action", tt.body)
		if a.kind() != tt.want || tt.want == "" && a.StatusCode != 202 {
			t.Errorf("%s: %d %s", tt.body, a.StatusCode, a.text)
		}
		if told := b.did("POST updater/v1/action"); told != (tt.told != "") || told && !b.did("POST updater/v1/action "+tt.told) {
			t.Errorf("%s: told %q", tt.body, b.acted)
		}
		var log api.List[api.AuditEntry]
		if tt.audit != "" {
			anna.must(t, "GET", "/audit?limit=1", nil, &log)
			if e := log.Items[0]; e.Action+" "+e.Target != tt.audit || e.Who != "Anna" {
				t.Errorf("%s: recorded %+v", tt.body, e)
			}
		}
	}
	for cause, want := range map[string]string{"busy": "busy", "not-newer": "wrong-release", "disk-full": "no-room", "strange": "refused", "": "refused"} {
		b.set(func(f *fakes) {
			f.no, f.noStatus = api.Problem{Type: "/problems/" + cause, Title: "No.", Status: 409}, 409
		})
		if a := anna.do(t, "POST", "/updates/action", api.UpdateAction{Action: "restart"}); a.kind() != want {
			t.Errorf("refused with %q: %d %s", cause, a.StatusCode, a.text)
		}
	}
	b.set(func(f *fakes) { f.no, f.updates.Offer, f.updates.Previous = nil, nil, nil })
	for _, a := range []api.UpdateAction{{Action: "install", Number: 2}, {Action: "install"}, {Action: "back"}} {
		if got := anna.do(t, "POST", "/updates/action", a); got.StatusCode != 409 {
			t.Errorf("%+v of nothing: %d %s", a, got.StatusCode, got.text)
		}
	}
}

// Whom the box follows is changed in person: with the password, at a person's pace, and by a fingerprint that fits.
func TestUpdateTrust(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	b.set(func(f *fakes) { f.updates = offered() })
	root := `{"signed":{}}`
	sum := fmt.Sprintf("%X", sha256.Sum256([]byte(root)))
	spaced := sum[:32] + " " + sum[32:40] + ":" + sum[40:]
	good := api.TrustRequest{Password: goodPassword, Role: "project", Action: "set", Name: " The fork ", Fingerprint: spaced, Root: root}
	with := func(change func(*api.TrustRequest)) api.TrustRequest { r := good; change(&r); return r }
	for name, tt := range map[string]struct {
		req  api.TrustRequest
		want string
	}{
		"role":           {with(func(r *api.TrustRequest) { r.Role = "king" }), "/role choice"},
		"action":         {with(func(r *api.TrustRequest) { r.Action = "remove" }), "/action choice"},
		"builtin":        {with(func(r *api.TrustRequest) { r.Role, r.Action = "auditor", "builtin" }), "/action choice"},
		"no name":        {with(func(r *api.TrustRequest) { r.Name = " " }), "/name missing"},
		"odd name":       {with(func(r *api.TrustRequest) { r.Name = "a\u0007b" }), "/name format"},
		"long name":      {with(func(r *api.TrustRequest) { r.Name = strings.Repeat("x", 61) }), "/name too-long"},
		"no fingerprint": {with(func(r *api.TrustRequest) { r.Fingerprint = "" }), "/fingerprint missing"},
		"short":          {with(func(r *api.TrustRequest) { r.Fingerprint = sum[:62] }), "/fingerprint format"},
		"other root":     {with(func(r *api.TrustRequest) { r.Root += " " }), "/fingerprint fingerprint"},
	} {
		a := anna.do(t, "PUT", "/updates/trust", tt.req)
		if a.kind() != "invalid" || len(a.problem.Fields) != 1 || a.problem.Fields[0].Path+" "+a.problem.Fields[0].Code != tt.want {
			t.Errorf("%s: %d %s, want %s", name, a.StatusCode, a.text, tt.want)
		}
	}
	if a := anna.do(t, "PUT", "/updates/trust", with(func(r *api.TrustRequest) { r.Password = "wrong" })); a.kind() != "wrong-password" {
		t.Errorf("a wrong password: %d %s", a.StatusCode, a.text)
	}
	if b.did("PUT updater/v1/trust") {
		t.Fatalf("the updater was told: %q", b.acted)
	}
	if a := anna.tokened(t, api.Scopes()...).do(t, "PUT", "/updates/trust", good); a.kind() != "forbidden" {
		t.Errorf("a token: %d %s", a.StatusCode, a.text)
	}
	b.set(func(f *fakes) {
		f.no, f.noStatus = api.Problem{Type: "/problems/wrong-phrase", Title: "No.", Status: 422}, 422
	})
	if a := anna.do(t, "PUT", "/updates/trust", good); a.kind() != "invalid" || a.problem.Fields[0].Path != "/fingerprint" {
		t.Errorf("a root that the updater finds wrong: %d %s", a.StatusCode, a.text)
	}
	b.set(func(f *fakes) { f.no = api.Problem{Type: "/problems/bad-metadata", Title: "No.", Status: 422} })
	if a := anna.do(t, "PUT", "/updates/trust", good); a.kind() != "invalid" || a.problem.Fields[0].Path != "/root" {
		t.Errorf("a root that is none: %d %s", a.StatusCode, a.text)
	}
	b.set(func(f *fakes) { f.no = nil })
	anna.must(t, "PUT", "/updates/trust", good, nil)
	want := fmt.Sprintf(`PUT updater/v1/trust {"role":"project","action":"set","name":"The fork","fingerprint":%q,"root":%q,"by":"Anna"}`, strings.ToLower(sum), root)
	if !b.did(want) {
		t.Errorf("told %q, want %q", b.acted, want)
	}
	anna.must(t, "PUT", "/updates/trust", api.TrustRequest{Password: goodPassword, Role: "auditor", Action: "remove", Name: "x", Root: "x"}, nil)
	if !b.did(`PUT updater/v1/trust {"role":"auditor","action":"remove","by":"Anna"}`) {
		t.Errorf("told %q", b.acted)
	}
	var log api.List[api.AuditEntry]
	anna.must(t, "GET", "/audit?limit=2", nil, &log)
	if e := log.Items[1]; e.Action != "update-trust" || e.Target != "The fork" || e.Args["fingerprint"] != strings.ToLower(sum) || e.Who != "Anna" {
		t.Errorf("recorded %+v", e)
	}
	for i := range 6 {
		a := anna.do(t, "PUT", "/updates/trust", with(func(r *api.TrustRequest) { r.Password = "wrong" }))
		if want := map[bool]string{false: "wrong-password", true: "too-many-tries"}[i >= 5]; a.kind() != want {
			t.Errorf("try %d: %d %s, want %s", i, a.StatusCode, a.text, want)
		}
	}
}

// A file goes through core as it arrives.
func TestUpdateFile(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	b.set(func(f *fakes) { f.updates = offered() })
	zip := func(u *user) *user { return u.with("Content-Type", "application/zip") }
	send := func(u *user, length int64, body io.Reader) (int, string) {
		t.Helper()
		req, err := http.NewRequest("PUT", "http://croft.local/api/v1/updates/file?name=..%2Fa%0Ab.zip", body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		req.Header.Set("Content-Type", "application/zip")
		req.Header.Set("Cookie", u.cookie)
		req.Header.Set("X-Forwarded-For", u.place)
		resp, err := b.raw.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	const much = 64 << 20
	if status, text := send(anna, much, io.LimitReader(zeros{}, much)); status != 204 {
		t.Fatalf("%d %s", status, text)
	}
	if !b.did("PUT fetcher/v1/upload?name=ab.zip") || !b.did(`POST updater/v1/action {"action":"check","by":"Anna"}`) {
		t.Errorf("told %q", b.acted)
	}
	var log api.List[api.AuditEntry]
	if anna.must(t, "GET", "/audit?limit=1", nil, &log); log.Items[0].Action != "update-file" || log.Items[0].Target != "ab.zip" {
		t.Errorf("recorded %+v", log.Items)
	}
	if status, text := send(anna, 401<<20, io.LimitReader(zeros{}, 401<<20)); status != 413 && status != 0 {
		t.Errorf("a file that says that it is too large: %d %s", status, text)
	}
	if a := anna.do(t, "PUT", "/updates/file", "{}"); a.StatusCode != 415 {
		t.Errorf("no ZIP file: %d %s", a.StatusCode, a.text)
	}
	for cause, want := range map[string]string{"bad-file": "bad-file", "wrong-board": "wrong-board", "disk-full": "no-room", "too-large": "too-large", "busy": "busy"} {
		b.set(func(f *fakes) { f.no, f.noStatus = fetcher.Problem{Cause: cause, Error: "no"}, 422 })
		if a := zip(anna).do(t, "PUT", "/updates/file", "PK"); a.kind() != want {
			t.Errorf("%s: %d %s", cause, a.StatusCode, a.text)
		}
	}
	b.set(func(f *fakes) { f.no = nil })

	// One at a time, and one that breaks off makes room for the next.
	r, w := io.Pipe()
	first := make(chan int, 1)
	go func() { status, _ := send(anna, -1, r); first <- status }()
	w.Write(make([]byte, 1000))
	eventually(t, "the first arrives", func() (yes bool) { b.set(func(f *fakes) { yes = f.arriving }); return yes })
	if a := zip(anna).do(t, "PUT", "/updates/file", "PK"); a.kind() != "busy" {
		t.Errorf("two at once: %d %s", a.StatusCode, a.text)
	}
	w.CloseWithError(io.ErrUnexpectedEOF)
	if status := <-first; status == 204 {
		t.Error("half a file was taken for a whole one")
	}
	eventually(t, "there is room for the next", func() bool { return zip(anna).do(t, "PUT", "/updates/file", "PK").StatusCode == 204 })
	anna.must(t, "DELETE", "/updates/file", nil, nil)
	if !b.did("DELETE fetcher/v1/upload") {
		t.Errorf("told %q", b.acted)
	}
	// A stranger gets nowhere, however much they send.
	if status, _ := send(b.stranger(), much, io.LimitReader(zeros{}, much)); status != 401 && status != 0 {
		t.Errorf("a stranger: %d", status)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// How attempts ended is recorded once each, also those that ended while core was away.
func TestAttemptsAreRecorded(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	recorded := func(anna *user) (got []string) {
		var log api.List[api.AuditEntry]
		anna.must(t, "GET", "/audit", nil, &log)
		for _, e := range log.Items {
			if strings.HasPrefix(e.Action, "update-") {
				got = append(got, strings.Join([]string{e.Action, e.Target, e.Args["from"], e.Args["cause"], e.Args["by"]}, " "))
			}
		}
		slices.Reverse(got)
		return got
	}
	ended := time.Now()
	attempt := func(id, outcome, cause string) api.UpdateAttempt {
		return api.UpdateAttempt{ID: id, Version: "v" + id, From: "v0", Began: ended.Add(-time.Hour), Ended: &ended, Outcome: outcome, Cause: cause}
	}
	tell := func(b *box, all ...api.UpdateAttempt) {
		b.set(func(f *fakes) {
			f.updates, f.attempts = offered(), all
			f.updates.Last = &all[0]
		})
	}
	one := attempt("1", api.UpdateKept, "")
	one.By = "Anna"
	tell(b, one)
	eventually(t, "the first", func() bool { anna.must(t, "GET", "/box", nil, nil); return len(recorded(anna)) == 1 })
	lasts := attempt("4", "", "")
	lasts.Ended = nil
	tell(b, lasts, attempt("3", api.UpdateCancelled, ""), attempt("2", api.UpdateBack, "page"), one)
	time.Sleep(2 * freshFor)
	anna.must(t, "GET", "/box", nil, nil)
	tell(b, attempt("4", api.UpdateFailed, "medium"), attempt("3", api.UpdateCancelled, ""), attempt("2", api.UpdateBack, "page"), one)
	b.stop()

	b = startIn(t, b.dir)
	anna.b = b
	tell(b, attempt("4", api.UpdateFailed, "medium"), attempt("3", api.UpdateCancelled, ""), attempt("2", api.UpdateBack, "page"), one)
	want := []string{"update-kept v1 v0  Anna", "update-back v2 v0 page ", "update-failed v4 v0 medium "}
	eventually(t, "all", func() bool { anna.must(t, "GET", "/box", nil, nil); return len(recorded(anna)) >= 3 })
	time.Sleep(2 * freshFor)
	anna.must(t, "GET", "/box", nil, nil)
	if got := recorded(anna); !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
}
