# The few commands of the project. Everything that `test` needs beyond a toolchain, tests/setup.sh brings.

TOOLS := $(CURDIR)/target/test-tools
CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help run test deploy-test soak lint fmt bench

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name what; do printf '  make %-8s %s\n' "$$name" "$$what"; done

run: ## Build and start with ./config.yaml
	$(CARGO) run --release --locked

test: ## Every test, the stock OAuth clients and kubectl among them; installs those where they are missing
	tests/setup.sh
	PATH="$(TOOLS)/bin:$$PATH" SIDEGATE_REQUIRE_TOOLS=1 $(CARGO) test --locked --lib --bins --tests
	$(MAKE) --no-print-directory deploy-test

# Builds what `test` builds, so that it is built once: cargo has the program anew where dependencies have other features.
deploy-test: ## What deploy/ and the Dockerfile ship: manifests, chart, image; a part of `test`
	tests/setup.sh
	$(CARGO) test --locked --lib --bins --tests --no-run
	PATH="$(TOOLS)/bin:$$PATH" SIDEGATE_REQUIRE_TOOLS=1 $(TOOLS)/venv/bin/python -m unittest discover --start-directory tests/deploy --verbose

soak: ## The storms of the tests, ten times as long
	SIDEGATE_SOAK=1 $(CARGO) test --locked --test it storm

# cargo-deny is brought by tests/setup.sh; without it the other checks still run.
lint: ## Format, clippy, documentation, licences and sources of the dependencies; every warning is an error
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --lib --no-deps --quiet
	@if PATH="$(TOOLS)/bin:$$PATH" command -v cargo-deny >/dev/null; then \
		PATH="$(TOOLS)/bin:$$PATH" cargo-deny --log-level error --locked check bans licenses sources; \
	else \
		echo 'make lint: skipped cargo-deny, which is not installed (tests/setup.sh brings it)'; \
	fi

fmt: ## Format
	$(CARGO) fmt --all

# BENCH_ARGS go to what is run as they are: --quick, --only, --soak … RIG is a folder with another rig's run.py, which
# benches/rig/sidegate.py fits.
bench: ## Micro-benchmarks, then what a request costs beside nginx, HAProxy and Envoy, as a table (target/bench/report.md)
ifdef RIG
	$(CARGO) build --release --locked
	python3 $(RIG)/run.py --extra $(CURDIR)/benches/rig/sidegate.py $(or $(BENCH_ARGS),--suts sidegate$(,)sidegate-plain$(,)nginx-plain --baseline nginx-plain)
else
	$(CARGO) bench --locked --bench decision
	python3 benches/peers/run.py $(BENCH_ARGS)
endif

, := ,
