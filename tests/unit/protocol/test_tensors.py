"""Dense and sparse tensors of the wire as arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
