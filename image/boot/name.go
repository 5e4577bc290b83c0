package boot

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// labelRE matches one label of a host name (RFC 1123 section 2.1) in lower case.
var labelRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

var errName = errors.New("a name has 1 to 63 letters a to z, digits and hyphens, begins and ends with a letter or digit, " +
	`and is not "localhost"`)

// hostName returns a name as the box keeps it.
func hostName(s string) (string, error) {
	s = strings.ToLower(s)
	if !labelRE.MatchString(s) || s == "localhost" {
		return "", errName
	}
	return s, nil
}

func (id *identity) name() string { return cmp.Or(id.Name, defaultName) }

// name returns the host name.
func (b *Box) name() string {
	id := b.identity()
	return id.name()
}

// rename gives the box a name for good. Services see it when they start the next time.
func (b *Box) rename(name string) error {
	name, err := hostName(name)
	if err != nil {
		return err
	}
	if err := b.change(func(id *identity) { id.Name = name }); err != nil {
		return err
	}
	if err := b.setHostname([]byte(name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if _, err := b.writeClaimFile(); err != nil {
		b.log.Warn("the old name still stands in "+claimFile, "err", err)
	}
	return nil
}
