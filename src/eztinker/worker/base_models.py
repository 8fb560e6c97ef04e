"""The base models of this engine, each loaded on first use and kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from eztinker.engine.sampler import BatchSampler
from eztinker.engine.scheduler import Scheduler
from eztinker.errors import DataDamaged, ModelNotServed
from eztinker.model.decoder import Decoder
from eztinker.model_files.tokenizer_file import TOKENIZER_FILE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    decoder: Decoder
    sampler: BatchSampler


class BaseModels:
    """Decoder and sampler by served name."""

    def __init__(
        self,
        directories: Mapping[str, str],
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_batch_size: int,
        scheduler: Scheduler,
    ) -> None:
        self._directories = directories
        self._dtype, self._device = dtype, device
        self._max_batch_size = max_batch_size
        self._scheduler = scheduler
        self._loaded: dict[str, LoadedModel] = {}

    def get(self, name: str) -> LoadedModel:
        """The model served as `name`, loaded from its folder the first time."""
        if name not in self._directories:
            raise ModelNotServed(f"The base model {name!r} is not served; served are {', '.join(self._directories)}")
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> LoadedModel:
        started = time.monotonic()
        directory = Path(self._directories[name])
        decoder = Decoder.load(directory, self._dtype, self._device)
        sampler = BatchSampler(decoder, _tokenizer(directory, name), max_batch_size=self._max_batch_size)
        self._scheduler.add_sampler(sampler)
        log.info("Base model %s loaded in %.1f s", name, time.monotonic() - started)
        return LoadedModel(decoder, sampler)


def _tokenizer(directory: Path, name: str) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    except Exception as error:  # the library raises nothing narrower
        raise DataDamaged(
            f"{TOKENIZER_FILE} of base model {name!r} cannot be read ({error}); fetch it again"
        ) from error
