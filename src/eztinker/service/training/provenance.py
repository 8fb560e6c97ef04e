"""Provenance of training data: checks it against recorded samples, and takes the sampling logprobs from these."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from eztinker.errors import InvalidInput
from eztinker.loss_specs import LOSS_SPECS
from eztinker.protocol.provenance import Provenance, Span
from eztinker.protocol.training_codec import ForwardBackwardRequest
from eztinker.service.sessions.recorded_samples import Recorded, RecordedById
from eztinker.types import Datum

MAX_SHOWN_CHARS = 100
LOGPROB_TOLERANCE = 1e-5
"""Largest difference between recorded logprobs and those that a client sends back, maybe through decimals."""


def reads_provenance(request: ForwardBackwardRequest) -> bool:
    """Whether the loss takes its sampling logprobs from recorded samples."""
    return request.loss_fn in LOSS_SPECS and LOSS_SPECS[request.loss_fn].reads_provenance


def sequence_ids(request: ForwardBackwardRequest) -> set[str]:
    """Ids of the sequences that the data name as their source."""
    return {
        span.sequence_id
        for provenance in request.provenance or ()
        if provenance is not None
        for span in provenance.spans
        if span.length
    }


def with_recorded_logprobs(request: ForwardBackwardRequest, recorded: RecordedById) -> ForwardBackwardRequest:
    """Put the recorded logprobs at the sampled positions of a checked request, and 0 elsewhere.

    Raises:
        InvalidInput: a datum does not say where its tokens come from, names a sequence of which there is no record, or
            differs from it; the message names the span.
    """
    provenances: Sequence[Provenance | None] = request.provenance or [None] * len(request.data)
    data = [
        _with_logprobs(f"data[{index}]", datum, provenance, request.loss_fn, recorded)
        for index, (datum, provenance) in enumerate(zip(request.data, provenances, strict=True))
    ]
    return msgspec.structs.replace(request, data=data)


def _with_logprobs(
    where: str, datum: Datum, provenance: Provenance | None, loss_fn: str, recorded: RecordedById
) -> Datum:
    if provenance is None:
        raise InvalidInput(
            f"{where}: {loss_fn} needs provenance spans, which say where each token comes from; add them with "
            "Datum.with_provenance",
            field="model_input_spans",
        )
    inputs = datum.loss_fn_inputs
    field = "model_input_spans"
    _check_cover(where, field, provenance.model_input, len(datum.tokens))
    for name, span, start, source in _sources(where, field, provenance.model_input, recorded):
        _check_equal(name, field, "model_input", datum.tokens, start, _tokens(span, source))
    field, targets = "loss_fn_input_spans", inputs["target_tokens"]
    _check_cover(where, field, provenance.loss_fn_inputs, len(targets))
    logprobs = np.zeros(len(targets), np.float32)
    for name, span, start, source in _sources(where, field, provenance.loss_fn_inputs, recorded):
        stop = start + span.length
        if span.is_sampled:
            _check_equal(name, field, "target_tokens", targets, start, _tokens(span, source))
            logprobs[start:stop] = source.logprobs[span.offset : span.offset + span.length]
            _check_logprobs(name, inputs, logprobs, start, stop)
        elif len(wrong := np.flatnonzero(inputs["advantages"][start:stop])):
            raise InvalidInput(
                f"{name}: {loss_fn} learns from sampled tokens alone, but the advantage at position "
                f"{start + wrong[0]}, which is a prompt's, is {inputs['advantages'][start + wrong[0]]}; it must be 0",
                field="advantages",
            )
    return msgspec.structs.replace(datum, loss_fn_inputs={**inputs, "logprobs": logprobs})


def _check_cover(where: str, field: str, spans: Sequence[Span], num_positions: int) -> None:
    if (covered := sum(span.length for span in spans)) != num_positions:
        raise InvalidInput(
            f"{where}: {field} cover {covered} positions; they must cover all {num_positions}, each once", field=field
        )


def _sources(
    where: str, field: str, spans: Sequence[Span], recorded: RecordedById
) -> list[tuple[str, Span, int, Recorded]]:
    """Name in messages, first position and record of each span that is not empty."""
    found = []
    start = 0
    for index, span in enumerate(spans):
        if span.length:
            name = f"{where}: {field}[{index}]"
            found.append((name, span, start, _source(name, field, span, recorded)))
        start += span.length
    return found


def _source(name: str, field: str, span: Span, recorded: RecordedById) -> Recorded:
    source = recorded.get(span.sequence_id)
    if source is None:
        raise InvalidInput(
            f"{name}: this session has no record of the sequence {span.sequence_id[:MAX_SHOWN_CHARS]!r}. Sample with "
            "record_stability_info, in the session that trains, and train within 24 hours of its last use",
            field=field,
        )
    there, what = (source.tokens, "completion") if span.is_sampled else (source.prompt, "prompt")
    if span.offset + span.length > len(there):
        raise InvalidInput(
            f"{name}: positions {span.offset} to {span.offset + span.length} are not all in the {what} of "
            f"{span.sequence_id!r}, which has {len(there)} tokens",
            field=field,
        )
    return source


def _tokens(span: Span, source: Recorded) -> np.ndarray:
    there = source.tokens if span.is_sampled else source.prompt
    return there[span.offset : span.offset + span.length]


def _check_equal(name: str, field: str, what: str, given: np.ndarray, start: int, expected: np.ndarray) -> None:
    differs = np.flatnonzero(given[start : start + len(expected)] != expected)
    if len(differs):
        position = start + differs[0]
        raise InvalidInput(
            f"{name}: {what} has token {given[position]} at position {position}, where the sequence has "
            f"{expected[differs[0]]}",
            field=field,
        )


def _check_logprobs(name: str, inputs: dict[str, np.ndarray], recorded: np.ndarray, start: int, stop: int) -> None:
    """Check that logprobs, if the client sends any, are the recorded ones, for no others would be used."""
    if "logprobs" not in inputs:
        return
    given = inputs["logprobs"]
    differs = np.flatnonzero(np.abs(given[start:stop] - recorded[start:stop]) > LOGPROB_TOLERANCE)
    if len(differs):
        position = start + differs[0]
        raise InvalidInput(
            f"{name}: logprobs has {given[position]} at position {position}, where {recorded[position]} was sampled; "
            "send the logprobs as they came, or none",
            field="logprobs",
        )
