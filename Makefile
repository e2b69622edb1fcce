# `make help` lists what there is. Set-up installs pinned versions into .venv and resolves nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test trust clients lint docs lock clean

PYTHON ?= python3
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
DATA ?=
ARGS ?=
JOBS ?= 2
export HF_HUB_OFFLINE ?= 1
export NO_MKDOCS_2_WARNING := 1

LOCK := deploy/locks/$(DEVICE).txt
STAMP := .venv/.setup-$(DEVICE)
RUN := .venv/bin/python -m

help: ## show this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8
	@echo "variables: DEVICE=cpu|gpu  PYTHON=python3.11  DATA=<folder of records>  ARGS='<flags of the command>'  JOBS=<processes of test>"

setup: $(STAMP) ## virtual environment, pinned packages, model
	@$(RUN) mindprint.model_files

demo: setup ## the whole loop once: make demo [DATA=folder] [ARGS='--users 4']
	@exec .venv/bin/mindprint demo $(if $(DATA),--data '$(DATA)') $(ARGS)

test: setup ## the whole test suite
	@$(RUN) pytest --numprocesses=$(JOBS) $(ARGS)

trust: setup ## try to break the service: make trust [ARGS='--kills 1000 --soak 3600']
	@exec .venv/bin/python tests/trust $(ARGS)

clients: setup ## call the server with the clients that people use: make clients [ARGS='--only litellm']
	@exec .venv/bin/python tests/clients/try_clients.py $(ARGS)

lint: setup docs ## ruff, mypy, import contracts, the docs site and its generated pages
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@.venv/bin/lint-imports
	@.venv/bin/python docs/_generate.py --check
	@.venv/bin/python benchmarks/update_docs.py --check

docs: setup ## build the docs site strictly, into .mindprint/site
	@$(RUN) mkdocs build --quiet

lock: ## compute deploy/locks/*.txt anew (needs uv)
	@bash deploy/locks/lock.sh

clean: ## remove all that was made in this folder (the model stays in its cache)
	rm -rf .venv .mindprint build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -maxdepth 2 -name '*.egg-info' -prune -exec rm -rf {} +

# Another device's packages share files with this one's, so its environment is not built upon.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "error: $(PYTHON) is not Python 3.11 or newer: name one, as in make setup PYTHON=python3.11" >&2; exit 1; }
	@if [ -d .venv ] && [ -n "$$(find .venv -maxdepth 1 -name '.setup-*' ! -name '.setup-$(DEVICE)')" ]; then rm -rf .venv; fi
	@echo "setting up .venv for $(DEVICE) from $(LOCK)"
	@[ -x .venv/bin/python ] || $(PYTHON) -m venv .venv \
	  || { rm -rf .venv; echo "error: $(PYTHON) cannot make virtual environments: install its venv module" >&2; exit 1; }
	@rm -f .venv/pip.log
	@$(RUN) pip install --disable-pip-version-check --no-deps --log .venv/pip.log -r $(LOCK) \
	  || { if grep -q 'No matching distribution found for torch==' .venv/pip.log; then \
	    echo "error: pip does not find PyTorch's CPU build: add PyTorch's CPU wheel index to pip (PIP_EXTRA_INDEX_URL) and run this again" >&2; fi; exit 1; }
	@$(RUN) pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@
