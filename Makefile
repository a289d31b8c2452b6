# What a newcomer guesses: make demo, make test, make build, make lint, make bench, make fuzz.
SHELL := /bin/bash
CARGO ?= cargo
BIN := target/release/portcullis
# The root part of a target: nothing for root, sudo for everybody else.
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup build demo test lint doc package deny bench bench-peers fuzz bpf bpf-check test-zerocopy install clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: ## Install what is missing (apt packages by name)
	@scripts/setup

build: setup ## Build the command: target/release/portcullis
	$(CARGO) build --release --locked -p portcullis-cli

demo: build ## Two policies, four hosts, real connections: watch it work (root or sudo)
	$(ROOT) $(BIN) demo

test: setup ## Everything that must hold: format, lints, unit, property, end-to-end, documents
	scripts/test

test-zerocopy: setup ## Real zero-copy, in a QEMU guest (about a minute; skipped loudly without the packages)
	scripts/test-zerocopy.sh

lint: setup ## Format and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

doc: setup ## API documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

package: setup ## Pack every crate, and build each from its package
	$(CARGO) package --locked --workspace

deny: ## Licences, bans and sources of dependencies (needs cargo-deny)
	scripts/deny

bench: setup ## All criterion benches
	$(CARGO) bench --locked -p portcullis

bench-peers: build ## Side by side with DPDK's libraries (needs libdpdk-dev)
	benches/peers/run

fuzz: setup ## Every fuzz target for a minute each (needs cargo-fuzz)
	scripts/fuzz

bpf: ## Rebuild the XDP program's object (needs clang)
	crates/bpf/build-object

bpf-check: ## Rebuild the XDP program and compare with the committed object
	crates/bpf/build-object --check

PREFIX ?= /usr/local
install: build ## Install the command and the C library under PREFIX (default /usr/local)
	install -Dm755 $(BIN) $(DESTDIR)$(PREFIX)/bin/portcullis
	crates/ffi/install $(PREFIX) $(DESTDIR)

clean: ## Remove what was built
	$(CARGO) clean
