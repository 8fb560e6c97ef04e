"""Sample requests as the official SDK sends them, and results as it reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from tinker.proto.response_conv import deserialize_sample_response
from tinker.types import ModelInput, SamplingParams
from tinker.types.sample_request import SampleRequest as SdkRequest

from eztinker.errors import InvalidInput, Unsupported
from eztinker.protocol.sampling_codec import decode_request, encode_result, result_as_json
from eztinker.types import SampledSequence, SampleResult, TopkLogprobs

RESULT = SampleResult(
    sequences=[
        SampledSequence(
            tokens=np.array([7, 8], np.int32), logprobs=np.array([-0.5, -0.25], np.float32), stop_reason="stop"
        ),
        SampledSequence(tokens=np.array([9], np.int32), logprobs=np.array([-1.0], np.float32), stop_reason="length"),
    ],
    prompt_logprobs=np.array([np.nan, -2.0], np.float32),
    topk_prompt_logprobs=TopkLogprobs(
        token_ids=np.array([[0, 0], [4, 5]], np.int32),
        logprobs=np.array([[-99999.0, -99999.0], [-0.5, -1.5]], np.float32),
    ),
)


def sdk_body(**fields: Any) -> bytes:
    request = SdkRequest(
        prompt=ModelInput.from_ints([1, 2, 3]),
        sampling_params=SamplingParams(max_tokens=5, stop=fields.pop("stop", None)),
        sampling_session_id="s",
        seq_id=576082545000000000,
        **fields,
    )
    return orjson.dumps(request.model_dump(exclude_none=True, mode="json"))


def test_a_request_of_the_sdk_is_read_field_by_field():
    request = decode_request(sdk_body(num_samples=3, prompt_logprobs=True, topk_prompt_logprobs=4))
    assert request.prompt.tolist() == [1, 2, 3]
    assert request.seq_id == 576082545000000000
    assert (request.num_samples, request.prompt_logprobs, request.topk_prompt_logprobs) == (3, True, 4)
    assert request.params.max_tokens == 5
    assert request.params.stop is None


@pytest.mark.parametrize("stop", ["\n", ["a", "b"], [256, 7], []])
def test_every_form_of_stop_is_read(stop: Any):
    assert decode_request(sdk_body(stop=stop)).params.stop == stop


@pytest.mark.parametrize(("field", "value"), [("base_model", "tiny"), ("model_path", "tinker://a/b/c")])
def test_features_that_are_not_there_are_refused_by_name(field: str, value: Any):
    with pytest.raises(Unsupported, match=field):
        decode_request(sdk_body(**{field: value}))


def test_a_field_of_the_wrong_type_is_named():
    body = orjson.loads(sdk_body()) | {"num_samples": "many"}
    with pytest.raises(InvalidInput, match="num_samples"):
        decode_request(orjson.dumps(body))


def test_the_sdk_reads_sequences_and_prompt_logprobs():
    response = deserialize_sample_response(encode_result(RESULT))
    first, second = response.sequences
    assert (list(first.tokens), first.stop_reason) == ([7, 8], "stop")
    assert first.logprobs is not None
    assert list(first.logprobs) == [-0.5, -0.25]
    assert (list(second.tokens), second.stop_reason) == ([9], "length")
    assert response.prompt_logprobs == [None, -2.0]
    assert response.topk_prompt_logprobs == [None, [(4, -0.5), (5, -1.5)]]


def test_older_clients_read_the_result_as_json():
    assert orjson.loads(orjson.dumps(result_as_json(encode_result(RESULT)))) == {
        "sequences": [
            {"stop_reason": "stop", "tokens": [7, 8], "logprobs": [-0.5, -0.25]},
            {"stop_reason": "length", "tokens": [9], "logprobs": [-1.0]},
        ],
        "prompt_logprobs": [None, -2.0],
        "topk_prompt_logprobs": [None, [[4, -0.5], [5, -1.5]]],
    }
