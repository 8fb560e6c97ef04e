import pytest

from eztinker.errors import InvalidInput
from eztinker.rl.training import Example, build_datum


def test_the_loss_is_on_the_completion_and_the_stop_token_only():
    datum = build_datum(Example(prompt_tokens=[10, 11, 12], completion_tokens=[20, 21]), stop_token_id=99)
    assert datum.model_input.to_ints() == [10, 11, 12, 20, 21]
    assert datum.loss_fn_inputs["target_tokens"].to_numpy().tolist() == [11, 12, 20, 21, 99]
    assert datum.loss_fn_inputs["weights"].to_numpy().tolist() == [0, 0, 1, 1, 1]


def test_an_empty_completion_still_teaches_to_stop():
    datum = build_datum(Example(prompt_tokens=[10], completion_tokens=[]), stop_token_id=99)
    assert datum.loss_fn_inputs["target_tokens"].to_numpy().tolist() == [99]
    assert datum.loss_fn_inputs["weights"].to_numpy().tolist() == [1]


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(InvalidInput, match="at least one token"):
        build_datum(Example(prompt_tokens=[], completion_tokens=[20]), stop_token_id=99)
