# Each target makes the environment itself; a second call reuses it. Needs Python 3.11-3.13 and a package index.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export OMP_NUM_THREADS := 1

.PHONY: help setup demo test test-long check clean

help:
	@echo "make setup      the environment, in .venv"
	@echo "make demo       train a recogniser on two learners, with a word error report and a page to look at"
	@echo "make test       every test but the long ones"
	@echo "make test-long  the long ones"
	@echo "make check      ruff format, ruff, mypy and the tests"

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "make: Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); name one with PYTHON=python3.12"; exit 2; }
	@echo "making the environment in .venv: about two minutes and 5 GB, once"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[synthetic,test,check]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/torchrun --standalone --nproc-per-node 2 scripts/train.py experiment=demo name=demo
	$(BIN)/python scripts/evaluate.py run=exp/demo
	$(BIN)/python scripts/report.py exp/demo

test: $(READY)
	$(BIN)/python -m pytest -m "not long and not gpu"

test-long: $(READY)
	$(BIN)/python -m pytest -m "long" --timeout 3600

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
