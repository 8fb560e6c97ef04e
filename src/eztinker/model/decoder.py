"""The decoder of the Llama, Mistral, Qwen2 and Qwen3 families, for training and sampling alike.

Sequences are packed: T tokens of all of them end to end, no padding. How tokens see each other is the `Attention`'s
business, which layers change through adapters is the `deltas` argument's. H = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from eztinker.model.attention import Attention, CachedAttention
from eztinker.model.cpu_kernels import AdaptedRows, DecodeKernel, LayerWeights, LowRanks
from eztinker.model.device import fits_bfloat16, is_batch_invariant, own_kernels, prefers_plain_attention
from eztinker.model.kv_cache import KVCache
from eztinker.model.linear import FrozenLinear, LowRankDelta, product
from eztinker.model.lora import HEAD, LowRankAdapter
from eztinker.model.pointwise import rms_norm, swiglu
from eztinker.model.rope import RotationTable, rotate
from eztinker.model.weights import WeightFiles
from eztinker.model_files.decoder_config import DecoderConfig
from eztinker.model_files.folder import read_model_folder

AdapterRows = Sequence[tuple[LowRankAdapter, Tensor | None]]
"""Adapters, each with the rows of the batch that use it (None for all); other rows use the base model alone."""


class Decoder:
    """A frozen base model. Holds no state of any sequence, and of adapters nothing that outlives them."""

    def __init__(self, config: DecoderConfig, weights: WeightFiles, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.dtype, self.device = config, dtype, device
        embedding = weights.get("model.embed_tokens.weight")
        self._embedding = embedding.bfloat16() if fits_bfloat16(embedding) else embedding
        self._layers = [_Layer(config, weights, layer) for layer in range(config.num_layers)]
        self._final_norm = weights.get("model.norm.weight")
        self._rotations = RotationTable(config.rope, dtype, device)
        self._decode_kernel = self._new_decode_kernel()
        self._low_ranks_of: WeakKeyDictionary[LowRankAdapter, LowRanks] = WeakKeyDictionary()
        self.head_is_tied = f"{HEAD}.weight" not in weights
        self.head = FrozenLinear(embedding if self.head_is_tied else weights.get(f"{HEAD}.weight"))

    @classmethod
    def load(cls, directory: Path, dtype: torch.dtype, device: torch.device) -> Decoder:
        """Read the model in `directory`.

        Raises:
            Unsupported: a family or variant the decoder does not know.
            DataNotFound, DataDamaged: weights are missing or unreadable, or are not those of the config.
        """
        folder = read_model_folder(directory, directory.name)
        return cls(folder.config, WeightFiles(folder.tensors, dtype, device), dtype, device)

    def hidden_states(self, tokens_T: Tensor, attention: Attention, adapters: AdapterRows = ()) -> Tensor:
        """Final hidden states after the last norm, (T, H), in the decoder's dtype."""
        x = tokens_T
        for stage in self.stages(attention, adapters):
            x = stage(x)
        return x

    def stages(self, attention: Attention, adapters: AdapterRows = ()) -> list[Callable[[Tensor], Tensor]]:
        """The forward pass in pieces, from tokens to final hidden states; each maps the output of the one before it."""
        cos, sin = self._rotations.at(attention.positions_T)
        layers = [
            partial(layer.forward, cos=cos, sin=sin, attention=attention, index=index, adapters=adapters)
            for index, layer in enumerate(self._layers)
        ]
        norm = partial(rms_norm, weight=self._final_norm, eps=self.config.rms_norm_eps)
        return [partial(self._embed, adapters=adapters), *layers, norm]

    def next_hidden_states(self, tokens_B: Tensor, cache: KVCache, adapters: AdapterRows = ()) -> Tensor:
        """Final hidden states (B, H) of one new token for each of the cache's first rows; not differentiable.

        The tokens' keys and values are appended to the rows. Adapters are those made for sampling.
        """
        if self._decode_kernel is None:
            return self.hidden_states(tokens_B, CachedAttention(cache, tokens_B.shape[0]), adapters)
        positions_B, _ = cache.make_room(tokens_B.shape[0])
        x_BH = self._embed(tokens_B, adapters)
        low_ranks = [self._low_ranks(self._decode_kernel, adapter) for adapter, _ in adapters]
        adapted = [
            AdaptedRows(each, adapter.scale, rows) for each, (adapter, rows) in zip(low_ranks, adapters, strict=True)
        ]
        self._decode_kernel.append(x_BH, *self._rotations.at(positions_B), *cache.keys_and_values, positions_B, adapted)
        return rms_norm(x_BH, self._final_norm, self.config.rms_norm_eps)

    def logits(self, hidden_MH: Tensor, adapters: AdapterRows = ()) -> Tensor:
        """Next-token logits, float32 (M, V)."""
        return self.head(hidden_MH, _deltas(adapters, HEAD)).float()

    @property
    def is_batch_invariant(self) -> bool:
        """Whether a sequence's logits are the same to the bit whatever its batch neighbours are.

        Our own kernels see to it, for every model; the products of torch add up in an order that depends on how many
        rows there are.
        """
        return is_batch_invariant(self.dtype, self.device)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache per token, keys and values of all layers."""
        config = self.config
        num_numbers = config.num_layers * config.num_kv_heads * config.head_dim
        return num_numbers * (self._key_dtype.itemsize + self.dtype.itemsize)

    @property
    def _key_dtype(self) -> torch.dtype:
        """Dtype of cached keys: float32 where torch computes scores in it anyway, so that they are converted once."""
        if self._decode_kernel is not None:
            return self.dtype
        return torch.float32 if prefers_plain_attention(self.device, num_keys=1) else self.dtype

    def new_cache(self) -> KVCache:
        """An empty KV cache of this model's shape."""
        config = self.config
        return KVCache(
            num_layers=config.num_layers,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            key_dtype=self._key_dtype,
            value_dtype=self.dtype,
            device=self.device,
        )

    def _new_decode_kernel(self) -> DecodeKernel | None:
        """One kernel for all layers, where every step of them has one of EZTinker's own; else None."""
        config = self.config
        kernels = own_kernels(self._final_norm)
        layers = [weights for layer in self._layers if (weights := layer.packed_weights()) is not None]
        if kernels is None or len(layers) < len(self._layers):
            return None
        return DecodeKernel(
            kernels, layers, num_heads=config.num_heads, num_kv_heads=config.num_kv_heads, eps=config.rms_norm_eps
        )

    def _low_ranks(self, kernel: DecodeKernel, adapter: LowRankAdapter) -> LowRanks:
        """The adapter's A and B for every linear layer in turn, as the decode kernel takes them."""
        known = self._low_ranks_of.get(adapter)
        if known is None:
            keys = [key for layer in self._layers for key in layer.keys]
            packed = [adapter.packed[key] if key in adapter.factors else None for key in keys]
            known = self._low_ranks_of[adapter] = kernel.low_ranks(
                [(each.a, each.b) if each else None for each in packed]
            )
        return known

    def _embed(self, tokens_T: Tensor, adapters: AdapterRows) -> Tensor:
        """Token embeddings. On tied models an adapter of the head is an adapter of the embedding too.

        Only then does a merged export, which has one shared matrix to add the delta to, compute what we compute.
        """
        x_TH = functional.embedding(tokens_T, self._embedding).to(self.dtype)
        if not self.head_is_tied:
            return x_TH
        for adapter, rows in adapters:
            factors = adapter.factors.get(HEAD)
            if factors is not None:
                tokens = tokens_T if rows is None else tokens_T[rows]
                update = product(functional.embedding(tokens, factors.bs[0]), factors.a, adapter.packed_head_a)
                whole = torch.arange(tokens_T.shape[0], device=self.device)
                x_TH = x_TH.index_add(
                    0, whole if rows is None else whole[rows], (update * adapter.scale).to(self.dtype)
                )
        return x_TH


