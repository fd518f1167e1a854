PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# Without files of bytecode each of the many processes that tests start compiles torch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo smol test test-all test-browser check fuzz fuzz-short lint types zoo clean

demo: $(VENV)/.ready  ## merge, evaluate and rank five methods on the embedded benchmark
	$(RUN) run.py -m method=average,task_arithmetic,ties,dare,seme tau=0.1,0.2

smol: $(VENV)/.ready  ## fetch the real model of models=smol
	$(RUN) -m scripts.smol.base

test: $(VENV)/.ready  ## the tests that need neither a network nor a GPU
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --maxprocesses 4 --dist loadgroup

test-all: $(VENV)/.ready
	$(RUN) -m pytest -q -m "not network and not gpu and not browser"

test-browser: $(VENV)/.ready  ## the leaderboard page in headless Chromium
	$(RUN) -m pytest -q -m browser

check: lint types test

lint: $(VENV)/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/.ready
	$(RUN) -m mypy

fuzz: $(VENV)/.ready  ## readers of untrusted files: 100 000 mutated folders, at most half an hour
	$(RUN) -m scripts.fuzz --cases 100000 --seconds 1800

fuzz-short: $(VENV)/.ready  ## the same for 10 seconds
	$(RUN) -m scripts.fuzz --seconds 10

zoo: $(VENV)/.ready  ## does the embedded benchmark tell methods apart?
	$(RUN) -m scripts.zoo.build --check

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --no-compile --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
