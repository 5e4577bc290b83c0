package webui

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// catalogue holds every sentence of one language by key. A key that ends in ".one" and ".other" is chosen by number.
type catalogue map[string]string

// s returns the sentence of a key, filled with args in the manner of fmt.
func (c catalogue) s(key string, args ...any) string {
	text, ok := c[key]
	if !ok {
		return key
	}
	if len(args) == 0 {
		return text
	}
	for i, a := range args {
		if f, ok := a.(float64); ok {
			args[i] = number{f, c["number.point"]}
		}
	}
	return fmt.Sprintf(text, args...)
}

// number is formatted with the language's own decimal point.
type number struct {
	f     float64
	point string
}

// Format implements fmt.Formatter.
func (n number) Format(st fmt.State, verb rune) {
	io.WriteString(st, strings.Replace(fmt.Sprintf(fmt.FormatString(st, verb), n.f), ".", n.point, 1))
}

// verb is where fmt puts an argument into a sentence.
var verb = regexp.MustCompile(`%(?:\[\d+\])?[-+ 0#]*\d*(?:\.\d+)?[a-z]`)

// said says in the catalogue's language what another process said in English. Of the sentences whose key is prefix, or
// begins with it if that ends in a dot, it looks for those that the text is made of; what it does not find stays as it is.
func (c catalogue) said(prefix, text string) string {
	if own, ok := c[prefix]; ok && !strings.Contains(own, "%") {
		return own
	}
	var out []string
	for rest := text; rest != ""; {
		key, args, length := "", []string(nil), 0
		for k, re := range foreign() {
			if k != prefix && !(strings.HasSuffix(prefix, ".") && strings.HasPrefix(k, prefix)) {
				continue
			}
			if m := re.FindStringSubmatch(rest); m != nil && len(m[0]) > length {
				key, args, length = k, m[1:], len(m[0])
			}
		}
		if key == "" {
			out = append(out, rest)
			break
		}
		out = append(out, c.fill(key, args))
		rest = strings.TrimSpace(rest[length:])
	}
	return strings.Join(out, " ")
}

// fill puts args into a sentence whatever its verbs are: they are what was said of a number or a name.
func (c catalogue) fill(key string, args []string) string {
	n := -1
	return verb.ReplaceAllStringFunc(c[key], func(string) string {
		if n++; n < len(args) {
			return args[n]
		}
		return ""
	})
}

// foreign are the English sentences that other processes say, as patterns by key.
var foreign = sync.OnceValue(func() map[string]*regexp.Regexp {
	out := map[string]*regexp.Regexp{}
	for key, text := range english() {
		if !strings.HasPrefix(key, "said.") && !strings.HasPrefix(key, "gap.") {
			continue
		}
		pattern := ""
		for i, part := range verb.Split(text, -1) {
			if i > 0 {
				pattern += "(.+?)"
			}
			pattern += regexp.QuoteMeta(part)
		}
		out[key] = regexp.MustCompile("^" + pattern + `(?:$| )`)
	}
	return out
})

// or returns the sentence of a key, or text if the catalogue has none: other services name what they report, and say
// it in English as well.
func (c catalogue) or(key, text string) string {
	if s, ok := c[key]; ok {
		return s
	}
	return text
}

// n returns the sentence of a key for a number, which is its argument.
func (c catalogue) n(key string, n int) string {
	if n == 1 {
		return c.s(key+".one", n)
	}
	return c.s(key+".other", n)
}

// duration says a length of time in its largest unit.
func (c catalogue) duration(d time.Duration) string { return c.length("time.", d) }

// past says a length of time as it stands after "for" and before "ago", which some languages inflect.
func (c catalogue) past(d time.Duration) string { return c.length("past.", d) }

func (c catalogue) length(kind string, d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return c.s(kind + "moment")
	case d < 90*time.Second:
		return c.n(kind+"seconds", int(d/time.Second))
	case d < 90*time.Minute:
		return c.n(kind+"minutes", int((d+30*time.Second)/time.Minute))
	case d < 36*time.Hour:
		return c.n(kind+"hours", int((d+30*time.Minute)/time.Hour))
	default:
		return c.n(kind+"days", int((d+12*time.Hour)/(24*time.Hour)))
	}
}

// size says a number of bytes as people know it from cards and phones: GB with one decimal, below that MB.
func (c catalogue) size(n int64) string {
	if n >= 1e9 {
		return c.s("size.gb", float64(n)/1e9)
	}
	return c.s("size.mb", float64(n)/1e6)
}
