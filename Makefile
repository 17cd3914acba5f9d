# image-longitudinal: make help lists what there is.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
PRESET  ?= demo
IMAGES  ?=
OUTPUT  ?= datasets/$(PRESET)$(if $(IMAGES),-$(notdir $(patsubst %/,%,$(IMAGES))))
ARGS    ?=

.DEFAULT_GOAL := help
.PHONY: help setup dataset test lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) ## install the exact versions of requirements.lock into .venv

# Made anew when the lock file changes; torch first, so that nothing else decides its build.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"Python 3.11 to 3.13 is needed; {sys.executable} is {sys.version.split()[0]}. Say which with make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1,<27"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

dataset: $(READY) ## make a data set: IMAGES=folder/of/scans OUTPUT=folder/or/url PRESET=demo ARGS="--set key=value"
	$(BIN)/image-longitudinal generate --preset $(PRESET) $(if $(IMAGES),--images "$(IMAGES)") --output "$(OUTPUT)" $(ARGS)

test: $(READY) ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove what was built; data sets, models and images stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

-include deployments/server.mk
