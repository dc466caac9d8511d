# Everything a developer runs. Each target first makes what it needs, and only if it changed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
RUST := $(shell find rust_core -name '*.rs' -o -name Cargo.toml -o -name '*.proto' | grep -v /target/) \
        Cargo.toml Cargo.lock
say = @printf '\033[1m==> %s\033[0m\n' "$(1)"

.PHONY: docs fragments bench-simulator help build demo arena agree bench fuzz test lint lint-rust lint-python test-rust test-python test-compose test-mesh truth profiles clean

help:
	@echo "make build   a .venv with everything installed, the Rust core in release mode"
	@echo "make demo    six emulated replicas, the sidecar, a real Envoy, 300 requests"
	@echo "make test    lint, then all tests, Rust and Python, through a real Envoy"
	@echo "make test-compose  docker compose up on a real engine, which it installs where it may"
	@echo "make test-mesh   real control planes, which it builds from Go modules (half an hour the first time)"
	@echo "make fragments   mesh fragments and compose's Envoy, from what is rendered"
	@echo "make bench-simulator  routing policies side by side, simulated, into docs/benchmarks.md"
	@echo "make lint    ruff, mypy, rustfmt, clippy"
	@echo "make arena   ours beside other routers, live, on the same emulated replicas (20 minutes)"
	@echo "make agree   arena and simulator side by side in six settings (45 minutes)"
	@echo "make bench   decisions and Envoy with the sidecar, measured into out/ (a quarter of an hour)"
	@echo "make fuzz    every fuzz target for a minute (FUZZ_SECONDS=60)"
	@echo "make truth   calibration against engines with hidden costs (ten minutes)"
	@echo "make profiles  the shipped profiles from NVIDIA's tables, which it installs"
	@echo "make docs    the generated parts of docs/, from the code"
	@echo "make clean   removes .venv and what Rust has built"

build: $(STAMPS)/extension

