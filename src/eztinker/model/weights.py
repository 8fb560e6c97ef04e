"""A model's weights from the safetensors files of its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from eztinker.errors import DataDamaged, DataNotFound

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class WeightFiles:
    """Tensors by name, read when asked for and converted to one dtype on one device."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._directory, self._dtype, self._device = directory, dtype, device
        self._file_of = dict(self._names())

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def get(self, name: str) -> Tensor:
        """The tensor called `name`.

        Raises:
            DataDamaged: it is not there, or its file cannot be read.
        """
        if name not in self._file_of:
            raise DataDamaged(f"The model in {self._directory} has no weight {name!r}; its files may be incomplete")
        file = self._file_of[name]
        try:
            with safe_open(file, framework="pt", device="cpu") as tensors:
                return tensors.get_tensor(name).to(self._device, self._dtype)
        except SafetensorError as error:
            raise DataDamaged(f"{file} cannot be read ({error}); fetch the model again") from error

    def find(self, name: str) -> Tensor | None:
        return self.get(name) if name in self else None

    def _names(self) -> Iterator[tuple[str, Path]]:
        index = self._directory / INDEX
        if index.exists():
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            yield from ((name, self._directory / file) for name, file in weight_map.items())
            return
        single = self._directory / SINGLE
        if not single.exists():
            raise DataNotFound(f"{self._directory} holds no {SINGLE} and no {INDEX}; only safetensors weights are read")
        try:
            with safe_open(single, framework="pt") as tensors:
                yield from ((name, single) for name in tensors.keys())  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise DataDamaged(f"{single} cannot be read ({error}); fetch the model again") from error
