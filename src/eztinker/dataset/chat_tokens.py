"""Tokenizes conversations as a chat model reads them, with a loss weight for each token."""

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
class TextSpan:
    """Part of a conversation's text, and whether it carries loss."""

    text: str
    is_learned: bool


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids and a loss weight for each: 1.0 on the assistant's turns, end-of-turn tokens included, else 0.0."""

    input_ids: list[int]
    loss_weights: list[float]


def encode_conversation(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[TokenizedText]:
    """Tokenize a conversation as one example, or as one per learned turn.

    A template that renders earlier turns differently from the last one (without its thinking, say) needs the latter:
    each turn is then rendered at the end of the conversation up to it, which is how it is sampled.

    Spans are tokenized one by one, so that no token crosses the border between the prompt and the assistant's words,
    as in sampling.

    Raises:
        InvalidInput: the chat template refuses the conversation, or does not render a turn after its generation
            prompt, so that the assistant's words cannot be located.
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
        _tokenized([TextSpan(turn.prompt, False), TextSpan(turn.spoken, True)], tokenizer)
        for turn in turns
        if turn.is_learned
    ]


@dataclass(frozen=True, slots=True)
class _Turn:
    prompt: str
    """Text before the assistant's words, generation prompt included."""
    spoken: str
    is_learned: bool


def _tokenized(
    spans: Sequence[TextSpan], tokenizer: PreTrainedTokenizerBase, start_tokens: Sequence[int] = ()
) -> TokenizedText:
    input_ids = list(start_tokens)
    loss_weights = [0.0] * len(input_ids)
    for span in spans:
        tokens = tokenizer.encode(span.text, add_special_tokens=False) if span.text else []
        input_ids += tokens
        loss_weights += [float(span.is_learned)] * len(tokens)
    return TokenizedText(input_ids, loss_weights)


def _rendered_turn(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> _Turn:
    """The last message, an assistant's, as its prompt and the text that it adds after the generation prompt."""
    invitation = _rendered(messages[:-1], tokenizer, add_generation_prompt=True)
    turn_end = _rendered(messages, tokenizer)
    if not turn_end.startswith(invitation):
        raise InvalidInput(
            f"the tokenizer's chat template does not show turn {len(messages)} behind the header that invites it "
            f"({invitation[-40:]!r}), so it would be learned otherwise than it is sampled"
        )
    spoken = _without_gap_after_turn(turn_end[len(invitation) :], messages[-1].content)
    return _Turn(invitation, spoken, messages[-1].is_learned)


def _joined_spans(whole: str, turns: Sequence[_Turn]) -> list[TextSpan]:
    spans: list[TextSpan] = []
    done = 0
    for turn in turns:
        spans += [TextSpan(whole[done : len(turn.prompt)], False), TextSpan(turn.spoken, turn.is_learned)]
        done = len(turn.prompt) + len(turn.spoken)
    return [*spans, TextSpan(whole[done:], False)]


def _without_gap_after_turn(spoken: str, content: str) -> str:
    """Drop the line break that a template adds after its end-of-turn token: a model stops before it."""
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


def _plain_spans(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[TextSpan]:
    """Turns as labelled paragraphs, for base models that have no template."""
    spans: list[TextSpan] = []
    for message in messages:
        label = f"{message.role.capitalize()}:"
        if message.role == "assistant":
            spans += [
                TextSpan(label, False),
                TextSpan(f" {message.content}{tokenizer.eos_token or ''}", message.is_learned),
            ]
            spans.append(TextSpan("\n\n", False))
        else:
            spans.append(TextSpan(f"{label} {message.content}\n\n", False))
    return spans[:-1] if messages[-1].role == "assistant" else spans
