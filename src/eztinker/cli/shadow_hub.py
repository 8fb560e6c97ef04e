from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from eztinker.cli.env import variables
from eztinker.errors import AlreadyExists, ConfigError, DataNotFound
from eztinker.settings.home import expanded, require_directory


def shadow_hub(
    directory: Annotated[Path, typer.Argument(help="Folder to lay out; made if it is not there.")],
    base_model: Annotated[
        list[str] | None,
        typer.Option(
            help="A base model, named as the server serves it. Repeatable.",
            metavar="NAME[=DIRECTORY]",
            show_default="the embedded model",
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="A folder with a dataset under its name on the hub. Repeatable.", metavar="NAME=DIRECTORY"),
    ] = None,
) -> None:
    """Lay out models and datasets so that scripts that name them by hub ids run without a hub.

    Libraries look for a folder of the id's name before they ask the hub, so a script that runs in DIRECTORY finds them.
    Prints what to set before; the server must serve the models under the same names.

    Example: eztinker shadow-hub hub --base-model Qwen/Qwen3-8B=models/tiny --dataset openai/gsm8k=data/gsm8k
    """
    from eztinker.base_models.catalog import load_catalog

    require_directory(directory, "the folder to lay out")
    for model in load_catalog(base_model or []):
        _link(directory, model.name, model.directory)
    for spec in dataset or []:
        name, _, folder = spec.partition("=")
        if not folder:
            raise ConfigError(f"A dataset is written NAME=DIRECTORY, got {spec!r}")
        if not expanded(folder).is_dir():
            raise DataNotFound(f"The directory {folder} of dataset {name!r} does not exist")
        _link(directory, name, expanded(folder))
    print(f"cd {shlex.quote(str(directory.absolute()))}")
    for name, value in {"HF_HUB_OFFLINE": "1", **variables()}.items():
        print(f"export {name}={shlex.quote(value)}")


def _link(directory: Path, name: str, target: Path) -> None:
    """Link `target` under a hub id in `directory`; an existing link must be the same."""
    parts = name.split("/")
    if not 1 <= len(parts) <= 2 or any(part in ("", ".", "..") for part in parts):
        raise ConfigError(f"A name on the hub looks like ORGANISATION/NAME, got {name!r}")
    link = directory.joinpath(*parts)
    if link.is_symlink() and link.resolve() == target.resolve():
        return
    if link.is_symlink() or link.exists():
        raise AlreadyExists(f"{link} exists already and is another folder; remove it or name another DIRECTORY")
    require_directory(link.parent, "a folder of the shadow hub")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.absolute(), target_is_directory=True)
