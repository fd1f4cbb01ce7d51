# The whole set-up and every check: `make demo` and `make test` are all a user needs.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
SOURCES := $(shell find gateway native -type f \( -name '*.py' -o -name '*.[ch]' -o -name '*.pyi' -o -name 'meson.build' \) 2>/dev/null) meson.build meson.options pyproject.toml
PACKAGES := bird2 charon-systemd etcd-server frr gcc git gobgpd iperf3 iproute2 iputils-ping libc6-dev libcharon-extra-plugins libipsec-mb-dev \
	libssl-dev libstrongswan-extra-plugins libstrongswan-standard-plugins nftables pkg-config procps python3-dev \
	python3-venv strace strongswan-swanctl systemd tcpdump util-linux

# What `make test-slow` needs beside the above: libFuzzer, promtool, and a reader of captures.
SLOW_PACKAGES := clang libclang-rt-14-dev prometheus tshark

# What `make bench` compares with, beside the above.
BENCH_PACKAGES := wireguard-go wireguard-tools ethtool

.PHONY: help demo test test-slow test-all bench lint build lock clean soak-simulation
help:
	@echo "make demo      build, then show a whole site-gateway-VNet scene in network namespaces"
	@echo "make test      build, then run the test suite (at most 15 minutes)"
	@echo "make test-all  the same, and what takes longer"
	@echo "make bench     build, then measure beside strongSwan and wireguard-go; BENCH_CASES=a,b BENCH_ROUNDS=n BENCH_REPORT=FILE"
	@echo "make soak-simulation  100000 schedules of each simulator; stop it and start it again as you like; SOAK=n"
	@echo "make lint      ruff, mypy, import contracts, clang-format"

# --- set-up ---------------------------------------------------------------------------------------------------------

$(VENV)/.system: Makefile
	@bash tools/install-system $(PACKAGES)
	@mkdir -p $(VENV) && touch $@

$(VENV)/.packages: requirements.lock $(VENV)/.system
	@test -x $(PY) || /usr/bin/python3 -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.packages $(SOURCES)
	@echo "building"
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation \
		--force-reinstall --config-settings=build-dir=build/wheel .
	@touch $@

build: $(VENV)/.installed

# --- the two commands -----------------------------------------------------------------------------------------------

demo: build
	@$(PY) -m demo

# Two processes for what builds networks, one for what computes (tests/conftest.py); the slow ones measure more, and have no third beside them
PARALLEL = --no-loadscope-reorder --durations=30

test: build
	@$(VENV)/bin/pytest -n 3 $(PARALLEL) -m "not slow"

test-slow: build
	@bash tools/install-system $(SLOW_PACKAGES)
	@for tree in 13 14 13-libreswan; do tools/debian-tree $$tree || exit; done
	@SIM_FACTOR=2 $(VENV)/bin/pytest -n 2 $(PARALLEL) -m slow tests

test-all: test-slow test

# The pair's, IKE's, and those of whole pairs with an address that moves: hours. Goes on where it was stopped; rm -r build/soak-* to begin again.
SOAK ?= 100000
soak-simulation: build
	@failed=0; for of in pair simulation move; do \
		SOAK_OF=$$of PYTHONPATH=tests $(PY) -m simulation.soak $(SOAK) || failed=1; done; exit $$failed

bench: build
	@bash tools/install-system $(BENCH_PACKAGES)
	@$(PY) -m benchmarks

lint: $(VENV)/.packages
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/clang-format --dry-run -Werror native/*.c native/*.h native/tests/*.c

lock:
	$(VENV)/bin/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --group dev pyproject.toml -o requirements.lock
	$(VENV)/bin/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --extra aws -c requirements.lock pyproject.toml -o runtime.lock

clean:
	rm -rf build $(VENV) gateway/*.so
