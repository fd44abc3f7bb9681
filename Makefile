# Each target makes the environment itself; a second call reuses it. Needs Python 3.11-3.13 and a package index.
PYTHON ?= python3
WORKERS ?= 3
ENCODER ?= conformer
BIN := .venv/bin
READY := .venv/.ready
LOCK := requirements.lock
export OMP_NUM_THREADS := 1

.PHONY: help setup lock demo model test test-long test-slurm chaos chaos-quick check clean

help:
	@echo "make setup      the environment, in .venv, with the versions of $(LOCK)"
	@echo "make lock       renew $(LOCK): the newest versions that pyproject.toml allows"
	@echo "make demo       train a recogniser on two learners, with a word error report and a page to look at"
	@echo "make model      a recogniser of read English: DATA=<folder of the corpus> TEXTS=<folder of texts>; QUICK=1 tries every step"
	@echo "make test       every test but the long ones"
	@echo "make test-long  the long ones"
	@echo "make test-slurm runs under a real SLURM of two virtual nodes, which is installed first (Debian, root)"
	@echo "make chaos      real runs, to which some hundred faults are done, and bad input for every reader: about an hour"
	@echo "make chaos-quick  the same with a few of every kind: five minutes"
	@echo "make check      ruff format, ruff, mypy and the tests"

setup: $(READY)

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "make: Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); name one with PYTHON=python3.12"; exit 2; }
	@echo "making the environment in .venv: about two minutes and 5 GB, once"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(LOCK) setuptools
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(LOCK) --no-build-isolation \
		--editable '.[synthetic,export,sweep,vad,test,check]'
	@touch $(READY)

# For every Python and platform at once; uv has an environment of its own, since a lock that no longer installs needs it most.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --disable-pip-version-check uv
	.venv-lock/bin/uv pip compile --quiet --universal --upgrade --python-version 3.11 --all-extras \
		--custom-compile-command "make lock" --output-file $(LOCK) pyproject.toml
	rm -rf .venv-lock

demo: $(READY)
	@echo "demo, 1 of 3: making speech (once) and training; each line says step/all steps and ETA, the time still to go"
	$(BIN)/python scripts/launch.py --learners 2 train experiment=demo name=demo
	@echo "demo, 2 of 3: word errors on voices that the model has never heard"
	$(BIN)/python scripts/evaluate.py run=exp/demo
	@echo "demo, 3 of 3: the page"
	$(BIN)/python scripts/report.py exp/demo
	@echo
	@echo "What next, after: . .venv/bin/activate"
	@echo "  look       open exp/demo/report.html in a browser"
	@echo "  transcribe python scripts/transcribe.py run=exp/demo data/synthetic/*/test/test-00000[0-4].wav"
	@echo "             (this model knows the 40 words of the demo, spoken by a synthesiser, and no other speech)"
	@echo "  compare    python scripts/launch.py --learners 2 train name=gossip experiment=demo backend=dpsgd"
	@echo "  own data   python scripts/prepare.py data=librispeech data.root=/corpora/LibriSpeech; other layouts: docs/data.md"

# Hours; stopped by whatever, the same command goes on. ENCODER=lstm writes word pieces.
model: $(READY)
	$(BIN)/python scripts/recipe.py --data "$(DATA)" --texts "$(TEXTS)" --encoder $(ENCODER) $(if $(QUICK),--quick)

# Files in the order in which they are found: the whole runs come first, and none is left for the end. One process more than the cores
# of a small machine, since learners also wait: for each other, and for those that tests have killed.
# Compiled code is kept: tests start a hundred interpreters, each of which would compile the project again.
test: $(READY)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -m "not long and not gpu" --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: $(READY)
	$(BIN)/python -m pytest -m "long" --timeout 3600

test-slurm: $(READY)
	scripts/dev/slurm_sandbox.sh install
	$(BIN)/python -m pytest tests/integration/test_slurm.py

# Cutting links and filling a file system need root; without it these kinds are left out, and the table says so.
chaos: $(READY)
	$(BIN)/python -m tests.chaos --json chaos.json

chaos-quick: $(READY)
	$(BIN)/python -m tests.chaos --quick

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
