# Everything lives in .venv. The stamp files in it record what is done, so that a second run starts at once, offline.
#
# A Linux machine without an NVIDIA GPU gets the pinned torch below first. Where pip would pick the (much larger) CUDA
# build of it, give the address of PyTorch's own CPU index: make setup TORCH_INDEX=https://...

VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
TORCH_INDEX :=
PYTHONS := python3 python3.13 python3.12 python3.11
PYTEST_ARGS := -n auto --maxprocesses 4
RECIPES := .venv-recipes
OLDER_RECIPES := .venv-recipes-0.5.8
# The newest cookbook asks for renderers that are not published for every platform. Its recipes on text run without them,
# so it is installed without what it asks for, and beside it what those recipes import.
COOKBOOK := tinker-cookbook==0.6.1
COOKBOOK_NEEDS := aiohttp blobfile chz cloudpickle datasets pylatexenc sympy termcolor textarena==0.7.4 tiktoken 'setuptools<81'
OLDER_COOKBOOK := 'tinker-cookbook[math-rl,multiplayer-rl]==0.5.8' 'setuptools<81'
COOKBOOK_PYTHONS := $(RECIPES)/bin/python $(OLDER_RECIPES)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test recipes recipes-page kills conformance torture full-size lint format bench docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup: $(VENV)/.installed $(VENV)/.embedded-model ## make .venv with everything in it, and fetch the embedded model

demo: setup ## train a real model by rejection sampling and show its accuracy rise
	$(BIN)/eztinker demo

test: setup ## run the tests (all but the kills)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_ARGS) --ignore=tests/torture

recipes: $(RECIPES)/.installed $(OLDER_RECIPES)/.installed ## run unmodified recipes of the official cookbook, one of each kind; verdicts go to build/recipes.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.recipes build/recipes.md $(COOKBOOK_PYTHONS)

recipes-page: $(RECIPES)/.installed $(OLDER_RECIPES)/.installed ## run every recipe, and the cookbook's own exports, and write docs/recipes.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.recipes --all docs/recipes.md $(COOKBOOK_PYTHONS)
	for python in $(COOKBOOK_PYTHONS); do OMP_NUM_THREADS=1 $$python -m pytest tests/recipes || exit 1; done

kills: setup ## kill engines and servers dozens of times under the unmodified SDK (minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/torture

conformance: setup ## run the tests that show conformance and write docs/conformance.md
	OMP_NUM_THREADS=1 EZTINKER_FULL_SIZE=1 $(BIN)/python -m tests.conformance -n 2

torture: setup ## kill engines and servers a thousand times under the unmodified SDK (hours)
	OMP_NUM_THREADS=1 EZTINKER_TORTURE=full $(BIN)/pytest -v tests/torture tests/simulation tests/integration/test_faulty_disk.py

full-size: setup ## run the tests of many clients and open polls at their full size, and print what they took
	EZTINKER_FULL_SIZE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/e2e/test_concurrency.py tests/e2e/test_open_polls.py

lint: $(VENV)/.installed ## check style and types
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

clean: ## remove the environments and what tools cached
	rm -rf $(VENV) $(RECIPES) $(OLDER_RECIPES) .pytest_cache .ruff_cache .nox .hypothesis

$(VENV)/.python:
	@for python in $(PYTHONS); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "Python 3.11 or newer is needed; none of these is: $(PYTHONS)" >&2; exit 1
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml
	command -v nvidia-smi >/dev/null || $(BIN)/pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(BIN)/pip install --editable . --group dev
	touch $@

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
