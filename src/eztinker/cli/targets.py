"""Targets of sampling on the command line: a base model, a run by id or name, or the path of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from eztinker.errors import InvalidInput, NotFound
from eztinker.rest_client import SCHEME, RestClient, split_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A base model or checkpoint to sample from."""

    base_model: str
    path: str | None = None
    """Path of the checkpoint; None for the base model alone."""
    run: str | None = None
    """Run of a training checkpoint, which must be loaded before it can be sampled from; None for other targets."""


def find_target(name: str, client: RestClient) -> Target:
    """Resolve `name` on this server.

    Raises:
        NotFound: it names nothing, or a run without a checkpoint.
        InvalidInput: it names both a base model and a run.
    """
    if name.startswith(SCHEME):
        run, checkpoint_id = split_path(name)
        is_training = checkpoint_id.startswith("weights/")
        return Target(base_model=client.base_model_of(name), path=name, run=run if is_training else None)
    served = [model["model_name"] for model in client.models()]
    is_served = name in served or name.partition(":")[0] in served
    run = _run(name, client)
    if is_served and run is not None:
        raise InvalidInput(
            f"{name!r} is both a base model of this server and the name of the run {run['run_id']}; say "
            f"{run['run_id']} for the run, or give it another name for the model: "
            f"eztinker label {run['run_id']} --name ANOTHER"
        )
    if is_served:
        return Target(base_model=name)
    if run is None:
        raise NotFound(
            f"{name} is no base model of this server, which serves {', '.join(served) or 'none'}, and no run; "
            "see: eztinker models, eztinker runs"
        )
    if run["last_checkpoint"] is None:
        raise NotFound(f"Nothing of the run {run['run_id']} is saved yet; call save_state in the script that trains it")
    return Target(base_model=run["base_model"], path=run["last_checkpoint"]["tinker_path"], run=run["run_id"])


def load_tokenizer(base_model: str, client: RestClient) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a served model from the server itself, without a hub."""
    from transformers import AutoTokenizer

    with TemporaryDirectory(prefix="eztinker-tokenizer-") as directory:
        client.fetch_tokenizer(base_model, Path(directory))
        return AutoTokenizer.from_pretrained(directory)


def _run(name: str, client: RestClient) -> dict[str, Any] | None:
    try:
        return client.run(name)
    except NotFound:
        return None
