/* Drawing one token per sequence from its logits, which are float32 whatever the model's dtype. */
#include <math.h>

#include "numbers.h"

#define STRETCH 512 /* logits whose weights are summed together, a multiple of LANES */

/* e^((logit - most) / temperature) of up to 16 logits, 0 beyond `count`. */
static inline __m512 weights_of(const float *logits, int count, __m512 most, __m512 sharpness) {
    __m512 above = _mm512_sub_ps(_mm512_maskz_loadu_ps(first(count), logits), most);
    return _mm512_maskz_mov_ps(first(count), exp_of(_mm512_mul_ps(above, sharpness)));
}

static float sum_of_weights(const float *logits, int count, __m512 most, __m512 sharpness) {
    __m512 sums = _mm512_setzero_ps();
    for (int i = 0; i < count; i += LANES)
        sums = _mm512_add_ps(sums, weights_of(logits + i, count - i, most, sharpness));
    return _mm512_reduce_add_ps(sums);
}

/* The first of `count` logits whose cumulative weight passes `wanted`; if rounding leaves none, the last with any. */
static int pass_point(const float *logits, int count, __m512 most, __m512 sharpness, double wanted) {
    double passed = 0;
    int last = 0;
    for (int i = 0; i < count; i += LANES) {
        float weights[LANES];
        _mm512_storeu_ps(weights, weights_of(logits + i, count - i, most, sharpness));
        for (int lane = 0; lane < LANES && i + lane < count; lane++) {
            passed += weights[lane];
            if (weights[lane] > 0) last = i + lane;
            if (passed > wanted) return i + lane;
        }
    }
    return last;
}

static int likeliest(const float *logits, int count) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    __m512i best = _mm512_setzero_si512(), index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int i = 0; i < count; i += LANES) {
        __m512 here = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), first(count - i), logits + i);
        __mmask16 greater = _mm512_cmp_ps_mask(here, most, _CMP_GT_OQ);
        most = _mm512_mask_mov_ps(most, greater, here);
        best = _mm512_mask_mov_epi32(best, greater, _mm512_add_epi32(index, _mm512_set1_epi32(i)));
    }
    __mmask16 ties = _mm512_cmp_ps_mask(most, _mm512_set1_ps(_mm512_reduce_max_ps(most)), _CMP_EQ_OQ);
    return _mm512_mask_reduce_min_epi32(ties, best);
}

static float greatest(const float *logits, int count) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int i = 0; i < count; i += LANES)
        most = _mm512_max_ps(most, _mm512_mask_loadu_ps(most, first(count - i), logits + i));
    return _mm512_reduce_max_ps(most);
}

/* One token per row of logits (rows, vocab), among the first `drawable`, and its log-probability among all: the
 * likeliest where the temperature is 0, else where the cumulative probability of the tempered distribution passes
 * the row's number in [0, 1). */
void draw(const float *logits, const float *temperatures, const double *uniforms, int64_t *tokens, float *logprobs,
          int rows, int vocab, int drawable, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int row = 0; row < rows; row++) {
        const float *own = logits + (size_t)row * vocab;
        float temperature = temperatures[row] > 0 ? temperatures[row] : 1.0f, top = greatest(own, vocab);
        __m512 most = _mm512_set1_ps(top), sharpness = _mm512_set1_ps(1.0f / temperature);
        int num_stretches = (drawable + STRETCH - 1) / STRETCH, token = likeliest(own, drawable);
        float sums[num_stretches];
        double total = 0;
        for (int s = 0; s < num_stretches; s++) {
            int start = s * STRETCH, count = drawable - start < STRETCH ? drawable - start : STRETCH;
            total += sums[s] = sum_of_weights(own + start, count, most, sharpness);
        }
        if (temperatures[row] > 0) {
            double wanted = uniforms[row] * total;
            int s = 0;
            while (s < num_stretches - 1 && wanted >= sums[s]) wanted -= sums[s++];
            int start = s * STRETCH, count = drawable - start < STRETCH ? drawable - start : STRETCH;
            token = start + pass_point(own + start, count, most, sharpness, wanted);
        }
        total += sum_of_weights(own + drawable, vocab - drawable, most, sharpness);
        tokens[row] = token;
        logprobs[row] = (own[token] - top) / temperature - (float)log(total);
    }
}
