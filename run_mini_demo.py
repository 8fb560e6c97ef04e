"""Rejection sampling in one minute: 2 problems, 2 candidates each, a rank-1 adapter trained on the best right one.

With `eztinker server` running in another terminal: python run_mini_demo.py
"""

from __future__ import annotations

import sys

from eztinker.dataset import ArithmeticDataset, GSM8KDataset, MathDataset
from eztinker.errors import EZTinkerError
from eztinker.process_end import end_process
from eztinker.rl import create_training_run, generate_candidates, select_best_candidate_and_train
from eztinker.rl.config import Recipe, RejectionSFTConfig
from eztinker.rl.connection import served_models

NUM_PROBLEMS = 2
NUM_CANDIDATES = 2
SEED = 3
"""One with which the embedded model finds a right answer."""


def run() -> None:
    recipe = Recipe.of(RejectionSFTConfig(), served_models())
    dataset: MathDataset = ArithmeticDataset("train") if recipe.dataset == "arithmetic" else GSM8KDataset("train")
    run_id = create_training_run(recipe.base_model, lora_rank=1)
    print(f"{recipe.base_model}, rank-1 LoRA, {recipe.dataset}: {run_id}")
    num_trained = sum(train_on_best_candidate(recipe, dataset, run_id, number) for number in range(NUM_PROBLEMS))

    question, prompt, ground_truth = dataset.get_example_question(NUM_PROBLEMS)
    answer = sample(recipe, prompt, question, run_id, 1)[0]
    is_right = dataset.evaluate_answer(answer, ground_truth, question)["is_correct"]
    print(f"\nA sample from the adapter as it is now\n  {question} (expected: {ground_truth})")
    print(f"  {answer.strip()}  ({'right' if is_right else 'wrong'})")
    print(
        f"\nEvery part works: sampled, graded, trained on {num_trained} of {NUM_PROBLEMS} problems. That is far too "
        "little to make\nthe model better, whatever the last sample says; 'eztinker demo' trains on hundreds of "
        "answers and measures it."
    )


def train_on_best_candidate(recipe: Recipe, dataset: MathDataset, run_id: str, number: int) -> bool:
    """One problem, sampled, graded and, if an answer is right, trained on; whether one was."""
    question, prompt, ground_truth = dataset.get_example_question(number)
    print(f"\nProblem {number + 1} of {NUM_PROBLEMS}: {question} (expected: {ground_truth})")
    # Worked examples in the sampling prompt make a right answer likely at two tries; training does without them.
    candidates = sample(recipe, dataset.format_few_shot_prompt(question), question, run_id, NUM_CANDIDATES)
    for candidate in candidates:
        print(f"  candidate: {candidate.strip()}")
    best = select_best_candidate_and_train(run_id, prompt, candidates, ground_truth, question, dataset)
    if best["trained"]:
        print(f"  trained on: {best['selected_text'].strip()} (loss {best['loss']:.3f} per token)")
    else:
        print(f"  not trained: {best['skip_reason']}")
    return best["trained"]


def sample(recipe: Recipe, prompt: str, question: str, run_id: str, count: int) -> list[str]:
    return generate_candidates(
        prompt, question, run_id, count, max_tokens=recipe.max_new_tokens, stop=recipe.task.stop, seed=SEED
    )


def main() -> int:
    try:
        run()
    except EZTinkerError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    end_process(main())
