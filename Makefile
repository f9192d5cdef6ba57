# Every recipe makes .venv first if it is absent or older than what it was made from.
# Needs GNU make, Python 3.11 or newer with venv, and pip's access to packages. For example:
#   make demo PYTHON=python3.12
#   make venv PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'   (Linux: no CUDA libraries)
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := venv
.PHONY: venv demo test check docs bench compare clean

venv: $(READY)

$(READY): pyproject.toml constraints.txt plugins/medtl-lora/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "medtl needs Python 3.11 or newer; name one with 'make venv PYTHON=python3.12'." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[codecs,hub,dev,docs]' --editable plugins/medtl-lora
	touch $@

# What an earlier demo wrote is replaced.
demo: $(READY)
	rm -rf runs/demo
	$(BIN)/medtl demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory docs

docs: $(READY)
	$(BIN)/python -m sphinx -W -n --keep-going -q -b html docs docs/_build/html

bench: $(READY)
	$(BIN)/python benchmarks/startup.py

# Other readers of DICOM beside ours. They get an environment of their own: where itk is installed, MONAI behaves otherwise.
compare:
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[codecs,bench]'
	.venv-bench/bin/python benchmarks/dicom_read.py
	.venv-bench/bin/python benchmarks/why_not_loadimage.py

clean:
	rm -rf docs/_build docs/reference/generated build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
