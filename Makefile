# Plain make, one target a job. `make help` lists them.

# Everything is built with the race detector but modernc.org/sqlite/lib, which is C translated to Go: instrumenting it finds
# nothing of ours and makes every SQLite statement many times slower. Nothing else may be left out: a package that uses
# generic code of the standard library may lend its uninstrumented copy to all, and races are seen that are none.
# All steps share these flags, and so one build cache.
RACE = -race -gcflags=modernc.org/sqlite/lib=-race=false

# Every go.mod of the tree (arch_test.go compares).
MODULES = . test/peers/go

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Where scripts/deps puts a Node.js when Debian's is too old.
export PATH := $(CURDIR)/bin/node/node_modules/.bin:$(PATH)

.PHONY: run test deps lint unit peers bench soak help
.NOTPARALLEL:

run: ## start the server in dev mode: http://127.0.0.1:8420, no configuration needed
	go run ./cmd/heirloom serve --dev

test: deps lint unit peers ## all tests: installs what is missing, checks, race detector, foreign clients (CI runs this)
	@scripts/matrix --strict
	@echo "heirloom: all passed: format, vet, staticcheck, go test -race, and the peers in Go, Node.js, Chromium and curl"

deps: ## install what the tests need and the machine lacks (Debian packages as root, npm packages from the lock file)
	@scripts/deps

lint: ## format, house rules, vet, staticcheck, tidy go.mod files; needs no server
	@echo "== lint"
	@# Not from the cache: the house rules read git and go list, which the cache does not watch.
	go test $(RACE) -vet=off -count=1 .
	@GOBIN=$(CURDIR)/bin GOFLAGS= go install $(STATICCHECK)
	@set -e; for m in $(MODULES); do echo "-- $$m"; (cd $$m && go mod tidy -diff && go vet $(RACE) ./... && \
		GOFLAGS="$$GOFLAGS $(RACE)" $(CURDIR)/bin/staticcheck ./...); done

unit: ## Go tests of the module with the race detector
	@echo "== go test -race"
	go test $(RACE) -vet=off ./...

peers: deps ## clients we did not write, against the real binary (itself built with the race detector)
	@echo "== peers"
	go build $(RACE) -o bin/heirloom-race ./cmd/heirloom
	cd test/peers/go && HEIRLOOM_BIN=$(CURDIR)/bin/heirloom-race go test -race -count=1 ./...
	cd test/peers/node && HEIRLOOM_BIN=$(CURDIR)/bin/heirloom-race npm test
	cd js && HEIRLOOM_BIN=$(CURDIR)/bin/heirloom-race npm test
	HEIRLOOM_BIN=$(CURDIR)/bin/heirloom-race test/peers/curl/story

bench: ## measure this build on this machine (see BENCHMARKS.md)
	go run ./bench -write BENCHMARKS.md -json bin/bench.json

soak: ## wear the real server down: lost answers, retries, kills, thieves; SOAK="-refreshes 1000000 -clients 10000" for long
	go run ./bench -soak $(SOAK)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
