"""What is wrong with a training batch is said before it reaches the engine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from eztinker.base_models.base_model import BaseModel
from eztinker.errors import InvalidInput, Unsupported
from eztinker.protocol.training_codec import ForwardBackwardRequest
from eztinker.service.training.batch_validation import check_batch
from eztinker.types import Datum

BASE = BaseModel(
    name="tiny", directory=Path("/none"), model_type="llama", vocab_size=10, context_length=4, eos_token_ids=(9,)
)


def datum(num_tokens: int = 3, **inputs: np.ndarray) -> Datum:
    given = {"target_tokens": np.arange(num_tokens), "weights": np.ones(num_tokens, np.float32)} | inputs
    return Datum(tokens=np.arange(num_tokens), loss_fn_inputs=given)


def policy_datum(**inputs: np.ndarray) -> Datum:
    zeros = np.zeros(3, np.float32)
    given = {"target_tokens": np.arange(3), "logprobs": zeros, "advantages": zeros} | inputs
    return Datum(tokens=np.arange(3), loss_fn_inputs=given)


def batch(*data: Datum, loss_fn: str = "cross_entropy", **config: float | str) -> ForwardBackwardRequest:
    return ForwardBackwardRequest(model_id="run", seq_id=1, data=list(data), loss_fn=loss_fn, loss_fn_config=config)


def with_tokens(tokens: list[int]) -> Datum:
    return msgspec.structs.replace(datum(len(tokens)), tokens=np.array(tokens))


@pytest.mark.parametrize(
    "good",
    [
        batch(datum()),
        batch(datum(weights=np.array([-1, 0, 3], np.float32))),
        batch(datum(target_tokens=np.zeros((3, 2), np.int64), weights=np.zeros((3, 2), np.float32))),
        batch(policy_datum(), loss_fn="importance_sampling"),
        batch(policy_datum(), loss_fn="ppo", clip_low_threshold=0.9, clip_high_threshold=1.1),
        batch(policy_datum(), loss_fn="dro", beta=0.1),
        batch(policy_datum(sequence_ratio_mask=np.ones(3, np.float32)), loss_fn="gspo"),
        batch(policy_datum(weights=np.array([0, 2, 1], np.float32)), loss_fn="ppo"),
    ],
)
def test_what_a_loss_reads_passes(good: ForwardBackwardRequest):
    check_batch(good, BASE)


@pytest.mark.conforms(55, 56)
@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (batch(), "1 to 4096 data, got 0"),
        (batch(datum(0)), "data[0]: model_input must have 1 to 4 tokens, got 0"),
        (batch(datum(), datum(5)), "data[1]: model_input must have 1 to 4 tokens, got 5"),
        (batch(with_tokens([1, 10])), "data[0]: model_input: token 10 at position 1 is not in the vocabulary"),
        (batch(with_tokens([-1, 2])), "token -1 at position 0"),
        (batch(datum(target_tokens=np.array([1, 2, 77]))), "data[0]: target_tokens: token 77 at position 2"),
        (batch(datum(target_tokens=np.array([1, 2]))), "must have the shape (3,) or (3, K), got (2,)"),
        (batch(datum(weights=np.ones(2, np.float32))), "weights must have the shape of target_tokens (3,), got (2,)"),
        (batch(datum(weights=np.array([1, np.nan, 1], np.float32))), "weights has nan at position 1"),
        (batch(datum(weights=np.array([1, 1, np.inf], np.float32))), "weights has inf at position 2"),
        (batch(datum(mask=np.ones(3, np.float32))), "the loss does not read mask; it reads target_tokens, weights"),
        (batch(Datum(tokens=np.arange(3), loss_fn_inputs={})), "loss_fn_inputs lack target_tokens, weights"),
        (batch(datum(), loss_fn="cross"), "Unknown loss_fn 'cross'; choose one of cross_entropy"),
        (batch(datum(), beta=1.0), "Unknown loss_fn_config entry 'beta' for cross_entropy; it reads none"),
        (batch(policy_datum(), loss_fn="dro", beta="x"), "'beta' must be a finite number, got 'x'"),
        (batch(policy_datum(), loss_fn="dro", beta=float("inf")), "'beta' must be a finite number, got inf"),
        (
            batch(policy_datum(target_tokens=np.zeros((3, 2), np.int64)), loss_fn="ppo"),
            "target_tokens must have the shape (3,), got (3, 2)",
        ),
        (
            batch(policy_datum(sequence_ratio_mask=np.ones(3, np.float32)), loss_fn="ppo"),
            "sequence_ratio_mask",
        ),
    ],
)
def test_a_bad_batch_gets_a_sentence(bad: ForwardBackwardRequest, sentence: str):
    with pytest.raises(InvalidInput) as caught:
        check_batch(bad, BASE)
    assert sentence in caught.value.message


@pytest.mark.conforms("server-side custom losses")
def test_a_loss_we_know_of_and_do_not_compute_is_refused_by_name():
    with pytest.raises(Unsupported, match="custom"):
        check_batch(batch(datum(), loss_fn="custom"), BASE)
