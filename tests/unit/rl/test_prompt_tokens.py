"""The tokens a prompt is sampled with are those it is trained with, the tokenizer's start token among them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tinker

from eztinker.dataset import ArithmeticDataset
from eztinker.rl import rejection_sampler
from eztinker.rl.sampling import AdapterSampler, chat_prompt
from eztinker.rl.training import Example, build_datum
from tests.tiny_tokenizers import CHATML, LLAMA3, byte_tokenizer, num_start_tokens

BOS = "<|begin_of_text|>"


class RecordingClient:
    """Takes a sampling request and keeps its prompt."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    def sample(self, prompt: tinker.ModelInput, num_samples: int, params: tinker.SamplingParams) -> SimpleNamespace:
        self.prompts.append(prompt.to_ints())
        sequence = SimpleNamespace(tokens=[], logprobs=[])
        return SimpleNamespace(result=lambda: SimpleNamespace(sequences=[sequence] * num_samples))


@pytest.mark.parametrize("starts_with", [None, BOS])
@pytest.mark.parametrize("kind", ["plain", "few-shot", "chat", "chat without a start token", "no prompt"])
def test_training_sees_the_prompt_that_was_sampled(
    kind: str, starts_with: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = byte_tokenizer(CHATML if "without" in kind else LLAMA3, starts_with=starts_with)
    dataset = ArithmeticDataset(max_samples=1)
    question, plain, answer = dataset.get_example_question(0)
    prompts = {"plain": plain, "few-shot": dataset.format_few_shot_prompt(question), "no prompt": ""}
    prompt = prompts.get(kind) if kind in prompts else chat_prompt(tokenizer, question)
    client, trained = RecordingClient(), []

    def queue(run: object, examples: list[Example], learning_rate: float) -> str:
        trained.extend(examples)
        return "job_1"

    run = SimpleNamespace(tokenizer=tokenizer, sampler=lambda: AdapterSampler(client, tokenizer))  # type: ignore[arg-type]
    monkeypatch.setattr(rejection_sampler, "open_run", lambda run_id: run)
    monkeypatch.setattr(rejection_sampler, "queue_training", queue)
    rejection_sampler.generate_candidates(prompt or "", question, "run_1", num_candidates=1)
    rejection_sampler.select_best_candidate_and_train(
        "run_1", prompt or "", [f" {answer}"], answer, question, dataset, wait=False
    )
    datum = build_datum(trained[0], stop_token_id=0).model_input.to_ints()
    sampled = client.prompts[0]
    assert datum[: len(sampled)] == sampled == list(trained[0].prompt_tokens)
    assert num_start_tokens(sampled, tokenizer) == (1 if starts_with and "without" not in kind else 0)
    if kind in ("plain", "few-shot"):
        assert sampled == tokenizer(prompt)["input_ids"]
