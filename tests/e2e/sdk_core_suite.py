"""The core of the Tinker API through whichever `tinker` stands first on the path.

Run as a program with a server's address, its key and its base model: prints one JSON object, what went wrong in each
check by its name, null where nothing did. Written so that every SDK from 0.18 on runs it.
"""

from __future__ import annotations

import io
import json
import math
import sys
import tarfile
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import tinker
import torch
from tinker import types

TOKENS = list(range(10, 18))
N = len(TOKENS) - 1
ADAM = types.AdamParams(learning_rate=1e-2)
Q = -5.5
"""Every token's logprob as a sampler reported it; those of a random model over 264 tokens lie around it."""
ADVANTAGES = [1.0, -1.0, 0.5, 0.0, 2.0, -0.5, 1.0]
LOSS_TERMS: dict[Any, Callable[[float, float, float], float]] = {
    "importance_sampling": lambda log_p, r, a: r * a,
    "ppo": lambda log_p, r, a: min(r * a, min(max(r, 0.8), 1.2) * a),
    "cispo": lambda log_p, r, a: min(max(r, 0.0), 4.0) * log_p * a,
    "dro": lambda log_p, r, a: log_p * a - 0.025 * math.log(r) ** 2,
}
"""What each token adds to the objective: log_p its logprob, r its ratio to the sampler's, a its advantage."""
GREEDY = types.SamplingParams(max_tokens=4, temperature=0.0)

Check = Callable[[tinker.ServiceClient, tinker.TrainingClient], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def now(answer: Any) -> Any:
    """Futures of newer SDKs, older ones return at once."""
    return answer.result() if hasattr(answer, "result") else answer


def tensor(values: list[float], dtype: str = "float32") -> types.TensorData:
    return types.TensorData(data=values, dtype=dtype, shape=[len(values)])  # pyright: ignore[reportArgumentType]


def datum(tokens: list[int] = TOKENS, **inputs: types.TensorData) -> types.Datum:
    """`inputs` replace the weights of cross_entropy, which are all 1."""
    given = inputs or {"weights": tensor([1.0] * (len(tokens) - 1))}
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tensor(tokens[1:], "int64"), **given},  # pyright: ignore[reportArgumentType]
    )


def rl_datum() -> types.Datum:
    return datum(logprobs=tensor([Q] * N), advantages=tensor(ADVANTAGES))


def step(trainer: tinker.TrainingClient) -> float:
    """One step on the one datum; the loss before it."""
    loss = trainer.forward_backward([datum()], "cross_entropy")
    trainer.optim_step(ADAM).result()
    return loss.result().metrics["loss:sum"]


def loss(trainer: tinker.TrainingClient) -> float:
    return trainer.forward([datum()], "cross_entropy").result().metrics["loss:sum"]


def close(one: float, other: float, tolerance: float = 1e-4) -> bool:
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)


@check
def training_lowers_the_loss_and_greedy_sampling_shows_it(
    service: tinker.ServiceClient, trainer: tinker.TrainingClient
) -> None:
    losses = [step(trainer) for _ in range(8)]
    assert losses[-1] < losses[0] / 2, losses
    sampler = now(trainer.save_weights_and_get_sampling_client())
    response = sampler.sample(types.ModelInput.from_ints(TOKENS[:4]), 2, GREEDY).result()
    for sequence in response.sequences:
        assert sequence.tokens == TOKENS[4:], sequence
        assert sequence.stop_reason == "length"
        assert sequence.logprobs is not None
        assert len(sequence.logprobs) == 4


@check
def every_loss_is_the_sum_its_formula_gives(service: tinker.ServiceClient, trainer: tinker.TrainingClient) -> None:
    for name, term in LOSS_TERMS.items():
        for run in (trainer.forward, trainer.forward_backward):
            result = run([rl_datum()], name).result()
            logprobs = result.loss_fn_outputs[0]["logprobs"].data
            terms = [term(log_p, math.exp(log_p - Q), a) for log_p, a in zip(logprobs, ADVANTAGES, strict=True)]
            assert close(result.metrics["loss:sum"], -sum(terms)), (name, result.metrics)
    result = trainer.forward_backward([datum()], "cross_entropy").result()
    assert close(result.metrics["loss:sum"], -sum(result.loss_fn_outputs[0]["logprobs"].data))


