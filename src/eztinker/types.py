"""The words every part of EZTinker shares: adapters, data, sampling requests and their results.

Records are frozen and carry numpy arrays, never torch tensors, so that any process can hold them.
Shapes: N = positions of one datum, K = targets per position, T = sampled tokens.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, dataclass_transform

import msgspec
import numpy as np

StopReason = Literal["stop", "length"]

LORA_ALPHA = 32.0
"""Fixed for every rank, as on the hosted service; the protocol has no field for it."""

ABSENT_LOGPROB = -99999.0
"""Fills cells of a top-k table that hold no token; the token beside it is 0."""

KNOWN_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type` of the families the decoder computes; a catalog serves no others."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A value that never changes after it is made; a change is a new record."""


class OperationKind(StrEnum):
    """What an operation does, as the log and the client name it."""

    CREATE_MODEL = "create_model"
    LOAD_WEIGHTS = "load_weights"
    """Reads a checkpoint into a run, a new one or one that is there."""
    FORWARD_BACKWARD = "forward_backward"
    """Also for a pass without gradients."""
    OPTIM_STEP = "optim_step"
    SAVE_WEIGHTS = "save_weights"
    SAVE_WEIGHTS_FOR_SAMPLER = "save_weights_for_sampler"
    SAVE_WEIGHTS_EXTERNAL = "save_weights_external"
    UNLOAD_MODEL = "unload_model"
    SAMPLE = "sample"
    """Changes nothing, so it can be asked for again."""


class CheckpointKind(StrEnum):
    """What a checkpoint holds; the value is its segment in a tinker:// path."""

    TRAINING = "weights"
    """Adapter and optimizer."""
    SAMPLER = "sampler_weights"
    """Adapter alone."""
    EXTERNAL = "external_weights"
    """Adapter as a PEFT folder, for other programs."""


class LoraSpec(Record):
    """Which weights of a base model an adapter changes, and with how much room."""

    rank: int
    seed: int
    """Draws the A matrices; B starts at zero, so a fresh adapter changes nothing."""
    alpha: float = LORA_ALPHA
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True


class AdamParams(Record):
    """Hyperparameters of one AdamW step; only the moments and the step count outlive it."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    """Largest global L2 norm of the gradient; 0 means no clipping."""


class Datum(Record):
    """One training example. `loss_fn_inputs` are dense: (N,) or, for cross_entropy, (N, K)."""

    tokens: np.ndarray
    """int64 (N,): what the model reads."""
    loss_fn_inputs: dict[str, np.ndarray]
    """`target_tokens` as int64, everything else as float32."""


class SamplingParams(Record):
    """How to draw one completion."""

    max_tokens: int
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int = -1
    """-1 keeps all tokens."""
    top_p: float = 1.0
    seed: int | None = None
    """None: the server draws one."""
    stop_token_ids: tuple[int, ...] = ()
    """Any of these ends the completion and stays in it, the model's end-of-sequence tokens included."""
    stop_strings: tuple[str, ...] = ()
    """Text that ends the completion once it has appeared; it may cross token borders, and stays in it."""


class PromptTargets(Record):
    """Tokens to score where a prompt might have gone on with them. C = cells, one token at one position each."""

    positions: np.ndarray
    """int64 (C,), each from 1 to N - 1: the token is judged from the prompt before that position."""
    tokens: np.ndarray
    """int64 (C,)"""


class SampleRequest(Record):
    """Several completions of one prompt, which is read once for all of them, and what to tell about the prompt."""

    prompt: np.ndarray
    """int64 (N,), at least one token."""
    num_samples: int
    params: SamplingParams
    topk_sample_logprobs: int = 0
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    first_scored: int = 1
    """Position from which the two above are wanted."""
    target_prompt_logprobs: PromptTargets | None = None
    prompt_alt_tokens_k: int = 0
    """Tokens to draw at each position from 1 on, as alternatives to the prompt's own."""


class TopkLogprobs(Record):
    """The k likeliest tokens at each of N positions; cells without a token hold 0 and ABSENT_LOGPROB."""

    token_ids: np.ndarray
    """int32 (N, k)."""
    logprobs: np.ndarray
    """float32 (N, k), sorted from the likeliest."""


class SampledSequence(Record):
    tokens: np.ndarray
    """int32 (T,), the stop token included."""
    logprobs: np.ndarray
    """float32 (T,), natural log, under the tempered distribution before top-k and top-p."""
    stop_reason: StopReason
    topk_logprobs: TopkLogprobs | None = None
    """T rows, under the same distribution."""


class PromptAltTokens(Record):
    """Independent draws at every prompt position from 1 on, at the request's temperature alone."""

    tokens: np.ndarray
    """int32 (N - 1, k)."""
    logprobs: np.ndarray
    """float32 (N - 1, k), untempered."""


class SampleResult(Record):
    sequences: list[SampledSequence]
    prompt_logprobs: np.ndarray | None = None
    """float32 (N,), untempered; NaN at position 0 and wherever none was wanted."""
    topk_prompt_logprobs: TopkLogprobs | None = None
    """N rows, untempered."""
    target_prompt_logprobs: np.ndarray | None = None
    """float32 (C,), untempered, one for each of the request's targets."""
    prompt_alt_tokens: PromptAltTokens | None = None
    prompt_cache_hit_tokens: int = 0


class ForwardBackwardResult(Record):
    loss_fn_outputs: list[dict[str, np.ndarray]]
    """One per datum, in order; `logprobs` has the shape of that datum's `target_tokens`."""
    metrics: dict[str, float]
    """Names are `name:reduction`; `loss:sum` is always there."""


class OptimStepResult(Record):
    metrics: dict[str, float]


class CheckpointWritten(Record):
    size_bytes: int
    step: int
    """Optimizer steps behind the saved weights."""


class AdapterState(Record):
    """What a training run is after it was created or loaded."""

    lora: LoraSpec
    base_model: str
    step: int


class Page(Record):
    """A stretch of a longer list."""

    offset: int
    limit: int


class EngineStatus(Record):
    """What the engine is doing, for queue states and dashboards."""

    running_samples: int = 0
    waiting_samples: int = 0
    waiting_operations: int = 0
    shares: dict[str, float] = {}
    """Part of the working time since the last status that each share had; those that had work lately are there."""
