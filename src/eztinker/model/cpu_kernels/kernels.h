/* The kernels that `decode` puts together. Each is described where it is defined. */
#pragma once

#include "simd.h"

#if defined BFLOAT16 && defined __AMX_BF16__
#define TILED /* products and attention go through the tiles of AMX */
#endif

/* A linear layer's weight. */
typedef struct {
    const void *packed; /* as `pack_weight` lays it out */
    const scalar *bias; /* (outputs,), or null */
    int narrow, outputs, inputs;
} Weight;

void linear(const Weight *weight, const scalar *x, int64_t x_stride, scalar *y, int rows, int threads);
void add_linear(const Weight *weight, const scalar *x, int64_t x_stride, scalar *y, int rows, float scale, int threads);
void rms_norm(const scalar *x, const scalar *weight, scalar *y, int rows, int width, float eps, int threads);
void swiglu(const scalar *gate_up, scalar *y, int rows, int width, int threads);
void rotate(const scalar *x, int64_t stride, const scalar *cos, const scalar *sin, scalar *y, int tokens, int heads,
            int dim, int threads);
void append_and_attend(const scalar *q, int64_t q_stride, const scalar *k, int64_t k_stride, const scalar *v,
                       int64_t v_stride, scalar *keys, scalar *values, const int64_t *positions, scalar *out,
                       float *scratch, int rows, int heads, int kv_heads, int dim, int capacity, int window,
                       int threads);
