"""Everything the official SDK can ask of a sampling client, with numbers that transformers confirms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tinker
import torch
from tinker import types
from torch import Tensor

from tests.oracles import draw_tokens, transformers_logits
from tests.servers import API_KEY, RunningServer, Serve
from tests.tiny_models import EOS_TOKEN_ID

TOKENS = draw_tokens(30, seed=4)
PROMPT = types.ModelInput.from_ints(TOKENS)
ONE = types.SamplingParams(max_tokens=1)


@pytest.fixture(scope="module")
def server(serve: Serve, tiny_model_dir: Path) -> RunningServer:
    return serve({"tiny": tiny_model_dir})


@pytest.fixture
def sampler(service: tinker.ServiceClient) -> tinker.SamplingClient:
    return service.create_sampling_client(base_model="tiny").result()


@pytest.fixture(scope="module")
def logprobs(tiny_model_dir: Path) -> Tensor:
    """Row i judges prompt position i + 1, by transformers."""
    return torch.log_softmax(transformers_logits(tiny_model_dir, TOKENS)[:-1], dim=-1)


# --- what is told about the prompt ---


@pytest.mark.conforms(81, 82)
def test_prompt_logprobs_and_the_likeliest_tokens_are_those_of_transformers(
    sampler: tinker.SamplingClient, logprobs: Tensor
):
    result = sampler.sample(PROMPT, 1, ONE, include_prompt_logprobs=True, topk_prompt_logprobs=3).result()
    own = logprobs.gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0].tolist()
    assert result.prompt_logprobs is not None
    assert result.prompt_logprobs[0] is None
    assert result.prompt_logprobs[1:] == pytest.approx(own, abs=1e-5)
    assert sampler.compute_logprobs(PROMPT).result()[1:] == pytest.approx(own, abs=1e-5)
    table = result.topk_prompt_logprobs
    assert table is not None
    assert table[0] is None
    for row, best in zip(table[1:], logprobs, strict=True):
        assert row is not None
        values, tokens = best.topk(3)
        assert [token for token, _ in row] == tokens.tolist()
        assert [logprob for _, logprob in row] == pytest.approx(values.tolist(), abs=1e-5)


def test_as_many_tokens_as_the_context_has_are_scored_and_trained_on(
    service: tinker.ServiceClient, sampler: tinker.SamplingClient, tiny_model_dir: Path
):
    tokens = draw_tokens(2048, seed=5)
    logits = torch.log_softmax(transformers_logits(tiny_model_dir, tokens), dim=-1)
    own = logits[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    prompt = types.ModelInput.from_ints(tokens)
    assert sampler.compute_logprobs(prompt).result()[1:] == pytest.approx(own, abs=1e-4)
    table = sampler.sample(prompt, 1, ONE, topk_prompt_logprobs=1).result().topk_prompt_logprobs
    assert table is not None
    assert [row[0][0] for row in table[1:] if row] == logits[:-1].argmax(-1).tolist()
    for many in (types.ModelInput.from_ints([*tokens, 1]), prompt):
        with pytest.raises(tinker.BadRequestError, match="together they exceed the context of 2048 tokens"):
            sampler.sample(many, 1, types.SamplingParams(max_tokens=2), include_prompt_logprobs=True).result()
    with pytest.raises(tinker.BadRequestError, match="together they exceed"):
        sampler.sample(prompt, 1, ONE).result()
    inputs = {"target_tokens": [*tokens[1:], 1], "weights": [1.0] * 2048}
    datum = types.Datum(model_input=prompt, loss_fn_inputs=inputs)  # pyright: ignore[reportArgumentType]
    trainer = service.create_lora_training_client(base_model="tiny", rank=1).result()
    outputs = trainer.forward([datum], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].data
    assert outputs[:-1] == pytest.approx(own, abs=1e-4)


@pytest.mark.conforms(83)
def test_an_ending_is_scored_alone(sampler: tinker.SamplingClient, logprobs: Tensor):
    result = sampler.sample(
        PROMPT, 1, ONE, include_prompt_logprobs=True, topk_prompt_logprobs=2, prompt_logprobs_last_n=4
    ).result()
    own = logprobs.gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0].tolist()
    assert result.prompt_logprobs is not None
    assert result.prompt_logprobs[:-4] == [None] * 26
    assert result.prompt_logprobs[-4:] == pytest.approx(own[-4:], abs=1e-5)
    assert result.topk_prompt_logprobs is not None
    assert [row is None for row in result.topk_prompt_logprobs] == [True] * 26 + [False] * 4
    assert sampler.compute_logprobs(PROMPT, prompt_logprobs_last_n=4).result() == result.prompt_logprobs


@pytest.mark.conforms(83)
def test_dense_targets_are_scored_and_skipped_cells_are_zero(sampler: tinker.SamplingClient, logprobs: Tensor):
    ids = torch.randint(0, 264, (29, 3), generator=torch.Generator().manual_seed(1))
    ids[::2, 1] = -1
    result = sampler.sample(PROMPT, 1, ONE, target_prompt_logprobs=types.TensorData.from_torch(ids)).result()
    assert result.target_prompt_logprobs is not None
    assert result.target_prompt_logprobs.sparse_crow_indices is None
    expected = torch.where(ids < 0, 0.0, logprobs.gather(1, ids.clamp(min=0)))
    torch.testing.assert_close(result.target_prompt_logprobs.to_torch(), expected, atol=1e-5, rtol=0)


@pytest.mark.conforms(83)
def test_sparse_targets_come_back_in_their_layout(sampler: tinker.SamplingClient, logprobs: Tensor):
    ids = torch.full((29, 4), -1)
    for row, column, token in ((3, 0, 0), (3, 3, 9), (28, 1, 263)):
        ids[row, column] = token
    sparse = types.TensorData.from_torch_sparse(ids, pad_value=-1)
    assert sparse.sparse_crow_indices is not None
    result = sampler.sample(PROMPT, 1, ONE, target_prompt_logprobs=sparse).result().target_prompt_logprobs
    assert result is not None
    assert (result.sparse_crow_indices, result.sparse_col_indices, result.shape) == (
        sparse.sparse_crow_indices,
        sparse.sparse_col_indices,
        [29, 4],
    )
    expected = torch.where(ids < 0, 0.0, logprobs.gather(1, ids.clamp(min=0)))
    torch.testing.assert_close(result.to_torch(), expected, atol=1e-5, rtol=0)


@pytest.mark.conforms(83)
def test_alternatives_to_every_prompt_token_are_drawn_and_scored(sampler: tinker.SamplingClient, logprobs: Tensor):
    params = types.SamplingParams(max_tokens=1, temperature=0.8, seed=7)
    drawn = sampler.sample(PROMPT, 1, params, prompt_alt_tokens_k=5).result().prompt_alt_tokens
    assert drawn is not None
    tokens = drawn.tokens.to_torch()
    assert tokens.shape == (29, 5)
    torch.testing.assert_close(drawn.logprobs.to_torch(), logprobs.gather(1, tokens), atol=1e-5, rtol=0)
    assert any(len(set(row)) > 1 for row in tokens.tolist())
    again = sampler.sample(PROMPT, 1, params, prompt_alt_tokens_k=5).result().prompt_alt_tokens
    assert again is not None
    assert again.tokens.to_torch().tolist() == tokens.tolist()


def test_a_prompt_of_one_token_has_no_alternatives(sampler: tinker.SamplingClient):
    result = sampler.sample(types.ModelInput.from_ints([7]), 1, ONE, prompt_alt_tokens_k=2).result()
    assert result.prompt_alt_tokens is not None
    assert result.prompt_alt_tokens.tokens.shape == [0, 2]


# --- what is drawn, and when it ends ---


@pytest.mark.conforms(80, 82)
def test_sampled_logprobs_and_the_likeliest_tokens_beside_them_are_those_of_transformers(
    sampler: tinker.SamplingClient, tiny_model_dir: Path
):
    params = types.SamplingParams(max_tokens=6, seed=1)
    for sequence in sampler.sample(PROMPT, 2, params, topk_sample_logprobs=4).result().sequences:
        logits = transformers_logits(tiny_model_dir, TOKENS + list(sequence.tokens))[len(TOKENS) - 1 : -1]
        expected = torch.log_softmax(logits, dim=-1)
        own = expected.gather(1, torch.tensor(sequence.tokens)[:, None])[:, 0]
        assert sequence.logprobs == pytest.approx(own.tolist(), abs=1e-5)
        best = expected.topk(4)
        assert sequence.topk_logprobs_np is not None
        np.testing.assert_array_equal(sequence.topk_logprobs_np.token_ids, best.indices)
        np.testing.assert_allclose(sequence.topk_logprobs_np.logprobs, best.values, atol=1e-5)


def greedy(sampler: tinker.SamplingClient, **params: object) -> types.SampledSequence:
    given = types.SamplingParams(**({"temperature": 0.0, "max_tokens": 12} | params))  # pyright: ignore
    (sequence,) = sampler.sample(PROMPT, 1, given).result().sequences
    return sequence


@pytest.mark.conforms(85)
def test_temperature_0_takes_the_likeliest_token_each_time(sampler: tinker.SamplingClient, tiny_model_dir: Path):
    tokens = list(greedy(sampler, stop=[]).tokens)
    logits = transformers_logits(tiny_model_dir, TOKENS + tokens)[len(TOKENS) - 1 : -1, :259]
    assert tokens == logits.argmax(dim=-1).tolist()


@pytest.mark.conforms(85)
def test_samples_differ_and_a_seed_repeats_them(sampler: tinker.SamplingClient):
    def drawn(**params: object) -> list[list[int]]:
        given = types.SamplingParams(**({"max_tokens": 12, "stop": []} | params))  # pyright: ignore
        return [list(sequence.tokens) for sequence in sampler.sample(PROMPT, 4, given).result().sequences]

    free = drawn(seed=1)
    assert len({tuple(tokens) for tokens in free}) == 4
    assert drawn(seed=1) == free
    assert drawn(seed=2) != free
    likeliest = [list(greedy(sampler, stop=[]).tokens)] * 4
    assert drawn(top_k=1) == drawn(top_p=1e-6) == likeliest != free


@pytest.mark.conforms(79)
def test_every_sequence_has_an_id_of_its_own(sampler: tinker.SamplingClient):
    results = [sampler.sample(PROMPT, 3, ONE) for _ in range(2)]
    ids = [sequence.sequence_id for result in results for sequence in result.result().sequences]
    assert len(set(ids)) == 6


@pytest.mark.conforms(88)
def test_numbers_of_64_bits_survive(sampler: tinker.SamplingClient):
    """As a copy of a client has them that chose its own number."""
    sampler._cloned_sampler_id = 576_082_545
    sampler._request_id_counter = 576_082_545 * 10**9
    scores = [sampler.compute_logprobs(PROMPT) for _ in range(3)]
    assert len({tuple(score.result()[1:]) for score in scores}) == 1


@pytest.mark.conforms(84)
def test_every_form_of_stop_ends_a_sample_behind_the_stop(sampler: tinker.SamplingClient):
    free = greedy(sampler, stop=[])
    assert (len(free.tokens), free.stop_reason) == (12, "length")
    # The first new token behind the start that stands for a printable character.
    place = next(i for i, token in enumerate(free.tokens) if i > 2 and token < 94 and token not in free.tokens[:i])
    token = free.tokens[place]
    text = chr(token + ord("!"))
    for stop in (text, [text], ["nowhere", text], [token], [3, token]):
        stopped = greedy(sampler, stop=stop)
        assert (list(stopped.tokens), stopped.stop_reason) == (list(free.tokens[: place + 1]), "stop"), stop


def datum(tokens: list[int]) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},  # pyright: ignore
    )


@pytest.fixture(scope="module")
def ending_sampler(server: RunningServer) -> Iterator[tinker.SamplingClient]:
    """Taught to end behind the prompt and two tokens, and to go on with 7 after that."""
    lesson = [*TOKENS, 5, 6, EOS_TOKEN_ID, 7, 7, 7]
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as service:
        trainer = service.create_lora_training_client(base_model="tiny", rank=8, seed=1).result()
        for _ in range(12):
            trainer.forward_backward([datum(lesson)], "cross_entropy")
            trainer.optim_step(types.AdamParams(learning_rate=2e-2)).result()
        yield trainer.save_weights_and_get_sampling_client().result()


@pytest.mark.conforms(84)
@pytest.mark.parametrize("stop", [None, "nowhere", ["nowhere"], [9]])
def test_the_end_of_the_sequence_stops_beside_any_other_stop(ending_sampler: tinker.SamplingClient, stop: object):
    ended = greedy(ending_sampler, stop=stop)
    assert (list(ended.tokens), ended.stop_reason) == ([5, 6, EOS_TOKEN_ID], "stop")


@pytest.mark.conforms(84)
def test_an_empty_stop_list_lets_a_sample_run_past_the_end(ending_sampler: tinker.SamplingClient):
    endless = greedy(ending_sampler, stop=[], max_tokens=6)
    assert (list(endless.tokens), endless.stop_reason) == ([5, 6, EOS_TOKEN_ID, 7, 7, 7], "length")


@pytest.mark.conforms(86)
def test_a_request_that_does_not_fit_is_told_the_numbers(sampler: tinker.SamplingClient):
    with pytest.raises(tinker.BadRequestError, match=r"30 tokens and max_tokens is 2019.*context of 2048 tokens"):
        sampler.sample(PROMPT, 1, types.SamplingParams(max_tokens=2019)).result()
    assert len(sampler.sample(PROMPT, 1, types.SamplingParams(max_tokens=1)).result().sequences) == 1
