package core

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/errors"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/croft-os/croft/services/api"
)

// everywhere are the fields of the header that every answer has, or every request may have.
var everywhere = []string{
	"Content-Security-Policy", "Cross-Origin-Resource-Policy", "Referrer-Policy", "X-Content-Type-Options", "Cache-Control",
	"Www-Authenticate", "Allow", "Origin", "Sec-Fetch-Site", "Set-Cookie",
}

// contract is openapi.json as a foreign program reads it.
var contract = sync.OnceValues(func() (validator.Validator, error) {
	doc, err := libopenapi.NewDocument(openAPI)
	if err != nil {
		return nil, err
	}
	// Strict: a field of an answer that the document does not name is an error.
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions(), config.WithoutSecurityValidation(), config.WithStrictMode(),
		config.WithStrictIgnoredHeadersExtra(everywhere...),
		// It does not see what additionalProperties with a schema allows.
		config.WithStrictIgnorePaths("$.body.**.args.*", "$.body.**.notes.*", "$.body.**.interfaces.*", "$.body.**.fields.*"))
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return v, nil
})

func failures(errs []*errors.ValidationError) string {
	var b strings.Builder
	for _, e := range errs {
		fmt.Fprintf(&b, "\n  %s: %s", e.Message, e.Reason)
		for _, s := range e.SchemaValidationErrors {
			fmt.Fprintf(&b, "\n    %s at %s", s.Reason, s.FieldPath)
		}
	}
	return b.String()
}

func TestOpenAPIDocument(t *testing.T) {
	v, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		t.Errorf("not OpenAPI 3.1:%s", failures(errs))
	}
}

