"""Training runs by id or name, in the newest state of their adapter, from any process.

A training client lives and dies with its process, so every change is saved as a checkpoint; whoever opens the run goes
on from the newest, optimizer moments included, with a new Tinker model that belongs to the same run. Nothing about a
run is kept outside the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eztinker.errors import NotFound
from eztinker.rest_client import SCHEME, rest_client
from eztinker.rl.connection import require_served, sdk_errors, service_client
from eztinker.rl.sampling import AdapterSampler

if TYPE_CHECKING:
    import tinker
    from transformers import PreTrainedTokenizerBase

RUN_KEY, NAME_KEY, NOTE_KEY = "eztinker_run", "eztinker_name", "eztinker_note"
"""Keys that the server reads in a new model's `user_metadata`: the run it carries on, or what its own run is called."""


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A training run that this process has a client for, to train and to sample."""

    run_id: str
    client: tinker.TrainingClient
    tokenizer: PreTrainedTokenizerBase

    def sampler(self) -> AdapterSampler:
        """A sampler for the adapter as it is now; later training does not change it."""
        with sdk_errors():
            return AdapterSampler(self.client.save_weights_and_get_sampling_client().result(), self.tokenizer)

    def save(self, name: str = "latest") -> tinker.APIFuture[tinker.types.SaveWeightsResponse]:
        """Queue a checkpoint from which any process can go on; it replaces an earlier one of that name."""
        with sdk_errors():
            return self.client.save_state(name, overwrite=True)

    def save_for_sampling(self, name: str) -> str:
        """Save the adapter alone; returns the tinker:// path, with the run's id, that samplers load."""
        with sdk_errors():
            self.client.save_weights_for_sampler(name).result()
        return f"{SCHEME}{self.run_id}/sampler_weights/{name}"


_open_runs: dict[str, OpenRun] = {}
"""Runs by model id whose newest state this process holds, so far as no other has trained them since."""


def create_training_run(
    base_model: str = "Qwen/Qwen2-0.5B-Instruct",
    lora_rank: int = 1,
    *,
    name: str | None = None,
    note: str | None = None,
) -> str:
    """Start a LoRA adapter on `base_model`; the id is accepted by every function here, the CLI and later processes.

    Args:
        name: stands for the id wherever one is asked for; yours alone.
        note: for people; `eztinker label` changes both.
    Raises:
        ServerUnreachable: no server answers.
        NotFound: the server does not serve `base_model`; the message lists what it serves, and how to start it.
        InvalidInput: another of your runs has the name.
    """
    require_served(base_model)
    run = new_run(base_model, lora_rank, name=name, note=note)
    with sdk_errors():
        run.save().result()
    return run.run_id


def new_run(
    base_model: str, lora_rank: int, seed: int | None = None, *, name: str | None = None, note: str | None = None
) -> OpenRun:
    """Start a fresh adapter; no other process can go on from it before its first `save`."""
    label = {key: value for key, value in ((NAME_KEY, name), (NOTE_KEY, note)) if value is not None}
    with sdk_errors():
        client = (
            service_client()
            .create_lora_training_client(
                base_model,
                rank=lora_rank,
                seed=seed,
                train_unembed=False,  # tied to the embedding in small models; the attention and MLP adapters suffice
                user_metadata=label or None,
            )
            .result()
        )
        model_id = client.get_info().model_id
    with rest_client() as server:
        return _opened(server.run(model_id)["run_id"], client)


def open_run(reference: str) -> OpenRun:
    """The run with this id or name in its newest state, whichever process trained it last.

    Raises:
        NotFound: there is no such run, or nothing of it is saved.
    """
    with rest_client() as server:
        run = server.run(reference)
    checkpoint = run["last_checkpoint"]
    if checkpoint is None:
        raise NotFound(f"Nothing of the run {run['run_id']} is saved yet; call save_state in the script that trains it")
    path = checkpoint["tinker_path"]
    return _open_runs.get(_model_id(path)) or resume_run(run["run_id"], path)


def resume_run(run_id: str, checkpoint_path: str) -> OpenRun:
    """Resume a run as the checkpoint holds it, optimizer moments included."""
    with sdk_errors():
        client = (
            service_client()
            .create_training_client_from_state_with_optimizer(checkpoint_path, user_metadata={RUN_KEY: run_id})
            .result()
        )
    return _opened(run_id, client)


def has_checkpoint(run_id: str, path: str) -> bool:
    """Whether the server has a checkpoint of this run under this tinker:// path."""
    with rest_client() as server:
        try:
            return any(checkpoint["path"] == path for checkpoint in server.checkpoints(run_id))
        except NotFound:
            return False


def _opened(run_id: str, client: tinker.TrainingClient) -> OpenRun:
    with sdk_errors():
        run = OpenRun(run_id, client, client.get_tokenizer())
        _open_runs[client.get_info().model_id] = run
    return run


def _model_id(checkpoint_path: str) -> str:
    return checkpoint_path.removeprefix("tinker://").partition("/")[0]
