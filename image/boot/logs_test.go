package boot

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/croft-os/croft/services/api"
)

func TestLogs(t *testing.T) {
	b := testBox()
	srv := httptest.NewServer(b.control(context.Background()))
	defer srv.Close()
	core, web := b.journal.Writer("core"), b.journal.Writer("webui")
	fmt.Fprintln(core, `{"level":"INFO","msg":"Started","port":80}`)
	fmt.Fprintln(web, `{"level":"DEBUG","msg":"chatty"}`)
	fmt.Fprintln(core, `{"level":"ERROR","msg":"broken <b>"}`)

	get := func(query string) (list api.List[api.LogLine], status int) {
		t.Helper()
		r, err := http.Get(srv.URL + "/v1/logs?" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if r.StatusCode == http.StatusOK {
			if err := json.NewDecoder(r.Body).Decode(&list); err != nil {
				t.Fatal(err)
			}
		}
		return list, r.StatusCode
	}
	for query, want := range map[string]string{
		"":                          "error broken <b>|debug chatty|info Started",
		"level=info":                "error broken <b>|info Started",
		"level=error&service=core":  "error broken <b>",
		"service=webui&level=debug": "debug chatty",
		"q=START":                   "info Started",
		"q=port":                    "info Started",
		"service=nobody":            "",
	} {
		var got []string
		list, _ := get(query)
		for _, l := range list.Items {
			got = append(got, l.Level+" "+l.Text)
		}
		if s := strings.Join(got, "|"); s != want || list.Items == nil {
			t.Errorf("%s: %q", query, s)
		}
	}
	first, _ := get("limit=1")
	second, _ := get("limit=1&after=" + first.Next)
	if len(second.Items) != 1 || second.Items[0].Text != "chatty" || second.Items[0].ID != second.Next {
		t.Errorf("second page: %+v", second)
	}
	for _, query := range []string{
		"level=loud", "level=info%2B1", "limit=0", "limit=201", "limit=x", "after=nowhere", "q=" + strings.Repeat("x", 201),
	} {
		if _, status := get(query); status != http.StatusBadRequest {
			t.Errorf("%.30s: status %d", query, status)
		}
	}

	r, err := http.Get(srv.URL + "/v1/logs/stream?level=warn&q=again")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	in := bufio.NewScanner(r.Body)
	in.Scan() // a sign of life: from now on it listens
	fmt.Fprintln(core, `{"level":"INFO","msg":"again, but light"}`)
	fmt.Fprintln(core, `{"level":"WARN","msg":"again"}`)
	var event, data string
	for data == "" && in.Scan() {
		event, _ = strings.CutPrefix(in.Text(), "event: ")
		if event == "line" {
			in.Scan() // id
			in.Scan()
			data, _ = strings.CutPrefix(in.Text(), "data: ")
		}
	}
	var line api.LogLine
	if err := json.Unmarshal([]byte(data), &line); err != nil || line.Text != "again" || line.Level != "warn" || line.ID == "" {
		t.Errorf("heard %s: %v", data, err)
	}
}