// Every schema of the document is JSON Schema 2020-12, which the judge of the document takes on trust.
func TestSchemasAreSchemas(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(openAPI))
	if err != nil {
		t.Fatal(err)
	}
	var at []string
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				here := path + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(k)
				if k == "schema" || path == "/components/schemas" {
					at = append(at, here)
				} else {
					walk(x, here)
				}
			}
		case []any:
			for i, x := range v {
				walk(x, fmt.Sprintf("%s/%d", path, i))
			}
		}
	}
	walk(doc, "")
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("http://croft/openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range at {
		if _, err := c.Compile("http://croft/openapi.json#" + url.PathEscape(path)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if len(at) < 100 {
		t.Errorf("only %d schemas found", len(at))
	}
}

// recorder compares every request and answer that passes it with the document.
type recorder struct {
	t    testing.TB
	next http.RoundTripper
}

func (rec *recorder) RoundTrip(r *http.Request) (*http.Response, error) {
	v, err := contract()
	if err != nil {
		return nil, err
	}
	var sent []byte
	if r.Body != nil && r.Body != http.NoBody {
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := rec.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%s %s: %s", r.Method, r.URL.Path, resp.Status)
	op, _ := operationOf(r.Method, r.URL.EscapedPath())
	if op == nil {
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			rec.t.Errorf("%s, but the document does not know it", what)
		}
		return resp, nil
	}
	asked := r.Clone(r.Context())
	asked.Header.Del("Cookie") // security schemes say what those are
	asked.Body = io.NopCloser(bytes.NewReader(sent))
	if resp.StatusCode < 300 && op.ID != "checkConfig" { // which is there to be asked about anything
		if ok, errs := v.ValidateHttpRequestSync(asked); !ok {
			rec.t.Errorf("%s, but the document does not allow that request: %s%s", what, sent, failures(errs))
		}
	}
	if op.ID == "openapi" { // TestOpenAPIServed looks at it
		return resp, nil
	}
	if t := resp.Header.Get("Content-Type"); t == "text/event-stream" || t == "application/zip" {
		if want := documented(r.Method, r.URL.EscapedPath(), resp.StatusCode); want != t {
			rec.t.Errorf("%s: %s, want %q", what, t, want)
		}
		return resp, nil
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	check := *resp
	check.Body = io.NopCloser(bytes.NewReader(b))
	asked.Body = io.NopCloser(bytes.NewReader(sent))
	if ok, errs := v.ValidateHttpResponse(asked, &check); !ok {
		rec.t.Errorf("%s, not as documented: %.300s%s", what, b, failures(errs))
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp, nil
}

// docOp is what the tests read of an operation in the document.
type docOp struct {
	ID          string                `json:"operationId"`
	Summary     string                `json:"summary"`
	Who         []string              `json:"x-croft-who"`
	Security    []map[string][]string `json:"security"`
	RequestBody *struct {
		Content map[string]struct {
			Schema struct {
				Ref string `json:"$ref"`
			}
		}
	} `json:"requestBody"`
	Responses map[string]struct {
		Ref     string `json:"$ref"`
		Content map[string]any
	}
}

// scope returns the scope that a token needs, empty if tokens are refused.
func (o *docOp) scope() string {
	for _, s := range o.Security {
		if b := s["bearer"]; len(b) == 1 {
			return b[0]
		}
	}
	return ""
}

var docPaths = sync.OnceValue(func() map[string]map[string]*docOp {
	var doc struct{ Paths map[string]map[string]*docOp }
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		panic(err)
	}
	return doc.Paths
})

var param = regexp.MustCompile(`\\\{[a-z]+\\\}`)

// operationOf finds an operation of the document, and its path there. A path without parameters wins.
func operationOf(method, path string) (*docOp, string) {
	path = strings.TrimPrefix(path, base)
	if op := docPaths()[path][strings.ToLower(method)]; op != nil {
		return op, path
	}
	for p, ops := range docPaths() {
		if regexp.MustCompile("^" + param.ReplaceAllString(regexp.QuoteMeta(p), "[^/]+") + "$").MatchString(path) {
			if op := ops[strings.ToLower(method)]; op != nil {
				return op, p
			}
		}
	}
	return nil, ""
}

func documented(method, path string, status int) string {
	op, _ := operationOf(method, path)
	for t := range op.Responses[fmt.Sprint(status)].Content {
		return t
	}
	return ""
}

// The table and the document say the same.
func TestTableIsDocumented(t *testing.T) {
	var table, doc []string
	row := func(id, method, path string, who []string, scope string, body bool) string {
		slices.Sort(who)
		return fmt.Sprintf("%s %s %s who=%v scope=%q body=%v", id, method, path, who, scope, body)
	}
	for _, op := range operations() {
		var w []string
		for name, bit := range roles {
			if op.who&bit != 0 {
				w = append(w, name)
			}
		}
		table = append(table, row(op.id, op.method, strings.ReplaceAll(op.path, "...", ""), w, op.scope, op.body > 0))
	}
	for path, ops := range docPaths() {
		for method, op := range ops {
			doc = append(doc, row(op.ID, strings.ToUpper(method), path, op.Who, op.scope(), op.RequestBody != nil))
			if op.Summary == "" {
				t.Errorf("%s has no summary", op.ID)
			}
			if isOpen := slices.Equal(op.Who, []string{"open"}); isOpen != (op.Security != nil && len(op.Security) == 0) {
				t.Errorf("%s: who %v with security %v", op.ID, op.Who, op.Security)
			}
		}
	}
	slices.Sort(table)
	slices.Sort(doc)
	for _, r := range table {
		if !slices.Contains(doc, r) {
			t.Errorf("not in the document: %s", r)
		}
	}
	for _, r := range doc {
		if !slices.Contains(table, r) {
			t.Errorf("not in the table: %s", r)
		}
	}
	if ids := len(slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, op := range operations() {
			if !yield(op.id) {
				return
			}
		}
	}))); ids != len(operations()) {
		t.Errorf("%d ids for %d operations", ids, len(operations()))
	}
}

var roles = map[string]who{
	"open": open, api.RoleSetup: setup, api.RoleRescue: rescue, api.RoleMember: member, api.RoleOwner: owner,
}

