"""Floating-point tensors of safetensors files as float32 arrays, including bfloat16, which numpy does not have."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError, deserialize

_DTYPES = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
FLOAT_DTYPES = {**{name: dtype.itemsize for name, dtype in _DTYPES.items()}, "BF16": 2}
"""Bytes per number of each dtype that can be read, by its name in safetensors files."""
MAX_SHOWN_CHARS = 200
"""Characters of a tensor's name that an error message quotes; a file may have any name."""


def load_float32(raw: bytes) -> dict[str, np.ndarray]:
    """Every tensor of the safetensors file `raw` by name, in float32.

    Raises:
        ValueError: `raw` is no such file, or holds other than floating-point numbers.
    """
    try:
        tensors = deserialize(raw)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return {name: _float32(name, tensor["dtype"], tensor["data"]).reshape(tensor["shape"]) for name, tensor in tensors}


def to_bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Round finite float32 `values` to bfloat16, ties to even; the bits as uint16, of the same shape."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def as_float32(data: bytes, dtype: str) -> np.ndarray:
    """Convert raw numbers of one of `FLOAT_DTYPES` to a flat float32 array."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, _DTYPES[dtype]).astype(np.float32)


def _float32(name: str, dtype: str, data: bytes) -> np.ndarray:
    if dtype not in FLOAT_DTYPES:
        raise ValueError(f"{name[:MAX_SHOWN_CHARS]} is of type {dtype}, not of floating-point numbers")
    return as_float32(data, dtype)
