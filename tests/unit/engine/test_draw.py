"""Drawing tokens: frequencies follow the distribution, truncation keeps what it should, logprobs are tempered."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from eztinker.engine.draw import draw, likeliest
from eztinker.model import device
from eztinker.model.device import own_kernels
from eztinker.service.sampling.sampling_requests import MIN_TEMPERATURE
from eztinker.types import SamplingParams

PROBS = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
LOGITS = torch.tensor(np.log(PROBS), dtype=torch.float32) + 3.0


@pytest.fixture(params=["own kernels", "torch alone"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that tokens are drawn with."""
    if request.param == "torch alone":
        monkeypatch.setattr(device, "cpu_kernels", lambda _: None)


def params(temperature: float = 1.0, top_k: int = -1, top_p: float = 1.0) -> SamplingParams:
    return SamplingParams(max_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p)


def spread(each: SamplingParams, num_draws: int = 1000, num_tokens: int = 5) -> np.ndarray:
    """Share of each token when the uniforms are spread evenly over [0, 1): the exact distribution, up to a step."""
    uniforms = (np.arange(num_draws) + 0.5) / num_draws
    tokens, _ = draw(LOGITS.repeat(num_draws, 1), [each] * num_draws, uniforms.tolist(), num_tokens)
    return np.bincount(tokens, minlength=5) / num_draws


def test_frequencies_are_the_softmax():
    np.testing.assert_allclose(spread(params()), PROBS, atol=2e-3)


def test_temperature_sharpens():
    sharpened = PROBS**2 / (PROBS**2).sum()
    np.testing.assert_allclose(spread(params(temperature=0.5)), sharpened, atol=2e-3)


@pytest.mark.conforms(85)
def test_top_k_keeps_the_k_likeliest():
    np.testing.assert_allclose(spread(params(top_k=2)), [4 / 7, 3 / 7, 0, 0, 0], atol=2e-3)


@pytest.mark.conforms(85)
def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    np.testing.assert_allclose(spread(params(top_p=0.69)), [4 / 7, 3 / 7, 0, 0, 0], atol=2e-3)
    np.testing.assert_allclose(spread(params(top_p=0.71)), np.array([0.4, 0.3, 0.15, 0, 0]) / 0.85, atol=2e-3)


@pytest.mark.parametrize("top_p", [1e-6, 1e-46, 5e-324])
def test_a_tiny_top_p_still_keeps_the_likeliest(top_p: float):
    """The last two are 0 as float32: nothing used to be left, and token 0 was drawn with a logprob of -inf."""
    logits = torch.tensor(np.log(PROBS[::-1].copy()), dtype=torch.float32)
    tokens, logprobs = draw(logits[None], [params(top_p=top_p)], [0.5], 5)
    assert tokens == [4]
    assert logprobs == [pytest.approx(math.log(0.4), abs=1e-6)]


def test_the_lowest_temperature_is_almost_greedy_and_finite():
    logits = torch.tensor([[-1e3, 1e3, 0.0]])
    assert draw(logits, [params(temperature=MIN_TEMPERATURE)], [0.999], 3) == ([1], [0.0])


def test_top_p_applies_to_what_top_k_left():
    # Of the renormalised 4/7 and 3/7, one token reaches 0.5.
    np.testing.assert_array_equal(spread(params(top_k=2, top_p=0.5)), [1, 0, 0, 0, 0])


