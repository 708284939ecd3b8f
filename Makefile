# Two commands matter: `make book` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The Python that .venv is made from; override with `make book PYTHON=/path/to/python3.12`.
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
# NEWEST=1 installs the newest versions that pyproject.toml allows instead of the tested set.
NEWEST ?=

VENV := .venv
PY := $(VENV)/bin/python
CHAPTERS := $(sort $(wildcard chapters/*.ipynb))
RESULTS := _build/results
INDEX := _build/html/index.html
# Named after what it installs (and where), so that a change installs again and nothing else does.
STAMP := $(VENV)/installed-$(shell (pwd; echo "$(NEWEST)"; cat requirements.txt pyproject.toml) | sha256sum | cut -c1-16)

# Chapters are run with these, whether to store their outputs or to compare them: one thread
# (several test workers share the machine, and sums keep their order), no progress bars, and
# figures as plain data instead of a copy of plotly.js in each notebook.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export NUMBA_NUM_THREADS := 1
export TQDM_DISABLE := 1
export PLOTLY_RENDERER := plotly_mimetype
# SVG files without the date of the run
DATELESS := SOURCE_DATE_EPOCH=0

# The real mamba-ssm, for one test that runs its code on CPU tensors. It stands apart: its compiled
# scan is missing there, and other packages would take it for whole. Triton exists for Linux only.
MAMBA_SSM := $(VENV)/mamba-ssm
MAMBA_STAMP := $(if $(filter Linux,$(shell uname)),$(MAMBA_SSM)/installed)

.PHONY: help book test lint unit notebooks site execute stamp lab clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(STAMP) ## Build the book and print the path of its first page
	@$(PY) chapters/_ext/build.py

test: $(STAMP) ## Run every check: lint, unit, notebooks, book, site
	@rm -rf $(RESULTS); mkdir -p $(RESULTS)
	@$(MAKE) --no-print-directory --keep-going lint unit notebooks site; status=$$?; \
	$(PY) tests/book/summary.py $(RESULTS) $$status; exit $$status

lint: $(STAMP) ## Check style, formatting and the direction of imports
	@$(PY) -m ruff check --quiet --output-format concise .
	@$(PY) -m ruff format --check --quiet .
	@$(VENV)/bin/lint-imports --no-logo

unit: $(STAMP) $(MAMBA_STAMP) ## Run the unit tests and print their coverage
	@$(PY) -m pytest tests --ignore tests/book -n 2 -q -rs --junitxml $(RESULTS)/unit.xml \
	  --cov --cov-report term:skip-covered

notebooks: $(STAMP) ## Run every chapter again and compare it with its stored outputs
	@$(DATELESS) $(PY) -m pytest $(CHAPTERS) --nbval -n 2 --dist loadfile --nbval-cell-timeout 600 -q \
	  --nbval-sanitize-with tests/book/nbval.cfg --junitxml $(RESULTS)/notebooks.xml

site: book ## Check the notebooks as stored, and the site in a headless Chromium
	@$(PY) -m pytest tests/book -q -rs -s --junitxml $(RESULTS)/site.xml

execute: $(STAMP) ## Run every chapter afresh and store its outputs
	@$(DATELESS) $(PY) chapters/_ext/execute.py $(CHAPTERS)

stamp: $(STAMP) ## Write the address of _config.yml into the chapters, running nothing
	@$(PY) chapters/_ext/execute.py --stamp $(CHAPTERS)

lab: $(STAMP) ## Open the chapters in JupyterLab
	@env -u TQDM_DISABLE -u PLOTLY_RENDERER $(PY) -m jupyterlab --notebook-dir=. chapters/index.md

clean: ## Remove the built book, the caches and .venv
	rm -rf _build $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage* *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null || \
	  { echo "Python: got $$($(PYTHON) --version 2>/dev/null || echo "$(PYTHON), which does not run"), need 3.11 or 3.12; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python: its venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@rm -f $(VENV)/installed-*
	@test -x $(PY) && $(PY) -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV): a few minutes the first time, nothing the next."
	@if [ -n "$(NEWEST)" ]; then $(PY) -m pip install --quiet --upgrade --editable '.[book,test]'; else \
	  $(PY) -m pip install --quiet --requirement requirements.txt && \
	  $(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .; fi
	@touch $@

$(MAMBA_SSM)/installed: $(STAMP) requirements-mamba-ssm.txt
	@echo "Installing mamba-ssm's own code into $(MAMBA_SSM), for its test."
	@rm -rf $(MAMBA_SSM)
	@MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE $(PY) -m pip install --quiet --no-deps \
	  --no-build-isolation --target $(MAMBA_SSM) --requirement requirements-mamba-ssm.txt
	@touch $@
