"""Provenance of training data: spans of tokens from the prompts and completions of earlier samples."""

from __future__ import annotations

from collections.abc import Iterable

from eztinker.errors import InvalidInput
from eztinker.protocol import wire_pb2
from eztinker.types import Record

MAX_SPANS = 1 << 16
"""Most spans in one request; each names a record that has to be looked up."""


class Span(Record):
    """Consecutive positions of a datum that come from `offset` on of a prompt or a completion."""

    sequence_id: str
    is_sampled: bool
    """Whether the tokens come from the completion, and not from its prompt."""
    offset: int
    length: int


class Provenance(Record):
    """Spans that together cover every position of a datum, in order."""

    model_input: tuple[Span, ...]
    loss_fn_inputs: tuple[Span, ...]
    """Spans of the target tokens."""

    @property
    def spans(self) -> tuple[Span, ...]:
        return (*self.model_input, *self.loss_fn_inputs)


def check_num_spans(data: Iterable[wire_pb2.Datum]) -> None:
    """Require that the data of one request have few enough spans.

    Raises:
        InvalidInput: they have too many.
    """
    num_spans = sum(len(datum.model_input_spans) + len(datum.loss_fn_input_spans) for datum in data)
    if num_spans > MAX_SPANS:
        raise InvalidInput(f"The data of a request may have {MAX_SPANS} provenance spans, got {num_spans}")


def provenance_from_wire(datum: wire_pb2.Datum) -> Provenance | None:
    """Spans of one datum; None if it has none.

    Raises:
        InvalidInput: a span names neither prompt nor sampled tokens, or has a negative offset or length.
    """
    if not datum.model_input_spans and not datum.loss_fn_input_spans:
        return None
    return Provenance(
        model_input=_spans("model_input_spans", datum.model_input_spans),
        loss_fn_inputs=_spans("loss_fn_input_spans", datum.loss_fn_input_spans),
    )


def _spans(field: str, spans: Iterable[wire_pb2.ProvenanceSpan]) -> tuple[Span, ...]:
    return tuple(_span(f"{field}[{index}]", field, span) for index, span in enumerate(spans))


def _span(where: str, field: str, message: wire_pb2.ProvenanceSpan) -> Span:
    kind = message.WhichOneof("span")
    if kind is None:
        raise InvalidInput(f"{where} has neither prompt_tokens nor sampled_tokens", field=field)
    span: wire_pb2.Span = getattr(message, kind)
    if span.offset < 0 or span.length < 0:
        raise InvalidInput(
            f"{where}: offset and length must not be negative, got {span.offset} and {span.length}", field=field
        )
    return Span(
        sequence_id=span.sequence_id, is_sampled=kind == "sampled_tokens", offset=span.offset, length=span.length
    )
