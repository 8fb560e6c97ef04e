"""The catalog of base models that a server offers, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from eztinker.base_models.base_model import BaseModel, read_base_model
from eztinker.base_models.embedded import EMBEDDED_NAME, embedded_model_directory
from eztinker.base_models.hub import cached_snapshot, download_snapshot
from eztinker.errors import ConfigError, DataNotFound, ModelNotServed, UserError
from eztinker.model_files.tensor_files import has_all_weights
from eztinker.settings.home import expanded, require_utf8

if TYPE_CHECKING:
    from rich.console import Console

HUB_DEFAULT_NAME = "Qwen/Qwen2-0.5B-Instruct"
"""Model that is served in addition to the embedded one if the hub cache has it."""


class Catalog:
    """The served base models in the operator's order. Iterates over them."""

    def __init__(self, models: Iterable[BaseModel]) -> None:
        self._models: dict[str, BaseModel] = {}
        for model in models:
            if model.name in self._models:
                raise ConfigError(
                    f"Two base models are named {model.name!r}; give one of them a name with NAME=DIRECTORY"
                )
            self._models[model.name] = model

    @property
    def names(self) -> list[str]:
        return list(self._models)

    def __iter__(self) -> Iterator[BaseModel]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, name: str) -> BaseModel:
        """The model with this name, which may carry a variant of the hosted service (`NAME:peft:131072`).

        Raises:
            ModelNotServed: no such model is served; the message lists those that are.
        """
        model = self._models.get(name) or self._models.get(name.partition(":")[0])
        if model is None:
            raise ModelNotServed(f"The base model {name!r} is not served here; this server has {', '.join(self.names)}")
        return model


def load_catalog(specs: list[str], console: Console | None = None) -> Catalog:
    """Find and read every model of `specs`, fetching those that are not on this machine.

    Args:
        specs: each `NAME` (the embedded model, a directory, or a hub id) or `NAME=DIRECTORY`. A directory alone is
            served under its own last part. Empty for the default models.
        console: where to show progress; None stays silent.
    Raises:
        UserError: a model cannot be fetched, is damaged, or is not supported; the message names it.
    """
    if specs:
        return Catalog(_load(spec, console) for spec in specs)
    return Catalog([read_base_model(EMBEDDED_NAME, embedded_model_directory(console)), *_default_of_the_hub(console)])


def _load(spec: str, console: Console | None) -> BaseModel:
    require_utf8(Path(spec), "A base model")
    name, has_path, path = spec.partition("=")
    if not name or (has_path and not path):
        raise ConfigError(f"A base model is written NAME or NAME=DIRECTORY, got {spec!r}")
    if has_path:
        return read_base_model(name, _existing_directory(path, name))
    if name == EMBEDDED_NAME:
        return read_base_model(name, embedded_model_directory(console))
    directory = expanded(name)
    if directory.is_dir():
        return read_base_model(directory.resolve().name, directory)
    return read_base_model(name, _complete_cached_snapshot(name) or download_snapshot(name))


def _default_of_the_hub(console: Console | None) -> list[BaseModel]:
    """The default model from the hub cache, if it is there; a damaged one is skipped with a note."""
    try:
        directory = _complete_cached_snapshot(HUB_DEFAULT_NAME)
        return [read_base_model(HUB_DEFAULT_NAME, directory)] if directory else []
    except UserError as error:
        if console:
            console.print(f"Note: {HUB_DEFAULT_NAME} in the hub's cache is not served. {error.message}", markup=False)
        return []


def _existing_directory(path: str, name: str) -> Path:
    directory = expanded(path)
    if not directory.is_dir():
        raise DataNotFound(f"The directory {path} of base model {name!r} does not exist")
    return directory


def _complete_cached_snapshot(repo_id: str) -> Path | None:
    """The cached snapshot, unless an interrupted download has left it without all its weights."""
    directory = cached_snapshot(repo_id)
    return directory if directory and has_all_weights(directory, repo_id) else None
