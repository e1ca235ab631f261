# What a person types. `make help` lists it.

TARGET  := $(shell rustc -vV | sed -n 's/^host: //p')
TRIPLE  := $(shell echo $(TARGET) | tr 'a-z-' 'A-Z_')
# One static, non-PIE program: no loader, and no relocations to pay for in every shim.
STATIC  := CARGO_TARGET_$(TRIPLE)_RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static"
DIR     := $(or $(CARGO_TARGET_DIR),target)
PROFILE ?= release

.PHONY: help build test lint bench fuzz nightly demo deps facts

help:
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

deps: ## install what building and testing needs (Debian)
	@scripts/deps

build: ## build target/release/skiff and skiff-bench, static
	$(STATIC) cargo build --locked --target $(TARGET) --profile $(PROFILE) -p skiff -p skiff-bench
	@mkdir -p $(DIR)/$(PROFILE)
	@cp -f $(DIR)/$(TARGET)/$(PROFILE)/skiff $(DIR)/$(TARGET)/$(PROFILE)/skiff-bench $(DIR)/$(PROFILE)/

test: deps ## everything: unit, behaviour, end to end with containers and kubectl
	$(MAKE) build PROFILE=release-lite
	SKIFF_BIN=$(abspath $(DIR))/release-lite/skiff cargo nextest run --locked --workspace

lint: ## formatting, clippy, generated tables
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo run --locked --quiet --manifest-path xtask/Cargo.toml -- facts --check

facts: ## generate the tables of kinds and fields
	cargo run --manifest-path xtask/Cargo.toml -- facts

bench: build ## measure (skiff-bench)
	scripts/bench

fuzz: ## fuzz every target for FUZZ_SECONDS (60) each
	scripts/fuzz

nightly: test ## the long tests, ten minutes of fuzzing a target
	SKIFF_NIGHTLY=1 SKIFF_BIN=$(abspath $(DIR))/release-lite/skiff cargo nextest run --locked --workspace --run-ignored all
	FUZZ_SECONDS=600 scripts/fuzz

demo: ## a cluster from nothing to a web page, step by step
	@scripts/demo
