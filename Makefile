# The five verbs. Each sets up .venv by itself when it is missing or older than what it is made from.
# `make test SDV=1.38` runs the tests of the synthesizer against that SDV, in an environment of its own.
PYTHON ?= python3
SDV ?=
VENV := .venv$(SDV:%=-sdv%)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRA := $(if $(SDV),face,dev)
TESTS := $(if $(SDV),tests/test_synthesizer.py tests/test_imports.py tests/test_sdv_*.py)
# Of two pins of one package the first counts.
PINS := $(SDV:%=constraints-sdv%.txt) constraints.txt
# One maths thread a process: two spin at their barriers, and beside other work that costs twenty times the time
# (docs/decisions/0008-threads.md). On an idle machine OMP_NUM_THREADS=2 trains a third faster.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint docs bench

demo: $(READY)
	$(BIN)/constrained-diffusion demo pjm5 --rows 5000 --out runs/pjm5

test: $(READY)
	$(BIN)/python -m pytest $(TESTS)

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
	$(BIN)/python benchmarks/constraints.py
	$(BIN)/python benchmarks/power.py
	$(BIN)/python benchmarks/fidelity.py --resume
	$(BIN)/python benchmarks/fidelity_page.py
	$(BIN)/python benchmarks/levers.py
	$(BIN)/python benchmarks/seen.py
	$(BIN)/python benchmarks/machine.py
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/scalings.py
	$(BIN)/python benchmarks/tables.py

$(READY): pyproject.toml $(PINS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	awk -F '==' '!seen[$$1]++' $(PINS) > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[$(EXTRA)]'
	touch $@
