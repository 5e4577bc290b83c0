package core

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

const (
	maxBundle   = 4 << 20     // bytes of all files together, before they are packed
	maxLogFile  = 512 << 10   // bytes of one service's lines
	bundleTime  = time.Minute // to make and send it
	bundleAudit = 500         // entries of the audit log
)

// bundleReadme is README.txt in the bundle.
const bundleReadme = `This is what a Croft box knows about how it is doing. It is for somebody who helps to find out what is wrong.

system.json       version, hardware, start, services and their sandboxes, measurements
network.json      ports, addresses, settings, clock
discovery.json    the name on the network
config.json       the configuration
changes.json      the latest changes of the configuration
alerts.json       what needs an owner
history-24h.json  measurements of the last 24 hours
history-30d.json  and of the last 30 days
audit.json        what people did, without who did it
logs/NAME.jsonl   the latest log lines of each service, newest first

What is in it of you: the name of the box, its addresses and those of devices on your network, as the logs have them,
and its time zone. What is not: passwords, codes, tokens and keys, nothing that people keep on the box, their names
(they are person-1, person-2 …), the box's own id, and the second half of hardware addresses.

A file that is not there could not be had at that time, or did not fit: all of them together are at most 4 MB.
`

// getDiagnosis sends a bundle of everything that helps to find out what is wrong, and nothing that is a secret.
func (s *server) getDiagnosis(w http.ResponseWriter, r *http.Request, c *caller) {
	s.diagnosis.Lock()
	defer s.diagnosis.Unlock()
	defer s.hold(holdDiagnosis)()
	ctx, cancel := context.WithTimeout(r.Context(), bundleTime)
	defer cancel()
	if err := s.id.Log(ctx, api.AuditEntry{Action: "diagnosis-taken", Who: c.Person.Name, Place: c.Place}); err != nil {
		s.log.Warn("a diagnosis was not recorded", "err", err) // on a full disk it is needed all the more
	}
	w.Header().Set("Content-Type", "application/zip")
	w.Header().Set("Content-Disposition", `attachment; filename="croft-diagnosis.zip"`)
	rc := http.NewResponseController(w)
	rc.SetWriteDeadline(time.Now().Add(bundleTime))
	defer rc.SetWriteDeadline(time.Time{}) // of this connection's next answer
	b := &bundle{zip: zip.NewWriter(w), left: maxBundle, veil: s.newVeil()}
	if err := s.fill(ctx, b); err != nil {
		s.log.Warn("a diagnosis was not sent in full", "err", err)
		return // without the directory at its end it is no zip file
	}
	if err := b.zip.Close(); err != nil {
		s.log.Warn("a diagnosis was not sent in full", "err", err)
	}
}

// fill adds the files, the most telling ones first.
func (s *server) fill(ctx context.Context, b *bundle) error {
	b.add("README.txt", []byte(bundleReadme))
	var services []string
	if box, err := s.box.get(); err == nil {
		sys := box.System
		sys.ID = ""
		b.addJSON("system.json", sys)
		b.addJSON("alerts.json", box.Alerts)
		if box.Network != nil {
			b.addJSON("network.json", box.Network)
		}
		if box.Discovery != nil {
			b.addJSON("discovery.json", box.Discovery)
		}
		services = append(services, "init")
		for _, v := range sys.Services {
			services = append(services, v.Name)
		}
	}
	if d, err := s.config.Document(); err == nil {
		b.addJSON("config.json", b.veil.config(d))
	}
	if all, err := s.config.Changes(ctx); err == nil {
		b.addJSON("changes.json", b.veil.changes(all))
	}
	for _, name := range []string{api.Range24h, api.Range30d} {
		if h, ok := s.history.Range(name, time.Now()); ok {
			b.addJSON("history-"+name+".json", h)
		}
	}
	if entries, err := s.bundleAudit(ctx); err == nil {
		b.addJSON("audit.json", entries)
	}
	for i, name := range services {
		share := min(maxLogFile, b.left/(len(services)-i))
		b.add("logs/"+name+".jsonl", s.bundleLogs(ctx, name, share))
	}
	return errors.Join(b.err, ctx.Err())
}

