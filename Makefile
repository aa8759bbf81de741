# `make check` is all that has to pass; .ci/run does the same in a fresh environment. VENV is where
# the tools are.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: check format lint types test readme figures validation gpu-kit paper paper-quick vllm-env \
  vllm-recordings

check: lint types test

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

test:
	$(BIN)/pytest -q --cov -n auto

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The outputs the README shows, from the commands it names.
readme:
	PYTHONPATH=. $(BIN)/python tests/test_readme.py

# Two simulated runs of one pool, cut into slices of time (figures/overview.csv), and the picture.
figures:
	mkdir -p build
	for policy in dfs blend; do \
	  $(BIN)/blendsim plan --trace demo:mixed --planner $$policy -o build/$$policy.parquet && \
	  $(BIN)/blendsim simulate build/$$policy.parquet -o build/$$policy-steps.parquet || exit 1; \
	done
	$(BIN)/python figures/slices.py "prefix order=build/dfs-steps.parquet" \
	  "blended order=build/blend-steps.parquet" > figures/overview.csv
	$(BIN)/python figures/overview.py docs/overview.svg

# docs/validation.md's tables and pictures, from the GPU runs that are kept.
validation:
	PYTHONPATH=.:runtime $(BIN)/python bench/validation.py
	$(BIN)/python figures/validation.py

# All that a GPU machine without a network needs, in build/gpu-kit (bench/gpu.md). KIT has options:
# make gpu-kit KIT="--vllm --fa3".
gpu-kit:
	PYTHONPATH=.:runtime $(BIN)/python bench/gpu_kit.py $(KIT)

# The paper's evaluation: every claim measured, figures drawn, the table in paper_repro/README.md
# written. DATA is a directory with real traces; without it all come from generators.
paper:
	$(BIN)/python -m paper_repro run all $(if $(DATA),--data $(DATA))

paper-quick:
	$(BIN)/python -m paper_repro run all --quick

# vLLM's own scheduler, stepped without a GPU: an environment of its own (2.2 GB, a few minutes),
# and the recordings that tests replay.
VLLM_ENV ?= .venv-vllm
vllm-env:
	python3 -m venv $(VLLM_ENV)
	$(VLLM_ENV)/bin/pip install -q -r tests/vllm_oracle/requirements.txt
	$(VLLM_ENV)/bin/pip install -q --no-deps -r tests/vllm_oracle/requirements-nodeps.txt

vllm-recordings:
	VLLM_ENV=$(VLLM_ENV) $(BIN)/python tests/vllm_record.py
