"""A model's weights from the safetensors files of its folder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from eztinker.errors import DataDamaged
from eztinker.model_files.tensor_files import StoredTensor


class WeightFiles:
    """Tensors by name, read when asked for and converted to one dtype on one device."""

    def __init__(self, tensors: Mapping[str, StoredTensor], dtype: torch.dtype, device: torch.device) -> None:
        self._tensors, self._dtype, self._device = tensors, dtype, device

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str) -> Tensor:
        """The tensor called `name`, which is one of them.

        Raises:
            DataDamaged: its file cannot be read, or has changed since its header was.
        """
        stored = self._tensors[name]
        try:
            with safe_open(stored.file, framework="pt", device="cpu") as file:
                tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise DataDamaged(f"{stored.file.name} cannot be read ({error}); fetch the model again") from error
        if tuple(tensor.shape) != stored.shape:
            raise DataDamaged(f"{name} in {stored.file.name} has changed its shape while the model was being loaded")
        return tensor.to(self._device, self._dtype)