class _Layer:
    """One block: attention and gated MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: DecoderConfig, weights: WeightFiles, layer: int) -> None:
        prefix = f"model.layers.{layer}"
        attn, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        self._config, self._window = config, config.sliding_windows[layer]
        self.keys = [f"layers.{layer}.{name}" for name in ("qkv", "o", "gate_up", "down")]
        """Adapter keys of the linear layers, in the order they are used."""
        self._attn_norm = weights.get(f"{prefix}.input_layernorm.weight")
        self._mlp_norm = weights.get(f"{prefix}.post_attention_layernorm.weight")
        self._qkv = _fused(weights, [f"{attn}.{name}_proj" for name in "qkv"], bias=config.qkv_bias)
        self._output = _fused(weights, [f"{attn}.o_proj"], bias=config.output_bias)
        self._gate_up = _fused(weights, [f"{mlp}.gate_proj", f"{mlp}.up_proj"], bias=config.mlp_bias)
        self._down = _fused(weights, [f"{mlp}.down_proj"], bias=config.mlp_bias)
        self._q_norm = weights.get(f"{attn}.q_norm.weight") if config.qk_norm else None
        self._k_norm = weights.get(f"{attn}.k_norm.weight") if config.qk_norm else None

    def forward(
        self, x_TH: Tensor, cos: Tensor, sin: Tensor, attention: Attention, index: int, adapters: AdapterRows
    ) -> Tensor:
        qkv_deltas, output_deltas, gate_up_deltas, down_deltas = (_deltas(adapters, key) for key in self.keys)
        normed = rms_norm(x_TH, self._attn_norm, self._config.rms_norm_eps)
        q, k, v = self._heads(self._qkv(normed, qkv_deltas), cos, sin)
        attended = attention.attend(index, q, k, v, self._window).reshape(x_TH.shape[0], -1)
        x_TH = x_TH + self._output(attended, output_deltas)
        normed = rms_norm(x_TH, self._mlp_norm, self._config.rms_norm_eps)
        gated = swiglu(self._gate_up(normed, gate_up_deltas))
        return x_TH + self._down(gated, down_deltas)

    def packed_weights(self) -> LayerWeights | None:
        """All weights of the layer as EZTinker's own kernels read them; None where they cannot."""
        qkv, output, gate_up, down = (each.packed for each in (self._qkv, self._output, self._gate_up, self._down))
        if qkv is None or output is None or gate_up is None or down is None:
            return None
        return LayerWeights(
            qkv=qkv,
            output=output,
            gate_up=gate_up,
            down=down,
            attn_norm=self._attn_norm,
            mlp_norm=self._mlp_norm,
            q_norm=self._q_norm,
            k_norm=self._k_norm,
            window=self._window,
        )

    def _heads(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split the fused projection into heads, (T, heads, head_dim), queries and keys rotated."""
        config = self._config
        num_q, num_kv = config.num_heads, config.num_kv_heads
        heads = qkv.view(qkv.shape[0], num_q + 2 * num_kv, config.head_dim)
        if self._q_norm is None or self._k_norm is None:
            rotated = rotate(heads[:, : num_q + num_kv], cos, sin)
            return rotated[:, :num_q], rotated[:, num_q:], heads[:, num_q + num_kv :]
        q = rms_norm(heads[:, :num_q], self._q_norm, config.rms_norm_eps)
        k = rms_norm(heads[:, num_q : num_q + num_kv], self._k_norm, config.rms_norm_eps)
        return rotate(q, cos, sin), rotate(k, cos, sin), heads[:, num_q + num_kv :]


def _fused(weights: WeightFiles, modules: list[str], *, bias: bool) -> FrozenLinear:
    """Projections of the same input as one weight: one product reads the input once."""
    parts = [weights.get(f"{module}.weight") for module in modules]
    biases = torch.cat([weights.get(f"{module}.bias") for module in modules]) if bias else None
    return FrozenLinear(torch.cat(parts), biases)


def _deltas(adapters: AdapterRows, key: str) -> list[LowRankDelta]:
    return [delta for adapter, rows in adapters if (delta := adapter.delta(key, rows)) is not None]
