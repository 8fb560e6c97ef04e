/* RMS norm, the gated activation and rotary embedding. */
#include <math.h>

#include "kernels.h"

#define SERIAL_WORK 8192 /* scalars below which a second thread costs more than it saves */

/* y = x / sqrt(mean(x^2) + eps) * weight, row by row of `width` scalars. */
void rms_norm(const scalar *x, const scalar *weight, scalar *y, int rows, int width, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SERIAL_WORK)
    for (int row = 0; row < rows; row++) {
        const scalar *in = x + (size_t)row * width;
        Floats squares = broadcast(0);
        for (int i = 0; i < width; i += LANES) {
            Floats v = load(in + i, width - i);
            squares = fmadd(v, v, squares);
        }
        Floats scale = broadcast(1.0f / sqrtf(reduce_add(squares) / (float)width + eps));
        for (int i = 0; i < width; i += LANES) {
            Floats v = load(in + i, width - i) * scale;
            store(y + (size_t)row * width + i, width - i, v * load(weight + i, width - i));
        }
    }
}

/* The gradient of rms_norm in x: (grad * weight - unit * mean(grad * weight * unit)) / rms(x) with unit = x / rms(x) */
void rms_norm_backward(const scalar *grad, const scalar *x, const scalar *weight, scalar *grad_x, int rows, int width,
                       float eps, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SERIAL_WORK)
    for (int row = 0; row < rows; row++) {
        const scalar *in = x + (size_t)row * width, *grad_row = grad + (size_t)row * width;
        Floats squares = broadcast(0), products = broadcast(0);
        for (int i = 0; i < width; i += LANES) {
            Floats v = load(in + i, width - i);
            squares = fmadd(v, v, squares);
            products = fmadd(load(grad_row + i, width - i) * load(weight + i, width - i), v, products);
        }
        float inverse_rms = 1.0f / sqrtf(reduce_add(squares) / (float)width + eps);
        Floats scale = broadcast(inverse_rms);
        Floats projection = broadcast(reduce_add(products) / (float)width * inverse_rms * inverse_rms);
        for (int i = 0; i < width; i += LANES) {
            Floats direct = load(grad_row + i, width - i) * load(weight + i, width - i);
            Floats away = load(in + i, width - i) * projection;
            store(grad_x + (size_t)row * width + i, width - i, (direct - away) * scale);
        }
    }
}

/* y (rows, width) = silu(gate) * up of gate_up (rows, 2 * width). silu is rounded before the product, as in torch. */
void swiglu(const scalar *gate_up, scalar *y, int rows, int width, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SERIAL_WORK)
    for (int row = 0; row < rows; row++) {
        const scalar *gates = gate_up + (size_t)row * 2 * width, *ups = gates + width;
        for (int i = 0; i < width; i += LANES) {
            Floats gate = load(gates + i, width - i);
            Floats silu = round_to_dtype(gate / (broadcast(1) + exp_floats(broadcast(0) - gate)));
            store(y + (size_t)row * width + i, width - i, silu * load(ups + i, width - i));
        }
    }
}

/* The gradient of swiglu in gate_up, from that of y. */
void swiglu_backward(const scalar *grad, const scalar *gate_up, scalar *grad_gate_up, int rows, int width,
                     int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SERIAL_WORK)
    for (int row = 0; row < rows; row++) {
        const scalar *gates = gate_up + (size_t)row * 2 * width, *ups = gates + width;
        scalar *to_gates = grad_gate_up + (size_t)row * 2 * width, *to_ups = to_gates + width;
        for (int i = 0; i < width; i += LANES) {
            Floats gate = load(gates + i, width - i), grad_row = load(grad + (size_t)row * width + i, width - i);
            Floats sigmoid = broadcast(1) / (broadcast(1) + exp_floats(broadcast(0) - gate)), silu = gate * sigmoid;
            Floats silu_slope = fmadd(silu, broadcast(1) - sigmoid, sigmoid);
            store(to_gates + i, width - i, grad_row * load(ups + i, width - i) * silu_slope);
            store(to_ups + i, width - i, grad_row * silu);
        }
    }
}

/* Rotate one half of a head's channels against the other half. */
static inline void rotate_half(const scalar *own, const scalar *partner, const scalar *cos, const scalar *sin,
                               scalar *y, int channels) {
    for (int i = 0; i < channels; i += LANES) {
        int left = channels - i;
        Floats rotated = round_to_dtype(load(own + i, left) * load(cos + i, left));
        store(y + i, left, fmadd(load(partner + i, left), load(sin + i, left), rotated));
    }
}

/* Rotate channel i against channel i + dim / 2 of `heads` heads of every token; `dim` is even.
 * x has `stride` scalars from token to token; cos and sin, (tokens, dim), hold a channel's own factor and its
 * partner's. The product with cos is rounded first, as in torch. */
void rotate(const scalar *x, int64_t stride, const scalar *cos, const scalar *sin, scalar *y, int tokens, int heads,
            int dim, int threads) {
    int half = dim / 2;
#pragma omp parallel for num_threads(threads) if ((int64_t)tokens * heads * dim > SERIAL_WORK)
    for (int token = 0; token < tokens; token++)
        for (int head = 0; head < heads; head++) {
            const scalar *in = x + token * stride + head * dim;
            scalar *out = y + ((size_t)token * heads + head) * dim;
            rotate_half(in, in + half, cos + token * dim, sin + token * dim, out, half);
            rotate_half(in + half, in, cos + token * dim + half, sin + token * dim + half, out + half, half);
        }
}
