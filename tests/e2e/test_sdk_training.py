"""What training through the unmodified SDK computes: losses, sums, steps, and which weights they move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
import tinker
import torch
from safetensors.numpy import load
from tinker import types

from tests.e2e.sdk_core_suite import TOKENS, datum, tensor

PROMPT = types.ModelInput.from_ints(TOKENS)


@pytest.fixture
def trainer(service: tinker.ServiceClient) -> tinker.TrainingClient:
    return new_trainer(service)


def new_trainer(service: tinker.ServiceClient, **options: Any) -> tinker.TrainingClient:
    options = {"rank": 4, "seed": 1} | options
    return service.create_lora_training_client(base_model="tiny", **options).result()


def forward(trainer: tinker.TrainingClient, data: list[types.Datum]) -> types.ForwardBackwardOutput:
    return trainer.forward(data, "cross_entropy").result()


def accumulate(trainer: tinker.TrainingClient, data: list[types.Datum]) -> types.ForwardBackwardOutput:
    return trainer.forward_backward(data, "cross_entropy").result()


def scores(trainer: tinker.TrainingClient) -> Sequence[float]:
    return forward(trainer, [datum()]).loss_fn_outputs[0]["logprobs"].data


def optim_step(trainer: tinker.TrainingClient, learning_rate: float = 1e-2, **fields: float) -> dict[str, float]:
    metrics = trainer.optim_step(types.AdamParams(learning_rate=learning_rate, **fields)).result().metrics
    assert metrics is not None
    return metrics


def gradient_step(trainer: tinker.TrainingClient, rate: float = 1e-2, **fields: float) -> dict[str, float]:
    """A step of `rate` times the gradient: beside so large an eps, Adam's second moment is nothing."""
    return optim_step(trainer, learning_rate=rate * 1e6, eps=1e6, **fields)


# --- what a run starts as ---


@pytest.mark.conforms(26)
def test_a_seed_gives_the_same_weights_and_a_fresh_adapter_changes_nothing(service: tinker.ServiceClient):
    base = service.create_sampling_client(base_model="tiny").result().compute_logprobs(PROMPT).result()[1:]
    trainers = [new_trainer(service, seed=seed) for seed in (7, 7, 8)]
    for trainer in trainers:
        assert scores(trainer) == pytest.approx(base, abs=1e-5)
        accumulate(trainer, [datum()])
        optim_step(trainer)
    first, again, other = map(scores, trainers)
    assert first == again != other


MODULES = {
    "attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj"},
    "unembed": {"lm_head"},
}


@pytest.mark.conforms(27)
@pytest.mark.parametrize("part", MODULES)
def test_only_the_chosen_layers_are_trained(service: tinker.ServiceClient, rest: tinker.RestClient, part: str):
    flags = {f"train_{other}": other == part for other in MODULES}
    trainer = new_trainer(service, **flags)
    accumulate(trainer, [datum()])
    optim_step(trainer)
    path = trainer.save_weights_external("out").result().path
    adapter = load(httpx.get(rest.get_external_weights_urls(path).result().urls["adapter_model.safetensors"]).content)
    moved = {name.partition(".lora_B")[0].rpartition(".")[2] for name in adapter if ".lora_B" in name}
    assert moved == MODULES[part]
    assert all(np.abs(factor).max() > 0 for factor in adapter.values())
    info = rest.get_weights_info_by_tinker_path(path).result()
    assert {name: getattr(info, name) for name in flags} == flags


# --- what a batch gives ---

