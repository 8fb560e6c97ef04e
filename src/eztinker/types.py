"""Records that every part of EZTinker shares: adapters, data, sampling requests and their results.

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
"""LoRA alpha, the same for every rank, as on the hosted service; the protocol has no field for it."""

ABSENT_LOGPROB = -99999.0
"""Logprob in cells of a top-k table that hold no token; the token id there is 0."""

KNOWN_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model families that the decoder supports, by `model_type`; a catalog serves no others."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A value that never changes after it is made; a change is a new record."""


class OperationKind(StrEnum):
    """Kinds of operations, as the log and the client name them."""

    CREATE_MODEL = "create_model"
    LOAD_WEIGHTS = "load_weights"
    """Load a checkpoint into a new or an existing run."""
    FORWARD_BACKWARD = "forward_backward"
    """Run a pass, with or without gradients."""
    OPTIM_STEP = "optim_step"
    SAVE_WEIGHTS = "save_weights"
    SAVE_WEIGHTS_FOR_SAMPLER = "save_weights_for_sampler"
    SAVE_WEIGHTS_EXTERNAL = "save_weights_external"
    UNLOAD_MODEL = "unload_model"
    SAMPLE = "sample"
    """Draw samples, which changes no state, so that a client can retry it."""


class CheckpointKind(StrEnum):
    """Kinds of checkpoints; the value is their segment in a tinker:// path."""

    TRAINING = "weights"
    """Adapter and optimizer."""
    SAMPLER = "sampler_weights"
    """Adapter alone."""
    EXTERNAL = "external_weights"
    """Adapter as a PEFT folder, for other programs."""


class LoraSpec(Record):
    """Shape of an adapter: its rank, and the weights of the base model that it changes."""

    rank: int
    seed: int
    """Seed of the A matrices; B starts at zero, so a fresh adapter changes nothing."""
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
    """Input token ids, int64 (N,)."""
    loss_fn_inputs: dict[str, np.ndarray]
    """Inputs of the loss by name: `target_tokens` is int64, everything else float32."""


class SamplingParams(Record):
    """Parameters for drawing one completion."""

    max_tokens: int
    temperature: float = 1.0
    """Sampling temperature; 0 takes the most likely token."""
    top_k: int = -1
    """Number of the most likely tokens to draw from; -1 for all."""
    top_p: float = 1.0
    seed: int | None = None
    """Seed of the random generator; None lets the server draw one."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the completion and stay in it, the model's end-of-sequence tokens included."""
    stop_strings: tuple[str, ...] = ()
    """Text that ends the completion once it has appeared; it may cross token borders, and stays in it."""


class PromptTargets(Record):
    """Tokens to score as alternatives at prompt positions. C = cells, one token at one position each."""

    positions: np.ndarray
    """Positions, int64 (C,), each from 1 to N - 1; the token is scored given the prompt before that position."""
    tokens: np.ndarray
    """Token ids, int64 (C,)."""


class SampleRequest(Record):
    """A request for several completions of one prompt, which is read once for all of them, and for its scores."""

    prompt: np.ndarray
    """Token ids, int64 (N,), at least one."""
    num_samples: int
    params: SamplingParams
    topk_sample_logprobs: int = 0
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    first_scored: int = 1
    """First position for which `prompt_logprobs` and `topk_prompt_logprobs` are wanted."""
    target_prompt_logprobs: PromptTargets | None = None
    prompt_alt_tokens_k: int = 0
    """Number of tokens to draw at each position from 1 on, as alternatives to the prompt's own."""


class TopkLogprobs(Record):
    """The k likeliest tokens at each of N positions; cells without a token hold 0 and ABSENT_LOGPROB."""

    token_ids: np.ndarray
    """Token ids, int32 (N, k), likeliest first."""
    logprobs: np.ndarray
    """Log-probabilities in nats, float32 (N, k)."""


class SampledSequence(Record):
    tokens: np.ndarray
    """Token ids, int32 (T,), the stop token included."""
    logprobs: np.ndarray
    """Log-probabilities in nats, float32 (T,), under the tempered distribution before top-k and top-p."""
    stop_reason: StopReason
    topk_logprobs: TopkLogprobs | None = None
    """Likeliest tokens, T rows, under the same distribution as `logprobs`."""


class PromptAltTokens(Record):
    """Independent draws at every prompt position from 1 on, at the request's temperature alone."""

    tokens: np.ndarray
    """Token ids, int32 (N - 1, k)."""
    logprobs: np.ndarray
    """Untempered log-probabilities in nats, float32 (N - 1, k)."""


class SampleResult(Record):
    sequences: list[SampledSequence]
    prompt_logprobs: np.ndarray | None = None
    """Untempered logprobs of the prompt's tokens, float32 (N,); NaN at position 0 and where none was wanted."""
    topk_prompt_logprobs: TopkLogprobs | None = None
    """Likeliest tokens at each prompt position, N rows, untempered."""
    target_prompt_logprobs: np.ndarray | None = None
    """Untempered logprobs of the request's targets, float32 (C,)."""
    prompt_alt_tokens: PromptAltTokens | None = None
    prompt_cache_hit_tokens: int = 0


class ForwardBackwardResult(Record):
    loss_fn_outputs: list[dict[str, np.ndarray]]
    """Outputs of each datum, in order; `logprobs` has the shape of that datum's `target_tokens`."""
    metrics: dict[str, float]
    """Metrics by `name:reduction`; `loss:sum` is always present."""


class OptimStepResult(Record):
    metrics: dict[str, float]


class CheckpointWritten(Record):
    size_bytes: int
    step: int
    """Number of optimizer steps behind the saved weights."""


class AdapterState(Record):
    """State of a training run after it was created or loaded."""

    lora: LoraSpec
    base_model: str
    step: int


class Page(Record):
    """One page of a longer list."""

    offset: int
    limit: int


class EngineStatus(Record):
    """Counts of the engine's work, for queue states and dashboards."""

    running_samples: int = 0
    waiting_samples: int = 0
    waiting_operations: int = 0
    shares: dict[str, float] = {}
    """Fraction of the working time since the last status, by share, for the shares that had work in it."""
