"""The summary of a run: its figures, and sentences about what they show."""

from __future__ import annotations

import shlex
from typing import Any

from eztinker.rl.config import Recipe
from eztinker.rl.evaluate import Evaluation
from eztinker.rl.state import RunState

REPORT_FILE = "report.html"
ADAPTER_DIR = "adapter"

_EXAMPLE_QUESTION = "Ada has 7 apples and buys 5 more. How many apples does Ada have now?"


def summarize(recipe: Recipe, state: RunState, sampler_path: str) -> dict[str, Any]:
    """The summary of a finished run. Accuracies and shares are between 0 and 1, intervals are 95 % Wilson intervals."""
    before, after = state.evaluations[0], state.evaluations[-1]
    return {
        "accuracy_before": before.accuracy,
        "accuracy_few_shot_before": state.few_shot.accuracy if state.few_shot else None,
        "accuracy_after": after.accuracy,
        "n_eval": len(after.answers),
        "n_few_shot": len(state.few_shot.answers) if state.few_shot else 0,
        "interval_before": before.interval,
        "interval_few_shot_before": state.few_shot.interval if state.few_shot else None,
        "interval_after": after.interval,
        "rounds": len(state.rounds),
        "seconds": round(state.seconds, 1),
        "seed": recipe.config.seed,
        "base_model": recipe.base_model,
        "dataset": recipe.dataset,
        "is_control": not recipe.config.filter,
        "settings": recipe.identity,
        "per_round": [
            {
                "round": report.round,
                "accuracy": evaluation.accuracy,
                "interval": evaluation.interval,
                "share_right": report.share_right,
                "share_solved": report.num_solved / report.num_problems,
                "num_kept": report.num_kept,
                "mean_tokens": report.mean_tokens,
                "losses": report.losses,
                "seconds": round(report.seconds, 1),
            }
            for report, evaluation in zip(state.rounds, state.evaluations[1:], strict=True)
        ],
        "run_id": state.run_id,
        "sampler_path": sampler_path,
        "report": str(recipe.output_dir / REPORT_FILE),
        "adapter": str(recipe.output_dir / ADAPTER_DIR),
        "reuse_command": reuse_command(recipe, sampler_path),
        "findings": findings(recipe, state),
    }


def reuse_command(recipe: Recipe, sampler_path: str) -> str:
    """A shell command that asks the trained adapter one question."""
    prompt = f"$'Question: {_EXAMPLE_QUESTION}\\nAnswer:'"  # $'...' turns \n into a line break
    return f"eztinker sample {shlex.quote(sampler_path)} {prompt} --temperature 0 --max-tokens {recipe.max_new_tokens}"


def findings(recipe: Recipe, state: RunState) -> list[str]:
    """Sentences about what the figures show and what they do not."""
    before, after = state.evaluations[0], state.evaluations[-1]
    sentences = [
        f"Held-out accuracy went from {_percent(before)} to {_percent(after)} on {len(after.answers)} problems "
        f"that were never trained on. {_verdict(before, after)}"
    ]
    if not recipe.config.filter:
        sentences.append(
            "This was the control: random answers were trained on, right or wrong. It shows what the same amount "
            "of training does without the filter."
        )
    if not any(report.num_kept for report in state.rounds):
        sentences.append(
            "No answer was right, so nothing was trained. The base model is too weak for these problems, or its "
            "answers were cut off; try a larger model, more candidates or a higher token limit."
        )
    elif state.few_shot and recipe.config.filter:
        sentences.append(_few_shot_sentence(state.few_shot, after))
    if recipe.dataset == "arithmetic":
        sentences.append(
            "Training and held-out problems share their wordings, though no question: the skill shown is this "
            "kind of problem, not mathematics in general."
        )
    if max(before.accuracy, after.accuracy) < 0.05 and recipe.dataset == "gsm8k":
        sentences.append(
            "An accuracy near zero is what a model of this size reaches on GSM8K, whose problems take several "
            "steps; a model from half a billion parameters on has something to build on."
        )
    sentences.append("Only the final number is graded: a right number from a wrong equation counts as right.")
    return sentences


def _verdict(before: Evaluation, after: Evaluation) -> str:
    if after.interval[0] > before.interval[1]:
        return "The 95 % intervals do not touch, so this is more than chance."
    if after.interval[1] < before.interval[0]:
        return "The 95 % intervals do not touch: the model got worse, by more than chance."
    return "The 95 % intervals overlap, so this may be chance."


def _few_shot_sentence(few_shot: Evaluation, after: Evaluation) -> str:
    num_asked = len(few_shot.answers)
    share = f" (on {num_asked} of the problems)" if num_asked < len(after.answers) else ""
    start = (
        "Part of a rise is form and choice of operation: shown worked examples in the prompt, the untrained model "
        f"already reaches {_percent(few_shot)}{share}. "
    )
    if after.accuracy > few_shot.interval[1]:
        return start + "The trained model, shown none, is above that, so its arithmetic improved too."
    return start + "The trained model, shown none, is not clearly above that, so form may be all it learned."


def _percent(evaluation: Evaluation) -> str:
    return f"{100 * evaluation.accuracy:.1f} %"
