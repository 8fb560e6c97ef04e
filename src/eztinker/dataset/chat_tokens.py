"""Tokenizes conversations as a chat model reads them, and marks the tokens the assistant said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from jinja2 import TemplateError

from eztinker.errors import InvalidInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the conversation's text, and whether the assistant said it."""

    text: str
    is_assistant: bool


def encode_conversation(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[float]]:
    """Token ids, and for each a loss weight: 1.0 where the assistant speaks, its end-of-turn token included.

    Spans are tokenized one by one, so that the border before the assistant's words is the one it meets when
    sampled: prompt tokens end there, and no token reaches across.

    Raises:
        InvalidInput: the chat template refuses the conversation, or rewrites earlier turns, so that the
            assistant's words cannot be located.
    """
    spans = _template_spans(messages, tokenizer) if tokenizer.chat_template else _plain_spans(messages, tokenizer)
    input_ids: list[int] = []
    loss_weights: list[float] = []
    for span in spans:
        tokens = tokenizer.encode(span.text, add_special_tokens=False) if span.text else []
        input_ids += tokens
        loss_weights += [float(span.is_assistant)] * len(tokens)
    return input_ids, loss_weights


def _template_spans(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    """What each assistant turn adds to the template's text, beyond the header that invites it."""
    whole = _rendered(messages, tokenizer)
    spans: list[Span] = []
    done = 0
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        invitation = _rendered(messages[:position], tokenizer, add_generation_prompt=True)
        turn_end = _rendered(messages[: position + 1], tokenizer)
        if not whole.startswith(turn_end) or not turn_end.startswith(invitation):
            raise InvalidInput(
                f"The tokenizer's chat template rewrites turn {position + 1} when more turns follow; "
                "split the conversation so that each part ends with one assistant turn"
            )
        spoken = _without_gap_after_turn(turn_end[len(invitation) :], message["content"])
        spans += [Span(whole[done : len(invitation)], False), Span(spoken, True)]
        done = len(invitation) + len(spoken)
    return [*spans, Span(whole[done:], False)]


def _without_gap_after_turn(spoken: str, content: str) -> str:
    """Drops the line break a template sets after its end-of-turn token: a model stops before it."""
    stripped = spoken.rstrip()
    has_end_of_turn = not stripped.endswith(content.rstrip())
    return stripped if has_end_of_turn else spoken


def _rendered(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool = False
) -> str:
    conversation: list[Any] = list(messages)
    try:
        return str(
            tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt)
        )
    except TemplateError as error:
        raise InvalidInput(f"The tokenizer's chat template refuses the conversation: {error}") from error


def _plain_spans(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    """Labelled paragraphs, for base models that have no template."""
    begins_with_bos = getattr(tokenizer, "add_bos_token", False) and tokenizer.bos_token
    spans = [Span(str(tokenizer.bos_token), False)] if begins_with_bos else []
    for message in messages:
        label = f"{message['role'].capitalize()}:"
        if message["role"] == "assistant":
            spans += [Span(label, False), Span(f" {message['content']}{tokenizer.eos_token or ''}", True)]
            spans.append(Span("\n\n", False))
        else:
            spans.append(Span(f"{label} {message['content']}\n\n", False))
    return spans[:-1] if messages[-1]["role"] == "assistant" else spans
