# One word each. `make install` is the set-up every other word stands on; it does its work once per lock file.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := contracts runtime readers services/fetcher services/converter services/cataloger services/block-server client
STAMP := .venv/.installed

.PHONY: install demo test check bench up down fmt lock schemas

install: $(STAMP)

$(STAMP): requirements.lock $(addsuffix /pyproject.toml,$(PACKAGES))
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "Emporter needs Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@echo "Setting up .venv (once; two or three minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(addprefix -e ./,$(PACKAGES))
	@touch $@
