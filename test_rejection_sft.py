"""Is everything there that rejection-sampling SFT needs? Six checks, a few seconds: python test_rejection_sft.py

Checks that need a server are skipped, with the command that starts one, when none answers. Any failure exits 1. The
last line counts what passed, failed and was skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eztinker.rl.runs import OpenRun

QUESTION = "Ada has 7 apples and buys 5 more. How many apples does Ada have now?"


class Skipped(Exception):
    """A check that cannot be made here; the message says what to do."""


def check_imports() -> str:
    import tinker

    import eztinker.dataset
    import eztinker.rl

    return f"eztinker {eztinker.__version__}, tinker SDK {tinker.__version__}"


def check_server() -> str:
    return f"{_server_url()} answers"


def check_data() -> str:
    from eztinker.dataset import ArithmeticDataset, GSM8KDataset
    from eztinker.errors import DataNotFound

    try:
        dataset = GSM8KDataset(split="train", max_samples=5)
        name = "GSM8K"
    except DataNotFound:
        dataset = ArithmeticDataset("train", max_samples=5)
        name = "arithmetic (GSM8K is not here; EZTINKER_GSM8K_DIR can name a directory that has it)"
    question, prompt, answer = dataset.get_example_question(0)
    assert question in prompt, "a prompt must hold its question"
    assert dataset.evaluate_answer(f" The answer is {answer}.", answer, question)["is_correct"]
    return f"{len(dataset)} problems of {name}"


def check_math_verify() -> str:
    from eztinker.dataset import evaluate_answer

    grade = evaluate_answer(model_response="So it is \\boxed{\\frac{1}{2}}.", ground_truth_str="0.5")
    assert grade["is_correct"], "one half must equal 0.5"
    if grade["strategy"] != "math_verify":
        return "not installed; answers are compared as exact numbers (pip install 'eztinker[recipes]')"
    return "1/2 equals 0.5, says math-verify"


def check_tokenizer() -> str:
    tokenizer = _training_run().tokenizer
    text = f"Question: {QUESTION}\nAnswer:"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(tokens) == text, "decoding must give the text back"
    return f"{len(tokens)} tokens, decoded without loss"


def check_training_session() -> str:
    from eztinker.dataset.start_tokens import encode_prompt
    from eztinker.rl.sampling import SamplingSpec, encode, stop_token_id
    from eztinker.rl.training import Example, submit_step

    run = _training_run()
    prompt = f"Question: {QUESTION}\nAnswer:"
    example = Example(
        prompt_tokens=encode_prompt(run.tokenizer, prompt), completion_tokens=encode(run.tokenizer, " 7 + 5 = 12")
    )
    steps = [submit_step(run.client, [example], stop_token_id(run.tokenizer), learning_rate=1e-3) for _ in range(2)]
    first, second = (step.mean_loss() for step in steps)
    assert second < first, f"the loss must fall from one step to the next, got {first:.3f} and {second:.3f}"
    answer = run.sampler().submit(prompt, 1, SamplingSpec(max_tokens=16, temperature=0.0, stop=("\n",))).result()[0]
    return f"loss {first:.3f} -> {second:.3f} in two steps; sample: {answer.text.strip()!r}"


CHECKS: list[tuple[str, Callable[[], str]]] = [
    ("imports", check_imports),
    ("server", check_server),
    ("data", check_data),
    ("math-verify", check_math_verify),
    ("tokenizer", check_tokenizer),
    ("training session", check_training_session),
]


def main() -> int:
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for number, (name, check) in enumerate(CHECKS, start=1):
        print(f"[{number}/{len(CHECKS)}] {name}: ", end="", flush=True)
        counts[outcome(check)] += 1
    print(", ".join(f"{count} {result}" for result, count in counts.items()))
    return 1 if counts["failed"] else 0


def outcome(check: Callable[[], str]) -> str:
    """Make one check and print what it came to, in one line."""
    try:
        print(check())
    except Skipped as reason:
        print(f"skipped, {reason}")
        return "skipped"
    except Exception as error:  # whatever it is, the user gets one line and the exit status tells
        print(f"failed, {type(error).__name__}: {error}")
        return "failed"
    return "passed"


def _server_url() -> str:
    from eztinker.settings.client_settings import client_settings, server_is_up

    base_url = client_settings().base_url
    if not server_is_up(base_url):
        raise Skipped(f"no server answers at {base_url}; start one in another terminal with: eztinker server")
    return base_url


@cache
def _training_run() -> OpenRun:
    from eztinker.rl.config import choose_base_model
    from eztinker.rl.connection import served_models
    from eztinker.rl.runs import new_run

    _server_url()
    return new_run(choose_base_model(None, served_models()), lora_rank=1)


if __name__ == "__main__":
    exit_code = main()
    try:
        from eztinker.process_end import end_process
    except ImportError:  # as the first check has said
        sys.exit(exit_code)
    end_process(exit_code)
