# `make help` lists the targets. Everything is installed into .venv, with the versions of constraints.txt.

VENV       := .venv
BIN        := $(VENV)/bin
TORCH      := $(shell sed -n 's/^torch==//p' constraints.txt)
# The index of torch's CPU wheels, tried where pip's own configuration has none; override it for a mirror.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Another environment's Python that has TRL, for `make bench`; empty: TRL is installed into .venv.
PEER_PYTHON ?=
BENCH_ARGS  ?=
DPO_ARGS    ?=
GRPO_ARGS   ?=
# The Python of an environment with vLLM, for the sampling half of `make bench`; empty: vLLM is left out.
VLLM_PYTHON ?=
SAMPLING_ARGS ?=
TEST_ARGS   ?=
EXTRAS_dev  := dev,tensorboard,privacy,proofs,eval
EXTRAS_trl  := trl
PYTEST      = OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo test invariants soak lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## install, train the demo recipe on this machine, print where the report is
	$(BIN)/posttrain run recipes/demo.yaml
	@echo "report: $(CURDIR)/runs/demo/report.html"

test: $(VENV)/.installed-dev ## the tests but the long ones: at most 10 minutes on 2 cores
	$(PYTEST) -n 2 -m "not invariants and not soak"

invariants: $(VENV)/.installed-dev ## the long invariants
	$(PYTEST) -n 2 -m invariants

soak: $(VENV)/.installed-dev ## kills, floods and long runs
	$(PYTEST) -m soak

lint: $(VENV)/.installed-dev ## formatting, lint rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(if $(PEER_PYTHON),$(VENV)/.installed,$(VENV)/.installed-trl) ## speed and memory beside TRL, transformers and vLLM, alternating
	$(BIN)/python -m benchmarks.sft_speed $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON)) $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.dpo_speed $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON)) $(DPO_ARGS)
	$(BIN)/python -m benchmarks.grpo_speed $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON)) $(GRPO_ARGS)
	$(BIN)/python -m benchmarks.sampling_speed $(if $(VLLM_PYTHON),--vllm-python $(VLLM_PYTHON)) $(SAMPLING_ARGS)

clean: ## remove the environment and every cache (runs/ stays)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# An installation is done again only when its inputs change.
$(VENV)/.torch: constraints.txt tools/create_environment.sh tools/install_torch.sh
	tools/create_environment.sh $(VENV)
	tools/install_torch.sh $(BIN)/python "$(TORCH)" "$(TORCH_INDEX)"
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[$(EXTRAS_$*)]"
	@touch $@ $(VENV)/.installed
