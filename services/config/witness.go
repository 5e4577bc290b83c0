package config

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/croft-os/croft/services/api"
	"github.com/croft-os/croft/updater/witness"
)

const (
	witnessPath    = "/witness"
	maxWitnessName = 100  // bytes
	maxWitnessLogs = 16   //
	maxLogKey      = 1024 // bytes
)

func (r *reader) witness(path string, n *node) api.WitnessConfig {
	var c api.WitnessConfig
	r.object(path, n, map[string]func(string, *node){
		"name": func(path string, n *node) { c.Name = r.text(path, n) },
		"logs": func(path string, n *node) {
			r.list(path, n, maxWitnessLogs, func(path string, n *node) { c.Logs = append(c.Logs, r.text(path, n)) })
		},
	}, "name", "logs")
	return c
}

// validateWitness returns the part as it is kept. Empty, it is as if it were not there.
func (r *reader) validateWitness(c api.WitnessConfig) api.WitnessConfig {
	if c.Name == "" && len(c.Logs) == 0 {
		return api.WitnessConfig{}
	}
	switch {
	case c.Name == "":
		r.wrong(witnessPath+"/name", "missing", "A name is needed.")
	case len(c.Name) > maxWitnessName:
		r.wrong(witnessPath+"/name", "too-long", fmt.Sprintf("A name has at most %d characters.", maxWitnessName))
	case !witness.CheckName(c.Name):
		r.wrong(witnessPath+"/name", "format", "A witness's name has no spaces and no plus signs.")
	}
	switch {
	case len(c.Logs) == 0:
		r.wrong(witnessPath+"/logs", "missing", "A witness needs a log to watch.")
	case len(c.Logs) > maxWitnessLogs:
		r.wrong(witnessPath+"/logs", "too-long", fmt.Sprintf("There can be at most %d entries.", maxWitnessLogs))
		return c
	}
	c.Logs = slices.Clone(c.Logs)
	for i, key := range c.Logs {
		at := witnessPath + "/logs/" + strconv.Itoa(i)
		key = strings.TrimSpace(key)
		c.Logs[i] = key
		_, err := witness.CheckLog(key)
		switch {
		case len(key) > maxLogKey:
			r.wrong(at, "too-long", fmt.Sprintf("A key has at most %d characters.", maxLogKey))
		case err != nil:
			r.wrong(at, "format", "Write the log's key as its publisher gives it, such as example.org/log+9f3c0a12+A….")
		case slices.Contains(c.Logs[:i], key):
			r.wrong(at, "duplicate", "This is there twice.")
		}
	}
	return c
}

func sameWitness(a, b api.WitnessConfig) bool {
	return a.Name == b.Name && slices.Equal(a.Logs, b.Logs)
}

func (s *Store) tellWitness(ctx context.Context, c api.WitnessConfig) {
	s.tell(ctx, "witness", s.Witness, http.MethodPut, "http://witness/v1/config", c)
}
