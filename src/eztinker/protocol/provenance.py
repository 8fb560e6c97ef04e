"""Where the tokens of a training datum come from: runs of the prompts and of the completions of earlier samples."""

from __future__ import annotations

from collections.abc import Iterable

from eztinker.errors import InvalidInput
from eztinker.protocol import wire_pb2
from eztinker.types import Record

MAX_SPANS = 1 << 16
"""In one request; each names a record that has to be found."""


class Span(Record):
    """A run of positions of a datum that are `offset` and what follows in a prompt or a completion."""

    sequence_id: str
    is_sampled: bool
    """Whether it is the completion, and not the prompt it was drawn for."""
    offset: int
    length: int


class Provenance(Record):
    """Spans that together cover every position of a datum, in order."""

    model_input: tuple[Span, ...]
    loss_fn_inputs: tuple[Span, ...]
    """Of the target tokens."""

    @property
    def spans(self) -> tuple[Span, ...]:
        return (*self.model_input, *self.loss_fn_inputs)


def check_num_spans(data: Iterable[wire_pb2.Datum]) -> None:
    """
    Raises:
        InvalidInput: there are more spans than one request may have.
    """
    num_spans = sum(len(datum.model_input_spans) + len(datum.loss_fn_input_spans) for datum in data)
    if num_spans > MAX_SPANS:
        raise InvalidInput(f"The data of a request may have {MAX_SPANS} provenance spans, got {num_spans}")


def provenance_from_wire(datum: wire_pb2.Datum) -> Provenance | None:
    """The spans of one datum; None if it came without.

    Raises:
        InvalidInput: a span says nothing, or is no run of positions.
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
