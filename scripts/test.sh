#!/bin/sh
# Runs all of Croft's tests: builds the three images once into out/, then the packages' own tests with the race
# detector, then the boots. Called by "make test", which has installed what is needed.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/out
for board in pc vm-arm64 pi; do
	go run ./scripts/croft build --board "$board" --out "$out"
done
export CROFT_OUT="$out"
go vet ./...
log=$out/test.log
: >"$log"
# run shows a command's output, keeps it, and remembers that it failed.
status=0
run() {
	{ "$@" || echo "FAIL: exit $?"; } 2>&1 | tee -a "$log"
	! tail -n 1 "$log" | grep -q '^FAIL' || status=1
}
# What builds images, and cuts the power of models of firmware hundreds of thousands of times, shares nothing between goroutines: the
# race detector would make minutes of it. "make test-fast" runs the shorter tests of these two with it. Of publish, the cuts are left out
# with it, and run without.
calm='/image$|/scripts/firmware$'
# shellcheck disable=SC2046 # one package a word
run go test -race -timeout 30m $(go list ./... | grep -vE "/scripts/e2e$|$calm")
# shellcheck disable=SC2046
run go test -timeout 30m $(go list ./... | grep -E "/updater/publish$|$calm")
# The boots share the machine's two cores among themselves, not with anything else.
run go test -timeout 60m -v ./scripts/e2e
# What failed stands at the end, too, after hundreds of lines of boots.
if [ $status != 0 ]; then
	echo "What failed (all of it is in $log):"
	grep -E '^ *--- FAIL|^FAIL|^panic:|^WARNING: DATA RACE|^ *[✘×] ' "$log" || :
fi
exit $status
