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
.PHONY: help setup dataset check test test-operations fuzz docs docs-check test-docs gallery lint lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) ## install the exact versions of requirements.lock into .venv, compile what fits need
	$(BIN)/python -m image_longitudinal.models.nlme.compile_solvers

# Files of the lock files alone, each checked against its hash; wheels, except of one package that has none.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation
LOCKED  := $(INSTALL) --require-hashes --only-binary :all: --no-binary jsonpath-rw --requirement
NEEDS_CUDA := import importlib.metadata as m, sys; sys.exit(not any(r.startswith(("nvidia-", "cuda-")) for r in m.requires("torch")))

# Recreated when a lock file changes. The CPU build of torch, where an index serves it, needs no CUDA libraries.
$(READY): requirements.lock requirements-build.lock requirements-cuda.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"Python 3.11 to 3.13 is needed; {sys.executable} is {sys.version.split()[0]}. Choose another with make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(LOCKED) requirements-build.lock
	$(LOCKED) requirements.lock
	! $(BIN)/python -c '$(NEEDS_CUDA)' || $(LOCKED) requirements-cuda.lock
	$(INSTALL) --editable .
	touch $@

dataset: $(READY) ## generate a data set: IMAGES=folder/of/scans OUTPUT=folder/or/url PRESET=demo ARGS="--set key=value"
	$(BIN)/image-longitudinal generate --preset $(PRESET) $(if $(IMAGES),--images "$(IMAGES)") --output "$(OUTPUT)" $(ARGS)

# Three workers keep two cores busy: a test of the service or of a command often waits.
PYTEST  := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: lint ## lint, and run the tests that need no service and no training (3 minutes)
	$(PYTEST) -m "not e2e and not service and not training and not docs" $(ARGS)

test: $(READY) ## run all tests but those of test-operations
	$(PYTEST) -m "not operations and not docs" $(ARGS)

test-operations: $(READY) ## interrupt commands, damage files, search for secrets, operate servers, and the longest tests of the rest (many minutes)
	$(PYTEST) -m operations $(ARGS)

fuzz: $(READY) ## kill runs, let file calls fail, cut the power, and run again (many minutes; FUZZ_POINTS=100 for more)
	$(BIN)/python -m pytest -p no:xdist -s tests/fuzz $(ARGS)

# The site, strict: a dead link, a missing reference or a page in no table of contents ends the build.
DOCS   := $(VENV)/.ready-docs
WORK   := $(CURDIR)/build/docs-work
SPHINX := PATH="$(CURDIR)/$(BIN):$$PATH" DOCS_WORK=$(WORK) PREFECT_HOME=$(WORK)/.prefect DO_NOT_TRACK=1 $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet

$(DOCS): $(READY) requirements-docs.lock
	$(LOCKED) requirements-docs.lock
	touch $@

docs: $(DOCS) ## build the documentation and run its notebooks: build/docs/index.html (many minutes)
	mkdir -p $(WORK)
	DOCS_EXECUTE=cache $(SPHINX) docs build/docs

docs-check: $(DOCS) ## build the documentation without running anything (a minute)
	DOCS_EXECUTE=off $(SPHINX) docs build/docs-check

test-docs: $(READY) ## run the code of README and the documentation, and the examples of functions (many minutes)
	$(BIN)/python -m pytest -p no:xdist -m docs tests/docs $(ARGS)

gallery: $(DOCS) ## make the pictures of the gallery again (some minutes)
	PREFECT_HOME=$(WORK)/.prefect $(BIN)/python -m docs.gallery_pictures build/gallery-work

lock: ## write requirements.lock anew from pyproject.toml; ARGS=--upgrade takes the newest versions
	$(BIN)/python -m image_longitudinal.deployments.lock --write --uv $(BIN)/uv $(ARGS)

lint: $(READY) ## check style, types, the direction of imports and the lock file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/python -m image_longitudinal.deployments.lock

clean: ## remove build products and the environment; data sets, models and images stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

-include deployments/server.mk