$(STAMPS)/python:
	$(call say,Python environment in $(VENV))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed; try make PYTHON=python3.12"; exit 1; }
	@command -v cargo >/dev/null \
	  || { echo "Rust is needed: cargo is not on PATH (https://rustup.rs)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip 'maturin>=1.9,<2'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dependencies: pyproject.toml | $(STAMPS)/python
	$(call say,Python packages)
	@$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  extras = p["optional-dependencies"]; \
	  print(*p["dependencies"], *(one for name in ("dev", "demo", "calibrate", "kubernetes", "otel") for one in extras[name]), sep="\n")' \
	  > $(STAMPS)/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(STAMPS)/requirements.txt
	@touch $@

$(STAMPS)/extension: $(RUST) $(STAMPS)/dependencies
	$(call say,Rust core (release); some minutes the first time)
	VIRTUAL_ENV=$(abspath $(VENV)) PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
	  $(BIN)/maturin develop --release --quiet
	@touch $@

demo: build
	$(call say,Demo)
	$(BIN)/weighbridge up --exit

# Each peer in an environment of its own: two of them bring commands of the same name.
PEERS := smg==1.13.0 sglang-router==0.3.2 vllm-router==0.1.17
# Of Dynamo, what its selection service needs: one of the other dependencies needs a GPU to build.
DYNAMO := ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1
DYNAMO_NEEDS := pydantic==2.13.3
.peers/stamp: Makefile
	$(call say,Peers: $(PEERS) $(DYNAMO))
	@for peer in $(PEERS); do \
	  $(PYTHON) -m venv .peers/$${peer%%==*}; \
	  .peers/$${peer%%==*}/bin/pip install --quiet --disable-pip-version-check $$peer; \
	done
	@$(PYTHON) -m venv .peers/dynamo
	@.peers/dynamo/bin/pip install --quiet --disable-pip-version-check $(DYNAMO_NEEDS)
	@.peers/dynamo/bin/pip install --quiet --disable-pip-version-check --no-deps $(DYNAMO)
	@touch $@

arena: build .peers/stamp
	$(call say,Arena (some 20 minutes on a quiet machine; ARENA=... for less$(comma) see docs/benchmarks.md))
	$(BIN)/python -m tests.arena.run --peers .peers --pages $(ARENA)
	$(BIN)/python -m tests.arena.agree

# Six settings, of some contestants each: what they have in common, and each one's own.
AGREE := --peers .peers --rounds 1 --replicas 4 \
  --only 'weighbridge,weighbridge without,envoy least,envoy maglev,dynamo,smg cache_aware'
AGREE_light := --workload chat --seconds 180 --time-scale 1.5 --speed 5
AGREE_heavy := --workload chat --seconds 120 --time-scale 3 --speed 3
AGREE_overload := --workload chat --seconds 90 --time-scale 5 --speed 2
AGREE_closed := --workload chat --seconds 90 --time-scale 3 --speed 3 --clients 80
AGREE_agents := --workload agents --seconds 40 --speed 4
AGREE_mixed := --workload mixed --seconds 30 --speed 4
AGREE_ALL := light heavy overload closed agents mixed
agree: build .peers/stamp
	$(call say,Arena and simulator in six settings$(comma) some 45 minutes on a quiet machine)
	@mkdir -p out/agree
	$(foreach one,$(AGREE_ALL),$(BIN)/python -m tests.arena.run $(AGREE) $(AGREE_$(one)) --json out/agree/$(one).json &&) true
	$(BIN)/python -m tests.arena.agree $(AGREE_ALL:%=out/agree/%.json) --json out/agree/agree.json

bench-simulator: build
	$(call say,Policies side by side before modelled replicas)
	$(BIN)/python -m tests.simulator $(SIMULATOR)

bench: build
	$(call say,Benchmarks (criterion$(comma) then weighbridge bench; JSON in out/))
	@mkdir -p out
	cargo bench --quiet --package weighbridge-bench
	$(BIN)/weighbridge bench decision --json out/decision.json
	$(BIN)/weighbridge bench transport --json out/transport.json

fuzz: build
	$(call say,Fuzzing)
	$(BIN)/python -m tests.fuzz_pages
	rust_core/fuzz/run.sh

lint: lint-python lint-rust

lint-python: build
	$(call say,ruff and mypy)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

lint-rust:
	$(call say,rustfmt and clippy)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked --quiet -- -D warnings

test: lint test-rust test-python
	$(call say,All tests passed$(comma) but those with real control planes: make test-mesh)

test-rust:
	$(call say,Rust tests)
	cargo test --workspace --locked --quiet

fragments: build
	$(call say,Envoy files and manifests that follow from others)
	$(BIN)/python -m tests.manifests.fragments

test-compose: build
	$(call say,docker-compose.yml on a real engine; some minutes to build the image)
	$(BIN)/pytest -s --timeout 1800 tests/compose

# An API server, Envoy Gateway and istiod, in a network namespace of their own: no port is taken
# here, and nothing outside can be reached. PLANES is where what was built is kept.
PLANES := .mesh
MESH_ADDRESSES := $(addprefix 10.244.0.,1 11 12 13 14 20 21 22)
test-mesh: build
	$(call say,Control planes into $(PLANES)$(comma) half an hour of two cores the first time)
	PYTHON=$(abspath $(BIN))/python tests/mesh/build.sh $(PLANES)
	$(call say,Envoy Gateway$(comma) istiod and an API server drive the sidecar; ten minutes)
	@unshare --map-root-user --net --mount bash -euc 'ip link set lo up; \
	  for one in $(MESH_ADDRESSES); do ip address add $$one/32 dev lo; done; \
	  PLANES=$(abspath $(PLANES)) exec $(BIN)/pytest --timeout 900 tests/mesh $(MESH)'
	$(BIN)/python -m tests.mesh.compatibility $(PLANES)

test-python: build
	$(call say,Python tests$(comma) also through a real Envoy)
	$(BIN)/pytest --numprocesses auto tests/unit tests/manifests
	$(BIN)/pytest tests/conformance tests/e2e

truth: build
	$(call say,Calibration against engines with hidden costs; some ten minutes)
	$(BIN)/pytest -m long -s tests/e2e/test_calibrate.py

profiles: build
	$(call say,The shipped profiles from NVIDIA's tables)
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  "$$($(BIN)/python -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["aiconfigurator"][0])')"
	$(BIN)/weighbridge calibrate --from-aiconfigurator --out tensorrt_backends/profiles

docs: build
	$(call say,Generated parts of docs/)
	$(BIN)/python -m weighbridge.cli.reference docs

comma := ,

clean:
	rm -rf $(VENV) target