@check
def a_config_reaches_its_loss(service: tinker.ServiceClient, trainer: tinker.TrainingClient) -> None:
    config = {"clip_low_threshold": 0.0, "clip_high_threshold": 1e9}
    clipped_never = trainer.forward([rl_datum()], "ppo", loss_fn_config=config).result().metrics["loss:sum"]
    unclipped = trainer.forward([rl_datum()], "importance_sampling").result().metrics["loss:sum"]
    assert close(clipped_never, unclipped)


@check
def forward_leaves_no_gradient(service: tinker.ServiceClient, trainer: tinker.TrainingClient) -> None:
    before = loss(trainer)
    trainer.optim_step(ADAM).result()
    assert loss(trainer) == before


@check
def several_targets_per_position_come_back_in_their_shape(
    service: tinker.ServiceClient, trainer: tinker.TrainingClient
) -> None:
    targets = torch.stack([torch.tensor(TOKENS[1:]), torch.arange(N)], dim=1)
    both = types.Datum(
        model_input=types.ModelInput.from_ints(TOKENS[:-1]),
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_torch(targets),
            "weights": types.TensorData.from_torch(torch.ones(N, 2)),
        },
    )
    wide, narrow = (
        trainer.forward([each], "cross_entropy").result().loss_fn_outputs[0]["logprobs"] for each in (both, datum())
    )
    assert wide.shape == [N, 2], wide.shape
    assert all(close(one, other) for one, other in zip(wide.data[::2], narrow.data, strict=True))


@check
def a_custom_loss_trains_like_the_same_loss_by_name(
    service: tinker.ServiceClient, trainer: tinker.TrainingClient
) -> None:
    def negative_sum(data, logprobs):
        return -torch.cat(logprobs).sum(), {"mine": 1.0}

    other = new_trainer(service)
    named = trainer.forward_backward([datum()], "cross_entropy").result().metrics
    custom = other.forward_backward_custom([datum()], negative_sum).result().metrics
    assert close(custom["loss:sum"], named["loss:sum"])
    assert custom["mine"] == 1.0
    for client in (trainer, other):
        client.optim_step(ADAM).result()
    assert close(loss(trainer), loss(other))


@check
def resuming_restores_the_optimizer_exactly_when_asked(
    service: tinker.ServiceClient, trainer: tinker.TrainingClient
) -> None:
    step(trainer)
    path = trainer.save_state("half").result().path
    resumed = now(service.create_training_client_from_state_with_optimizer(path))
    fresh = now(service.create_training_client_from_state(path))
    again = new_trainer(service)
    again.load_state_with_optimizer(path).result()
    clients = (trainer, resumed, again, fresh)
    assert len({step(client) for client in clients}) == 1  # the weights are the same in all
    going_on, as_new, loaded, without = (step(client) for client in clients)
    assert going_on == as_new == loaded != without


@check
def sampler_and_trainer_score_alike(service: tinker.ServiceClient, trainer: tinker.TrainingClient) -> None:
    step(trainer)
    trained = trainer.forward([datum()], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].data
    path = trainer.save_weights_for_sampler("scores").result().path
    sampler = now(service.create_sampling_client(model_path=path))
    scored = sampler.compute_logprobs(types.ModelInput.from_ints(TOKENS)).result()
    assert scored[0] is None
    assert all(close(one, other, 1e-5) for one, other in zip(scored[1:], trained, strict=True))


