# make demo   the main job on a synthetic data set: install, make videos, train, 30-view test
# make test   the tests (install first); make test-all adds the slow ones; make lint
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO ?= OCT_I3D

.PHONY: demo test test-all lint format clean

# One thread: in a network this small, threads that wait for each other cost more than they bring.
demo: $(VENV)/.installed
	$(BIN)/python tools/make_synthetic.py --out data/synthetic
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python tools/run_net.py --cfg configs/Synthetic/$(DEMO).yaml
	@echo "Before other commands, in every new terminal: source $(BIN)/activate"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow and not slurm and not gpu"

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not gpu"

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
	rm -rf $(VENV) build *.egg-info
