package disk

import (
	"encoding/binary"
	"slices"
	"testing"
)

func targetList(names ...string) []byte {
	var b []byte
	for i, n := range names {
		e := make([]byte, 16, 64)
		e = append(e, n...)
		e = append(e, make([]byte, 8-len(e)%8)...)
		if i < len(names)-1 {
			binary.NativeEndian.PutUint32(e, uint32(len(e)))
		}
		b = append(b, e...)
	}
	return b
}

func TestParseTargets(t *testing.T) {
	if got, want := parseTargets(targetList("linear", "crypt", "striped")), []string{"linear", "crypt", "striped"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := parseTargets(nil); got != nil {
		t.Errorf("got %q out of nothing", got)
	}
}

func FuzzParseTargets(f *testing.F) {
	f.Add(targetList("linear", "crypt"))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(parseTargets(b)); n > 64 {
			t.Errorf("%d targets", n)
		}
	})
}
