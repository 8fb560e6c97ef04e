"""Packages that a server does without: which features need them, and the one command that installs them."""

from __future__ import annotations

from importlib.util import find_spec

from eztinker.errors import NotInstalled

RECIPES_COMMAND = "pip install 'eztinker[recipes]'"
RECIPES = {"gguf": "gguf", "math-verify": "math_verify", "matplotlib": "matplotlib"}
"""The packages of the extra `recipes`, and the module that each is imported as."""


def missing_recipes(*packages: str) -> list[str]:
    """Find which of `packages`, all of the extra `recipes`, are not installed, without importing anything."""
    return [package for package in packages if find_spec(RECIPES[package]) is None]


def require_recipes(*packages: str, feature: str) -> None:
    """Raise a sentence with the command if a package that a feature needs is missing.

    Args:
        packages: names from the extra `recipes`.
        feature: what needs them, as the subject of a sentence.
    Raises:
        NotInstalled: one of them is missing; the message has the command that installs it.
    """
    if missing := missing_recipes(*packages):
        is_or_are = "is" if len(missing) == 1 else "are"
        raise NotInstalled(
            f"{feature} needs {' and '.join(missing)}, which {is_or_are} not installed; run: {RECIPES_COMMAND}"
        )
