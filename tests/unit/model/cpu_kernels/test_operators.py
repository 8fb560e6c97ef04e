"""Our own kernels against torch in float64; and a row never depends on its batch neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from eztinker.model.cpu_kernels import CpuKernels, building
from eztinker.model.cpu_kernels.compiling import InstructionSet
from eztinker.model.rope import rotate
from tests.instruction_sets import NAMES, USABLE

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8}
"""Relative to results around 1: a few float32 roundings, or one of bfloat16."""
ROW_COUNTS = [*range(14), 16, 17, 32, 100]
HEADS, KV_HEADS = 6, 2
HEAD_SHAPES = [
    (9, 3, 64),
    (2, 2, 32),
    (4, 1, 96),
    (8, 4, 128),
    (7, 1, 64),
    (4, 2, 2),
    (3, 1, 18),
    (5, 5, 40),
    (6, 2, 80),
]
"""Heads, key-value heads and their size: groups of 1 to 7 heads."""


@pytest.fixture(params=USABLE, ids=NAMES)
def compiled(request: pytest.FixtureRequest) -> tuple[torch.dtype, InstructionSet]:
    """Every dtype in every set of instructions that this processor has, not the fastest alone."""
    return request.param


@pytest.fixture
def dtype(compiled: tuple[torch.dtype, InstructionSet]) -> torch.dtype:
    return compiled[0]


@pytest.fixture
def kernels(compiled: tuple[torch.dtype, InstructionSet]) -> CpuKernels:
    dtype, instruction_set = compiled
    return building.kernels_in(instruction_set, dtype)


def draw(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_rounds_to(ours: Tensor, exact: Tensor) -> None:
    tolerance = TOLERANCE[ours.dtype]
    torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("num_rows", ROW_COUNTS)
@pytest.mark.parametrize(
    ("num_outputs", "num_inputs"),
    [(32, 64), (70, 300), (5, 2), (17, 258), (47, 130), (70, 576), (5, 32), (17, 1), (40, 255), (33, 257)],
)
def test_a_linear_layer_is_the_product_with_the_weight(
    kernels: CpuKernels, dtype: torch.dtype, num_rows: int, num_outputs: int, num_inputs: int
):
    x, bias = draw(num_rows, num_inputs, dtype=dtype), draw(num_outputs, dtype=dtype, seed=1)
    weight = draw(num_outputs, num_inputs, dtype=dtype, seed=2) / num_inputs**0.5
    packed = kernels.pack_weight(weight)
    product = functional.linear(x.double(), weight.double())
    assert_rounds_to(kernels.linear(x, packed), product)
    y = kernels.linear(x, kernels.pack_weight(weight, bias))
    assert_rounds_to(y, product + bias.double())
    expected = y.double() + 0.5 * product
    kernels.add_linear(y, x, packed, 0.5)
    assert_rounds_to(y, expected)


@pytest.mark.parametrize("num_rows", [1, 7, 100])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(32, 64), (70, 300), (5, 2), (47, 130)])
def test_narrow_weights_give_the_same_to_the_bit(
    kernels: CpuKernels, dtype: torch.dtype, num_rows: int, num_outputs: int, num_inputs: int
):
    if dtype == torch.bfloat16:
        pytest.skip("bfloat16 weights are always narrow")
    x = draw(num_rows, num_inputs, dtype=dtype)
    weight = draw(num_outputs, num_inputs, dtype=torch.bfloat16, seed=2).to(dtype)
    wide, narrow = (kernels.pack_weight(weight, narrow=each) for each in (False, True))
    assert torch.equal(kernels.linear(x, narrow), kernels.linear(x, wide))
    assert narrow.packed.nbytes * 2 == wide.packed.nbytes


@pytest.mark.parametrize("num_inputs", [96, 100, 97])
def test_columns_of_a_wider_matrix_are_inputs_too(kernels: CpuKernels, dtype: torch.dtype, num_inputs: int):
    x, weight = draw(20, 300, dtype=dtype)[:, 40 : 40 + num_inputs], draw(70, num_inputs, dtype=dtype, seed=1)
    packed = kernels.pack_weight(weight)
    assert torch.equal(kernels.linear(x, packed), kernels.linear(x.contiguous(), packed))


def test_a_long_sum_rounds_no_worse_than_torchs(kernels: CpuKernels, dtype: torch.dtype):
    x, weight = draw(64, 4096, dtype=dtype), draw(96, 4096, dtype=dtype, seed=1)
    exact = functional.linear(x.double(), weight.double())
    ours = kernels.linear(x, kernels.pack_weight(weight))
    theirs = functional.linear(x, weight)
    assert (ours - exact).square().mean() <= 1.2 * (theirs - exact).square().mean()


@pytest.mark.parametrize("num_rows", ROW_COUNTS)
@pytest.mark.parametrize("width", [64, 72, 26, 10])
def test_norm_and_gated_activation(kernels: CpuKernels, dtype: torch.dtype, num_rows: int, width: int):
    x, weight = 3 * draw(num_rows, width, dtype=dtype), draw(width, dtype=dtype, seed=1)
    exact = functional.rms_norm(x.double(), (width,), weight.double(), 1e-5)
    assert_rounds_to(kernels.rms_norm(x, weight, 1e-5), exact)
    gate, up = x.double().chunk(2, dim=-1)
    silu = functional.silu(gate).to(dtype).double()  # rounded before the product
    assert_rounds_to(kernels.swiglu(x), silu * up)


def test_the_gated_activation_of_extreme_gates(kernels: CpuKernels, dtype: torch.dtype):
    gate_up = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4, 1, 1, 1, 1, 1]]).to(dtype)
    expected = torch.tensor([[0.0, 0.0, 0.0, 100.0, 1e4]], dtype=torch.float64)
    torch.testing.assert_close(kernels.swiglu(gate_up).double(), expected, rtol=2**-8, atol=1e-30)


@pytest.mark.parametrize("num_rows", [1, 5, 300])
@pytest.mark.parametrize("width", [64, 72, 26, 10])
def test_gradients_of_norm_and_gated_activation(kernels: CpuKernels, dtype: torch.dtype, num_rows: int, width: int):
    x, weight = 3 * draw(num_rows, width, dtype=dtype), draw(width, dtype=dtype, seed=1)
    grad, narrow_grad = draw(num_rows, width, dtype=dtype, seed=2), draw(num_rows, width // 2, dtype=dtype, seed=3)
    exact = x.double().requires_grad_()
    functional.rms_norm(exact, (width,), weight.double(), 1e-5).backward(grad.double())
    assert exact.grad is not None
    assert_rounds_to(kernels.rms_norm_backward(grad, x, weight, 1e-5), exact.grad)
    gate, up = exact.chunk(2, dim=-1)
    (exact_grad,) = torch.autograd.grad(functional.silu(gate) * up, exact, narrow_grad.double())
    assert_rounds_to(kernels.swiglu_backward(narrow_grad, x), exact_grad)


@pytest.mark.parametrize("head_dim", [2, 6, 18, 20, 40, 64, 80])
def test_rotating_is_the_formula_to_the_bit_and_so_is_its_gradient(
    kernels: CpuKernels, dtype: torch.dtype, head_dim: int
):
    heads = draw(7, HEADS + KV_HEADS, head_dim, dtype=dtype)[:, :HEADS]
    angles = draw(7, head_dim // 2, dtype=torch.float32, seed=1)
    cos = torch.cat([angles.cos()] * 2, dim=-1).to(dtype)
    sin = torch.cat([-angles.sin(), angles.sin()], dim=-1).to(dtype)
    grad = draw(7, HEADS, head_dim, dtype=dtype, seed=2)

    def by_torch(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return torch.addcmul(x * cos[:, None, :], x.roll(head_dim // 2, dims=-1), sin[:, None, :])

    assert torch.equal(kernels.rotate(heads, cos, sin), by_torch(heads, cos, sin))
    exact = heads.double().requires_grad_()
    by_torch(exact, cos.double(), sin.double()).backward(grad.double())
    assert exact.grad is not None
    ours = heads.clone().requires_grad_()
    (of_ours,) = torch.autograd.grad(rotate(ours, cos, sin), ours, grad)
    torch.testing.assert_close(of_ours.double(), exact.grad, rtol=2 * TOLERANCE[dtype], atol=2 * TOLERANCE[dtype])


@pytest.mark.parametrize("window", [None, 5, 37])
@pytest.mark.parametrize("shape", HEAD_SHAPES)
def test_attention_over_packed_sequences(
    kernels: CpuKernels, dtype: torch.dtype, shape: tuple[int, int, int], window: int | None
):
    lengths, num_before = [1, 40, 7, 90], 9
    q, k, v = qkv(sum(lengths), dtype, seed=1, shape=shape)
    _, keys_before, values_before = qkv(num_before, dtype, seed=2, shape=shape)
    starts = torch.tensor([0] + [1] * 40 + [41] * 7 + [48] * 90)
    ours = kernels.attend_packed(q, k, v, (keys_before, values_before), starts, 90, window)
    for token in range(sum(lengths)):
        own = slice(int(starts[token]), token + 1)
        seen = torch.cat([keys_before, k[own]]), torch.cat([values_before, v[own]])
        assert_rounds_to(ours[token], attended(q[token], *seen, window))


@pytest.mark.parametrize("num_inputs", [2, 32])
def test_bfloat16_results_are_rounded_as_torch_rounds_them(kernels: CpuKernels, dtype: torch.dtype, num_inputs: int):
    """Halfway cases to the even neighbour, past the greatest number to infinity, and NaN stays NaN."""
    if dtype != torch.bfloat16:
        pytest.skip("float32 results are stored as they are")
    greatest = torch.finfo(dtype).max
    pairs = [(1, 2**-8), (1 + 2**-7, 2**-8), (-1, -(2**-8)), (1, 2**-8 + 2**-15), (1, 2**-8 - 2**-12)]
    pairs += [(greatest, greatest * 2**-9), (greatest, greatest * 2**-10), (-math.inf, 1), (math.nan, 1), (0.0, 0.0)]
    weight = torch.tensor(pairs * 3).to(dtype)  # every case as the last of a block too
    weight = functional.pad(weight, (0, num_inputs - 2))
    ours = kernels.linear(torch.ones(1, num_inputs, dtype=dtype), kernels.pack_weight(weight))[0]
    torch.testing.assert_close(ours, weight.float().sum(dim=1).to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("width", [600, 608])
@pytest.mark.parametrize("num_rows", ROW_COUNTS)
def test_a_row_is_the_same_beside_any_neighbours(kernels: CpuKernels, dtype: torch.dtype, num_rows: int, width: int):
    x, weight = draw(100, width, dtype=dtype), draw(70, width, dtype=dtype, seed=1)
    packed, norm = kernels.pack_weight(weight), draw(width, dtype=dtype, seed=2)
    rows = slice(100 - num_rows, 100)
    assert torch.equal(kernels.linear(x[rows], packed), kernels.linear(x, packed)[rows])
    assert torch.equal(kernels.rms_norm(x[rows], norm, 1e-5), kernels.rms_norm(x, norm, 1e-5)[rows])
    assert torch.equal(kernels.swiglu(x[rows]), kernels.swiglu(x)[rows])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_rows", [257, 300, 700])
@pytest.mark.parametrize("num_inputs", [100, 96])
def test_many_rows_are_multiplied_like_few(kernels: CpuKernels, dtype: torch.dtype, num_rows: int, num_inputs: int):
    """More than a panel of them, for one block of outputs and for several."""
    for num_outputs in (20, 150):
        x, y = draw(num_rows, num_inputs, dtype=dtype), draw(num_rows, num_outputs, dtype=dtype, seed=1)
        weight, bias = draw(num_outputs, num_inputs, dtype=dtype, seed=2), draw(num_outputs, dtype=dtype, seed=3)
        packed = kernels.pack_weight(weight, bias)
        few = [slice(start, start + 10) for start in range(0, num_rows, 10)]
        assert torch.equal(kernels.linear(x, packed), torch.cat([kernels.linear(x[rows], packed) for rows in few]))
        together, apart = y.clone(), y.clone()
        kernels.add_linear(together, x, packed, 0.5)
        for rows in few:
            kernels.add_linear(apart[rows], x[rows], packed, 0.5)
        assert torch.equal(together, apart)


@pytest.mark.parametrize(("vocab_size", "num_drawable"), [(5, 5), (49_152, 49_152), (1000, 990), (1000, 3)])
def test_drawing_passes_the_point_that_the_uniform_names(
    kernels: CpuKernels, dtype: torch.dtype, vocab_size: int, num_drawable: int
):
    if dtype != torch.float32:
        pytest.skip("logits are float32")
    logits = 4 * draw(64, vocab_size, dtype=torch.float32)
    temperatures = [0.0, 0.5, 1.0, 2.0] * 16
    uniforms = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tolist()
    tokens, logprobs = kernels.draw(logits, temperatures, uniforms, num_drawable)
    for row, (temperature, uniform) in enumerate(zip(temperatures, uniforms, strict=True)):
        exact = (logits[row].double() / (temperature or 1)).log_softmax(-1)
        cumulative = exact[:num_drawable].exp().cumsum(0)
        at_point = int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
        assert int(tokens[row]) == (at_point if temperature else int(exact[:num_drawable].argmax()))
        assert float(logprobs[row]) == pytest.approx(float(exact[tokens[row]]), abs=1e-5)
    greatest, log_totals = kernels.normalize(logits, [each or 1.0 for each in temperatures], num_drawable)
    own = logits.gather(1, tokens[:, None])[:, 0]
    assert torch.equal((own - greatest) / torch.tensor([each or 1.0 for each in temperatures]) - log_totals, logprobs)


def test_sizes_that_do_not_fit_are_refused_before_memory_is_touched(kernels: CpuKernels, dtype: torch.dtype):
    packed = kernels.pack_weight(draw(20, 24, dtype=dtype))
    x, heads, angles = draw(3, 24, dtype=dtype), draw(3, 4, 16, dtype=dtype), draw(3, 16, dtype=dtype)
    starts = torch.zeros(3, dtype=torch.int64)
    logits = draw(3, 50, dtype=torch.float32)
    wrong = {
        "The input must be": lambda: kernels.linear(x[:, :23], packed),
        "The output must be": lambda: kernels.add_linear(draw(3, 19, dtype=dtype), x, packed, 1.0),
        "The input must be .* of shape": lambda: kernels.linear(x.double(), packed),
        "The bias must be": lambda: kernels.pack_weight(draw(20, 24, dtype=dtype), draw(19, dtype=dtype)),
        "The norm's weight must be": lambda: kernels.rms_norm(x, draw(23, dtype=dtype), 1e-5),
        "The norm's gradient must be": lambda: kernels.rms_norm_backward(x[:2], x, draw(24, dtype=dtype), 1e-5),
        "The gate and up must be": lambda: kernels.swiglu(draw(3, 23, dtype=dtype)),
        "The cosines must be": lambda: kernels.rotate(heads, angles[:, :14], angles),
        "15 channels": lambda: kernels.rotate(heads[:, :, :15].contiguous(), angles[:, :15], angles[:, :15]),
        "4 query heads cannot share 3": lambda: kernels.attend_packed(
            heads, heads[:, :3], heads[:, :3], None, starts, 3, None
        ),
        "The keys must be": lambda: kernels.attend_packed(heads, heads[:2], heads, None, starts, 3, None),
        "side by side": lambda: kernels.attend_packed(heads, heads[:, ::2], heads[:, ::2], None, starts, 3, None),
        "3 tokens need": lambda: kernels.attend_packed(heads, heads, heads, None, starts[:2], 3, None),
        "not 51": lambda: kernels.draw(logits, [1.0] * 3, [0.5] * 3, 51),
        "3 rows of logits": lambda: kernels.draw(logits, [1.0] * 2, [0.5] * 3, 50),
        "Logits must be float32": lambda: kernels.normalize(logits.double(), [1.0] * 3, 50),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message):
            call()


def qkv(num_tokens: int, dtype: torch.dtype, seed: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as views of one tensor, as the fused projection gives them."""
    heads, kv_heads, head_dim = shape
    all_heads = draw(num_tokens, heads + 2 * kv_heads, head_dim, dtype=dtype, seed=seed)
    return all_heads[:, :heads], all_heads[:, heads : heads + kv_heads], all_heads[:, heads + kv_heads :]


def attended(q_HD: Tensor, k_SKD: Tensor, v_SKD: Tensor, window: int | None) -> Tensor:
    """What one query sees, by the textbook formula in float64, (H, D)."""
    group = q_HD.shape[0] // k_SKD.shape[1]
    k, v = (x[-window if window else 0 :].double().repeat_interleave(group, dim=1) for x in (k_SKD, v_SKD))
    scores = torch.einsum("hd,shd->hs", q_HD.double(), k) / q_HD.shape[1] ** 0.5
    return torch.einsum("hs,shd->hd", scores.softmax(-1), v)
