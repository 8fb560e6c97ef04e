"""Sample requests as the engine takes them: checked, with defaults that depend on the base model filled in."""

from __future__ import annotations

import math

from eztinker.base_models.catalog import BaseModel
from eztinker.errors import ContextExceeded, InvalidInput
from eztinker.protocol.prompt_targets import FIELD as TARGETS
from eztinker.protocol.sampling_codec import SamplingParamsBody, WireSampleRequest
from eztinker.service.validation import MAX_SEED, check_seq_id, check_tokens
from eztinker.types import PromptTargets, SampleRequest, SamplingParams

MAX_NUM_SAMPLES = 1024
MAX_TOPK = 128
"""Widest table of likeliest tokens, and most tokens drawn at a position."""
MAX_RESULT_CELLS = 1 << 24
"""Tokens with a logprob in one result: 128 MiB."""
MIN_TEMPERATURE = 1e-20
"""Lowest temperature above 0, as logits divided by less may not be finite; 0 takes the likeliest token."""
MAX_STOPS = 64
MAX_STOP_BYTES = 1024


def engine_request(wire: WireSampleRequest, base_model: BaseModel) -> SampleRequest:
    """Check `wire` and fill in the defaults of this base model.

    Raises:
        InvalidInput: a value is out of its range.
        ContextExceeded: prompt and max_tokens do not fit the model's context.
    """
    check_seq_id(wire.seq_id)
    _check_range("num_samples", wire.num_samples, 1, MAX_NUM_SAMPLES)
    for name in ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k"):
        _check_range(name, getattr(wire, name), 0, MAX_TOPK)
    if not len(wire.prompt):
        raise InvalidInput("The prompt must have at least one token", field="prompt")
    check_tokens("prompt", wire.prompt, base_model)
    params = _params(wire.params, _max_tokens(wire, base_model), base_model)
    num_cells = wire.num_samples * params.max_tokens * wire.topk_sample_logprobs
    if num_cells > MAX_RESULT_CELLS:
        raise InvalidInput(
            f"topk_sample_logprobs for {wire.num_samples} samples of up to {params.max_tokens} tokens may come to "
            f"{num_cells} numbers, more than {MAX_RESULT_CELLS}; ask for fewer samples, tokens or alternatives",
            field="topk_sample_logprobs",
        )
    return SampleRequest(
        prompt=wire.prompt,
        num_samples=wire.num_samples,
        params=params,
        topk_sample_logprobs=wire.topk_sample_logprobs,
        prompt_logprobs=wire.prompt_logprobs,
        topk_prompt_logprobs=wire.topk_prompt_logprobs,
        first_scored=_first_scored(wire),
        target_prompt_logprobs=_targets(wire, base_model),
        prompt_alt_tokens_k=wire.prompt_alt_tokens_k,
    )


def _first_scored(wire: WireSampleRequest) -> int:
    """The first prompt position whose logprob is wanted; the first token of all has none."""
    last_n = wire.prompt_logprobs_last_n
    if last_n is None:
        return 1
    if not wire.prompt_logprobs:
        raise InvalidInput("prompt_logprobs_last_n needs prompt_logprobs", field="prompt_logprobs_last_n")
    _check_range("prompt_logprobs_last_n", last_n, 1, len(wire.prompt) - 1)
    return len(wire.prompt) - last_n


def _targets(wire: WireSampleRequest, base_model: BaseModel) -> PromptTargets | None:
    tensor = wire.target_prompt_logprobs
    if tensor is None:
        return None
    if tensor.shape[0] != len(wire.prompt) - 1:
        raise InvalidInput(
            f"{TARGETS} must have a row for each prompt token after the first, {len(wire.prompt) - 1}, "
            f"got shape {list(tensor.shape)}",
            field=TARGETS,
        )
    cells = tensor.cells()
    if not len(cells.tokens):
        raise InvalidInput(f"{TARGETS} must name at least one token; -1 asks for nothing", field=TARGETS)
    check_tokens(TARGETS, cells.tokens, base_model)
    return cells


def _params(params: SamplingParamsBody, max_tokens: int, base_model: BaseModel) -> SamplingParams:
    if params.temperature != 0 and not MIN_TEMPERATURE <= params.temperature < math.inf:
        raise InvalidInput(
            f"temperature must be 0 or a positive number of at least {MIN_TEMPERATURE}, got {params.temperature}",
            field="temperature",
        )
    if not 0 < params.top_p <= 1:
        raise InvalidInput(f"top_p must be above 0 and at most 1, got {params.top_p}", field="top_p")
    if params.top_k != -1:
        _check_range("top_k", params.top_k, 1, 2**31 - 1)
    if params.seed is not None:
        _check_range("seed", params.seed, -MAX_SEED - 1, MAX_SEED)
    stop_token_ids, stop_strings = _stops(params.stop, base_model)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        seed=params.seed,
        stop_token_ids=stop_token_ids,
        stop_strings=stop_strings,
    )


def _max_tokens(wire: WireSampleRequest, base_model: BaseModel) -> int:
    """Tokens to draw at most: as many as asked for, or else the rest of the context."""
    max_tokens, num_prompt_tokens = wire.params.max_tokens, len(wire.prompt)
    if max_tokens is not None and max_tokens < 1:
        raise InvalidInput(f"max_tokens must be at least 1, got {max_tokens}", field="max_tokens")
    room = base_model.context_length - num_prompt_tokens
    if room == 0 and _is_scored(wire):
        # Clients that want scores alone have to ask for a token too. It takes no position, since nothing follows it.
        room = 1
    if (max_tokens or 1) > room:
        raise ContextExceeded(
            f"The prompt has {num_prompt_tokens} tokens and max_tokens is {max_tokens or 1}; together they exceed the "
            f"context of {base_model.context_length} tokens of {base_model.name}",
            field="max_tokens",
        )
    return max_tokens or room


def _is_scored(wire: WireSampleRequest) -> bool:
    """Whether the request asks about the prompt itself."""
    wants_numbers = wire.prompt_logprobs or bool(wire.topk_prompt_logprobs) or bool(wire.prompt_alt_tokens_k)
    return wants_numbers or wire.target_prompt_logprobs is not None


def _stops(stop: str | list[str | int] | None, base_model: BaseModel) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Read the stop tokens and stop strings of a request.

    The end-of-sequence tokens always stop, beside whatever was asked for: a renderer's stop list names the end of a
    turn, and text after the end of the sequence means nothing. Only an empty list turns all stops off.
    """
    if stop == []:
        return (), ()
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS:
        raise InvalidInput(f"stop may list {MAX_STOPS} entries, got {len(stops)}", field="stop")
    token_ids = [entry for entry in stops if isinstance(entry, int)]
    for token_id in token_ids:
        _check_range("stop token", token_id, 0, base_model.vocab_size - 1)
    strings = tuple(entry for entry in stops if isinstance(entry, str))
    if any(not 1 <= len(string.encode(errors="surrogatepass")) <= MAX_STOP_BYTES for string in strings):
        raise InvalidInput(f"A stop string must have 1 to {MAX_STOP_BYTES} bytes", field="stop")
    return tuple(dict.fromkeys([*token_ids, *base_model.eos_token_ids])), strings


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"{name} must be between {low} and {high}, got {value}", field=name)
