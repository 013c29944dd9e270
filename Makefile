# The five verbs. Each sets up .venv by itself when it is missing or older than what it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One maths thread a process: two spin at their barriers, and beside other work that costs twenty times the time
# (docs/decisions/0008-threads.md). On an idle machine OMP_NUM_THREADS=2 trains a third faster.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint docs bench

demo: $(READY)
	$(BIN)/constrained-diffusion demo pjm5 --rows 5000 --out runs/pjm5

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(READY)
	$(BIN)/python benchmarks/opf.py
	$(BIN)/python benchmarks/pjm5.py

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
