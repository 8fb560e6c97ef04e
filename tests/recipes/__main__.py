"""Runs every configuration and writes the table of verdicts: `python -m tests.recipes > docs/recipes.md`."""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.recipes.configurations import CONFIGURATIONS, NOT_RUN, Configuration
from tests.recipes.running import Verdict, recipe_hub, run_recipe

_HEAD = """# Recipes of the cookbook

Unmodified recipes of `tinker-cookbook` {cookbook} with `tinker` {sdk}, each run for a few steps on a random model of
the Qwen3 family, without a model hub. This page is written by `nox -s recipes -- --write`. Green means that the recipe
ran to its end and logged its training steps.

| recipe | module | shows | steps | verdict |
|---|---|---|---|---|
"""


def _row(configuration: Configuration, verdict: Verdict) -> str:
    last_line = (verdict.error or "no step was logged").splitlines()[-1]
    result = "green" if verdict.is_green else f"failed: {last_line[:120]}"
    cells = (configuration.name, f"`{configuration.module}`", configuration.shows, verdict.num_steps, result)
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    print(_HEAD.format(cookbook=version("tinker-cookbook"), sdk=version("tinker")), end="")
    with tempfile.TemporaryDirectory() as root, recipe_hub(Path(root)) as hub:
        for configuration in CONFIGURATIONS:
            print(_row(configuration, run_recipe(configuration, hub)))
            sys.stdout.flush()
    print("\nNot run here:\n")
    for recipe, reason in NOT_RUN.items():
        print(f"- `{recipe}`: {reason}")


if __name__ == "__main__":
    main()
