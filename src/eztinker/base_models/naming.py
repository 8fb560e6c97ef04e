"""Comparison of names of base models: whether two names mean the same model, as far as names can tell.

Models are named by ids of a hub, by folders on any machine, and by names that an operator chooses. So some names show
that two models are the same, some that they are different, and many show nothing.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from eztinker.base_models.base_model import BaseModel
from eztinker.base_models.catalog import Catalog
from eztinker.errors import ModelNotServed

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")
_IN_HUB_CACHE = re.compile(r"(?:^|[/\\])models--([\w.-]+?)--([\w.-]+?)(?:[/\\]|$)")


class Sameness(StrEnum):
    SAME = "same"
    UNKNOWN = "unknown"
    DIFFERENT = "different"


def sameness(name: str, base: BaseModel, catalog: Catalog) -> Sameness:
    """Whether `name`, which another program has recorded, means `base`. It is never opened as a path."""
    if (served := _served_as(name, catalog)) is not None:
        return Sameness.SAME if served.directory == base.directory else Sameness.DIFFERENT
    theirs = _hub_ids(name)
    ours = _hub_ids(base.name) | _hub_ids(str(base.directory))
    if theirs & ours:
        return Sameness.SAME
    # The same last part: a mirror on the hub, a folder named after the model in it, or a fork that kept the name.
    if _last_part(name) in {_last_part(ours_too) for ours_too in (base.name, *ours)}:
        return Sameness.UNKNOWN if theirs and ours else Sameness.SAME
    return Sameness.DIFFERENT if theirs and ours else Sameness.UNKNOWN


def _served_as(name: str, catalog: Catalog) -> BaseModel | None:
    by_directory = next((model for model in catalog if model.directory == Path(name)), None)
    if by_directory is not None:
        return by_directory
    try:
        return catalog.get(name)
    except ModelNotServed:
        return None


def _hub_ids(name: str) -> set[str]:
    """Hub id that a name is or, as a folder of the hub's cache, stands for, in lower case; empty if none."""
    if cached := _IN_HUB_CACHE.search(name):
        return {f"{cached[1]}/{cached[2]}".lower()}
    return {name.lower()} if _HUB_ID.fullmatch(name) else set()


def _last_part(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()
