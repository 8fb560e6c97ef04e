"""Runs recipes and writes the table of their verdicts: `python -m tests.recipes [--all] PAGE PYTHON...`.

Each PYTHON is the interpreter of an environment with a cookbook in it, the newest first. Without `--all`, only those
recipes run that show something of their own, and fewer with the older cookbooks. Exits 1 if one of them is not green.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.recipes.configurations import CONFIGURATIONS, NOT_RUN, Configuration
from tests.recipes.running import Cookbook, Verdict, cookbook_of, recipe_hub, run_recipe

_HEAD = """# Recipes of the cookbook

Unmodified recipes of `tinker-cookbook`, each run for a few steps on a tiny model of the Qwen3 family, without a model
hub. This page is written by `make recipes-page`. Green means that the recipe ran to its end and logged its training
steps, and where rewards decide, that it learned; every change must leave those in bold green (`make recipes`).

`tinker-cookbook` 0.6.1 asks for `tml-renderers` 0.4.1, which the package index does not have for every platform. Its
recipes on text do not need it: install the cookbook with `--no-deps`, and beside it what they import, as `make recipes`
does. Without it are the models whose tokenizers it brings (`thinkingmachines/Inkling`, `moonshotai/Kimi-K3.1-Pro`), and
the recipes on sound.

"""

Verdicts = Mapping[str, Verdict]
"""By the version of the cookbook, of those that were run."""


def main() -> int:
    arguments = _arguments()
    newest, *older = map(cookbook_of, arguments.python)
    chosen = [each for each in CONFIGURATIONS if each.in_ci or arguments.all]
    with tempfile.TemporaryDirectory() as root, recipe_hub(Path(root)) as hub:
        verdicts: list[Verdicts] = []
        for configuration in chosen:
            beside = older if arguments.all or configuration.in_ci_with_older else []
            found = {each.version: run_recipe(configuration, hub, each) for each in (newest, *beside)}
            verdicts.append(found)
            print(_row(configuration, found, [newest, *older]), flush=True)
            print("".join(f"{each.error}\n" for each in found.values() if not each.is_green), end="", file=sys.stderr)
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(page(chosen, verdicts, [newest, *older]), encoding="utf-8")
    return 0 if all(verdict.is_green for found in verdicts for verdict in found.values()) else 1


def page(configurations: Sequence[Configuration], verdicts: Sequence[Verdicts], cookbooks: Sequence[Cookbook]) -> str:
    """The verdicts, and why other recipes are not run."""
    columns = ["recipe", "module", "shows", *(f"{each.version} with SDK {each.sdk_version}" for each in cookbooks)]
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    rows = [_row(each, found, cookbooks) for each, found in zip(configurations, verdicts, strict=True)]
    not_run = (f"- `{recipe}`: {reason}" for recipe, reason in NOT_RUN.items())
    return _HEAD + "\n".join([*head, *rows, "\nNot run here:\n", *not_run, ""])


def _row(configuration: Configuration, verdicts: Verdicts, cookbooks: Sequence[Cookbook]) -> str:
    name = f"**{configuration.name}**" if configuration.in_ci else configuration.name
    results = [_result(verdicts.get(each.version)) for each in cookbooks]
    return f"| {' | '.join([name, f'`{configuration.module}`', configuration.shows, *results])} |"


def _result(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    last_line = (verdict.error or "no step was logged").splitlines()[-1]
    return f"green, {verdict.num_steps} steps" if verdict.is_green else f"failed: {last_line[:120]}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.recipes", description=__doc__)
    parser.add_argument("page", type=Path, metavar="PAGE")
    parser.add_argument("python", type=Path, metavar="PYTHON", nargs="+")
    parser.add_argument("--all", action="store_true", help="run every configuration with every cookbook")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
