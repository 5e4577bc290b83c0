package journal

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of reading. A page in JSON, where a byte takes up to six, stays under 1 MiB.
const (
	maxPage      = 200         // entries
	maxPageSize  = 128 << 10   // bytes of them
	searchSize   = 48 << 20    // bytes of lines that one query goes through, to the end of a file
	searchTime   = time.Second // in which it begins further files
	maxFollowers = 16
	followBuffer = 256 // entries that a follower may be behind
)

// Filter says which entries are wanted: all from INFO on, if it is zero.
type Filter struct {
	Service string     // "" for all
	Level   slog.Level // the least grave
	Text    string     // what message or fields hold, in any case
}

func (f *Filter) wants(e *Entry) bool {
	if e.Level < f.Level || f.Service != "" && e.Service != f.Service {
		return false
	}
	if f.Text == "" {
		return true
	}
	text := strings.ToLower(f.Text)
	return strings.Contains(strings.ToLower(e.Msg), text) || strings.Contains(strings.ToLower(string(e.Fields)), text)
}

// ID names an entry. IDs of one boot sort by its numbers.
func (e *Entry) ID() string { return fmt.Sprintf("%s-%d", e.Boot, e.Seq) }

// Page is what a query found.
type Page struct {
	Entries []Entry // newest first
	Next    string  // what Query goes on from; "" at the end of the journal
}

// Errors of reading.
var (
	ErrPosition = errors.New("no position in the journal")
	ErrFull     = errors.New("too many follow the journal already")
)

// position is an entry's place. The zero value is the newest end.
type position struct {
	boot string
	seq  uint64
}

func parsePosition(s string) (p position, err error) {
	if s == "" {
		return p, nil
	}
	i := strings.LastIndexByte(s, '-')
	if i < 1 || len(s) > 64 {
		return p, ErrPosition
	}
	p.boot = s[:i]
	if p.seq, err = strconv.ParseUint(s[i+1:], 10, 64); err != nil {
		return p, ErrPosition
	}
	return p, nil
}

// Query returns what f wants of the entries before the one with the ID after, or of all if that is "": at most limit
// and 200 of them, from memory and disk. It looks through a bounded part of the journal, one query at a time, so a page
// may be short or even empty and yet have a Next.
func (j *Journal) Query(ctx context.Context, f Filter, after string, limit int) (Page, error) {
	at, err := parsePosition(after)
	if err != nil {
		return Page{}, err
	}
	select {
	case j.searching <- struct{}{}:
		defer func() { <-j.searching }()
	case <-ctx.Done():
		return Page{}, ctx.Err()
	}
	limit = min(max(limit, 1), maxPage)
	s := search{filter: f, at: at, boot: j.boot, room: limit + 1, most: j.most, reached: at.boot == "" || at.boot == j.boot}
	j.mu.Lock()
	st, pending := j.store, slices.Clone(j.pending)
	if s.reached {
		for _, r := range j.rings {
			for i := range r.entries {
				if s.wants(&r.entries[i]) {
					s.memory = append(s.memory, r.entries[i])
				}
			}
		}
	}
	j.mu.Unlock()
	slices.SortFunc(s.memory, newestFirst)
	next := s.run(ctx, st, pending)
	if len(s.out) > limit {
		s.out = s.out[:limit]
		next = s.out[limit-1].ID()
	}
	return Page{Entries: s.out, Next: next}, ctx.Err()
}

func newestFirst(a, b Entry) int { return cmp.Compare(b.Seq, a.Seq) }

// search goes through a journal from its newest end.
type search struct {
	filter  Filter
	at      position
	boot    string  // the running one
	reached bool    // the boot of at has come
	room    int     // entries that out may get
	memory  []Entry // of the running boot, newest first; what is on disk too is put out once
	out     []Entry
	size    int // bytes of out
	read    int // bytes of lines gone through
	most    int // of read, to the end of a file
}

func (s *search) wants(e *Entry) bool {
	return (e.Boot != s.at.boot || e.Seq < s.at.seq) && s.filter.wants(e)
}

