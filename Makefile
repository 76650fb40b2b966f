PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test cover lint types format protos bench clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

run: $(VENV)/run.stamp  ## Show a chaincode's life on the embedded default
	$(BIN)/python -m peer demo $(ARGS)

test: $(VENV)/dev.stamp  ## Run the tests; ARGS="-k handler" for some of them
	$(BIN)/python -m pytest $(ARGS)

cover: $(VENV)/dev.stamp  ## Run the tests and hold the coverage to its limit
	$(BIN)/python -m pytest --cov --cov-report= $(ARGS)
	$(BIN)/coverage report --skip-covered --include='peer/chaincode/*,shim/*,runtimes/*' --fail-under=95

lint: $(VENV)/dev.stamp  ## Check style and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/dev.stamp  ## Check types
	$(BIN)/mypy

format: $(VENV)/dev.stamp  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/dev.stamp  ## Generate proto/fabric_protos; ARGS=--check compares only
	$(BIN)/python proto/generate.py $(ARGS)

bench: $(VENV)/dev.stamp  ## Measure and print a table; ARGS=--help for more
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:  ## Remove the virtual environment and everything made from the sources
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/run.stamp: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --editable . --group dev
	touch $@ $(VENV)/run.stamp
