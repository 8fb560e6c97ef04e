"""Where the tokens of a training batch came from, as the official SDK says it."""

from __future__ import annotations

import pytest
from tinker import types

from eztinker.protocol.provenance import MAX_SPANS, Provenance, Span
from tests.unit.protocol.sdk_messages import batch_of, failure_of, sdk_datum, sdk_message


@pytest.mark.conforms(46)
def test_where_tokens_came_from_is_read():
    prompt = types.PromptProvenanceSpan(sequence_id="s", length=1)
    sampled = types.SampledProvenanceSpan(sequence_id="s", offset=2, length=1)
    told = sdk_datum([5, 6], target_tokens=[6, 7]).with_provenance([prompt, sampled], [sampled, sampled])
    batch = batch_of(sdk_message(told, sdk_datum([5], target_tokens=[6])))
    first, second = (
        Span(sequence_id="s", is_sampled=is_sampled, offset=offset, length=1)
        for is_sampled, offset in ((False, 0), (True, 2))
    )
    assert batch.provenance == [Provenance(model_input=(first, second), loss_fn_inputs=(second, second)), None]


@pytest.mark.parametrize(
    ("offset", "length", "sentence"),
    [
        (-1, 1, "data[0]: model_input_spans[0]: offset and length must not be negative, got -1 and 1"),
        (0, -5, "must not be negative, got 0 and -5"),
    ],
)
def test_a_span_that_is_no_run_of_positions_is_refused(offset: int, length: int, sentence: str):
    message = sdk_message(sdk_datum([5], target_tokens=[6]))
    span = message.data[0].model_input_spans.add().prompt_tokens
    span.offset, span.length = offset, length
    assert sentence in failure_of(message).message


def test_a_span_that_says_nothing_and_spans_without_end_are_refused():
    message = sdk_message(sdk_datum([5], target_tokens=[6]))
    message.data[0].loss_fn_input_spans.add()
    assert "loss_fn_input_spans[0] has neither prompt_tokens nor sampled_tokens" in failure_of(message).message
    for _ in range(MAX_SPANS):
        message.data[0].model_input_spans.add()
    assert f"may have {MAX_SPANS} provenance spans, got {MAX_SPANS + 1}" in failure_of(message).message
