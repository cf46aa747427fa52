# `make demo` and `make test` work on a fresh machine; everything else assumes nothing more.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check soak lint bench docs clean install lock

install:
	@$(PYTHON) -I cai/install.py

demo: install
	$(BIN)/cai demo

test: install
	$(BIN)/python -m pytest tests

check: install
	$(BIN)/python -m pytest tests -m "not slow" --hypothesis-profile quick

lock: install
	$(BIN)/python -m cai.constraints $(if $(UPGRADE),--upgrade)

soak: install
	$(BIN)/python -m tests.faults

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf outputs/* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find cai flows tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
