"""Saving a training run to a checkpoint on disk, and loading it back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch

from eztinker.checkpoints.checkpoint_files import (
    ADAPTER_PART,
    GRADIENT_PART,
    OPTIMIZER_PART,
    read_manifest,
    read_tensors,
    tensors_part,
    write_checkpoint,
)
from eztinker.checkpoints.encryption import encrypted, parse_recipients
from eztinker.checkpoints.manifest import Manifest
from eztinker.checkpoints.peft import peft_parts
from eztinker.engine.adamw import AdamW
from eztinker.engine.trainer import TrainingState
from eztinker.errors import InvalidInput
from eztinker.model.decoder import Decoder
from eztinker.model.lora import Adapter, LowRankAdapter
from eztinker.protocol.frames import SaveCheckpoint
from eztinker.types import CheckpointKind

MAX_SAMPLER_ADAPTERS = 32
"""Number of sampler adapters kept in memory; others are read again from their checkpoint when they are sampled from."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_run(run: TrainingState, command: SaveCheckpoint) -> Manifest:
    """Write what `command` calls for; the run is not changed."""
    parts = _parts(run, command.kind)
    if command.with_gradient:
        parts[GRADIENT_PART] = tensors_part(run.adapter.named_arrays(run.grads))
    if command.age_recipients:
        parts = encrypted(parts, parse_recipients(command.age_recipients))
    return write_checkpoint(
        Path(command.directory),
        parts,
        tinker_path=command.tinker_path,
        kind=command.kind,
        base_model=run.base_model,
        lora=run.adapter.lora,
        step=run.optimizer.step,
    )


def load_run(run: TrainingState, directory: Path, manifest: Manifest, *, with_optimizer: bool) -> None:
    """Put a checkpoint's adapter into `run`, with its optimizer or with a fresh one.

    The gradient accumulated so far is the checkpoint's if it was saved with one, else none. If anything fails, the run
    is as it was.

    Raises:
        InvalidInput: it is of another base model or LoRA shape, or holds no optimizer where one is asked for.
    """
    if manifest.kind is CheckpointKind.EXTERNAL:
        raise InvalidInput(f"{manifest.tinker_path} is an export for other programs; load its weights/ checkpoint")
    if with_optimizer and manifest.kind is not CheckpointKind.TRAINING:
        raise InvalidInput(
            f"{manifest.tinker_path} holds no optimizer state; load a weights/ checkpoint or load without the optimizer"
        )
    if manifest.base_model != run.base_model:
        raise InvalidInput(f"{manifest.tinker_path} is of {manifest.base_model}, this run trains {run.base_model}")
    adapter_arrays = read_tensors(directory, manifest, ADAPTER_PART)
    moments = read_tensors(directory, manifest, OPTIMIZER_PART) if with_optimizer else None
    gradient = read_tensors(directory, manifest, GRADIENT_PART) if GRADIENT_PART in manifest.parts else None
    params, grads = torch.empty_like(run.adapter.flat), torch.zeros_like(run.grads)
    optimizer = AdamW.for_params(params)
    run.adapter.fill(adapter_arrays, params)
    if gradient is not None:
        run.adapter.fill(gradient, grads)
    if moments is not None:
        for moment in _MOMENTS:
            named = {name.removeprefix(f"{moment}."): array for name, array in moments.items() if _is(name, moment)}
            run.adapter.fill(named, getattr(optimizer, moment))
        optimizer.step = manifest.step
    run.replace_state(params, grads, optimizer)


class SamplerAdapters:
    """Frozen adapters by checkpoint folder, the most recently used ones in memory."""

    def __init__(self) -> None:
        self._adapters: OrderedDict[str, LowRankAdapter] = OrderedDict()

    def put(self, directory: str, adapter: LowRankAdapter) -> None:
        self._adapters[directory] = adapter
        if len(self._adapters) > MAX_SAMPLER_ADAPTERS:
            self._adapters.popitem(last=False)

    def get(self, directory: str, decoder_of: Callable[[str], Decoder]) -> LowRankAdapter:
        """The adapter saved in `directory`; `decoder_of` gives the decoder of a base model by name."""
        if directory not in self._adapters:
            self.put(directory, _read_adapter(Path(directory), decoder_of))
        self._adapters.move_to_end(directory)
        return self._adapters[directory]


def _read_adapter(directory: Path, decoder_of: Callable[[str], Decoder]) -> LowRankAdapter:
    manifest = read_manifest(directory)
    decoder = decoder_of(manifest.base_model)
    adapter = Adapter.new(decoder.config, manifest.lora, decoder.device)
    adapter.fill(read_tensors(directory, manifest, ADAPTER_PART))
    return adapter.for_sampling(decoder.dtype)


def _parts(run: TrainingState, kind: CheckpointKind) -> dict[str, bytes]:
    arrays = run.adapter.named_arrays()
    if kind is CheckpointKind.EXTERNAL:
        return peft_parts(arrays, run.adapter.lora, run.base_model, head_is_tied=run.decoder.head_is_tied)
    parts = {ADAPTER_PART: tensors_part(arrays)}
    if kind is CheckpointKind.TRAINING:
        moments = {
            f"{moment}.{name}": array
            for moment in _MOMENTS
            for name, array in run.adapter.named_arrays(getattr(run.optimizer, moment)).items()
        }
        parts[OPTIMIZER_PART] = tensors_part(moments)
    return parts


def _is(name: str, moment: str) -> bool:
    return name.startswith(f"{moment}.")
