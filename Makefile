# `make check` is all that has to pass; .ci/run calls it. VENV is where the tools are.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: check format lint types test figures

check: lint types test

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

test:
	$(BIN)/pytest -q --cov

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

figures:
	$(BIN)/python figures/overview.py docs/overview.svg
