"""Training runs by name: an id that finds the newest state of an adapter from any process.

A run id is `run_` and the id of the Tinker model it began as. A training client lives and dies with its process, so
every change is saved as a checkpoint that carries the run id; whoever opens the run continues from the newest of
them, optimizer moments included. Nothing about a run is kept outside the server.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eztinker.errors import NotFound
from eztinker.rl.connection import rest_client, sdk_errors, service_client
from eztinker.rl.sampling import Sampler

if TYPE_CHECKING:
    import tinker
    from transformers import PreTrainedTokenizerBase

RUN_PREFIX = "run_"
RUN_KEY = "eztinker_run"
"""Under this key checkpoints name the run they belong to."""
_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A run this process can train and sample."""

    run_id: str
    client: tinker.TrainingClient
    tokenizer: PreTrainedTokenizerBase

    def sampler(self) -> Sampler:
        """Draws from the adapter as it is now; later training does not change it."""
        with sdk_errors():
            return Sampler(self.client.save_weights_and_get_sampling_client().result(), self.tokenizer)

    def save(self, name: str = "latest") -> tinker.APIFuture[tinker.types.SaveWeightsResponse]:
        """Queue a checkpoint from which any process can go on; it replaces an earlier one of that name."""
        with sdk_errors():
            return self.client.save_state(name, overwrite=True, user_metadata={RUN_KEY: self.run_id})

    def save_for_sampling(self, name: str) -> str:
        """Save the adapter alone; the tinker:// path that samplers load."""
        with sdk_errors():
            return self.client.save_weights_for_sampler(name).result().path


_open_runs: dict[str, TrainingRun] = {}
"""By model id: the runs whose newest state this process holds, so far as no other has trained them since."""


def create_training_run(base_model: str = "Qwen/Qwen2-0.5B-Instruct", lora_rank: int = 1) -> str:
    """Start a LoRA adapter on `base_model`; the id is accepted by every function here, the CLI and later processes.

    Raises:
        ServerUnreachable: no server answers.
        NotFound: the server does not serve `base_model`; the message lists what it serves.
    """
    run = new_run(base_model, lora_rank)
    with sdk_errors():
        run.save().result()
    return run.run_id


def new_run(base_model: str, lora_rank: int, seed: int | None = None) -> TrainingRun:
    """A fresh adapter; no other process can find it before its first `save`."""
    with sdk_errors():
        client = (
            service_client()
            .create_lora_training_client(
                base_model,
                rank=lora_rank,
                seed=seed,
                train_unembed=False,  # tied to the embedding in small models; the attention and MLP adapters suffice
            )
            .result()
        )
    return _opened(RUN_PREFIX + client.get_info().model_id, client)


def open_run(run_id: str) -> TrainingRun:
    """The run in its newest state, whichever process trained it last.

    Raises:
        NotFound: the server has no checkpoint of this run.
    """
    path = newest_checkpoint(run_id)
    return _open_runs.get(_model_id(path)) or resume_run(run_id, path)


def resume_run(run_id: str, checkpoint_path: str) -> TrainingRun:
    """The run as the checkpoint holds it, optimizer moments included."""
    with sdk_errors():
        client = (
            service_client()
            .create_training_client_from_state_with_optimizer(checkpoint_path, user_metadata={RUN_KEY: run_id})
            .result()
        )
    return _opened(run_id, client)


def newest_checkpoint(run_id: str) -> str:
    """The tinker:// path of the run's newest training checkpoint.

    Raises:
        NotFound: the server has none.
    """
    for checkpoint in _checkpoints_newest_first():
        is_of_run = (checkpoint.user_metadata or {}).get(RUN_KEY) == run_id
        if is_of_run and checkpoint.checkpoint_type == "training":
            return checkpoint.tinker_path
    raise NotFound(f"No run {run_id} on this server; 'eztinker runs' lists those it has")


def _checkpoints_newest_first() -> Iterator[tinker.types.Checkpoint]:
    client = rest_client()
    for offset in itertools.count(0, _PAGE_SIZE):
        with sdk_errors():
            page = client.list_user_checkpoints(limit=_PAGE_SIZE, offset=offset).result().checkpoints
        yield from page
        if len(page) < _PAGE_SIZE:
            return


def _opened(run_id: str, client: tinker.TrainingClient) -> TrainingRun:
    with sdk_errors():
        run = TrainingRun(run_id, client, client.get_tokenizer())
        _open_runs[client.get_info().model_id] = run
    return run


def _model_id(checkpoint_path: str) -> str:
    return checkpoint_path.removeprefix("tinker://").partition("/")[0]
