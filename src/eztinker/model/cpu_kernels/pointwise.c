/* RMS norm, the gated activation and rotary embedding. */
#include <math.h>

#include "kernels.h"

#define SMALL_WORK 8192 /* numbers below which a second thread costs more than it saves */

/* y = x / sqrt(mean(x^2) + eps) * weight, row by row of `width` numbers. */
void rms_norm(const number *x, const number *weight, number *y, int rows, int width, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SMALL_WORK)
    for (int row = 0; row < rows; row++) {
        const number *in = x + (size_t)row * width;
        Floats squares = repeat(0);
        for (int i = 0; i < width; i += LANES) {
            Floats v = load(in + i, width - i);
            squares = fused(v, v, squares);
        }
        Floats scale = repeat(1.0f / sqrtf(sum_of(squares) / (float)width + eps));
        for (int i = 0; i < width; i += LANES) {
            Floats v = load(in + i, width - i) * scale;
            store(y + (size_t)row * width + i, width - i, v * load(weight + i, width - i));
        }
    }
}

/* The gradient of rms_norm in x: with unit = x / rms(x), (grad * weight - unit * mean(grad * weight * unit)) / rms(x). */
void rms_norm_backward(const number *grad, const number *x, const number *weight, number *grad_x, int rows, int width,
                       float eps, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SMALL_WORK)
    for (int row = 0; row < rows; row++) {
        const number *in = x + (size_t)row * width, *slope = grad + (size_t)row * width;
        Floats squares = repeat(0), products = repeat(0);
        for (int i = 0; i < width; i += LANES) {
            Floats v = load(in + i, width - i);
            squares = fused(v, v, squares);
            products = fused(load(slope + i, width - i) * load(weight + i, width - i), v, products);
        }
        float inverse_rms = 1.0f / sqrtf(sum_of(squares) / (float)width + eps);
        Floats scale = repeat(inverse_rms);
        Floats along = repeat(sum_of(products) / (float)width * inverse_rms * inverse_rms);
        for (int i = 0; i < width; i += LANES) {
            Floats direct = load(slope + i, width - i) * load(weight + i, width - i);
            Floats away = load(in + i, width - i) * along;
            store(grad_x + (size_t)row * width + i, width - i, (direct - away) * scale);
        }
    }
}

/* y (rows, width) = silu(gate) * up of gate_up (rows, 2 * width). silu is rounded before the product, as in torch. */
void swiglu(const number *gate_up, number *y, int rows, int width, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SMALL_WORK)
    for (int row = 0; row < rows; row++) {
        const number *gates = gate_up + (size_t)row * 2 * width, *ups = gates + width;
        for (int i = 0; i < width; i += LANES) {
            Floats gate = load(gates + i, width - i);
            Floats silu = rounded(gate / (repeat(1) + exp_of(repeat(0) - gate)));
            store(y + (size_t)row * width + i, width - i, silu * load(ups + i, width - i));
        }
    }
}

/* The gradient of swiglu in gate_up, from that of y. */
void swiglu_backward(const number *grad, const number *gate_up, number *grad_gate_up, int rows, int width, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SMALL_WORK)
    for (int row = 0; row < rows; row++) {
        const number *gates = gate_up + (size_t)row * 2 * width, *ups = gates + width;
        number *to_gates = grad_gate_up + (size_t)row * 2 * width, *to_ups = to_gates + width;
        for (int i = 0; i < width; i += LANES) {
            Floats gate = load(gates + i, width - i), slope = load(grad + (size_t)row * width + i, width - i);
            Floats sigmoid = repeat(1) / (repeat(1) + exp_of(repeat(0) - gate)), silu = gate * sigmoid;
            Floats steepness = fused(silu, repeat(1) - sigmoid, sigmoid);
            store(to_gates + i, width - i, slope * load(ups + i, width - i) * steepness);
            store(to_ups + i, width - i, slope * silu);
        }
    }
}

/* One half of a head's channels, turned against the other half. */
static inline void rotate_half(const number *own, const number *partner, const number *cos, const number *sin, number *y,
                               int channels) {
    for (int i = 0; i < channels; i += LANES) {
        int left = channels - i;
        Floats turned = rounded(load(own + i, left) * load(cos + i, left));
        store(y + i, left, fused(load(partner + i, left), load(sin + i, left), turned));
    }
}

/* Turn channel i against channel i + dim / 2 of `heads` heads of every token; `dim` is even.
 * x has `stride` numbers from token to token; cos and sin, (tokens, dim), hold a channel's own factor and its
 * partner's. The product with cos is rounded first, as in torch. */
void rotate(const number *x, int64_t stride, const number *cos, const number *sin, number *y, int tokens, int heads, int dim,
            int threads) {
    int half = dim / 2;
#pragma omp parallel for num_threads(threads) if ((int64_t)tokens * heads * dim > SMALL_WORK)
    for (int token = 0; token < tokens; token++)
        for (int head = 0; head < heads; head++) {
            const number *in = x + token * stride + head * dim;
            number *out = y + ((size_t)token * heads + head) * dim;
            rotate_half(in, in + half, cos + token * dim, sin + token * dim, out, half);
            rotate_half(in + half, in, cos + token * dim + half, sin + token * dim + half, out + half, half);
        }
}