// run returns where to go on, "" at the end.
func (s *search) run(ctx context.Context, st *store, pending []byte) (next string) {
	began := time.Now()
	if st != nil {
		full := s.part(func(visit func(lines []byte) bool) { visit(pending) }, &next)
		for _, number := range st.numbers() {
			if full || ctx.Err() != nil {
				return next
			}
			if next != "" && (s.read > s.most || time.Since(began) > searchTime) {
				return next
			}
			full = s.part(func(visit func(lines []byte) bool) { st.read(number, visit) }, &next)
		}
		if full {
			return next
		}
	}
	if s.put(s.memory) {
		return s.last()
	}
	return ""
}

func (s *search) last() string { return s.out[len(s.out)-1].ID() }

// part takes what is wanted of one part of the journal, whose lines each hands to its argument, oldest first and until
// that says no. It returns whether there is no room for more; next is where to go on then, or after this part.
func (s *search) part(each func(visit func(lines []byte) bool), next *string) (full bool) {
	var found ring
	var first *Entry
	wanted := 0
	each(func(lines []byte) bool {
		s.read += len(lines)
		for line := range bytes.Lines(lines) {
			var e Entry
			if json.Unmarshal(line, &e) != nil {
				continue
			}
			if first == nil {
				first = &Entry{Boot: e.Boot, Seq: e.Seq}
				s.reached = s.reached || e.Boot == s.at.boot
			}
			if !s.reached || e.Boot == s.at.boot && e.Seq >= s.at.seq {
				return false
			}
			if s.wants(&e) {
				wanted++
				found.add(e, maxPageSize)
				found.last(s.room)
			}
		}
		return true
	})
	if first == nil || !s.reached || first.Boot == s.at.boot && first.Seq >= s.at.seq {
		return false
	}
	*next = first.ID()
	entries, floor := found.entries, first.Seq
	cut := wanted > len(entries)
	if cut && len(entries) > 0 {
		floor = entries[0].Seq
	}
	if first.Boot == s.boot { // what memory has goes between
		n := 0
		for n < len(s.memory) && s.memory[n].Seq >= floor {
			n++
		}
		entries = append(entries, s.memory[:n]...)
		s.memory = s.memory[n:]
	} else if s.put(s.memory) {
		*next = s.last()
		return true
	} else {
		s.memory = nil
	}
	slices.SortStableFunc(entries, newestFirst)
	entries = slices.CompactFunc(entries, func(a, b Entry) bool { return a.Seq == b.Seq })
	if s.put(entries) || cut {
		*next = s.last()
		return true
	}
	return false
}

// put takes entries, newest first, as long as there is room, and returns whether there was none for some.
func (s *search) put(entries []Entry) (full bool) {
	for _, e := range entries {
		if len(s.out) == s.room || s.size+e.size() > maxPageSize && len(s.out) > 0 {
			return true
		}
		s.out = append(s.out, e)
		s.size += e.size()
	}
	return len(s.out) == s.room
}

// follower gets entries as they come.
type follower struct {
	filter  Filter
	entries chan Entry
}

// Follow returns a channel of the entries to come that f wants. It is closed when the reader is too far behind. stop
// ends it.
func (j *Journal) Follow(f Filter) (entries <-chan Entry, stop func(), err error) {
	w := &follower{f, make(chan Entry, followBuffer)}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.followers) >= maxFollowers {
		return nil, nil, ErrFull
	}
	j.followers = append(j.followers, w)
	return w.entries, func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.followers = slices.DeleteFunc(j.followers, func(o *follower) bool { return o == w })
	}, nil
}

// tell hands an entry to those that follow; the caller holds mu.
func (j *Journal) tell(e *Entry) {
	j.followers = slices.DeleteFunc(j.followers, func(w *follower) bool {
		if !w.filter.wants(e) {
			return false
		}
		select {
		case w.entries <- *e:
			return false
		default:
			close(w.entries)
			return true
		}
	})
}
