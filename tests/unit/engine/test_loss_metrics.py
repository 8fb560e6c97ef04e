"""The metrics of policy losses against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eztinker.engine.loss_metrics import policy_metrics
from eztinker.loss_specs import LOSS_SPECS
from eztinker.types import Datum

OURS = np.array([-1.0, -2.0, -0.5, -3.0, -1.0], dtype=np.float32)
RATIOS = np.array([1.5, 0.5, 1.5, 0.5, 7.0])
A = np.array([1.0, 1.0, -2.0, -2.0, 0.0], dtype=np.float32)
"""Two tokens with a gain, two with a loss, each with a high and a low ratio; the last does not count."""


def datum(**inputs: np.ndarray) -> Datum:
    given = {
        "target_tokens": np.arange(5),
        "logprobs": (OURS - np.log(RATIOS)).astype(np.float32),
        "advantages": A,
        "sequence_ratio_mask": np.ones(5, np.float32),
    }
    return Datum(tokens=np.arange(5), loss_fn_inputs=given | inputs)


def metrics(loss_fn: str, *data: Datum, **config: float) -> dict[str, float]:
    complete = {**LOSS_SPECS[loss_fn].defaults, **config}
    return policy_metrics(loss_fn, complete, data, [OURS] * len(data))


def test_gap_and_divergence_follow_their_definitions():
    found = metrics("importance_sampling", datum())
    r = RATIOS[:4]
    assert found == {
        "sampler_trainer_gap:max": pytest.approx(math.log(2.0), rel=1e-5),
        "sampler_trainer_gap:mean": pytest.approx(np.abs(np.log(r)).mean(), rel=1e-5),
        "sampler_trainer_kl_k1:mean": pytest.approx(-np.log(r).mean(), rel=1e-5),
        "sampler_trainer_kl_k3:mean": pytest.approx((r - 1 - np.log(r)).mean(), rel=1e-5),
    }


def test_both_divergences_approach_the_true_one_over_samples_of_the_sampler():
    generator = np.random.default_rng(0)
    sampler, trainer = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    drawn = generator.choice(3, size=200_000, p=sampler)
    data = Datum(
        tokens=drawn,
        loss_fn_inputs={"logprobs": np.log(sampler)[drawn], "advantages": np.ones(len(drawn))},
    )
    found = policy_metrics("importance_sampling", {}, [data], [np.log(trainer)[drawn]])
    truth = (sampler * np.log(sampler / trainer)).sum()
    for estimate in ("k1", "k3"):
        assert found[f"sampler_trainer_kl_{estimate}:mean"] == pytest.approx(truth, abs=2e-3)


def test_ppo_counts_gains_clipped_from_above_and_losses_clipped_from_below():
    assert metrics("ppo", datum())["clipped_fraction:mean"] == 0.5
    assert metrics("ppo", datum(), clip_high_threshold=2.0)["clipped_fraction:mean"] == 0.25
    assert metrics("ppo", datum(), clip_low_threshold=0.1, clip_high_threshold=9.0)["clipped_fraction:mean"] == 0.0


def test_cispo_counts_every_ratio_beyond_a_threshold():
    assert metrics("cispo", datum(), clip_low_threshold=0.8, clip_high_threshold=1.2)["clipped_fraction:mean"] == 1.0
    assert metrics("cispo", datum())["clipped_fraction:mean"] == 0.0


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.4, 2.0, 0.0), (0.6, 2.0, 0.5), (0.4, 1.4, 0.5), (0.6, 1.4, 1.0)]
)
def test_stable_reinforce_counts_every_token_it_masks(low: float, high: float, expected: float):
    found = metrics("stable_reinforce", datum(), clip_low_threshold=low, clip_high_threshold=high)
    assert found["clipped_fraction:mean"] == expected


def test_gspo_counts_whole_sequences():
    only_high = np.array([1, 0, 1, 0, 0], np.float32)  # the sequence's ratio is 1.5: gains are clipped
    assert metrics("gspo", datum(sequence_ratio_mask=only_high))["clipped_fraction:mean"] == 0.5
    assert metrics("gspo", datum(sequence_ratio_mask=np.zeros(5)))["clipped_fraction:mean"] == 0.0


def test_data_are_weighed_by_their_tokens():
    alone = datum(advantages=np.array([0, 0, 0, 0, 1], np.float32))
    assert metrics("ppo", datum(), alone)["clipped_fraction:mean"] == pytest.approx(3 / 5)


def test_numbers_stay_finite_however_far_apart_the_two_are():
    found = metrics("ppo", datum(logprobs=np.full(5, -1e30, np.float32)))
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.conforms(58)
@pytest.mark.parametrize("name", [f"{loss}" for loss in LOSS_SPECS if loss != "cross_entropy"])
def test_names_have_one_colon_and_a_known_reduction(name: str):
    for metric in metrics(name, datum()):
        assert metric.count(":") == 1
        assert metric.partition(":")[2] in ("max", "mean")


def test_nothing_is_reported_where_nothing_counts():
    assert metrics("ppo", datum(advantages=np.zeros(5))) == {}
    plain = Datum(tokens=np.arange(5), loss_fn_inputs={"target_tokens": np.arange(5), "weights": np.ones(5)})
    assert metrics("cross_entropy", plain) == {}
