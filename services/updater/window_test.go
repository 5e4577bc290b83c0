package updater

import (
	"cmp"
	"testing"
	"time"

	"github.com/croft-os/croft/services/api"
)

func TestWindow(t *testing.T) {
	const form = "2006-01-02 15:04 -0700"
	for _, tc := range []struct {
		name, from, to, zone, now string
		opens, closes             string // in the zone's time
	}{
		{"before", "02:00", "05:00", "Europe/Berlin", "2026-06-10 20:00 +0200", "2026-06-11 02:00 +0200", "2026-06-11 05:00 +0200"},
		{"built in", "", "", "Europe/Berlin", "2026-06-10 20:00 +0200", "2026-06-11 02:00 +0200", "2026-06-11 05:00 +0200"},
		{"within", "02:00", "05:00", "Europe/Berlin", "2026-06-11 04:59 +0200", "2026-06-11 02:00 +0200", "2026-06-11 05:00 +0200"},
		{"its end", "02:00", "05:00", "Europe/Berlin", "2026-06-11 05:00 +0200", "2026-06-12 02:00 +0200", "2026-06-12 05:00 +0200"},
		{"its beginning", "02:00", "05:00", "UTC", "2026-06-11 02:00 +0000", "2026-06-11 02:00 +0000", "2026-06-11 05:00 +0000"},
		{"over midnight, before it", "22:00", "03:00", "Europe/Berlin", "2026-06-11 23:00 +0200", "2026-06-11 22:00 +0200", "2026-06-12 03:00 +0200"},
		{"over midnight, after it", "22:00", "03:00", "Europe/Berlin", "2026-06-12 01:00 +0200", "2026-06-11 22:00 +0200", "2026-06-12 03:00 +0200"},
		{"over midnight, outside", "22:00", "03:00", "Europe/Berlin", "2026-06-12 12:00 +0200", "2026-06-12 22:00 +0200", "2026-06-13 03:00 +0200"},
		{"another zone", "02:00", "05:00", "America/New_York", "2026-06-11 05:30 +0000", "2026-06-11 02:00 -0400", "2026-06-11 05:00 -0400"},
		// Berlin skips 02:00 to 03:00 on 29 March 2026, and has it twice on 25 October, of which the second counts.
		{"spring", "02:00", "05:00", "Europe/Berlin", "2026-03-29 01:30 +0100", "2026-03-29 03:00 +0200", "2026-03-29 05:00 +0200"},
		{"spring, all of it skipped", "02:00", "03:00", "Europe/Berlin", "2026-03-29 01:30 +0100", "2026-03-30 02:00 +0200", "2026-03-30 03:00 +0200"},
		{"spring, the end skipped", "01:00", "02:30", "Europe/Berlin", "2026-03-29 00:30 +0100", "2026-03-29 01:00 +0100", "2026-03-29 03:30 +0200"},
		{"autumn, first time", "02:30", "05:00", "Europe/Berlin", "2026-10-25 02:45 +0200", "2026-10-25 02:30 +0100", "2026-10-25 05:00 +0100"},
		{"autumn, second time", "02:30", "05:00", "Europe/Berlin", "2026-10-25 02:15 +0100", "2026-10-25 02:30 +0100", "2026-10-25 05:00 +0100"},
		{"all day but a minute", "00:00", "23:59", "UTC", "2026-10-25 23:59 +0000", "2026-10-26 00:00 +0000", "2026-10-26 23:59 +0000"},
		{"leap day", "23:30", "00:30", "UTC", "2028-02-29 12:00 +0000", "2028-02-29 23:30 +0000", "2028-03-01 00:30 +0000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := parseWindow(api.UpdatePolicy{From: tc.from, To: tc.to})
			if err != nil {
				t.Fatal(err)
			}
			zone, err := time.LoadLocation(tc.zone)
			if err != nil {
				t.Fatal(err)
			}
			now, err := time.Parse(form, tc.now)
			if err != nil {
				t.Fatal(err)
			}
			opens, closes := w.next(now.In(zone))
			if o, c := opens.Format(form), closes.Format(form); o != tc.opens || c != tc.closes {
				t.Errorf("%s to %s, want %s to %s", o, c, tc.opens, tc.closes)
			}
			for _, j := range []float64{0, 0.5, 0.999} {
				if at := w.restartAt(now.In(zone), j); at.Before(now) || at.Before(opens) || !at.Before(closes) {
					t.Errorf("with jitter %v it restarts at %s", j, at.Format(form))
				}
			}
		})
	}
}

func TestParseWindow(t *testing.T) {
	for _, p := range []api.UpdatePolicy{
		{From: "2:00"}, {From: "24:00"}, {To: "05:60"}, {To: "5"}, {From: "03:00", To: "03:00"}, {From: "02:00 "}, {To: "02:00"}, {From: "-1:00"},
	} {
		if w, err := parseWindow(p); err == nil {
			t.Errorf("%q to %q is %v", p.From, p.To, w)
		}
	}
}

func FuzzWindow(f *testing.F) {
	f.Add("02:00", "05:00", int64(1790000000), "Europe/Berlin")
	f.Add("23:59", "00:00", int64(1774747800), "Australia/Lord_Howe")
	f.Add("00:00", "00:01", int64(-62135596800), "Pacific/Apia")
	f.Fuzz(func(t *testing.T, from, to string, unix int64, zone string) {
		w, err := parseWindow(api.UpdatePolicy{From: from, To: to})
		if err != nil || unix < -1<<36 || unix > 1<<36 {
			return
		}
		tz, err := time.LoadLocation(zone)
		if err != nil {
			return
		}
		now := time.Unix(unix, 0).In(tz)
		opens, closes := w.next(now)
		if !opens.Before(closes) || !now.Before(closes) || opens.Sub(now) > 73*time.Hour {
			t.Errorf("%v after %v: %v to %v", w, now, opens, closes)
		}
	})
}

func TestCompareVersions(t *testing.T) {
	inOrder := []string{"", "1", "v0.9", "v0.10", "v1.0", "v1.0-rc", "v1.0.0", "v1.0.1", "v1.0.10", "v1.00.11", "v2", "w"}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if got := compareVersions(a, b); got != cmp.Compare(i, j) {
				t.Errorf("%q and %q: %d", a, b, got)
			}
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("v1.2", "v1.10")
	f.Add("007", "7")
	f.Add("é1", "e01")
	f.Fuzz(func(t *testing.T, a, b string) {
		if x, y := compareVersions(a, b), compareVersions(b, a); x != -y {
			t.Errorf("%q and %q: %d and %d", a, b, x, y)
		}
		if compareVersions(a, a) != 0 {
			t.Errorf("%q is not itself", a)
		}
	})
}
