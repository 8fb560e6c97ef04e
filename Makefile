# Each environment keeps stamp files that record what is done, so that a second run starts at once, offline.
#
# Three lanes, each with an environment of its own:
#   locked  .venv         requirements/lock.txt, exact versions with hashes; everything but the next two runs in it
#   lowest  .venv-lowest  requirements/lowest.txt, the floors of pyproject.toml
#   newest  .venv-newest  what the package index has today
#
# torch comes from requirements/torch.txt. Where pip would pick its (much larger) CUDA build for a Linux machine without
# an NVIDIA GPU, give the address of PyTorch's own CPU index: make setup TORCH_INDEX=https://...

VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
NEWEST := .venv-newest
TORCH_INDEX ?=
PYTHONS := python3 python3.13 python3.12 python3.11
PYTEST_ARGS := -n auto --maxprocesses 4
# The core suite, which the lowest and the newest lane run: the log and what recovery reads from it, the engine's
# arithmetic, the API, and the official SDK from end to end. Two files with minutes of arithmetic are left out.
CORE := tests/unit/oplog tests/unit/protocol tests/unit/api tests/unit/cli \
  tests/integration/test_restart.py tests/integration/test_engine_death.py \
  tests/e2e/test_sdk.py tests/e2e/test_sdk_training.py tests/e2e/test_sdk_sampling.py tests/e2e/test_sdk_samplers.py \
  tests/unit/engine --ignore=tests/unit/engine/test_short_memory.py --ignore=tests/unit/engine/test_sampling_among_neighbours.py
KILLS := tests/torture/test_kills.py
RECIPES := .venv-recipes
OLDER_RECIPES := .venv-recipes-0.5.8
# The newest cookbook asks for renderers that are not published for every platform. Its recipes on text run without them,
# so it is installed without what it asks for, and beside it what those recipes import.
COOKBOOK := tinker-cookbook==0.6.1
COOKBOOK_NEEDS := aiohttp blobfile chz cloudpickle datasets pylatexenc sympy termcolor textarena==0.7.4 tiktoken 'setuptools<81'
OLDER_COOKBOOK := 'tinker-cookbook[math-rl,multiplayer-rl]==0.5.8' 'setuptools<81'
COOKBOOK_PYTHONS := $(RECIPES)/bin/python $(OLDER_RECIPES)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-lowest test-newest recipes recipes-page kills kills-short conformance torture \
  full-size lint format bench docs site check-version map lock wheel clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed $(VENV)/.embedded-model ## make .venv with everything in it, and fetch the embedded model

demo: setup ## train a real model by rejection sampling and show its accuracy rise
	$(BIN)/eztinker demo

test: setup ## run the tests (all but the kills); COVERAGE=1 also says how many lines the unit tests run
ifdef COVERAGE
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_ARGS) --cov --cov-report= tests/unit
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_ARGS) --ignore=tests/torture --ignore=tests/unit
	@echo "Lines of src/eztinker that tests/unit runs: $$($(BIN)/coverage report --format=total) %"
else
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_ARGS) --ignore=tests/torture
endif

test-lowest: $(LOWEST)/.installed ## run the core suite with the oldest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest $(PYTEST_ARGS) $(CORE)

test-newest: $(NEWEST)/.installed ## run the core suite and a few kills with the newest of everything
	@if $(NEWEST)/bin/python requirements/compare.py; then \
	  echo "The newest of everything is what the lock has; make test and make kills-short run it."; \
	else \
	  export OMP_NUM_THREADS=1 EZTINKER_TORTURE=short && \
	  $(NEWEST)/bin/pytest $(PYTEST_ARGS) $(CORE) && $(NEWEST)/bin/pytest $(KILLS); \
	fi

recipes: $(RECIPES)/.installed $(OLDER_RECIPES)/.installed ## run unmodified recipes of the official cookbook, one of each kind; verdicts go to build/recipes.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.recipes build/recipes.md $(COOKBOOK_PYTHONS)

recipes-page: $(RECIPES)/.installed $(OLDER_RECIPES)/.installed ## run every recipe, and the cookbook's own exports, and write docs/recipes.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.recipes --all docs/recipes.md $(COOKBOOK_PYTHONS)
	for python in $(COOKBOOK_PYTHONS); do OMP_NUM_THREADS=1 $$python -m pytest tests/recipes || exit 1; done

kills: setup ## kill engines and servers dozens of times under the unmodified SDK (minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/torture

kills-short: setup ## kill them a few times, as every change must pass
	OMP_NUM_THREADS=1 EZTINKER_TORTURE=short $(BIN)/pytest $(KILLS)

conformance: setup ## run the tests that show conformance and write docs/conformance.md
	OMP_NUM_THREADS=1 EZTINKER_FULL_SIZE=1 $(BIN)/python -m tests.conformance -n 2

