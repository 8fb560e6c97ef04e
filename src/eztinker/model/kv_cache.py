"""Keys and values of tokens already read, so that a new token costs one position and not the whole sequence.

N = layers, K = key-value heads, D = head_dim, S = key positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GROWTH_TOKENS = 64
"""Positions by which the capacity grows at least."""
GROWTH_ROWS = 8
"""Rows by which the cache grows at least."""


@dataclass(frozen=True, slots=True, eq=False)
class KVBlock:
    """Keys and values of a run of tokens, all layers; immutable once it is whole, so that prompts can share one."""

    keys_NSKD: Tensor
    values_NSKD: Tensor

    @property
    def num_tokens(self) -> int:
        return self.keys_NSKD.shape[1]

    @property
    def num_bytes(self) -> int:
        return 2 * self.keys_NSKD.numel() * self.keys_NSKD.element_size()

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.keys_NSKD[layer], self.values_NSKD[layer]

    def first(self, num_tokens: int) -> KVBlock:
        return KVBlock(self.keys_NSKD[:, :num_tokens], self.values_NSKD[:, :num_tokens])

    @classmethod
    def room_for(cls, num_tokens: int, like: KVBlock) -> KVBlock:
        """A block to be filled by `put`."""
        layers, _, *rest = like.keys_NSKD.shape
        keys = like.keys_NSKD.new_empty(layers, num_tokens, *rest)
        return cls(keys, like.values_NSKD.new_empty(layers, num_tokens, *rest))

    def put(self, start: int, part: KVBlock) -> None:
        """Copy the tokens of `part` in, from position `start` on."""
        span = slice(start, start + part.num_tokens)
        self.keys_NSKD[:, span] = part.keys_NSKD
        self.values_NSKD[:, span] = part.values_NSKD

    def followed_by(self, other: KVBlock) -> KVBlock:
        keys = torch.cat([self.keys_NSKD, other.keys_NSKD], dim=1)
        return KVBlock(keys, torch.cat([self.values_NSKD, other.values_NSKD], dim=1))


class KVCache:
    """KV cache with one growing row per running sequence. Rows in use are always the first ones."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        key_dtype: torch.dtype,
        value_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.device = device
        self.lengths = torch.zeros(0, dtype=torch.long, device=device)
        """Tokens held by each row."""
        self._keys_NBKSD = torch.zeros(num_layers, 0, num_kv_heads, 0, head_dim, dtype=key_dtype, device=device)
        self._values_NBKSD = self._keys_NBKSD.to(value_dtype)

    @property
    def num_rows(self) -> int:
        return self.lengths.shape[0]

    def add_row(self, block: KVBlock) -> int:
        """Start a sequence behind the tokens of `block`; gives its row."""
        row = self.num_rows
        self.lengths = torch.cat([self.lengths, self.lengths.new_tensor([block.num_tokens])])
        self.reserve(block.num_tokens + 1)
        self._keys_NBKSD[:, row, :, : block.num_tokens] = block.keys_NSKD.transpose(1, 2)
        self._values_NBKSD[:, row, :, : block.num_tokens] = block.values_NSKD.transpose(1, 2)
        return row

    def remove_row(self, row: int) -> None:
        """Forget a sequence; the last row takes its place."""
        last = self.num_rows - 1
        if row != last:
            length = int(self.lengths[last])
            self._keys_NBKSD[:, row, :, :length] = self._keys_NBKSD[:, last, :, :length]
            self._values_NBKSD[:, row, :, :length] = self._values_NBKSD[:, last, :, :length]
            self.lengths[row] = self.lengths[last]
        self.lengths = self.lengths[:last].clone()
        if last == 0:
            self._resize(0, 0)

    def swap_rows(self, row: int, other: int) -> None:
        """Swap the rows of two sequences."""
        longer = int(self.lengths[[row, other]].max())
        for tensor in (self._keys_NBKSD, self._values_NBKSD):
            tensor[:, [row, other], :, :longer] = tensor[:, [other, row], :, :longer]
        self.lengths[[row, other]] = self.lengths[[other, row]]

    def reserve(self, num_keys: int) -> None:
        """Grow the cache to `num_keys` positions in every row, if it has fewer."""
        rows, capacity = self._keys_NBKSD.shape[1], self._keys_NBKSD.shape[3]
        if self.num_rows > rows or num_keys > capacity:
            more_keys = max(num_keys, capacity + max(GROWTH_TOKENS, capacity // 4)) if num_keys > capacity else capacity
            more_rows = max(self.num_rows, rows + max(GROWTH_ROWS, rows // 4)) if self.num_rows > rows else rows
            self._resize(more_rows, more_keys)

    def make_room(self, num_rows: int) -> tuple[Tensor, int]:
        """Reserve one more token in each of the first rows; gives their positions and the most keys of any row."""
        positions = self.lengths[:num_rows].clone()
        num_keys = int(positions.max()) + 1
        self.reserve(num_keys)
        return positions, num_keys

    def append(self, layer: int, rows: Tensor, positions: Tensor, k_BKD: Tensor, v_BKD: Tensor) -> None:
        """Write one token's keys and values into each row, at its position."""
        self._keys_NBKSD[layer][rows, :, positions] = k_BKD.to(self._keys_NBKSD.dtype)
        self._values_NBKSD[layer][rows, :, positions] = v_BKD

    def advance(self, num_rows: int) -> None:
        """Count the tokens appended to the first rows, once all layers have written theirs."""
        self.lengths[:num_rows] += 1

    @property
    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all layers and rows and the whole capacity, (N, R, K, S, D), not copied."""
        return self._keys_NBKSD, self._values_NBKSD

    def view(self, layer: int, num_rows: int, num_keys: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first rows and positions, (B, K, S, D), not copied."""
        return (
            self._keys_NBKSD[layer, :num_rows, :, :num_keys],
            self._values_NBKSD[layer, :num_rows, :, :num_keys],
        )

    def _resize(self, rows: int, capacity: int) -> None:
        self._keys_NBKSD = _resized(self._keys_NBKSD, rows, capacity)
        self._values_NBKSD = _resized(self._values_NBKSD, rows, capacity)


def _resized(old: Tensor, rows: int, capacity: int) -> Tensor:
    layers, old_rows, heads, old_capacity, head_dim = old.shape
    # Zeros, not empty memory: masked positions are multiplied by probability 0, and 0 times NaN is NaN.
    new = old.new_zeros(layers, rows, heads, capacity, head_dim)
    rows, capacity = min(rows, old_rows), min(capacity, old_capacity)
    new[:, :rows, :, :capacity] = old[:, :rows, :, :capacity]
    return new
