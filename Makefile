# Everything lives in .venv; `make serve` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin

# `make serve TORCH=cpu`, in a fresh .venv: torch without CUDA, a fraction of the size. Its builds are in an
# index of PyTorch's own, whose address the caller gives, as for the image.
ifeq ($(TORCH),cpu)
ifeq ($(FEND_TORCH_INDEX),)
$(error TORCH=cpu needs the address of PyTorch's CPU builds in FEND_TORCH_INDEX: pytorch.org/get-started shows it for pip and CPU, after --index-url)
endif
TORCH_INDEX := --extra-index-url $(FEND_TORCH_INDEX)
else ifneq ($(TORCH),)
$(error TORCH may be cpu, or left out for torch as the package index has it)
endif
PIP_INSTALL := $(BIN)/pip install --disable-pip-version-check $(TORCH_INDEX) -c constraints.txt

.PHONY: install serve test check bench up compose-test clean

install: .venv/.service            ## what serving needs

serve: install                     ## serve the shipped models; FEND_* variables are settings
	$(BIN)/fend serve

test: .venv/.dev                   ## the whole test suite, two files at a time
	$(BIN)/pytest -n 2 --dist loadfile

check: .venv/.dev                  ## formatting, lint, types, who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev                  ## see benchmarks/README.md
	$(BIN)/python -m benchmarks.agreement

up:                                ## the compose deployment
	docker/admin-token.sh
	docker compose up -d --build --wait

compose-test: .venv/.dev           ## build, start and check that deployment; skips without Docker
	tests/compose/run.sh

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Fend needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.service: .venv/.python pyproject.toml constraints.txt
	$(PIP_INSTALL) -e '.[serve]'
	@touch $@

.venv/.dev: .venv/.python pyproject.toml constraints.txt
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ .venv/.service

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
