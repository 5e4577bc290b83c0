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
status=0
# shellcheck disable=SC2046 # one package a word
go test -race -timeout 30m $(go list ./... | grep -v /scripts/e2e) || status=$?
# The boots share the machine's two cores among themselves, not with anything else.
go test -timeout 60m -v ./scripts/e2e || status=$?
exit $status
