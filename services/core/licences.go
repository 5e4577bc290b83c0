package core

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/croft-os/croft/services/api"
)

// licencesFile is the list of all software in the image, with the licences' texts.
const licencesFile = "/etc/croft/licences.json.gz"

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// eachComponent reads the list one by one: as a whole it is larger than what this process should hold.
func eachComponent(path string, visit func(api.Component) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	d := json.NewDecoder(io.LimitReader(z, 64<<20))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return fmt.Errorf("read %s: no list: %w", path, err)
	}
	for d.More() {
		var c api.Component
		if err := d.Decode(&c); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if err := visit(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) getLicences(w http.ResponseWriter, r *http.Request, _ *caller) {
	var all []api.Component
	err := eachComponent(s.licences, func(c api.Component) error {
		c.Text = ""
		all = append(all, c)
		return nil
	})
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	writePage(w, r, all, func(c api.Component) string { return c.Name + " " + c.Version })
}

func (s *server) getLicence(w http.ResponseWriter, r *http.Request, _ *caller) {
	var found *api.Component
	err := eachComponent(s.licences, func(c api.Component) error {
		if c.Name == r.PathValue("name") {
			found = &c
			return errEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, errEnough):
		s.answer(w, r, http.StatusOK, found, nil)
	case err != nil:
		s.refuse(w, r, err)
	default:
		notFound(w)
	}
}
