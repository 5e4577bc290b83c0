# What a developer runs. Each target does its own set-up; see README.md.

BOARD ?= pc
OUT   ?= out

.PHONY: run test test-fast image flash images demo-update soak bench lint setup

run: ## boot a Croft on this machine (FRESH=1 starts over; HTTP_PORT, HTTPS_PORT)
	@scripts/setup.sh image run
	@mkdir -p $(OUT) && go build -o $(OUT)/run.bin ./scripts/run
	@exec $(OUT)/run.bin

test: ## everything: units, labs in network namespaces, image checks, boots in QEMU, a browser (needs root)
	@scripts/setup.sh image image-arm64 run test
	@scripts/test.sh

test-fast: ## units only, no images, no virtual machines
	@scripts/setup.sh image test
	@go vet ./...
	@go test -short -race ./...

image: ## build out/croft-$(BOARD).img and what belongs to it
	@scripts/setup.sh image $(if $(filter pc,$(BOARD)),,image-arm64)
	@go run ./scripts/croft build --board $(BOARD) --out $(OUT)

IMG ?= $(OUT)/croft-$(BOARD).img

flash: ## put an image onto a card or stick: DEV=/dev/sdX, IMG=…, ARGS='--hostname …'; without DEV, list the drives
	@mkdir -p $(OUT) && go build -o $(OUT)/croft.bin ./scripts/croft
	@if [ -b "$(DEV)" ] && [ ! -w "$(DEV)" ]; then as=sudo; fi; exec $$as $(OUT)/croft.bin flash "$(IMG)" $(DEV) $(ARGS)

demo-update: ## two boxes, a signed, logged and witnessed release, and a bad one that is left again
	@scripts/setup.sh image run
	@mkdir -p $(OUT) && go build -o $(OUT)/demo.bin ./scripts/demo
	@exec $(OUT)/demo.bin

soak: ## all endings of updates, and a hundred power cuts of one, booted (hours)
	@scripts/setup.sh image run test
	@CROFT_SOAK=100 go test -timeout 300m -v -run "TestUpdateEndings|TestPowerCutsInUpdate" ./scripts/e2e

bench: ## measure against the budgets of docs/architecture.md, beside named peers
	@scripts/setup.sh image image-arm64 run test bench
	@go run ./scripts/bench

lint: ## what a change must pass before review
	@test -z "$$(go tool gofumpt -l . | tee /dev/stderr)"
	@go vet ./...
	@GOARCH=arm64 go vet ./hardware/... ./image/... ./services/supervisor/...
	@go tool staticcheck ./...
	@go mod tidy -diff
