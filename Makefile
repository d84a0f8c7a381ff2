# `make demo` shows what scionet does, `make test` checks it in minutes, `make test-slow` runs the long tests, `make
# test-oldest` the tests with the oldest versions that pyproject.toml accepts, `make fuzz` attacks the readers of files for
# longer, `make pages` writes the pages of the benchmarks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
# Two test processes share two cores: one thread each is faster than four that wait for one another. The tests of one file
# run in one process: they share what is trained, pruned or saved once.
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PARALLEL := -n 2 --dist loadfile

.PHONY: demo test test-slow test-oldest fuzz format pages clean

demo: $(VENV)/installed-all
	$(BIN)/scionet demo

test: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/pre-commit validate-config
	$(SINGLE) $(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-slow: $(VENV)/installed-dev
	$(SINGLE) $(BIN)/python -m pytest $(PARALLEL) -m slow

# Hostile files and inputs, many times as many cases as in `make test`.
FUZZ_CASES ?= 5000
fuzz: $(VENV)/installed-dev
	$(SINGLE) $(BIN)/python -m pytest -n 2 tests/adversarial --fuzz-cases $(FUZZ_CASES)

# The tools that check the sources are those of `make test`; here only the packages are old. Needs Python 3.11 or 3.12.
test-oldest: $(OLDEST)/installed
	$(SINGLE) $(OLDEST)/bin/python -m pytest $(PARALLEL) -m "not slow"

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The HTML pages of the committed benchmark records, in docs/pages.
pages: $(VENV)/installed-dev
	$(SINGLE) $(BIN)/python -m benchmarks.report.pages

clean:
	rm -rf $(VENV) $(OLDEST) dist docs/pages .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Editable, so that a change of the sources needs no new installation, and both targets can share one environment.
$(VENV)/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@

$(OLDEST)/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[dev]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
