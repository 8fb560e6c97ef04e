/* RMS norm, the gated activation and rotary embedding. */
#include <math.h>

#include "numbers.h"

#define SMALL_WORK 8192 /* numbers below which a second thread costs more than it saves */

/* y = x / sqrt(mean(x^2) + eps) * weight, row by row of `width` numbers. */
void rms_norm(const number *x, const number *weight, number *y, int rows, int width, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SMALL_WORK)
    for (int row = 0; row < rows; row++) {
        const number *in = x + (size_t)row * width;
        __m512 squares = _mm512_setzero_ps();
        for (int i = 0; i < width; i += LANES) {
            __m512 v = load(in + i, first(width - i));
            squares = _mm512_fmadd_ps(v, v, squares);
        }
        __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)width + eps));
        for (int i = 0; i < width; i += LANES) {
            __mmask16 here = first(width - i);
            __m512 v = _mm512_mul_ps(load(in + i, here), scale);
            store(y + (size_t)row * width + i, here, _mm512_mul_ps(v, load(weight + i, here)));
        }
    }
}

/* y (rows, width) = silu(gate) * up of gate_up (rows, 2 * width). silu is rounded before the product, as in torch. */
void swiglu(const number *gate_up, number *y, int rows, int width, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SMALL_WORK)
    for (int row = 0; row < rows; row++) {
        const number *gates = gate_up + (size_t)row * 2 * width, *ups = gates + width;
        for (int i = 0; i < width; i += LANES) {
            __mmask16 here = first(width - i);
            __m512 gate = load(gates + i, here);
            __m512 below = _mm512_add_ps(_mm512_set1_ps(1.0f), exp_of(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
            __m512 silu = rounded(_mm512_div_ps(gate, below));
            store(y + (size_t)row * width + i, here, _mm512_mul_ps(silu, load(ups + i, here)));
        }
    }
}

/* Turn channel i against channel i + dim / 2 of `heads` heads of every token; `dim` is a multiple of 32.
 * x has `stride` numbers from token to token; cos and sin, (tokens, dim), hold a channel's own factor and its
 * partner's. The product with cos is rounded first, as in torch. */
void rotate(const number *x, int64_t stride, const number *cos, const number *sin, number *y, int tokens, int heads, int dim,
            int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)tokens * heads * dim > SMALL_WORK)
    for (int token = 0; token < tokens; token++)
        for (int head = 0; head < heads; head++) {
            const number *in = x + token * stride + head * dim;
            number *out = y + ((size_t)token * heads + head) * dim;
            for (int i = 0; i < dim; i += LANES) {
                const number *own = in + i, *partner = in + (i < dim / 2 ? i + dim / 2 : i - dim / 2);
                __m512 turned = rounded(_mm512_mul_ps(load(own, ALL), load(cos + token * dim + i, ALL)));
                turned = _mm512_fmadd_ps(load(partner, ALL), load(sin + token * dim + i, ALL), turned);
                store(out + i, ALL, turned);
            }
        }
}
