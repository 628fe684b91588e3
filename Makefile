# Everything runs in .venv, made here on first use. PYTHON may name any interpreter from 3.11 to 3.13.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
CHECKPOINT := examples/cats64.safetensors
ROOMS := core plugins models train runtime export benchmarks cli

.PHONY: help venv demo test test-long test-quick fuzz lint types imports wheel docs-check bench clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/demo ## Checkpoint to verified, measured engines and a report, in out/demo
	$(BIN)/stylert demo $(CHECKPOINT) --out out/demo

# A process per core, each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: .venv/dev ## The tests, without the longest
	$(PYTEST) -m "not long"

test-long: .venv/dev ## The longest tests: every command of the pages, whole pipelines, dry runs of the benchmarks
	$(PYTEST) -m long

test-quick: .venv/dev ## The tests that take seconds
	$(PYTEST) -m "not slow and not long"

fuzz: .venv/dev ## All tests, with new random inputs and many more damaged files; prints the seed that repeats them
	@seed=$${STYLERT_TEST_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
	echo "repeat with: make fuzz STYLERT_TEST_SEED=$$seed"; STYLERT_FUZZ=1 STYLERT_TEST_SEED=$$seed $(PYTEST)

lint: .venv/dev ## Style (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev ## Static types (mypy), on the rooms as one package: an editable namespace package is invisible to it
	rm -rf build/typed && mkdir -p build/typed/stylert
	for room in $(ROOMS); do ln -s $(CURDIR)/$$room build/typed/stylert/$$room; done
	cd build/typed && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml --python-executable ../../$(BIN)/python -p stylert

imports: .venv/dev ## Which stage may import which (import-linter)
	$(BIN)/lint-imports

wheel: .venv/dev ## Build the wheel, install it alone into an empty environment, use it from another folder
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	sh tests/wheel.sh $(PYTHON) dist/*.whl

docs-check: .venv/dev ## Run every command in README.md and docs/
	$(BIN)/python -m pytest tests/test_docs.py

api: .venv/dev ## Pages of the API, made from the docstrings, in out/api
	$(BIN)/pdoc --docformat google --output-directory out/api $(addprefix stylert.,$(ROOMS))

bench: .venv/demo ## The standard suite on this machine, with report, in out/bench (a quarter of an hour)
	$(BIN)/stylert bench --model sg2-256 --scenario single-stream,offline,server,cold-start,build --out out/bench

clean: ## Remove what was built
	rm -rf .venv build dist out

# An environment without pip was left by a kill in the middle, or by a Python without its module for this. It is completed.
venv:
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "stylert needs Python 3.11 to 3.13: make PYTHON=python3.12 ..."; exit 2; }; \
	  echo "$(PYTHON) -m venv .venv"; $(PYTHON) -m venv .venv; }

# Each stamp is one set of extras; a change of pins or extras installs again.
.venv/demo: pyproject.toml constraints.txt | venv
	@echo "installing stylert with what the demo needs (a few minutes on first use)"
	$(INSTALL) --editable '.[demo]'
	@touch $@

.venv/dev: pyproject.toml constraints.txt | venv
	@echo "installing stylert with what the tests need (a few minutes on first use)"
	$(INSTALL) --editable '.[dev]'
	@touch $@ .venv/demo
