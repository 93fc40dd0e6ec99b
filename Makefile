# `make repro` rebuilds every result, `make test` runs the whole suite, `make test-fast` what is done in a minute.
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export TOKENIZERS_PARALLELISM := false

.PHONY: repro test test-fast lint

repro: $(VENV)/installed
	fsgen check
	dvc repro
	fsgen summary

test: $(VENV)/installed
	pytest -n auto --dist loadfile

test-fast: $(VENV)/installed
	pytest -n auto --dist loadfile -m "not models and not long" --hypothesis-profile=fast

lint: $(VENV)/installed
	ruff check .
	ruff format --check .

$(VENV)/installed: pyproject.toml
	test -d $(VENV) || python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@