// bundleAudit is the audit log without people.
func (s *server) bundleAudit(ctx context.Context) ([]api.AuditEntry, error) {
	out := []api.AuditEntry{}
	for after := ""; len(out) < bundleAudit; {
		page, err := s.id.Audit(ctx, after, maxLimit)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Items {
			out = append(out, api.AuditEntry{ID: e.ID, At: e.At, Action: e.Action})
		}
		if after = page.Next; after == "" {
			break
		}
	}
	return out, nil
}

// bundleLogs are the latest lines of a service, as many as fit.
func (s *server) bundleLogs(ctx context.Context, service string, size int) []byte {
	var out bytes.Buffer
	q := url.Values{"service": {service}, "limit": {fmt.Sprint(maxLimit)}}
	for {
		b, err := s.askLogs(ctx, q)
		var page api.List[json.RawMessage]
		if err != nil || json.Unmarshal(b, &page) != nil {
			return out.Bytes()
		}
		for _, line := range page.Items {
			if out.Len()+len(line)+1 > size {
				return out.Bytes()
			}
			out.Write(line)
			out.WriteByte('\n')
		}
		if page.Next == "" {
			return out.Bytes()
		}
		q.Set("after", page.Next)
	}
}

// bundle is a zip file that is being sent.
type bundle struct {
	zip  *zip.Writer
	left int // bytes that may still be added
	veil *veil
	err  error
}

func (b *bundle) addJSON(name string, v any) {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		b.err = errors.Join(b.err, err)
		return
	}
	b.add(name, text)
}

// add adds a file if it fits, with everything out of it that is nobody else's business.
func (b *bundle) add(name string, text []byte) {
	text = b.veil.text(text)
	if b.err != nil || len(text) == 0 || len(text) > b.left {
		return
	}
	b.left -= len(text)
	f, err := b.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Now()})
	if err == nil {
		_, err = io.Copy(f, bytes.NewReader(text))
	}
	b.err = err
}

// veil takes out of the bundle who people are, and hardware addresses. No secret should get that far; what looks like one
// is taken out all the same.
type veil struct {
	people map[string]string // by name
	names  *regexp.Regexp    // nil without people
}

var (
	hardwareRE = regexp.MustCompile(`\b([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}):[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\b`)
	secretRE   = regexp.MustCompile(`croft_[A-Za-z0-9_-]{8,}|\b[0-9A-Z]{4}(-[0-9A-Z]{4}){1,3}\b|otpauth://[^"\s]*|\$argon2[^"\s]*`)
)

func (s *server) newVeil() *veil {
	v := &veil{people: map[string]string{}}
	var quoted []string
	for i, p := range s.id.People() {
		v.people[p.Name] = fmt.Sprintf("person-%d", i+1)
		if len(p.Name) > 2 { // shorter ones are parts of everything
			quoted = append(quoted, asWord(p.Name))
		}
	}
	if len(quoted) > 0 {
		slices.SortFunc(quoted, func(a, b string) int { return len(b) - len(a) })
		v.names = regexp.MustCompile(strings.Join(quoted, "|"))
	}
	return v
}

// asWord is an expression for a name that stands by itself.
func asWord(name string) string {
	letter := func(c byte) string {
		if c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			return `\b`
		}
		return ""
	}
	return letter(name[0]) + regexp.QuoteMeta(name) + letter(name[len(name)-1])
}

func (v *veil) person(name string) string {
	if known, ok := v.people[name]; ok {
		return known
	}
	return "person"
}

func (v *veil) config(d api.Config) api.Config {
	d.People = slices.Clone(d.People)
	for i := range d.People {
		d.People[i].Name = v.person(d.People[i].Name)
	}
	return d
}

// changes are without the values of people, who may not be there any more.
func (v *veil) changes(all []api.ConfigChange) []api.ConfigChange {
	for i := range all {
		c := &all[i]
		c.By = v.person(c.By)
		for j := range c.Differences {
			if d := &c.Differences[j]; strings.HasPrefix(d.Path, "/people/") {
				*d = api.Difference{Path: "/people/person"}
			}
		}
	}
	return all
}

func (v *veil) text(b []byte) []byte {
	b = secretRE.ReplaceAll(b, []byte("…"))
	b = hardwareRE.ReplaceAll(b, []byte("$1:xx:xx:xx"))
	if v.names == nil {
		return b
	}
	return v.names.ReplaceAllFunc(b, func(name []byte) []byte { return []byte(v.person(string(name))) })
}
