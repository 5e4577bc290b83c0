package core

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/croft-os/croft/services/api"
)

const (
	bodyTimeout = 10 * time.Second // to receive a request's body
	maxDepth    = 8                // of a body's arrays and objects
	maxWrong    = 16               // fields that an answer names
)

// readBody reads a JSON body, whose size serve and whose time handler has limited, or answers with a problem and returns false.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		problem(w, http.StatusUnsupportedMediaType, "not-json", "The request's body has to be application/json.", "")
		return nil, false
	}
	b, err := io.ReadAll(r.Body)
	if err == nil {
		http.NewResponseController(w).SetReadDeadline(time.Time{}) // what comes next on the connection has its own; what is left of this body has not
	}
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		problem(w, http.StatusRequestEntityTooLarge, "too-large", "The request's body is too large.",
			fmt.Sprintf("At most %d bytes are read here.", tooBig.Limit))
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		problem(w, http.StatusRequestTimeout, "too-slow", "The request's body took too long to arrive.", "Try again.")
	case err != nil:
		problem(w, http.StatusBadRequest, "not-json", "The request's body did not arrive in full.", "Try again.")
	}
	return b, err == nil
}

// decode reads a JSON body into the struct that v points to, or answers with a problem and returns false.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	b, ok := readBody(w, r)
	if !ok {
		return false
	}
	wrong, err := unmarshal(b, v)
	switch {
	case err != nil:
		problem(w, http.StatusBadRequest, "not-json", "The request's body is not the JSON that is expected here.", "")
		return false
	case len(wrong) > 0:
		invalid(w, wrong...)
		return false
	}
	return true
}

// unmarshal decodes one JSON value into v, as strict as encoding/json is lenient: a field that v does not have, or that
// comes twice, or is missing without being optional, or is of another type or null, is wrong and named with its path; text
// has to be UTF-8, names have to match exactly, nothing may follow. The error says that it is no such JSON at all.
func unmarshal(b []byte, v any) ([]api.FieldProblem, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	s := strict{dec: json.NewDecoder(bytes.NewReader(b))}
	s.dec.UseNumber()
	if err := s.value(reflect.TypeOf(v).Elem(), "", 0); err != nil {
		return nil, err
	}
	if _, err := s.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	if len(s.wrong) > 0 {
		return s.wrong, nil
	}
	return nil, json.Unmarshal(b, v)
}

// strict compares a JSON text with a Go type, token by token.
type strict struct {
	dec   *json.Decoder
	wrong []api.FieldProblem
}

func (s *strict) is(at, code, text string) {
	if len(s.wrong) < maxWrong {
		s.wrong = append(s.wrong, api.FieldProblem{Path: at, Code: code, Text: text})
	}
}

// value reads one value that is to become a t; a nil t is not looked at.
func (s *strict) value(t reflect.Type, at string, depth int) error {
	tok, err := s.dec.Token()
	if err != nil {
		return err
	}
	if depth > maxDepth {
		return errors.New("too deep")
	}
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch tok {
	case json.Delim('{'):
		if t != nil && t.Kind() != reflect.Struct {
			s.is(at, "type", "This can't be an object.")
			t = nil
		}
		return s.object(t, at, depth)
	case json.Delim('['):
		var elem reflect.Type
		if t != nil && t.Kind() == reflect.Slice {
			elem = t.Elem()
		} else if t != nil {
			s.is(at, "type", "This can't be a list.")
		}
		for i := 0; s.dec.More(); i++ {
			if err := s.value(elem, at+"/"+strconv.Itoa(i), depth+1); err != nil {
				return err
			}
		}
		_, err := s.dec.Token()
		return err
	}
	if t != nil {
		s.scalar(tok, t, at)
	}
	return nil
}

func (s *strict) object(t reflect.Type, at string, depth int) error {
	type field struct {
		t        reflect.Type
		optional bool
	}
	known := map[string]field{}
	if t != nil {
		for f := range t.Fields() {
			name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
			known[name] = field{f.Type, strings.HasPrefix(opts, "omit")}
		}
	}
	seen := map[string]bool{}
	for s.dec.More() {
		tok, err := s.dec.Token()
		if err != nil {
			return err
		}
		name, ok := tok.(string)
		if !ok {
			return errors.New("a name that is no text")
		}
		here := at + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name) // RFC 6901 section 3
		f, ok := known[name]
		switch {
		case seen[name]:
			s.is(here, "duplicate", "This is there twice.")
		case t != nil && !ok:
			s.is(here, "unknown", "There is no such field.")
		}
		seen[name] = true
		if err := s.value(f.t, here, depth+1); err != nil {
			return err
		}
	}
	if t != nil {
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !known[name].optional && !seen[name] {
				s.is(at+"/"+name, "missing", "This is missing.")
			}
		}
	}
	_, err := s.dec.Token()
	return err
}

func (s *strict) scalar(tok json.Token, t reflect.Type, at string) {
	switch v := tok.(type) {
	case string:
		switch u, isText := reflect.New(t).Interface().(encoding.TextUnmarshaler); {
		case strings.ContainsRune(v, utf8.RuneError): // half a surrogate pair became this
			s.is(at, "format", "This holds a character that does not exist.")
		case isText:
			if u.UnmarshalText([]byte(v)) != nil {
				s.is(at, "format", "This is not written as it has to be.")
			}
		case t.Kind() != reflect.String:
			s.is(at, "type", "This can't be a text.")
		}
	case json.Number:
		switch {
		case !reflect.New(t).Elem().CanInt():
			s.is(at, "type", "This can't be a number.")
		default:
			if _, err := strconv.ParseInt(v.String(), 10, t.Bits()); errors.Is(err, strconv.ErrRange) {
				s.is(at, "range", "This number is too large.")
			} else if err != nil {
				s.is(at, "type", "This has to be a whole number.")
			}
		}
	case bool:
		if t.Kind() != reflect.Bool {
			s.is(at, "type", "This can't be true or false.")
		}
	default:
		s.is(at, "type", "This can't be null.")
	}
}
