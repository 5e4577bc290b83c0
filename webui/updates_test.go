package webui

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

// updatesToShow are updates with everything in them.
func updatesToShow(evil string) *api.Updates {
	now := time.Now()
	seen := now.Add(-49 * time.Hour)
	evidence := api.UpdateEvidence{Signers: 3, Of: 5, Logged: true, Witnesses: 3, Seen: &seen, Auditor: "Audit" + evil}
	root := &api.TrustRoot{Name: "Croft" + evil, Fingerprint: strings.Repeat("5e1f", 16) + evil, Threshold: 3, Keys: 5, Witnesses: 3, Expires: now}
	return &api.Updates{
		Version: "v1.3.0" + evil, Number: 16, State: api.UpdateIdle, Checked: &now, Evidence: &evidence, Sharing: true,
		Offer: &api.UpdateOffer{
			Version: "v1.4.0" + evil, Number: 17, Channel: "beta", Download: 4e6, Source: "usb", Stale: true, Tried: 1, Evidence: evidence,
			Notes: map[string]string{"en": "New things." + evil, "de": "Neues." + evil},
		},
		Previous: &api.UpdatePrevious{Version: "v1.2.0" + evil},
		Last: &api.UpdateAttempt{
			ID: "1", Version: "v1.4.0" + evil, From: "v1.3.0" + evil, Began: now, Ended: &now, Outcome: api.UpdateBack, Cause: "service", Service: "x" + evil,
			By: "Ada" + evil, Source: "usb",
		},
		Problem: &api.UpdateProblem{Cause: "stale"},
		Trust:   api.UpdateTrust{Project: root, Auditor: root},
		Sources: []api.UpdateSource{{Kind: "usb", Name: "STICK" + evil, Version: "v1.4.0" + evil, Seen: &now}, {Kind: "mirror", Name: "https://x" + evil, Error: "no" + evil}, {Kind: "usb", Name: "ODD" + evil, Cause: api.StickFileSystem, System: "NTFS" + evil}},
	}
}

// Every state, outcome and cause has its sentences; TestLanguages sees that all languages have them.
func TestUpdateNames(t *testing.T) {
	c := english()
	var keys []string
	for _, cause := range api.UpdateCauses() {
		keys = append(keys, "update-cause."+cause, "update-cause."+cause+".next")
	}
	for _, state := range api.UpdateStates() {
		keys = append(keys, "update-state."+state)
		if state != api.UpdateIdle {
			keys = append(keys, "update-state."+state+".text")
		}
	}
	for _, outcome := range []string{api.UpdateKept, api.UpdateBack, api.UpdateFailed, api.UpdateCancelled} {
		keys = append(keys, "update-outcome."+outcome)
	}
	for _, kind := range []string{"mirror", "neighbour", "usb", "file"} {
		keys = append(keys, "update-source."+kind, "update-place."+kind)
	}
	for _, key := range keys {
		if c[key] == "" {
			t.Errorf("no sentence %q", key)
		}
	}
}

// The evidence is one line that says what is so, and what is not.
func TestEvidence(t *testing.T) {
	seen := time.Now().Add(-49 * time.Hour)
	for _, tt := range []struct {
		e      *api.UpdateEvidence
		en, de string
	}{
		{
			&api.UpdateEvidence{Signers: 3, Of: 5, Logged: true, Witnesses: 3, Seen: &seen},
			"Signed by 3 of 5, publicly logged, seen by 3 independent witnesses, 2 days ago",
			"Unterschrieben von 3 aus 5, öffentlich protokolliert, gesehen von 3 unabhängigen Zeugen, vor 2 Tagen",
		},
		{
			&api.UpdateEvidence{Signers: 2, Of: 3, Logged: true, Witnesses: 1, Auditor: "Audit e.V."},
			"Signed by 2 of 3, publicly logged, seen by 1 independent witness, confirmed by Audit e.V.",
			"Unterschrieben von 2 aus 3, öffentlich protokolliert, gesehen von 1 unabhängigen Zeugen, bestätigt von Audit e.V.",
		},
		{&api.UpdateEvidence{Signers: 1, Of: 1}, "Signed by 1 of 1, not publicly logged", "Unterschrieben von 1 aus 1, nicht öffentlich protokolliert"},
		{&api.UpdateEvidence{}, "Nobody", "Niemand"},
		{nil, "Nobody", "Niemand"},
	} {
		if en, de := english().evidence(tt.e), german().evidence(tt.e); en != tt.en || de != tt.de {
			t.Errorf("%+v: %q and %q", tt.e, en, de)
		}
	}
}