// Every schema has the fields of the type of its name, the same of them optional, and what a request may hold is closed.
func TestSchemas(t *testing.T) {
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties           map[string]any
				Required             []string
				AdditionalProperties *bool
			}
		}
	}
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	schemas := doc.Components.Schemas
	for _, v := range []any{
		api.AccountRequest{},
		api.Alert{},
		api.AuditEntry{},
		api.Board{},
		api.Box{},
		api.CheckDone{},
		api.ClaimRequest{},
		api.Clock{},
		api.Component{},
		api.Config{},
		api.ConfigChange{},
		api.ConfigCheck{},
		api.ConfigPerson{},
		api.ConfigResult{},
		api.Confined{},
		api.Difference{},
		api.Discovery{},
		api.Disk{},
		api.FieldProblem{},
		api.Gap{},
		api.History{},
		api.Interface{},
		api.Invite{},
		api.InviteRequest{},
		api.JoinLook{},
		api.JoinRequest{},
		api.LogLine{},
		api.NameRequest{},
		api.NetConfig{},
		api.Network{},
		api.NewSecondFactor{},
		api.Notice{},
		api.PasswordChange{},
		api.PasswordRequest{},
		api.Person{},
		api.PersonChange{},
		api.Phase{},
		api.Point{},
		api.PowerRequest{},
		api.Probe{},
		api.Problem{},
		api.RecoverRequest{},
		api.RecoveryCodes{},
		api.Rescue{},
		api.RescueRequest{},
		api.SecondFactorCode{},
		api.Series{},
		api.Service{},
		api.Session{},
		api.SessionRequest{},
		api.Setup{},
		api.StartOverRequest{},
		api.StaticConfig{},
		api.System{},
		api.Token{},
		api.TokenRequest{},
		api.Trial{},
		api.TrustRequest{},
		api.TrustRoot{},
		api.UndoRequest{},
		api.UpdateAction{},
		api.UpdateAttempt{},
		api.UpdateEvidence{},
		api.UpdateOffer{},
		api.UpdatePolicy{},
		api.UpdatePrevious{},
		api.UpdateProblem{},
		api.UpdateProgress{},
		api.UpdateSource{},
		api.UpdateTrust{},
		api.Updates{},
		api.Vitals{},
		api.Witness{},
		api.WitnessConfig{},
		api.WitnessLog{},
		api.ZoneRequest{},
	} {
		typ := reflect.TypeOf(v)
		s, ok := schemas[typ.Name()]
		if !ok {
			t.Errorf("no schema %s", typ.Name())
			continue
		}
		delete(schemas, typ.Name())
		var fields, required []string
		for f := range typ.Fields() {
			name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, name)
			if !strings.HasPrefix(opts, "omit") {
				required = append(required, name)
			}
		}
		slices.Sort(fields)
		slices.Sort(required)
		if got := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(got, fields) {
			t.Errorf("%s has the fields %v, its schema %v", typ.Name(), fields, got)
		}
		slices.Sort(s.Required)
		if !slices.Equal(s.Required, required) {
			t.Errorf("%s requires %v, its schema %v", typ.Name(), required, s.Required)
		}
	}
	for name := range schemas {
		if name != "Health" && name != "PartOfConfig" {
			t.Errorf("schema %s has no type", name)
		}
	}
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	all := doc.Components.Schemas
	for _, ops := range docPaths() {
		for _, op := range ops {
			if op.RequestBody == nil || op.RequestBody.Content["application/json"].Schema.Ref == "" {
				continue // a file
			}
			name := strings.TrimPrefix(op.RequestBody.Content["application/json"].Schema.Ref, "#/components/schemas/")
			if s, ok := all[name]; !ok || s.AdditionalProperties == nil || *s.AdditionalProperties {
				t.Errorf("%s: the request %q is not closed", op.ID, name)
			}
		}
	}
}

// The judge stays out of the box.
func TestNoJudgeInTheBox(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/croft-os/croft/services/croftd").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"pb33f", "santhosh-tekuri", "go.yaml.in"} {
		if strings.Contains(string(out), p) {
			t.Errorf("croftd links %s", p)
		}
	}
}
