"""The programs that must not notice a thing: a supervised and a reinforcement loop on the unmodified SDK.

`python -m tests.torture.clients sft|rl URL STEPS` takes a step for each line that it reads, prints one line per step as
it begins, and at the end one JSON object: the loss of every step, and the paths that were saved. The server's key is in
TINKER_API_KEY.
With `unsaved` in place of a loop it trains as `sft` does, prints the path of its run, and then waits to be killed.
"""

from __future__ import annotations

import json
import random
import sys
import time

import tinker
from tinker import types

BASE_MODEL = "tiny"
PROMPT = types.ModelInput.from_ints([256, 10, 11, 12])
ADAM = types.AdamParams(learning_rate=5e-3)
SAVE_EVERY = 10


def sft(service: tinker.ServiceClient, num_steps: int) -> dict[str, list]:
    """Batches of random sequences, passes and step in flight together."""
    trainer = service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=3).result()
    generator = random.Random(0)
    losses, paths = [], []
    for step in range(num_steps):
        begin(step)
        losses += train(trainer, generator)
        if step % SAVE_EVERY == SAVE_EVERY - 1:
            paths.append(trainer.save_state(f"step-{step}").result().path)
    paths.append(trainer.save_state("final").result().path)
    return {"losses": losses, "paths": paths}


def unsaved(service: tinker.ServiceClient, num_steps: int) -> dict[str, list]:
    """The first steps of `sft`, by a program that will not come to its end."""
    trainer = service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=3).result()
    generator = random.Random(0)
    losses = [train(trainer, generator) for _ in range(num_steps)]
    print(json.dumps({"losses": losses, "model_id": trainer.get_info().model_id}), flush=True)
    time.sleep(3600)
    raise AssertionError("nobody came")


def train(trainer: tinker.TrainingClient, generator: random.Random) -> list[float]:
    """Two passes and a step; the loss of each pass, and the norm of their gradient."""
    halves = [[supervised(generator) for _ in range(4)] for _ in range(2)]
    futures = [trainer.forward_backward(half, "cross_entropy") for half in halves]
    optimized = trainer.optim_step(ADAM)
    losses = [future.result().metrics["loss:sum"] for future in futures]
    return [*losses, optimized.result().metrics["unclipped_grad_l2:mean"]]  # pyright: ignore[reportOptionalSubscript]


def rl(service: tinker.ServiceClient, num_steps: int) -> dict[str, list]:
    """Completions of the newest weights, rewarded for high tokens, and one importance-sampling step on them."""
    trainer = service.create_lora_training_client(base_model=BASE_MODEL, rank=4, seed=4).result()
    losses = []
    for step in range(num_steps):
        begin(step)
        sampler = trainer.save_weights_and_get_sampling_client()
        params = types.SamplingParams(max_tokens=8, seed=step, stop=[])
        sequences = sampler.sample(PROMPT, num_samples=8, sampling_params=params).result().sequences
        losses.append(sum(sum(sequence.tokens) for sequence in sequences))
        trained = trainer.forward_backward([rewarded(sequence) for sequence in sequences], "importance_sampling")
        optimized = trainer.optim_step(ADAM)
        losses.append(trained.result().metrics["loss:sum"])
        optimized.result()
    return {"losses": losses, "paths": [trainer.save_state("final").result().path]}


def supervised(generator: random.Random) -> types.Datum:
    tokens = [generator.randrange(256) for _ in range(generator.randrange(5, 30))]
    inputs = {"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)}
    return types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)  # pyright: ignore


def rewarded(sequence: types.SampledSequence) -> types.Datum:
    prompt = PROMPT.to_ints()
    assert sequence.logprobs is not None
    ahead = [0.0] * (len(prompt) - 1)
    advantages = [token / 128 - 1 for token in sequence.tokens]
    inputs = {
        "target_tokens": [*prompt[1:], *sequence.tokens],
        "logprobs": [*ahead, *sequence.logprobs],
        "advantages": [*ahead, *advantages],
    }
    tokens = [*prompt, *sequence.tokens[:-1]]
    return types.Datum(model_input=types.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)  # pyright: ignore


def begin(step: int) -> None:
    """Wait until the step is allowed, and tell that it begins."""
    sys.stdin.readline()
    print(f"step {step}", flush=True)


def main() -> None:
    loop, url, num_steps = sys.argv[1:]
    with tinker.ServiceClient(base_url=url) as service:
        print(json.dumps({"sft": sft, "rl": rl, "unsaved": unsaved}[loop](service, int(num_steps))), flush=True)


if __name__ == "__main__":
    main()