// What is plugged in and can't be read is named with what to do.
func TestUnreadSticks(t *testing.T) {
	for _, tt := range []struct {
		s      api.UpdateSource
		en, de string
	}{
		{api.UpdateSource{Name: "A", Version: "v1"}, "", ""},
		{
			api.UpdateSource{Name: "A", Cause: api.StickFileSystem, System: "NTFS"},
			"The box can't read the stick “A”, which is formatted as NTFS. If there is an update on it, copy it onto a stick that is formatted as exFAT or FAT32.",
			"Die Box kann den Stick „A“ nicht lesen, er ist mit NTFS formatiert. Wenn ein Update darauf ist, kopier es auf einen Stick, der mit exFAT oder FAT32 formatiert ist.",
		},
		{
			api.UpdateSource{Name: "A", Cause: api.StickFileSystem},
			"The box can't read the stick “A”. If there is an update on it, copy it onto a stick that is formatted as exFAT or FAT32.",
			"Die Box kann den Stick „A“ nicht lesen. Wenn ein Update darauf ist, kopier es auf einen Stick, der mit exFAT oder FAT32 formatiert ist.",
		},
		{
			api.UpdateSource{Name: "A", Cause: api.StickDamaged, Error: "input/output error"},
			"The stick “A” can't be read to its end. Copy the update onto it once more, or take another stick.",
			"Der Stick „A“ lässt sich nicht bis zum Ende lesen. Kopier das Update noch einmal darauf, oder nimm einen anderen Stick.",
		},
	} {
		if en, de := english().stick(tt.s), german().stick(tt.s); en != tt.en || de != tt.de {
			t.Errorf("%+v: %q and %q", tt.s, en, de)
		}
	}
}

func TestUpdateForms(t *testing.T) {
	words := url.Values{"mode": {"ask"}, "from": {"01:00:00"}, "to": {"04:30"}, "channel": {"beta"}, "metered": {"yes"}, "mirrors": {"https://a.example \r\nhttps://b.example"}}
	alerts := []api.Alert{{ID: 7, Name: "hot"}, {ID: 9, Name: "update-available", Target: "v1.4.0"}}
	for _, tt := range []struct {
		name, path string
		form       url.Values
		core       string // the operation that it becomes
		answer     any
		body       string // that core got
		status     int
		location   string
		has        string
	}{
		{"check", "/updates/check", url.Values{}, "POST /updates/action", nil, `{"action":"check"}`, 303, "/updates", ""},
		{"install", "/updates/install", url.Values{"number": {"17"}, "when": {"now"}}, "POST /updates/action", nil, `{"action":"install","number":17}`, 303, "/updates", ""},
		{"tonight", "/updates/install", url.Values{"number": {"17"}, "when": {"tonight"}}, "POST /updates/action", nil, `{"action":"tonight","number":17}`, 303, "/updates?done=update-tonight", ""},
		{"later", "/updates/install", url.Values{"number": {"17"}, "when": {"later"}}, "POST /alerts/9/seen", nil, "", 303, "/?done=update-later", ""},
		{"nothing", "/updates/install", url.Values{"number": {"x"}}, "", nil, "", 404, "", ""},
		{"another is offered", "/updates/install", url.Values{"number": {"16"}, "when": {"now"}}, "POST /updates/action", problem(409, "wrong-release"), "", 409, "", "not offered any more"},
		{"cancel", "/updates/cancel", url.Values{}, "POST /updates/action", nil, `{"action":"cancel"}`, 303, "/updates?done=update-cancelled", ""},
		{"restart", "/updates/restart", url.Values{}, "POST /updates/action", nil, `{"action":"restart"}`, 200, "", `data-away="/updates"`},
		{"busy", "/updates/restart", url.Values{}, "POST /updates/action", problem(409, "busy"), "", 409, "", "must not be cut off"},
		{"back", "/updates/back", url.Values{}, "POST /updates/action", nil, `{"action":"back"}`, 200, "", `data-away="/updates"`},
		{"away", "/updates/check", url.Values{}, "POST /updates/action", problem(503, "updater-away"), "", 503, "", "looks after updates does not answer"},
		{
			"policy", "/updates/policy", words, "PUT /config",
			api.ConfigResult{Differences: []api.Difference{{Path: "/updates/mode"}}},
			`"updates":{"mode":"ask","from":"01:00","to":"04:30","channel":"beta","metered":true,"alone":true,"mirrors":["https://a.example","https://b.example"]}`,
			303, "/updates?done=update-policy", "",
		},
		{"a wrong window", "/updates/policy", words, "PUT /config", problem(422, "invalid", field("/updates/to", "time")), "", 422, "", `id="to-problem"`},
		{"a wrong mirror", "/updates/policy", words, "PUT /config", problem(422, "invalid", field("/updates/mirrors/1", "url")), "", 422, "", `id="mirrors-problem"`},
		{"back to what is built in", "/updates/trust/builtin", url.Values{"password": {" pw "}}, "PUT /updates/trust", nil, `{"password":" pw ","role":"project","action":"builtin"}`, 303, "/updates/trust?done=update-trust", ""},
		{"without an auditor", "/updates/trust/alone", url.Values{"password": {"pw"}}, "PUT /updates/trust", problem(403, "wrong-password"), `{"password":"pw","role":"auditor","action":"remove"}`, 403, "", `id="password-problem"`},
		{"a fork", "/updates/trust/project", url.Values{"password": {"pw"}, "name": {"F"}, "fingerprint": {"ab cd"}}, "PUT /updates/trust", nil, `{"password":"pw","role":"project","action":"set","name":"F","fingerprint":"ab cd"}`, 303, "/updates/trust?done=update-trust", ""},
		{"a wrong fingerprint", "/updates/trust/auditor", url.Values{"password": {"pw"}, "name": {"F"}, "fingerprint": {"ab"}}, "PUT /updates/trust", problem(422, "invalid", field("/fingerprint", "fingerprint")), "", 422, "", `id="fingerprint-problem"`},
		{"remove a file", "/updates/file/remove", url.Values{}, "DELETE /updates/file", nil, "", 303, "/updates?done=update-removed", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, srv, c := start(t)
			f.on = household("")
			f.box.Updates, f.box.Alerts = updatesToShow(""), alerts
			if tt.core != "" {
				f.on[tt.core] = tt.answer
			}
			resp, body := get(t, c, "POST", srv.URL+tt.path, tt.form, signedIn...)
			if resp.StatusCode != tt.status || resp.Header.Get("Location") != tt.location {
				t.Errorf("%s to %q", resp.Status, resp.Header.Get("Location"))
			}
			if !strings.Contains(body, tt.has) {
				t.Errorf("the page has no %q", tt.has)
			}
			if _, path, ok := strings.Cut(tt.core, " "); ok {
				if r, got := f.last(path); r == nil || !strings.Contains(got, tt.body) {
					t.Errorf("core got %q, want %q", got, tt.body)
				}
			}
			if strings.Contains(body, "pw") {
				t.Error("the page repeats the password")
			}
		})
	}
}

