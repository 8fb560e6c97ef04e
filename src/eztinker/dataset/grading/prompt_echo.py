"""Removes the prompt from a response, so that numbers that the model merely repeats are not graded."""

from __future__ import annotations

import re

_QUESTION_LABEL = r"(?:question|problem|q)[ \t]*:"
_ANSWER_LABEL = r"(?:answer|a)[ \t]*:"
_NEXT_QUESTION = re.compile(rf"^[ \t]*{_QUESTION_LABEL}", re.IGNORECASE | re.MULTILINE)
_LEADING_QUESTION = re.compile(rf"\s*{_QUESTION_LABEL}", re.IGNORECASE)
_ANSWER_LINE = re.compile(rf"^[ \t]*{_ANSWER_LABEL}", re.IGNORECASE | re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.?!])[ \t]+|\n+")
_MIN_ECHO_WORDS = 3
"""Fewest words of a sentence that counts as copied; shorter ones may be the answer itself."""


def without_prompt(response: str, question: str = "") -> str:
    """Remove the parts of a response that repeat its prompt.

    Removed are: every copy of the question, with its labels; any other "Question:" (a worked example before it, or a
    problem that the model went on to invent) up to the next copy of the question; and sentences, whole or truncated,
    that occur word for word in the question. Without a question, a question that opens the response is removed.
    """
    words = question.split()
    if not words:
        return _until_next_question(_after_leading_question(response))
    parts = _copies_of(words).split(response)
    return _without_copied_sentences("\n".join(_until_next_question(part) for part in parts), words)


def _copies_of(words: list[str]) -> re.Pattern[str]:
    question = r"\s+".join(re.escape(word) for word in words)
    return re.compile(rf"(?:{_QUESTION_LABEL}\s{{0,8}})?{question}(?:\s{{0,8}}\b{_ANSWER_LABEL})?", re.IGNORECASE)


def _until_next_question(text: str) -> str:
    return _NEXT_QUESTION.split(text, maxsplit=1)[0]


def _after_leading_question(response: str) -> str:
    label = _LEADING_QUESTION.match(response)
    if label is None:
        return response
    answer_line = _ANSWER_LINE.search(response, label.end())
    return response[answer_line.end() :] if answer_line else ""


def _without_copied_sentences(text: str, question_words: list[str]) -> str:
    question = " ".join(question_words).casefold()

    def is_copied(sentence: str) -> bool:
        words = sentence.casefold().split()
        return len(words) >= _MIN_ECHO_WORDS and " ".join(words) in question

    return "\n".join(sentence for sentence in _SENTENCE_END.split(text) if not is_copied(sentence))
