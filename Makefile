# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Each builds .venv when it is missing or older than setup.cfg, constraints.txt and the native sources.

PYTHON ?= python3
# Where torch comes from, e.g. TORCH_FLAGS='--index-url https://download.pytorch.org/whl/cpu' for the small CPU build.
TORCH_FLAGS ?=

PY := .venv/bin/python
STAMP := .venv/.installed
# What the native kernels are built from, by pip.
KERNELS := $(wildcard setup.py swarm/blocks/native/src/*)

.PHONY: demo test test-fast test-long pictures lint venv model help
.DEFAULT_GOAL := help

help:
	@echo 'make demo [PROMPT="..."]   a whole swarm on this machine answers a prompt'
	@echo 'make test                  lint, fast and slow tests'
	@echo 'make test-fast             what needs no real processes: some minutes'
	@echo 'make test-long             what takes long'
	@echo 'make pictures              the pictures of docs/pictures anew, by the tests that take them'
	@echo 'make lint                  ruff and mypy'
	@echo 'make venv                  only build .venv'

# The prompt travels in the environment, unexpanded: quotes, $ and newlines reach the demo as they were typed.
unexport PROMPT
demo: export SWARM_PROMPT := $(value PROMPT)
demo: model
	@$(PY) -m swarm.demo $(if $(value PROMPT),--prompt="$$SWARM_PROMPT")

test: lint model
	@$(PY) -m tests

test-fast: model
	@$(PY) -m pytest -m "not slow and not long"

test-long: model
	@$(PY) -m pytest -m long --timeout 3600

pictures: model
	@SWARM_PICTURES=1 $(PY) -m pytest -k "pictures or dies or phone" tests/chat $(wildcard tests/monitor)

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m mypy

venv: $(STAMP)

model: $(STAMP)
	@$(PY) -m swarm.blocks.files.bundled

# torch goes first and alone: once the pinned one is there, the second call cannot choose another build of it.
# The stamp is the last thing written, so that an interrupted installation is taken up again.
$(STAMP): setup.cfg constraints.txt $(KERNELS)
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here; install Python 3.11 or newer, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "error: $(PYTHON) is Python %d.%d, at least 3.11 is needed; say make PYTHON=/path/to/python" % v[:2])'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --no-deps $(TORCH_FLAGS) -c constraints.txt torch
	$(PY) -m pip install -c constraints.txt -e '.[dev]'
	@$(PY) -c 'from swarm.blocks.native import why_not; why_not() and print("warning: no native kernels:", why_not())'
	@touch $@
