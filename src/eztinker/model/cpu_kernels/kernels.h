/* The kernels that `decode` puts together. Each is described where it is defined. */
#pragma once

#include "numbers.h"

#if defined BFLOAT16 && defined __AMX_BF16__
#define TILED /* products and attention go through the tiles of AMX */
#endif

/* A linear layer's weight. */
typedef struct {
    const void *packed; /* as `pack_weight` lays it out */
    const number *bias; /* (outputs,), or null */
    int narrow, outputs, inputs;
} Weight;

void linear(const Weight *weight, const number *x, int64_t x_stride, number *y, int rows, int threads);
void add_linear(const Weight *weight, const number *x, int64_t x_stride, number *y, int rows, float scale, int threads);
void rms_norm(const number *x, const number *weight, number *y, int rows, int width, float eps, int threads);
void swiglu(const number *gate_up, number *y, int rows, int width, int threads);
void rotate(const number *x, int64_t stride, const number *cos, const number *sin, number *y, int tokens, int heads, int dim,
            int threads);
void append_and_attend(const number *q, int64_t q_stride, const number *k, int64_t k_stride, const number *v,
                       int64_t v_stride, number *keys, number *values, const int64_t *positions, number *out, float *scratch,
                       int rows, int heads, int kv_heads, int dim, int capacity, int window, int threads);
