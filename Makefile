# Understudy. `make demo` shows it, `make test` proves it, `make help` lists the rest.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-print-directory
BUILD       := build
export CGO_ENABLED ?= 0
# dpkg wants a digit first: a commit becomes 0.1.0~git…
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null | sed -E 's/^v//; s/^([0-9a-f]{7,12})/0.1.0~git\1/; s/-dirty/+dirty/')
GOBUILD     := go build -trimpath -ldflags '-s -w -X understudy/internal/model.release=$(VERSION)'
NFPM        := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.41.3

.PHONY: help deps build package demo demo-down test test-unit test-e2e test-temporal lint workflowcheck fuzz-short faults bench bench-adaptive fmt clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install missing Debian packages (root), or say which
	@deploy/setup/install-deps

build: $(BUILD)/understudy $(BUILD)/understudy-temporal ## build/understudy and build/understudy-temporal

# Always asked: Go's own cache knows what changed.
.PHONY: $(BUILD)/understudy $(BUILD)/understudy-temporal
$(BUILD)/understudy:
	@$(GOBUILD) -o $@ ./cli/understudy
$(BUILD)/understudy-temporal:
	@[[ -x $@ ]] || echo "building the bundled Temporal (4 to 10 minutes the first time on 2 cores, seconds afterwards)"
	@cd deploy/temporal && go build -trimpath -ldflags '-s -w' -o ../../$@ .

package: build ## Debian packages in build/: understudy and understudy-temporal
	@mkdir -p $(BUILD)/completion
	@$(BUILD)/understudy completion bash >$(BUILD)/completion/bash
	@$(BUILD)/understudy completion zsh >$(BUILD)/completion/zsh
	@for p in understudy understudy-temporal; do \
	  ARCH=$$(dpkg --print-architecture) VERSION=$(VERSION) go run $(NFPM) package -f deploy/packaging/$$p.yaml -p deb -t $(BUILD)/; done

demo: deps build ## protect a VM, crash its host, watch it come back (KEEP=1 leaves it running)
	@go run ./deploy/demo $(if $(KEEP),--keep)

demo-down: ## end what `make demo KEEP=1` left
	@LAB_NAME=demo deploy/lab/lab down

test: ## everything: unit, workflow, conformance and end-to-end tests (root for the last two)
	@tests/run all

test-unit: ## only what needs no root and boots nothing
	@tests/run unit

test-e2e: ## only the end-to-end tests on the lab (root)
	@tests/run e2e

test-temporal: ## the nested module of the bundled Temporal
	@cd deploy/temporal && go test -trimpath ./...

faults: deps build ## strike VMs with every fault of docs/FAULTS.md (about an hour; SEED=N repeats a run)
	@go test ./tests/e2e -run TestFaults -count=1 -timeout 3h -v -faults $(if $(SEED),-seed $(SEED)) | grep -v '^time='

bench: deps build ## figures of docs/PERFORMANCE.md, measured beside their peers
	@go run ./tests/bench

bench-adaptive: ## the adaptive cadence against fixed and peer schedules, simulated (3 to 6 minutes on one core)
	@nice -n 15 go run ./tests/bench/adaptive

fuzz-short: ## each fuzz target for 20 s
	@tests/fuzz-short 20s

lint: ## golangci-lint and shellcheck
	@go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...
	@shellcheck -x deploy/lab/lab deploy/lab/selftest deploy/lab/lib/host-init.sh deploy/lab/lib/fence-client deploy/lab/lib/order-client deploy/setup/install-deps deploy/demo/transcript tests/run tests/fuzz-short

workflowcheck: ## determinism of the workflows
	@go run go.temporal.io/sdk/contrib/tools/workflowcheck@v0.6.0 -config workflowcheck.config.yaml ./workflows/...

fmt: ## gofmt
	@gofmt -w $$(git ls-files '*.go')

clean: ## remove build/
	@rm -rf $(BUILD)
