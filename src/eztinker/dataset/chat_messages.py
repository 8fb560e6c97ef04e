"""Reads one conversation of a chat file: its turns, their roles, and which of them carry loss.

Every field is either used or refused by name. A field without a value, such as null or an empty list, is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from eztinker.errors import InvalidInput

Role = Literal["system", "user", "assistant"]

ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
_TURNS = ("conversations", "messages")
_RECORD_NOTES = frozenset(
    {"id", "idx", "index", "conversation_id", "prompt_id", "hash", "source", "dataset", "model", "language", "lang"}
    | {"category", "tags", "title", "url", "license", "metadata", "timestamp", "created_at"}
)
"""Fields of a record that describe its origin, and do not affect training."""
_TURN_NOTES = frozenset({"id", "timestamp"})
_TURN_FIELDS = frozenset({"from", "role", "value", "content", "weight", "train", "loss"})
_MAX_SHOWN_CHARS = 60
_TRAINING_SWITCHES = ("weight", "train", "loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    is_learned: bool
    """Whether the turn carries loss, as the assistant's turns do unless the file switches it off."""


def read_conversation(record: Mapping[str, Any], system_prompt: str | None = None) -> list[Message]:
    """Turns of a record, a system turn first if there is one.

    Args:
        system_prompt: system turn for a record that has none.
    Raises:
        InvalidInput: the record is invalid; the message is the end of a sentence.
    """
    messages = [_message(turn, number) for number, turn in enumerate(_turns(record), start=1)]
    messages = _with_system(messages, record, system_prompt)
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise InvalidInput("the conversation has no assistant turn, so there is nothing to learn")
    if "user" not in roles[: roles.index("assistant")]:
        raise InvalidInput("the assistant speaks before any user turn; start the conversation with the user")
    if not any(message.is_learned for message in messages):
        raise InvalidInput("every assistant turn is switched off, so there is nothing to learn")
    return messages


def _turns(record: Mapping[str, Any]) -> list[Any]:
    given = [name for name in _TURNS if _says_something(record.get(name))]
    if len(given) > 1:
        raise InvalidInput("the record has both 'conversations' and 'messages'; leave one of them out")
    turns = record[given[0]] if given else None
    if not isinstance(turns, list) or not turns:
        raise InvalidInput("expected a JSON object with a list of turns under 'conversations' or 'messages'")
    _refuse_unknown(record, "the record", {*_TURNS, "system", "prompt"} | _RECORD_NOTES)
    return turns


def _with_system(messages: list[Message], record: Mapping[str, Any], system_prompt: str | None) -> list[Message]:
    """Prepend the record's `system` text, or else `system_prompt`, to its turns."""
    said = record.get("system")
    if said is not None and not isinstance(said, str):
        raise InvalidInput(f"the record's 'system' must be text, got {_shown(said)}")
    starts_with_system = messages[0].role == "system"
    if said and starts_with_system and said != messages[0].content:
        raise InvalidInput("the record's 'system' and its system turn differ; leave one of them out")
    if (prompt := record.get("prompt")) and prompt not in [message.content for message in messages[:2]]:
        raise InvalidInput("the record's 'prompt' is not its first turn, and would not be learned; leave it out")
    text = said or system_prompt
    if text is None or starts_with_system:
        return messages
    return [Message(role="system", content=text, is_learned=False), *messages]


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise InvalidInput(f"turn {number} is not an object with from and value, or role and content")
    said_by = _one_of(turn, ("from", "role"), number)
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise InvalidInput(f"turn {number} is from {_shown(said_by)}; expected one of {', '.join(ROLES)}")
    _refuse_unknown(turn, f"turn {number}", _TURN_FIELDS | _TURN_NOTES)
    content = _text_of(_one_of(turn, ("value", "content"), number), number)
    message = Message(role=role, content=content, is_learned=role == "assistant")
    for name in _TRAINING_SWITCHES:
        message = _switched(message, name, turn.get(name), number)
    return message


def _one_of(turn: Mapping[str, Any], names: tuple[str, str], number: int) -> Any:
    values = [turn[name] for name in names if turn.get(name) is not None]
    if len(values) > 1 and values[0] != values[1]:
        raise InvalidInput(f"turn {number} has both '{names[0]}' and '{names[1]}', and they differ; leave one out")
    return values[0] if values else None


def _text_of(content: Any, number: int) -> str:
    if isinstance(content, list):
        content = "".join(_part_text(part, number) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise InvalidInput(f"turn {number} has no text")
    return content


def _part_text(part: Any, number: int) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        described = f"a part of type {_shown(kind)}" if kind else "a part without a type"
        raise InvalidInput(f"turn {number} has {described}; only parts of type 'text' can be learned")
    _refuse_unknown(part, f"a part of turn {number}", frozenset({"type", "text"}))
    if not isinstance(part.get("text"), str):
        raise InvalidInput(f"turn {number} has a text part without text")
    return part["text"]


def _switched(message: Message, name: str, value: Any, number: int) -> Message:
    """Apply a message's `weight`, `train` or `loss`: 0 or false takes the loss off an assistant's turn."""
    if value is None:
        return message
    if isinstance(value, str | list | dict) or value not in (0, 1):
        raise InvalidInput(f"turn {number} has {name} {_shown(value)}; expected 0 or 1, false or true")
    if value and message.role != "assistant":
        raise InvalidInput(f"turn {number} has {name} {_shown(value)}, but only the assistant's turns are learned")
    return message if value else replace(message, is_learned=False)


def _refuse_unknown(fields: Mapping[str, Any], place: str, known: frozenset[str] | set[str]) -> None:
    unknown = sorted(name for name, value in fields.items() if name not in known and _says_something(value))
    if unknown:
        names = ", ".join(map(_shown, unknown[:10]))
        raise InvalidInput(
            f"{place} has {names}, which is not supported and may change what is learned; leave it out of the file"
        )


def _says_something(value: Any) -> bool:
    return value is not None and value not in ([], {}, "")


def _shown(value: Any) -> str:
    """A value as quoted in an error message: truncated, and without nested values."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN_CHARS else shown[:_MAX_SHOWN_CHARS] + "..."
