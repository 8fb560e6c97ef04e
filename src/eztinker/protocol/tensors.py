"""Tensors of the Tinker wire as numpy arrays: dense or sparse CSR, from protobuf or JSON.

Every tensor is checked before an array of the claimed size is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import numpy as np

from eztinker.errors import InvalidInput
from eztinker.protocol import wire_pb2
from eztinker.protocol.json_bodies import Body

MAX_TENSOR_CELLS = 1 << 24
"""Most cells of one dense tensor: 128 MiB of int64."""
MAX_DIMENSIONS = 4
"""Most dimensions of a tensor; none needs more than two."""
_PIECE = 1 << 16
"""Numbers of a list converted at a time, which blocks other threads for 5 ms."""

WIRE_DTYPES = {
    wire_pb2.FLOAT32: np.dtype("<f4"),
    wire_pb2.INT64: np.dtype("<i8"),
    wire_pb2.INT32: np.dtype("<i4"),
}


class TensorBody(Body):
    """A tensor in JSON: dense or, with the two `sparse_` fields, CSR, where `data` holds the listed cells only."""

    data: list[int | float]
    dtype: Literal["float32", "int64"]
    shape: list[int] | None = None
    sparse_crow_indices: list[int] | None = None
    sparse_col_indices: list[int] | None = None


def tensor_from_wire(tensor: wire_pb2.Tensor) -> np.ndarray:
    """The dense array of a protobuf tensor, in its own dtype.

    Raises:
        InvalidInput: the dtype is not float32, int64 or int32, or the buffers do not fit the shape.
    """
    dtype = WIRE_DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InvalidInput(f"A tensor must be float32, int64 or int32, got dtype {tensor.dtype}")
    if tensor.WhichOneof("encoding") == "sparse_csr":
        csr = tensor.sparse_csr
        return dense_from_csr(
            _buffer(csr.values, dtype),
            _buffer(csr.crow_indices, np.dtype("<i8")),
            _buffer(csr.col_indices, np.dtype("<i8")),
            tensor.shape,
        )
    return _shaped(_buffer(tensor.dense, dtype), tensor.shape)


def tensor_from_json(tensor: TensorBody) -> np.ndarray:
    """The dense array of a JSON tensor; without a shape it is one-dimensional.

    Raises:
        InvalidInput: the data do not fit the dtype or the shape.
    """
    if tensor.sparse_crow_indices is not None or tensor.sparse_col_indices is not None:
        return dense_from_csr(*csr_from_json(tensor), tensor.shape or ())
    data = _data(tensor)
    return data if tensor.shape is None else _shaped(data, tensor.shape)


def csr_from_json(tensor: TensorBody) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Listed values, row pointers and column indices of a sparse JSON tensor.

    Raises:
        InvalidInput: a part or the shape is missing, or a part does not fit its dtype.
    """
    if tensor.sparse_crow_indices is None or tensor.sparse_col_indices is None or tensor.shape is None:
        raise InvalidInput("A sparse tensor needs sparse_crow_indices, sparse_col_indices and shape")
    return _data(tensor), _int64(tensor.sparse_crow_indices), _int64(tensor.sparse_col_indices)


def dense_from_csr(values: np.ndarray, crow: np.ndarray, col: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The dense matrix of a CSR one; cells that are not listed are 0.

    Raises:
        InvalidInput: the three arrays do not describe a matrix of this shape.
    """
    rows = csr_rows(len(values), crow, col, shape)
    dense = np.zeros(tuple(shape), dtype=values.dtype)
    dense[rows, col] = values
    return dense


def csr_rows(num_values: int, crow: np.ndarray, col: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The row of every listed cell of a CSR matrix.

    Raises:
        InvalidInput: the indices do not describe that many cells of a matrix of this shape.
    """
    _check_shape(shape)
    if len(shape) != 2:
        raise InvalidInput(f"A sparse tensor has two dimensions, got shape {list(shape)}")
    num_rows, num_cols = shape
    is_consistent = len(crow) == num_rows + 1 and crow[0] == 0 and crow[-1] == num_values
    # A pointer beyond the values is refused by itself: the difference of two of them may overflow.
    if not is_consistent or crow.max() > num_values or (np.diff(crow) < 0).any():
        raise InvalidInput(f"The row pointers of a sparse tensor of shape {list(shape)} are not consistent")
    if len(col) != num_values or (len(col) and (col.min() < 0 or col.max() >= num_cols)):
        raise InvalidInput(f"The column indices of a sparse tensor of shape {list(shape)} are out of range")
    return np.repeat(np.arange(num_rows), np.diff(crow))


def int64_array(numbers: Sequence[int]) -> np.ndarray:
    """A list of integers as an int64 array.

    Raises:
        OverflowError: an integer does not fit.
    """
    return _array(numbers, "int64")


def _array(numbers: Sequence[float], dtype: str) -> np.ndarray:
    """A list of numbers as an array, converted in pieces; numbers beyond float32 become infinite."""
    with np.errstate(over="ignore"):
        pieces = [np.array(numbers[start : start + _PIECE], dtype) for start in range(0, len(numbers), _PIECE)]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype)


def _data(tensor: TensorBody) -> np.ndarray:
    """Numbers that a JSON tensor lists, one-dimensional."""
    if tensor.dtype == "int64" and float in set(map(type, tensor.data)):
        raise InvalidInput("The tensor's data do not fit int64: there is a fraction among them")
    try:
        return _array(tensor.data, tensor.dtype)
    except (OverflowError, ValueError) as error:
        raise InvalidInput(f"The tensor's data do not fit {tensor.dtype}: {error}") from error


def _buffer(raw: bytes, dtype: np.dtype) -> np.ndarray:
    if len(raw) % dtype.itemsize:
        raise InvalidInput(f"A buffer of {len(raw)} bytes does not hold whole {dtype.name} numbers")
    return np.frombuffer(raw, dtype=dtype)


def _int64(indices: list[int]) -> np.ndarray:
    try:
        return int64_array(indices)
    except OverflowError as error:
        raise InvalidInput("The indices of a sparse tensor do not fit 64 bits") from error


def _shaped(data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    _check_shape(shape)
    if prod(shape) != data.size:
        raise InvalidInput(f"A tensor of shape {list(shape)} needs {prod(shape)} numbers, got {data.size}")
    return data.reshape(shape)


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) > MAX_DIMENSIONS:  # before they are multiplied: thousands give a number of as many digits
        raise InvalidInput(f"A tensor may have {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    if any(size < 0 for size in shape) or prod(shape) > MAX_TENSOR_CELLS:
        raise InvalidInput(f"A tensor may have {MAX_TENSOR_CELLS} cells and no negative size, got {list(shape)}")
