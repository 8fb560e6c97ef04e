"""Tokens to score at prompt positions: a dense or CSR tensor, and a tensor of logprobs in the same layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from eztinker.errors import InvalidInput
from eztinker.protocol import wire_pb2
from eztinker.protocol.tensors import MAX_DIMENSIONS, TensorBody, csr_from_json, csr_rows, tensor_from_json
from eztinker.types import PromptTargets, Record

FIELD = "target_prompt_logprobs"


class TargetTensor(Record):
    """An int64 tensor of shape (N - 1, K): row i names tokens for prompt position i + 1."""

    shape: tuple[int, int]
    crow: np.ndarray | None
    """Row pointers of a CSR tensor, int64 (N,); None if it is dense."""
    col: np.ndarray | None
    rows: np.ndarray
    """Row of each listed cell, int64; a dense tensor lists all."""
    tokens: np.ndarray
    """Token of each listed cell, int64; -1 asks for nothing."""

    @property
    def asked(self) -> np.ndarray:
        """Mask, bool, of the listed cells that ask for a logprob."""
        return self.tokens != -1

    def cells(self) -> PromptTargets:
        """The cells that ask for a logprob."""
        return PromptTargets(positions=self.rows[self.asked] + 1, tokens=self.tokens[self.asked])

    def encode(self, logprobs: np.ndarray) -> wire_pb2.Tensor:
        """The logprobs of `cells`, float32 (C,), in this tensor's layout; 0 where nothing was asked."""
        values = np.zeros(len(self.tokens), dtype="<f4")
        values[self.asked] = logprobs
        message = wire_pb2.Tensor(dtype=wire_pb2.FLOAT32, shape=self.shape)
        if self.crow is None or self.col is None:
            message.dense = values.tobytes()
        else:
            message.sparse_csr.values = values.tobytes()
            message.sparse_csr.crow_indices = self.crow.astype("<i8", copy=False).tobytes()
            message.sparse_csr.col_indices = self.col.astype("<i8", copy=False).tobytes()
        return message


def targets_from_json(body: TensorBody) -> TargetTensor:
    """The target tensor in a JSON body.

    Raises:
        InvalidInput: the tensor is not int64 or not a matrix.
    """
    if body.dtype != "int64" or body.shape is None or len(body.shape) != 2:
        shown = body.dtype if body.shape is None else f"{body.dtype} of shape {body.shape[:MAX_DIMENSIONS]}"
        raise InvalidInput(f"{FIELD} must be an int64 tensor of shape [len(prompt) - 1, K], got {shown}", field=FIELD)
    shape = (body.shape[0], body.shape[1])
    if body.sparse_crow_indices is None and body.sparse_col_indices is None:
        tokens = tensor_from_json(body).ravel()
        rows = np.repeat(np.arange(shape[0]), shape[1])
        return TargetTensor(shape=shape, crow=None, col=None, rows=rows, tokens=tokens)
    tokens, crow, col = csr_from_json(body)
    rows = csr_rows(len(tokens), crow, col, shape)
    return TargetTensor(shape=shape, crow=crow, col=col, rows=rows, tokens=tokens)


def tensor_as_json(tensor: wire_pb2.Tensor) -> dict[str, Any]:
    """A tensor of a result as JSON, in the form of tensors in requests."""
    is_sparse = tensor.WhichOneof("encoding") == "sparse_csr"
    raw = tensor.sparse_csr.values if is_sparse else tensor.dense
    is_float = tensor.dtype == wire_pb2.FLOAT32
    answer: dict[str, Any] = {
        "data": np.frombuffer(raw, "<f4" if is_float else "<i4").tolist(),
        "dtype": "float32" if is_float else "int64",
        "shape": list(tensor.shape),
    }
    if is_sparse:
        answer["sparse_crow_indices"] = np.frombuffer(tensor.sparse_csr.crow_indices, "<i8").tolist()
        answer["sparse_col_indices"] = np.frombuffer(tensor.sparse_csr.col_indices, "<i8").tolist()
    return answer
