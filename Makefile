# make demo   the main job on a synthetic data set: install, make videos, train, 30-view test
# make test   the tests, on all cores; make test-all adds the slow ones; make lint
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO ?= OCT_I3D
PYTEST = $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: demo test test-slow test-all lint format clean

# One thread: in a network this small, threads that wait for each other cost more than they bring.
demo: $(VENV)/.installed
	$(BIN)/python tools/make_synthetic.py --out data/synthetic
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python tools/run_net.py --cfg configs/Synthetic/$(DEMO).yaml
	@echo "Before other commands, in every new terminal: source $(BIN)/activate"

# A test process for each core, but the tests of a SLURM cluster alone: the cluster has all cores.
test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow and not slurm and not gpu"

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m "slow and not slurm and not gpu"
	$(BIN)/python -m pytest -m "slurm and not gpu"

test-all: test test-slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	$(PIP) -e ".[plot]"
	@touch $@

$(VENV)/.installed-dev: setup.py constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV), with the tools for tests ..."
	$(PIP) -e ".[plot,dev]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv-torch-next .venv-headers examples/javascript/node_modules build *.egg-info
