"""Small stand-ins for what recipes name by hub id: a random model with the right special tokens, and datasets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_models import make_tiny_model

TEACHING_STEPS = 150
MAX_TAUGHT_TOKENS = 256
"""Before an answer; the prompts of problems have about as many."""

Row = Mapping[str, Any]

MODEL = "Qwen/Qwen3-8B"
ANSWERER = "Qwen/Qwen3.5-9B"
"""A model that one recipe names in its code."""
SPECIAL_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""What the renderers of the model's family look up, beside those of ChatML."""


ANSWERS = ("\\boxed{0}", "\\boxed{2}")
"""What the model answers whatever it is asked, each as often: right for some of the first problems, so that rewards
differ and there is something to learn."""


def make_model(directory: Path) -> Path:
    """A model of the family, with a tokenizer of bytes and special tokens; prompts of recipes fit its context."""
    make_tiny_model(
        directory, "qwen3", hidden=32, layers=1, tie=True, max_position_embeddings=8192, special_tokens=SPECIAL_TOKENS
    )
    _teach(directory)
    return directory


def _teach(directory: Path) -> None:
    """Train the model on `ANSWERS` behind text of any length whose last character is a line's end, as before a turn."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    generator = torch.Generator().manual_seed(0)
    answers = torch.tensor([tokenizer.encode(f"\n{answer}<|im_end|>") for answer in ANSWERS])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(TEACHING_STEPS):
        num_before = int(torch.randint(MAX_TAUGHT_TOKENS, (), generator=generator))
        before = torch.randint(256, (len(answers), num_before), generator=generator)
        ignored = torch.full((len(answers), num_before + 1), -100)
        model(
            input_ids=torch.cat([before, answers], dim=1), labels=torch.cat([ignored, answers[:, 1:]], dim=1)
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)


def make_datasets(root: Path) -> dict[str, Path]:
    """One folder per dataset, by hub id."""
    made = {}
    for name, configs in DATASETS.items():
        made[name] = root / name
        _write(made[name], configs)
    return made


def write_own_files(directory: Path) -> None:
    """Files for recipes that take the user's own: conversations, and prompts with rubrics."""
    chats = [_chat(index)["messages"] for index in range(16)]
    _write_lines(directory / "conversations.jsonl", [{"messages": messages} for messages in chats])
    rubrics = [
        {
            "rubric_str": "Is it short?",
            "extraction_regex": "<score>(.*?)</score>",
            "grader_output_format_instruction": "Answer with <score>0</score> or <score>1</score>",
        }
    ]
    _write_lines(directory / "rubrics.jsonl", [{"convo": chat[:1], "rubric_items": rubrics} for chat in chats])


def _write_lines(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write(directory: Path, configs: Mapping[str, Mapping[str, Sequence[Row]]]) -> None:
    """A dataset's folder as the hub has it: lines of JSON, and a README whose head says what is where."""
    directory.mkdir(parents=True)
    head = ["---", "configs:"]
    for config, splits in configs.items():
        head += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            file = directory / f"{config}-{split}.jsonl"
            _write_lines(file, rows)
            head += [f"  - split: {split}", f"    path: {file.name}"]
    (directory / "README.md").write_text("\n".join([*head, "---", ""]), encoding="utf-8")


def _chat(index: int) -> Row:
    question, answer = f"Say {index}.", f"It is {index}."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"prompt": question, "prompt_id": str(index), "messages": messages, "category": "Chat"}


def _comparison(index: int) -> Row:
    question = f"\n\nHuman: Say {index}.\n\nAssistant:"
    return {"chosen": f"{question} It is {index}.", "rejected": f"{question} No."}


def _problem(index: int) -> Row:
    """A question as every dataset of problems spells it."""
    total = 2 * index
    question = f"What is {index} plus {index}?"
    return {
        "question": question,
        "problem": question,
        "answer": f"{index}+{index}=<<{index}+{index}={total}>>{total}\n#### {total}",
        "final_answer": str(total),
        "solution": f"\\boxed{{{total}}}",
    }


def _many(make: Callable[[int], Row], count: int) -> list[Row]:
    return [make(index) for index in range(count)]


def _multiple_choice(index: int) -> Row:
    return {
        "question": f"Which is {index}?",
        "choices": {"text": [str(index), "none"], "label": ["A", "B"]},
        "answerKey": "A",
        "domain": "Chemistry",
        "details": {"level": "L3"},
        "type": "mcq-2-choices",
    }


DATASETS: dict[str, dict[str, dict[str, list[Row]]]] = {
    "HuggingFaceH4/no_robots": {"default": {"train": _many(_chat, 256), "test": _many(_chat, 8)}},
    # recipes set the first 1024 of these two aside
    "allenai/tulu-3-sft-mixture": {"default": {"train": _many(_chat, 1064)}},
    "Anthropic/hh-rlhf": {"default": {"train": _many(_comparison, 1064), "test": _many(_comparison, 8)}},
    "openai/gsm8k": {"main": {"train": _many(_problem, 256), "test": _many(_problem, 4)}},
    "zwhe99/DeepMath-103K": {"default": {"train": _many(_problem, 16)}},
    "POLARIS-Project/Polaris-Dataset-53K": {"default": {"train": _many(_problem, 16)}},
    "hicai-zju/SciKnowEval": {"default": {"test": _many(_multiple_choice, 20)}},
}