// A file goes to core as it is, whatever stands around it in the form.
func TestUpdateFileForm(t *testing.T) {
	f, srv, c := start(t)
	send := func(parts ...string) (int, string, string) {
		t.Helper()
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for i := 0; i+1 < len(parts); i += 2 {
			p, err := w.CreateFormFile(parts[i], parts[i+1])
			if err != nil {
				t.Fatal(err)
			}
			p.Write([]byte("PK bytes of " + parts[i+1]))
		}
		w.Close()
		req, err := http.NewRequest("POST", srv.URL+"/updates/file", &b)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", w.FormDataContentType())
		req.Header.Set(signedIn[0], signedIn[1])
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var page bytes.Buffer
		page.ReadFrom(resp.Body)
		return resp.StatusCode, resp.Header.Get("Location"), page.String()
	}
	f.on["PUT /updates/file"] = nil
	if status, to, _ := send("other", "x.zip", "file", "../croft pi.zip"); status != 303 || to != "/updates?done=update-uploaded" {
		t.Errorf("%d to %q", status, to)
	}
	r, got := f.last("/updates/file")
	if r == nil || r.Method != "PUT" || r.URL.Query().Get("name") != "croft pi.zip" || r.Header.Get("Content-Type") != "application/zip" || !strings.HasPrefix(got, "PK bytes of ") {
		t.Errorf("core got %+v, %q", r, got)
	}
	for name, want := range map[string]string{"bad-file": "This file is no update", "wrong-board": "another kind of box", "too-large": "at most 400 MB", "no-room": "not enough room"} {
		f.on["PUT /updates/file"] = problem(422, name)
		if status, _, page := send("file", "x.zip"); status != 422 || !strings.Contains(page, want) {
			t.Errorf("%s: %d", name, status)
		}
	}
	for _, parts := range [][]string{{}, {"other", "x.zip"}, {"file", ""}} {
		if status, _, page := send(parts...); status != 422 || !strings.Contains(page, "Choose a file first") {
			t.Errorf("%q: %d", parts, status)
		}
	}
	if resp, page := get(t, c, "POST", srv.URL+"/updates/file", url.Values{"file": {"x"}}, signedIn...); resp.StatusCode != 422 || !strings.Contains(page, "Choose a file first") {
		t.Errorf("no form with files: %s", resp.Status)
	}
	f.session = someone(api.RoleMember)
	if status, _, _ := send("file", "x.zip"); status != 403 {
		t.Errorf("a member: %d", status)
	}
}