N = len(TOKENS) - 1
Q = np.linspace(-6.5, -4.5, N)
A = np.array([1.0, -1.0, 0.5, 0.0, 2.0, -0.5, 1.0])
W = np.array([1.0, 2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
POLICY = {"logprobs": tensor(Q.tolist()), "advantages": tensor(A.tolist())}
LOSSES: dict[Any, tuple[dict[str, Any], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "cross_entropy": ({"weights": tensor(W.tolist())}, lambda log_p, r: W * log_p),
    "importance_sampling": (POLICY, lambda log_p, r: r * A),
    "ppo": (POLICY, lambda log_p, r: np.minimum(r * A, r.clip(0.8, 1.2) * A)),
    "cispo": (POLICY, lambda log_p, r: r.clip(0.0, 4.0) * log_p * A),
    "dro": (POLICY, lambda log_p, r: log_p * A - 0.025 * (log_p - Q) ** 2),
    "gspo": (
        POLICY | {"sequence_ratio_mask": tensor([1.0] * N)},
        lambda log_p, r: np.minimum(np.exp((log_p - Q).mean()) * A, np.exp((log_p - Q).mean()).clip(0.8, 1.2) * A),
    ),
}
"""For each loss its inputs, and what a token adds to the objective, of its logprob and its ratio to the sampler's."""


@pytest.mark.conforms(50, 58)
@pytest.mark.parametrize("loss_fn", LOSSES)
def test_a_loss_is_the_sum_of_its_formula_over_the_logprobs_it_returns(trainer: tinker.TrainingClient, loss_fn: Any):
    inputs, terms = LOSSES[loss_fn]
    result = trainer.forward_backward([datum(**inputs), datum(**inputs)], loss_fn).result()
    log_p = np.array(result.loss_fn_outputs[0]["logprobs"].data)
    assert result.metrics["loss:sum"] == pytest.approx(-2 * terms(log_p, np.exp(log_p - Q)).sum(), rel=1e-4)
    assert all(name.count(":") == 1 for name in result.metrics)


@pytest.mark.conforms(50, 98)
def test_stable_reinforce_learns_from_the_logprobs_that_were_recorded(trainer: tinker.TrainingClient):
    """As the cookbook's loop does it; the trainer has moved on since, so that the ratios are not 1."""
    sampler = trainer.save_weights_and_get_sampling_client(record_stability_info=True).result()
    params = types.SamplingParams(max_tokens=6)
    drawn = sampler.sample(PROMPT, num_samples=3, sampling_params=params).result().sequences
    accumulate(trainer, [datum()])
    optim_step(trainer, learning_rate=0.1)
    advantages = [1.0, -0.5, 2.0]
    data = [
        sampled_datum(sequence, advantage, has_logprobs=has_logprobs)
        for sequence, advantage, has_logprobs in zip(drawn, advantages, (True, False, False), strict=True)
    ]
    result = trainer.forward_backward(data, "stable_reinforce").result()
    total, ratios = 0.0, []
    for sequence, advantage, output in zip(drawn, advantages, result.loss_fn_outputs, strict=True):
        log_p = np.array(output["logprobs"].data)[-len(sequence.tokens) :]
        r = np.exp(log_p - np.array(sequence.logprobs))
        total -= (np.where((r >= 0.5) & (r <= 5.0), r, 0.0) * log_p * advantage).sum()
        ratios += r.tolist()
    assert max(abs(np.log(ratios))) > 0.01
    assert result.metrics["loss:sum"] == pytest.approx(total, rel=1e-4)
    is_masked = [not 0.5 <= r <= 5.0 for r in ratios]
    assert result.metrics["clipped_fraction:mean"] == pytest.approx(np.mean(is_masked))


def sampled_datum(sequence: types.SampledSequence, advantage: float, *, has_logprobs: bool) -> types.Datum:
    """The prompt and what was sampled for it, with its provenance."""
    assert sequence.sequence_id is not None
    assert sequence.logprobs is not None
    tokens, sequence_id = list(sequence.tokens), sequence.sequence_id
    before = [0.0] * (len(TOKENS) - 1)
    inputs = {"logprobs": tensor([*before, *sequence.logprobs])} if has_logprobs else {}
    plain = types.Datum(
        model_input=types.ModelInput.from_ints([*TOKENS, *tokens[:-1]]),
        loss_fn_inputs={
            "target_tokens": tensor([0.0] * len(before) + tokens, "int64"),
            "advantages": tensor([*before, *[advantage] * len(tokens)]),
            **inputs,
        },
    )
    return plain.with_provenance(
        model_input=[
            types.PromptProvenanceSpan(sequence_id=sequence_id, length=len(TOKENS)),
            types.SampledProvenanceSpan(sequence_id=sequence_id, length=len(tokens) - 1),
        ],
        loss_fn_inputs=[
            types.PromptProvenanceSpan(sequence_id=sequence_id, offset=1, length=len(before)),
            types.SampledProvenanceSpan(sequence_id=sequence_id, length=len(tokens)),
        ],
    )


def wide_datum(tokens: list[int], width: int, *, is_sparse: bool = False) -> types.Datum:
    """`width` targets per position, of which the first is the next token; sparse, the others are left out."""
    targets, weights = torch.zeros(len(tokens) - 1, width, dtype=torch.int64), torch.zeros(len(tokens) - 1, width)
    targets[:, 0], weights[:, 0] = torch.tensor(tokens[1:]), 1.0
    inputs: Any = {"target_tokens": targets, "weights": weights}
    if not is_sparse:
        inputs = {name: types.TensorData.from_torch(value) for name, value in inputs.items()}
    return types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)


@pytest.mark.conforms(48, 49)
def test_outputs_have_the_shapes_of_their_targets_and_the_order_of_the_data(trainer: tinker.TrainingClient):
    data = {
        (3,): datum(TOKENS[:4]),
        (5, 3): wide_datum(TOKENS[:6], 3),
        (7,): datum(TOKENS),
        (7, 16): wide_datum(TOKENS, 16, is_sparse=True),
        (4, 2): wide_datum(TOKENS[:5], 2),
    }
    assert data[7, 16].loss_fn_inputs["target_tokens"].sparse_crow_indices is not None
    expected = scores(trainer)
    together = forward(trainer, list(data.values())).loss_fn_outputs
    for (shape, each), output in zip(data.items(), together, strict=True):
        logprobs = output["logprobs"]
        assert logprobs.shape == list(shape)
        np.testing.assert_allclose(logprobs.to_numpy().reshape(shape[0], -1)[:, 0], expected[: shape[0]], atol=1e-5)
        alone = forward(trainer, [each]).loss_fn_outputs[0]["logprobs"]
        np.testing.assert_allclose(logprobs.to_numpy(), alone.to_numpy(), atol=1e-5)


@pytest.mark.conforms(53, 54)
def test_however_data_are_cut_into_calls_and_chunks_their_gradients_add_up(service: tinker.ServiceClient):
    data = [datum(TOKENS[:length]) for length in (3, 8, 5, 4, 6)]

    def trained(calls: list[list[types.Datum]], chunk_length: int) -> tuple[float, Sequence[float]]:
        """Summed loss, and scores after one step along the gradient."""
        send_in_chunks(service, chunk_length)
        trainer = new_trainer(service)
        before = scores(trainer)
        losses = [accumulate(trainer, call).metrics["loss:sum"] for call in calls]
        gradient_step(trainer, rate=0.1)
        after = scores(trainer)
        assert np.abs(np.subtract(after, before)).max() > 0.1
        return sum(losses), after

    loss, after = trained([data], 1024)
    for calls, chunk_length in (([data], 1), ([data], 2), ([data[:2], data[2:]], 1024), ([data[:3], data[3:]], 2)):
        other_loss, other_after = trained(calls, chunk_length)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_after == pytest.approx(after, abs=1e-4)


def send_in_chunks(service: tinker.ServiceClient, num_data: int) -> None:
    """Have the client cut its batches as a server could ask of it."""
    config = service.holder.get_client_config()
    service.holder._client_config = config.model_copy(update={"fwdbwd_max_chunk_len": num_data})


@pytest.mark.conforms(42)
@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_bad_chunk_among_good_ones_leaves_the_client_usable(service: tinker.ServiceClient, place: int):
    send_in_chunks(service, 2)
    trainer = new_trainer(service)
    data = [datum(TOKENS[:4])] * 6
    data[place] = datum([10, 9999, 11])
    with pytest.raises(tinker.RequestFailedError, match="token 9999") as caught:
        accumulate(trainer, data)
    assert caught.value.category == types.RequestErrorCategory.User
    optim_step(trainer)
    assert forward(trainer, data[:place] + data[place + 1 :]).loss_fn_outputs


NOT_TEXT = {
    "image": types.ImageChunk(data=b"\x89PNG", format="png", expected_tokens=3),
    "dmel": types.DmelChunk(dmel=b"sound"),
}


@pytest.mark.conforms(59, "images", "audio")
@pytest.mark.parametrize("kind", NOT_TEXT)
def test_what_is_no_text_is_refused_by_name(service: tinker.ServiceClient, trainer: tinker.TrainingClient, kind: str):
    prompt = types.ModelInput(chunks=[types.EncodedTextChunk(tokens=TOKENS), NOT_TEXT[kind]])
    with pytest.raises(tinker.RequestFailedError, match=kind) as caught:
        accumulate(trainer, [types.Datum(model_input=prompt, loss_fn_inputs=datum().loss_fn_inputs)])
    assert caught.value.category == types.RequestErrorCategory.User
    optim_step(trainer)
    sampler = service.create_sampling_client(base_model="tiny").result()
    with pytest.raises(tinker.UnprocessableEntityError, match=kind):
        sampler.sample(prompt, 1, types.SamplingParams(max_tokens=1)).result()


# --- what a step does ---


@pytest.mark.conforms(62, 64)
def test_clipping_scales_the_whole_gradient_and_the_norm_before_it_is_reported(service: tinker.ServiceClient):
    free, clipped, wide = (new_trainer(service) for _ in range(3))
    for trainer in (free, clipped, wide):
        accumulate(trainer, [datum()])
    norm = gradient_step(free, 1e-2, grad_clip_norm=0.0)["unclipped_grad_l2:mean"]
    assert gradient_step(clipped, 4e-2, grad_clip_norm=norm / 4)["unclipped_grad_l2:mean"] == pytest.approx(norm)
    gradient_step(wide, 1e-2, grad_clip_norm=norm * 4)
    assert scores(clipped) == pytest.approx(scores(free), abs=1e-4)
    assert scores(wide) == scores(free)


@pytest.mark.conforms(63)
def test_a_step_uses_the_gradient_up_and_one_without_is_adamws_on_zeros(service: tinker.ServiceClient):
    two_steps, one_step = new_trainer(service), new_trainer(service)
    for trainer in (two_steps, one_step):
        accumulate(trainer, [datum()])
    gradient_step(two_steps, 1e-2)
    assert gradient_step(two_steps, 1e-2)["unclipped_grad_l2:mean"] == 0.0
    # With beta1 0.9 the first moment after the second step is 0.9 * 0.1 g, of which 1 - 0.9^2 is taken out.
    gradient_step(one_step, 1e-2 * (1 + 0.09 / 0.19))
    assert scores(two_steps) == pytest.approx(scores(one_step), abs=1e-4)


# --- what a checkpoint goes into ---


@pytest.mark.conforms(72)
@pytest.mark.filterwarnings("ignore:DEPRECATED. TrainingClient.load_state:FutureWarning")
def test_a_checkpoint_that_does_not_fit_is_refused_and_the_run_stays(
    service: tinker.ServiceClient, trainer: tinker.TrainingClient
):
    other = new_trainer(service, rank=8)
    accumulate(other, [datum()])
    optim_step(other)
    before = scores(trainer)
    for path, with_optimizer in (
        (other.save_state("wide").result().path, True),
        (trainer.save_weights_for_sampler("no-optimizer").result().path, True),
        (f"tinker://{trainer.model_id}/weights/none", False),
    ):
        load_state = trainer.load_state_with_optimizer if with_optimizer else trainer.load_state
        with pytest.raises(tinker.RequestFailedError) as caught:
            load_state(path).result()
        assert caught.value.category == types.RequestErrorCategory.User
    assert scores(trainer) == before


@pytest.mark.conforms(70, 71)
def test_a_model_made_from_a_checkpoint_has_the_next_id_and_describes_itself(
    service: tinker.ServiceClient, trainer: tinker.TrainingClient
):
    accumulate(trainer, [datum()])
    optim_step(trainer)
    path = trainer.save_state("half").result().path
    resumed = service.create_training_client_from_state_with_optimizer(path).result()
    session_id = trainer.model_id.partition(":")[0]
    assert resumed.model_id == f"{session_id}:train:1"
    info = resumed.get_info()
    assert (info.model_id, info.lora_rank, info.model_data.model_name) == (resumed.model_id, 4, "tiny")
    for client in (trainer, resumed):  # from the same weights, moments and step
        accumulate(client, [datum()])
        optim_step(client)
    assert scores(resumed) == scores(trainer)
