"""Stop strings, judged on text while tokens come in one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from eztinker.engine.stopping import StopRule
from eztinker.types import SamplingParams


def stop_place(tokenizer: Tokenizer, text: str, *stops: str, max_tokens: int = 100) -> tuple[str | None, str]:
    """Why and behind which text a completion that spells `text` ends."""
    rule = StopRule(SamplingParams(max_tokens=max_tokens, stop_strings=stops), tokenizer)
    tokens: list[int] = []
    for token in tokenizer.encode(text).ids:
        tokens.append(token)
        reason = rule.reason_to_stop(tokens)
        if reason:
            return reason, tokenizer.decode(tokens)
    return None, tokenizer.decode(tokens)


@pytest.fixture(scope="module", params=["bytes", "embedded"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    fixture = {"bytes": "tiny_model_dir", "embedded": "embedded_model_dir"}[request.param]
    directory: Path = request.getfixturevalue(fixture)
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def test_a_stop_string_across_token_borders_is_seen(tokenizer: Tokenizer):
    reason, text = stop_place(tokenizer, "The sum is 12.\n\nQuestion: and then", "\nQuestion:")
    assert reason == "stop"
    assert "\nQuestion:" in text
    assert "and" not in text


def test_text_of_several_bytes_per_character_is_seen(tokenizer: Tokenizer):
    reason, text = stop_place(tokenizer, "caf\u00e9 \u2192 \u00fcber \U0001f600 end", "\U0001f600")
    assert reason == "stop"
    assert text.endswith("\U0001f600")


def test_the_first_of_several_stop_strings_counts(tokenizer: Tokenizer):
    _, text = stop_place(tokenizer, "a STOP b HALT c", "HALT", "STOP")
    assert "STOP" in text
    assert "HALT" not in text


def test_without_a_match_the_length_ends_it(tokenizer: Tokenizer):
    assert stop_place(tokenizer, "abc abc", "never")[0] is None
    assert stop_place(tokenizer, "abc abc abc abc", "never", max_tokens=2)[0] == "length"
