package webui

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	beatEvery   = 10 * time.Second // the script counts silence of twice this as "not heard from the box"
	sendTimeout = 10 * time.Second // for a browser to take an event
)

// regions are the parts of the box page that the stream keeps current: names of templates, and ids of elements.
func regions() []string {
	return []string{"headline", "concerns", "vitals", "reach", "services", "boot", "gaps", "about"}
}

// getLive streams the regions of the box page as they change. Its events are "view" (a JSON object of HTML by region),
// "beat" when nothing changed, and "reload" when another page is due: after signing out, into or out of rescue mode,
// or when the box runs another release of the page.
func (v *visit) getLive() {
	w, r := v.w, v.r
	req, err := v.request(r.Context(), http.MethodGet, "/api/v1/events", nil)
	if err != nil {
		v.message(http.StatusInternalServerError, "error")
		return
	}
	resp, err := v.api.Do(req)
	if err != nil {
		http.Error(w, v.text.s("starting.title"), http.StatusServiceUnavailable)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		http.Error(w, v.text.s("starting.title"), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, v := range resp.Header.Values("Set-Cookie") {
		w.Header().Add("Set-Cookie", v)
	}
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Time{}) // the server's is for requests
	send := func(event, data string) bool {
		rc.SetWriteDeadline(time.Now().Add(sendTimeout))
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, data); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	q := r.URL.Query()
	if resp.StatusCode != http.StatusOK || q.Get("version") != v.version() {
		send("reload", "{}")
		return
	}
	boxes := make(chan *api.Box)
	go readBoxes(r, resp.Body, boxes)
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	before := map[string]string{}
	if !send("beat", "{}") {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
			if !send("beat", "{}") {
				return
			}
		case b, ok := <-boxes:
			if !ok {
				return // the browser connects anew
			}
			if b == nil || (b.System.Mode == api.ModeRescue) != (q.Get("rescue") == "yes") {
				send("reload", "{}")
				return
			}
			changed, err := v.changed(v.boxFor(b), before)
			if err != nil {
				v.log.Error("can't make a region", "err", err)
				return
			}
			if len(changed) == 0 {
				continue
			}
			data, err := json.Marshal(changed)
			if err != nil || !send("view", string(data)) {
				return
			}
			beat.Reset(beatEvery)
		}
	}
}

// changed renders the regions and returns those that are not as before, which it brings up to date.
func (v *visit) changed(box *boxView, before map[string]string) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range regions() {
		var b bytes.Buffer
		if err := v.tmpl.ExecuteTemplate(&b, name, box); err != nil {
			return nil, err
		}
		if html := b.String(); html != before[name] {
			before[name], out[name] = html, html
		}
	}
	return out, nil
}

// readBoxes sends what core's stream says until it or the request ends; nil says that the session is over.
func readBoxes(r *http.Request, from io.Reader, to chan<- *api.Box) {
	defer close(to)
	sc := bufio.NewScanner(from)
	sc.Buffer(make([]byte, 0, 16<<10), maxAnswer)
	event := ""
	for sc.Scan() {
		name, value, _ := bytes.Cut(sc.Bytes(), []byte(": "))
		switch string(name) {
		case "event":
			event = string(value)
		case "data":
			var b *api.Box
			if event == "box" {
				b = &api.Box{}
				if json.Unmarshal(value, b) != nil {
					return
				}
			} else if event != "end" {
				continue
			}
			select {
			case to <- b:
			case <-r.Context().Done():
				return
			}
		}
	}
}
