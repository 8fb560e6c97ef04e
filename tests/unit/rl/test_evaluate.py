import numpy as np
import pytest

from eztinker.rl.evaluate import wilson_interval

Z = 1.959963984540054


@pytest.mark.parametrize(("num_right", "num_trials"), [(21, 200), (1, 3), (150, 300), (299, 300)])
def test_the_wilson_interval_is_where_the_score_test_is_at_its_limit(num_right: int, num_trials: int):
    """Its ends are the roots of (share - p)^2 = z^2 p (1 - p) / n, which the quadratic formula does not know about."""
    share = num_right / num_trials
    roots = np.roots([1 + Z**2 / num_trials, -2 * share - Z**2 / num_trials, share**2])
    assert wilson_interval(num_right, num_trials) == pytest.approx(sorted(roots))


def test_the_wilson_interval_agrees_with_a_published_one():
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81 of 263 and 0 of 20."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_no_trials_tell_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("num_trials", [1, 7, 30, 300])
def test_an_interval_ends_exactly_at_0_and_at_1(num_trials: int):
    """Computed, its end was 2.77e-17 for 30 wrong answers."""
    assert wilson_interval(0, num_trials)[0] == 0.0
    assert wilson_interval(num_trials, num_trials)[1] == 1.0
