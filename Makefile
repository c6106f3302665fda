# One command sets everything up and shows it: make demo. One runs all checks: make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test fast soak bench docs clean

help:
	@echo "make demo    set up, prepare the Python runtime, run the example on real data in the sandbox"
	@echo "make test    set up what tests need, run every check"
	@echo "make fast    the checks that take less than a minute: format, lint, types, structure, pure parts"
	@echo "make soak    long fuzz and stress runs"
	@echo "make bench   measure, side by side with peers; writes benchmarks/results/"
	@echo "make docs    write docs/cli.md from the commands' own help"
	@echo "make clean   remove what make made here"

$(VENV)/.run: pyproject.toml scripts/setup.sh
	@PYTHON=$(PYTHON) sh scripts/setup.sh run

$(VENV)/.test: pyproject.toml scripts/setup.sh
	@PYTHON=$(PYTHON) sh scripts/setup.sh test

$(VENV)/.bench: pyproject.toml scripts/setup.sh
	@PYTHON=$(PYTHON) sh scripts/setup.sh bench

demo: $(VENV)/.run
	@$(BIN)/sojourn image build --imports numpy,pandas
	@echo
	@echo '$$ sojourn run --grant dir:examples/data/mauna-loa-co2.csv=/data/mauna-loa-co2.csv examples/co2.py /data/mauna-loa-co2.csv'
	@$(BIN)/sojourn run --grant dir:examples/data/mauna-loa-co2.csv=/data/mauna-loa-co2.csv \
		examples/co2.py /data/mauna-loa-co2.csv

fast: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not engine and not runtime and not native and not network and not soak"

# The runtime is compiled before the tests that need it: on a fresh machine that takes minutes, which no test's own
# deadline allows for.
test: fast
	$(BIN)/sojourn image build --imports numpy,pandas
	$(PYTEST) -m "(engine or runtime or native or network) and not soak"

soak: $(VENV)/.test
	$(PYTEST) -m soak --timeout=7200

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

docs: $(VENV)/.test
	$(BIN)/python docs/generate_cli.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
