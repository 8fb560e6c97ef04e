"""Runs recipes and writes the table of their verdicts: `python -m tests.recipes [--all] PAGE`.

Without `--all`, only those that show something of their own. Exits 1 if one of them is not green.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tests.recipes.configurations import CONFIGURATIONS, NOT_RUN, Configuration
from tests.recipes.running import Verdict, recipe_hub, run_recipe

_HEAD = """# Recipes of the cookbook

Unmodified recipes of `tinker-cookbook` {cookbook} with `tinker` {sdk}, each run for a few steps on a random model of
the Qwen3 family, without a model hub. This page is written by `make recipes-page`. Green means that the recipe ran to
its end and logged its training steps; every change must leave those in bold green (`make recipes`).

| recipe | module | shows | steps | verdict |
|---|---|---|---|---|
"""


def main() -> int:
    arguments = _arguments()
    chosen = [each for each in CONFIGURATIONS if each.in_ci or arguments.all]
    with tempfile.TemporaryDirectory() as root, recipe_hub(Path(root)) as hub:
        verdicts = []
        for configuration in chosen:
            verdicts.append(run_recipe(configuration, hub))
            print(_row(configuration, verdicts[-1]), flush=True)
            if not verdicts[-1].is_green:
                print(verdicts[-1].error, file=sys.stderr)
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(page(chosen, verdicts), encoding="utf-8")
    return 0 if all(verdict.is_green for verdict in verdicts) else 1


def page(configurations: Sequence[Configuration], verdicts: Sequence[Verdict]) -> str:
    """The verdicts, and why other recipes are not run."""
    rows = map(_row, configurations, verdicts)
    not_run = (f"- `{recipe}`: {reason}" for recipe, reason in NOT_RUN.items())
    head = _HEAD.format(cookbook=version("tinker-cookbook"), sdk=version("tinker"))
    return head + "\n".join([*rows, "\nNot run here:\n", *not_run, ""])


def _row(configuration: Configuration, verdict: Verdict) -> str:
    last_line = (verdict.error or "no step was logged").splitlines()[-1]
    result = "green" if verdict.is_green else f"failed: {last_line[:120]}"
    name = f"**{configuration.name}**" if configuration.in_ci else configuration.name
    cells = (name, f"`{configuration.module}`", configuration.shows, verdict.num_steps, result)
    return f"| {' | '.join(map(str, cells))} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.recipes", description=__doc__)
    parser.add_argument("page", type=Path, metavar="PAGE")
    parser.add_argument("--all", action="store_true", help="run every configuration")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
