# Every target does its own set-up: Python 3.11 to 3.13 and make are all that it needs.
#   make install    .venv with the command famjax and the locked packages
#   make demo       trains FAM and BSWA on this machine, scans what each remembers, and writes a report
#   make imported   pretrains a small decoder, exports and imports it, gives it a memory with LoRA, and scans that
#   make test       the fast tests
#   make test-pods  tests of several processes and of sharding
#   make parity     installs torch (for the CPU) and transformers, and compares pretrained families with them
#   make lint       format, lint and types, as CI runs them
#   make wheel      dist/famjax-*.whl
#   make lock       writes requirements.lock anew from setup.cfg
# PYTHON=python3.12 make ... chooses the interpreter.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
TEST_WORKERS ?= 2
# Chosen apart from the lock file: a version of torch whose wheel is the one for the CPU.
PARITY_PACKAGES ?= torch==2.13.0 transformers peft

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo imported test test-pods slow parity lint wheel lock clean

help:
	@sed -n 's/^#   //p' Makefile

install: $(READY)
	@echo "famjax is in .venv: . $(BIN)/activate"

# The demo's commands, one a line: the same command line as any other job's, with the gin files of gin/recipes.
FAMJAX := $(BIN)/python -m famjax.main
define DEMO
$(FAMJAX) --gin_file=recipes/demo_fam.gin --gin.MODEL_DIR="'demo/fam'"
$(FAMJAX) --gin_file=recipes/demo_bswa.gin --gin.MODEL_DIR="'demo/bswa'"
$(FAMJAX) --run_mode=scan --gin_file=recipes/demo_scan.gin
endef

demo: $(READY)
	$(DEMO)

# A pretrained checkpoint gets a memory (docs/research.md).
define IMPORTED
$(FAMJAX) --gin_file=recipes/imported_base.gin --gin.MODEL_DIR="'imported/pretrained'"
$(BIN)/python -m famjax.interop.huggingface export --checkpoint=imported/pretrained --output=imported/exported
$(BIN)/python -m famjax.interop.huggingface import --source=imported/exported --output=imported/base
$(FAMJAX) --gin_file=recipes/demo_fam.gin $(OVER_IMPORTED) --gin.MODEL_DIR="'imported/fam'"
$(FAMJAX) --gin_file=recipes/demo_bswa.gin $(OVER_IMPORTED) --gin.MODEL_DIR="'imported/bswa'"
$(FAMJAX) --run_mode=scan --gin_file=recipes/imported_scan.gin
endef
OVER_IMPORTED := --gin_file=recipes/imported.gin --gin_file=imported/base/model.gin \
    --gin.INITIAL_CHECKPOINT_PATH="'imported/base'"

imported: $(READY)
	$(IMPORTED)

test: $(READY)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m "not slow and not pods"

test-pods: $(READY)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m "pods and not slow"

slow: $(READY)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m slow

parity: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PARITY_PACKAGES)
	$(BIN)/python -m pytest tests/interop/transformers_test.py tests/interop/peft_library_test.py

lint: $(READY)
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

wheel: $(READY)
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

lock: $(READY)
	$(BIN)/uv pip compile --universal --fork-strategy fewest --python-version 3.11 --no-annotate --no-header \
	    --extra dev --output-file requirements.lock setup.cfg

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache

# The stamp is written last: a set-up that was cut short is done again.
$(READY): requirements.lock setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; Python 3.11 or later is needed (PYTHON=... chooses one)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "make: $(PYTHON) is $$($(PYTHON) -V); Python 3.11 or later is needed (PYTHON=python3.11 make ... chooses one)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "make: $(PYTHON) lacks the venv module (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "installing the locked packages into .venv (some minutes, 2 GB of downloads) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