torture: setup ## kill engines and servers a thousand times under the unmodified SDK (hours)
	OMP_NUM_THREADS=1 EZTINKER_TORTURE=full $(BIN)/pytest -v tests/torture tests/simulation tests/integration/test_faulty_disk.py

full-size: setup ## run tests of many clients, open polls, large bodies, odd requests and odd models at their full size
	EZTINKER_FULL_SIZE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/e2e/test_concurrency.py tests/e2e/test_open_polls.py \
	    tests/e2e/test_large_bodies.py tests/integration/api/test_fuzz.py tests/unit/model_files

lint: $(VENV)/.installed check-version ## check style, types and the version
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.installed ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## measure speed and memory against transformers and peft, and the machine's limits
	$(BIN)/python -m benchmarks

docs: $(VENV)/.installed ## write the generated pages of docs/
	$(BIN)/eztinker settings --markdown > docs/configuration.md

# A warning fails (-W), after all of them were shown.
site: $(VENV)/.installed ## build the documentation site in build/site, its references from the code
	rm -rf build/site
	$(BIN)/sphinx-build -q -W --keep-going -d build/site-parsed docs build/site
	@echo "Open build/site/index.html"

check-version: $(VENV)/.installed ## compare the version with the changelog, and with the tag of a release
	$(BIN)/python .ci/check_version.py

map: $(VENV)/.installed ## draw who imports whom in docs/map.md
	$(BIN)/python -m tests.import_graph docs/map.md

wheel: $(VENV)/.installed ## build dist/: a wheel with compiled CPU kernels for Linux on x86-64 (with gcc), and one for other machines
	rm -rf dist
	$(BIN)/python -m hatchling build --target wheel
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(BIN)/python -m hatchling build --target wheel

lock: $(VENV)/.python ## write requirements/lock.txt and lowest.txt anew from pyproject.toml and the package index
	$(BIN)/python -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet uv packaging
	build/lock/bin/python requirements/lock.py

clean: ## remove the environments and what tools cached
	rm -rf $(VENV) $(LOWEST) $(NEWEST) $(RECIPES) $(OLDER_RECIPES) build/lock .pytest_cache .ruff_cache .nox .hypothesis

define install_torch
$(@D)/bin/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --requirement requirements/torch.txt
endef

# What the lock names is installed as it stands. torch comes after it, so that all it needs but NVIDIA's packages is
# there; the project comes last, and is built with what the lock has.
define install_locked
$(@D)/bin/python -m pip install --require-hashes --no-deps --requirement $(1)
$(install_torch)
$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
touch $@
endef

$(VENV)/.python $(LOWEST)/.python $(NEWEST)/.python:
	@for python in $(PYTHONS); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec $$python -m venv $(@D); \
	  fi; \
	done; \
	echo "Python 3.11 or newer is needed; none of these is: $(PYTHONS)" >&2; exit 1
	touch $@

# The oldest versions have no wheels for newer interpreters.
$(LOWEST)/.python: PYTHONS := python3.11

$(VENV)/.installed: $(VENV)/.python requirements/lock.txt requirements/torch.txt pyproject.toml
	$(call install_locked,requirements/lock.txt)

$(LOWEST)/.installed: $(LOWEST)/.python requirements/lowest.txt requirements/torch.txt pyproject.toml
	$(call install_locked,requirements/lowest.txt)

# Never up to date: what is newest is the package index's to say. torch alone stays as pinned, for another one may be
# the CUDA build.
.PHONY: $(NEWEST)/.installed
$(NEWEST)/.installed: $(NEWEST)/.python
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pip
	$(install_torch)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager \
	  --constraint requirements/torch.txt --editable . --group test

$(VENV)/.embedded-model: $(VENV)/.installed
	$(BIN)/eztinker fetch
	touch $@

# Cookbooks pin other releases than ours. They lie in front of .venv in environments of their own, so that .venv stays as
# it is and what both need is not installed twice.
$(RECIPES)/.installed: INSTALL = --no-deps $(COOKBOOK) && $(PIP_OF) install --quiet $(COOKBOOK_NEEDS)
$(OLDER_RECIPES)/.installed: INSTALL = $(OLDER_COOKBOOK)
PIP_OF = $(BIN)/pip --python $(@D)/bin/python

$(RECIPES)/.installed $(OLDER_RECIPES)/.installed: $(VENV)/.installed
	$(BIN)/python -m venv --clear --without-pip $(@D)
	site() { $$1/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; } && \
	  echo "import site; site.addsitedir('$$(site $(BIN)/..)')" > "$$(site $(@D))/behind.pth"
	$(PIP_OF) install --quiet $(INSTALL)
	touch $@
