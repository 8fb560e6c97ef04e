"""Unmodified recipes of the official cookbook train against this server; `nox -s recipes` installs the cookbook.

EZTINKER_RECIPES=all runs every configuration, and not only those that show something of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.recipes.configurations import CONFIGURATIONS, STEPS, Configuration
from tests.recipes.running import Hub, recipe_hub, run_recipe

pytest.importorskip("tinker_cookbook", reason="the cookbook is not installed")

CHOSEN = [each for each in CONFIGURATIONS if each.in_ci or os.environ.get("EZTINKER_RECIPES") == "all"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with recipe_hub(tmp_path_factory.mktemp("recipes")) as made:
        yield made


@pytest.mark.parametrize("configuration", CHOSEN, ids=lambda configuration: configuration.name)
def test_the_recipe_trains(configuration: Configuration, hub: Hub):
    verdict = run_recipe(configuration, hub)
    assert verdict.is_green, verdict.error
    assert verdict.num_steps >= STEPS
