"""Tokenizes conversations as a chat model reads them, and marks the tokens the assistant said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from eztinker.dataset.chat_messages import Message
from eztinker.dataset.start_tokens import start_token_ids
from eztinker.errors import InvalidInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the conversation's text, and whether loss is on it."""

    text: str
    is_learned: bool


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids, and for each a loss weight: 1.0 where the assistant speaks, its end-of-turn token included."""

    input_ids: list[int]
    loss_weights: list[float]


def encode_conversation(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[TokenizedText]:
    """The conversation as the model meets it: in one piece, or one per learned turn.

    A template that shows earlier turns otherwise than the last one (without its thinking, say) cannot be had in one
    piece: each turn is then rendered at the end of the conversation up to it, which is how it is sampled.

    Spans are tokenized one by one, so that the border before the assistant's words is the one it meets when
    sampled: prompt tokens end there, and no token reaches across.

    Raises:
        InvalidInput: the chat template refuses the conversation, or does not show a turn behind the header that
            invites it, so that the assistant's words cannot be located.
    """
    if not tokenizer.chat_template:
        return [_tokenized(_plain_spans(messages, tokenizer), tokenizer, start_token_ids(tokenizer))]
    whole = _rendered(messages, tokenizer)
    turns = [
        _rendered_turn(messages[: place + 1], tokenizer)
        for place, message in enumerate(messages)
        if message.role == "assistant"
    ]
    if all(whole.startswith(turn.prompt + turn.spoken) for turn in turns):
        return [_tokenized(_joined_spans(whole, turns), tokenizer)]
    return [
        _tokenized([Span(turn.prompt, False), Span(turn.spoken, True)], tokenizer) for turn in turns if turn.is_learned
    ]


@dataclass(frozen=True, slots=True)
class _Turn:
    prompt: str
    """All that stands before the assistant's words, the header that invites them included."""
    spoken: str
    is_learned: bool


def _tokenized(
    spans: Sequence[Span], tokenizer: PreTrainedTokenizerBase, start_tokens: Sequence[int] = ()
) -> TokenizedText:
    input_ids = list(start_tokens)
    loss_weights = [0.0] * len(input_ids)
    for span in spans:
        tokens = tokenizer.encode(span.text, add_special_tokens=False) if span.text else []
        input_ids += tokens
        loss_weights += [float(span.is_learned)] * len(tokens)
    return TokenizedText(input_ids, loss_weights)


def _rendered_turn(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> _Turn:
    """What the last message, an assistant's, adds to the template's text behind the header that invites it."""
    invitation = _rendered(messages[:-1], tokenizer, add_generation_prompt=True)
    turn_end = _rendered(messages, tokenizer)
    if not turn_end.startswith(invitation):
        raise InvalidInput(
            f"the tokenizer's chat template does not show turn {len(messages)} behind the header that invites it "
            f"({invitation[-40:]!r}), so it would be learned otherwise than it is sampled"
        )
    spoken = _without_gap_after_turn(turn_end[len(invitation) :], messages[-1].content)
    return _Turn(invitation, spoken, messages[-1].is_learned)


def _joined_spans(whole: str, turns: Sequence[_Turn]) -> list[Span]:
    spans: list[Span] = []
    done = 0
    for turn in turns:
        spans += [Span(whole[done : len(turn.prompt)], False), Span(turn.spoken, turn.is_learned)]
        done = len(turn.prompt) + len(turn.spoken)
    return [*spans, Span(whole[done:], False)]


def _without_gap_after_turn(spoken: str, content: str) -> str:
    """Drops the line break a template sets after its end-of-turn token: a model stops before it."""
    stripped = spoken.rstrip()
    has_end_of_turn = not stripped.endswith(content.rstrip())
    return stripped if has_end_of_turn else spoken


def _rendered(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool = False
) -> str:
    conversation: list[Any] = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(
            tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt)
        )
    except (TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise InvalidInput(f"the tokenizer's chat template refuses the conversation: {error}") from error


def _plain_spans(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    """Labelled paragraphs, for base models that have no template."""
    spans: list[Span] = []
    for message in messages:
        label = f"{message.role.capitalize()}:"
        if message.role == "assistant":
            spans += [Span(label, False), Span(f" {message.content}{tokenizer.eos_token or ''}", message.is_learned)]
            spans.append(Span("\n\n", False))
        else:
            spans.append(Span(f"{label} {message.content}\n\n", False))
    return spans[:-1] if messages[-1].role == "assistant" else spans
