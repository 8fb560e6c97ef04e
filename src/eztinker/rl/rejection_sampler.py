"""Rejection sampling step by step: draw candidates, train on the best right one, or collect them in a buffer.

`RejectionSFT` does the same for whole rounds; these functions are for loops of your own. Each takes a run id and finds
the newest state of that run, whichever process trained it last.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eztinker.dataset.start_tokens import encode_prompt
from eztinker.errors import InvalidInput
from eztinker.rl.buffer import load_buffer, save_buffer
from eztinker.rl.jobs import queue_training, wait_for_job
from eztinker.rl.runs import create_training_run, open_run
from eztinker.rl.sampling import Completion, SamplingSpec, encode
from eztinker.rl.training import Example

if TYPE_CHECKING:
    from eztinker.dataset import MathDataset

__all__ = [
    "create_training_run",
    "generate_candidates",
    "load_buffer",
    "populate_buffer",
    "save_buffer",
    "select_best_candidate_and_train",
    "wait_for_job",
]

DEFAULT_MAX_TOKENS = 256
DEFAULT_STOP = ("\nQuestion:",)
_SAVE_EVERY = 16
"""Examples between two writes of a buffer that is being filled."""


def generate_candidates(
    prompt: str,
    question: str,
    run_id: str,
    num_candidates: int = 8,
    temperature: float = 0.8,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    stop: tuple[str, ...] = DEFAULT_STOP,
    seed: int | None = None,
) -> list[str]:
    """Completions of `prompt` from the run's current adapter, all in one request; never the prompt itself.

    Args:
        prompt: what the model continues.
        question: asked as it stands where `prompt` is empty.
        temperature: 0 takes the most likely token, so that all candidates are the same.
        stop: text that ends a completion and is cut off; the end-of-sequence token always ends it.
        seed: the same seed gives the same candidates.
    """
    _check_num_candidates(num_candidates)
    spec = SamplingSpec(max_tokens=max_tokens, temperature=temperature, stop=stop, seed=seed)
    pending = open_run(run_id).sampler().submit(prompt or question, num_candidates, spec)
    return [completion.text for completion in pending.result()]


def select_best_candidate_and_train(
    run_id: str,
    prompt: str,
    candidates: list[str],
    ground_truth: str,
    question: str,
    dataset: MathDataset,
    learning_rate: float = 2e-4,
    *,
    wait: bool = True,
) -> dict[str, Any]:
    """Grade `candidates` and take one optimizer step on the best, if it is right; a wrong one is never trained on.

    Args:
        wait: False returns as soon as the step is queued; `wait_for_job(job_id)` waits for it.
    Returns:
        `selected_index`, `selected_score` (confidence, plus 0.5 if right), `selected_is_correct`, `confidence`,
        `selected_text` and `trained`; with training also `job_id` and, once waited for, `loss` (per trained token, in
        nats); without it `skip_reason`.
    """
    grades = [dataset.evaluate_answer(candidate, ground_truth, question) for candidate in candidates]
    if not grades:
        raise InvalidInput("There is no candidate to select from; generate at least one", field="candidates")
    scores = [grade["score"] for grade in grades]
    best = max(range(len(scores)), key=scores.__getitem__)
    result = {
        "selected_index": best,
        "selected_score": scores[best],
        "selected_is_correct": bool(grades[best]["is_correct"]),
        "confidence": grades[best]["confidence"],
        "selected_text": candidates[best],
        "trained": bool(grades[best]["is_correct"]),
    }
    if not result["trained"]:
        return result | {"skip_reason": f"none of {len(candidates)} candidates gave the answer {ground_truth}"}
    run = open_run(run_id)
    example = Example(
        prompt_tokens=encode_prompt(run.tokenizer, prompt or question),
        completion_tokens=encode(run.tokenizer, candidates[best]),
    )
    result["job_id"] = queue_training(run, [example], learning_rate)
    if wait:
        result["loss"] = wait_for_job(result["job_id"])["result"]["loss"]
    return result


def populate_buffer(
    dataset: MathDataset,
    run_id: str,
    buffer_path: str | Path,
    num_examples: int = 50,
    candidates_per_example: int = 8,
    temperature: float = 0.8,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    stop: tuple[str, ...] = DEFAULT_STOP,
) -> list[dict[str, Any]]:
    """Collect the best candidate of each of the first `num_examples` problems, without training.

    A partly filled file is completed: problems that are in it are not asked again.

    Returns:
        One entry per problem: `question_id`, `question`, `ground_truth`, `prompt`, `selected_text`, `selected_score`,
        `selected_is_correct`, `mean_confidence` over the candidates, `logprobs` of the selected tokens in nats,
        `trained` (False) and `temperature`.
    """
    _check_num_candidates(candidates_per_example)
    wanted = range(min(num_examples, len(dataset)))
    entries = [entry for entry in load_buffer(buffer_path) if entry.get("question_id") in wanted]
    missing = sorted(set(wanted) - {entry["question_id"] for entry in entries})
    if not missing:
        return entries
    sampler = open_run(run_id).sampler()
    spec = SamplingSpec(max_tokens=max_tokens, temperature=temperature, stop=stop)
    pending = [
        sampler.submit(dataset.get_example_question(index)[1], candidates_per_example, spec) for index in missing
    ]
    for count, (index, candidates) in enumerate(zip(missing, pending, strict=True), start=1):
        entries.append(_buffer_entry(dataset, index, candidates.result(), temperature))
        if count % _SAVE_EVERY == 0 or count == len(missing):
            save_buffer(buffer_path, entries)
    return entries


def _buffer_entry(dataset: MathDataset, index: int, candidates: list[Completion], temperature: float) -> dict[str, Any]:
    question, prompt, ground_truth = dataset.get_example_question(index)
    count = len(candidates)
    texts = [candidate.text for candidate in candidates]
    grades = dataset.evaluate_answers(texts, [ground_truth] * count, [question] * count)
    scores = [grade["score"] for grade in grades]
    best = max(range(count), key=scores.__getitem__)
    return {
        "question_id": index,
        "question": question,
        "ground_truth": ground_truth,
        "prompt": prompt,
        "selected_text": texts[best],
        "selected_score": scores[best],
        "selected_is_correct": bool(grades[best]["is_correct"]),
        "mean_confidence": sum(grade["confidence"] for grade in grades) / count,
        "logprobs": candidates[best].logprobs,
        "trained": False,
        "temperature": temperature,
    }


def _check_num_candidates(count: int) -> None:
    if count < 1:
        raise InvalidInput(f"At least 1 candidate must be drawn, got {count}", field="num_candidates")
