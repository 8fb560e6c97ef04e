"""Dense and sparse tensors of the wire as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidInput
from eztinker.protocol import wire_pb2
from eztinker.protocol.tensors import TensorBody, dense_from_csr, tensor_from_json, tensor_from_wire
from tests.unit.protocol.sdk_messages import TARGETS, batch_of, failure_of, sdk_datum, sdk_message


@pytest.mark.conforms(57)
def test_integer_weights_become_float32_and_targets_int64():
    datum = sdk_datum([1, 2], target_tokens=torch.tensor([1, 2]), weights=torch.tensor([1, 0]))
    inputs = batch_of(sdk_message(datum)).data[0].loss_fn_inputs
    assert inputs["weights"].dtype == np.float32
    assert inputs["target_tokens"].dtype == np.int64


@pytest.mark.conforms(46)
def test_sparse_targets_and_weights_become_dense():
    weights = torch.tensor([[0.5, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, -1.0]])
    datum = sdk_datum([1, 2], target_tokens=torch.tensor(TARGETS), weights=weights)
    message = sdk_message(datum)
    assert message.data[0].loss_fn_inputs["target_tokens"].WhichOneof("encoding") == "sparse_csr"
    inputs = batch_of(message).data[0].loss_fn_inputs
    assert inputs["target_tokens"].tolist() == TARGETS
    assert inputs["weights"].tolist() == weights.tolist()


def test_a_huge_sparse_shape_is_refused_before_anything_is_allocated():
    message = sdk_message(sdk_datum([1, 2], target_tokens=torch.tensor(TARGETS)))
    message.data[0].loss_fn_inputs["target_tokens"].shape[:] = [2, 2**40]
    assert "may have 16777216 cells" in failure_of(message).message


@pytest.mark.parametrize("column", [-1, 8])
def test_sparse_columns_outside_the_shape_are_refused(column: int):
    message = sdk_message(sdk_datum([1, 2], target_tokens=torch.tensor(TARGETS)))
    csr = message.data[0].loss_fn_inputs["target_tokens"].sparse_csr
    csr.col_indices = np.array([0, column], "<i8").tobytes()
    assert "column indices" in failure_of(message).message


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("float32", np.float32), ("int64", np.int64)])
def test_a_tensor_in_json_has_the_dtype_and_shape_that_it_says(dtype: str, numpy_dtype: type):
    tensor = TensorBody(data=[1, 2, 3, 4, 5, 6], dtype=dtype, shape=[2, 3])  # pyright: ignore[reportArgumentType]
    array = tensor_from_json(tensor)
    assert array.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert array.dtype == numpy_dtype
    flat = TensorBody(data=[1, 2], dtype=dtype)  # pyright: ignore[reportArgumentType]
    assert tensor_from_json(flat).shape == (2,)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"data": [1.5], "dtype": "int64"}, "a fraction among them"),
        ({"data": [2**63], "dtype": "int64"}, "do not fit int64"),
        ({"data": [1, 2, 3], "dtype": "int64", "shape": [2, 2]}, "needs 4 numbers, got 3"),
        ({"data": [], "dtype": "int64", "shape": [-1]}, "no negative size"),
        ({"data": [], "dtype": "int64", "shape": [1 << 20, 1 << 20]}, "may have 16777216 cells"),
        ({"data": [], "dtype": "int64", "shape": [1] * 5}, "may have 4 dimensions, got 5"),
        (
            {"data": [], "dtype": "int64", "shape": [2, 2], "sparse_crow_indices": [0, 0, 0]},
            "needs sparse_crow_indices",
        ),
    ],
)
def test_a_tensor_in_json_that_does_not_fit_is_refused_before_anything_is_made(fields: dict[str, Any], sentence: str):
    with pytest.raises(InvalidInput, match=sentence):
        tensor_from_json(TensorBody(**fields))


def test_numbers_beyond_float32_become_infinite():
    array = tensor_from_json(TensorBody(data=[1e300, -1e300], dtype="float32"))
    assert array.tolist() == [np.inf, -np.inf]


@given(st.integers(0, 5), st.integers(0, 5), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), unique=True))
def test_a_sparse_matrix_is_the_one_that_its_cells_describe(num_rows: int, num_cols: int, cells: list[tuple[int, int]]):
    listed = sorted((row, col) for row, col in cells if row < num_rows and col < num_cols)
    expected = np.zeros((num_rows, num_cols), np.int64)
    for value, (row, col) in enumerate(listed, 1):
        expected[row, col] = value
    crow = [sum(row < bound for row, _ in listed) for bound in range(num_rows + 1)]
    tensor = TensorBody(
        data=[*range(1, len(listed) + 1)],
        dtype="int64",
        shape=[num_rows, num_cols],
        sparse_crow_indices=crow,
        sparse_col_indices=[col for _, col in listed],
    )
    assert np.array_equal(tensor_from_json(tensor), expected)


@pytest.mark.parametrize("crow", [[0, 1], [1, 1, 2], [0, 2, 1], [0, 3, 2], [0, 1, 3], [0, 2**62, 2]])
def test_row_pointers_that_contradict_each_other_are_refused(crow: list[int]):
    with pytest.raises(InvalidInput, match="row pointers"):
        dense_from_csr(np.array([1, 2]), np.array(crow), np.array([0, 1]), (2, 2))


@pytest.mark.parametrize("num_bytes", [1, 7, 9])
def test_a_buffer_that_ends_within_a_number_is_refused(num_bytes: int):
    tensor = wire_pb2.Tensor(dense=bytes(num_bytes), dtype=wire_pb2.INT64, shape=[1])
    with pytest.raises(InvalidInput, match="does not hold whole int64"):
        tensor_from_wire(tensor)