def test_padding_of_the_vocabulary_is_never_drawn():
    assert spread(params(), num_tokens=3)[3:].sum() == 0
    tokens, _ = draw(torch.tensor([[0.0, 1.0, 9.0]]), [params(temperature=0)], [0.0], num_tokens=2)
    assert tokens == [1]


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, 1e-6, 0.01, 0.2, 0.0])
@pytest.mark.parametrize("kind", [{}, {"top_k": 3}, {"top_p": 0.9}, {"top_k": 4, "top_p": 0.9}])
def test_padding_with_the_greatest_logit_takes_no_weight_from_what_can_be_drawn(
    temperature: float, kind: dict[str, Any]
):
    """All weights used to underflow beside the padding's, and id 0 was drawn."""
    logits = torch.cat([LOGITS.flip(0), torch.tensor([50.0, -3.0])])
    each = params(temperature=temperature, **kind)
    tokens, logprobs = draw(logits.repeat(200, 1), [each] * 200, [(n + 0.5) / 200 for n in range(200)], 5)
    tempered = logits.double() / (temperature or 1)
    share = float(torch.softmax(tempered[:5], dim=-1)[4]) if temperature else 1.0
    assert abs(tokens.count(4) - 200 * share) <= 12  # top-k and top-p leave out what is less likely
    assert max(tokens) == 4
    exact = tempered.log_softmax(-1)
    np.testing.assert_allclose(logprobs, exact[tokens], rtol=1e-6, atol=1e-5)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_only_what_can_be_drawn_sets_the_frequencies(temperature: float):
    logits = torch.cat([LOGITS, torch.tensor([8.0, 60.0])])
    num_draws = 2000
    uniforms = [(n + 0.5) / num_draws for n in range(num_draws)]
    tokens, _ = draw(logits.repeat(num_draws, 1), [params(temperature=temperature)] * num_draws, uniforms, 5)
    expected = PROBS ** (1 / temperature) / (PROBS ** (1 / temperature)).sum()
    np.testing.assert_allclose(np.bincount(tokens, minlength=5) / num_draws, expected, atol=2e-3)


@pytest.mark.usefixtures("operators")
def test_the_table_of_the_likeliest_gives_the_drawn_token_the_logprob_it_was_drawn_with():
    logits = 3 * torch.randn(6, 700, generator=torch.Generator().manual_seed(0))
    kinds = [params(), params(temperature=0), params(temperature=0.3, top_k=2), params(top_p=0.5)] * 2
    tokens, logprobs = draw(logits, kinds[:6], [0.3, 0.5, 0.1, 0.9, 0.7, 0.2], 690)
    table = likeliest(logits, kinds[:6], 690, 700)
    for row, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
        (cell,) = np.flatnonzero(table.token_ids[row] == token)
        assert table.logprobs[row, cell] == pytest.approx(logprob, abs=0 if own_kernels(logits) else 1e-5)


def test_logprobs_are_of_the_tempered_distribution_before_truncation():
    tokens, logprobs = draw(LOGITS.repeat(1, 1), [params(temperature=2.0, top_k=1)], [0.3], 5)
    expected = math.log(PROBS[0] ** 0.5 / (PROBS**0.5).sum())
    assert tokens == [0]
    np.testing.assert_allclose(logprobs, [expected], rtol=1e-5)


def test_greedy_takes_the_likeliest_and_reports_it_untempered():
    tokens, logprobs = draw(LOGITS.repeat(1, 1), [params(temperature=0)], [0.99], 5)
    assert tokens == [0]
    np.testing.assert_allclose(logprobs, [math.log(0.4)], rtol=1e-5)


def test_rows_of_different_kinds_do_not_disturb_each_other():
    kinds = [params(), params(temperature=0), params(top_k=1), params(temperature=0.5)]
    uniforms = [0.95, 0.95, 0.95, 0.95]
    together, logprobs = draw(LOGITS.repeat(4, 1), kinds, uniforms, 5)
    for row, kind in enumerate(kinds):
        alone, logprob = draw(LOGITS.repeat(1, 1), [kind], [0.95], 5)
        assert (together[row], logprobs[row]) == (alone[0], logprob[0])


def test_the_largest_uniform_never_lands_on_a_token_without_probability():
    logits = torch.full((1, 50_000), -math.inf)
    logits[0, :7] = torch.linspace(0, 1, 7)
    tokens, _ = draw(logits, [params()], [1 - 2**-53], 50_000)
    assert tokens[0] <= 6
