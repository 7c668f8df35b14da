# Every target sets up what it needs; nothing but Python 3.11+, pip and gcc has to be there.
PYTHON ?= python3
CONFIG ?= configs/digits.yaml
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-server lint ui lock reference bench bench-quality

help:
	@echo "make demo [CONFIG=configs/tabular.yaml]   run a whole pipeline and print its report"
	@echo "make test                                 lint, types, import rules and tests"
	@echo "make test-server                          the servers of docs/production.md, with a real PostgreSQL"
	@echo "make ui                                   MLflow and Prefect pages on loopback"
	@echo "make lint                                 lint, types and import rules alone"
	@echo "make bench                                what the work costs, each figure paired with a reference"
	@echo "make bench-quality                        what ensembles and students reach, over several seeds"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or newer is needed, {v.major}.{v.minor} was found; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes -q -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -q -e .
	@touch $@

demo: $(READY)
	@$(BIN)/distillery run $(CONFIG) $(ARGS)

test: lint
	$(BIN)/python -m pytest -m "not server"

# PostgreSQL, MLflow and Prefect as in docs/production.md, with real processes; needs PostgreSQL's programs.
test-server: $(READY)
	$(BIN)/python -m pytest -m server

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: $(READY)
	@$(BIN)/python -m distillery.flows.servers.ui

# For maintainers: the tables of docs/reference.md, from the descriptions of the config's fields.
reference: $(READY)
	$(BIN)/python -m distillery.config.reference

# For maintainers: resolve the newest set of versions that pyproject.toml allows.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements.lock

# benchmarks/results/speed.json, in some twenty minutes; ARGS="--only trials teachers" runs parts of it.
bench: $(READY)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/speed.py $(ARGS)

# benchmarks/results/quality.json; ARGS="--adult TRAIN.csv TEST.csv --images FOLDER" adds what the project does not ship.
bench-quality: $(READY)
	$(BIN)/python benchmarks/quality.py $(ARGS)
