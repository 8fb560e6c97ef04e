from pathlib import Path
from typing import Any

import pytest

from eztinker.errors import InvalidInput, NotFound
from eztinker.rl import RejectionSFTConfig
from eztinker.rl.config import EMBEDDED_MODEL, Recipe, choose_base_model

SERVED = ["org/large", EMBEDDED_MODEL]


def recipe(**settings: Any) -> Recipe:
    return Recipe.of(RejectionSFTConfig(**settings), SERVED)


def test_the_embedded_model_gets_arithmetic_and_others_gsm8k():
    assert (recipe().base_model, recipe().dataset) == (EMBEDDED_MODEL, "arithmetic")
    assert recipe(base_model="org/large").dataset == "gsm8k"
    assert recipe(dataset="gsm8k").dataset == "gsm8k"


def test_what_is_left_open_comes_from_the_data_set_and_what_is_said_stays():
    assert (recipe().max_new_tokens, recipe().eval_size) == (24, 300)
    assert recipe(dataset="gsm8k").max_new_tokens > 200
    assert recipe(max_new_tokens=7, learning_rate=0.5).max_new_tokens == 7
    assert recipe(max_new_tokens=7, learning_rate=0.5).learning_rate == 0.5


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rounds", 0), ("num_candidates", -1), ("lora_rank", 0), ("eval_size", 0), ("temperature", 0.0),
        ("temperature", float("nan")), ("learning_rate", -1e-3), ("learning_rate", float("nan")), ("dataset", "mmlu"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_by_name_and_value(setting: str, value: Any):
    with pytest.raises(InvalidInput, match=f"{setting} must be .* got '?{value}"):
        RejectionSFTConfig(**{setting: value})


def test_a_model_that_is_not_served_is_refused_with_those_that_are():
    with pytest.raises(NotFound, match=f"does not serve org/other; it serves org/large, {EMBEDDED_MODEL}"):
        choose_base_model("org/other", SERVED)
    with pytest.raises(NotFound, match="serves no model"):
        choose_base_model(None, [])
    assert choose_base_model(None, ["org/large"]) == "org/large"


def test_runs_with_different_settings_have_different_directories():
    changes: list[dict[str, Any]] = [{}, {"seed": 1}, {"filter": False}, {"learning_rate": 0.1}, {"lora_rank": 1}]
    assert len({recipe(**change).output_dir for change in changes}) == len(changes)


def test_more_rounds_continue_in_the_same_directory():
    assert recipe(rounds=2).output_dir == recipe(rounds=5, checkpoint=True).output_dir
    assert recipe(output_dir=Path("here")).output_dir == Path("here")
