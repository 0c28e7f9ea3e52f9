# make run | make test | make ui | make data-docs            add EXTRA=gpu to `make run` for the CUDA packages, PYTHON=… for another Python
PYTHON ?= python3
EXTRA ?=
LOCK := requirements$(if $(EXTRA),-$(EXTRA)).lock
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := run
.PHONY: run test test-slow check ui data-docs lock

run: .venv/$(LOCK)
	.venv/bin/dvc repro
	@.venv/bin/flight why || true  # a verdict other than healthy is an answer, not an error of make

test: .venv/requirements-dev.lock check
	.venv/bin/pytest

test-slow: .venv/requirements-dev.lock
	.venv/bin/pytest -m slow --capture no

check: .venv/requirements-dev.lock
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

ui: .venv/$(LOCK)
	.venv/bin/mlflow ui --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}

# Great Expectations' own pages of the newest validation.
data-docs: .venv/$(LOCK)
	.venv/bin/python -m stages.data_docs

# The stamp is a copy of the lock that the environment was made from.
.venv/%.lock: %.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit(f"Flight Recorder needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is {v}. Type: make $(MAKECMDGOALS) PYTHON=python3.12")'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "Installing $(words $(shell grep -o '^[a-z0-9._-]*==' $<)) packages from $< (some minutes the first time)"
	.venv/bin/python -m pip install --disable-pip-version-check --require-hashes -r $<
	.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps --editable .
	@cp $< $@

# Newest releases that fit pyproject.toml; needs uv.
lock:
	for extra in "" gpu dev; do \
	  uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    $${extra:+--extra $$extra --constraint requirements.lock} --output-file requirements$${extra:+-$$extra}.lock || exit 1; \
	done
