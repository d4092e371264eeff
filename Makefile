# make quickstart   the main job on embedded images, a few minutes on two cores
# make test         lint, types, tests
# make venv         only the environment in .venv

PYTHON ?= python3
BIN := .venv/bin
# Processes that share the tests, file by file: one more than two cores, for much of what clusters do is to wait.
TESTERS ?= 3
STAMP := .venv/.installed

.PHONY: quickstart test venv lint types

quickstart: venv
	$(BIN)/python -m kdray.run experiments/quickstart.yaml

test: lint types
	$(BIN)/python -m pytest -q -n $(TESTERS) --dist loadfile --no-loadscope-reorder

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

venv: $(STAMP)

# Exact versions come from requirements.lock, so that what was tested is what is installed.
$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdray needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test]'
	touch $(STAMP)