@check
def the_base_model_samples_with_prompt_logprobs_and_their_rivals(
    service: tinker.ServiceClient, trainer: tinker.TrainingClient
) -> None:
    sampler = now(service.create_sampling_client(base_model=BASE_MODEL))
    params = types.SamplingParams(max_tokens=3, temperature=0.7, seed=5, top_k=20, top_p=0.9, stop=[TOKENS[0]])
    prompt = types.ModelInput.from_ints(TOKENS)
    first, second = (
        sampler.sample(prompt, 2, params, include_prompt_logprobs=True, topk_prompt_logprobs=2).result()
        for _ in range(2)
    )
    assert [s.tokens for s in first.sequences] == [s.tokens for s in second.sequences]
    assert first.prompt_logprobs[0] is None
    assert first.topk_prompt_logprobs[0] is None
    for logprob, rivals in zip(first.prompt_logprobs[1:], first.topk_prompt_logprobs[1:], strict=True):
        assert len(rivals) == 2
        assert rivals[0][1] >= max(logprob - 1e-6, rivals[1][1])


@check
def the_run_describes_itself_and_its_tokenizer_loads(
    service: tinker.ServiceClient, trainer: tinker.TrainingClient
) -> None:
    info = now(trainer.get_info())
    assert info.model_data.model_name == BASE_MODEL
    assert info.lora_rank == 4
    tokenizer = trainer.get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("A word.")) == "A word."


@check
def listings_show_what_was_saved_until_it_is_deleted(
    service: tinker.ServiceClient, trainer: tinker.TrainingClient
) -> None:
    path = trainer.save_state("listed", ttl_seconds=7200).result().path
    rest = service.create_rest_client()
    run = rest.get_training_run_by_tinker_path(path).result()
    assert run.base_model == BASE_MODEL
    assert run.lora_rank == 4
    assert run.training_run_id in [each.training_run_id for each in rest.list_training_runs().result().training_runs]
    rows = rest.list_checkpoints(run.training_run_id).result().checkpoints
    assert [row.tinker_path for row in rows] == [path]
    assert path in [row.tinker_path for row in rest.list_user_checkpoints().result().checkpoints]
    assert rest.get_weights_info_by_tinker_path(path).result().lora_rank == 4
    assert BASE_MODEL in [model.model_name for model in now(service.get_server_capabilities()).supported_models]
    assert rest.list_sessions().result().sessions
    rest.delete_checkpoint_from_tinker_path(path).result()
    assert rest.list_checkpoints(run.training_run_id).result().checkpoints == []


@check
def a_sampler_checkpoint_comes_as_an_archive(service: tinker.ServiceClient, trainer: tinker.TrainingClient) -> None:
    rest = service.create_rest_client()
    if not hasattr(rest, "get_checkpoint_archive_url_from_tinker_path"):
        return  # newer SDKs download exports instead
    path = trainer.save_weights_for_sampler("archived").result().path
    archive = rest.get_checkpoint_archive_url_from_tinker_path(path).result()  # pyright: ignore[reportAttributeAccessIssue]
    with urllib.request.urlopen(archive.url) as response, tarfile.open(fileobj=io.BytesIO(response.read())) as tar:
        assert sorted(tar.getnames()) == ["adapter_config.json", "adapter_model.safetensors"]
        config = tar.extractfile("adapter_config.json")
        assert config is not None
        assert json.load(config)["r"] == 4


@check
def a_mistake_is_told_and_the_run_goes_on(service: tinker.ServiceClient, trainer: tinker.TrainingClient) -> None:
    with pytest.raises(tinker.RequestFailedError) as caught:
        trainer.forward_backward([datum([10, 11, 9999])], "cross_entropy").result()
    assert "9999" in caught.value.message
    assert step(trainer) > step(trainer)


def new_trainer(service: tinker.ServiceClient) -> tinker.TrainingClient:
    return now(service.create_lora_training_client(base_model=BASE_MODEL, rank=4, seed=1))


def verdict(run: Check, service: tinker.ServiceClient) -> str | None:
    try:
        run(service, new_trainer(service))
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    URL, API_KEY, BASE_MODEL = sys.argv[1:]
    client = tinker.ServiceClient(base_url=URL, api_key=API_KEY)
    verdicts = {name: verdict(run, client) for name, run in CHECKS.items()}
    print(json.dumps({"version": tinker.__version__, "verdicts": verdicts}))
