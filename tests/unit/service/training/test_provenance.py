"""Data that say where they come from are held against what was sampled, and get their logprobs from there."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from eztinker.errors import InvalidInput
from eztinker.protocol.provenance import Provenance, Span
from eztinker.protocol.training_codec import ForwardBackwardRequest
from eztinker.service.sessions.recorded_samples import Recorded
from eztinker.service.training.provenance import sequence_ids, with_recorded_logprobs
from eztinker.types import Datum

PROMPT, FIRST, SECOND = [5, 6, 7], [8, 9], [3, 4, 2]
RECORDED = {
    "op-a-0": Recorded(
        op_id="op-a",
        prompt=np.array(PROMPT, np.int32),
        tokens=np.array(FIRST, np.int32),
        logprobs=np.array([-0.5, -1.5], np.float32),
    ),
    # a second turn: its prompt is the first one, what was drawn for it, and one token of the user's
    "op-b-1": Recorded(
        op_id="op-b",
        prompt=np.array([*PROMPT, *FIRST, 1], np.int32),
        tokens=np.array(SECOND, np.int32),
        logprobs=np.array([-2.0, -2.5, -3.0], np.float32),
    ),
}


def prompt(length: int, offset: int = 0, of: str = "op-a-0") -> Span:
    return Span(sequence_id=of, is_sampled=False, offset=offset, length=length)


def sampled(length: int, offset: int = 0, of: str = "op-a-0") -> Span:
    return Span(sequence_id=of, is_sampled=True, offset=offset, length=length)


ONE_TURN = Datum(
    tokens=np.array([*PROMPT, *FIRST[:-1]]),
    loss_fn_inputs={
        "target_tokens": np.array([0, 0, *FIRST]),  # a prompt's targets are not learned from, whatever they are
        "advantages": np.array([0, 0, 1, 1], np.float32),
    },
)
TWO_TURNS = Datum(
    tokens=np.array([*PROMPT, *FIRST, 1, *SECOND[:-1]]),
    loss_fn_inputs={
        "target_tokens": np.array([*PROMPT[1:], *FIRST, 1, *SECOND]),
        "advantages": np.array([0, 0, 1, 1, 0, 1, 1, 1], np.float32),
    },
)
SPANS = {
    "model_input_spans": (prompt(3), sampled(1)),
    "loss_fn_input_spans": (prompt(2, offset=1), sampled(2)),
}


def batch(datum: Datum, provenance: Provenance | None) -> ForwardBackwardRequest:
    return ForwardBackwardRequest(
        model_id="run", seq_id=1, data=[datum], loss_fn="stable_reinforce", provenance=[provenance]
    )


def logprobs_of(datum: Datum, **spans: tuple[Span, ...]) -> list[float]:
    told = SPANS | spans
    provenance = Provenance(model_input=told["model_input_spans"], loss_fn_inputs=told["loss_fn_input_spans"])
    checked = with_recorded_logprobs(batch(datum, provenance), RECORDED)
    return checked.data[0].loss_fn_inputs["logprobs"].tolist()


def with_inputs(**inputs: np.ndarray) -> Datum:
    return msgspec.structs.replace(ONE_TURN, loss_fn_inputs={**ONE_TURN.loss_fn_inputs, **inputs})


def test_sampled_positions_get_the_recorded_logprobs():
    assert logprobs_of(ONE_TURN) == [0.0, 0.0, -0.5, -1.5]


def test_a_datum_of_two_turns_takes_each_from_its_own_sample():
    spans = (prompt(3), sampled(2), prompt(1, offset=5, of="op-b-1"))
    taken = logprobs_of(
        TWO_TURNS,
        model_input_spans=(*spans, sampled(2, of="op-b-1")),
        loss_fn_input_spans=(prompt(2, offset=1), *spans[1:], sampled(3, of="op-b-1")),
    )
    assert taken == [0.0, 0.0, -0.5, -1.5, 0.0, -2.0, -2.5, -3.0]


def test_a_part_of_a_completion_can_be_named():
    cut = Datum(
        tokens=np.array([8]), loss_fn_inputs={"target_tokens": np.array([9]), "advantages": np.ones(1, np.float32)}
    )
    spans = {"model_input_spans": (sampled(1),), "loss_fn_input_spans": (sampled(1, offset=1),)}
    assert logprobs_of(cut, **spans) == [-1.5]


def test_empty_spans_name_nothing():
    nothing = (prompt(0, of="unknown"),)
    spans = {name: (*nothing, *given, *nothing) for name, given in SPANS.items()}
    assert logprobs_of(ONE_TURN, **spans) == [0.0, 0.0, -0.5, -1.5]
    provenance = Provenance(model_input=spans["model_input_spans"], loss_fn_inputs=nothing)
    assert sequence_ids(batch(ONE_TURN, provenance)) == {"op-a-0"}


def test_logprobs_that_come_along_are_the_recorded_ones():
    same = np.array([7, 7, -0.500001, -1.5], np.float32)  # a prompt's do not count
    assert logprobs_of(with_inputs(logprobs=same)) == [0.0, 0.0, -0.5, -1.5]
    with pytest.raises(InvalidInput, match=r"loss_fn_input_spans\[1\]: logprobs has -1.0 at position 3, where -1.5"):
        logprobs_of(with_inputs(logprobs=np.array([0, 0, -0.5, -1.0], np.float32)))


@pytest.mark.conforms(98)
@pytest.mark.parametrize(
    ("spans", "sentence"),
    [
        ({"model_input_spans": (prompt(3),)}, "data[0]: model_input_spans cover 3 positions; they must cover all 4"),
        ({"loss_fn_input_spans": ()}, "data[0]: loss_fn_input_spans cover 0 positions; they must cover all 4"),
        ({"model_input_spans": (prompt(3), sampled(2))}, "cover 5 positions"),
        (
            {"model_input_spans": (prompt(3), sampled(1, of="op-c-0"))},
            "data[0]: model_input_spans[1]: this session has no record of the sequence 'op-c-0'",
        ),
        (
            {"loss_fn_input_spans": (prompt(2, offset=2), sampled(2))},
            "loss_fn_input_spans[0]: positions 2 to 4 are not all in the prompt of 'op-a-0', which has 3 tokens",
        ),
        (
            {"loss_fn_input_spans": (prompt(2), sampled(2, offset=1))},
            "loss_fn_input_spans[1]: positions 1 to 3 are not all in the completion of 'op-a-0', which has 2 tokens",
        ),
        ({"loss_fn_input_spans": (prompt(2, offset=2**62), sampled(2))}, "which has 3 tokens"),
        (
            {"model_input_spans": (prompt(3), sampled(1, offset=1))},
            "data[0]: model_input_spans[1]: model_input has token 8 at position 3, where the sequence has 9",
        ),
        (
            {"model_input_spans": (prompt(2, offset=1), prompt(1), sampled(1))},
            "model_input_spans[0]: model_input has token 5 at position 0, where the sequence has 6",
        ),
        (
            {"loss_fn_input_spans": (prompt(1), sampled(2), sampled(1))},
            "loss_fn_input_spans[1]: target_tokens has token 0 at position 1, where the sequence has 8",
        ),
        (
            {"loss_fn_input_spans": (prompt(3), sampled(1, offset=1))},
            "the advantage at position 2, which is a prompt's, is 1.0; it must be 0",
        ),
    ],
)
def test_what_differs_from_the_record_gets_a_sentence_that_names_the_span(
    spans: dict[str, tuple[Span, ...]], sentence: str
):
    with pytest.raises(InvalidInput) as caught:
        logprobs_of(ONE_TURN, **spans)
    assert sentence in caught.value.message


@pytest.mark.parametrize("provenance", [[None], None])
def test_data_without_spans_are_told_how_to_get_them(provenance: list[None] | None):
    plain = msgspec.structs.replace(batch(ONE_TURN, None), provenance=provenance)
    with pytest.raises(InvalidInput, match=r"data\[0\]: stable_reinforce needs provenance spans.*with_provenance"):
        with_recorded_logprobs(plain, RECORDED)
